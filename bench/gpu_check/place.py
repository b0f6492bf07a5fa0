"""The model whose memory and speed are measured: shards and a base with random weights, made on the card once
and read by the processes after it. Time and memory do not depend on the weights."""

from __future__ import annotations

import gc
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.gpu_check.settings import Settings
from bench.loop import timed_steps
from bench.methods import BATCH, SAMPLES, Bench, _NoSaves, _pictures, _shards
from birdsd.config import compose
from birdsd.diffusion.methods import make_method
from birdsd.planning.live_tensors import LiveTensors
from birdsd.shards.index import ShardIndex
from birdsd.sound.codec.codec import SpectrogramCodec
from birdsd.training.batches.batches import fill_caches, global_batches
from birdsd.training.devices.precision import release
from birdsd.training.devices.world import World

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig

Change = Callable[[Any], None]  # of a learner, before its engine is made


class Place(Bench):
    """See `bench.methods.Bench`; this one finds what an earlier process has made."""

    def __init__(self, settings: Settings, machine: Sequence[str] = ()) -> None:
        self.settings = settings
        self.folder, self.pairs, self.method = settings.work_folder / "model", 0, None
        self.batch, self.warm_up = BATCH, 3
        self.device = torch.device(settings.device)
        threads = ["machine.threads=1"] if settings.cpu else []
        self._common = [f"model={settings.model}", f"machine.device={settings.device}", *threads, *machine]
        made = SpectrogramCodec.from_config(compose("prepare", [f"codec={settings.codec}"]).codec)
        self.pictures = _pictures(made, SAMPLES)
        shards = self.folder / "shards"
        if not (shards / "whole").is_file():
            shutil.rmtree(shards, ignore_errors=True)
            _shards(shards, made, self.pictures)
            (shards / "whole").touch()
        self.index = ShardIndex.open(shards)
        self.autoencoder = self._made("autoencoder", ["method=autoencoder"])
        scratch = ["method=full", "model.init=scratch", f"model.autoencoder={self.autoencoder}"]
        self.base = self._made("base", scratch)

    def _made(self, name: str, settings: list[str]) -> Path:
        folder, mark = self.folder / name, self.folder / f"{name}.whole"
        if mark.is_file():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(0)
        method = make_method(self.config(settings), self.index)
        try:
            with torch.device(self.device):  # a card draws a milliard random numbers in no time
                parts = method.build(self.device, torch.float32)
        except RuntimeError as error:  # something insists on the CPU: there it takes some seconds
            print(f"{name}: not built on the card: {error}", file=sys.stderr)
            parts = method.build(torch.device("cpu"), torch.float32)
        made = method.export(parts, folder)
        del parts
        release(self.device)
        mark.touch()
        return made

    def steps(self, settings: list[str], change: Change = lambda learner: None) -> Iterator[float]:
        """Seconds a step of our trainer; see `steps_of`."""
        yield from steps_of(self.config(settings), self.folder, change)

    def encoded(self) -> None:
        """Latents and text states are made once, so that no step counts their making."""
        config = self.config(["method=full", "model.init=pretrained", f"model.source={self.base}"])
        method = make_method(config, self.index)
        fill_caches(method, self.device, torch.float32, ["train"], World(), lambda: None)
        release(self.device)


def steps_of(
    config: TrainConfig, work: Path, change: Change = lambda learner: None, whole: bool = True
) -> Iterator[float]:
    """Seconds a step of the trainer of `config`, with everything around the step but saves. What learns is on
    the device until this is closed. `whole`: a step that did not fit and was done in smaller pieces, as the
    trainer does it, is out of memory here."""
    from birdsd.training.loop import Trainer

    index, folder = ShardIndex.open(Path(str(config.data.shards))), Path(tempfile.mkdtemp(dir=work))
    method: Any = make_method(config, index)
    build = method.build

    def changed(device: torch.device, dtype: torch.dtype) -> Any:
        parts = build(device, dtype)
        change(parts.learner)
        return parts

    method.build = changed
    trainer = Trainer(config, method, index, folder, lambda: False, lambda event: None, World())
    trainer.world.start(trainer.device, always=trainer.engine_name == "deepspeed")
    trainer.checkpointer = _NoSaves()  # type: ignore[assignment]
    trainer._tell = lambda event, line: None  # type: ignore[method-assign]
    asked = trainer.plan.size
    parts, _ = trainer._build(None)
    batches = global_batches(trainer._maker(parts), trainer.plan, 0, trainer.total, threads=2, ahead=4)
    try:
        with closing(batches):
            for seconds in timed_steps(trainer, parts, batches):
                if whole and trainer.plan.size < asked:
                    raise torch.OutOfMemoryError(f"out of memory with {asked} samples at a time")
                yield seconds
    finally:
        assert trainer.engine is not None
        trainer.engine.close()
        shutil.rmtree(folder, ignore_errors=True)


class Ruler:
    """The most bytes of tensors on the device; on a CPU followed one by one."""

    def __init__(self, settings: Settings) -> None:
        self.live = LiveTensors() if settings.cpu else None
        self.before = 0

    def __enter__(self) -> Ruler:
        if self.live is not None:
            self.live.hold_all()
            self.before = self.live.bytes
            self.live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.__exit__(*error)

    def restart(self) -> int:
        """The peak is that of what comes; bytes that are held now."""
        if self.live is not None:
            self.live.hold_all()
            self.live.restart_peak()
            return self.live.bytes - self.before
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak(self) -> int:
        """The most since then."""
        if self.live is not None:
            return self.live.peak_bytes - self.before
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
