"""One song cut out of its clip: a soft mask takes the clip's own floor away, and fades end it.

A clip has a floor of its own; mixed as it is, it would open and close with the song.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from birdsd.scenes.heard.boundaries import Measured, measure

FADE_S = 0.01
AROUND_S = 0.02  # kept before the onset and behind the offset, before the fades
_WINDOW_S = 0.016
_FLOOR_PERCENTILE = 20
# The 20th percentile of smoothed noise lies so far below its mean, and its peaks so far above it.
_PEAKS = 4.0
_LEAST = 1e-4  # of the power stays: 40 dB down
_KEPT = 0.1  # of the energy at least: else the "floor" was the song, which fills the clip


@dataclass(frozen=True)
class Cut:
    """A song by itself, float32 [samples], where in it the sound lies, and where in the clip it begins."""

    samples: np.ndarray
    measured: Measured
    start_s: float


def cut_out(samples: np.ndarray, rate_hz: int, masked: bool = True) -> Cut | None:
    """The loudest song of a clip, float [samples]; None where nothing sounds in it."""
    clip = np.asarray(samples, np.float32)
    clean = without_floor(clip, rate_hz) if masked else clip
    found = measure(clean, rate_hz)
    if found is None:
        return None
    first = max(0, round((found.onset_s - AROUND_S - FADE_S) * rate_hz))
    last = min(len(clean), round((found.offset_s + AROUND_S + FADE_S) * rate_hz))
    part = faded(clean[first:last], rate_hz)
    again = measure(part, rate_hz)
    return None if again is None else Cut(part, again, first / rate_hz)


def faded(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """With fades of 10 ms at both ends."""
    part = np.array(samples, np.float32)
    fade = min(round(FADE_S * rate_hz), len(part) // 2)
    if fade:
        rise = (np.sin(0.5 * np.pi * (np.arange(fade) + 0.5) / fade) ** 2).astype(np.float32)
        part[:fade] *= rise
        part[-fade:] *= rise[::-1]
    return part


def without_floor(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """float32 [samples] with what always sounds taken down, band by band: G = 1 - floor / power."""
    from scipy.ndimage import uniform_filter
    from scipy.signal import istft, stft

    window = 2 * round(_WINDOW_S * rate_hz / 2)
    if len(samples) < 4 * window:
        return samples
    _, _, spectrum = stft(samples, rate_hz, nperseg=window, noverlap=3 * window // 4)
    power = uniform_filter(np.square(np.abs(spectrum)), (3, 3), mode="nearest")
    floor = _PEAKS * np.percentile(power, _FLOOR_PERCENTILE, axis=1, keepdims=True)
    gain = np.sqrt(np.clip(1 - floor / np.maximum(power, 1e-30), _LEAST, 1.0))
    _, clean = istft(spectrum * gain, rate_hz, nperseg=window, noverlap=3 * window // 4)
    clean = clean[: len(samples)].astype(np.float32)
    kept = float(np.square(clean).sum()) / max(float(np.square(samples).sum()), 1e-30)
    # A hiss around the song may hold most of the energy; a song that fills the clip stays in its band.
    return clean if kept >= _KEPT or measure(clean, rate_hz) is not None else samples
