"""Sound to measure with: made here, and as many hours as wanted without filling the disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from birdsd.sound.audio.recordings import write_wav


def recording(path: Path, seconds: float, rate_hz: int, seed: int = 0) -> Path:
    """A wav file with chirps over noise; float32 noise is what compresses worst, as recordings do."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    chirp = np.sin(2 * np.pi * (3000 + 1000 * np.sin(2 * np.pi * 3 * time)) * time / 4) * (
        np.sin(7 * time) > 0.3
    )
    wave = 0.3 * chirp + 0.02 * draw.standard_normal(len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, wave.astype(np.float32)[None], rate_hz)
    return path


def linked(folder: Path, source: Path, count: int) -> Path:
    """`count` recordings that are one file on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        os.link(source, folder / f"recording_{number:05d}.wav")
    return folder
