"""Species that are rare in the shards, drawn more often: weights for samples, and an order that keeps them.

The order stays a pure function of (seed, position), read through the same bounded windows as the plain
one. An epoch has as many positions as there are samples; which of them a sample gets is decided by
systematic resampling (Carpenter, Clifford and Fearnhead 1999): equally spaced points, shifted by an offset
of the epoch's own, fall into intervals as long as the weights. So chance moves a sample's count by less
than one an epoch, where independent draws would leave out a third of the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np

from birdsd.errors import BadValue, Mismatch, UserError
from birdsd.files import read_json, safe_name, write_json
from birdsd.randomness import generator
from birdsd.shards.index import ShardIndex
from birdsd.shards.order import SampleOrder
from birdsd.shards.summary import NO_BIRD

FORMAT = "birdsd-species-1"
# Ends of intervals are rounded to these parts, and points lie half a part beside them: a sum of a million
# weights is only good to 1e-9 or so, and must not make two points of one, or none.
_PARTS = 1 << 20


class BalancedOrder(SampleOrder):
    """A `SampleOrder` in which sample i has the share `weights[i]` of the positions.

    `weights` [sum(shard_sizes)], not negative; their scale does not matter. In each epoch of n positions
    sample i stands floor or ceil of n * weights[i] / sum(weights) times, and over the epochs as often as
    that on average.
    """

    def __init__(
        self, shard_sizes: Sequence[int], seed: int, weights: np.ndarray, window_shards: int = 16
    ) -> None:
        super().__init__(shard_sizes, seed, window_shards)
        weights = np.asarray(weights, np.float64)
        if weights.shape != (self.total,):
            raise Mismatch(f"there are {list(weights.shape)} weights for {self.total} samples")
        if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
            raise BadValue("the weights of the samples must be numbers >= 0, not all of them 0")
        ends = np.cumsum(weights, dtype=np.longdouble)
        self._ends = np.rint(ends / ends[-1] * (self.total * _PARTS)).astype(np.int64)
        self._counts = lru_cache(maxsize=4)(self._make_counts)

    def _make_counts(self, epoch: int) -> np.ndarray:
        """int32 [samples]: how often each stands in an epoch."""
        offset = int(generator(self.seed, "balance", epoch).integers(_PARTS))
        # Points at k * PARTS + offset + 1/2, k = 0, 1, ...: so many of them lie before each end.
        before = (self._ends - offset + _PARTS - 1) // _PARTS
        return np.diff(before, prepend=0).astype(np.int32)

    def _sizes_in(self, epoch: int) -> np.ndarray:
        """See `SampleOrder`."""
        so_far = np.concatenate([[0], np.cumsum(self._counts(epoch), dtype=np.int64)])
        return np.diff(so_far[self._first])

    def _numbers_in(self, epoch: int, shard: int) -> np.ndarray:
        """See `SampleOrder`."""
        rows = slice(int(self._first[shard]), int(self._first[shard + 1]))
        return np.repeat(np.arange(rows.start, rows.stop), self._counts(epoch)[rows])


def species_weights(index: ShardIndex, split: str, balance: float) -> np.ndarray:
    """float64 [samples of the split], sum 1: count(species) ** -balance, of several species the mean.

    `balance` 0: as the shards have them; 1: every species as often as any other. Clips without a bird count
    as a species. Raises `UserError` for a balance outside 0..1 and a split that does not exist.
    """
    if not 0 <= balance <= 1:
        raise BadValue(
            f"method.species_balance={balance}",
            "it goes from 0 (as the shards have them) to 1 (every species as often as any other)",
            "try method.species_balance=0.5",
        )
    groups, of_sample = species_of_samples(index, split)
    samples_of_group = np.bincount(of_sample, minlength=len(groups))
    counts: dict[str, int] = {}
    for names, count in zip(groups, samples_of_group.tolist(), strict=True):
        for name in names:
            counts[name] = counts.get(name, 0) + count
    of_group = np.array([np.mean([counts[name] ** -balance for name in names]) for names in groups])
    weights = of_group[of_sample]
    return weights / weights.sum()


def species_of(index: ShardIndex, split: str) -> tuple[str, ...]:
    """The species of a split, sorted; read from `dataset.json`, or from every sample without one."""
    names = index.species  # counts the samples where dataset.json does not
    splits_of = index.dataset["species"]
    return tuple(name for name in names if split in splits_of[name])


def species_of_samples(index: ShardIndex, split: str) -> tuple[list[list[str]], np.ndarray]:
    """The sets of species that occur together, and the number of its set for every sample, int64.

    Kept beside the shards, where that folder can be written: reading every sample's metadata takes a
    minute for a million of them, on every rank and at every start.
    """
    path = index.folder / f"species-{safe_name(split)}.json"
    facts: dict[str, Any] = {"format": FORMAT, "split": split, "shards": index.fingerprint}
    with suppress(UserError, KeyError, TypeError, ValueError):
        stored = read_json(path)
        of_sample = np.array(stored["of_sample"], np.int64)
        fits = len(of_sample) == index.count(split) and all(stored[key] == facts[key] for key in facts)
        if fits and of_sample.min() >= 0 and of_sample.max() < len(stored["groups"]):
            return stored["groups"], of_sample
    groups, of_sample = _read_species(index, split)
    with suppress(UserError, OSError):  # a folder that is only there to be read
        write_json(path, {**facts, "groups": groups, "of_sample": of_sample.tolist()})
    return groups, of_sample


def _read_species(index: ShardIndex, split: str) -> tuple[list[list[str]], np.ndarray]:
    from birdsd.shards.reader import ShardReader

    reader = ShardReader(index, split, want=("metadata",))
    known: dict[tuple[str, ...], int] = {}
    of_sample = np.empty(len(reader), np.int64)
    for number in range(len(reader)):
        named = dict.fromkeys(str(name) for name in reader.read(number).metadata["species"])
        of_sample[number] = known.setdefault(tuple(named) or (NO_BIRD,), len(known))
    return [list(names) for names in known], of_sample
