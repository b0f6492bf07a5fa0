"""How loud an event is against what lies under it, in the event's own band."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from birdsd.scenes.heard.band import HOP_S, band_passed, band_power, envelope
from birdsd.scenes.heard.boundaries import Measured, active_frames

BESIDE_S = 0.5  # of background before and behind an event, for its mean
# Beyond that, to be faded out: cut off hard, a rumble far below the band would leak into it.
MARGIN_S = 0.2


@dataclass(frozen=True)
class Ratio:
    """`snr_db`: the event's active frames in its band against the background's mean there, over the same span
    and 0.5 s beside it. `broadband_db`: the same of all frequencies. `audible`: the share of the event's
    active frames that are at least as strong as the background's mean. inf against silence."""

    snr_db: float
    broadband_db: float
    frames: np.ndarray = field(repr=False, compare=False)  # power of the event's active frames in its band
    under: float = 0.0  # the background's

    @property
    def audible(self) -> float:
        return float((self.frames >= self.under).mean()) if len(self.frames) else 0.0

    def after(self, gain_db: float) -> Ratio:
        """With the event louder by so much."""
        louder = self.frames * 10 ** (gain_db / 10)
        return Ratio(self.snr_db + gain_db, self.broadband_db + gain_db, louder, self.under)


def around(measured: Measured, start: int, rate_hz: int, samples: int) -> tuple[int, int]:
    """First and last sample of the scene that the background of an event is measured over. `start`: where the
    event's waveform begins."""
    first = start + round((measured.onset_s - BESIDE_S) * rate_hz)
    last = start + round((measured.offset_s + BESIDE_S) * rate_hz)
    return max(0, first), min(samples, max(last, first + 1))


@dataclass(frozen=True)
class Strength:
    """The power of an event's active frames: in its band, float64 [frames], and the mean of all
    frequencies."""

    frames: np.ndarray = field(repr=False, compare=False)
    everything: float


def strength(event: np.ndarray, measured: Measured, rate_hz: int) -> Strength:
    """Of an event's waveform, float [samples]."""
    power = envelope(band_passed(event, rate_hz, *measured.band_hz, exact=True), rate_hz)
    frames = active_frames(power, round(measured.onset_s / HOP_S), round(measured.offset_s / HOP_S))
    everything = envelope(event, rate_hz)[frames].mean() if len(frames) else 0.0
    return Strength(power[frames], float(everything))


def ratio(
    event: Strength | np.ndarray, measured: Measured, under: np.ndarray, rate_hz: int, margin: int = 0
) -> Ratio:
    """Of an event, or its waveform, float [samples], to the background `under` it (see `around`), which has
    `margin` samples more on either side."""
    if isinstance(event, np.ndarray):
        event = strength(event, measured, rate_hz)
    loud = float(event.frames.mean()) if len(event.frames) else 0.0
    rest = band_power(_tapered(under, margin), rate_hz, *measured.band_hz, margin)
    inside = np.asarray(under[margin : len(under) - margin], np.float32)
    below = float(np.vdot(inside, inside)) / len(inside) if len(inside) else 0.0
    return Ratio(_db(loud, rest), _db(event.everything, below), event.frames, rest)


def _tapered(samples: np.ndarray, margin: int) -> np.ndarray:
    if not margin:
        return samples
    tapered = np.array(samples, np.float32)
    rise = _taper(margin)
    tapered[:margin] *= rise
    tapered[len(tapered) - margin :] *= rise[::-1]
    return tapered


@lru_cache(maxsize=4)
def _taper(samples: int) -> np.ndarray:
    """float32 [samples], not to be changed: from 0 to 1."""
    return np.sin(0.5 * np.pi * (np.arange(samples) + 0.5) / samples).astype(np.float32) ** 2


def _db(one: float, other: float) -> float:
    if one <= 0:
        return -math.inf
    return 10 * math.log10(one / other) if other > 0 else math.inf
