"""Shards are read from the node's own disk where there is one, and else from where they were."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from birdsd.shards.storage import staging
from birdsd.shards.storage.staging import _folder, staged
from tests.support.toy import make_shards


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "shards")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch) -> Path:
    _folder.cache_clear()
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("BIRDSD_SCRATCH", str(folder))
    monkeypatch.setattr(staging, "_LEAVE_FREE", 0.0)  # however full the disk of these tests is
    return folder


def images(shards: Path) -> list[np.ndarray]:
    reader = ShardReader(ShardIndex.open(shards), "train")
    return [sample.image for sample in reader.read_many(range(len(reader)))]


def test_the_same_samples_come_from_the_copies(shards: Path, scratch: Path, monkeypatch) -> None:
    ours = images(shards)
    copies = sorted((scratch / f"birdsd-shards-{os.getuid()}").iterdir())
    assert [path.read_bytes() for path in copies].count(b"") == 0 and len(copies) == 3
    monkeypatch.delenv("BIRDSD_SCRATCH")
    assert all(np.array_equal(a, b) for a, b in zip(ours, images(shards), strict=True))
    # And it is the copy that is read: a byte changed there is seen.
    monkeypatch.setenv("BIRDSD_SCRATCH", str(scratch))
    shard = ShardIndex.open(shards).shards("train")[0]
    assert staged(shards / shard.name, shard.contents) in copies


def test_another_rank_at_work_on_a_copy_is_not_waited_for(shards: Path, scratch: Path) -> None:
    shard = ShardIndex.open(shards).shards("train")[0]
    copy = staged(shards / shard.name, shard.contents)
    copy.unlink()
    copy.with_name(f".{copy.name}.partial").touch()
    assert staged(shards / shard.name, shard.contents) == shards / shard.name


def test_a_changed_shard_gets_a_copy_of_its_own(shards: Path, scratch: Path) -> None:
    shard = ShardIndex.open(shards).shards("train")[0]
    path = shards / shard.name
    before = staged(path, shard.contents)
    os.utime(path, ns=(1, 1))
    assert staged(path, shard.contents) != before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_scratch_is_left_alone(shards: Path, scratch: Path, capsys) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(scratch)], check=True)
    try:
        shard = ShardIndex.open(shards).shards("train")[0]
        assert staged(shards / shard.name, shard.contents) == shards / shard.name
        assert all(image is not None for image in images(shards))
    finally:
        subprocess.run(["umount", "-l", str(scratch)], check=True)
    assert "no room" in capsys.readouterr().err


def test_a_folder_of_somebody_else_is_not_trusted(shards: Path, scratch: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (scratch / f"birdsd-shards-{os.getuid()}").symlink_to(elsewhere)
    shard = ShardIndex.open(shards).shards("train")[0]
    assert staged(shards / shard.name, shard.contents) == shards / shard.name
    assert not any(elsewhere.iterdir())
