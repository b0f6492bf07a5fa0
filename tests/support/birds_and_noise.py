"""Sounds to separate, made here: a bird with pauses, rain-like noise, and crickets that never pause."""

from __future__ import annotations

import numpy as np

RATE_HZ = 16000


def song(seconds: float, seed: int = 0, rate_hz: int = RATE_HZ, pitch_hz: float = 3500.0) -> np.ndarray:
    """Whistles of a third of a second that sweep, one each 1.2 s, with silence between: float32 [n]."""
    draw = np.random.default_rng(seed)
    out = np.zeros(round(seconds * rate_hz))
    for start_s in np.arange(0.4, seconds - 0.4, 1.2):
        time = np.arange(round(0.35 * rate_hz)) / rate_hz
        sweep = pitch_hz * (1 + 0.1 * draw.uniform(-1, 1)) * time + 900 * time**2
        note = np.sin(2 * np.pi * sweep) * np.hanning(len(time))
        first = round(start_s * rate_hz)
        out[first : first + len(note)] += 0.3 * note
    return out.astype(np.float32)


def rain(seconds: float, seed: int = 0, rate_hz: int = RATE_HZ, level: float = 0.05) -> np.ndarray:
    """White noise with a slow gust: float32 [n]."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = draw.standard_normal(len(time)) * (1 + 0.3 * np.sin(2 * np.pi * 0.3 * time + seed))
    return (level * noise).astype(np.float32)


def crickets(seconds: float, seed: int = 0, rate_hz: int = RATE_HZ, level: float = 0.1) -> np.ndarray:
    """A tone pulsed 18 times a second, without a pause: float32 [n]."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    pulses = np.clip(np.sin(2 * np.pi * 18 * time + seed), 0, 1)
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (level * np.sin(2 * np.pi * 4800 * time) * pulses + 0.05 * level * noise).astype(np.float32)


def at_0_db(bird: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The noise as loud as the bird."""
    return (noise * np.sqrt(np.mean(bird**2) / np.mean(noise**2))).astype(np.float32)
