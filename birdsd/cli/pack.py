"""`birdsd pack`, `birdsd unpack`."""

from __future__ import annotations

import argparse
from pathlib import Path

from birdsd.cli.verb import RUN_HELP, Verb, emit, find_run
from birdsd.runs.pack.archive import PACK_SUFFIX


def _add_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help=RUN_HELP)
    parser.add_argument(
        "--out", type=Path, help=f"file to write, or an existing folder (default: ./RUN{PACK_SUFFIX})"
    )
    parser.add_argument("--with-shards", action="store_true", help="include the shards")
    parser.add_argument("--without-models", action="store_true", help="leave out local base models")


def _pack(options: argparse.Namespace) -> int:
    from birdsd.runs.pack.pack import pack

    return emit(
        options, *pack(find_run(options), options.out, options.with_shards, not options.without_models)
    )


def _add_unpack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help=f"a file that `birdsd pack` wrote (NAME{PACK_SUFFIX})")
    parser.add_argument(
        "--into", type=Path, default=Path("runs"), help="folder of runs to restore it into (default: runs)"
    )


def _unpack(options: argparse.Namespace) -> int:
    from birdsd.runs.pack.unpack import unpack

    return emit(options, *unpack(options.file, options.into))


VERBS = (
    Verb(
        "pack",
        "bundle a run into one file to resume it elsewhere",
        _add_pack,
        _pack,
        "The file contains the latest valid checkpoint (for a finished run, its export instead),\n"
        "settings, curves, ledger, events, previews and base models. The run may keep training meanwhile.\n\n"
        "examples:\n"
        "  birdsd pack RUN                                RUN.birdsd.zip, without the shards\n"
        "  birdsd pack RUN --with-shards --out /storage/  everything that another machine needs\n"
        "  birdsd pack RUN --without-models               if the base models are already there",
        takes_runs=True,
    ),
    Verb(
        "unpack",
        "restore a bundled run",
        _add_unpack,
        _unpack,
        "All checksums are verified before the run becomes visible. An existing run that is further\n"
        "along is never replaced; one that is behind is kept in .replaced/.\n\n"
        "examples:\n"
        "  birdsd unpack RUN.birdsd.zip                   into runs/; prints the command to resume it\n"
        "  birdsd unpack RUN.birdsd.zip --into /storage/birdsd/runs",
    ),
)
