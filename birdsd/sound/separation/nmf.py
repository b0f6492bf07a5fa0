"""Non-negative matrix factorisation of magnitudes with the generalised Kullback-Leibler divergence.

Multiplicative updates (Lee and Seung 2001), in which any of the bases may be held fixed. V [rows, columns] is
about W [rows, bases] times H [bases, columns]. Magnitudes and not decibels: two sounds at once add up in the
first and not in the second. With `depth` frames stacked, a basis is a short piece of sound instead of one
spectrum: rows are the frames of a piece below each other, the latest delay last.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from birdsd.errors import BadValue

EPSILON = 1e-6  # of magnitudes whose mean is 1


def stacked(magnitude: np.ndarray, depth: int) -> np.ndarray:
    """Float32 [depth * bins, frames + depth - 1]: row block k holds the magnitudes [frames, bins] delayed by
    k frames."""
    frames, bins = magnitude.shape
    if depth == 1:
        return np.ascontiguousarray(magnitude.T, np.float32)
    out = np.zeros((depth, bins, frames + depth - 1), np.float32)
    for k in range(depth):
        out[k, :, k : k + frames] = magnitude.T
    return out.reshape(depth * bins, -1)


def unstacked(bases: np.ndarray, activations: np.ndarray, depth: int) -> np.ndarray:
    """Float32 [frames, bins]: what bases [depth * bins, n] with activations [n, frames + depth - 1] say of
    each frame, the mean of what its `depth` delays say."""
    frames = activations.shape[1] - depth + 1
    pieces = bases.reshape(depth, -1, bases.shape[1])
    total = np.zeros((pieces.shape[1], frames), np.float32)
    for k in range(depth):
        total += pieces[k] @ activations[:, k : k + frames]
    total /= depth
    return total.T


def learn(
    target: np.ndarray,
    bases: int,
    draw: np.random.Generator,
    *,
    iterations: int = 60,
    fixed: np.ndarray | None = None,
    what: str = "the sound",
) -> tuple[np.ndarray, np.ndarray]:
    """W [rows, fixed + bases] and H [.., columns] of `target` [rows, columns], whose mean is about 1.

    `fixed` [rows, n] come first and stay as they are. Columns of W sum to 1. `UserError` for more bases than
    columns, of which any could be explained by a basis of its own.
    """
    rows, columns = target.shape
    if bases > columns:
        raise BadValue(
            f"{bases} bases for {columns} frames of {what}",
            "there must be more frames than bases, or each frame becomes a basis",
            f"learn from a longer recording, or set bases={max(1, columns // 4)}",
        )
    known = 0 if fixed is None else fixed.shape[1]
    free = draw.random((rows, bases), dtype=np.float32) + np.float32(0.1)
    # Frames of the sound itself to begin with: a random spectrum is flat, and everything else is far away.
    energy = target.sum(axis=0, dtype=np.float64) + 1e-9
    picked = draw.choice(columns, size=bases, replace=False, p=energy / energy.sum())
    free *= target[:, picked] + EPSILON
    weights = free if fixed is None else np.concatenate([np.asarray(fixed, np.float32), free], axis=1)
    weights = weights / (weights.sum(axis=0, keepdims=True) + EPSILON)
    activations = (weights.T @ target) + np.float32(EPSILON)
    _iterate(target, weights, activations, iterations, slice(known, known + bases))
    return weights, activations


def activate(target: np.ndarray, weights: np.ndarray, iterations: int = 40) -> np.ndarray:
    """H [bases, columns] of `target` [rows, columns] for bases that stay as they are. Each column depends on
    its own column of `target` alone, so that pieces may be done one after the other."""
    weights = np.asarray(weights, np.float32)
    activations = (weights.T @ target) + np.float32(EPSILON)
    _iterate(target, weights, activations, iterations, None)
    return activations


def adapt(
    target: np.ndarray, weights: np.ndarray, rates: np.ndarray, iterations: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """The same with bases that follow the sound: W = (1 - rate) W + rate W' in each iteration.

    rates: float [bases] in 0..1; 0 stays, 1 is learnt anew. Returns W and H.
    """
    weights = np.array(weights, np.float32)
    activations = (weights.T @ target) + np.float32(EPSILON)
    rates = np.asarray(rates, np.float32)

    def blend(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        mixed: np.ndarray = (1 - rates) * old + rates * new
        return mixed

    _iterate(target, weights, activations, iterations, slice(0, weights.shape[1]), blend)
    return weights, activations


def _iterate(
    target: np.ndarray,
    weights: np.ndarray,
    activations: np.ndarray,
    iterations: int,
    free: slice | None,
    blend: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> None:
    """Update `activations`, and the columns `free` of `weights`, in place."""
    turned = np.ascontiguousarray(weights.T)
    ratio = np.empty_like(target)
    epsilon = np.float32(EPSILON)
    for _ in range(iterations):
        _ratio(target, weights, activations, ratio)
        activations *= turned @ ratio
        activations /= turned.sum(axis=1, keepdims=True) + epsilon
        if free is None:
            continue
        _ratio(target, weights, activations, ratio)
        active = activations[free]
        fresh = weights[:, free] * (ratio @ active.T)
        fresh /= active.sum(axis=1) + epsilon
        scale = fresh.sum(axis=0) + epsilon
        fresh /= scale
        if blend is None:
            activations[free] *= scale[:, None]  # W H stays what it was
        weights[:, free] = fresh if blend is None else blend(weights[:, free], fresh)
        turned[free] = weights[:, free].T


def _ratio(target: np.ndarray, weights: np.ndarray, activations: np.ndarray, out: np.ndarray) -> None:
    np.matmul(weights, activations, out=out)
    out += np.float32(EPSILON)
    np.divide(target, out, out=out)


def divergence(target: np.ndarray, weights: np.ndarray, activations: np.ndarray) -> float:
    """The generalised Kullback-Leibler divergence of `target` from W H, which the updates never increase."""
    model = weights.astype(np.float64) @ activations + EPSILON
    exact = target.astype(np.float64) + EPSILON
    return float((exact * np.log(exact / model) - exact + model).sum())
