"""Which heavy modules a course of work imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch",
    "scipy",
    "pandas",
    "hydra",
    "omegaconf",
    "librosa",
    "sklearn",
    "numba",
    "matplotlib",
    "submitit",
)


def imported_by(script: str, *arguments: str, heavy: tuple[str, ...] = HEAVY) -> list[str]:
    """Which heavy modules a course of work imports, in a process of its own."""
    script += f"\nimport sys\nprint([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return json.loads(done.stdout.strip().split("\n")[-1].replace("'", '"'))
