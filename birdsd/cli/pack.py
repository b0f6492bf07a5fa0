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
        help="one file with all that a run needs to go on elsewhere",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="In it: the newest sound checkpoint (of a finished run its export instead), settings, curve,\n"
        "ledger, events, previews, the models that it stands on. A run may be under way meanwhile.\n\n"
        "examples:\n"
        "  birdsd pack RUN                                RUN.birdsd.zip, without the shards\n"
        "  birdsd pack RUN --with-shards --out /storage/  all that another machine needs\n"
        "  birdsd pack RUN --without-models               the models it stands on are there already",
    )
    pack.add_argument("run")
    pack.add_argument(
        "--out", type=Path, help=f"the file, or a folder that is there (default: ./RUN{PACK_SUFFIX})"
    )
    pack.add_argument("--with-shards", action="store_true", help="the samples too")
    pack.add_argument(
        "--without-models", action="store_true", help="leave out the local models that it stands on"
    )
    pack.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs lie (default: runs)")
    pack.add_argument("--json", action="store_true")
    pack.set_defaults(call=_pack)

    unpack = verbs.add_parser(
        "unpack",
        help="a packed run, ready to go on here",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Every byte is checked before anything is made visible. A run that is further on is never\n"
        "replaced; one that is behind is kept in .replaced/.\n\n"
        "examples:\n"
        "  birdsd unpack RUN.birdsd.zip                   into runs/, and says how to go on\n"
        "  birdsd unpack RUN.birdsd.zip --into /storage/birdsd/runs",
    )
    unpack.add_argument("file", type=Path)
    unpack.add_argument("--into", type=Path, default=Path("runs"), help="the folder of runs (default: runs)")
    unpack.add_argument("--json", action="store_true")
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
