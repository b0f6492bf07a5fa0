"""Each method's step beside diffusers' own example of it, reduced to its core: time, and memory at the most.

The same `tiny` model, batch of 16, optimizer settings and one thread on both sides, step by step in turn.
Ours is the trainer's whole step: reading, planning, ledger, metrics and EMA; the examples' batches lie
ready-made. LoRA learns the attention layers, as the examples have it; tiny's preset recommends more. Memory
is that of tensors (`LiveTensors`), from building to the third step, so what encodes the pictures beforehand
counts. Neither side saves: what ours keeps ready in host memory for that is not there.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import peers
from bench.common import Row, Size, paired
from bench.loop import timed_steps
from birdsd.config import compose
from birdsd.diffusion.generation.aesthetics import AestheticSettings, personalise
from birdsd.diffusion.methods import make_method
from birdsd.diffusion.networks.models import load_text, to_range
from birdsd.files import write_json
from birdsd.planning.live_tensors import LiveTensors
from birdsd.shards.index import ShardIndex
from birdsd.shards.storage.writer import ShardWriter
from birdsd.sound.codec.codec import SpectrogramCodec
from birdsd.training.batches.batches import global_batches
from birdsd.training.devices.world import World

SPECIES = ("American Robin", "Black Phoebe", "Eurasian Wren", "House Sparrow")
SAMPLES, BATCH = 64, 16
# Of a Bench that only has to run.
SMALLEST: dict[str, Any] = {"codec": "birdsong-tiny", "samples": 2, "batch": 2}
ATTENTION = "method.targets=[attention]"
WAYS: dict[str, list[str]] = {
    "full": ["method=full"],
    "lora": ["method=lora", ATTENTION],
    "textual_inversion": ["method=textual_inversion"],
    "dreambooth on lora": ["method=dreambooth", "method.base_method=lora", ATTENTION],
    "dreambooth on full": ["method=dreambooth", "method.base_method=full"],
    "autoencoder": ["method=autoencoder", f"optim.global_batch={BATCH}", "method.crop_frames=0"],
}
ADVERSARY = "method.adversary_weight=0.5"
_WITH_ADVERSARY = 2.2
_NOISE = 1.02  # of timings that are equal
# Less, where that is what the method is for.
_MEMORY_FLOORS = {"textual_inversion": 0.95, "dreambooth on full": 1.01}
# Whose example keeps no average of the weights: compared with ours without.
_LIKE_ITS_EXAMPLE = {"dreambooth on full": ["optim.ema_decay=0"]}


def run(size: Size) -> Iterator[Row]:
    """A row of time and one of memory for each method, and one for what a cached text saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as name:
            more = size.of({}, {}, {"warm_up": 0, **SMALLEST})
            bench = Bench(Path(name), pairs=size.of(20, 5, 1), **more)
            for way in WAYS:
                yield from bench.rows(way)
            yield from bench.aesthetic_rows()
            yield bench.cached_text_row()
            yield bench.adversary_row()
    finally:
        gc.unfreeze()
        _settled.clear()
        torch.set_num_threads(before)


class _NoSaves:
    """Stands in for the checkpointer."""

    failed = False

    def prepare(self, engine: Any) -> None: ...


