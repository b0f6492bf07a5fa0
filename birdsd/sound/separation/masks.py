"""Masks that share out every cell of a spectrogram among the sources: they are not negative and sum to
one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from birdsd.sound.separation import nmf
from birdsd.sound.separation.grid import Grid
from birdsd.sound.separation.model import DECIBEL, Bases

FLOOR_DB = -40.0  # what every source keeps of a cell that is another one's: below it lies musical noise
ITERATIONS = 40
POWER = 2.0  # of what a source explains: 1 shares out magnitudes, 2 powers, which takes more noise off
_TINY = 1e-12


def floored(masks: np.ndarray, floor_db: float) -> np.ndarray:
    """Masks [sources, frames, bins] that sum to one, none of them below `floor_db`; they still sum to one."""
    least = np.float32(10 ** (floor_db / 20))
    scaled: np.ndarray = least + (1 - len(masks) * least) * masks
    return scaled


def of_bases(
    bases: Bases,
    grid: Grid,
    magnitude: np.ndarray,
    features: np.ndarray,
    iterations: int = ITERATIONS,
    power: float = POWER,
) -> np.ndarray:
    """Float32 [sources, frames, bins] from bases that stay fixed.

    magnitude: float32 [frames, bins]; features: what the bases explain, [frames, rows of the bases] (see
    `features_of`). Bins that the bases say nothing of go with the last source.
    """
    bins, weights = bases.rows(grid)
    target = nmf.stacked(features, bases.depth)
    return shared_out(bases, weights, nmf.activate(target, weights, iterations), bins, magnitude.shape, power)


def shared_out(
    bases: Bases,
    weights: np.ndarray,
    activations: np.ndarray,
    bins: np.ndarray,
    shape: tuple[int, ...],
    power: float = POWER,
) -> np.ndarray:
    """The masks of bases whose activations are known: each source's share of what all of them explain."""
    count = len(bases.sources)
    parts = []
    for source in range(count):
        mine = bases.owner == source
        parts.append(nmf.unstacked(weights[:, mine], activations[mine], bases.depth))
    explained = np.stack(parts)
    explained += np.float32(_TINY)
    explained /= explained.max(axis=0)
    explained **= np.float32(power)
    masks = np.zeros((count, *shape), np.float32)
    masks[-1] = 1
    masks[:, :, bins] = explained / explained.sum(axis=0)
    return masks


def features_of(
    magnitude: np.ndarray, bins: np.ndarray, domain: str, background: np.ndarray | None, scale: float
) -> np.ndarray:
    """What bases explain of magnitudes [frames, all bins]: float32 [frames, len(bins)], about 1 on average.

    background: float32 [all bins] in dB, of domain=decibel.
    """
    if domain == DECIBEL:
        assert background is not None
        level = 10 * np.log10(magnitude[:, bins] + np.float32(_TINY)) - background[bins]
        return np.maximum(level, 0).astype(np.float32)
    found: np.ndarray = magnitude[:, bins] * np.float32(1 / scale)
    return found


def scale_of(magnitudes: Sequence[np.ndarray] | np.ndarray) -> float:
    """The mean of magnitudes: 0 for silence."""
    if isinstance(magnitudes, np.ndarray):
        return float(magnitudes.mean(dtype=np.float64)) if magnitudes.size else 0.0
    total = sum(float(one.sum(dtype=np.float64)) for one in magnitudes)
    return total / max(1, sum(one.size for one in magnitudes))


def background_db(magnitude: np.ndarray, percent: float = 10.0) -> np.ndarray:
    """The level under which a bin seldom falls, float32 [bins]: prewhitening as soundscape_IR does it."""
    found: np.ndarray = np.percentile(10 * np.log10(magnitude + _TINY), percent, axis=0).astype(np.float32)
    return found
