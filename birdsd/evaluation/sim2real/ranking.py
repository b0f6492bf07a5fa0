"""Macro figures of a classifier's scores under any weights of the recordings, for a whole bootstrap at once.

Classes count equally, and only those that occur: of a class without a clip nothing can be said.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]  # weights of recordings [draws, recordings] -> [draws]


def macro_average_precision(scores: np.ndarray, classes: np.ndarray, recordings: np.ndarray) -> Statistic:
    """Of scores [clips, classes], the true class and the recording (a number) of each clip.

    Average precision without interpolation, over thresholds: clips with the same score are ranked together.
    """
    ranked = [_Ranked(scores[:, kind], classes == kind, recordings) for kind in np.unique(classes)]

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.nanmean(np.stack([one(weights) for one in ranked]), axis=0)

    return statistic


def average_precisions(scores: np.ndarray, classes: np.ndarray) -> dict[int, float]:
    """The average precision of each class that occurs, every clip counting once."""
    each = np.arange(len(classes))
    once = np.ones((1, len(classes)))
    return {
        int(kind): float(_Ranked(scores[:, kind], classes == kind, each)(once)[0])
        for kind in np.unique(classes)
    }


class _Ranked:
    """One class's clips by falling score."""

    def __init__(self, scores: np.ndarray, right: np.ndarray, recordings: np.ndarray) -> None:
        order = np.argsort(-scores, kind="stable")
        sorted_scores = scores[order]
        self.right = right[order].astype(np.float64)
        self.recordings = np.asarray(recordings)[order]
        ends = np.flatnonzero(np.append(sorted_scores[1:] != sorted_scores[:-1], True))
        self.last = ends[np.searchsorted(ends, np.arange(len(order)))]  # of the clips with the same score

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        each = weights[:, self.recordings].astype(np.float64)
        true = each * self.right
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = (np.cumsum(true, axis=1) / np.cumsum(each, axis=1))[:, self.last]
            return np.where(true > 0, true * precision, 0.0).sum(axis=1) / true.sum(axis=1)


def accuracy_and_macro_f1(scores: np.ndarray, classes: np.ndarray) -> tuple[float, float]:
    """(share of clips whose highest score is the true class; unweighted mean of F1 over classes that
    occur)."""
    named = scores.argmax(axis=1)
    values = []
    for kind in np.unique(classes):
        both = float(((named == kind) & (classes == kind)).sum())
        values.append(2 * both / float((named == kind).sum() + (classes == kind).sum()))
    return float((named == classes).mean()), float(np.mean(values))
