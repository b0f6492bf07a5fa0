"""Sampling weights by species: shares kept to within a sample an epoch, a pure function of position."""

from __future__ import annotations

import io
import itertools
import json

import numpy as np
import pytest

from birdsd.errors import BadValue, Mismatch, UserError
from birdsd.shards import balance
from birdsd.shards.balance import BalancedOrder, species_weights
from birdsd.shards.index import ShardIndex
from birdsd.shards.order import SampleOrder
from tests.support.errors import refuses
from tests.support.shard_makers import npy, tar_of

SIZES = [5, 0, 7, 3, 11, 1, 4]
TOTAL = sum(SIZES)
WEIGHTS = np.random.default_rng(0).gamma(0.5, size=TOTAL)


def order(weights=WEIGHTS, seed=3, window=2, sizes=SIZES) -> BalancedOrder:
    return BalancedOrder(sizes, seed, weights, window)


def test_any_way_of_asking_gives_the_same_sequence() -> None:
    reference = order().batch(0, 4 * TOTAL)
    backwards = order()
    assert [backwards.sample(p) for p in reversed(range(4 * TOTAL))][::-1] == reference.tolist()
    late = order()  # resumed in the third epoch: nothing before is needed
    assert late.batch(2 * TOTAL + 9, 13).tolist() == reference[2 * TOTAL + 9 :][:13].tolist()
    assert not np.array_equal(reference, order(seed=4).batch(0, 4 * TOTAL))


@pytest.mark.parametrize("power", [0.0, 0.3, 4.0])
def test_each_epoch_keeps_the_shares(power: float) -> None:
    weights = WEIGHTS**power
    expected = TOTAL * weights / weights.sum()
    counts = np.array(
        [np.bincount(order(weights).batch(e * TOTAL, TOTAL), minlength=TOTAL) for e in range(400)]
    )
    assert (counts.sum(1) == TOTAL).all()
    assert (counts >= np.floor(expected)).all() and (counts <= np.ceil(expected)).all()
    # The offset is uniform: over the epochs a sample's count has the mean that its weight says.
    assert np.abs(counts.mean(0) - expected).max() < 0.1
    # Whole numbers leave nothing to chance.
    assert (counts == 1).all() if power == 0 else (counts[0] != counts[1]).any()


def test_equal_weights_give_the_plain_order_bit_by_bit() -> None:
    assert np.array_equal(
        order(np.full(TOTAL, 0.1)).batch(0, 3 * TOTAL), SampleOrder(SIZES, 3, 2).batch(0, 3 * TOTAL)
    )
    large = BalancedOrder([100_000] * 3, 0, np.full(300_000, 1 / 3))  # sums of many weights are not exact
    assert (np.bincount(large.batch(0, 300_000), minlength=300_000) == 1).all()


@pytest.mark.parametrize("window", [1, 2, 3, 16])
def test_a_window_reads_only_its_shards(window: int) -> None:
    first = np.concatenate([[0], np.cumsum(SIZES)])
    drawn = order(window=window).batch(TOTAL, TOTAL)
    shard_of = np.searchsorted(first, drawn, side="right") - 1
    places = [order(window=window).shards_of_window(TOTAL + at) for at in range(TOTAL)]
    assert all(len(shards) <= window for shards in places)
    assert all(shard in shards for shard, shards in zip(shard_of.tolist(), places, strict=True))
    seen = list(dict.fromkeys(places))  # one after the other, and none twice
    assert sum(a != b for a, b in itertools.pairwise(places)) == len(seen) - 1
    assert len({shard for shards in seen for shard in shards}) == sum(len(shards) for shards in seen)


def test_a_sample_of_no_weight_never_comes() -> None:
    weights = np.ones(TOTAL)
    weights[[0, 9, TOTAL - 1]] = 0
    drawn = order(weights).batch(0, 50 * TOTAL)
    assert not {0, 9, TOTAL - 1} & set(drawn.tolist())
    weights[:] = 0
    weights[12] = 1
    assert set(order(weights).batch(0, 2 * TOTAL).tolist()) == {12}


