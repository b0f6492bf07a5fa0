"""A classifier of your own: its training step beside a bare loop, `birdsd classify` beside a window loop.

The peer of `classify` is the loop that people write around librosa, and that BirdNET-Analyzer has around its
own network: for every window the file is opened, a window is read and resampled, its spectrogram taken by
librosa.feature.melspectrogram, and the network (the same one, one thread) given a batch of one. Ours is
`classify` with one process, tables and all.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import Row, Size, paired
from bench.loop import timed_steps
from bench.sounds import recording
from birdsd.config import compose
from birdsd.diffusion.classifiers.folder import Classifier, load_classifier
from birdsd.diffusion.methods import make_method
from birdsd.evaluation.classify.classify import ClassifySettings, classify
from birdsd.evaluation.classify.windows import Windows
from birdsd.files import write_json
from birdsd.shards.index import ShardIndex
from birdsd.shards.storage.writer import ShardWriter
from birdsd.sound.codec.codec import SpectrogramCodec
from birdsd.training.batches.batches import global_batches
from birdsd.training.devices.world import World

SAMPLES, SPECIES = 64, ("American Robin", "Black Phoebe", "Eurasian Wren", "House Sparrow")
OVERLAP = 0.5
_OFF = (
    "dropout",
    "shift_s",
    "equaliser_db",
    "pitch_shift",
    "time_stretch",
    "band_masks",
    "time_masks",
    "species_balance",
)


def run(size: Size) -> Iterator[Row]:
    """A row for the training step, and one for listening."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as name:
            yield from _rows(Path(name), size)
    finally:
        torch.set_num_threads(before)


def _rows(folder: Path, size: Size) -> Iterator[Row]:
    index = _shards(folder / "shards")
    config = compose(
        "train",
        [
            f"data.shards={index.folder}",
            "method=classifier",
            "machine=smoke",
            "machine.threads=1",
            # As before the preset had more kinds of augmentation: the row is about the loop.
            "method.width=24",
            "method.mixup=0.5",
            *(f"method.{kind}=0" for kind in _OFF),
        ],
    )
    config.optim.total_samples, config.optim.global_batch = 10**9, size.of(32, 32, 2)
    ours, bare = _our_steps(config, index, folder / "run"), _bare_steps(config, index)
    ratios = []
    pairs, warm_up = size.of((40, 4), (8, 2), (1, 0))
    for number, (mine, plain) in enumerate(islice(zip(ours, bare, strict=False), pairs + warm_up)):
        if number >= warm_up:
            ratios.append(mine / plain)
    ours.close(), bare.close()
    yield Row("classify", "training step vs the bare loop", statistics.median(ratios), 1.02, False)
    preset = compose("train", [f"data.shards={index.folder}", "method=classifier", "machine=smoke"])
    made = make_method(preset, index)  # the network that `birdsd run train method=classifier` makes
    torch.manual_seed(0)
    trained = made.export(made.build(torch.device("cpu"), torch.float32), folder / "export")
    seconds = size.of(600, 120, 6)  # long enough that loading the classifier counts little, as for a night
    path = recording(folder / "night" / "song.wav", seconds, 44100)
    classifier, rounds = load_classifier(trained), iter(range(1000))
    settings = ClassifySettings(OVERLAP, 0.9)

    def listen() -> None:
        classify([path], trained, folder / f"out{next(rounds)}", settings, processes=1, progress=False)

    pair = paired(
        listen, lambda: window_loop(classifier, path), repeats=size.of(5, 3, 1), warm_up=size.of(1, 1, 0)
    )
    count = Windows(classifier, OVERLAP).count(seconds)
    bare = paired(
        lambda: _bare(classifier, path, count), lambda: window_loop(classifier, path),
        repeats=size.of(5, 3, 1), warm_up=size.of(1, 1, 0),
    )  # fmt: skip
    note = f"{1000 * pair.ours_s / count:.1f} ms a window, {seconds / pair.ours_s:.0f}x real time on a core"
    note += f"; limit {bare.speedup:.1f}: reading, frames and the network, nothing else"
    yield Row("classify", "hours of sound vs a window loop in librosa", pair.speedup, 3.0, note=note)