class Bench:
    """Shards, a base model, and both sides of each method. `made`: the folder of another Bench with the same
    model, codec and samples, whose shards and models are taken."""

    def __init__(
        self,
        folder: Path,
        pairs: int,
        model: str = "tiny",
        codec: str = "birdsong-small",
        machine: Sequence[str] = ("machine=smoke", "machine.threads=1"),
        batch: int = BATCH,
        warm_up: int = 3,
        samples: int = SAMPLES,
        made: Path | None = None,
    ) -> None:
        self.folder, self.pairs, self.batch, self.warm_up = folder, pairs, batch, warm_up
        self.method: Any = None  # of the steps that began last
        self._common = [f"model={model}", *machine]
        grid = SpectrogramCodec.from_config(compose("prepare", [f"codec={codec}"]).codec)
        self.pictures = _pictures(grid, samples)
        if made:
            self.index = ShardIndex.open(made / "shards")
            self.autoencoder, self.base = made / "autoencoder", made / "base"
            return
        self.index = _shards(folder / "shards", grid, self.pictures)
        self.autoencoder = self._made("autoencoder", ["method=autoencoder"])
        scratch = ["method=full", "model.init=scratch", f"model.autoencoder={self.autoencoder}"]
        self.base = self._made("base", scratch)

    def config(self, settings: list[str]) -> Any:
        """A training here."""
        common = [f"data.shards={self.index.folder}", *self._common]
        if "method=dreambooth" in settings:
            common = [*common, f"method.class_samples={self.batch}", "method.class_steps=1"]
        config = compose("train", [*common, *settings])
        config.optim.total_samples = 10**9
        if self.batch != BATCH:
            config.optim.global_batch = self.batch
        return config

    def _made(self, name: str, settings: list[str]) -> Path:
        torch.manual_seed(0)
        method = make_method(self.config(settings), self.index)
        return method.export(method.build(torch.device("cpu"), torch.float32), self.folder / name)

    def ours(self, settings: list[str]) -> Iterator[float]:
        """Seconds a step of our trainer."""
        if "method=autoencoder" not in settings:
            settings = [*settings, "model.init=pretrained", f"model.source={self.base}"]
        yield from self.steps(settings)

    def steps(self, settings: list[str]) -> Iterator[float]:
        """The same of a training that is told whole."""
        from birdsd.training.loop import Trainer

        config = self.config(settings)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        method = self.method = make_method(config, self.index)
        trainer = Trainer(config, method, self.index, folder, lambda: False, lambda event: None, World())
        trainer.checkpointer = _NoSaves()
        parts, _ = trainer._build(None)
        batches = global_batches(trainer._maker(parts), trainer.plan, 0, trainer.total, threads=1, ahead=2)
        yield from timed_steps(trainer, parts, batches)

    def example(self, way: str) -> Iterator[float]:
        """Seconds a step of the example."""
        torch.manual_seed(0)
        yield from peers.timed(peers.PEERS[way](self.base, self.ready()).steps())

    def ready(self) -> peers.Ready:
        size, starts = self.batch, range(0, len(self.pictures), self.batch)
        pixels = [to_range(torch.from_numpy(self.pictures[i : i + size])) for i in starts]
        said = [[_caption(n) for n in range(i, i + size)] for i in starts]
        return peers.Ready(pixels, said, pixels[0], ["a bird"] * size)

    def peak(self, begin: Callable[[], Iterator[Any]]) -> int:
        """Bytes of tensors at the most, from building until the warm-up is over."""
        return _peak(begin, max(1, self.warm_up))

    def rows(self, way: str) -> list[Row]:
        """Time and memory of one method."""
        settings = [*WAYS[way], *_LIKE_ITS_EXAMPLE.get(way, [])]
        most = self.peak(lambda: self.ours(settings))
        theirs = self.peak(lambda: self.example(way))
        ours, example = self.ours(settings), self.example(way)
        for _ in range(self.warm_up):
            next(ours), next(example)
        times = [(next(ours), next(example)) for _ in range(self.pairs)]
        step = 1000 * statistics.median(mine for mine, _ in times)
        ratio = statistics.median(mine / other for mine, other in times)
        floor = _MEMORY_FLOORS.get(way, 1.0)
        return [
            _row(f"{way}: a step / diffusers' example", ratio, _NOISE, f"{step:.0f} ms"),
            _row(f"{way}: memory / diffusers' example", most / theirs, floor, _mib(most, theirs)),
        ]

    def aesthetic_rows(self) -> list[Row]:
        """Personalising a prompt: ours holds the text tower, the extension two whole CLIPs."""
        prompt, target = f"a {SPECIES[0]} singing", torch.randn(1, 64, generator=torch.manual_seed(0))

        def ours() -> Callable[[], Any]:
            text, tokenizer = load_text(str(self.base))
            projection = torch.randn(64, text.config.hidden_size, generator=torch.manual_seed(1))
            text.requires_grad_(False)
            settings = AestheticSettings()
            return lambda: personalise(text, tokenizer, projection, target, [prompt], settings)

        def extension() -> Callable[[], Any]:
            peer = peers.AestheticGradients(self.base, _clip(self.base), target)
            return lambda: peer(prompt)

        most, theirs = (self.peak(lambda make=make: _again(make())) for make in (ours, extension))
        pair = paired(ours(), extension(), repeats=self.pairs, warm_up=min(1, self.warm_up))
        note = f"{1000 * pair.ours_s:.0f} ms for 5 steps"
        what = "aesthetic gradients: a prompt / the web UI's extension"
        memory = "aesthetic gradients: memory / the web UI's extension"
        return [
            _row(what, 1 / pair.speedup, _NOISE, note),
            _row(memory, most / theirs, 0.95, _mib(most, theirs)),
        ]

    def cached_text_row(self) -> Row:
        """A step of `full` that knows its captions' encodings, beside one that encodes them every time."""
        known, fresh = self.ours(WAYS["full"]), self.ours(WAYS["full"])
        for _ in range(max(1, self.warm_up)):  # the method is there once its first step is
            next(known), next(fresh)
        forgetful = self.method  # of the steps that began last
        forgetful.caches.use_disk = False
        ratios = []
        for _ in range(self.pairs):
            one = next(known)
            forgetful.caches.forget()
            ratios.append(one / next(fresh))
        note = "a text encoder of 2 layers; the larger it is, the more it saves"
        what = "full: a step with cached text / encoding it every time"
        return _row(what, statistics.median(ratios), 1.0, note)

    def adversary_row(self) -> Row:
        """A step of the autoencoder with its adversary, which teaches from the start, beside one without."""
        plain, judged = (self.ours([*WAYS["autoencoder"], *more]) for more in ([], [ADVERSARY]))
        for _ in range(self.warm_up):
            next(plain), next(judged)
        times = [(next(judged), next(plain)) for _ in range(self.pairs)]
        ratio = statistics.median(mine / other for mine, other in times)
        note = f"{1000 * statistics.median(mine for mine, _ in times):.0f} ms"
        return _row("autoencoder: a step with the adversary / without", ratio, _WITH_ADVERSARY, note)


