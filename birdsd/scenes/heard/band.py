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
    spectrum: np.ndarray = scipy.fft.rfft(_padded(samples, edge, size))
    band = _Band(len(spectrum), rate_hz / size, rate_hz / 2, low_hz, high_hz, exact)
    spectrum[: band.first] = 0
    spectrum[band.last :] = 0
    band.shape(spectrum[band.first : band.last])
    filtered: np.ndarray = scipy.fft.irfft(spectrum, size)[edge : edge + len(samples)]
    return filtered


def band_power(samples: np.ndarray, rate_hz: int, low_hz: float, high_hz: float, margin: int = 0) -> float:
    """The mean square of `band_passed(..., exact=True)` without `margin` samples at either end, to 1% where
    they last for more than a few periods of the band.

    Only the band is transformed, and goes back into time as an analytic signal at a lower rate: as exact, and
    in a third of the time.
    """
    edge = round(_EDGE_S * rate_hz)
    size = _transform_size(len(samples) + 2 * edge)
    band = _Band(size // 2 + 1, rate_hz / size, rate_hz / 2, low_hz, high_hz, exact=True)
    if band.last <= band.first or len(samples) <= 2 * margin:
        return 0.0
    spectrum = _bins(_padded(samples, edge, size), band.first, band.last)
    band.shape(spectrum)
    # A point of a narrow band would last long: with at least 512, the span is cut where it ends.
    points = max(512, scipy.fft.next_fast_len(len(spectrum)))
    analytic = scipy.fft.ifft(spectrum, points)
    begin, end = (round(at * points / size) for at in (edge + margin, edge + len(samples) - margin))
    inside = analytic[begin : max(end, begin + 1)].view(np.float32)
    # The two halves of the spectrum of a real signal, and ifft's division by fewer points.
    return 4 * float(np.vdot(inside, inside)) / len(inside) * (points / size) ** 2


def _transform_size(least: int) -> int:
    """A size of `least` or a little more of which few factors are not 2: faster than scipy's next one. A
    multiple of 8."""
    power = 1 << max(3, (least - 1).bit_length() - 3)
    return int(power * next(n for n in (5, 6, 8) if power * n >= least))


def _padded(samples: np.ndarray, edge: int, size: int) -> np.ndarray:
    """float32 [size]: the samples behind `edge` zeros, and zeros behind them."""
    padded = np.zeros(size, np.float32)
    padded[edge : edge + len(samples)] = samples
    return padded


def _bins(samples: np.ndarray, first: int, last: int) -> np.ndarray:
    """complex64 [last - first]: these bins of the spectrum of real float32 [samples], a multiple of 8.

    Every fourth sample is a signal of its own, and four are transformed at once, which takes little longer
    than one of them (decimation in time).
    """
    size = len(samples)
    half = size // 8  # the four spectra are mirrored there, and begin anew at twice that
    parts = scipy.fft.rfft(samples.reshape(-1, 4), axis=0)
    turns = _turns(first, last - first, size)
    bins = np.empty(last - first, np.complex64)
    for number in range(first // half, (last - 1) // half + 1):
        begin, end = max(first, number * half), min(last, (number + 1) * half)
        turn, found = turns[begin - first : end - first], bins[begin - first : end - first]
        low, high = begin - number * half, end - number * half
        rows = parts[low:high]
        if mirrored := number % 2 == 1:
            rows, turn = parts[half - high + 1 : half - low + 1][::-1], turn.conj()
        np.multiply(rows[:, 3], turn, out=found)
        for part in (2, 1):
            found += rows[:, part]
            found *= turn
        found += rows[:, 0]
        if mirrored:
            np.conjugate(found, out=found)
    return bins


def _turns(first: int, count: int, size: int) -> np.ndarray:
    """complex64 [count]: exp(-2 pi i k / size) for k from `first` on."""
    step, few = -2j * np.pi / size, 64
    fine = np.exp(step * np.arange(few)).astype(np.complex64)
    coarse = np.exp(step * np.arange(first, first + count, few)).astype(np.complex64)
    turns: np.ndarray = np.multiply.outer(coarse, fine).reshape(-1)[:count]
    return turns


class _Band:
    """Which bins of a spectrum a band has with its skirts: `first` to before `last`."""

    def __init__(
        self, count: int, bin_hz: float, highest_hz: float, low_hz: float, high_hz: float, exact: bool
    ) -> None:
        self.first, self.last, self._step_hz = 0, count, np.float32(bin_hz)
        self._rises: list[tuple[int, int, float, float, float]] = []  # bins, and where and how it rises
        inside = 0.5 if exact else 0.0  # the share of a skirt that lies in the band
        if low_hz > 0:
            skirt = _EXACT_HZ if exact else max(_SKIRT_HZ, low_hz / 10)
            bins = self._near(low_hz - (1 - inside) * skirt, low_hz + inside * skirt, count)
            self._rises.append((*bins, low_hz, skirt, 1 - inside))
            self.first = bins[0]
        if high_hz < highest_hz:
            skirt = _EXACT_HZ if exact else max(_SKIRT_HZ, high_hz / 20)
            bins = self._near(high_hz - inside * skirt, high_hz + (1 - inside) * skirt, count)
            self._rises.append((*bins, high_hz, -skirt, 1 - inside))
            self.last = bins[1]

    def _near(self, from_hz: float, to_hz: float, count: int) -> tuple[int, int]:
        """The bins of a skirt, and one more on either side: before and behind it nothing changes, or all
        goes."""
        first, last = (int(edge / self._step_hz) for edge in (from_hz, to_hz))
        return min(max(0, first - 1), count), min(max(0, last + 2), count)

    def shape(self, spectrum: np.ndarray) -> None:
        """Put the skirts on the bins from `first` to `last`."""
        for first, last, edge_hz, skirt_hz, share in self._rises:
            first, last = max(first, self.first), min(last, self.last)
            hz = np.arange(first, last, dtype=np.float32) * self._step_hz
            spectrum[first - self.first : last - self.first] *= _rise((hz - edge_hz) / skirt_hz + share)


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
