"""Average precision under weights against scikit-learn, ties and absent classes included."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from birdsd.evaluation.sim2real.ranking import (
    accuracy_and_macro_f1,
    average_precisions,
    macro_average_precision,
)

RNG = np.random.default_rng(0)
CLASSES = np.array([0, 0, 1, 1, 1, 3, 3, 0, 1, 3] * 4)
SCORES = np.round(RNG.random((40, 4)), 1)  # rounded: many ties
RECORDINGS = np.repeat(np.arange(10), 4)


def by_sklearn(weights: np.ndarray) -> float:
    return float(
        np.mean(
            [average_precision_score(k == CLASSES, SCORES[:, k], sample_weight=weights) for k in (0, 1, 3)]
        )
    )


def test_it_is_scikit_learns_under_any_weights_with_the_absent_class_left_out() -> None:
    statistic = macro_average_precision(SCORES, CLASSES, RECORDINGS)
    weights = RNG.integers(0, 4, (20, 10))
    expected = [by_sklearn(row[RECORDINGS]) for row in weights]
    assert statistic(weights) == pytest.approx(expected)
    assert statistic(np.ones((1, 10)))[0] == pytest.approx(
        np.mean(list(average_precisions(SCORES, CLASSES).values()))
    )
    assert set(average_precisions(SCORES, CLASSES)) == {0, 1, 3}


def test_a_recording_drawn_twice_is_its_clips_twice() -> None:
    weights = np.array([[2, 0, 1, 1, 1, 0, 1, 1, 2, 1]])
    places = np.repeat(np.arange(40), weights[0][RECORDINGS])
    doubled = macro_average_precision(SCORES[places], CLASSES[places], np.arange(len(places)))
    expected = doubled(np.ones((1, len(places))))
    assert macro_average_precision(SCORES, CLASSES, RECORDINGS)(weights) == pytest.approx(expected)


def test_a_draw_without_a_class_counts_the_others() -> None:
    classes, scores = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])
    statistic = macro_average_precision(scores, classes, np.arange(2))
    assert statistic(np.array([[1, 0], [1, 1]])).tolist() == [1.0, 1.0]


def test_accuracy_and_macro_f1_are_scikit_learns() -> None:
    accuracy, macro = accuracy_and_macro_f1(SCORES, CLASSES)
    named = SCORES.argmax(axis=1)
    assert accuracy == (named == CLASSES).mean()
    assert macro == pytest.approx(f1_score(CLASSES, named, labels=[0, 1, 3], average="macro"))
