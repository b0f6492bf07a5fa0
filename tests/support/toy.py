"""A learner of a few hundred parameters, and shards for it: what the tests of training train on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import cloudpickle
import numpy as np
import torch
from torch import nn

from birdsd.diffusion.learning.base import Learner, Modules
from birdsd.randomness import generator
from birdsd.schema import OPTIM_DEFAULTS, TrainConfig
from birdsd.shards.index import ShardIndex

OPTIM = {
    **OPTIM_DEFAULTS, "learning_rate": 1e-2, "global_batch": 10, "total_samples": 120, "warmup_samples": 30,
    "ema_decay": 0.9, "gradient_clip": 0.5,
}  # fmt: skip


class ToyLearner(Learner):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(12, 24)
        self.norm = nn.LayerNorm(24)
        self.outer = nn.Linear(24, 12)

    def forward(self, batch):
        guess = self.outer(torch.tanh(self.norm(self.inner(batch["noisy"]))))
        return (guess.float() - batch["clean"].float()).square().mean(dim=1)


class OddLearner(Learner):
    """Sizes that no number of ranks divides, one of them too small for four and one too large for ZeRO-3
    to keep whole everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))
        self.inner = nn.Linear(12, 401)
        self.middle = nn.Linear(401, 317)
        self.norm = nn.LayerNorm(317)
        self.outer = nn.Linear(317, 12)

    def forward(self, batch):
        noisy = (batch["noisy"].unflatten(1, (4, 3)) * self.gain).flatten(1)
        hidden = self.norm(self.middle(torch.tanh(self.inner(noisy))))
        return (self.outer(torch.tanh(hidden)).float() - batch["clean"].float()).square().mean(dim=1)


class ToyMethod:
    """Denoises twelve pixels."""

    learner: type[Learner] = ToyLearner

    def __init__(self, config: TrainConfig, index: ShardIndex, events=None) -> None:
        self.config, self.index, self.built = config, index, 0

    def run(self, work):
        return work.loop(self)

    def build(self, device, dtype):
        self.built += 1
        return Modules(self.learner().to(device), device=device, dtype=dtype)

    def make_example(self, parts, sample, position, purpose="train"):
        clean = torch.from_numpy(sample.image.reshape(-1)[:12].astype(np.float32)) / 255
        noise = generator(self.config.seed, purpose, position).standard_normal(12, dtype=np.float32)
        return {"clean": clean, "noisy": clean + 0.3 * torch.from_numpy(noise)}

    def encode_batch(self, parts, batch):
        assert not torch.is_grad_enabled()
        return batch

    def setup(self, parts, share, alive):
        return []

    def fill_cache(self, device, dtype, splits, share, alive, agree):
        pass

    def cached_latents(self, split):
        return None

    def preview(self, parts, prompts, folder):
        folder.mkdir(parents=True, exist_ok=True)
        weights = torch.cat([p.detach().flatten() for p in parts.learner.parameters()])
        np.save(folder / "weights.npy", weights.cpu().numpy())
        return [folder / "weights.npy"]

    def export(self, parts, folder):
        self.preview(parts, [], folder)
        return folder


class OddMethod(ToyMethod):
    learner = OddLearner


def make_shards(folder: Path, samples: int = 40, broken: tuple[int, ...] = (), shard: int = 16) -> Path:
    """Foreign WebDataset tars of random 3 x 4 pictures; the numbers in `broken` cannot be decoded."""
    import io
    import tarfile

    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", samples), ("validation", 9)):
        for first in range(0, count, shard):
            with tarfile.open(folder / f"{split}-{first // shard:06d}.tar", "w") as tar:
                for number in range(first, min(first + shard, count)):
                    stream = io.BytesIO()
                    np.save(
                        stream, generator("toy", split, number).integers(0, 256, (1, 3, 4), dtype=np.uint8)
                    )
                    data = stream.getvalue()
                    if split == "train" and number in broken:
                        data = b"\x93NUMPY broken"
                    meta = json.dumps({"captions": ["a Toy"], "species": ["Toy"]}).encode()
                    for suffix, part in (("npy", data), ("json", meta)):
                        info = tarfile.TarInfo(f"{split}{number:04d}.{suffix}")
                        info.size = len(part)
                        tar.addfile(info, io.BytesIO(part))
    return folder


