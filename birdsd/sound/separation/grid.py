"""The time-frequency grid of separation: complex spectra of every frame of a signal, and exactly back.

The transforms of the codec give magnitudes only and drop what is left of a frame at the end; here every
sample lies under `window / hop` frames, so that what was not changed comes back as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from birdsd.errors import BadValue

WINDOW_S, OVERLAP = 0.032, 4  # at 32 kHz: 1024 samples, every 256
TOP_HZ = 16000.0  # bases say nothing of what is above: it goes with the last source


@dataclass(frozen=True)
class Grid:
    """A short-time Fourier transform with a periodic Hann window of `window` samples, every `hop` samples.

    Frame t begins at sample t * hop - (window - hop): the first and the last sample have as many frames over
    them as any other.
    """

    rate_hz: int
    window: int
    hop: int

    @classmethod
    def of(cls, rate_hz: int, window_s: float = WINDOW_S, overlap: int = OVERLAP) -> Grid:
        """The grid at a rate whose bins lie closest to those of every other rate, 1 / `window_s` Hz apart."""
        hop = max(1, round(rate_hz * window_s / overlap))
        if hop * overlap < 8:
            raise BadValue(
                f"a window of {1000 * window_s:g} ms is {hop * overlap} samples long at {rate_hz} Hz",
                "a spectrum needs 8 at least",
            )
        return cls(rate_hz, hop * overlap, hop)

    @property
    def bins(self) -> int:
        return self.window // 2 + 1

    @property
    def bin_hz(self) -> float:
        return self.rate_hz / self.window

    @property
    def hop_s(self) -> float:
        return self.hop / self.rate_hz

    @property
    def margin(self) -> int:
        """Samples on either side of a stretch that its frames reach into."""
        return self.window - self.hop

    @cached_property
    def hann(self) -> np.ndarray:
        """The window, float32 [window]."""
        return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)).astype(np.float32)

    @cached_property
    def _weight(self) -> np.ndarray:
        """float32 [hop]: what the squared windows over a sample sum to."""
        squared = np.square(self.hann.astype(np.float64)).reshape(-1, self.hop)
        return (1.0 / squared.sum(axis=0)).astype(np.float32)

    def frames(self, samples: int) -> int:
        """How many frames lie over so many samples."""
        return -(-(samples + self.margin) // self.hop)

    def spectrum(self, samples: np.ndarray) -> np.ndarray:
        """Complex64 [frames, bins] of a signal, float32 [n]; beyond its ends there is silence."""
        from scipy.fft import rfft

        count = self.frames(len(samples))
        padded = np.zeros((count - 1) * self.hop + self.window, np.float32)
        padded[self.margin : self.margin + len(samples)] = samples
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.window)[:: self.hop]
        found: np.ndarray = rfft(windows * self.hann, axis=1)
        return found

    def waveform(self, spectrum: np.ndarray, samples: int) -> np.ndarray:
        """Float32 [samples], whose spectrum is closest to `spectrum`, complex [frames, bins]."""
        from scipy.fft import irfft

        pieces = irfft(spectrum, self.window, axis=1) * self.hann
        count, overlap = len(pieces), self.window // self.hop
        out = np.zeros((count + overlap - 1, self.hop), np.float32)
        for k in range(overlap):
            out[k : k + count] += pieces[:, k * self.hop : (k + 1) * self.hop]
        out *= self._weight
        return out.reshape(-1)[self.margin : self.margin + samples]
