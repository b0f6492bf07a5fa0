"""The order of samples: pure, a permutation per epoch, bounded by its windows."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.errors import BadValue, NothingLeft
from birdsd.shards.order import SampleOrder
from tests.support.errors import refuses

SIZES = [5, 0, 7, 3, 11, 1, 4]
TOTAL = sum(SIZES)


def test_any_way_of_asking_gives_the_same_sequence() -> None:
    reference = SampleOrder(SIZES, seed=3, window_shards=2).batch(0, 4 * TOTAL)
    backwards = SampleOrder(SIZES, seed=3, window_shards=2)
    single = [backwards.sample(p) for p in reversed(range(4 * TOTAL))][::-1]
    assert single == reference.tolist()
    late = SampleOrder(SIZES, seed=3, window_shards=2)  # resumed in the third epoch: nothing before is needed
    assert late.batch(2 * TOTAL + 9, 13).tolist() == reference[2 * TOTAL + 9 :][:13].tolist()


def test_each_epoch_is_another_permutation() -> None:
    order = SampleOrder(SIZES, seed=1, window_shards=2)
    epochs = [order.batch(e * TOTAL, TOTAL) for e in range(5)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(TOTAL))
    assert len({tuple(e.tolist()) for e in epochs}) == 5


def test_the_seed_decides() -> None:
    assert not np.array_equal(SampleOrder(SIZES, 1).batch(0, TOTAL), SampleOrder(SIZES, 2).batch(0, TOTAL))


def test_the_order_is_the_published_one() -> None:
    """A change of this sequence would silently change every run that is resumed."""
    assert SampleOrder([4, 4, 4, 4], seed=7, window_shards=2).batch(0, 20).tolist() == [
        0,
        3,
        14,
        13,
        1,
        12,
        15,
        2,
        9,
        10,
        7,
        6,
        4,
        11,
        8,
        5,
        13,
        1,
        15,
        14,
    ]


@pytest.mark.parametrize("window", [1, 2, 3, 16])
def test_a_window_reads_only_its_shards(window: int) -> None:
    sizes = [s for s in SIZES if s]
    order = SampleOrder(sizes, seed=5, window_shards=window)
    first = np.concatenate([[0], np.cumsum(sizes)])
    shard_of = np.searchsorted(first, order.batch(TOTAL, TOTAL), side="right") - 1
    position, windows = 0, []
    while position < TOTAL:
        shards = order.shards_of_window(TOTAL + position)
        assert len(shards) <= window
        length = sum(sizes[s] for s in shards)
        assert set(shard_of[position : position + length].tolist()) == set(shards)
        windows.append(shards)
        position += length
    assert sorted(s for w in windows for s in w) == list(range(len(sizes)))


def test_a_position_far_away_costs_no_more_than_one_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from birdsd.shards import order as module

    drawn: list[int] = []
    real = module.permutation
    monkeypatch.setattr(module, "permutation", lambda count, *key: drawn.append(count) or real(count, *key))
    near, far = SampleOrder([10] * 100, 0, 4), SampleOrder([10] * 100, 0, 4)
    near.sample(0)
    cost_near, _ = sum(drawn), drawn.clear()
    far.sample(900 + 1000 * 10**9)
    assert sum(drawn) == cost_near


def test_nothing_to_order_is_an_error() -> None:
    with refuses("samples", "birdsd inspect", kind=NothingLeft):
        SampleOrder([0, 0], 0)
    with refuses("window_shards", kind=BadValue):
        SampleOrder([3], 0, window_shards=0)
