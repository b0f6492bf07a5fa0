"""Splits are by recording, stratified by species, and a function of the ids and the seed."""

from __future__ import annotations

from collections import Counter

import pytest

from birdsd.errors import BadValue, Mismatch, UserError
from birdsd.shards.prepare.splits import assign_splits


def some(counts: dict[str, int]) -> dict[str, list[str]]:
    return {f"{name}-{i}": [name] for name, count in counts.items() for i in range(count)}


def test_every_species_with_enough_recordings_is_in_every_split() -> None:
    species = some({"common": 50, "rare": 3, "pair": 2, "one": 1})
    chosen = assign_splits(species, 0.1, 0.1, seed=0)
    counts = Counter((species[r][0], split) for r, split in chosen.items())
    assert (counts["common", "train"], counts["common", "validation"], counts["common", "test"]) == (40, 5, 5)
    assert (counts["rare", "train"], counts["rare", "validation"], counts["rare", "test"]) == (1, 1, 1)
    assert counts["pair", "train"] == 2 and counts["one", "train"] == 1


def test_neither_the_order_of_the_recordings_nor_anything_but_the_seed_matters() -> None:
    species = some({"a": 20, "b": 20})
    backwards = dict(reversed(list(species.items())))
    assert assign_splits(species, 0.2, 0.2, 1) == assign_splits(backwards, 0.2, 0.2, 1)
    assert assign_splits(species, 0.2, 0.2, 1) != assign_splits(species, 0.2, 0.2, 2)


def test_recordings_of_several_species_count_for_each() -> None:
    species = {f"both-{i}": ["common", "rare"] for i in range(4)} | some({"common": 40})
    chosen = assign_splits(species, 0.25, 0.25, 0)
    rare = Counter(chosen[f"both-{i}"] for i in range(4))
    assert rare == {"train": 2, "validation": 1, "test": 1}
    assert Counter(chosen.values()) == {"train": 22, "validation": 11, "test": 11}


def test_recordings_without_a_bird_are_split_too() -> None:
    assert set(assign_splits({f"r{i}": [] for i in range(10)}, 0.2, 0.2, 0).values()) == {
        "train",
        "validation",
        "test",
    }


def test_no_fraction_no_split() -> None:
    assert set(assign_splits(some({"a": 30}), 0.0, 0.0, 0).values()) == {"train"}


@pytest.mark.parametrize(
    ("fractions", "kind"), [((-0.1, 0.1), BadValue), ((0.1, 1.0), BadValue), ((0.5, 0.5), Mismatch)]
)
def test_fractions_that_leave_nothing_are_refused(
    fractions: tuple[float, float], kind: type[UserError]
) -> None:
    with pytest.raises(kind):
        assign_splits(some({"a": 10}), *fractions, seed=0)


def test_what_belongs_together_goes_into_one_split_and_counts_once() -> None:
    species = some({"a": 12, "b": 12})
    groups = {name: f"group-{int(name.split('-')[1]) // 3}" for name in species}  # of both species each
    for seed in range(5):
        chosen = assign_splits(species, 0.25, 0.25, seed, groups)
        assert set(chosen) == set(species)
        splits = {group: {chosen[r] for r in species if groups[r] == group} for group in groups.values()}
        assert all(len(held) == 1 for held in splits.values())
        assert Counter(split for held in splits.values() for split in held) == {
            "train": 2, "validation": 1, "test": 1,
        }  # fmt: skip


def test_a_recording_alone_is_split_as_without_groups() -> None:
    species = some({"a": 20, "b": 20})
    plain = assign_splits(species, 0.2, 0.2, 1)
    assert assign_splits(species, 0.2, 0.2, 1, {name: name for name in species}) == plain
    assert assign_splits(species, 0.2, 0.2, 1, {}) == plain
