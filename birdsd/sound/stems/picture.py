"""The before/after sheet: each recording as it was, and its stems beside it on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from birdsd.sound.audio.recordings import probe, read
from birdsd.sound.separation.grid import Grid

SHOWN_S = 10.0
_RANGE_DB = 70.0
_TOP_HZ = 16000.0
_ROWS = 8


@dataclass(frozen=True)
class Shown:
    """A row: the recording's name, what is written above it, and sounds by title, float32 [n] at one rate."""

    name: str
    rate_hz: int
    start_s: float
    sounds: tuple[tuple[str, np.ndarray], ...]


def shown(name: str, files: Sequence[tuple[str, Path]], start_s: float) -> Shown:
    """A stretch of files that belong together, the recording first."""
    rate_hz = probe(files[0][1]).rate_hz
    sounds = [(title, read(path, rate_hz, start_s=start_s, duration_s=SHOWN_S)[0]) for title, path in files]
    return Shown(name, rate_hz, start_s, tuple(sounds))


def draw_sheet(rows: Sequence[Shown], path: Path) -> Path:
    """Write the sheet as a PNG; returns the path. Of many recordings the first eight are shown."""
    from matplotlib.figure import Figure

    from birdsd.sound.audit.picture import save_png

    rows = rows[:_ROWS]
    columns = max(len(row.sounds) for row in rows)
    figure = Figure(figsize=(4.6 * columns, 2.6 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        pictures = [_levels_db(sound, row.rate_hz) for _, sound in row.sounds]
        loudest = max(float(pictures[0].max()), -60.0)
        top_hz = min(_TOP_HZ, row.rate_hz / 2)
        for axis in line[len(row.sounds) :]:
            axis.set_axis_off()
        for axis, (title, sound), levels in zip(line, row.sounds, pictures, strict=False):
            axis.imshow(
                levels, origin="lower", aspect="auto", cmap="magma", vmin=loudest - _RANGE_DB, vmax=loudest,
                extent=(row.start_s, row.start_s + len(sound) / row.rate_hz, 0, top_hz / 1000),
            )  # fmt: skip
            axis.set_title(title, fontsize=9, parse_math=False)
        line[0].set_title(_short(f"{row.name}: {row.sounds[0][0]}"), fontsize=9, parse_math=False)
        line[0].set_ylabel("kHz")
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    return save_png(figure, path)


def _levels_db(sound: np.ndarray, rate_hz: int) -> np.ndarray:
    grid = Grid.of(rate_hz, 0.016)
    top = min(grid.bins, round(min(_TOP_HZ, rate_hz / 2) / grid.bin_hz))
    magnitude = np.abs(grid.spectrum(sound))[:, :top].T
    levels: np.ndarray = 20 * np.log10(magnitude / float(grid.hann.sum() / 2) + 1e-9)
    return levels


def _short(text: str) -> str:
    return text if len(text) <= 60 else "..." + text[-57:]
