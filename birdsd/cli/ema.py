"""The parser of `birdsd ema`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_ema(verbs: Any) -> None:
    """Add the verb's parser to the command line."""
    parser = verbs.add_parser(
        "ema",
        help="rebuild a finished run's model with a different EMA length, from its kept checkpoints",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The length is the standard deviation of the averaging profile, relative to the training, as\n"
        "in EDM2; longer is smoother. It is combined from the stored checkpoints: train with save.keep=8\n"
        "or more, no further apart than the run's own average is long, 1 / (1 - optim.ema_decay) steps.\n\n"
        "examples:\n  birdsd ema RUN --length 0.1\n  birdsd ema RUN --length 0.05 --out models/short\n"
        "  birdsd run generate run=runs/RUN/averages/0.1 prompt='a House Sparrow'",
    )
    parser.add_argument("run", help="a finished run of method=full")
    parser.add_argument(
        "--length", type=float, required=True, help="EMA length relative to the training, from 0.05 to 0.25"
    )
    parser.add_argument("--out", type=Path, help="folder to create (default: RUN/averages/LENGTH)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder that holds the runs (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