def toy_config(**changes) -> TrainConfig:
    """`toy_config(optim__global_batch=4, machine__engine="deepspeed")`."""
    config = TrainConfig()
    config.model.name, config.method.name, config.data.name, config.machine.name = "toy", "toy", "toy", "toy"
    for name, value in OPTIM.items():
        setattr(config.optim, name, value)
    config.machine.device, config.machine.threads, config.machine.micro_batch = "cpu", 1, 4
    config.save.every_samples, config.save.validate_every_samples, config.save.validation_samples = 20, 40, 8
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        target = getattr(config, section) if section else config
        assert hasattr(target, name), key
        setattr(target, name, value)
    return config


def losses(run: Path) -> dict[int, float]:
    """position -> loss; each position once."""
    from birdsd.training.records import read_metrics

    lines = [line for line in read_metrics(run) if line["kind"] == "train"]
    found = {line["position"]: line["loss"] for line in lines}
    assert len(found) == len(lines), "a step stands twice in the metrics"
    return found


# Forked from a process that has imported everything and computed nothing: with a torch built for GPUs, a
# fork of one that has run backward cannot.
_CLEAN = multiprocessing.get_context("forkserver")
_CLEAN.set_forkserver_preload(["tests.support.preloaded"])


def fork_ranks(world: int, work, log: Path) -> list[int]:
    """Run `work(rank)` in `world` forked processes that see each other; their exit codes by rank.

    What they print goes to `log`. A traceback there and the exit code 1 stand for an exception. They have the
    environment and folder of this process, and of its memory what `work` refers to: patch modules within it.
    """
    port = _free_port()
    packed = cloudpickle.dumps((work, dict(os.environ)))
    children = [
        _CLEAN.Process(target=_be_rank, args=(rank, world, port, packed, log)) for rank in range(world)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return [child.exitcode for child in children]


def _be_rank(rank: int, world: int, port: int, packed: bytes, log: Path) -> None:
    status = 1
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(descriptor, 1), os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1)  # pytest's are elsewhere
        work, environment = cloudpickle.loads(packed)
        os.environ.clear()
        os.environ.update(environment)
        if world > 1:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_PORT=str(port)
            )
            os.environ.update(MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS="1")
        work(rank)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


class Children:
    """Runs `train` in forked processes, one a rank, that may kill themselves; this one stays as it is."""

    def __init__(self, shards: Path) -> None:
        self.shards = shards

    def train(
        self,
        run: Path,
        *,
        world: int = 1,
        kill: str = "",
        stop_at: int = 0,
        fails=False,
        on_event=None,
        method=ToyMethod,
        **changes,
    ) -> list[int]:
        """The exit codes by rank: 0, or -SIGKILL, or with `fails` 1. `kill` is a position ("50"), or a stage
        of the k-th save ("file written@1"); `stop_at` asks the last rank to stop at a position; rank 0
        calls `on_event` with each event."""
        codes = fork_ranks(
            world,
            lambda rank: self._train(run, rank, world, kill, stop_at, changes, on_event, method),
            run / "log.txt",
        )
        expected = {1} if fails else {0, -signal.SIGKILL}
        assert set(codes) <= expected, (run / "log.txt").read_text()[-3000:]
        return codes

    def _train(self, run, rank, world, kill, stop_at, changes, on_event, method) -> None:
        from birdsd.training import loop
        from birdsd.training.checkpoints import checkpoint

        reached = {"position": 0}
        stepped = loop.Trainer._step

        def step(self, *arguments):
            stepped(self, *arguments)
            reached["position"] = self.position
            if kill.isdigit() and self.position >= int(kill):
                os.kill(os.getpid(), signal.SIGKILL)

        loop.Trainer._step = step
        if "@" in kill:
            name, at = kill.split("@")
            passed = []

            def stage(now):
                passed.append(now)
                if now == name and passed.count(name) == int(at):
                    os.kill(os.getpid(), signal.SIGKILL)

            checkpoint.stage = stage
        index = ShardIndex.open(self.shards)
        config = toy_config(**changes)

        def should_stop() -> bool:
            return bool(stop_at) and rank == world - 1 and reached["position"] >= stop_at

        def events(event) -> None:
            print(json.dumps(event, default=str), flush=True)
            if on_event is not None:
                on_event(event)

        loop.train(config, method(config, index), index, run, should_stop, events)
        if "deepspeed" in sys.modules:
            # Its process group and threads do not matter to anyone any more.
            sys.stdout.flush()
            os._exit(0)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
