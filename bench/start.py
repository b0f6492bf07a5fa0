"""From the start of a requeued process to its first step, split, beside the imports that it needs."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.common import Row, Size

# What training a diffusion model needs of its libraries, and nothing else.
NEEDED = (
    "import torch, accelerate\n"
    "from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel\n"
    "from transformers import CLIPTextConfig, CLIPTextModel\n"
    "import torch.utils.tensorboard\n"
)
STEPS = 4


def run(size: Size) -> list[Row]:
    """One row: the whole start of a resumed run over those imports; the note splits it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = _made(Path(folder), size)
        starts, bare, split = [], [], {}
        for number in range(size.of(4, 2, 1)):
            split = _resume(Path(folder), settings, STEPS * (number + 2))
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", NEEDED], check=True, env=_environment())
            bare.append(time.perf_counter() - begun)
            starts.append(split["whole"])
    ratio = statistics.median(ours / theirs for ours, theirs in zip(starts, bare, strict=True))
    note = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in split.items())
    what = "requeued start to first step / importing torch + UNet"
    return [Row("start", what, ratio, 1.3, higher_is_better=False, note=note)]


def _environment() -> dict[str, str]:
    return {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}


def _made(folder: Path, size: Size) -> list[str]:
    """Shards, an autoencoder, and the settings of a run on them that is stopped after a few steps."""
    from bench.methods import SMALLEST, Bench

    made = Bench(folder, pairs=0, **size.of({}, {}, SMALLEST))
    return [f"data.shards={made.index.folder}", f"runs={folder / 'runs'}", "model=tiny", "machine=smoke",
            "save.validate_every_samples=0", "method=full", f"model.autoencoder={made.autoencoder}",
            "optim.global_batch=4", "save.every_samples=1000000", "optim.total_samples=4000"]  # fmt: skip


def _resume(folder: Path, settings: list[str], stop_after: int) -> dict[str, float]:
    """Take the run up for a few steps in a process of its own; where its start went, in seconds."""
    before = {path.parent.name for path in folder.glob("runs/*-full-*/allocations/*/allocation.json")}
    process = subprocess.Popen(
        [sys.executable, "-m", "birdsd.cli", "run", "train", *settings],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment(),
    )  # fmt: skip
    metrics = None
    while process.poll() is None:
        metrics = next(iter(folder.glob("runs/*-full-*/metrics.jsonl")), None)
        if metrics is not None and sum('"train"' in line for line in metrics.open()) >= stop_after:
            process.terminate()
            break
        time.sleep(0.02)
    if process.wait() not in (0, 75):
        raise RuntimeError(f"the run ended with status {process.returncode}")
    fresh = [p for p in folder.glob("runs/*-full-*/allocations/*/end.json") if p.parent.name not in before]
    seconds = json.loads(fresh[0].read_text())["seconds"]
    split = {
        "start and imports": seconds["start"],
        "restore": seconds["restore"],
        "build": seconds["build"],
        "first batch": seconds.get("first batch", 0.0),
    }
    return {"whole": sum(split.values()), **split}


if __name__ == "__main__":
    for row in run(Size.QUICK):
        print(row)
