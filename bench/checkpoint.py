"""Saving and restoring: birdsd's checkpoints beside the speed of memory and disk, and beside torch.save.

The state is that of AdamW with an EMA: four fp32 tensors a parameter. The contestants take turns within
each round, and what they leave behind is removed between the rounds, untimed. The files are read from a
warm page cache, where the ratios are hardest to reach.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.common import Row, Size
from bench.loop import BATCH, CPU, UNetLearner
from bench.zero import ready_batches
from birdsd.diffusion.learning.base import Learner
from birdsd.schema import OPTIM_DEFAULTS, MachineConfig, OptimConfig
from birdsd.training.checkpoints.checkpoint import Checkpointer
from birdsd.training.devices.cores import read_load, usable_cores
from birdsd.training.devices.precision import Precision
from birdsd.training.devices.world import World
from birdsd.training.engines.base import Engine
from birdsd.training.engines.choice import make_engine

STEPS_PER_SAVE = 50
_BEHIND = 5
_PIECE_BYTES = 16 << 20


class _Layers(Learner):
    """Matrices and biases, nothing else: 16.8 MB of state a layer."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(1024, 1024) for _ in range(layers))


def _engine(learner: Learner) -> Engine:
    optim = OptimConfig(**{**OPTIM_DEFAULTS, "global_batch": BATCH})
    machine = MachineConfig(name="bench", device="cpu", micro_batch=BATCH)
    return make_engine(learner, optim, machine, Precision("fp32", "the bench"), CPU, World(), 1)


def run(size: Size) -> list[Row]:
    """Rows of saving and restoring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as name:
            large = _large(Path(name) / "large", size.of(48, 16, 1), size.of(7, 3, 1), size.of(2, 2, 0))
            return [*large, _stall_of_steps(Path(name) / "steps", rounds=size.of(12, 4, 1))]
    finally:
        torch.set_num_threads(before)


class _Contest:
    """Calls by name, timed in turn. A call may give further times, by name, of parts of it."""

    def __init__(
        self,
        calls: dict[str, Callable[[], dict[str, float] | None]],
        between: Callable[[], None],
        after: Callable[[], None],
    ) -> None:
        self.calls, self.between, self.after = calls, between, after
        self.seconds: dict[str, list[float]] = {}
        self.cpu_s: dict[str, list[float]] = {}
        self.others_cores = math.nan  # that other programs kept busy meanwhile

    def hold(self, rounds: int, warm_up: int) -> None:
        load = None
        with suppress(OSError):  # where the system does not tell
            load = read_load()
        for number in range(warm_up + rounds):
            for name, call in self.calls.items():
                self.between()
                start, cpu_s = time.perf_counter(), time.process_time()
                parts = call()
                taken = {name: time.perf_counter() - start, **(parts or {})}
                if number >= warm_up:
                    self.cpu_s.setdefault(name, []).append(time.process_time() - cpu_s)
                    for key, value in taken.items():
                        self.seconds.setdefault(key, []).append(value)
            self.after()
        with suppress(OSError):
            self.others_cores = read_load().others_since(load) if load else math.nan

    def row(self, above: str, below: str, floor: float, higher_is_better: bool = False) -> Row:
        """The median of the ratios, round by round."""
        pairs = zip(self.seconds[above], self.seconds[below], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        times = [1000 * statistics.median(self.seconds[name]) for name in (above, below)]
        note = f"{times[0]:.0f} / {times[1]:.0f} ms"
        return Row("save", f"{above} / {below}", ratio, floor, higher_is_better, note)


class _Large:
    """A state of many megabytes, and everything that may be done with it."""

    def __init__(self, folder: Path, layers: int) -> None:
        self.folder = folder
        self.engine = _engine(_Layers(layers))
        # Every tensor in memory of its own, not in the system's page of zeros.
        made = torch.randn(1024 * 1024)
        shapes = self.engine.shapes
        self.engine.load_state(
            lambda kind, name: made[: shapes[name].numel()].view(shapes[name]), {"optimizer_step": 1}
        )
        elements = len(self.engine.kinds) * sum(shape.numel() for shape in shapes.values())
        self.plain, self.other = torch.ones(elements), torch.zeros(elements).add_(1)
        self.views: dict[str, Tensor] = {}
        start = 0
        for kind in self.engine.kinds:
            for name, shape in shapes.items():
                self.views[f"{kind}/{name}"] = self.plain[start : start + shape.numel()].view(shape)
                start += shape.numel()
        self.checkpointer = Checkpointer(folder / "checkpoints", World(), "")
        self.checkpointer.prepare(self.engine)
        self.saves = 0

    def copy(self) -> None:
        self.other.copy_(self.plain)

    def save(self) -> dict[str, float]:
        self.saves += 1
        stall = self.checkpointer.save(self.engine, self.saves, {})
        self.checkpointer.wait()
        return {"save stall": stall}

    def first_save(self) -> dict[str, float]:
        """A new run's: its buffer is got ready behind the first steps, which are waited for here."""
        fresh = Checkpointer(self.folder / "fresh", World(), "")
        fresh.prepare(self.engine)
        assert fresh._buffer is not None
        fresh._buffer.result()
        stall = fresh.save(self.engine, 1, {})
        fresh.wait()
        return {"first save's stall": stall}

    def raw_write(self) -> None:
        view = memoryview(self.plain.view(torch.uint8).numpy())  # type: ignore[arg-type]
        descriptor = os.open(self.folder / "raw", os.O_WRONLY | os.O_CREAT)
        while view:
            view = view[os.write(descriptor, view[:_PIECE_BYTES]) :]
        os.fsync(descriptor)
        os.close(descriptor)

    def torch_save(self) -> None:
        with open(self.folder / "torch.pt", "wb") as stream:
            torch.save(self.views, stream)
            stream.flush()
            os.fsync(stream.fileno())

    def restore(self) -> None:
        checkpoint = self.checkpointer.newest(unread=True)
        assert checkpoint is not None
        self.checkpointer.load(checkpoint, self.engine)

    def raw_read(self) -> None:
        buffer = bytearray(_PIECE_BYTES)
        for path in (self.folder / "checkpoints" / f"{self.saves:012d}").iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            while os.readv(descriptor, [buffer]):
                pass
            os.close(descriptor)

    def read_into_place(self) -> None:
        """The files into memory that holds all of them: what any restore has to do at least."""
        view = memoryview(self.other.view(torch.uint8).numpy())  # type: ignore[arg-type]
        for path in (self.folder / "checkpoints" / f"{self.saves:012d}").glob("*.safetensors"):
            descriptor = os.open(path, os.O_RDONLY)
            offset, rest = path.stat().st_size - len(view), view  # the header is left out
            while rest and (count := os.preadv(descriptor, [rest[:_PIECE_BYTES]], offset)):
                offset, rest = offset + count, rest[count:]
            os.close(descriptor)

    def torch_load(self) -> None:
        torch.load(self.folder / "torch.pt", weights_only=True)

    def settle(self) -> None:
        """Old checkpoints go in the background: here nobody else should pay for it."""
        self.checkpointer._join()
        gc.collect()

    def tidy(self) -> None:
        for name in ("raw", "torch.pt"):
            (self.folder / name).unlink()
        shutil.rmtree(self.folder / "fresh")


