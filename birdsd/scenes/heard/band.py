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
    spectrum = _spectrum(samples, edge, size)
    first, last = _shape(spectrum, rate_hz / size, rate_hz / 2, low_hz, high_hz, exact)
    spectrum[:first] = 0
    spectrum[last:] = 0
    filtered: np.ndarray = scipy.fft.irfft(spectrum, size)[edge : edge + len(samples)]
    return filtered


def band_power(samples: np.ndarray, rate_hz: int, low_hz: float, high_hz: float, margin: int = 0) -> float:
    """The mean square of `band_passed(..., exact=True)` without `margin` samples at either end, to 1% where
    they last for more than a few periods of the band.

    Only the band goes back into time, as an analytic signal at a lower rate: as exact, and in half the time.
    """
    edge = round(_EDGE_S * rate_hz)
    size = _transform_size(len(samples) + 2 * edge)
    spectrum = _spectrum(samples, edge, size)
    first, last = _shape(spectrum, rate_hz / size, rate_hz / 2, low_hz, high_hz, exact=True)
    if last <= first or len(samples) <= 2 * margin:
        return 0.0
    # A point of a narrow band would last long: with at least 512, the span is cut where it ends.
    points = max(512, scipy.fft.next_fast_len(last - first))
    analytic = scipy.fft.ifft(spectrum[first:last], points)
    begin, end = (round(at * points / size) for at in (edge + margin, edge + len(samples) - margin))
    inside = analytic[begin : max(end, begin + 1)].view(np.float32)
    # The two halves of the spectrum of a real signal, and ifft's division by fewer points.
    return 4 * float(np.vdot(inside, inside)) / len(inside) * (points / size) ** 2


def _transform_size(least: int) -> int:
    """A size of `least` or a little more of which few factors are not 2: faster than scipy's next one."""
    power = 1 << max(0, (least - 1).bit_length() - 3)
    return int(power * next(n for n in (5, 6, 8, 9, 10, 12, 16) if power * n >= least))


def _spectrum(samples: np.ndarray, edge: int, size: int) -> np.ndarray:
    """complex64 [size // 2 + 1] of the samples, zeros around them."""
    padded = np.zeros(size, np.float32)
    padded[edge : edge + len(samples)] = samples
    spectrum: np.ndarray = scipy.fft.rfft(padded)
    return spectrum


def _shape(
    spectrum: np.ndarray, bin_hz: float, highest_hz: float, low_hz: float, high_hz: float, exact: bool
) -> tuple[int, int]:
    """Put the skirts of a band on a spectrum; the first bin that is not zero after it, and the one after the
    last."""
    step_hz = np.float32(bin_hz)
    inside = 0.5 if exact else 0.0  # the share of a skirt that lies in the band
    begin, end = 0, len(spectrum)
    if low_hz > 0:
        skirt = _EXACT_HZ if exact else max(_SKIRT_HZ, low_hz / 10)
        first, last = _bins((low_hz - (1 - inside) * skirt, low_hz + inside * skirt), step_hz, len(spectrum))
        hz = np.arange(first, last, dtype=np.float32) * step_hz
        spectrum[first:last] *= _rise((hz - low_hz) / skirt + 1 - inside)
        begin = first
    if high_hz < highest_hz:
        skirt = _EXACT_HZ if exact else max(_SKIRT_HZ, high_hz / 20)
        first, last = _bins(
            (high_hz - inside * skirt, high_hz + (1 - inside) * skirt), step_hz, len(spectrum)
        )
        hz = np.arange(first, last, dtype=np.float32) * step_hz
        spectrum[first:last] *= _rise((high_hz - hz) / skirt + 1 - inside)
        end = last
    return begin, end


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
