"""A planted advantage comes out significant, two equal arms do not, and what failed is named."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from birdsd.errors import NothingLeft, UnknownName
from birdsd.evaluation.embedded.heads import fit_head
from birdsd.evaluation.sim2real.answer import TestClips, amount, answer
from birdsd.evaluation.sim2real.arms import ARMS, Cell, cells_of, chosen_arms
from birdsd.evaluation.sim2real.power import power_of
from birdsd.evaluation.sim2real.text import answer_text
from tests.evaluation.embedded.test_heads import examples
from tests.support.errors import refuses

ARM = {arm.name: arm for arm in ARMS}
SPECIES = range(5)
HELD = examples(SPECIES, range(100, 116), each=2, between=2.5)
TEST = TestClips(HELD.classes, HELD.recordings, [f"species {k}" for k in SPECIES])


def trained(recordings: int, seed: int, noise: float = 0.0, order: int = 0) -> np.ndarray:
    """Test scores of a head that learnt from so many recordings of each species."""
    head = fit_head(
        [examples(SPECIES, range(recordings), between=2.5)], None, 5, seed=seed + order, steps=150
    )
    random = np.random.default_rng([9, seed, order])
    return head.scores(HELD.embeddings + noise * random.normal(size=HELD.embeddings.shape))


def found(results: dict[Cell, np.ndarray], levels: tuple[str, ...] = ("2",), **more: object):
    arms = list({cell.arm.name: cell.arm for cell in results}.values())
    return answer(TEST, arms, levels, results, power_of(TEST.recordings, 2), draws=600, **more)


@pytest.fixture(scope="module")
def planted():
    """real: 2 recordings a species; repeated: the same in another order; more: four times as many."""
    results = {}
    for seed in range(3):
        results[Cell(ARM["real"], "2", "", seed)] = trained(2, seed)
        results[Cell(ARM["repeated"], "2", "", seed)] = trained(2, seed, order=1000)
        results[Cell(ARM["more"], "2", "", seed)] = trained(8, seed)
    return found(results)


def test_four_times_the_recordings_come_out_significant(planted) -> None:
    effect = next(one for one in planted.effects if one.arm == "more")
    assert effect.significant and effect.difference.low > 0 and effect.p_adjusted < 0.05
    assert effect.difference.estimate > 0.05 and effect.seeds == 3
    assert planted.score("more", "2").average_precision.estimate - planted.score(
        "real", "2"
    ).average_precision.estimate == pytest.approx(effect.difference.estimate)
    assert set(planted.score("more", "2").by_species) == set(TEST.species)


def test_two_equal_arms_do_not(planted) -> None:
    effect = next(one for one in planted.effects if one.arm == "repeated")
    assert not effect.significant and not effect.difference.excludes_zero
    assert abs(effect.difference.estimate) < 0.03
    assert effect.findable > 0


def test_equal_arms_are_rarely_told_apart_however_often_it_is_tried() -> None:
    alarms = 0
    for trial in range(25):
        random = np.random.default_rng([3, trial])
        truth = np.eye(5)[TEST.classes]

        def scores(random: np.random.Generator = random, truth: np.ndarray = truth) -> np.ndarray:
            hard = random.normal(size=(len(set(TEST.recordings)), 1))[np.repeat(np.arange(80), 2)]
            return truth + 0.8 * random.normal(size=truth.shape) + 0.3 * hard

        results = {
            Cell(ARM[name], "2", "", seed): scores() for name in ("real", "repeated") for seed in range(3)
        }
        alarms += found(results).effects[0].difference.excludes_zero
    assert alarms <= 4


def cells(name: str, level: str, gain: float, chosen: str = "everything") -> dict[Cell, np.ndarray]:
    """Three seeds of an arm whose scores are the truth and noise; `gain` lifts the truth."""
    own = ARM[name]
    noise = [np.random.default_rng([4, seed]).normal(size=(len(HELD), 5)) for seed in range(3)]
    return {
        Cell(own, level, chosen if own.synthetic else "", seed): (0.8 + gain) * np.eye(5)[TEST.classes]
        + noise[seed]
        for seed in range(3)
    }


def test_the_sentence_says_how_much_at_which_amount_and_whether_the_interval_excludes_zero() -> None:
    told = found(
        {**cells("augmented", "2", 0), **cells("both", "2", 1.0), **cells("augmented", "all", 0),
         **cells("both", "all", 0.0), **cells("both", "all", -0.5, "confirmed")},
        ("2", "all"),
    )  # fmt: skip
    sentence = told.sentence()
    assert [(one.level, one.significant, one.difference.low > 0) for one in told.primary] == [
        ("2", True, True), ("all", False, False),
    ]  # fmt: skip
    assert amount("2") in sentence.partition(":")[0] and amount("all") not in sentence.partition(":")[0]
    assert "excludes zero; p = " in sentence and sentence.count("95% interval") == 2
    assert "confirmed" in answer_text(told) and "80% power at" in answer_text(told)
    assert json.loads(json.dumps(told.to_json()))["sentence"] == sentence
    worse = found({**cells("augmented", "2", 0.5), **cells("both", "2", -0.5)})
    assert [(one.significant, one.difference.high < 0) for one in worse.primary] == [(True, True)]
    assert amount("2") in worse.sentence().partition(":")[0] and "harm" in worse.sentence()
    same = found({**cells("augmented", "2", 0), **cells("both", "2", 0.0)})
    assert not same.primary[0].significant and same.sentence().startswith("No effect ")
    assert same.effects[0].p_value == 1.0


def test_without_the_augmented_pair_the_sentence_is_about_real_and_synthetic() -> None:
    told = found({**cells("real", "2", 0), **cells("synthetic", "2", 0.0)})
    assert [(one.arm, one.against) for one in told.primary] == [("synthetic", "real")]
    assert "augmented" not in told.sentence()
    alone = found(cells("real", "2", 0))
    assert alone.primary == [] and not re.search(r"\d", alone.sentence())


@pytest.mark.parametrize(
    ("arm", "gain", "named"),
    [
        ("scenes", 1.0, ("scenes", "helped", "added to")),
        ("scenes", 0.0, ("scenes", "No effect", "added to")),
        ("scenes_only", -0.5, ("scenes", "harm", "in place")),
        ("synthetic_only", 0.0, ("clips", "No effect", "in place")),
    ],
)
def test_scenes_and_synthetic_sound_alone_have_their_answer_too(
    arm: str, gain: float, named: tuple[str, ...]
) -> None:
    """The sentences as they are: tests/golden/texts.json."""
    told = found({**cells("real", "2", 0.5 if gain < 0 else 0.0), **cells(arm, "2", gain)})
    (effect,) = told.primary
    assert (effect.arm, effect.significant, effect.difference.low > 0) == (arm, gain != 0, gain > 0)
    said = told.sentence().partition(", they ")[0]
    assert all(one in said for one in named) and (amount("2") in said) == (gain != 0)


def test_what_failed_and_what_is_missing_is_named_and_the_pairs_are_those_that_are_there() -> None:
    results = {**cells("augmented", "2", 0), **cells("both", "2", 1.0)}
    del results[Cell(ARM["both"], "2", "everything", 1)]
    failed = {"both-2-everything-s1": "NaN logits", "both-2-everything-s2": "NaN logits", "real-2-s9": "none"}
    told = found(results, failed=failed, missing=["real-2-s0"])
    assert "both-2-everything, real-2." in told.sentence()
    assert told.failures == [(["both-2-everything"], "NaN logits"), (["real-2"], "none")]
    assert (
        told.missing == ["real-2-s0"] and ": 1 of " in told.sentence() and "NaN logits" in answer_text(told)
    )
    assert told.effects[0].seeds == 2


def test_one_test_recording_of_a_species_is_refused_for_it_says_nothing_of_others() -> None:
    one = HELD.classes != 4
    alone = one | (np.array(HELD.recordings) == HELD.recordings[-1])
    test = TestClips(HELD.classes[alone], np.array(HELD.recordings)[alone].tolist(), TEST.species)
    results = {cell: scores[alone] for cell, scores in cells("real", "2", 0).items()}
    with refuses("one test recording of species 4", "raise test_fraction", kind=NothingLeft):
        answer(test, [ARM["real"]], ["2"], results, power_of(test.recordings, 1), draws=50)


def test_the_correction_counts_every_comparison() -> None:
    told = found(
        {**cells("real", "2", 0), **cells("augmented", "2", 0.3), **cells("synthetic", "2", 0.1),
         **cells("synthetic_only", "2", 0.2)}
    )  # fmt: skip
    assert len(told.effects) == 3
    least = min(told.effects, key=lambda one: one.p_value)
    assert least.p_adjusted == pytest.approx(min(1, 3 * least.p_value))


def test_arms_bring_those_that_they_are_compared_with() -> None:
    assert [arm.name for arm in chosen_arms(["both"], False)] == ["augmented", "both"]
    assert "scenes" in [arm.name for arm in chosen_arms([], True)]
    assert "scenes" not in [arm.name for arm in chosen_arms([], False)]
    with refuses("boht", "both", kind=UnknownName):
        chosen_arms(["boht"], False)
    asked = cells_of(chosen_arms(["synthetic"], False), ["2", "all"], ["everything", "confirmed"], 3)
    assert len(asked) == 2 * 3 * (1 + 2) and len({cell.name for cell in asked}) == len(asked)
    assert all(bool(cell.filter) == bool(cell.arm.synthetic) for cell in asked)
    with refuses("confirmd", "confirmed", kind=UnknownName):
        cells_of(chosen_arms([], False), ["2"], ["confirmd"], 1)


def test_power_grows_with_recordings_and_not_with_clips_and_is_lower_for_more_comparisons() -> None:
    few = power_of([f"r{n}" for n in range(20)] * 4, 1)
    clips = power_of([f"r{n}" for n in range(20)] * 16, 1)
    many = power_of([f"r{n}" for n in range(320)], 1)
    assert (few.recordings, few.clips, clips.clips) == (20, 80, 320)
    assert many.detectable < 0.35 * few.detectable < clips.detectable
    assert power_of([f"r{n}" for n in range(20)] * 4, 16).detectable > few.detectable
    assert few.chances["0.02"] < few.chances["0.1"] < many.chances["0.1"]
    assert "20 test recordings (80 clips) and 1 comparisons" in few.text()
    with refuses("1 test recordings", kind=NothingLeft):
        power_of(["a"], 1)
