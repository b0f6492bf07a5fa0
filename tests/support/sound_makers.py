"""Small sound files for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile


def tone(duration_s: float = 1.0, rate_hz: int = 44100, channels: int = 1, hz: float = 1000.0) -> np.ndarray:
    """[channels, samples]; every channel has its own level."""
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    levels = np.linspace(0.2, 0.4, channels)[:, np.newaxis]
    return (levels * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def save(path: Path, waveform: np.ndarray, rate_hz: int = 44100, subtype: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as stream:
        soundfile.write(stream, waveform.T, rate_hz, format=path.suffix[1:].upper(), subtype=subtype)
    return path


def truncate(path: Path, fraction: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path
