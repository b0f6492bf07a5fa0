"""`birdsd run`, `birdsd presets`."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from typing import Any

from birdsd import config, schema
from birdsd.cli.verb import Verb, emit, job_of
from birdsd.errors import clipped
from birdsd.quiet import libraries_on_stderr


def _jobs_help() -> str:
    width = max(map(len, schema.JOBS))
    return "jobs:\n" + "\n".join(f"  {job:{width}} {config.job_line(job)}" for job in schema.JOBS)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", help="name of the job, see below")
    parser.add_argument(
        "settings", nargs="*", help="group=preset or key=value; `birdsd run JOB --keys` lists them"
    )
    parser.add_argument(
        "--keys", action="store_true", help="list every key of the job with its value, and exit"
    )


def _run(options: argparse.Namespace) -> int:
    job = job_of(options)
    settings = config.compose(job, options.settings)
    if options.keys:
        return emit(options, config.as_listed(settings), _keys_text(job, settings))
    from birdsd.cluster.rank.ranks import join
    from birdsd.jobs_api import load_job
    from birdsd.runs.effects import without_effect

    launch = join(job, options.settings)
    for line in () if options.json else without_effect(job, options.settings, settings):
        print(f"birdsd: {clipped(line, 300)}", file=sys.stderr)
    with libraries_on_stderr() if options.json else nullcontext():
        outcome = load_job(job)(settings)
    if launch is None or launch.rank == 0:  # one message for all ranks
        emit(options, outcome.facts, outcome.text)
    return outcome.exit_status


def _keys_text(job: str, settings: Any) -> str:
    known = config.presets()
    lines = [
        f"{group}={preset}    (one of {', '.join(p.name for p in known.get(group, []))})"
        for group, preset in schema.GROUP_DEFAULTS[job].items()
    ]
    lines += [f"{key}={'null' if value is None else value}" for key, value in config.listed(settings)]
    return "\n".join(lines)


def _presets(options: argparse.Namespace) -> int:
    known = config.presets()
    lines = []
    for group, presets in known.items():
        lines += [group, *(f"  {group + '=' + preset.name:28} {preset.line}" for preset in presets)]
    facts = {group: {preset.name: preset.line for preset in presets} for group, presets in known.items()}
    return emit(options, facts, "\n".join([*lines, _jobs_help()]))


VERBS = (
    Verb("run", "run a job on this machine", _add_run, _run, _jobs_help()),
    Verb("presets", "list the presets, with a one-line description of each", lambda parser: None, _presets),
)
