"""Cached latents: used only for the data and the autoencoder that they were made from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from birdsd.errors import UserError
from birdsd.shards.index import ShardIndex
from birdsd.shards.latents import LatentCache
from tests.shards.makers import foreign_set, sample_members, tar_of


def latents(count: int, value: float = 1.0) -> Iterator[np.ndarray]:
    return (np.full((8, 2, 3), value * n, np.float32) for n in range(count))


def test_round_trip_and_staleness(tmp_path: Path) -> None:
    index = ShardIndex.open(foreign_set(tmp_path, 2, 5))
    cache = LatentCache(index, "train", "vae-one")
    assert cache.open() is None
    stored = cache.write(latents(10), progress=False)
    assert stored.shape == (10, 8, 2, 3) and stored.dtype == np.float16
    assert isinstance(stored, np.memmap) and not stored.flags.writeable and (stored[7] == 7).all()
    assert LatentCache(ShardIndex.open(tmp_path), "train", "vae-one").open() is not None
    assert LatentCache(index, "train", "vae-two").open() is None
    tar_of(tmp_path / "train-000001.tar", [m for i in range(5) for m in sample_members(f"other{i}", i)])
    changed = ShardIndex.open(tmp_path)
    assert changed.count("train") == 10 and LatentCache(changed, "train", "vae-one").open() is None


@pytest.mark.parametrize("count", [9, 11])
def test_the_wrong_number_leaves_nothing(tmp_path: Path, count: int) -> None:
    cache = LatentCache(ShardIndex.open(foreign_set(tmp_path, 2, 5)), "train", "v")
    with pytest.raises(ValueError, match=f"{count} latents"):
        cache.write(latents(count), progress=False)
    assert cache.open() is None and not list(cache.folder.iterdir())


def test_a_truncated_file_is_not_used(tmp_path: Path) -> None:
    cache = LatentCache(ShardIndex.open(foreign_set(tmp_path, 2, 5)), "train", "v")
    cache.write(latents(10), progress=False)
    data = cache.path.read_bytes()
    cache.path.write_bytes(data[:-100])
    assert cache.open() is None


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    cache = LatentCache(ShardIndex.open(foreign_set(tmp_path, 2, 5)), "train", "v")
    with pytest.raises(UserError, match="float16"):
        cache.write(latents(10, 1e5), progress=False)


def test_a_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    index = ShardIndex.open(foreign_set(tmp_path / "shards", 1, 2))
    assert LatentCache(index, "train", "../../x").path.resolve().is_relative_to(tmp_path / "shards")
