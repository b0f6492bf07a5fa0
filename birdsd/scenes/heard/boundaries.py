"""When a sound begins and ends, and in which band it lies: measured, whatever was asked for.

Onset: where the band's power comes within 20 dB of the loud frames' (their 95th percentile) for 10 ms.
Offset: where it is last within 26 dB. Notes no further apart than `PAUSE_S` are one song, as in `segments`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from birdsd.scenes.heard.band import HOP_S, band_passed, envelope

ON_DB, OFF_DB = 20.0, 26.0
PAUSE_S = 0.4
_HELD_S = 0.01
_LOUD_DB = 40.0  # below the maximum: what counts for the percentile
_TAILS = 0.01  # of the energy lie below the band, and as much above it
_SHORTEST_S = 0.02


@dataclass(frozen=True)
class Measured:
    """A sound's place in its waveform, in seconds and Hz. `active_db`: the level in dBFS, in its band, of the
    frames between onset and offset that are within `OFF_DB` of the loud ones."""

    onset_s: float
    offset_s: float
    low_hz: float
    high_hz: float
    active_db: float

    @property
    def duration_s(self) -> float:
        return self.offset_s - self.onset_s

    @property
    def band_hz(self) -> tuple[float, float]:
        return self.low_hz, self.high_hz


def measure(samples: np.ndarray, rate_hz: int) -> Measured | None:
    """Where the sound in float [samples] lies; None for silence, and for a click shorter than 20 ms."""
    if not len(samples) or not np.isfinite(samples).all():
        return None
    whole = envelope(samples, rate_hz)
    band = band_of(samples, rate_hz, loud_frames(whole))
    if band is None:
        return None
    power = envelope(band_passed(samples, rate_hz, *band), rate_hz)
    songs = songs_in(power)
    if not songs:
        return None
    first, last = max(songs, key=lambda song: power[song[0] : song[1] + 1].sum())
    if (last - first) * HOP_S < _SHORTEST_S:
        return None
    return Measured(
        first * HOP_S, min(last * HOP_S, len(samples) / rate_hz), *band, active_db(power, first, last)
    )


def active_frames(power: np.ndarray, first: int, last: int) -> np.ndarray:
    """The numbers of the frames first..last that are within `OFF_DB` of the loud ones."""
    part = power[first : last + 1]
    loud = reference(part)
    return first + np.flatnonzero(part >= loud * 10 ** (-OFF_DB / 10))


def active_db(power: np.ndarray, first: int, last: int) -> float:
    """dBFS of the active frames among first..last; -inf for silence."""
    frames = active_frames(power, first, last)
    mean = float(power[frames].mean()) if len(frames) else 0.0
    return 10 * float(np.log10(mean)) if mean > 0 else -np.inf


def reference(power: np.ndarray) -> float:
    """The 95th percentile of the frames within 40 dB of the maximum."""
    top = float(power.max(initial=0.0))
    return float(np.percentile(power[power >= top * 10 ** (-_LOUD_DB / 10)], 95)) if top > 0 else 0.0


def loud_frames(power: np.ndarray) -> np.ndarray:
    """bool [frames]: within `ON_DB` of the loud ones."""
    return power >= max(reference(power) * 10 ** (-ON_DB / 10), 1e-300)


def songs_in(power: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) frame of every song, notes no further apart than `PAUSE_S` joined."""
    loud = reference(power)
    if loud <= 0:
        return []
    on = power >= loud * 10 ** (-ON_DB / 10)
    audible = power >= loud * 10 ** (-OFF_DB / 10)
    held = max(1, round(_HELD_S / HOP_S))
    songs: list[tuple[int, int]] = []
    for first, last in runs(audible):
        strong = next((start for start, end in runs(on[first : last + 1]) if end - start + 1 >= held), None)
        if strong is None:
            continue
        if songs and (first + strong - songs[-1][1]) * HOP_S <= PAUSE_S:
            songs[-1] = (songs[-1][0], last)
        else:
            songs.append((first + strong, last))
    return songs


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) of every stretch of true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(start), int(end) - 1) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def band_of(samples: np.ndarray, rate_hz: int, loud: np.ndarray) -> tuple[float, float] | None:
    """Between which frequencies all but 1% at either end of the energy in the loud frames lies."""
    window = 2 * round(0.008 * rate_hz)
    hop = window // 2
    padded = np.pad(np.asarray(samples, np.float32), window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    centres_s = np.arange(len(frames)) * hop / rate_hz
    heard = loud[np.minimum(np.rint(centres_s / HOP_S).astype(int), len(loud) - 1)]
    if not heard.any():
        return None
    spectrum = np.abs(np.fft.rfft(frames[heard] * np.hanning(window).astype(np.float32), axis=1)) ** 2
    energy = spectrum.sum(axis=0, dtype=np.float64)
    energy[0] = 0.0
    total = energy.sum()
    if total <= 0:
        return None
    share, step = np.cumsum(energy) / total, rate_hz / window
    low = (int(np.searchsorted(share, _TAILS)) - 0.5) * step
    high = (int(np.searchsorted(share, 1 - _TAILS)) + 0.5) * step
    return max(20.0, low), min(high, rate_hz / 2)
