"""Tones of two birds that do not exist, their shards, and a classifier that learns them in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from birdsd.diffusion.methods import make_method
from birdsd.files import write_json
from birdsd.shards.index import ShardIndex
from birdsd.shards.storage.writer import ShardWriter
from tests.support.tiny import CODEC, train_config

HIGH, LOW = "High Bird", "Low Bird"
PITCH_HZ = {HIGH: 5000.0, LOW: 1500.0}
OPTIM = {
    "learning_rate": 1e-2, "global_batch": 8, "total_samples": 240, "warmup_samples": 24, "ema_decay": 0.8,
}  # fmt: skip


def song(
    species: tuple[str, ...], seed: int, seconds: float = CODEC.clip_s, rate_hz: int = 16000
) -> np.ndarray:
    """float32 [samples]: each bird's tone over quiet noise; noise alone without any."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    sound = 0.003 * draw.standard_normal(len(time))
    for name in species:
        pitch = PITCH_HZ[name] * draw.uniform(0.95, 1.05)
        sound += (
            0.2
            * np.sin(2 * np.pi * pitch * time)
            * (np.sin(2 * np.pi * 6 * time + draw.uniform(0, 6)) > -0.5)
        )
    return sound.astype(np.float32)


EVERY = ((HIGH,), (LOW,), (), (HIGH, LOW))


def song_shards(
    folder: Path, kinds=EVERY, splits=(("train", 24), ("validation", 12)), strong: bool = False, called=None
) -> Path:
    """Clips of `kinds` in turn; with `strong` their labels say that the birds sing in the second half.
    `called`: other names for them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "codec.json", CODEC.to_json())
    for at, (split, count) in enumerate(splits):
        with ShardWriter(folder / f"{split}-000000.tar") as writer:
            for number in range(count):
                species, seed = kinds[number % len(kinds)], 1000 * at + number
                sound = song(species, seed)
                if strong:
                    half = len(sound) // 2
                    sound[:half] = song((), seed, CODEC.clip_s / 2)[:half]
                species = tuple((called or {}).get(name, name) for name in species)
                times = {"start_s": CODEC.clip_s / 2, "end_s": CODEC.clip_s} if strong else {}
                facts = {
                    "key": f"{split}{number}", "recording_id": f"{split}{number}", "species": list(species),
                    "labels": [{"label": name, **times} for name in species], "captions": ["a bird"],
                    "licence": "CC0", "recordist": "", "synthetic": False,
                }  # fmt: skip
                writer.write(f"{split}{number:04d}", {"npy": CODEC.encode(sound, 16000), "json": facts})
    return folder


def configured(**settings):
    """A small classifier's training; settings of `optim` and `save` by their names."""
    optim = {name: settings.pop(name) for name in list(settings) if name in OPTIM}
    saved = ("validate_every_samples", "every_samples")
    save = {name: settings.pop(name) for name in saved if name in settings}
    config = train_config("classifier", **{"width": 8, **settings})
    for name, value in {**OPTIM, **optim}.items():
        setattr(config.optim, name, value)
    config.save.every_samples, config.save.validate_every_samples = 1000, 0
    for name, value in save.items():
        setattr(config.save, name, value)
    config.machine.device, config.machine.threads = "cpu", 1
    return config


def taught(shards: Path, run: Path, should_stop=lambda position: False, **settings) -> Path:
    """The run's folder, trained to its end (or until `should_stop` says so)."""
    from birdsd.training.loop import train

    config, index, reached = configured(**settings), ShardIndex.open(shards), [0]
    train(
        config, make_method(config, index), index, run, lambda: should_stop(reached[-1]),
        beat=lambda pulse: reached.append(pulse.position),
    )  # fmt: skip
    return run
