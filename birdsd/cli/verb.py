"""What a verb of the command line is. A module holds the verbs of one subject in its `VERBS`.

Modules import nothing heavy: what a verb needs is imported when it runs, so that a login node answers
at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsd.config import job_name

RUN_HELP = "name, signature or folder of the run; a unique prefix will do"


@dataclass(frozen=True)
class Verb:
    """A verb: its parser (`add` gives it its arguments; `takes_runs` adds --runs, `as_json` --json) and what
    it does (`run` returns the exit status)."""

    name: str
    help: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    epilog: str = ""
    takes_runs: bool = False
    as_json: bool = True

    def add_to(self, verbs: Any) -> None:
        """Add the parser to those of the command line."""
        text = argparse.RawDescriptionHelpFormatter
        parser = verbs.add_parser(self.name, help=self.help, epilog=self.epilog, formatter_class=text)
        self.add(parser)
        if self.takes_runs:
            parser.add_argument(
                "--runs", type=Path, default=Path("runs"), help="folder that holds the runs (default: runs)"
            )
        if self.as_json:
            parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.set_defaults(call=self.run)


def emit(options: argparse.Namespace, facts: Any, text: str) -> int:
    """Print the facts where --json was given, else the text; the exit status 0."""
    print(json.dumps(facts, indent=2, ensure_ascii=False, default=str) if options.json else text)
    return 0


def job_of(options: argparse.Namespace) -> str:
    """The job that was named; its old name works for one more release, with a line that says so."""
    current = job_name(options.job)
    if current != options.job:
        print(
            f"birdsd: the job {options.job} is now called {current}; "
            "the old name will be removed in the next release",
            file=sys.stderr,
        )
    return current


def find_run(options: argparse.Namespace) -> Any:
    """The run that `options.run` names."""
    from birdsd.runs.run import RunStore

    return RunStore(options.runs).find(options.run)


def at_least_one(text: str) -> int:
    """An argument's number, 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value
