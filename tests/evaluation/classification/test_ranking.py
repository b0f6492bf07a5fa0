"""Figures are those of scikit-learn and torchmetrics, over classes that occur; weights are repetitions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from birdsd.evaluation.classification.ranking import Calibration, Decisions, Ranking

ROWS, CLASSES = 60, 5


@pytest.fixture(params=[0, 1, 2])
def drawn(request):
    """Truth with several birds in a sound, none in some, a class that does not occur; scores with ties."""
    draw = np.random.default_rng(request.param)
    truth = draw.random((ROWS, CLASSES)) < 0.25
    truth[:, 3] = False
    scores = np.round(draw.normal(size=truth.shape) + 1.2 * truth, 1)
    return truth, scores


def ones(rows: int = ROWS) -> np.ndarray:
    return np.ones((1, rows))


def test_average_precision_and_auroc_are_sklearns(drawn):
    truth, scores = drawn
    precision, auroc = (values[0] for values in Ranking(truth, scores)(ones()))
    for number in range(CLASSES):
        if number == 3:
            assert np.isnan(precision[3]) and np.isnan(auroc[3]), "a class that does not occur has none"
            continue
        expected = metrics.average_precision_score(truth[:, number], scores[:, number])
        assert precision[number] == pytest.approx(expected, abs=1e-12)
        expected = metrics.roc_auc_score(truth[:, number], scores[:, number])
        assert auroc[number] == pytest.approx(expected, abs=1e-12)


def test_they_are_torchmetrics_where_a_class_occurs_and_absent_ones_lower_no_mean(drawn):
    torch = pytest.importorskip("torch")
    tm = pytest.importorskip("torchmetrics.classification")
    truth, scores = drawn
    chance = torch.from_numpy(1 / (1 + np.exp(-scores)))
    target = torch.from_numpy(truth.astype(int))
    precision, auroc = (values[0] for values in Ranking(truth, scores)(ones()))
    there = truth.any(axis=0)
    theirs = tm.MultilabelAveragePrecision(CLASSES, average="none", thresholds=None)(chance, target).numpy()
    assert precision[there] == pytest.approx(theirs[there], abs=1e-6)
    theirs = tm.MultilabelAUROC(CLASSES, average="none", thresholds=None)(chance, target).numpy()
    assert auroc[there] == pytest.approx(theirs[there], abs=1e-6)
    macro = float(tm.MultilabelAUROC(CLASSES, average="macro", thresholds=None)(chance, target))
    assert np.nanmean(auroc) > macro + 0.05, "torchmetrics averages the absent class in as 0"


def test_decisions_are_sklearns_and_torchmetrics(drawn):
    truth, scores = drawn
    named = scores >= 0.8
    precision, recall, f1 = (values[0] for values in Decisions(truth, named)(ones()))
    theirs = metrics.precision_recall_fscore_support(truth, named, zero_division=0)
    there = truth.any(axis=0)
    for ours, other in zip((precision, recall, f1), theirs[:3], strict=True):
        assert ours[there] == pytest.approx(other[there], abs=1e-12)
        assert np.isnan(ours[3])
    torch = pytest.importorskip("torch")
    tm = pytest.importorskip("torchmetrics.classification")
    metric = tm.MultilabelF1Score(CLASSES, average="none")
    values = metric(torch.from_numpy(named.astype(float)), torch.from_numpy(truth.astype(int))).numpy()
    assert f1[there] == pytest.approx(values[there], abs=1e-6)


def test_a_weight_is_a_repetition(drawn):
    truth, scores = drawn
    weights = np.random.default_rng(9).integers(0, 4, (3, ROWS)).astype(float)
    named, chance = scores > 0.5, 1 / (1 + np.exp(-scores))
    several = [
        *Ranking(truth, scores)(weights),
        *Decisions(truth, named)(weights),
        Calibration(chance, truth)(weights)[:, None],
    ]
    for row, repeated in enumerate(weights.astype(int)):
        again = np.repeat(np.arange(ROWS), repeated)
        alone = [
            *Ranking(truth[again], scores[again])(ones(len(again))),
            *Decisions(truth[again], named[again])(ones(len(again))),
            Calibration(chance[again], truth[again])(ones(len(again)))[:, None],
        ]
        for one, other in zip(several, alone, strict=True):
            assert one[row] == pytest.approx(other[0], abs=1e-9, nan_ok=True)


def test_a_class_that_is_everywhere_has_no_ranking():
    truth = np.ones((4, 1), bool)
    precision, auroc = Ranking(truth, np.arange(4.0)[:, None])(ones(4))
    assert np.isnan(precision).all() and np.isnan(auroc).all()
    assert Decisions(truth, truth)(ones(4))[2][0, 0] == 1.0


def test_calibration_is_torchmetrics(drawn):
    torch = pytest.importorskip("torch")
    tm = pytest.importorskip("torchmetrics.classification")
    truth, scores = drawn
    chance = 1 / (1 + np.exp(-(scores + 0.013)))
    metric = tm.BinaryCalibrationError(n_bins=15, norm="l1")
    theirs = float(metric(torch.from_numpy(chance.ravel()), torch.from_numpy(truth.ravel().astype(int))))
    assert Calibration(chance, truth)(ones())[0] == pytest.approx(theirs, abs=1e-6)
    bins = Calibration(chance, truth).bins()
    assert bins.count.sum() == truth.size
    assert (np.abs(bins.confidence - bins.right) * bins.count).sum() / truth.size == pytest.approx(
        theirs, abs=1e-6
    )


def test_what_is_always_right_and_sure_is_calibrated_and_what_is_always_wrong_is_not():
    sure = np.ones((10, 1))
    assert Calibration(sure, sure > 0)(ones(10))[0] == 0.0
    assert Calibration(sure, sure < 0)(ones(10))[0] == 1.0
