"""Stems and labels of a loop: what reaches over its end goes on at its beginning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from birdsd.scenes.compose.mixdown import Stem, peak_of, silence
from birdsd.scenes.compose.record import CameOut


@dataclass(frozen=True)
class Around:
    """A stem folded into a loop of `total` samples."""

    stem: Stem
    total: int

    @property
    def start(self) -> int:
        return 0

    @property
    def samples(self) -> int:
        return self.total

    @property
    def peak(self) -> float:
        rounds = self.stem.samples // self.total + 2  # that sound at once, at most
        return peak_of(self.stem) * rounds

    def read(self, first: int, count: int) -> np.ndarray:
        """float32 [count] or [count, channels]: everything of the stem that is heard there, in whichever
        round."""
        out = silence(self.stem, count)
        begin, end = self.stem.start, self.stem.start + self.stem.samples
        for turn in range(begin // self.total, -(-end // self.total) + 1):
            low = max(first + turn * self.total, begin)
            high = min(first + count + turn * self.total, end)
            if high > low:
                at = low - first - turn * self.total
                out[at : at + high - low] += self.stem.read(low, high - low)
        return out


def folded(stem: Stem, total: int) -> Stem:
    """The stem as it is where it lies inside of the loop, else folded into it."""
    inside = stem.start >= 0 and stem.start + stem.samples <= total
    return stem if inside else Around(stem, total)


def folded_rows(event: CameOut, stem: Stem, loop_s: float, total: int) -> Iterator[CameOut]:
    """The label of an event inside of the loop; one that goes over the end has two rows with one key."""
    if isinstance(stem, Around):
        event = replace(event, start=0, samples=total)
    turns = int(event.onset_s // loop_s) * loop_s
    onset_s, offset_s = round(event.onset_s - turns, 6), round(event.offset_s - turns, 6)
    yield replace(event, onset_s=onset_s, offset_s=min(offset_s, loop_s))
    if offset_s > loop_s:
        yield replace(event, onset_s=0.0, offset_s=round(min(offset_s - loop_s, onset_s), 6))
