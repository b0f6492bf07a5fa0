"""The threshold of each species: where F1 is highest on held-out clips."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.diffusion.classifiers.thresholds import best_thresholds, f1_of


def test_a_threshold_has_the_highest_f1() -> None:
    draw = np.random.default_rng(1)
    targets = draw.random((60, 3)) < 0.3
    targets[:, 2] = False
    scores = np.clip(targets * 0.3 + draw.random((60, 3)) * 0.6, 0, 1).astype(np.float32)
    found, known = best_thresholds(scores, targets)
    assert known.tolist() == [True, True, False] and found[2] == 0.5
    for number in range(2):
        tried = [f1_of(scores[:, [number]] >= t, targets[:, [number]]) for t in np.linspace(0, 1, 500)]
        mine = f1_of(scores[:, [number]] >= found[number], targets[:, [number]])
        assert mine >= max(tried) - 1e-9
    assert f1_of(scores >= found, np.zeros_like(targets)) is None


def test_of_equally_good_thresholds_it_is_the_middle_one_and_equal_scores_go_together() -> None:
    targets = np.array([[0], [0], [1], [1], [1]])
    scores = np.array([[0.1], [0.1], [0.6], [0.8], [0.8]])
    assert best_thresholds(scores, targets)[0] == pytest.approx([0.35])
    tied = np.array([[0.2], [0.7], [0.7], [0.7], [0.9]])
    assert best_thresholds(tied, targets)[0] == pytest.approx([0.45])
