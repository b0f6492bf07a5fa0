"""The order of samples: a pure function of (seed, position), so that resuming needs one integer.

For epoch e the shards are permuted by (seed, e) and taken in windows of `window_shards`; the samples
of a window are permuted by (seed, e, window). Position i of the endless sequence is position
i mod n of epoch i // n. A window bounds how many shards are read at random at any time, so that a
parallel file system sees long reads and shards can be staged ahead of use.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from birdsd.errors import BadValue, NothingLeft
from birdsd.randomness import permutation


class SampleOrder:
    """Which sample stands at a position.

    `shard_sizes[s]` is the number of samples in shard s; samples are numbered through the shards in
    their natural order, so that shard s holds the numbers [first[s], first[s] + shard_sizes[s]).
    """

    def __init__(self, shard_sizes: Sequence[int], seed: int, window_shards: int = 16) -> None:
        self.sizes = np.asarray(shard_sizes, dtype=np.int64)
        if self.sizes.ndim != 1 or (self.sizes < 0).any():
            raise BadValue("the shard sizes must be a list of counts", f"they are {shard_sizes!r}")
        self.total = int(self.sizes.sum())
        if self.total == 0:
            raise NothingLeft(
                "there are no samples to put in order",
                "a split needs at least one sample",
                "look at the shards with `birdsd inspect SHARDS`",
            )
        if window_shards < 1:
            raise BadValue(f"window_shards is {window_shards}", "it must be at least 1")
        self.seed = int(seed)
        self.window_shards = int(window_shards)
        self._first = np.concatenate([[0], np.cumsum(self.sizes)])
        # A reader walks through windows in order, and neighbouring positions share one: a few suffice.
        self._epoch = lru_cache(maxsize=4)(self._make_epoch)
        self._window = lru_cache(maxsize=4)(self._make_window)

    def sample(self, position: int) -> int:
        """The number of the sample at `position` (>= 0) of the endless sequence."""
        epoch, offset = self._split(position)
        _, starts = self._epoch(epoch)
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        return int(self._window(epoch, window)[offset - int(starts[window])])

    def batch(self, start: int, count: int) -> np.ndarray:
        """The sample numbers at the positions [start, start + count); int64, shape [count]."""
        if count < 0:
            raise ValueError(f"count is {count}")
        numbers = np.empty(count, np.int64)
        filled = 0
        while filled < count:
            epoch, offset = self._split(start + filled)
            _, starts = self._epoch(epoch)
            window = int(np.searchsorted(starts, offset, side="right")) - 1
            rest = self._window(epoch, window)[offset - int(starts[window]) :][: count - filled]
            numbers[filled : filled + len(rest)] = rest
            filled += len(rest)
        return numbers

    def shards_of_window(self, position: int) -> tuple[int, ...]:
        """The shards that the window around `position` reads: what to stage for it."""
        epoch, offset = self._split(position)
        shards, starts = self._epoch(epoch)
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        return tuple(int(s) for s in shards[window * self.window_shards :][: self.window_shards])

    def _split(self, position: int) -> tuple[int, int]:
        if position < 0:
            raise ValueError(f"position is {position}")
        return divmod(int(position), self.total)

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The permuted non-empty shards of an epoch, and the first position of each window in it."""
        sizes = self._sizes_in(epoch)
        filled = np.flatnonzero(sizes)
        shards = filled[permutation(len(filled), self.seed, "shards", epoch)]
        ends = np.cumsum(sizes[shards])
        starts = np.concatenate([[0], ends[self.window_shards - 1 : -1 : self.window_shards]])
        return shards, starts

    def _make_window(self, epoch: int, window: int) -> np.ndarray:
        shards = self._epoch(epoch)[0][window * self.window_shards :][: self.window_shards]
        numbers = np.concatenate([self._numbers_in(epoch, int(s)) for s in shards])
        return numbers[permutation(len(numbers), self.seed, "window", epoch, window)]

    def _sizes_in(self, epoch: int) -> np.ndarray:
        """How many positions of an epoch each shard takes; they add up to `total`."""
        return self.sizes

    def _numbers_in(self, epoch: int, shard: int) -> np.ndarray:
        """The sample numbers that a shard gives to an epoch, in their natural order."""
        return np.arange(self._first[shard], self._first[shard + 1])