def window_loop(classifier: Classifier, path: Path) -> list[np.ndarray]:
    """Scores of every window, one after the other."""
    import librosa

    codec, windows = classifier.codec, Windows(classifier, OVERLAP)
    with_bands: Any = codec
    count = windows.count(librosa.get_duration(path=path))
    scores = []
    for number in range(count):
        sound, _ = librosa.load(
            path, sr=codec.rate_hz, mono=True, offset=number * windows.step_s, duration=windows.window_s
        )
        sound = librosa.util.fix_length(sound, size=codec.samples_per_clip)
        power = librosa.feature.melspectrogram(
            y=sound, sr=codec.rate_hz, n_fft=with_bands.n_fft, hop_length=codec.hop, n_mels=codec.bands,
            fmin=codec.fmin_hz, fmax=codec.fmax_hz,
        )  # fmt: skip
        shown = np.ascontiguousarray(power[::-1, : codec.frames], np.float32)
        with torch.no_grad():
            logits = classifier.network(classifier.standard.levels(torch.from_numpy(shown)[None])).logits
        scores.append(torch.sigmoid(logits)[0].numpy())
    return scores


def _bare(classifier: Classifier, path: Path, count: int) -> None:
    """What nobody can leave out: decoding, resampling, each frame once, and the network; with birdsd's own,
    fastest parts."""
    for _ in Windows(classifier, OVERLAP).heard(path, 0, count):
        pass


def _our_steps(config: Any, index: ShardIndex, folder: Path) -> Any:
    from birdsd.training.loop import Trainer

    trainer = Trainer(
        config, make_method(config, index), index, folder, lambda: False, lambda event: None, World()
    )
    trainer.checkpointer = _NoSaves()  # type: ignore[assignment]
    parts, _ = trainer._build(None)
    batches = global_batches(trainer._maker(parts), trainer.plan, 0, trainer.total, threads=1, ahead=2)
    yield from timed_steps(trainer, parts, batches)


class _NoSaves:
    """Stands in for the checkpointer."""

    failed = False

    def prepare(self, engine: Any) -> None: ...


def _bare_steps(config: Any, index: ShardIndex) -> Any:
    """Seconds a step of the plainest loop that does the same with batches that lie ready-made."""
    from birdsd.shards.reader import ShardReader

    method, batch, optim = make_method(config, index), config.optim.global_batch, config.optim
    torch.manual_seed(0)
    parts = method.build(torch.device("cpu"), torch.float32)
    reader, ready = ShardReader(index, "train"), []
    for start in range(0, SAMPLES, batch):
        made = [method.make_example(parts, reader.read(k % SAMPLES), k) for k in range(start, start + batch)]
        ready.append({key: torch.stack([one[key] for one in made]) for key in made[0]})
    learner = parts.learner
    parameters = list(learner.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=optim.learning_rate, weight_decay=optim.weight_decay, fused=True
    )
    averages, step = [p.detach().clone() for p in parameters], 0
    while True:
        begin = time.perf_counter()
        with torch.no_grad():
            prepared = method.encode_batch(parts, ready[step % len(ready)])
        loss = learner(prepared).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, optim.gradient_clip, foreach=True)
        optimizer.step()
        torch._foreach_lerp_(averages, [p.detach() for p in parameters], 0.02)
        loss.item()
        step += 1
        yield time.perf_counter() - begin


def _shards(folder: Path) -> ShardIndex:
    codec = SpectrogramCodec.from_config(compose("prepare", ["codec=birdsong-tiny"]).codec)
    folder.mkdir(parents=True)
    write_json(folder / "codec.json", codec.to_json())
    draw = np.random.default_rng(0)
    with ShardWriter(folder / "train-000000.tar") as writer:
        for number in range(SAMPLES):
            image = draw.integers(0, 256, codec.image_shape, dtype=np.uint8)
            facts = {
                "key": f"{number}", "species": [SPECIES[number % 4]], "captions": [], "licence": "CC0",
                "recording_id": f"{number}", "recordist": "", "synthetic": True,
            }  # fmt: skip
            writer.write(f"{number:04d}", {"npy": image, "json": facts})
    return ShardIndex.open(folder)
