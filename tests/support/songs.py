"""Three species that a deaf man could tell apart, as shards; a codec small enough for quick tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from birdsd.files import write_json
from birdsd.randomness import generator
from birdsd.shards.index import ShardIndex
from birdsd.shards.storage.writer import ShardWriter
from birdsd.sound.codec.codec import SpectrogramCodec

SPECIES = ("Synthetic High", "Synthetic Low", "Synthetic Trill")


@pytest.fixture(scope="session")
def codec() -> SpectrogramCodec:
    return SpectrogramCodec(name="test", rate_hz=16000, bands=64, fmin_hz=200, fmax_hz=8000, frames=128)


def song(species: str, individual: int, take: int, codec: SpectrogramCodec) -> np.ndarray:
    """A song, float32 [1, samples]; recordings of one individual differ by their take alone."""
    draw = generator("test song", species, individual)
    late = generator("test take", species, individual, take)
    time = np.arange(codec.samples_per_clip) / codec.rate_hz
    pitch = {"High": 6000.0, "Low": 1500.0, "Trill": 3000.0}[species.split()[1]] * draw.uniform(0.85, 1.15)
    envelope = np.exp(-(((time - late.uniform(0.2, 0.3)) / draw.uniform(0.05, 0.12)) ** 2))
    if species.endswith("Trill"):
        envelope = envelope * (np.sin(2 * np.pi * draw.uniform(18, 30) * time) > 0)
    sound = 0.3 * envelope * np.sin(2 * np.pi * pitch * time + late.uniform(0, 6))
    return (sound + 0.002 * late.standard_normal(len(time)))[None].astype(np.float32)


def write_shards(folder: Path, codec: SpectrogramCodec, splits: dict[str, range]) -> ShardIndex:
    """Two clips of every individual; the individuals (recordings) of a split are those of its range."""
    for split, individuals in splits.items():
        with ShardWriter(folder / f"{split}-000000.tar") as writer:
            for species in SPECIES:
                for individual in individuals:
                    for take in range(2):
                        metadata = {
                            "recording_id": f"{species} {individual}", "species": [species],
                            "captions": [f"a {species}"], "licence": "CC0", "recordist": "birdsd",
                        }  # fmt: skip
                        image = codec.encode(song(species, individual, take, codec), codec.rate_hz)
                        key = f"{species.split()[1]}-{individual}-{take}"
                        writer.write(key, {"npy": image, "json": metadata})
    write_json(folder / "codec.json", codec.to_json())
    return ShardIndex.open(folder)


@pytest.fixture(scope="session")
def index(codec: SpectrogramCodec, tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    splits = {"train": range(8), "validation": range(8, 11), "test": range(11, 14)}
    return write_shards(tmp_path_factory.mktemp("shards"), codec, splits)
