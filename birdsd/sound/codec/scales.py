"""Frequency scales: from STFT bins to the bands of an image, and back.

A bank is a matrix [bands, bins] of triangles, and nearly all of it is zero: each FFT bin belongs to
at most two triangles. The usual libraries spend most of their time on the dense product; here only
small blocks along the diagonal are multiplied.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike

from birdsd.errors import BadValue, UserError, unknown_name

SCALES = ("linear", "log", "mel")
MEL_FORMULAS = ("htk", "slaney")
MEL_NORMS = ("none", "slaney")
_BANDS_PER_BLOCK = 16
_FRAMES_PER_BLOCK = 64


def hz_to_mel(hz: ArrayLike, formula: str = "htk") -> np.ndarray:
    """Frequencies in Hz on the mel scale: HTK's formula, or Slaney's Auditory Toolbox (1998)."""
    frequency = np.asarray(hz, np.float64)
    if formula == "htk":
        return 2595.0 * np.log10(1.0 + frequency / 700.0)
    # Slaney: linear to 1 kHz (200/3 Hz a mel), then logarithmic (6.4 in 27 steps).
    return np.where(
        frequency < 1000,
        frequency * 3 / 200,
        15 + np.log(np.maximum(frequency, 1e-9) / 1000) * 27 / np.log(6.4),
    )


def mel_to_hz(mel: ArrayLike, formula: str = "htk") -> np.ndarray:
    """The inverse of `hz_to_mel`."""
    mels = np.asarray(mel, np.float64)
    if formula == "htk":
        return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))


def band_corners(
    scale: str, bands: int, fmin_hz: float, fmax_hz: float, mel_formula: str = "htk"
) -> np.ndarray:
    """Corners of the triangles in Hz, [bands + 2]: band b rises from b, peaks at b + 1, ends at b + 2.

    mel: fmin and fmax are the outermost corners, as in every mel library. linear and log: they are the
    centres of the lowest and highest band, so that a linear scale can sit exactly on the FFT's bins.
    """
    if scale == "mel":
        low, high = hz_to_mel([fmin_hz, fmax_hz], mel_formula)
        return mel_to_hz(np.linspace(low, high, bands + 2), mel_formula)
    steps = np.arange(-1, bands + 1) / max(bands - 1, 1)
    if scale == "linear":
        return fmin_hz + (fmax_hz - fmin_hz) * steps
    if scale == "log":
        return fmin_hz * (fmax_hz / fmin_hz) ** steps
    raise unknown_name("frequency scale", scale, SCALES)


@dataclass(frozen=True)
class Weights:
    """The non-zero weights of a bank, as a list of entries; every array is [entries]."""

    band: np.ndarray
    bin: np.ndarray
    weight: np.ndarray  # float64
    bands: int
    bins: int

    @property
    def empty_bands(self) -> np.ndarray:
        return np.flatnonzero(np.bincount(self.band, minlength=self.bands) == 0)


def triangle_weights(corners_hz: np.ndarray, bin_hz: np.ndarray) -> Weights:
    """Triangles with the given corners (see `band_corners`), sampled at the frequencies `bin_hz`."""
    # Bin k lies between the peaks of bands `below` and `below + 1`; it falls for one, rises for the other.
    bands = len(corners_hz) - 2
    below = np.searchsorted(corners_hz, bin_hz, side="right") - 2
    inside = np.flatnonzero((below >= -1) & (below < bands))
    below = below[inside]
    left, right = corners_hz[below + 1], corners_hz[below + 2]
    rise = (bin_hz[inside] - left) / (right - left)
    band = np.concatenate([below, below + 1])
    weight = np.concatenate([1.0 - rise, rise])
    # Weights of rounding noise would make an empty filter look filled and a linear bank not diagonal.
    keep = (band >= 0) & (band < bands) & (weight > 1e-9)
    return Weights(band[keep], np.concatenate([inside, inside])[keep], weight[keep], bands, len(bin_hz))


@dataclass(frozen=True)
class FilterBank:
    """Bins to bands and back, frame-major: every array here is [frames, bins] or [frames, bands]."""

    weights: Weights
    centre_hz: np.ndarray  # float64 [bands]

    @cached_property
    def used_bins(self) -> slice:
        """The range of bins that any band looks at; no other bin needs a magnitude."""
        return slice(int(self.weights.bin.min()), int(self.weights.bin.max()) + 1)

    @cached_property
    def identity(self) -> bool:
        """Whether the bands simply are the used bins, one for one."""
        w = self.weights
        width = self.used_bins.stop - self.used_bins.start
        return len(w.band) == w.bands == width and bool(np.all(np.abs(w.weight - 1) < 1e-9))

    @cached_property
    def _blocks(self) -> list[tuple[slice, slice, np.ndarray]]:
        """The bank as small dense matrices on its diagonal: (bands, used bins, float32 [bins, bands]).

        A few bands at a time go through BLAS without ever being transposed or gathered.
        """
        w, blocks = self.weights, []
        column = w.bin - self.used_bins.start
        for first in range(0, w.bands, _BANDS_PER_BLOCK):
            bands = slice(first, min(first + _BANDS_PER_BLOCK, w.bands))
            mine = (w.band >= bands.start) & (w.band < bands.stop)
            low, high = int(column[mine].min()), int(column[mine].max()) + 1
            matrix = np.zeros((high - low, bands.stop - bands.start), np.float32)
            matrix[column[mine] - low, w.band[mine] - first] = w.weight[mine]
            blocks.append((bands, slice(low, high), matrix))
        return blocks

    def apply_to_used(self, magnitude: np.ndarray) -> np.ndarray:
        """Bands [frames, bands] of magnitudes [frames, used bins]; float32."""
        if self.identity:
            return magnitude
        out = np.empty((len(magnitude), self.weights.bands), np.float32)
        for bands, bins, matrix in self._blocks:
            np.matmul(magnitude[:, bins], matrix, out=out[:, bands])
        return out

    def _spread(self, bands_of: np.ndarray) -> np.ndarray:
        """The transposed product: [frames, bands] to [frames, used bins]."""
        out = np.zeros((len(bands_of), self.used_bins.stop - self.used_bins.start), np.float32)
        for bands, bins, matrix in self._blocks:
            out[:, bins] += bands_of[:, bands] @ matrix.T
        return out

    @cached_property
    def _cover(self) -> np.ndarray:
        """The sum of the weights on every used bin, float32."""
        w = self.weights
        return np.bincount(w.bin, w.weight, minlength=w.bins)[self.used_bins].clip(1e-6).astype(np.float32)

    def correction(self, magnitude: np.ndarray, bands: np.ndarray) -> np.ndarray:
        """Factors [frames, bins] that bring the bands of `magnitude` [frames, bins] close to `bands`.

        A bin takes the mean of what its bands ask for; bins that no band covers get zero.
        """
        ratio = bands / (self.apply(magnitude) + np.float32(1e-20))
        factors = np.zeros(magnitude.shape, np.float32)
        np.divide(self._spread(ratio), self._cover, out=factors[:, self.used_bins])
        return factors

    def apply(self, magnitude: np.ndarray) -> np.ndarray:
        """Bands [frames, bands] of magnitudes [frames, bins]; float32."""
        return self.apply_to_used(magnitude[:, self.used_bins])

    def invert(self, bands: np.ndarray, iterations: int = 10) -> np.ndarray:
        """Non-negative magnitudes [frames, bins] whose bands are close to `bands` [frames, bands].

        Starts from every band's mean density spread over its triangle and improves it by
        multiplicative updates of the least-squares problem (Lee and Seung 2001), which stay
        non-negative. Bins that no band covers get zero. Exact for a bank of single bins.
        """
        full = np.zeros((len(bands), self.weights.bins), np.float32)
        if self.identity:
            full[:, self.used_bins] = bands
            return full
        w = self.weights
        share = np.bincount(w.band, w.weight, minlength=w.bands).astype(np.float32)
        for start in range(0, len(bands), _FRAMES_PER_BLOCK):
            target = np.maximum(bands[start : start + _FRAMES_PER_BLOCK], 0, dtype=np.float32)
            estimate = self._spread(target / share)
            estimate /= self._cover
            numerator = self._spread(target)
            for _ in range(iterations):
                denominator = self._spread(self.apply_to_used(estimate))
                denominator += np.float32(1e-20)
                np.divide(numerator, denominator, out=denominator)
                estimate *= denominator
            full[start : start + _FRAMES_PER_BLOCK, self.used_bins] = estimate
        return full


@lru_cache(maxsize=16)
def filter_bank(
    scale: str,
    rate_hz: int,
    n_fft: int,
    bands: int,
    fmin_hz: float,
    fmax_hz: float,
    mel_formula: str = "htk",
    mel_norm: str | None = None,
) -> FilterBank:
    """The bank for an FFT of `n_fft` at `rate_hz`; a filter that would see no bin is refused."""
    corners = band_corners(scale, bands, fmin_hz, fmax_hz, mel_formula)
    weights = triangle_weights(corners, np.fft.rfftfreq(n_fft, 1 / rate_hz))
    if len(weights.empty_bands):
        raise _empty_filters(weights, corners, scale, rate_hz, n_fft, (fmin_hz, fmax_hz, mel_formula))
    if mel_norm == "slaney" and scale == "mel":
        height = 2.0 / (corners[2:] - corners[:-2])
        weights = dataclasses.replace(weights, weight=weights.weight * height[weights.band])
    return FilterBank(weights, corners[1:-1])


def _empty_filters(
    weights: Weights,
    corners: np.ndarray,
    scale: str,
    rate_hz: int,
    n_fft: int,
    limits: tuple[float, float, str],
) -> UserError:
    """The refusal of a bank with empty filters, with the FFT size and the band count that would work."""
    from scipy.fft import next_fast_len

    def works(count: int, size: int) -> bool:
        tried = triangle_weights(band_corners(scale, count, *limits), np.fft.rfftfreq(size, 1 / rate_hz))
        return not len(tried.empty_bands)

    bands, size, ways = weights.bands, n_fft, []
    while size <= 16 * n_fft and not works(bands, size):
        size = 2 * int(next_fast_len(int(size * 0.525) + 1, real=True))
    if works(bands, size):
        ways.append(f"set n_fft={size}")
    fewer = bands
    while fewer > 1 and not works(fewer, n_fft):
        fewer = int(fewer * 0.95)
    if works(fewer, n_fft):
        ways.append(f"set bands={fewer}")
    first = corners[weights.empty_bands[0] + 1]
    return BadValue(
        f"{len(weights.empty_bands)} of the {bands} {scale} filters see no FFT bin "
        f"(the lowest at {first:.0f} Hz): with n_fft={n_fft} at {rate_hz} Hz the bins are "
        f"{rate_hz / n_fft:.1f} Hz apart",
        "every band of the image must contain at least one bin, or the spectrogram cannot be inverted",
        ", or ".join([*ways, "raise fmin_hz"]),
    )
