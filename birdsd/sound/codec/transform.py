"""The short-time Fourier transform of everything here, written for speed on one core.

Everything is frame-major, [frames, bins] in float32/complex64, and walks over blocks of frames that
stay in the processor's cache: a whole spectrogram never passes through memory more than once. The FFTs
are scipy's (pocketfft), which transforms several frames at a time with SIMD.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_BLOCK_BYTES = 1 << 20  # of complex spectrum a block: with its few temporaries it fits a second-level cache


@dataclass(frozen=True)
class Stft:
    """A centred short-time Fourier transform with a periodic Hann window of `window` samples.

    Frame t is centred on sample t * hop; the signal is mirrored at its ends, and the window is
    padded with zeros to `n_fft`. Only magnitudes are given out, so where the window lies inside the
    FFT does not matter. `length` samples make length // hop frames: the image of a clip of
    frames * hop samples is exactly `frames` wide (libraries that centre give one frame more).
    With `circular` the signal is a loop: beyond either end lies the other one, not a mirror image.
    """

    window: int
    hop: int
    n_fft: int
    circular: bool = False

    @cached_property
    def hann(self) -> np.ndarray:
        """The window, float32 [window]."""
        return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)).astype(np.float32)

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1

    @property
    def phase_divisor(self) -> int:
        """Every how many bins are enough for the phase: zero padding beyond the window adds none.

        The largest divisor of n_fft that leaves an even FFT no shorter than the window.
        """
        fits = [d for d in range(1, self.n_fft // self.window + 1) if self.n_fft % (2 * d) == 0]
        return fits[-1] if fits else 1

    @cached_property
    def frames_per_block(self) -> int:
        # A multiple of 16: pocketfft takes that many frames at once, and any rest one by one.
        return max(16, _BLOCK_BYTES // (8 * self.bins) // 16 * 16)

    def mirrored(self, waveform: np.ndarray) -> np.ndarray:
        """`waveform` [samples] with half a window on either side: of its mirror image, in a loop of its other
        end."""
        return np.pad(waveform, self.window // 2, mode="wrap" if self.circular else "reflect")

    def _frames(self, mirrored: np.ndarray, count: int) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(mirrored, self.window)[:: self.hop][:count]

    def spectra(self, waveform: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Complex spectra of `waveform` [samples], block by block: (frames, complex64 [n, bins])."""
        from scipy.fft import rfft

        count = len(waveform) // self.hop
        frames = self._frames(self.mirrored(waveform), count)
        # Zero padding is written once: scipy would allocate and clear it for every block.
        padded = np.zeros((min(count, self.frames_per_block), self.n_fft), np.float32)
        for start in range(0, count, self.frames_per_block):
            part = slice(start, min(start + self.frames_per_block, count))
            block = padded[: part.stop - start]
            np.multiply(frames[part], self.hann, out=block[:, : self.window])
            yield part, rfft(block, axis=1)

    def magnitude(self, waveform: np.ndarray, bins: slice | None = None) -> np.ndarray:
        """Magnitudes float32 [len(waveform) // hop, bins], of all bins or of those asked for."""
        bins = bins or slice(0, self.bins)
        out = np.empty((len(waveform) // self.hop, bins.stop - bins.start), np.float32)
        for part, spectrum in self.spectra(np.asarray(waveform, np.float32)):
            np.abs(spectrum[:, bins], out=out[part])
        return out
