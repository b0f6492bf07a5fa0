"""Reading by number, and what happens to a sample that cannot be decoded."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from birdsd.errors import UnknownName
from birdsd.shards.index import ShardIndex
from birdsd.shards.prefetch import Prefetcher
from birdsd.shards.reader import ShardReader
from birdsd.shards.storage.bytes import ShardBytes
from birdsd.shards.storage.tarwalk import ShardError
from tests.support.errors import refuses
from tests.support.shard_makers import foreign_set, npy, sample_members, tar_of


def test_by_number_in_any_order(tmp_path: Path) -> None:
    reader = ShardReader(ShardIndex.open(foreign_set(tmp_path, 4, 6)), "train")
    numbers = np.random.default_rng(0).permutation(len(reader))
    for number, sample in zip(numbers, reader.read_many(numbers), strict=True):
        assert sample.key == f"s{number // 6}_{number % 6}" and sample.weight == 1
        assert (sample.image == number).all() and sample.image.flags.writeable
        assert sample.metadata["species"] == [f"bird {number % 3}"]
    with pytest.raises(IndexError):
        reader.read(len(reader))
    with pytest.raises(IndexError):
        reader.read(-1)


def test_an_unknown_split_names_those_there_are(tmp_path: Path) -> None:
    with refuses("'trian'", "'train'", kind=UnknownName):
        ShardReader(ShardIndex.open(foreign_set(tmp_path)), "trian")


def test_parts_that_are_not_wanted_are_not_read(tmp_path: Path) -> None:
    index = ShardIndex.open(foreign_set(tmp_path))
    assert ShardReader(index, "train", want=("metadata",)).read(0).image is None
    only_image = ShardReader(index, "train", want=("image",)).read(0)
    nothing = {"captions": [], "species": [], "species_stated": False}
    assert only_image.image is not None and only_image.metadata == nothing


BAD = {
    "text": b"this is text",
    "empty": b"",
    "pickled": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    + b" " * 60
    + b"\n.",
    "short": npy(np.zeros((1, 4, 4), np.uint8))[:-3],
    "long": npy(np.zeros((1, 4, 4), np.uint8)) + b"x",
    "header": b"\x93NUMPY\x01\x00\xff\xff{'descr'",
    "hostile header": b"\x93NUMPY\x01\x00\x26\x00{'descr': __import__('os').getpid()}   \n",
}


@pytest.mark.parametrize("kind", list(BAD))
def test_an_undecodable_sample_has_no_weight_and_a_name(tmp_path: Path, kind: str) -> None:
    members = [
        *sample_members("good", 1),
        ("bad.npy", BAD[kind]),
        ("bad.json", b"{}"),
        *sample_members("also", 2),
    ]
    tar_of(tmp_path / "train-0.tar", members)
    good, bad, also = ShardReader(ShardIndex.open(tmp_path), "train").read_many(range(3))
    assert (good.weight, bad.weight, also.weight) == (1, 0, 1)
    assert bad.image is None and "train-0.tar: bad: " in bad.problem


def test_broken_pictures_and_metadata(tmp_path: Path) -> None:
    tar_of(
        tmp_path / "0.tar",
        [
            ("a.png", b"\x89PNG\r\n\x1a\n broken"),
            ("b.npy", npy(np.zeros((1, 2, 2), np.uint8))),
            ("b.json", b"{broken"),
            ("c.json", b"{}"),
        ],
    )
    a, b, c = ShardReader(ShardIndex.open(tmp_path), "train").read_many(range(3))
    assert a.weight == 0 and "picture" in a.problem
    assert b.metadata["captions"] == [] and b.weight == 0 and "metadata" in b.problem
    assert c.weight == 0 and c.problem


@pytest.mark.parametrize("mapped", [True, False])
def test_a_shard_that_shrinks_under_the_reader_costs_samples_not_the_process(
    tmp_path: Path, mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("birdsd.shards.storage.bytes.is_local", lambda folder: mapped)
    tar = tar_of(tmp_path / "0.tar", [m for i in range(9) for m in sample_members(f"k{i}", i, (1, 64, 64))])
    reader = ShardReader(ShardIndex.open(tmp_path), "train")
    assert reader.read(8).weight == 1
    os.truncate(tar, tar.stat().st_size // 2)
    samples = reader.read_many(range(9))
    assert samples[0].weight == 1 and (samples[3].image == 3).all()
    assert samples[8].weight == 0 and "ends before" in samples[8].problem


def test_both_ways_to_bytes_agree(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(300_000))
    mapped, read = ShardBytes(path, mapped=True), ShardBytes(path, mapped=False)
    for first, last in ((0, 1), (5, 4100), (100, 299_999), (299_999, 300_000)):
        assert np.array_equal(mapped.read(first, last), read.read(first, last))
        assert mapped.read(first, last).tobytes() == path.read_bytes()[first:last]
    for way in (mapped, read):
        with pytest.raises(EOFError):
            way.read(299_990, 300_001)


def test_a_flipped_byte_in_a_copied_shard_is_noticed(prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder, copy_function=shutil.copy)  # new times: checksums are compared
    index = ShardIndex.open(folder)
    shard = index.shards("train")[0]
    part = index.table(shard).parts["npy"]
    position = int(part.offset[1] + part.size[1]) - 7
    with open(folder / shard.name, "r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)[0]
        stream.seek(position)
        stream.write(bytes([byte ^ 1]))
    samples = ShardReader(ShardIndex.open(folder), "train").read_many(range(3))
    assert [s.weight for s in samples] == [1, 0, 1]
    assert samples[1].key in samples[1].problem and " .npy " in samples[1].problem
    found = list(ShardIndex.open(folder).verify())
    assert len(found) == 1 and samples[1].key in found[0]
    assert list(ShardIndex.open(prepared).verify()) == []


def test_a_changed_shard_of_our_own_is_refused_with_what_changed(prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder)
    name = ShardIndex.open(folder).shards("train")[1].name
    size = (folder / name).stat().st_size
    os.truncate(folder / name, size - 512)
    with refuses((name, f"{size - 512} bytes", str(size)), kind=ShardError):
        ShardIndex.open(folder)
    (folder / name).unlink()
    with refuses(f"{name} is missing", kind=ShardError):
        ShardIndex.open(folder)


def test_a_swapped_shard_of_the_same_size_is_refused(prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder)
    index = ShardIndex.open(folder)
    by_size: dict[int, list[str]] = {}
    for shard in index.shards("train"):
        by_size.setdefault(shard.size, []).append(shard.name)
    one, other = next(names for names in by_size.values() if len(names) > 1)[:2]
    for suffix in (".tar", ".index.json"):
        shutil.copy2(folder / other.replace(".tar", suffix), folder / one.replace(".tar", suffix))
    reader = ShardReader(ShardIndex.open(folder), "train")
    with refuses((one, "other samples"), kind=ShardError):
        reader.read_many(range(len(reader)))


def test_threads_may_share_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birdsd.shards.reader._OPEN_FILES", 2)  # sources come and go all the time
    monkeypatch.setattr("birdsd.shards.index._TABLES_IN_MEMORY", 2)
    reader = ShardReader(ShardIndex.open(foreign_set(tmp_path, 8, 5)), "train")
    wrong: list[str] = []

    def work(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 40, 300):
            sample = reader.read(int(number))
            if sample.weight != 1 or not (sample.image == number).all():
                wrong.append(sample.key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_prefetcher_keeps_the_order_and_its_bound(threads: int) -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item * item

    with Prefetcher(work, iter(range(10**9)), threads=threads, depth=4) as results:
        taken = []
        for result in results:
            taken.append(result)
            assert len(begun) <= len(taken) + 4
            if len(taken) == 50:
                break
    assert taken == [n * n for n in range(50)]


def test_the_prefetcher_hands_errors_on_in_their_place() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("third")
        return item

    seen = []
    with pytest.raises(ValueError, match="third"), Prefetcher(work, range(10), threads=2, depth=4) as results:
        for result in results:
            seen.append(result)
    assert seen == [0, 1, 2]
