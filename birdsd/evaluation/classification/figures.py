"""All figures of a table of scores, each with its interval over recordings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from birdsd.diffusion.classifiers.thresholds import best_thresholds
from birdsd.errors import NotFound
from birdsd.evaluation.classification.hearing import Classes
from birdsd.evaluation.classification.ranking import Calibration, Decisions, Ranking
from birdsd.evaluation.classification.scored import Scored
from birdsd.evaluation.judges.judge import Judge

ENOUGH = 5  # positive rows for cmAP5
TOPS = (1, 3, 5)
ACCURACY, BALANCED, TOP_OF_ALL, EXACT = "accuracy", "balanced accuracy", "top-1 of all", "exact match"
CMAP, CMAP5, AUROC = "cmAP", "cmAP5", "AUROC"
PRECISION, RECALL, F1 = "precision", "recall", "F1"
ECE, ECE_PAIRS = "ECE", "ECE, class by class"
PER_CLASS = ("AP", AUROC, PRECISION, RECALL, F1)
MEANINGS = {
    ACCURACY: "of the items with a bird, how often the highest class is one that is there",
    "top-3": "the same, among the three highest",
    "top-5": "the same, among the five highest",
    TOP_OF_ALL: "the same, among all classes that the judge has",
    BALANCED: "accuracy of each class, then their mean",
    EXACT: "every class right, at the threshold",
    CMAP: "average precision of each class, then their mean: no threshold",
    CMAP5: f"the same over classes with at least {ENOUGH} positive items",
    AUROC: "an item with the bird scores above one without it; mean over classes",
    PRECISION: "of what was named, how much is right; mean over classes",
    RECALL: "of what is there, how much was named; mean over classes",
    F1: "harmonic mean of the two; mean over classes",
    ECE: "how far the highest score is from how often it is right",
    ECE_PAIRS: "the same over every item and class",
}


@dataclass(frozen=True)
class Thresholds:
    """From which score each class counts as named, 0..1 [classes], and where that comes from."""

    values: np.ndarray
    origin: str


def fixed(table: Scored, threshold: float) -> Thresholds:
    """The same threshold for every class."""
    return Thresholds(np.full(len(table.classes), threshold), f"{threshold:g} for every class")


def kept_thresholds(judge: Judge) -> Sequence[float]:
    """Of each of its classes, where a judge keeps some: a classifier of method=classifier does."""
    classifier = getattr(judge, "classifier", None)
    return getattr(judge, "thresholds", None) or getattr(classifier, "thresholds", None) or ()


def own_thresholds(judge: Judge, classes: Classes) -> Thresholds:
    """Those that a classifier keeps for its classes; `UserError` for a judge without any."""
    kept = kept_thresholds(judge)
    if not kept:
        raise NotFound(
            f"{judge.title} has no thresholds of its own", "a classifier of method=classifier has",
            "set thresholds=fixed, or thresholds=validation with data.shards=SHARDS",
        )  # fmt: skip
    values = np.array([float(kept[number]) for number in classes.numbers])
    return Thresholds(values, "of each class, as the classifier has it")


class Figures:
    """The figures of a table under any weights of its rows; `names` says in which order."""

    def __init__(self, table: Scored, thresholds: Thresholds) -> None:
        self.table, self.thresholds = table, thresholds
        self._ranking = Ranking(table.truth, table.logits)
        # Nothing heard is nothing named, also at a threshold of 0.
        self.named = (table.scores >= thresholds.values) & table.heard[:, None]
        self._decisions = Decisions(table.truth, self.named)
        self._several = len(table.classes) > 1
        self._bird = table.truth.any(axis=1).astype(np.float64)
        self._enough = table.truth.sum(axis=0) >= ENOUGH

    @cached_property
    def names(self) -> list[tuple[str, str]]:
        """(figure, class) of what `__call__` gives, column by column: the means first, whose class is "",
        then the figures of each class."""
        ones = np.ones((1, len(self.table.items)))
        means = [(name, "") for name, _ in self._means(ones, self._per_class(ones))]
        return [*means, *((figure, name) for figure in PER_CLASS for name in self.table.classes)]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """float64 [draws, figures] under weights float [draws, rows]; NaN where a figure has no meaning."""
        classes = self._per_class(weights)
        means = [values[:, None] for _, values in self._means(weights, classes)]
        return np.concatenate([*means, *classes], axis=1)

    def _per_class(self, weights: np.ndarray) -> list[np.ndarray]:
        return [*self._ranking(weights), *self._decisions(weights)]

    def _means(self, weights: np.ndarray, classes: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        table = self.table
        precision, auroc, *decided = classes
        yield CMAP, _mean(precision)
        if self._enough.any():
            yield CMAP5, _mean(precision[:, self._enough])
        yield AUROC, _mean(auroc)
        for name, values in zip((PRECISION, RECALL, F1), decided, strict=True):
            yield name, _mean(values)
        birds = weights * self._bird
        with np.errstate(invalid="ignore", divide="ignore"):
            for top, right in self._tops.items():
                yield ACCURACY if top == 1 else f"top-{top}", birds @ right / birds.sum(axis=1)
            if self._several:
                yield BALANCED, _mean((weights @ self._single_right) / (weights @ self._single))
            if table.all_classes > len(table.classes):
                right = np.array([item.named_right for item in table.items], dtype=np.float64)
                yield TOP_OF_ALL, birds @ right / birds.sum(axis=1)
            exact = (self.named == table.truth).all(axis=1).astype(np.float64)
            yield EXACT, weights @ exact / weights.sum(axis=1)
        if self._several:
            yield ECE, self.confidence(birds)
        yield ECE_PAIRS, self.pairs(weights)

    @cached_property
    def _tops(self) -> dict[int, np.ndarray]:
        """Of each k, whether a true class is among the k highest, float64 [rows]. Equal scores of a wrong
        class go before: a judge that gives all the same knows nothing."""
        table = self.table
        if not self._several:
            return {}
        truth = table.truth
        best = np.where(truth, table.logits, -np.inf).max(axis=1, keepdims=True)
        before = ((table.logits >= best) & ~truth).sum(axis=1)
        return {
            top: ((before < top) & table.heard & truth.any(axis=1)).astype(np.float64)
            for top in TOPS
            if top == 1 or top < len(table.classes)
        }

    @cached_property
    def _single(self) -> np.ndarray:
        """float64 [rows, classes]: the class of each row that has one."""
        return (self.table.truth & (self.table.truth.sum(axis=1) == 1)[:, None]).astype(np.float64)

    @cached_property
    def _single_right(self) -> np.ndarray:
        return self._single * self._tops[1][:, None]

    @cached_property
    def confidence(self) -> Calibration:
        """How sure it is of the class that it puts first, against whether it is right."""
        top = self.table.scores.max(axis=1)
        return Calibration(top[:, None], (self._tops[1] > 0)[:, None])

    @cached_property
    def pairs(self) -> Calibration:
        """Every score of every class that occurs against the truth."""
        there = self.table.present
        return Calibration(self.table.scores[:, there], self.table.truth[:, there])

    def confusion(self) -> tuple[list[str], np.ndarray]:
        """Names, and counts [names, names]: rows are what is there, columns what has the highest score. Of
        the items with one species, and of those without a bird where some have none; the last name is that
        of nothing named."""
        table, nothing = self.table, len(self.table.classes)
        counts = np.zeros((nothing + 1, nothing + 1), dtype=int)
        single = table.truth.sum(axis=1) == 1
        heard = table.heard
        highest = np.where(heard, table.logits.argmax(axis=1), nothing)
        np.add.at(counts, (table.truth.argmax(axis=1)[single], highest[single]), 1)
        empty = ~table.truth.any(axis=1)
        named = np.where(self.named.any(axis=1) & heard, highest, nothing)
        np.add.at(counts, (np.full(int(empty.sum()), nothing), named[empty]), 1)
        used = np.flatnonzero((counts.sum(axis=0) > 0) | (counts.sum(axis=1) > 0))
        names = [*table.classes, "no bird"]
        return [names[number] for number in used], counts[np.ix_(used, used)]


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over classes [draws, classes] -> [draws], without those that are NaN; NaN where all are."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: np.ndarray = np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1)
    return mean


def validated(table: Scored, fallback: float) -> Thresholds:
    """Of each class the threshold with the highest F1 in `table` (validation recordings, never test ones);
    `fallback` for a class of which the table says nothing."""
    found, known = best_thresholds(table.scores, table.truth)
    return Thresholds(
        np.where(known, found, fallback), "of each class, where F1 is highest on validation recordings"
    )
