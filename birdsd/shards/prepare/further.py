"""Further cuts of a song: where else a clip may begin, so that it still holds the song.

A model that has seen each song once, always in the middle, knows little of it. Each further cut is another
picture of the same song: one that is shorter than three quarters of a clip stands anywhere in it, and along a
longer one the clip slides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from birdsd.randomness import generator
from birdsd.schema import DataConfig
from birdsd.shards.prepare.cuts import Band, listened_to
from birdsd.sound.audio.channels import mix_down
from birdsd.sound.labels.annotation import Recording
from birdsd.sound.song_finder import Segment, quiet_stretches, song_energy, sounding_around

CUTS_APART_S = 0.064  # about as long as a note: every picture differs, and a song of 6 s has room for dozens
# Of a clip along a song that fills it: so much of it may lie before the song begins, or after it ended.
_BEYOND_SONG = 0.25
_SLACK_S = 1e-6


@dataclass
class Stretch:
    """Sound in memory, float32 [channels, samples] from `begin_s` on, and its energy by band."""

    sound: np.ndarray
    begin_s: float
    rate_hz: int
    _energy: dict[Band, np.ndarray | None] = field(default_factory=dict)

    def extent(self, peak_s: float, band: Band) -> tuple[float, float]:
        """Where the song around a peak begins and ends, in seconds of the recording."""
        energy = self.energy(band)
        if energy is None:
            return peak_s, peak_s
        start_s, end_s = sounding_around(energy, peak_s - self.begin_s)
        return self.begin_s + start_s, self.begin_s + end_s

    def quiet(self, least_s: float) -> list[tuple[float, float]]:
        """The stretches in which no song is found, in seconds of the recording."""
        energy = self.energy((None, None))
        found = [] if energy is None else quiet_stretches(energy, least_s)
        return [(self.begin_s + start_s, self.begin_s + end_s) for start_s, end_s in found]

    def energy(self, band: Band) -> np.ndarray | None:
        if band not in self._energy:
            self._energy[band] = song_energy(mix_down(self.sound, self.rate_hz), self.rate_hz, band)
        return self._energy[band]


@dataclass
class FurtherCuts:
    """Where the further cuts of a recording's songs begin. No two clips of a recording begin closer to each
    other than 64 ms, whichever songs they were cut around.

    `acceptable(start_s, channel)`: whether a clip may begin there, going by the labels that it would show.
    """

    recording: Recording
    segments: Sequence[Segment]
    clip_s: float
    data: DataConfig
    acceptable: Callable[[float, int | None], bool]

    def __post_init__(self) -> None:
        self._taken: dict[int | None, list[float]] = {}
        for segment in self.segments:
            self._taken.setdefault(segment.channel, []).append(segment.start_s)

    def of(self, song: Segment, number: int, stretch: Stretch) -> list[float]:
        """Where the further cuts of song `number` begin, in the order of their numbers; perhaps fewer than
        data.cuts_per_song asks for."""
        low_s, high_s = self._room(song, stretch)
        taken = self._taken[song.channel]
        draw = generator(self.data.seed, "cuts", self.recording.recording_id, number)
        apart_s, wanted = CUTS_APART_S, self.data.cuts_per_song - 1
        found: list[float] = []
        # As far apart as the room lets so many be; then whatever room neighbours' cuts leave.
        for spacing_s in (_widest(low_s, high_s, song.start_s, wanted, apart_s), apart_s):
            cells = _cells(low_s, high_s, song.start_s, spacing_s)
            for cell_s in (cells[i] for i in draw.permutation(len(cells))):
                jitter_s = 0.5 * (spacing_s - apart_s)
                start_s = min(high_s, max(low_s, cell_s + float(draw.uniform(-jitter_s, jitter_s))))
                if len(found) == wanted:
                    break
                apart = all(abs(start_s - other) >= apart_s - _SLACK_S for other in (*taken, *found))
                if apart and self.acceptable(start_s, song.channel):
                    found.append(start_s)
        taken += found
        return found

    def _room(self, song: Segment, stretch: Stretch) -> tuple[float, float]:
        """Where a clip of the song may begin: the first place and the last (before the first: nowhere)."""
        clip_s, label = self.clip_s, song.label
        low_s, high_s = 0.0, self.recording.duration_s - clip_s
        box = (label.start_s, label.end_s) if label is not None else (None, None)
        if box[0] is not None and box[1] is not None:
            start_s, end_s = box[0], box[1]
            if end_s - start_s > clip_s:
                low_s, high_s = max(low_s, start_s), min(high_s, end_s - clip_s)
                if self.recording.labels:  # else it says that no bird is in it: anywhere in it will do
                    start_s, end_s = self._heard(song, stretch)
        else:
            start_s, end_s = self._heard(song, stretch)
        if end_s - start_s <= (1 - _BEYOND_SONG) * clip_s:
            return max(low_s, end_s - clip_s), min(high_s, start_s)
        beyond_s = _BEYOND_SONG * clip_s
        low_s, high_s = max(low_s, start_s - beyond_s), min(high_s, end_s + beyond_s - clip_s)
        # What several clips are cut from is shared out between them.
        for other in self.segments:
            if other.channel == song.channel and other.start_s != song.start_s:
                middle_s = 0.5 * (other.start_s + song.start_s)
                if other.start_s < song.start_s:
                    low_s = max(low_s, middle_s)
                else:
                    high_s = min(high_s, middle_s)
        return low_s, high_s

    def _heard(self, song: Segment, stretch: Stretch) -> tuple[float, float]:
        """Where the song that a clip was cut around begins and ends, inside its box if it has one."""
        label = song.label
        peak_s = song.start_s + 0.5 * self.clip_s if song.peak_s is None else song.peak_s
        band: Band = (None, None) if label is None else listened_to((label.low_hz, label.high_hz))
        start_s, end_s = stretch.extent(peak_s, band)
        if label is None or label.start_s is None or label.end_s is None:
            return start_s, end_s
        return min(max(start_s, label.start_s), label.end_s), max(min(end_s, label.end_s), label.start_s)


def _cells(low_s: float, high_s: float, first_s: float, spacing_s: float) -> list[float]:
    """Places in [low_s, high_s] that are multiples of `spacing_s` away from the first clip's."""
    before = math.ceil((low_s - first_s) / spacing_s - _SLACK_S)
    after = math.floor((high_s - first_s) / spacing_s + _SLACK_S)
    return [first_s + number * spacing_s for number in range(before, after + 1) if number]


def _widest(low_s: float, high_s: float, first_s: float, count: int, apart_s: float) -> float:
    """The widest spacing with `count` places beside the first clip's; `apart_s` where there is no such."""
    sides = (first_s - low_s, high_s - first_s, high_s - low_s)
    spacings = sorted(
        {side / n for side in sides for n in range(1, min(count, int(max(0.0, side) / apart_s)) + 1)},
        reverse=True,
    )
    for spacing_s in spacings:
        if spacing_s < apart_s:
            break
        if len(_cells(low_s, high_s, first_s, spacing_s)) >= count:
            return spacing_s
    return apart_s
