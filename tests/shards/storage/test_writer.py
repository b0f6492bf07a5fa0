"""Writing one shard: readable by others, byte for byte repeatable, all or nothing."""

from __future__ import annotations

import errno
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from birdsd.errors import DiskFull
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from birdsd.shards.storage import writer
from birdsd.shards.storage.table import index_foreign, load_table
from birdsd.shards.storage.writer import ShardWriter
from tests.support.errors import refuses

KEYS = ["plain", "鳥-" + "x" * 120, "with space", "-dash"]


def write(path: Path, keys: list[str] = KEYS) -> None:
    with ShardWriter(path) as shard:
        for number, key in enumerate(keys):
            shard.write(
                key, {"npy": np.full((1, 3, 5), number, np.uint8), "json": {"species": ["é"], "n": number}}
            )


def test_our_index_is_what_a_walk_finds(tmp_path: Path) -> None:
    write(tmp_path / "train-000000.tar")
    ours, walked = (
        load_table(tmp_path / "train-000000.index.json"),
        index_foreign(tmp_path / "train-000000.tar"),
    )
    assert ours.keys == walked.keys == tuple(KEYS)
    for suffix in ("npy", "json"):
        assert np.array_equal(ours.parts[suffix].offset, walked.parts[suffix].offset)
        assert np.array_equal(ours.parts[suffix].size, walked.parts[suffix].size)
        assert ours.parts[suffix].crc32 is not None


def test_tarfile_and_webdataset_read_it(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    write(tmp_path / "train-000000.tar")
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        assert len(tar.getmembers()) == 2 * len(KEYS)
    samples = list(webdataset.WebDataset(str(tmp_path / "train-000000.tar"), shardshuffle=False).decode())
    assert [s["__key__"] for s in samples] == KEYS
    assert [int(s["npy"][0, 0, 0]) for s in samples] == list(range(len(KEYS)))
    assert samples[1]["json"] == {"species": ["é"], "n": 1}


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    write(tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize("key", ["", "a.b", "a/", "nul\0"])
def test_keys_that_would_be_read_differently_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="key"), ShardWriter(tmp_path / "a.tar") as shard:
        shard.write(key, {"npy": b""})
    assert list(tmp_path.iterdir()) == []


def test_a_key_stands_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="twice"):
        write(tmp_path / "a.tar", ["same", "same"])


class FullDisk(io.RawIOBase):
    """A file on a disk with room for `room` bytes."""

    def __init__(self, stream: io.BufferedWriter, room: int) -> None:
        self.stream, self.room = stream, room

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.stream.write(data)


@pytest.mark.parametrize("room", [0, 700, 2100, 9000])
def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path, room: int) -> None:
    path = tmp_path / "train-000000.tar"
    expected = refuses("train-000000.tar", kind=DiskFull)
    with expected, ShardWriter(path) as shard:
        shard._stream = FullDisk(shard._stream, room)  # type: ignore[assignment]
        for key in KEYS:
            shard.write(key, {"npy": np.zeros((1, 3, 5), np.uint8)})
    assert list(tmp_path.iterdir()) == []


def test_a_crash_before_the_index_leaves_no_finished_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train-000000.tar"
    write(path, ["old"])

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "make_table", crash)
    with pytest.raises(KeyboardInterrupt):
        write(path)
    assert not (tmp_path / "train-000000.index.json").exists()  # the old index does not vouch for the new tar
    assert ShardReader(ShardIndex.open(tmp_path), "train").read(3).key == "-dash"
