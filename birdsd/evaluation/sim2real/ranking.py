"""Macro figures of a classifier's scores under any weights of the recordings, for a whole bootstrap at once.

Classes count equally, and only those that occur: of a class without a clip nothing can be said.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from birdsd.evaluation.classification.ranking import Ranking

_TINY = 1e-12  # of a score
Statistic = Callable[[np.ndarray], np.ndarray]  # weights of recordings [draws, recordings] -> [draws]


def macro_average_precision(scores: np.ndarray, classes: np.ndarray, recordings: np.ndarray) -> Statistic:
    """Of scores [clips, classes], the true class and the recording (a number) of each clip.

    Average precision is that of `classification.ranking`: no interpolation, equal scores are ranked
    together.
    """
    kinds, ranking = _ranking(scores, classes)
    truth = (classes[:, None] == kinds).astype(np.float64)
    recordings = np.asarray(recordings)

    def statistic(weights: np.ndarray) -> np.ndarray:
        each = weights[:, recordings].astype(np.float64)
        precision = ranking(each)[0]
        # Where a draw holds no clip of another class, whatever the scores are is right.
        alone = np.isnan(precision) & (each @ truth > 0)
        return np.nanmean(np.where(alone, 1.0, precision), axis=1)

    return statistic


def average_precisions(scores: np.ndarray, classes: np.ndarray) -> dict[int, float]:
    """The average precision of each class that occurs, every clip counting once."""
    kinds, ranking = _ranking(scores, classes)
    once = ranking(np.ones((1, len(classes))))[0][0]
    return {int(kind): float(value) for kind, value in zip(kinds, once, strict=True)}


def _ranking(scores: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, Ranking]:
    """The classes that occur, and their clips by falling score."""
    kinds = np.unique(classes)
    return kinds, Ranking(classes[:, None] == kinds, scores[:, kinds])


def accuracy_and_macro_f1(scores: np.ndarray, classes: np.ndarray) -> tuple[float, float]:
    """(share of clips whose highest score is the true class; unweighted mean of F1 over classes that
    occur)."""
    named = scores.argmax(axis=1)
    values = []
    for kind in np.unique(classes):
        both = float(((named == kind) & (classes == kind)).sum())
        values.append(2 * both / float((named == kind).sum() + (classes == kind).sum()))
    return float((named == classes).mean()), float(np.mean(values))


def by_recording(
    scores: np.ndarray, classes: np.ndarray, recordings: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(the mean logarithm of the scores of each recording's clips [recordings, classes], its class): what
    several clips say together. `recordings` are numbers from 0; clips of two classes in one recording count
    apart."""
    pairs, of_clip = np.unique(np.stack([recordings, classes]), axis=1, return_inverse=True)
    of_clip = of_clip.reshape(-1)
    sums = np.zeros((pairs.shape[1], scores.shape[1]))
    np.add.at(sums, of_clip, np.log(np.maximum(scores, _TINY)))
    return sums / np.bincount(of_clip)[:, None], pairs[1]
