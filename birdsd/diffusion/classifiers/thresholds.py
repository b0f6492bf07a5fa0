"""Above which score a species counts as heard: found on held-out clips, a threshold for each."""

from __future__ import annotations

import numpy as np

USUAL = 0.5  # where held-out clips do not say


def best_thresholds(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each class the threshold with the highest F1, and whether the clips say anything of it.

    `scores` [clips, classes] in 0..1, `targets` [clips, classes] of 0 and 1. A threshold lies half-way
    between two scores; of several that are equally good it is the middle one. Where no clip holds the class,
    or all do, it is 0.5.
    """
    count = scores.shape[1]
    found, known = np.full(count, USUAL), np.zeros(count, bool)
    for number in range(count):
        wanted = targets[:, number] > 0.5
        if wanted.all() or not wanted.any():
            continue
        found[number], known[number] = _best(scores[:, number].astype(np.float64), wanted), True
    return found, known


def _best(score: np.ndarray, wanted: np.ndarray) -> float:
    values, first = np.unique(np.sort(score), return_index=True)
    between = np.concatenate([[values[0] / 2], (values[1:] + values[:-1]) / 2])
    # Of each threshold how many clips lie above it, and how many of those hold the class.
    heard = len(score) - first
    right = wanted.sum() - np.concatenate([[0], np.cumsum(wanted[np.argsort(score)])])[first]
    f1 = 2 * right / (heard + wanted.sum())
    equal = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(between[equal[len(equal) // 2]])


def f1_of(heard: np.ndarray, targets: np.ndarray) -> float | None:
    """The mean F1 of the classes that occur in `targets`; both bool [clips, classes]. None without any."""
    there = targets.any(axis=0)
    if not there.any():
        return None
    right = (heard & targets).sum(axis=0)
    each = 2 * right / np.maximum(1, heard.sum(axis=0) + targets.sum(axis=0))
    return float(each[there].mean())
