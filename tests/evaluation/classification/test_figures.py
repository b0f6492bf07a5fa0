"""The figures of a table: who is in which mean, intervals over recordings, thresholds, mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.evaluation.classification import figures as room
from birdsd.evaluation.classification.figures import Figures, fixed, validated
from birdsd.evaluation.classification.scored import NOTHING, Item, Scored
from birdsd.evaluation.classification.sounds import LabelledSound
from birdsd.sound.labels.annotation import Label


def table(truth, logits, recordings=None, all_classes=None) -> Scored:
    """Rows of recordings of their own, or of those that are given."""
    truth, logits = np.asarray(truth, bool), np.asarray(logits, float)
    names = [f"bird {n}" for n in range(truth.shape[1])]
    items = []
    for row, true in enumerate(truth):
        recording = f"r{row if recordings is None else recordings[row]}"
        labels = tuple(Label(names[n]) for n in np.flatnonzero(true))
        sound = LabelledSound(f"item {row}", recording, labels, 3.0, lambda judge: iter(()))
        items.append(Item(f"item {row}", recording, 0.0, names[int(logits[row].argmax())], False, sound))
    return Scored(names, items, truth, logits, all_classes or truth.shape[1])


def value(scored: Scored, name: str, of: str = "", threshold: float = 0.5) -> float:
    figures = Figures(scored, fixed(scored, threshold))
    return float(figures(np.ones((1, len(scored.items))))[0, figures.names.index((name, of))])


EYE = np.eye(3, dtype=bool)


def test_all_right_and_all_wrong():
    right = table(np.tile(EYE, (6, 1)), np.tile(8.0 * EYE - 4, (6, 1)))
    for name in (room.ACCURACY, room.BALANCED, room.CMAP, room.CMAP5, room.AUROC, room.F1, room.EXACT):
        assert value(right, name) == 1.0, name
    wrong = table(np.tile(EYE, (6, 1)), np.tile(np.roll(8.0 * EYE - 4, 1, axis=1), (6, 1)))
    for name in (room.ACCURACY, room.BALANCED, room.F1, room.EXACT):
        assert value(wrong, name) == 0.0, name
    assert value(wrong, room.ECE) > 0.9 and value(right, room.ECE) < 0.05


def test_a_class_without_a_sound_is_in_no_mean():
    truth = np.zeros((8, 4), bool)
    truth[np.arange(8), np.arange(8) % 3] = True
    scored = table(truth, np.where(truth, 3.0, -3.0))
    assert value(scored, room.CMAP) == value(scored, room.F1) == value(scored, room.AUROC) == 1.0
    assert np.isnan(value(scored, "F1", "bird 3"))


def test_a_judge_that_gives_all_the_same_knows_nothing():
    assert value(table(np.tile(EYE, (4, 1)), np.zeros((12, 3))), room.ACCURACY) == 0.0


def test_top_k_counts_the_wrong_classes_before_the_right_one():
    truth = np.tile(np.eye(6, dtype=bool), (2, 1))
    logits = np.where(truth, 0.0, -1.0)
    logits[np.arange(12), (truth.argmax(axis=1) + 1) % 6] = 1.0  # one wrong class above
    scored = table(truth, logits)
    assert value(scored, room.ACCURACY) == 0.0
    assert value(scored, "top-3") == value(scored, "top-5") == 1.0


def test_nothing_heard_is_not_named_whatever_the_threshold():
    truth = np.tile(EYE, (2, 1))
    logits = np.where(truth, 3.0, -3.0)
    logits[0] = NOTHING
    scored = table(truth, logits)
    assert value(scored, "recall", "bird 0") == 0.5 and value(scored, room.ACCURACY) == pytest.approx(5 / 6)
    names, counts = Figures(scored, fixed(scored, 1e-9)).confusion()
    assert names[-1] == "no bird" and counts[0, -1] == 1


def test_sounds_without_a_bird_count_as_false_alarms():
    truth = np.vstack([EYE, np.zeros((2, 3), bool)])
    logits = np.vstack([np.where(EYE, 3.0, -3.0), [[3.0, -3, -3], [-3, -3, -3]]])
    scored = table(truth, logits)
    assert value(scored, "precision", "bird 0") == 0.5 and value(scored, room.ACCURACY) == 1.0
    _, counts = Figures(scored, fixed(scored, 0.5)).confusion()
    assert counts[-1].tolist() == [1, 0, 0, 1]


def test_intervals_are_over_recordings_not_over_items():
    """Ten items of one recording are worth one."""
    from birdsd.evaluation.classification.evaluation import _intervals

    draw = np.random.default_rng(1)
    truth = np.tile(np.eye(2, dtype=bool), (10, 1))
    good = draw.random(20) < 0.7
    logits = np.where(truth == good[:, None], 1.0, -1.0)
    alone = table(truth, logits)
    copies = table(np.repeat(truth, 10, 0), np.repeat(logits, 10, 0), np.repeat(np.arange(20), 10))
    one, ten = (_intervals(Figures(t, fixed(t, 0.5)), 2000, 0)["accuracy", ""] for t in (alone, copies))
    assert ten.estimate == pytest.approx(one.estimate) and ten.groups == one.groups == 20
    assert ten.width == pytest.approx(one.width, abs=0.02) and one.width > 0.2


def test_recordings_of_which_each_has_species_of_its_own_are_drawn_too():
    """Soundscapes: a stratum of one recording would be in every draw, and the interval nothing."""
    from birdsd.evaluation.classification.evaluation import _intervals

    truth = np.array([[n >> k & 1 for k in range(3)] for n in range(1, 8)], bool)
    logits = np.where(truth, 1.0, -1.0)
    logits[::2, 0] *= -1
    width = _intervals(Figures(table(truth, logits), fixed(table(truth, logits), 0.5)), 500, 0)[
        "exact match", ""
    ]
    assert width.estimate == pytest.approx(3 / 7) and width.width > 0.4


def test_thresholds_are_where_f1_is_highest_and_between_two_scores():
    truth = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [1, 0]], bool)
    logits = np.array([[-1.0, 0], [-1.5, 0], [-3, 0], [-4, 0], [-1.2, 0]])
    chosen = validated(table(truth, logits), 0.5)
    low, high = 1 / (1 + np.exp(3.0)), 1 / (1 + np.exp(1.5))
    assert low < chosen.values[0] < high
    assert value(table(truth, logits), "F1", "bird 0") == 0.0
    figures = Figures(table(truth, logits), chosen)
    assert figures(np.ones((1, 5)))[0, figures.names.index(("F1", "bird 0"))] == 1.0
    absent = validated(table(truth * [True, False], logits), 0.4)
    assert absent.values[1] == 0.4


def test_one_class_alone_has_what_has_a_meaning():
    scored = table(np.ones((4, 1), bool), np.array([[2.0], [2.0], [-2.0], [2.0]]))
    assert value(scored, "recall", "bird 0") == 0.75
    assert np.isnan(value(scored, room.CMAP)) and np.isnan(value(scored, room.AUROC))
    assert (room.ACCURACY, "") not in Figures(scored, fixed(scored, 0.5)).names


def test_the_worst_mistakes_are_the_surest_and_no_more_than_two_of_a_recording():
    from birdsd.evaluation.classification.evaluation import worst_mistakes

    truth = np.tile([True, False], (6, 1))
    logits = np.array([[0.0, 5.0], [0, 4], [0, 3], [0, 1], [2, -2], [0, 0.5]])
    scored = table(truth, logits, [0, 0, 0, 1, 2, 3])
    found = worst_mistakes(Figures(scored, fixed(scored, 0.5)), 10)
    assert [one.item.name for one in found] == ["item 0", "item 1", "item 3", "item 5"]
    assert found[0].there == ("bird 0",) and found[0].named == "bird 1" and found[0].margin == 5.0
    assert len(worst_mistakes(Figures(scored, fixed(scored, 0.5)), 1)) == 1
