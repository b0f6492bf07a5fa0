"""Timings side by side: ours and a peer in turn, so that a machine whose speed drifts moves both."""

from __future__ import annotations

import enum
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


class Size(enum.Enum):
    """How large the inputs of a bench are, and how often it repeats. The ratios of SMOKE mean nothing: it
    shows that the bench still runs."""

    FULL = 0
    QUICK = 1
    SMOKE = 2

    def of(self, full: T, quick: T, smoke: T) -> T:
        """One of the three."""
        return (full, quick, smoke)[self.value]


class LeftOut(Exception):
    """An area cannot be measured here; says why."""


@dataclass(frozen=True)
class Row:
    """One line of the bench: a ratio, the floor it should reach, and what was compared."""

    area: str
    what: str
    ratio: float
    floor: float
    higher_is_better: bool = True
    note: str = ""

    @property
    def reached(self) -> bool:
        return self.ratio >= self.floor if self.higher_is_better else self.ratio <= self.floor


@dataclass(frozen=True)
class Pair:
    """Medians in seconds, and the median of the ratios peer/ours taken pair by pair."""

    ours_s: float
    peer_s: float
    speedup: float


def paired(
    ours: Callable[[], object], peer: Callable[[], object], repeats: int = 5, warm_up: int = 1
) -> Pair:
    """Run `ours` and `peer` in turn, `repeats` times after `warm_up` rounds that do not count."""
    rounds = []
    for number in range(warm_up + repeats):
        times = []
        for call in (ours, peer):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        if number >= warm_up:
            rounds.append(times)
    return Pair(
        ours_s=statistics.median(o for o, _ in rounds),
        peer_s=statistics.median(p for _, p in rounds),
        speedup=statistics.median(p / o for o, p in rounds),
    )