def _row(what: str, ratio: float, floor: float, note: str) -> Row:
    return Row("methods", what, ratio, floor, higher_is_better=False, note=note)


def _again(call: Callable[[], Any]) -> Iterator[Any]:
    while True:
        yield call()


_settled: list[weakref.ref[torch.Tensor]] = []  # tensors among what is frozen


def _settle() -> None:
    """What is there now need not be looked through again: the libraries have a million objects."""
    gc.collect()
    _settled[:] = [one for one in _settled if one() is not None]
    _settled.extend(weakref.ref(one) for one in gc.get_objects() if issubclass(type(one), torch.Tensor))
    gc.freeze()


def _hold_settled(live: LiveTensors) -> None:
    for one in _settled:
        if (tensor := one()) is not None:
            live.hold(tensor)


def _peak(begin: Callable[[], Iterator[Any]], count: int) -> int:
    """Bytes of tensors at the most, from building until so many steps are done."""
    _settle()
    live = LiveTensors()
    _hold_settled(live)  # what is there already is not of this side
    before = live.bytes
    live.restart_peak()
    with live:
        steps = begin()
        next(steps)
        live.hold_all()
        for _ in islice(steps, count - 1):
            live.hold_all()
    most = live.peak_bytes - before
    del steps
    gc.collect()
    return most


def _mib(ours: int, theirs: int) -> str:
    return f"{ours / 2**20:.1f} / {theirs / 2**20:.1f} MiB of tensors"


def _clip(base: Path) -> Any:
    """A CLIP around the base model's text encoder, its towers in the proportions of ViT-L/14's (1 : 2.5)."""
    from transformers import CLIPConfig, CLIPModel

    text, _ = load_text(str(base))
    own = text.config.to_dict()
    vision = {"hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 64, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=own, vision_config=vision, projection_dim=64))
    model.text_model.load_state_dict(
        text.text_model.state_dict() if hasattr(text, "text_model") else text.state_dict()
    )
    return model


def _caption(number: int) -> str:
    return f"a {SPECIES[number % len(SPECIES)]} singing"


def _pictures(codec: SpectrogramCodec, samples: int) -> np.ndarray:
    """uint8 [n, 1, bands, frames]: a band for each species over noise."""
    draw = np.random.default_rng(0)
    made = draw.integers(0, 40, (samples, 1, codec.bands, codec.frames), dtype=np.uint8)
    for number in range(samples):
        low = codec.bands * (number % len(SPECIES) + 1) // (len(SPECIES) + 2)
        made[number, :, low : low + codec.bands // 10] += 150
    return made


def _shards(folder: Path, codec: SpectrogramCodec, pictures: np.ndarray) -> ShardIndex:
    folder.mkdir(parents=True)
    write_json(folder / "codec.json", codec.to_json())
    with ShardWriter(folder / "train-000000.tar") as writer:
        for number, picture in enumerate(pictures):
            species = SPECIES[number % len(SPECIES)]
            facts = {"key": f"{number:04d}", "species": [species], "captions": [_caption(number)]}
            facts |= {"recording_id": str(number), "licence": "CC0", "recordist": "", "synthetic": True}
            writer.write(f"{number:04d}", {"npy": picture, "json": facts})
    return ShardIndex.open(folder)
