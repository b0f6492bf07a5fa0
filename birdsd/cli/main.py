"""The command line. It imports nothing heavy: a verb's own imports happen when the verb runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import birdsd
from birdsd import plugins, schema
from birdsd.cli import checks, judge, models, pack, plan, prompts, recordings, run, status, submit
from birdsd.errors import UserError, clipped, likeness, nearest, unknown_name
from birdsd.quiet import terminal_for_us

EXAMPLES = """examples:
  birdsd presets                                      list what you can choose from
  birdsd audit recordings/ codec=birdsong codec=riffusion
  birdsd run prepare data.recordings=recordings/ data.shards=shards/
  birdsd inspect shards/
  birdsd run train method=autoencoder model=tiny data.shards=shards/
  birdsd run train method=full model=tiny model.autoencoder=RUN data.shards=shards/
  birdsd run generate run=RUN prompt="an American Robin singing" count=4
  birdsd run scene run=RUN pool=SOUNDS prompt="a House Sparrow in loud rain, then a Black Phoebe"
  birdsd judge generated/                             which species BirdNET hears in them
  birdsd classify recordings/ run=RUN                 with a classifier of yours (method=classifier)
  birdsd submit train machine=cluster site=SITE nodes=2 model=sd15 data.shards=shards/
  birdsd status; birdsd logs -f RUN; birdsd report RUN

Running the same command again resumes the run; if the run is finished, it says so and does nothing."""

OWN_VERBS = {
    verb.name: verb
    for module in (run, recordings, submit, status, checks, models, pack, plan, judge, prompts)
    for verb in module.VERBS
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit status."""
    with terminal_for_us():
        return _main(sys.argv[1:] if arguments is None else list(arguments))


def _main(arguments: list[str]) -> int:
    typed = _verb_checked(arguments)
    if typed and not typed[0].startswith("-") and typed[0] not in OWN_VERBS:
        return _guarded(lambda: int(plugins.load(plugins.VERBS, typed[0])(typed[1:]) or 0))
    parser = _parser()
    options, rest = parser.parse_known_args(typed)
    if rest and hasattr(options, "settings") and not any(item.startswith("-") for item in rest):
        options.settings.extend(rest)  # settings may stand before and after a flag
    elif rest:
        _refuse(parser, typed, rest)
    if not hasattr(options, "call"):
        parser.print_help()
        return 0
    return _guarded(lambda: options.call(options), getattr(options, "json", False))


def _guarded(work: Callable[[], int], as_json: bool = False) -> int:
    """The exit status of a verb's work, with a line for an error that the user can correct; with `--json`
    its kind and its parts go to standard output, too."""
    try:
        return work()
    except UserError as error:
        print(f"birdsd: {error}", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": error.to_json()}, indent=2, ensure_ascii=False))
        return error.exit_status
    except KeyboardInterrupt:
        print("birdsd: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; its closing is not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            raise  # not about a file that the user named
        print(f"birdsd: {error.filename}: {error.strerror}", file=sys.stderr)
        return UserError.exit_status


def _refuse(parser: argparse.ArgumentParser, typed: Sequence[str], rest: Sequence[str]) -> NoReturn:
    """Exit for words that no verb takes; an unknown option comes with the nearest valid one."""
    unknown = next((word.partition("=")[0] for word in rest if word.startswith("-")), None)
    if unknown is None or typed[0].startswith("-"):
        parser.error(f"unrecognised: {clipped(' '.join(rest), 200)}")
    own: Any = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices[typed[0]]
    options = [name for action in own._actions for name in action.option_strings if name.startswith("--")]
    error = unknown_name(f"option of birdsd {typed[0]}", unknown, options, whole=f"birdsd {typed[0]} --help")
    print(f"birdsd: {error}", file=sys.stderr)
    raise SystemExit(UserError.exit_status)


def _verb_checked(arguments: list[str]) -> list[str]:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in OWN_VERBS:
        if arguments[0] in (others := plugins.names(plugins.VERBS)):
            return arguments
        verbs = (*OWN_VERBS, *others)
        job = nearest(arguments[0], schema.JOBS, 1)[0]
        is_job = likeness(arguments[0], job) >= 0.7
        way = f"{job} is a job: birdsd run {job} ..." if is_job else ""
        error = unknown_name("verb", arguments[0], verbs, way, "`birdsd --help`")
        print(f"birdsd: {error}", file=sys.stderr)
        raise SystemExit(2)
    return arguments


def _parser() -> argparse.ArgumentParser:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "birdsd", description=birdsd.__doc__, epilog=EXAMPLES, formatter_class=text
    )
    parser.add_argument("--version", action="version", version=f"birdsd {birdsd.__version__}")
    verbs = parser.add_subparsers(metavar="VERB")

    for verb in OWN_VERBS.values():
        verb.add_to(verbs)
    return parser
