"""`birdsd submit`, `birdsd resume`, `birdsd cancel`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from birdsd.cli.verb import RUN_HELP, Verb, emit, find_run, job_of

if TYPE_CHECKING:
    from birdsd.cluster.submit import Submitted


def _add_submit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", help="name of the job; `birdsd run --help` lists them")
    parser.add_argument(
        "settings",
        nargs="*",
        help="as for `birdsd run`, plus site=SITE nodes=N tasks_per_node=N array=N site.KEY=VALUE",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the sbatch script without submitting it"
    )
    parser.add_argument("--wait", action="store_true", help="follow the log until the run ends")


def _submit(options: argparse.Namespace) -> int:
    from birdsd.cluster.submit import submit

    submitted = submit(job_of(options), options.settings, options.dry_run)
    _print_notes(submitted)
    if options.dry_run:  # of a run that is finished there is no script, but a reason
        return emit(options, submitted.to_json(), submitted.script or submitted.line)
    if not options.wait:
        name = submitted.run.folder.name
        more = f"\n  birdsd status {name}\n  birdsd logs -f {name}" if submitted.job_ids else ""
        return emit(options, submitted.to_json(), submitted.line + more)
    from birdsd.cluster.wait import wait_for

    print(submitted.line, file=sys.stderr, flush=True)
    outcome = wait_for(submitted.run)
    emit(options, {**outcome.facts, "nothing_to_do": not submitted.job_ids}, outcome.text)
    return outcome.exit_status


def _add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help=RUN_HELP)
    parser.add_argument(
        "settings",
        nargs="*",
        help="settings to change: site=..., nodes=..., machine=..., machine.KEY=VALUE, data.shards=..., "
        "optim.total_samples=MORE",
    )


def _resume(options: argparse.Namespace) -> int:
    from birdsd.cluster.resume import resubmit

    submitted = resubmit(find_run(options), options.settings)
    _print_notes(submitted)
    return emit(options, submitted.to_json(), submitted.line)


def _print_notes(submitted: Submitted) -> None:
    for note in submitted.notes:
        print(f"birdsd: {note}", file=sys.stderr, flush=True)


def _add_cancel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help=RUN_HELP)
    parser.add_argument(
        "--now", action="store_true", help="scancel at once, without waiting for a checkpoint"
    )


def _cancel(options: argparse.Namespace) -> int:
    from birdsd.cluster.cancel import cancel

    return emit(options, *cancel(find_run(options), options.now))


VERBS = (
    Verb(
        "submit",
        "submit a job to Slurm, or run it in background processes on this machine",
        _add_submit,
        _submit,
        "examples:\n"
        "  birdsd submit train machine=cluster site=mycluster nodes=2 model=sd15 data.shards=shards/\n"
        "  birdsd submit train machine=smoke site=local tasks_per_node=2 data.shards=shards/ --wait\n"
        "  birdsd submit prepare site=mycluster array=8 data.recordings=recordings/ data.shards=shards/\n"
        "  birdsd submit cache site=mycluster array=8 model=sd15 method=lora data.shards=shards/\n"
        "  birdsd submit train ... --dry-run           only print the sbatch script",
    ),
    Verb(
        "resume",
        "submit a run again, with the same settings or to another site",
        _add_resume,
        _resume,
        "examples:\n  birdsd resume RUN\n  birdsd resume RUN site=othercluster nodes=4\n"
        "  birdsd resume RUN site.time_limit_min=600\n"
        "  birdsd resume RUN data.shards=NEW_LOCATION         after moving the shards\n"
        "  birdsd resume RUN optim.total_samples=200000       train a finished run for longer",
        takes_runs=True,
    ),
    Verb(
        "cancel",
        "ask a run to save and stop, and remove its jobs from the queue",
        _add_cancel,
        _cancel,
        takes_runs=True,
    ),
)