@pytest.mark.parametrize(
    ("weights", "named", "kind"),
    [
        (np.ones(3), "[3]", Mismatch),
        (np.zeros(TOTAL), ">= 0", BadValue),
        (-WEIGHTS, ">= 0", BadValue),
        (np.full(TOTAL, np.nan), ">= 0", BadValue),
    ],
)
def test_weights_that_are_none(weights, named, kind) -> None:
    with refuses(named, kind=kind):
        order(weights)


# -- weights by species -----------------------------------------------------------------------------

# 12 samples: A 8 times, B 4 times (twice together with A), C once, one without a bird.
NAMES = [["A"], ["A"], ["B"], ["A", "B"], ["A"], [], ["A"], ["C"], ["A", "B"], ["A"], ["B"], ["A"]]


@pytest.fixture
def folder(tmp_path):
    for shard in range(3):
        members = []
        for number in range(4 * shard, 4 * shard + 4):
            facts = json.dumps({"species": NAMES[number]}).encode()
            members += [(f"s{number}.npy", npy(np.zeros((1, 4, 4), np.uint8))), (f"s{number}.json", facts)]
        tar_of(tmp_path / f"train-{shard:06d}.tar", members)
    return tmp_path


def test_the_weights_are_the_formula(folder) -> None:
    index = ShardIndex.open(folder)
    for power in (0.0, 0.5, 1.0):
        value = {"A": 8.0**-power, "B": 4.0**-power, "C": 1.0, "": 1.0}
        expected = np.array([np.mean([value[n] for n in names or [""]]) for names in NAMES])
        np.testing.assert_allclose(species_weights(index, "train", power), expected / expected.sum())


def test_at_balance_one_species_come_equally_often(tmp_path) -> None:
    names = ["A"] * 20 + ["B"] * 3 + ["C"]
    members = [
        (f"s{n}.{kind}", data)
        for n, name in enumerate(names)
        for kind, data in (
            ("npy", npy(np.zeros((1, 2, 2), np.uint8))),
            ("json", json.dumps({"species": [name]}).encode()),
        )
    ]
    tar_of(tmp_path / "train-000000.tar", members)
    index = ShardIndex.open(tmp_path)
    drawn = BalancedOrder(index.shard_sizes("train"), 0, species_weights(index, "train", 1.0)).batch(0, 24)
    assert sorted(np.array(names)[drawn].tolist()) == ["A"] * 8 + ["B"] * 8 + ["C"] * 8


def test_the_species_are_read_once_and_again_when_the_shards_change(folder, monkeypatch) -> None:
    read = []
    real = balance._read_species
    monkeypatch.setattr(balance, "_read_species", lambda *a: read.append(1) or real(*a))
    first = species_weights(ShardIndex.open(folder), "train", 1.0)
    assert (folder / "species-train.json").is_file()
    assert np.array_equal(species_weights(ShardIndex.open(folder), "train", 1.0), first) and len(read) == 1
    for damage in ("{", '{"of_sample": [0]}', "[]"):
        (folder / "species-train.json").write_text(damage)
        assert np.array_equal(species_weights(ShardIndex.open(folder), "train", 1.0), first)
    assert len(read) == 4
    stream = io.BytesIO()
    np.save(stream, np.zeros((1, 4, 4), np.uint8))
    tar_of(folder / "train-000003.tar", [("new.npy", stream.getvalue()), ("new.json", b'{"species": ["D"]}')])
    assert len(species_weights(ShardIndex.open(folder), "train", 1.0)) == 13 and len(read) == 5


@pytest.mark.parametrize("power", [-0.1, 1.5, float("nan")])
def test_a_balance_outside_its_range(folder, power) -> None:
    with refuses("species_balance", kind=BadValue):
        species_weights(ShardIndex.open(folder), "train", power)


def test_a_folder_that_cannot_be_written(folder, monkeypatch) -> None:
    def refused(*_):
        raise UserError("read-only")

    monkeypatch.setattr(balance, "write_json", refused)
    assert species_weights(ShardIndex.open(folder), "train", 0.5).sum() == pytest.approx(1)
