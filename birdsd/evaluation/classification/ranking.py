"""Figures of a table of scores under any weights of its rows: what a bootstrap asks for thousands of times.

Rows are sorted once. Average precision and AUROC are those of scikit-learn (no interpolation; ties count as
one threshold, and as one half), and the tests compare them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class _Column:
    """One class: its rows by falling score, and where each run of equal scores begins."""

    order: np.ndarray
    starts: np.ndarray
    positive: np.ndarray  # bool, in that order


class Ranking:
    """Average precision and AUROC of each class."""

    def __init__(self, truth: np.ndarray, scores: np.ndarray) -> None:
        """`truth` bool and `scores` float [rows, classes]."""
        self._columns = []
        for positive, score in zip(truth.T, scores.T, strict=True):
            order = np.argsort(-score, kind="stable")
            ranked = score[order]
            starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
            self._columns.append(_Column(order, starts, positive[order]))

    def __call__(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Average precision and AUROC, float64 [draws, classes], under weights float [draws, rows].

        NaN where a class has no positive row; AUROC also where it has no negative one, and so has average
        precision, which is then 1 whatever the scores.
        """
        shape = len(weights), len(self._columns)
        precision, auroc = np.full(shape, np.nan), np.full(shape, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            for number, column in enumerate(self._columns):
                ranked = weights[:, column.order]
                hits = np.add.reduceat(ranked * column.positive, column.starts, axis=1)
                others = np.add.reduceat(ranked * ~column.positive, column.starts, axis=1)
                hits_so_far, others_so_far = np.cumsum(hits, axis=1), np.cumsum(others, axis=1)
                all_hits, all_others = hits_so_far[:, -1], others_so_far[:, -1]
                found = hits_so_far + others_so_far
                at_rank = np.where(found > 0, hits_so_far / found, 0.0)
                precision[:, number] = (hits * at_rank).sum(axis=1) / all_hits
                above = hits * (all_others[:, None] - others_so_far + others / 2)
                auroc[:, number] = above.sum(axis=1) / (all_hits * all_others)
                trivial = (all_hits <= 0) | (all_others <= 0)
                precision[trivial, number] = auroc[trivial, number] = np.nan
        return precision, auroc


class Decisions:
    """Precision, recall and F1 of each class at thresholds: scores at or above it are named."""

    def __init__(self, truth: np.ndarray, named: np.ndarray) -> None:
        """`truth` and `named` bool [rows, classes]."""
        self._hits = (truth & named).astype(np.float64)
        self._named, self._truth = named.astype(np.float64), truth.astype(np.float64)

    def __call__(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each float64 [draws, classes]. NaN where a class does not occur; a class that occurs and is never
        named has precision 0, as scikit-learn's zero_division=0 has it."""
        hits, named, true = weights @ self._hits, weights @ self._named, weights @ self._truth
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(named > 0, hits / np.maximum(named, 1e-300), 0.0)
            recall = hits / true
            f1 = 2 * hits / (named + true)
        absent = true <= 0
        for values in (precision, recall, f1):
            values[absent] = np.nan
        return precision, recall, f1


@dataclass(frozen=True)
class Bins:
    """A reliability diagram: of each bin the mean confidence, the share that was right, and how many."""

    confidence: np.ndarray
    right: np.ndarray
    count: np.ndarray


class Calibration:
    """The expected calibration error in bins of equal width (Guo et al. 2017, l1)."""

    BINS = 15

    def __init__(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """`confidence` 0..1 and `right` bool [rows, scores of a row]."""
        self._confidence, self._right = confidence.astype(np.float64), right.astype(np.float64)
        # Bins are (low, high], and 0 belongs to the first.
        edges = np.linspace(0, 1, self.BINS + 1)
        bins = np.clip(np.searchsorted(edges, self._confidence, "left") - 1, 0, self.BINS - 1)
        self._flat = bins.ravel()
        self._gaps = np.zeros((len(bins), self.BINS))
        rows = np.repeat(np.arange(len(bins)), bins.shape[1])
        np.add.at(self._gaps, (rows, self._flat), (self._right - self._confidence).ravel())

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """The error, float64 [draws], under weights float [draws, rows]."""
        with np.errstate(invalid="ignore", divide="ignore"):
            total = weights.sum(axis=1) * self._confidence.shape[1]
            error: np.ndarray = np.abs(weights @ self._gaps).sum(axis=1) / total
        return error

    def bins(self) -> Bins:
        """The diagram, without the bins that are empty."""
        count = np.bincount(self._flat, minlength=self.BINS)
        used = count > 0
        confidence = np.bincount(self._flat, self._confidence.ravel(), self.BINS)[used]
        right = np.bincount(self._flat, self._right.ravel(), self.BINS)[used]
        return Bins(confidence / count[used], right / count[used], count[used])
