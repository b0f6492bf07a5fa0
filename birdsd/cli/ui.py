"""The verb `birdsd ui`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from birdsd.ui import server


def add_ui(verbs: Any) -> None:
    """Add the parser of the verb; it imports nothing heavy."""
    ui = verbs.add_parser(
        "ui",
        help="open a local web page to generate, play and save sounds",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  birdsd ui\n  birdsd ui RUN guidance=4 steps=50\n"
        "  birdsd ui BASE add=LORA:0.8 --port 8000 --no-browser",
    )
    ui.add_argument("run", nargs="?", help="a run or model folder (default: the latest finished model)")
    ui.add_argument("settings", nargs="*", help="initial settings, as for `birdsd run generate`")
    ui.add_argument(
        "--port", type=int, help=f"port to serve on (default: the first free one from {server.FIRST_PORT})"
    )
    ui.add_argument("--no-browser", action="store_true", help="do not open a browser")
    ui.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder that holds the runs (default: runs)"
    )
    ui.set_defaults(call=_ui)


def _ui(options: argparse.Namespace) -> int:
    settings = list(options.settings)
    run = options.run
    if run is not None and "=" in run and not Path(run).exists():
        run, settings = None, [run, *settings]
    server.serve(server.settled(run, settings, options.runs), options.port, not options.no_browser)
    return 0
