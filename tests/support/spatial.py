"""Birds at known places: songs with many partials, and what ideal receivers hear of them."""

from __future__ import annotations

import numpy as np

from birdsd.sound.space.air import Air
from birdsd.sound.space.diffuse import waves
from birdsd.sound.space.layouts import FOA, Layout, Position
from birdsd.sound.space.propagate import NO_REVERBERATION, Reverberation, render

RATE_HZ = 32000
AIR = Air()
IN_FOA = Layout(FOA)


def song(seed: int, seconds: float = 2.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    """float32: syllables that sweep, each another, with pauses between."""
    draw = np.random.default_rng([seed, 7])
    out = np.zeros(round(seconds * rate_hz), np.float32)
    at = round(0.05 * rate_hz)
    base = draw.uniform(2000, 5000)
    while at < len(out) - round(0.25 * rate_hz):
        count = round(draw.uniform(0.05, 0.2) * rate_hz)
        hz = np.linspace(base * draw.uniform(0.8, 1.3), base * draw.uniform(0.8, 1.3), count)
        syllable = np.sin(2 * np.pi * np.cumsum(hz) / rate_hz) + 0.3 * np.sin(
            4 * np.pi * np.cumsum(hz) / rate_hz
        )
        out[at : at + count] += (0.3 * np.hanning(count) * syllable).astype(np.float32)
        at += count + round(draw.uniform(0.03, 0.12) * rate_hz)
    return out


def in_foa(
    sound: np.ndarray, azimuth_deg: float, elevation_deg: float = 0.0, distance_m: float = 10.0,
    reverberation: Reverberation = NO_REVERBERATION, seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """float32 [4, n]: W, Y, Z, X of a bird there."""
    place = Position(azimuth_deg, elevation_deg, distance_m)
    draw = np.random.default_rng(seed)
    return render(sound, RATE_HZ, (place, place), IN_FOA, AIR, reverberation, draw).T


def diffuse_foa(samples: int, seed: int) -> np.ndarray:
    """float32 [4, n]: white noise from everywhere, W of RMS 1."""
    draw = np.random.default_rng([seed, 11])
    gains = np.stack([IN_FOA.paths(one, AIR).gains for one in waves(64)])
    noise = draw.standard_normal((samples, len(gains)), dtype=np.float32)
    return (noise @ gains.astype(np.float32) / np.sqrt(len(gains))).T


def at_snr(bird: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Noise [4, n] so far below a bird [4, n], by their W over the whole."""
    have = 10 * np.log10(np.square(bird[0]).mean() / np.square(noise[0]).mean())
    return noise * np.float32(10 ** ((have - snr_db) / 20))
