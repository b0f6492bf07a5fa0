"""A training step: birdsd's loop beside a bare loop of the same model, optimizer and batch.

Both run fused AdamW, the same clipping and the same EMA over a small UNet with one thread for torch.
The bare loop gets its batches ready-made; birdsd's reads, augments and collates in its reader thread,
plans, keeps its ledger and writes its metrics.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import Row, Size
from birdsd.diffusion.learning.base import Learner, Modules
from birdsd.randomness import generator
from birdsd.schema import OPTIM_DEFAULTS, TrainConfig
from birdsd.training.batches.batches import BatchMaker, global_batches
from birdsd.training.checkpoints.checkpoint import Checkpointer
from birdsd.training.devices.precision import Precision
from birdsd.training.devices.world import World
from birdsd.training.engines.choice import make_engine

BATCH, SIDE = 4, 32
CPU = torch.device("cpu")


class UNetLearner(Learner):
    """A small UNet2DModel that predicts noise."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        make: Any = UNet2DModel
        self.unet = make(
            sample_size=SIDE,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(32, 64, 96),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
        )

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        guess = self.unet(batch["noisy"], batch["time"]).sample
        return (guess - batch["noise"]).square().mean(dim=(1, 2, 3))


class _Sample:
    weight, key = 1.0, "x"


class _Reader:
    def __init__(self) -> None:
        self.latents = np.random.default_rng(0).standard_normal((64, 4, SIDE, SIDE), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.latents)

    def read(self, number: int) -> Any:
        sample = _Sample()
        sample.latent = self.latents[number]  # type: ignore[attr-defined]
        return sample


class _Order:
    def batch(self, start: int, count: int) -> np.ndarray:
        return np.arange(start, start + count) % 64


def example(sample: Any, position: int) -> dict[str, torch.Tensor]:
    """A noised latent, all randomness by position."""
    draw = generator(0, "train", position)
    noise = torch.from_numpy(draw.standard_normal((4, SIDE, SIDE), dtype=np.float32))
    time_step = torch.tensor(int(draw.integers(1000)))
    return {"noisy": torch.from_numpy(sample.latent) + noise, "noise": noise, "time": time_step}


def bare_steps(optim: Any) -> Any:
    """Yields seconds a step of the plainest loop that does the same."""
    torch.manual_seed(0)
    learner = UNetLearner()
    optimizer = torch.optim.AdamW(learner.parameters(), lr=optim.learning_rate, weight_decay=0.01, fused=True)
    parameters = list(learner.parameters())
    averages = [p.detach().clone() for p in parameters]
    ready = []
    reader = _Reader()
    for start in range(0, 64, BATCH):
        made = [example(reader.read(i), i) for i in range(start, start + BATCH)]
        ready.append({k: torch.stack([m[k] for m in made]) for k in made[0]})
    step = 0
    while True:
        begin = time.perf_counter()
        loss = learner(ready[step % len(ready)]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, optim.gradient_clip, foreach=True)
        optimizer.step()
        torch._foreach_lerp_(averages, [p.detach() for p in parameters], 0.001)
        loss.item()
        step += 1
        yield time.perf_counter() - begin


def our_steps(config: TrainConfig, folder: Path) -> Any:
    """Yields seconds a step of `Trainer`'s own step, with everything around it."""
    from birdsd.training.loop import Trainer

    index: Any = _Index()
    method: Any = _Method()
    trainer = Trainer(config, method, index, folder, lambda: False, lambda event: None, World())
    torch.manual_seed(0)
    learner = UNetLearner()
    trainer.engine = make_engine(
        learner,
        config.optim,
        config.machine,
        Precision("fp32", "the bench"),
        CPU,
        World(),
        trainer.plan.count,
    )
    trainer.checkpointer = Checkpointer(folder / "checkpoints", World(), "")
    batches = global_batches(
        BatchMaker(_Reader(), _Order(), example), trainer.plan, 0, trainer.total, threads=1, ahead=2
    )
    yield from timed_steps(trainer, Modules(learner), batches)


def timed_steps(trainer: Any, parts: Modules, batches: Any) -> Any:
    """Yields seconds a step of a trainer whose engine is made, with everything around the step."""
    trainer.progress, trainer.trackers = _Silent(), _Silent()
    while True:
        begin = time.perf_counter()
        examples, weight = trainer._next(batches)
        assert examples is not None
        trainer._step(parts, examples, weight)
        trainer._flush()
        yield time.perf_counter() - begin


class _Index:
    """Of shards that there are not: the batches come from `_Reader`."""

    def count(self, split: str) -> int:
        return 0


class _Method:
    def encode_batch(self, parts: Modules, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return batch


class _Silent:
    def update(self, *arguments: object) -> None: ...

    def lines(self, *arguments: object) -> None: ...


def run(size: Size) -> list[Row]:
    """The loop's row."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    config = TrainConfig()
    for name, value in {**OPTIM_DEFAULTS, "global_batch": BATCH, "total_samples": 10**9}.items():
        setattr(config.optim, name, value)
    config.machine.device, config.machine.micro_batch, config.machine.threads = "cpu", BATCH, 1
    try:
        with tempfile.TemporaryDirectory() as folder:
            return [_step_row(config, Path(folder), size.of(60, 15, 1))]
    finally:
        torch.set_num_threads(before)


def _step_row(config: TrainConfig, folder: Path, pairs: int) -> Row:
    ours, bare = our_steps(config, folder), bare_steps(config.optim)
    for _ in range(min(5, pairs)):
        next(ours), next(bare)
    # Step by step in turn: a machine whose speed drifts moves both.
    times = [(next(ours), next(bare)) for _ in range(pairs)]
    ratio = statistics.median(o / b for o, b in times)
    note = f"{1000 * statistics.median(o for o, _ in times):.1f} ms a step, one thread"
    return Row("loop", "a step of engine torch / a bare step", ratio, 1.02, higher_is_better=False, note=note)
