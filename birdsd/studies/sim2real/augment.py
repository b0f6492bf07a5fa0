"""Augmented copies of real windows, each a function of (the sound's name, the number of the copy).

On power, never on decibels. What moves a bird's frequencies or its tempo stays out: that is what species
differ in.
"""

from __future__ import annotations

import numpy as np

from birdsd.randomness import generator
from birdsd.sound.mixing import mix_at_snr

SHIFT_S = 1.0
SNR_DB = (3.0, 30.0)
TILT_DB = 6.0  # of the equaliser, at each of its points
_POINTS_HZ = (0.0, 500.0, 1_000.0, 2_000.0, 4_000.0, 8_000.0, 16_000.0)
_COLOURS = (-1.0, 2.0)  # spectral slope of noise: power ~ frequency ** -slope
_NOISY, _EQUALISED = 0.7, 0.7  # how often
RECIPE = ["shift", SHIFT_S, "noise", _NOISY, *SNR_DB, *_COLOURS, "equaliser", _EQUALISED, TILT_DB]


def augmented(waveform: np.ndarray, rate_hz: int, name: str, variant: int) -> np.ndarray:
    """A copy of float32 [channels, samples]: moved in time with silence behind it, through a random
    equaliser, in coloured noise at a drawn SNR."""
    random = generator("augmented", name, variant)
    shift = round(float(random.uniform(-SHIFT_S, SHIFT_S)) * rate_hz)
    shift = int(np.clip(shift, -waveform.shape[-1] // 3, waveform.shape[-1] // 3))
    moved = np.zeros_like(waveform)
    if shift >= 0:
        moved[:, shift:] = waveform[:, : waveform.shape[-1] - shift]
    else:
        moved[:, :shift] = waveform[:, -shift:]
    if random.random() < _EQUALISED:
        gains_db = random.uniform(-TILT_DB, TILT_DB, len(_POINTS_HZ))
        frequency = np.fft.rfftfreq(moved.shape[-1], 1 / rate_hz)
        curve = 10 ** (np.interp(frequency, _POINTS_HZ, gains_db) / 20)
        moved = np.fft.irfft(np.fft.rfft(moved) * curve, moved.shape[-1]).astype(np.float32)
    if random.random() < _NOISY:
        noise = coloured_noise(random, moved.shape, float(random.uniform(*_COLOURS)))
        moved = mix_at_snr(moved, noise, float(random.uniform(*SNR_DB)), rate_hz).waveform
    return np.asarray(moved, dtype=np.float32)


def coloured_noise(random: np.random.Generator, shape: tuple[int, ...], slope: float) -> np.ndarray:
    """float32 noise whose power falls as frequency ** -slope; its highest value is 0.5."""
    spectrum = np.fft.rfft(random.standard_normal(shape))
    weight = np.arange(spectrum.shape[-1], dtype=np.float64)
    weight[0] = 1.0
    noise = np.fft.irfft(spectrum * weight ** (-slope / 2), shape[-1])
    return np.asarray(0.5 * noise / (np.abs(noise).max() + 1e-12), dtype=np.float32)
