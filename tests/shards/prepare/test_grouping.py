"""Which members of a tar are one sample, and what is said of samples that lack something."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from birdsd.errors import NothingLeft
from birdsd.shards.checks import check_pictures, lacking, remarks
from birdsd.shards.index import ShardIndex
from birdsd.shards.inspect import describe, text
from birdsd.shards.reader import ShardReader
from birdsd.shards.storage.table import index_path, load_table
from birdsd.shards.storage.tarwalk import ShardError
from tests.support.errors import refuses
from tests.support.shard_makers import npy, sample_members, tar_of

Members = list[tuple[str, bytes]]


def read(folder: Path, members: Members) -> list[tuple[str, int, list[str]]]:
    """(key, value of the picture, captions) of every sample; each must be whole."""
    tar_of(folder / "train-0.tar", members)
    reader = ShardReader(ShardIndex.open(folder), "train")
    samples = reader.read_many(range(len(reader)))
    assert [s.problem for s in samples] == [""] * len(samples)
    return [(s.key, int(s.image.flat[0]), s.metadata["captions"]) for s in samples]


def parts(count: int, shape: tuple[int, ...] = (1, 4, 4)) -> Members:
    return [member for n in range(count) for member in sample_members(f"k{n}", n, shape)]


def whole(count: int) -> list[tuple[str, int, list[str]]]:
    return [(f"k{n}", n, [f"caption k{n}"]) for n in range(count)]


@pytest.mark.parametrize("order", ["pictures first", "captions first", "drawn", "one astray"])
@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 256, 512)])  # near each other, and too far for one read
def test_parts_that_stand_apart_are_one_sample(tmp_path: Path, order: str, shape: tuple[int, ...]) -> None:
    members = parts(5, shape)
    if order == "pictures first":
        members.sort(key=lambda member: member[0].endswith("json"))
    elif order == "captions first":
        members.sort(key=lambda member: member[0].endswith("npy"))
    elif order == "drawn":
        members = [members[int(n)] for n in np.random.default_rng(3).permutation(len(members))]
    else:
        members = [*members[1:], members[0]]
    found = read(tmp_path, members)
    assert sorted(found) == whole(5)
    first_seen = list(dict.fromkeys(name.split(".")[0] for name, _ in members))
    assert [key for key, _, _ in found] == first_seen


def test_a_key_that_comes_again_as_a_whole_sample_is_another(tmp_path: Path) -> None:
    """Two numberings in one tar, as where tars were appended: what stands together belongs together."""
    again = [(name, npy(np.full((1, 4, 4), 90 + n, np.uint8)) if name.endswith("npy") else data)
             for n, (name, data) in enumerate(parts(3))]  # fmt: skip
    assert read(tmp_path, [*parts(3), *again]) == [
        *whole(3), ("k0", 90, ["caption k0"]), ("k1", 92, ["caption k1"]), ("k2", 94, ["caption k2"])
    ]  # fmt: skip


def test_another_picture_with_its_own_caption_is_another_sample(tmp_path: Path) -> None:
    other = [("k0.image.npy", npy(np.full((1, 4, 4), 77, np.uint8))), ("k0.txt", b"the other")]
    assert read(tmp_path, [*parts(2), *other]) == [*whole(2), ("k0", 77, ["the other"])]


@pytest.mark.parametrize("turns", [2, 3])
def test_what_can_be_paired_in_several_ways_is_refused(tmp_path: Path, turns: int) -> None:
    apart = sorted(parts(3), key=lambda member: member[0].endswith("json"))
    tar_of(tmp_path / "train-0.tar", apart * turns)
    with refuses(("train-0.tar", "'k0'", f" {2 * turns} places"), "sort the tar", kind=ShardError):
        ShardIndex.open(tmp_path)


def test_the_parts_are_found_by_suffix_in_any_case_and_by_base_name(tmp_path: Path) -> None:
    picture, facts = npy(np.full((1, 4, 4), 5, np.uint8)), b'{"caption": "a wren"}'
    members = [
        ("site.1/a.NPY", picture), ("site.1/._a.npy", b"resource fork"), ("site.1/.DS_Store", b"x"),
        ("site.1/a.JSON", facts), ("./b.npy", picture), ("__MACOSX/._b.npy", b"x"), ("./b.json", facts),
    ]  # fmt: skip
    assert read(tmp_path, members) == [("site.1/a", 5, ["a wren"]), ("./b", 5, ["a wren"])]


def test_an_index_that_grouped_otherwise_is_made_anew(tmp_path: Path) -> None:
    members = sorted(parts(3), key=lambda member: member[0].endswith("json"))
    tar = tar_of(tmp_path / "train-0.tar", members)
    ShardIndex.open(tmp_path)
    told = json.loads(index_path(tar).read_text())
    told["summary"], told["keys"] = (
        {},
        [*told["keys"], "k0", "k1", "k2"],
    )  # as before parts were brought together
    for part in told["parts"].values():
        part["offset"], part["size"] = part["offset"] * 2, part["size"] * 2
    index_path(tar).write_text(json.dumps(told))
    assert len(load_table(index_path(tar))) == 6
    assert ShardIndex.open(tmp_path).count("train") == 3


# -- what samples lack ------------------------------------------------------------------------------------


def test_samples_without_a_picture_or_a_caption_are_counted(tmp_path: Path) -> None:
    alone = [("x.npy", npy(np.zeros((1, 4, 4), np.uint8))), ("y.json", b"{}"), ("z.json", b"{}")]
    tar_of(tmp_path / "train-0.tar", [*parts(3), *alone])
    index = ShardIndex.open(tmp_path)
    assert {(one.part, one.count, one.samples, one.example) for one in lacking(index)} == {
        ("image", 2, 6, "y"), ("caption", 1, 6, "x")
    }  # fmt: skip
    said = [str(one) for one in lacking(index)]
    assert list(remarks(index))[:2] == said and "2 of 6 " in said[0] and "'x'" in said[1]
    facts = describe(tmp_path, verify=True)
    assert facts["without_caption"] == 3 and len(facts["damaged"]) == 2  # y and z hold metadata without words
    page = text(facts)
    assert said[0] in page and "3 samples " in page
    check_pictures(index)  # most can be read


def test_a_set_of_our_own_lacks_nothing(prepared: Path) -> None:
    index = ShardIndex.open(prepared)
    assert index.is_own and lacking(index) == [] and "lacking" not in describe(prepared)


@pytest.mark.parametrize(
    ("name", "better"),
    [("XC1. Track 2.0.npy", "XC1_ track 2_0.npy"), ("rec/2024.06.01.png", "rec/2024_06_01.png")],
)
def test_a_name_with_dots_is_told_where_its_key_ends(tmp_path: Path, name: str, better: str) -> None:
    tar_of(tmp_path / "train-0.tar", [(name, npy(np.zeros((1, 4, 4), np.uint8)))])
    with refuses(("train-0.tar", "first dot", better), kind=NothingLeft):
        check_pictures(ShardIndex.open(tmp_path))
    facts = describe(tmp_path, verify=True)
    assert better in facts["damaged"][0] and "first dot" in text(facts)


def test_parts_of_another_kind_are_named(tmp_path: Path) -> None:
    tar_of(tmp_path / "train-0.tar", [("a.flac", b"fLaC"), ("a.json", b"{}")])
    with refuses(("train-0.tar", "none of the parts that are read", ".flac, .json"), kind=NothingLeft):
        check_pictures(ShardIndex.open(tmp_path))
