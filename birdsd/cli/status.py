"""`birdsd status`, `birdsd logs`, `birdsd report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from birdsd.cli.verb import RUN_HELP, Verb, emit, find_run


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", help=f"{RUN_HELP}; without it, a table of all runs")
    parser.add_argument("--all", action="store_true", help="include finished and cancelled runs, however old")


def _status(options: argparse.Namespace) -> int:
    from birdsd.cli.tables.status import detail_text, text
    from birdsd.runs.status.detail import detail
    from birdsd.runs.status.overview import overview

    if options.run:
        one = detail(find_run(options))
        return emit(options, one.to_json(), detail_text(one))
    runs = overview(options.runs, everything=options.all or options.json)
    return emit(options, [status.to_json() for status in runs], text(runs, options.all))


def _add_logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help=RUN_HELP)
    parser.add_argument("--rank", type=int, help="show this rank (default: rank 0; with --stacks, all ranks)")
    parser.add_argument("--allocation", help="show this allocation (default: the latest)")
    parser.add_argument("-f", "--follow", action="store_true", help="follow, across allocations")
    parser.add_argument("-n", "--lines", type=int, default=40, help="number of lines to show (default: 40)")
    parser.add_argument("--stacks", action="store_true", help="show the stack dumps of ranks that hung")


def _logs(options: argparse.Namespace) -> int:
    from birdsd.runs.status.logs import show

    run = find_run(options)
    return show(run, options.rank, options.allocation, options.follow, options.lines, options.stacks)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help=RUN_HELP)
    parser.add_argument("--out", type=Path, help="file to write (default: RUN/report.html)")
    parser.add_argument("--price", type=float, help="price per GPU hour, for the cost table")
    parser.add_argument("--currency", default="EUR", help="currency of --price (default: EUR)")


def _report(options: argparse.Namespace) -> int:
    from birdsd.pages.run.page import write

    written = write(find_run(options), options.out, options.price, options.currency)
    return emit(options, written.facts, str(written.path))


VERBS = (
    Verb("status", "show all runs, or one in detail", _add_status, _status, takes_runs=True),
    Verb(
        "logs",
        "show a run's log",
        _add_logs,
        _logs,
        "examples:\n  birdsd logs RUN -f\n  birdsd logs RUN --rank 3 -n 200\n  birdsd logs RUN --stacks",
        takes_runs=True,
        as_json=False,
    ),
    Verb("report", "write a self-contained HTML report of a run", _add_report, _report, takes_runs=True),
)
