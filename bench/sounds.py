"""Sound to measure with, made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from birdsd.sound.audio.recordings import write_wav


def recording(path: Path, seconds: float, rate_hz: int, seed: int = 0) -> Path:
    """A wav file with chirps over noise; float32 noise is what compresses worst, as recordings do. Seeds sing
    at other pitches and speeds, so that recordings are not taken for one another."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch, speed, beat = 1 + 0.07 * (seed % 13), 3 + 0.37 * (seed % 17), 7 + 0.61 * (seed % 19)
    chirp = np.sin(2 * np.pi * pitch * (3000 + 1000 * np.sin(2 * np.pi * speed * time)) * time / 4) * (
        np.sin(beat * time) > 0.3
    )
    wave = 0.3 * chirp + 0.02 * draw.standard_normal(len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, wave.astype(np.float32)[None], rate_hz)
    return path


def recordings(folder: Path, count: int, seconds: float, rate_hz: int) -> Path:
    """`count` of them, all different: what is the same to the byte, prepare takes for one recording."""
    for number in range(count):
        recording(folder / f"recording_{number:05d}.wav", seconds, rate_hz, seed=number)
    return folder
