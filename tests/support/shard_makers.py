"""Small things that several tests of the shards build on."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np

from birdsd.schema import DataConfig
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.codec.codec import SpectrogramCodec

CODEC = SpectrogramCodec(
    name="test",
    rate_hz=16000,
    window_ms=16.0,
    hop_ms=8.0,
    n_fft=256,
    bands=64,
    fmin_hz=62.5,
    fmax_hz=8000.0,
    frames=64,
)


def data_config(recordings: Path, shards: Path, **changes: object) -> DataConfig:
    settings = {"name": "test", "recordings": str(recordings), "shards": str(shards), **changes}
    return DataConfig(**settings)


def tone(
    path: Path, seconds: float = 1.0, hz: float = 3000.0, rate_hz: int = 16000, level: float = 0.3
) -> Path:
    """A wav file with a tone that comes and goes, so that there is something to find."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    wave = level * np.sin(2 * np.pi * hz * time) * (np.sin(2 * np.pi * 1.5 * time) > 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, wave.astype(np.float32)[None], rate_hz)
    return path


def tone_folder(folder: Path, species: int = 2, recordings: int = 4, seconds: float = 1.0) -> Path:
    for name in range(species):
        for number in range(recordings):
            tone(
                folder / f"species_{name}" / f"r{name}_{number}.wav", seconds, 2000 + 700 * name + 40 * number
            )
    return folder


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def tar_of(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.GNU_FORMAT) -> Path:
    """A tar by the standard library, as another program would write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample_members(key: str, value: int = 0, shape: tuple[int, ...] = (1, 4, 4)) -> list[tuple[str, bytes]]:
    facts = {"captions": [f"caption {key}"], "species": [f"bird {value % 3}"], "recording_id": key}
    return [
        (f"{key}.npy", npy(np.full(shape, value % 256, np.uint8))),
        (f"{key}.json", json.dumps(facts).encode()),
    ]


def foreign_set(folder: Path, shards: int = 3, samples: int = 5) -> Path:
    for shard in range(shards):
        members = [m for s in range(samples) for m in sample_members(f"s{shard}_{s}", shard * samples + s)]
        tar_of(folder / f"train-{shard:06d}.tar", members)
    return folder
