"""What is listened to before a recording is separated: all of a short one, pieces from all over a long
one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from birdsd.sound.audio.channels import mix_down
from birdsd.sound.audio.recordings import probe, read
from birdsd.sound.separation.grid import Grid
from birdsd.sound.song_finder import quiet_stretches, song_energy

PIECE_S = 10.0  # long enough to tell a song from the noise around it
LEARN_S = 60.0
_LEAST_QUIET_S = 0.25
_SILENCE = 2.0**-16  # below half a step of 16 bits nothing is there


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording in mono, float32 [n], and its magnitudes."""

    start_s: float
    sound: np.ndarray
    grid: Grid

    @cached_property
    def magnitude(self) -> np.ndarray:
        """Float32 [frames, bins]."""
        found: np.ndarray = np.abs(self.grid.spectrum(self.sound))
        return found

    @cached_property
    def energy(self) -> np.ndarray | None:
        """What the song finder hears, in frames of 20 ms; None for silence."""
        return song_energy(self.sound, self.grid.rate_hz) if len(self.sound) else None

    @cached_property
    def quiet(self) -> np.ndarray:
        """Bool [frames]: frames that lie in a stretch without song."""
        found = np.zeros(len(self.magnitude), bool)
        if self.energy is None:
            return found
        grid = self.grid
        for start_s, end_s in quiet_stretches(self.energy, _LEAST_QUIET_S):
            # A frame counts where all of its window does.
            first = (round(start_s * grid.rate_hz) + grid.margin) // grid.hop
            found[first : max(first, round(end_s * grid.rate_hz) // grid.hop)] = True
        return found


@dataclass(frozen=True)
class Sample:
    """Pieces of one recording, or of several of one source."""

    pieces: tuple[Piece, ...]
    grid: Grid

    @property
    def silent(self) -> bool:
        return all(float(np.abs(one.sound).max(initial=0.0)) < _SILENCE for one in self.pieces)

    @property
    def duration_s(self) -> float:
        return sum(len(one.sound) for one in self.pieces) / self.grid.rate_hz

    @cached_property
    def magnitude(self) -> np.ndarray:
        """Of all pieces, float32 [frames, bins]."""
        return np.concatenate([one.magnitude for one in self.pieces])

    @cached_property
    def quiet(self) -> np.ndarray:
        """Bool [frames]: frames without song."""
        return np.concatenate([one.quiet for one in self.pieces])


def sample_of(path: Path, grid: Grid, learn_s: float = LEARN_S, channel: int | None = None) -> Sample:
    """All of a recording of up to `learn_s`, or pieces of 10 s that lie evenly in it; `channel`: of that one,
    from 1. `RecordingError` where it cannot be read."""
    duration_s, rate_hz = probe(path).duration_s, grid.rate_hz
    if duration_s <= max(learn_s, PIECE_S):
        return of_sound(read(path, rate_hz, channel=channel), grid)
    count = max(1, int(learn_s / PIECE_S))
    pieces = []
    for start_s in np.linspace(0, duration_s - PIECE_S, count).tolist():
        sound = read(path, rate_hz, start_s=start_s, duration_s=PIECE_S, channel=channel)
        pieces.append(Piece(start_s, sound[0], grid))
    return Sample(tuple(pieces), grid)


def of_sound(sound: np.ndarray, grid: Grid) -> Sample:
    """A sound in memory, float32 [channels, n], in mono."""
    mono = mix_down(np.atleast_2d(np.asarray(sound, np.float32)), grid.rate_hz)
    return Sample((Piece(0.0, mono, grid),), grid)


def together(samples: Sequence[Sample]) -> Sample:
    """Several recordings of one source."""
    return Sample(tuple(piece for sample in samples for piece in sample.pieces), samples[0].grid)