def _large(folder: Path, layers: int, rounds: int, warm_up: int) -> list[Row]:
    folder.mkdir()
    state = _Large(folder, layers)
    contest = _Contest(
        {
            "copy": state.copy,
            "durable save": state.save,
            "write + fsync": state.raw_write,
            "restore": state.restore,
            "pread": state.raw_read,
            "reading into place": state.read_into_place,
            "first save": state.first_save,
            "torch.save + fsync": state.torch_save,
            "torch.load": state.torch_load,
        },
        state.settle,
        state.tidy,
    )
    contest.hold(rounds, warm_up)
    restore = contest.row("restore", "pread", 1.3)
    in_place = contest.row("restore", "reading into place", 1.3)
    copy = 1000 * statistics.median(contest.seconds["copy"])
    # Restoring reads and sums in several threads: beside others it comes near to what it costs in all.
    cpu = statistics.median(
        a / b for a, b in zip(*(contest.cpu_s[n] for n in ("restore", "pread")), strict=True)
    )
    depends = (
        f"{cpu:.1f} in processor time, {usable_cores()} cores of which others used {contest.others_cores:.1f}"
    )
    return [
        contest.row("save stall", "copy", 1.3),
        contest.row("first save's stall", "copy", 1.3),
        contest.row("torch.save + fsync", "save stall", 10, higher_is_better=True),
        contest.row("durable save", "write + fsync", 1.1),
        contest.row("torch.save + fsync", "durable save", 1.3, higher_is_better=True),
        in_place,
        # Reading ends in a small buffer that the cache holds; a restore must put every byte into its place.
        replace(restore, note=f"{restore.note}; {depends}; a copy of as many bytes: {copy:.0f} ms"),
        contest.row("torch.load", "restore", 2.5, higher_is_better=True),
    ]


def _stall_of_steps(folder: Path, rounds: int) -> Row:
    """The small UNet of the loop's bench, saved once every 50 steps."""
    torch.manual_seed(0)
    engine = _engine(UNetLearner())
    checkpointer = Checkpointer(folder, World(), "")
    checkpointer.prepare(engine)
    batches, weights = ready_batches(), torch.full((BATCH,), 1 / BATCH)

    def step(number: int) -> float:
        start = time.perf_counter()
        batch = batches[number % len(batches)]
        engine.step([(lambda: batch, weights)], 1e-4, 0.999)
        return time.perf_counter() - start

    plain = statistics.median([step(number) for number in range(5 * rounds)][rounds:])
    stalls, costs = [], []
    for number in range(rounds):
        stalls.append(checkpointer.save(engine, number, {}))
        # The file is written behind the first steps.
        costs.append(stalls[-1] + sum(step(number) for number in range(_BEHIND)) - _BEHIND * plain)
        checkpointer.wait()
    between = STEPS_PER_SAVE * plain
    stall, cost = statistics.median(stalls), statistics.median(costs)
    note = f"{1000 * stall:.1f} ms; {100 * cost / between:.2f}% with the writing behind the steps"
    what = f"save stall, % of {STEPS_PER_SAVE} steps of a UNet"
    return Row("save", what, 100 * stall / between, 1.0, False, note)
