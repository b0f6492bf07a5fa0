"""The verbs `birdsd pack` and `birdsd unpack`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from birdsd.runs.pack.archive import PACK_SUFFIX
from birdsd.runs.pack.pack import pack


def add_packing(verbs: Any) -> None:
    """Add the two verbs' parsers to the command line."""
    pack = verbs.add_parser(
        "pack",
        help="bundle a run into one file to resume it elsewhere",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The file contains the latest valid checkpoint (for a finished run, its export instead),\n"
        "settings, curves, ledger, events, previews and base models. The run may keep training meanwhile.\n\n"
        "examples:\n"
        "  birdsd pack RUN                                RUN.birdsd.zip, without the shards\n"
        "  birdsd pack RUN --with-shards --out /storage/  everything that another machine needs\n"
        "  birdsd pack RUN --without-models               if the base models are already there",
    )
    pack.add_argument("run", help="name, signature or folder of the run; a unique prefix will do")
    pack.add_argument(
        "--out", type=Path, help=f"file to write, or an existing folder (default: ./RUN{PACK_SUFFIX})"
    )
    pack.add_argument("--with-shards", action="store_true", help="include the shards")
    pack.add_argument("--without-models", action="store_true", help="leave out local base models")
    pack.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder that holds the runs (default: runs)"
    )
    pack.add_argument("--json", action="store_true", help="print the result as JSON")
    pack.set_defaults(call=_pack)

    unpack = verbs.add_parser(
        "unpack",
        help="restore a bundled run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="All checksums are verified before the run becomes visible. An existing run that is further\n"
        "along is never replaced; one that is behind is kept in .replaced/.\n\n"
        "examples:\n"
        "  birdsd unpack RUN.birdsd.zip                   into runs/; prints the command to resume it\n"
        "  birdsd unpack RUN.birdsd.zip --into /storage/birdsd/runs",
    )
    unpack.add_argument("file", type=Path, help=f"a file that `birdsd pack` wrote (NAME{PACK_SUFFIX})")
    unpack.add_argument(
        "--into", type=Path, default=Path("runs"), help="folder of runs to restore it into (default: runs)"
    )
    unpack.add_argument("--json", action="store_true", help="print the result as JSON")
    unpack.set_defaults(call=_unpack)


def _pack(options: argparse.Namespace) -> int:
    from birdsd.runs.run import RunStore

    run = RunStore(options.runs).find(options.run)
    facts, text = pack(run, options.out, options.with_shards, not options.without_models)
    print(json.dumps(facts, indent=2, ensure_ascii=False) if options.json else text)
    return 0


def _unpack(options: argparse.Namespace) -> int:
    from birdsd.runs.pack.unpack import unpack

    facts, text = unpack(options.file, options.into)
    print(json.dumps(facts, indent=2, ensure_ascii=False) if options.json else text)
    return 0
