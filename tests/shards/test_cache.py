"""What is kept beside shards: found again for the same data only, whole or not at all."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from birdsd.errors import BadValue, Damaged, UserError
from birdsd.shards.cache import LatentShards, TextShards, cache_folder
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from tests.support.errors import refuses
from tests.support.shard_makers import foreign_set, sample_members, tar_of


def latents(count: int, value: float = 1.0) -> Iterator[np.ndarray]:
    return (np.full((8, 2, 3), value * n, np.float32) for n in range(count))


def fork(work: Callable[[], None]) -> int:
    """The exit status of a process of its own that does it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def index(tmp_path: Path) -> ShardIndex:
    return ShardIndex.open(foreign_set(tmp_path, 2, 5))


def kept(index: ShardIndex, key: str = "vae") -> LatentShards:
    return LatentShards(index, cache_folder(index), key)


def fill(cache: LatentShards) -> None:
    for shard in cache.missing("train"):
        cache.write(shard, latents(5), {})


def test_latents_have_the_keys_and_the_order_of_their_shard(index: ShardIndex) -> None:
    cache = kept(index)
    assert cache.open("train") is None and len(cache.missing("train")) == 2
    fill(cache)
    stored = cache.open("train")
    assert stored is not None and len(stored) == 10 and stored[7].dtype == np.float16
    assert all((stored[number] == number % 5).all() for number in range(10))
    for shard in index.shards("train"):
        with tarfile.open(cache.folder / shard.name) as tar:  # any reader of WebDatasets pairs them by key
            assert [name.split(".")[0] for name in tar.getnames()] == list(index.table(shard).keys)
    assert ShardIndex.open(index.folder).inventory() == index.inventory()  # the cache is not taken for shards


def test_only_what_changed_is_made_again(index: ShardIndex) -> None:
    fill(kept(index))
    assert kept(index, "other").open("train") is None
    second = index.shards("train")[1]
    tar_of(index.path(second), [m for i in range(5) for m in sample_members(f"other{i}", i)])
    changed = ShardIndex.open(index.folder)
    cache = kept(changed)
    assert [shard.name for shard in cache.missing("train")] == [second.name] and cache.open("train") is None
    fill(cache)
    assert cache.open("train") is not None


@pytest.mark.parametrize("count", [4, 6])
def test_the_wrong_number_leaves_nothing(index: ShardIndex, count: int) -> None:
    cache = kept(index)
    with pytest.raises(ValueError, match="argument"):
        cache.write(cache.missing("train")[0], latents(count), {})
    assert [path.name for path in cache.folder.iterdir()] == ["about.json"]


def test_a_failure_half_way_leaves_what_was_whole(index: ShardIndex) -> None:
    cache = kept(index)
    first, second = cache.missing("train")
    cache.write(first, latents(5), {})

    def fails() -> Iterator[np.ndarray]:
        yield from latents(3)
        raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="power"):
        cache.write(second, fails(), {})
    assert cache.missing("train") == [second]
    assert not [path for path in cache.folder.iterdir() if path.name.startswith(".writing")]


def test_a_truncated_shard_is_made_again_and_a_damaged_one_is_named(index: ShardIndex) -> None:
    cache = kept(index)
    fill(cache)
    shard = index.shards("train")[0]
    path = cache.folder / shard.name
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    assert cache.missing("train") == [shard]
    at = data.index(np.full((8, 2, 3), 2, "<f2").tobytes())
    path.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    stored = cache.open("train")
    assert stored is not None and (stored[1] == 1).all()
    with refuses(("latents-vae", "train-000000.tar: s0_2"), kind=Damaged):
        stored[2]


def test_what_float16_cannot_hold_is_refused(index: ShardIndex) -> None:
    cache = kept(index)
    with refuses("float16", kind=BadValue):
        cache.write(cache.missing("train")[0], latents(5, 1e5), {})


def test_keys_of_others_that_ours_may_not_be(tmp_path: Path) -> None:
    """`tar cf x.tar ./*` writes ./0001.npy; the same key may come twice, though not in a row."""
    members = [(f"./{name}", data) for i in (0, 1, 0) for name, data in sample_members(f"clip{i}", i)]
    tar_of(tmp_path / "train-000000.tar", members)
    index = ShardIndex.open(tmp_path)
    cache = kept(index)
    cache.write(cache.missing("train")[0], latents(3), {})
    stored = cache.open("train")
    assert stored is not None and [stored[n].max() for n in range(3)] == [0, 1, 2]
    assert len(ShardReader(index, "train")) == 3


def test_elsewhere_sets_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    sets = [ShardIndex.open(foreign_set(tmp_path / side / "shards", 1, 5)) for side in "ab"]
    folders = [cache_folder(one, str(tmp_path / "caches")) for one in sets]
    assert folders[0] != folders[1] and all(folder.parent == tmp_path / "caches" for folder in folders)


def test_a_folder_that_cannot_be_written_says_what_to_do(index: ShardIndex) -> None:
    (index.folder / "cache").write_text("in the way")
    cache = kept(index)
    with refuses(str(index.folder / "cache"), "machine.cache_folder=FOLDER", kind=UserError):
        cache.write(cache.missing("train")[0], latents(5), {})


def test_two_writers_leave_the_first_ones_shard(index: ShardIndex) -> None:
    """On two GPUs the last bits differ: a tar of one beside the index of the other would read as damaged."""
    cache, other = kept(index), kept(index)
    shard = index.shards("train")[0]

    def slower() -> Iterator[np.ndarray]:
        yield from latents(5)
        assert fork(lambda: other.write(shard, latents(5, 2.0), {})) == 0

    cache.write(shard, slower(), {})
    cache.write(index.shards("train")[1], latents(5), {})
    stored = cache.open("train")
    assert stored is not None and all((stored[n] == 2 * n).all() for n in range(5))


# -- texts --------------------------------------------------------------------------------------------


def texts(first: int, count: int) -> list[tuple[str, np.ndarray]]:
    return [(f"text {n}", np.array([1, n, 2])) for n in range(first, first + count)]


def states(some: list[tuple[str, np.ndarray]]) -> Iterator[np.ndarray]:
    return (np.full((3, 4), ids[1], np.float32) for _, ids in some)


def test_texts_are_found_by_their_tokens_whoever_wrote_them(tmp_path: Path) -> None:
    mine, other = TextShards(tmp_path, "encoder"), TextShards(tmp_path, "encoder")
    assert len(mine) == 0 and mine.get(np.array([1, 0, 2])) is None
    mine.write(texts(0, 3), states(texts(0, 3)), {})
    other.write(texts(2, 3), states(texts(2, 3)), {})  # one of them twice
    mine.refresh()
    assert len(mine) == 5 and np.array([1, 4, 2]) in mine and np.array([1, 5, 2]) not in mine
    assert all((mine.get(ids) == ids[1]).all() for _, ids in texts(0, 5))
    assert mine.get(np.array([1, 0, 2])).dtype == np.float16
    assert TextShards(tmp_path, "another").get(np.array([1, 0, 2])) is None


def test_a_mark_holds_only_while_the_texts_are_there(tmp_path: Path) -> None:
    cache = TextShards(tmp_path, "encoder")
    cache.write(texts(0, 3), states(texts(0, 3)), {})
    assert not cache.is_complete("captions")
    cache.set_complete("captions")
    assert cache.is_complete("captions") and not cache.is_complete("others")
    next(cache.folder.glob("text-*.tar")).unlink()
    cache.refresh()
    assert not cache.is_complete("captions") and cache.get(np.array([1, 0, 2])) is None
