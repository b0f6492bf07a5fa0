"""The card under test, and trainings on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from birdsd.diffusion.methods import make_method
from birdsd.shards.index import ShardIndex
from birdsd.training.checkpoints.tensorfile import TensorFile
from birdsd.training.loop import train
from birdsd.training.work import RunWork
from tests.support.taught import configured
from tests.support.toy import OddMethod, toy_config

REHEARSAL = "BIRDSD_GPU_REHEARSAL"  # cpu: the CPU in the card's place
BATCH = 4  # samples a step of the small models


@dataclass(frozen=True)
class Card:
    """`device` is what machine.device says."""

    device: str

    @property
    def is_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def too_many_bytes(self) -> int:
        """More than its allocator can give."""
        return 2 * torch.cuda.get_device_properties(0).total_memory if self.is_gpu else 2**46

    @property
    def out_of_memory(self) -> str:
        """What its allocator says then."""
        return "CUDA out of memory" if self.is_gpu else "can't allocate memory"


def teach(
    way: str,
    shards: Path,
    source: Path,
    run: Path,
    *,
    samples: int = 3 * BATCH,
    stop_at: int = 0,
    **machine: Any,
) -> list[dict[str, Any]]:
    """Train a small method (of tests.support.taught) to `samples`, or stop at a position; its events."""
    config, reached, events = configured(way, source, **machine), [0], []
    config.optim.total_samples = samples
    method, index = make_method(config, ShardIndex.open(shards)), ShardIndex.open(shards)
    work = RunWork(
        config, index, run, lambda: bool(stop_at) and reached[-1] >= stop_at, events.append,
        lambda pulse: reached.append(pulse.position),
    )  # fmt: skip
    work.by(method)
    return events


def train_toy(
    shards: Path, run: Path, *, method: type = OddMethod, stop_at: int = 0, **changes: Any
) -> list[dict[str, Any]]:
    """Train a learner of a few hundred parameters; its events. `changes` as for `toy_config`."""
    config, reached, events = toy_config(**{"machine__precision": "fp32", **changes}), [0], []
    index = ShardIndex.open(shards)
    train(
        config, method(config, index), index, run, lambda: bool(stop_at) and reached[-1] >= stop_at,
        events.append, lambda pulse: reached.append(pulse.position),
    )  # fmt: skip
    return events


def started(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What a training said at its start: device, precision, engine."""
    return next(event for event in events if event["event"] == "training")


def saved(run: Path, position: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors by KIND/NAME, the state) of a checkpoint."""
    folder = run / f"checkpoints/{position:012d}"
    file = TensorFile(folder / "tensors-00000-of-00001.safetensors")
    commit = json.loads((folder / "COMMIT.json").read_text())
    tensors = {key: file.tensor(key).clone() for key in commit["tensors"]}
    return tensors, json.loads((folder / "state.json").read_text())
