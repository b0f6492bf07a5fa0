"""The parser of `birdsd ema`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_ema(verbs: Any) -> None:
    """Add the verb's parser to the command line."""
    parser = verbs.add_parser(
        "ema",
        help="a finished run's model with an average of another length, from the checkpoints that it kept",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The length is the deviation of the average as a share of the training, as in EDM2; longer\n"
        "is smoother. It is mixed from the checkpoints that are there: train with save.keep=8 or more,\n"
        "no further apart than the run's own average is long, 1 / (1 - optim.ema_decay) steps.\n\n"
        "examples:\n  birdsd ema RUN --length 0.1\n  birdsd ema RUN --length 0.05 --out models/short\n"
        "  birdsd run generate run=runs/RUN/averages/0.1 prompt='a House Sparrow'",
    )
    parser.add_argument("run", help="a finished run of method=full")
    parser.add_argument("--length", type=float, required=True, help="0.05 to 0.25 of the training")
    parser.add_argument("--out", type=Path, help="the folder to make (default: RUN/averages/LENGTH)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs lie (default: runs)")
    parser.add_argument("--json", action="store_true")
