"""Phases of magnitudes (Griffin-Lim), and spectra back to sound, written for speed on one core.

As in `birdsd.sound.codec.transform` everything is frame-major and walks over blocks of frames that stay in
the processor's cache: a whole spectrogram passes through memory once an iteration.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from birdsd.errors import unknown_name
from birdsd.randomness import generator
from birdsd.sound.codec.pghi import integrated_phase
from birdsd.sound.codec.scales import FilterBank
from birdsd.sound.codec.transform import Stft

PGHI, RANDOM = "pghi", "random"
STARTS = (PGHI, RANDOM)  # where the estimation of phases begins


class _Synthesis:
    """Least-squares inverse of an Stft (Griffin and Lim 1984), accumulated block by block."""

    def __init__(self, stft: Stft, frames: int) -> None:
        self.stft, self.samples = stft, frames * stft.hop
        self.overlaps = -(-stft.window // stft.hop)
        self.padded = np.zeros(self.samples + (self.overlaps + 1) * stft.hop + stft.window, np.float32)
        weight = np.zeros_like(self.padded)
        squared = np.broadcast_to(stft.hann**2, (frames, stft.window))
        self._overlap_add(weight, squared, 0)
        self.weight = self._fold(weight)
        # Where the windows hardly reach (the last samples of a clip with a short window) nothing is known.
        np.maximum(self.weight, 1e-3 * float(self.weight.max()), out=self.weight)

    def _overlap_add(self, signal: np.ndarray, windowed: np.ndarray, first_frame: int) -> None:
        hop, count = self.stft.hop, len(windowed)
        start = first_frame * hop
        for k in range(self.overlaps):
            piece = windowed[:, k * hop : (k + 1) * hop]
            begin = start + k * hop
            rows = signal[begin : begin + count * hop].reshape(count, hop)
            rows[:, : piece.shape[1]] += piece

    def _fold(self, signal: np.ndarray) -> np.ndarray:
        """Add what lies in the margins to the samples that they mirror, or in a loop repeat."""
        half, n = self.stft.window // 2, self.samples
        if self.stft.circular:
            out = np.zeros(n, np.float32)
            for first in range(-half, half + n, n):  # a loop shorter than half a window goes around often
                low, high = max(first, -half), min(first + n, half + n)
                out[low - first : high - first] += signal[half + low : half + high]
            # Pieces begin at -half: turned back to where the loop begins.
            return np.roll(out, -half)
        out = signal[half : half + n].copy()
        out[1 : half + 1] += signal[:half][::-1]
        tail = signal[half + n : half + n + half]
        out[n - 1 - len(tail) : n - 1] += tail[::-1]
        return out

    def clear(self) -> None:
        self.padded.fill(0)

    def add(self, spectrum: np.ndarray, first_frame: int) -> None:
        from scipy.fft import irfft

        frames = irfft(spectrum, self.stft.n_fft, axis=1, overwrite_x=True)[:, : self.stft.window]
        frames *= self.stft.hann
        self._overlap_add(self.padded, frames, first_frame)

    def waveform(self) -> np.ndarray:
        return self._fold(self.padded) / self.weight


def inverse(spectrum: np.ndarray, stft: Stft) -> np.ndarray:
    """The waveform, float32 [frames * hop], whose spectra come closest to `spectrum` [frames, stft.bins]."""
    synthesis = _Synthesis(stft, len(spectrum))
    for start in range(0, len(spectrum), stft.frames_per_block):
        synthesis.add(spectrum[start : start + stft.frames_per_block].astype(np.complex64), start)
    return synthesis.waveform()


def griffin_lim(
    magnitude: np.ndarray,
    stft: Stft,
    iterations: int = 32,
    momentum: float = 0.99,
    seed: int = 0,
    bank: FilterBank | None = None,
    bands: np.ndarray | None = None,
    start: str = PGHI,
) -> np.ndarray:
    """A waveform, float32 [frames * hop], whose STFT magnitudes are close to `magnitude`.

    magnitude: float32 [frames, stft.bins]. Fast Griffin-Lim (Perraudin, Balazs and Sondergaard 2013),
    `iterations` of it, from the phases that `magnitude` itself gives (`start` "pghi") or from random ones
    ("random"). Where a sum of phases begins is drawn, too, and depends on `seed` alone.

    With `bank` and `bands` [frames, bands], only the bands are held fast, and the magnitudes of the
    bins inside a band are found together with their phases (`magnitude` is where they start). What a
    filter bank has merged comes back 3 to 5 dB better than from any guess made beforehand.
    """
    if start not in STARTS:
        raise unknown_name("start of the phase", start, STARTS)
    divisor = 1 if bank is not None else stft.phase_divisor
    target = np.ascontiguousarray(magnitude[:, ::divisor], dtype=np.float32)
    small = replace(stft, n_fft=stft.n_fft // divisor)
    synthesis = _Synthesis(small, len(target))
    _start(synthesis, target, seed, start)
    previous = np.zeros(target.shape, np.complex64)
    inertia = np.float32(momentum / (1 + momentum))
    for _ in range(iterations):
        waveform = synthesis.waveform()
        synthesis.clear()
        for part, spectrum in small.spectra(waveform):
            direction = previous[part]
            direction *= -inertia
            direction += spectrum
            size = np.abs(direction)
            size += np.float32(1e-16)
            if bank is not None and bands is not None:
                direction = direction * bank.correction(size, bands[part])
            else:
                direction = direction * np.divide(target[part], size, out=size)
            previous[part] = spectrum
            synthesis.add(direction, part.start)
    return synthesis.waveform()


def _start(synthesis: _Synthesis, target: np.ndarray, seed: int, start: str) -> None:
    """Synthesise `target` [frames, bins] with first phases: those that it gives itself, or random ones.

    Random ones only where frames overlap less than eightfold. Elsewhere they follow the peaks: measured on
    songs that gains 1 to 3 dB there, and loses as much on fast sweeps where frames overlap fourfold.
    """
    stft = synthesis.stft
    draw = generator(seed, "griffin-lim")
    phase = draw.random(target.shape[1], dtype=np.float32) * np.float32(2 * np.pi)
    integrated = None
    if start == PGHI:
        drawn = draw.random(target.shape, dtype=np.float32) * np.float32(2 * np.pi)
        integrated = integrated_phase(target, drawn, stft)
    for first in range(0, len(target), stft.frames_per_block):
        part = target[first : first + stft.frames_per_block]
        if integrated is not None:
            angle = integrated[first : first + stft.frames_per_block]
        elif stft.window >= 8 * stft.hop:
            angle = _followed_peaks(part, phase, stft)
            phase = angle[-1]
        else:
            angle = draw.random(part.shape, dtype=np.float32) * np.float32(2 * np.pi)
        spectrum = np.empty(part.shape, np.complex64)
        np.multiply(part, np.cos(angle), out=spectrum.real)
        np.multiply(part, np.sin(angle), out=spectrum.imag)
        synthesis.add(spectrum, first)


def _followed_peaks(magnitude: np.ndarray, phase: np.ndarray, stft: Stft) -> np.ndarray:
    """Phases [frames, bins] of `magnitude` that go on from `phase` [bins] of the frame before.

    Single-pass spectrogram inversion (Beauregard, Harish and Wyse 2015): the phase of a peak advances
    by its interpolated frequency, and the bins around it are locked to it. Costs about three iterations.
    """
    # A window that starts at the first sample of its FFT turns neighbouring bins by this much.
    slope = np.float32(np.pi * stft.window / stft.n_fft)
    bins = np.arange(magnitude.shape[1], dtype=np.float32)
    angle = np.empty_like(magnitude)
    is_peak = (magnitude[:, 1:-1] > magnitude[:, :-2]) & (magnitude[:, 1:-1] >= magnitude[:, 2:])
    for row, frame in enumerate(magnitude):
        peak = np.flatnonzero(is_peak[row]) + 1
        if len(peak):
            left, top, right = frame[peak - 1], frame[peak], frame[peak + 1]
            place = peak + (left - right) / (2 * (left - 2 * top + right))  # the top of a parabola
            advanced = phase[peak] + place * (2 * np.pi * stft.hop / stft.n_fft)
            # Each bin belongs to the nearest peak.
            sizes = np.diff([0, *((peak[1:] + peak[:-1]) // 2 + 1), len(bins)])
            phase = np.repeat(np.float32(advanced % (2 * np.pi) + slope * place), sizes) - slope * bins
        angle[row] = phase
    return angle


def spectral_convergence_db(estimate: np.ndarray, reference: np.ndarray) -> float:
    """20 log10 of |estimate - reference| / |reference| (Frobenius norms of magnitudes); lower is better."""
    error = float(np.linalg.norm(np.asarray(estimate, np.float64) - reference))
    return float(20 * np.log10(max(error, 1e-30) / max(float(np.linalg.norm(reference)), 1e-30)))
