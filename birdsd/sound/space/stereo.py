"""The azimuth of a source heard by an ORTF pair: from the delay and the difference of the levels, together.

A delay alone is ambiguous for a whistle, whose period is shorter than the pair is wide; a level difference
alone is coarse. Behind is heard as in front.
"""

from __future__ import annotations

import numpy as np

from birdsd.sound.space.air import Air
from birdsd.sound.space.intensity import spectra
from birdsd.sound.space.layouts import ORTF, Layout, Position

_LOUD = 95  # percentile
_STEP_DEG = 0.5
_LEAST_HZ = 300.0
_LEVEL_DB = 1.5  # how well level differences are known


def ortf_azimuth(pair: np.ndarray, rate_hz: int, air: Air | None = None) -> float | None:
    """Degrees, -90 to 90, of [2, n] left and right; None for silence."""
    left, right = spectra(pair, rate_hz)
    energy = np.square(np.abs(left)) + np.square(np.abs(right))
    hz = np.linspace(0, rate_hz / 2, energy.shape[1])
    energy[:, hz < _LEAST_HZ] = 0
    chosen = energy >= max(float(np.percentile(energy, _LOUD)), 1e-30)
    if not chosen.any() or not energy.max() > 0:
        return None
    weight = np.sqrt(energy[chosen])
    cross = (left * np.conj(right))[chosen]
    cross = weight * cross / np.maximum(np.abs(cross), 1e-30)
    at_hz = np.broadcast_to(hz, energy.shape)[chosen]
    # One sum per frequency: the grid of azimuths is then small work.
    tones, which = np.unique(at_hz, return_inverse=True)
    sums = np.bincount(which, cross.real) + 1j * np.bincount(which, cross.imag)
    levels = 10 * np.log10(
        np.square(np.abs(left[chosen])).sum() / max(float(np.square(np.abs(right[chosen])).sum()), 1e-30)
    )
    layout, air = Layout(ORTF), air or Air()
    grid = np.arange(-90, 90 + _STEP_DEG, _STEP_DEG)
    paths = [layout.paths(Position(float(a)), air) for a in grid]
    delays = np.array([p.delays_s[1] - p.delays_s[0] for p in paths])
    asked = np.array([20 * np.log10(max(p.gains[0], 1e-3) / max(p.gains[1], 1e-3)) for p in paths])
    agree = (sums[None] * np.exp(-2j * np.pi * delays[:, None] * tones)).real.sum(axis=1) / weight.sum()
    score = agree - 0.5 * np.square((asked - levels) / _LEVEL_DB) / 10
    best = int(np.argmax(score))
    return float(grid[best] + _STEP_DEG * _vertex(score, best))


def _vertex(values: np.ndarray, at: int) -> float:
    """Where a parabola through a peak and its neighbours is highest, against the peak, in steps."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = values[at - 1 : at + 2]
    bend = before - 2 * here + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
