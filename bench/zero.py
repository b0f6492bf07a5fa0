"""A step of each ZeRO stage: birdsd's loop beside bare DeepSpeed at that stage.

Both train the UNet of the loop's bench with the same optimizer, clipping, EMA and ZeRO settings, one
process over gloo, one thread for torch. Bare DeepSpeed gets its batches ready-made; birdsd's loop reads,
augments and collates, plans, keeps its ledger and writes its metrics.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from bench.common import Row, Size
from bench.loop import BATCH, CPU, UNetLearner, _Reader, example, our_steps
from birdsd.schema import OPTIM_DEFAULTS, TrainConfig
from birdsd.training.devices.world import World

STAGES = (1, 2, 3)


def ready_batches() -> list[dict[str, Tensor]]:
    """The batches of the loop's bench, made beforehand."""
    reader = _Reader()
    ready = []
    for start in range(0, len(reader), BATCH):
        made = [example(reader.read(i), i) for i in range(start, start + BATCH)]
        ready.append({key: torch.stack([m[key] for m in made]) for key in made[0]})
    return ready


def run(size: Size) -> Iterator[Row]:
    """A row a stage, each in a process of its own: what DeepSpeed keeps, it keeps for the whole process."""
    for stage in size.of(STAGES, STAGES, STAGES[-1:]):
        command = [sys.executable, "-m", "bench.zero", str(stage), str(size.of(60, 15, 1))]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        times = json.loads(result.stdout.splitlines()[-1])
        ratio = statistics.median(ours / bare for ours, bare, _ in times)
        without = statistics.median(ours / barer for ours, _, barer in times)
        step = 1000 * statistics.median(ours for ours, _, _ in times)
        note = f"{step:.1f} ms a step; {without:.2f} of a bare step that follows no EMA"
        what = f"zero{stage}: a step / bare DeepSpeed"
        yield Row("loop", what, ratio, 1.05, higher_is_better=False, note=note)


def bare_steps(config: TrainConfig) -> Iterator[tuple[float, float]]:
    """Yields seconds a step of what DeepSpeed's own documentation shows, with an EMA and without."""
    import deepspeed

    torch.manual_seed(0)
    learner, optim, stage = UNetLearner(), config.optim, config.machine.zero_stage
    optimizer = torch.optim.AdamW(learner.parameters(), lr=optim.learning_rate or 0, fused=True)
    settings = {
        "train_micro_batch_size_per_gpu": BATCH,
        "gradient_clipping": optim.gradient_clip,
        # As birdsd has it: at stages 1 and 2 this is faster than DeepSpeed's default.
        "zero_optimization": {"stage": stage, "contiguous_gradients": stage == 3},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**12,
    }
    engine = deepspeed.initialize(model=learner, optimizer=optimizer, config=settings)[0]
    masters = "fp32_partitioned_groups_flat" if stage == 3 else "single_partition_of_fp32_groups"
    weights = [weight.detach() for weight in getattr(engine.optimizer, masters)]
    averages = [weight.clone() for weight in weights]
    ready, step = ready_batches(), 0
    while True:
        begin = time.perf_counter()
        loss = engine(ready[step % len(ready)]).mean()
        engine.backward(loss)
        engine.step()
        loss.item()
        barer = time.perf_counter() - begin
        torch._foreach_lerp_(averages, weights, 0.001)
        step += 1
        yield time.perf_counter() - begin, barer


def _times(stage: int, count: int) -> list[tuple[float, float, float]]:
    torch.set_num_threads(1)
    config = TrainConfig()
    for name, value in {**OPTIM_DEFAULTS, "global_batch": BATCH, "total_samples": 10**9}.items():
        setattr(config.optim, name, value)
    machine = config.machine
    machine.device, machine.micro_batch, machine.threads = "cpu", BATCH, 1
    machine.engine, machine.zero_stage = "deepspeed", stage
    World().start(CPU, always=True)
    with tempfile.TemporaryDirectory() as folder:
        ours = our_steps(config, Path(folder))
        next(ours)  # sets DeepSpeed up for the CPU
        bare = bare_steps(config)
        for _ in range(min(5, count)):
            next(ours), next(bare)
        # Step by step in turn: a machine whose speed drifts moves both.
        return [(next(ours), *next(bare)) for _ in range(count)]


if __name__ == "__main__":
    print(json.dumps(_times(int(sys.argv[1]), int(sys.argv[2]))), flush=True)
    os._exit(0)  # the reader's thread and DeepSpeed's group need no farewell
