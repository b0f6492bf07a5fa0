"""Energy over time in a band of frequencies."""

from __future__ import annotations

import numpy as np
import scipy.fft

HOP_S = 0.002
SMOOTHED_S = 0.005
_SKIRT_HZ = 100.0  # of the filter at least: a steeper one rings, and moves what is measured in time
_EXACT_HZ = 40.0
_EDGE_S = 0.05


def band_passed(
    samples: np.ndarray, rate_hz: int, low_hz: float, high_hz: float, exact: bool = False
) -> np.ndarray:
    """float32 [samples]: what lies between two frequencies. The phase stays; the skirts lie outside, wide
    enough not to ring. `exact`: narrow ones, centred on the edges, so that noise loses what lies outside."""
    edge = round(_EDGE_S * rate_hz)
    size = scipy.fft.next_fast_len(len(samples) + 2 * edge, real=True)
    padded = np.zeros(size, np.float32)
    padded[edge : edge + len(samples)] = samples
    spectrum = scipy.fft.rfft(padded)
    step_hz = np.float32(rate_hz / size)
    inside = 0.5 if exact else 0.0  # the share of a skirt that lies in the band
    if low_hz > 0:
        skirt = _EXACT_HZ if exact else max(_SKIRT_HZ, low_hz / 10)
        first, last = _bins((low_hz - (1 - inside) * skirt, low_hz + inside * skirt), step_hz, len(spectrum))
        spectrum[:first] = 0
        hz = np.arange(first, last, dtype=np.float32) * step_hz
        spectrum[first:last] *= _rise((hz - low_hz) / skirt + 1 - inside)
    if high_hz < rate_hz / 2:
        skirt = _EXACT_HZ if exact else max(_SKIRT_HZ, high_hz / 20)
        first, last = _bins(
            (high_hz - inside * skirt, high_hz + (1 - inside) * skirt), step_hz, len(spectrum)
        )
        hz = np.arange(first, last, dtype=np.float32) * step_hz
        spectrum[first:last] *= _rise((high_hz - hz) / skirt + 1 - inside)
        spectrum[last:] = 0
    filtered: np.ndarray = scipy.fft.irfft(spectrum, size)[edge : edge + len(samples)]
    return filtered


def _bins(edges_hz: tuple[float, float], step_hz: float, count: int) -> tuple[int, int]:
    """The bins of a skirt, and one more on either side: before and behind it nothing changes, or all goes."""
    first, last = (int(edge / step_hz) for edge in edges_hz)
    return min(max(0, first - 1), count), min(max(0, last + 2), count)


def _rise(at: np.ndarray) -> np.ndarray:
    smooth: np.ndarray = np.sin(0.5 * np.pi * np.clip(at, 0, 1)) ** 2
    return smooth.astype(np.float32)


def envelope(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """float64 [frames]: power over `SMOOTHED_S` around every `HOP_S`, the first around sample 0."""
    half = max(1, round(SMOOTHED_S * rate_hz / 2))
    sums = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    centres = np.arange(int(len(samples) / (HOP_S * rate_hz)) + 1) * HOP_S * rate_hz
    first = np.clip(np.rint(centres).astype(int) - half, 0, len(samples))
    last = np.clip(np.rint(centres).astype(int) + half, 0, len(samples))
    power: np.ndarray = np.maximum(sums[last] - sums[first], 0.0) / (2 * half)
    return power
