"""What our commands say, and what other libraries say among it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

# What birdsd says, by shape. A line that is none of these came from somewhere else.
OURS = re.compile(
    r"""
    birdsd:\s
    | (fp32|bf16)\ on\ cpu\ .*samples$
    | the\ autoencoder\ .*\ loses\ [\d.]+%\ of\ the\ range
    | new\ words:\ < | \d+\ class\ pictures\ of | words:\ \w
    | \S+:\ (finished|submitted\ as\ |nothing\ to\ do|pipeline,\ from\ )
    | \ {2}(folder|export)\ {2}\S+$
    | \d+\ clips?\ in\ \S+
    | \d+\ clips?\ (was|were)\ louder\ than\ a\ file\ can\ hold
    | \ {2}\S+\.wav\ {2}
    | (diffusers|peft|ckpt|a1111)\ {2,}\S+\ {2}\([\d.]+\ ([KMG]i)?B\ with\ its\ companion\ files\)$
    | \ {17}\S.*
    | \ {2}birdsd\ run\ generate\ run=
    | ==\ (allocation\ )?\S
    | imported/\S+:\ pipeline
    """,
    re.VERBOSE,
)
SHARDS = [
    "data.shards=shards",
    "optim.global_batch=4",
    "optim.total_samples=8",
    "save.validate_every_samples=0",
    "machine=smoke",
]


def words(folder: Path, *arguments: str, **variables: str) -> tuple[int, list[str]]:
    """(exit status, every line on standard output and error) of the real command."""
    kept = {k: v for k, v in os.environ.items() if not k.endswith(("_VERBOSITY", "_BARS", "_DISABLE"))}
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "birdsd.cli", *arguments],
        cwd=folder,
        env={**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, re.split(r"[\r\n]+", done.stdout)


def foreign(lines: list[str]) -> list[str]:
    return [line for line in lines if line.strip() and not OURS.match(line)]


def training(*settings: str) -> list[str]:
    return ["train", "model=tiny", "model.init=pretrained", "model.source=model", *SHARDS, *settings]
