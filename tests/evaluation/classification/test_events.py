"""Events with collars and segments are sed_eval's; the PSDS is psds_eval's."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest

from birdsd.errors import BadValue, NothingLeft
from birdsd.evaluation.classification import events as room
from birdsd.evaluation.classification.events import Event, matched, segments
from birdsd.evaluation.classification.figures import Thresholds
from birdsd.evaluation.classification.hearing import classes_of, hear
from birdsd.evaluation.classification.psds import merged, psds
from birdsd.evaluation.classification.sounds import LabelledSound, LabelledSounds
from birdsd.evaluation.classify.frames import FrameScores
from birdsd.sound.labels.annotation import Label
from tests.support.errors import refuses
from tests.support.fake_judge import FakeJudge

NAMES = ["a", "b", "c"]


def drawn(seed: int) -> tuple[list[Event], list[Event]]:
    """True events of two files, and what was named: most a little off, some missing, some made up."""
    draw = np.random.default_rng(seed)
    true, named = [], []
    for file in ("one", "two"):
        for name in NAMES[:2]:
            at = 0.0
            for _ in range(8):
                at += draw.uniform(0.3, 2.0)
                end = at + draw.uniform(0.2, 2.0)
                true.append(Event(file, name, at, end))
                if draw.random() < 0.8:
                    off = draw.normal(0, 0.2, 2)
                    other = NAMES[draw.integers(3)] if draw.random() < 0.1 else name
                    named.append(Event(file, other, at + off[0], max(at + off[0] + 0.05, end + off[1])))
                at = end
        for _ in range(4):
            at = draw.uniform(0, 15)
            named.append(Event(file, NAMES[draw.integers(3)], at, at + 0.5))
    return true, named


@pytest.fixture(scope="module")
def sed_eval():
    """sed_eval; what it imports asks for setuptools' pkg_resources, which it needs for its examples alone."""
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("pkg_resources") is None:
            patch.setitem(sys.modules, "pkg_resources", ModuleType("pkg_resources"))
        return pytest.importorskip("sed_eval")


def theirs(events, file):
    return [
        {"file": file, "event_label": e.label, "event_onset": e.start_s, "event_offset": e.end_s}
        for e in events
        if e.file == file
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("collar_s", [0.2, 0.5])
def test_events_are_sed_evals(sed_eval, seed, collar_s):
    true, named = drawn(seed)
    metric = sed_eval.sound_event.EventBasedMetrics(
        NAMES, t_collar=collar_s, percentage_of_length=room.OFFSET_SHARE, event_matching_type="optimal"
    )
    for file in ("one", "two"):
        metric.evaluate(theirs(true, file), theirs(named, file))
    ours = matched(true, named, NAMES, collar_s)
    for name in NAMES:
        expected = metric.results_class_wise_metrics()[name]
        assert (ours[name].true, ours[name].named) == (
            expected["count"]["Nref"], expected["count"]["Nsys"],
        )  # fmt: skip
        f1 = expected["f_measure"]["f_measure"]
        assert ours[name].f1 == pytest.approx(f1 if ours[name].true else np.nan, nan_ok=True)
    # Of an error of the class sed_eval makes a substitution; F1 over all counts hits alone.
    whole = sum(ours.values(), room.Counts(0, 0, 0))
    overall = metric.results_overall_metrics()["f_measure"]
    assert (whole.precision, whole.recall, whole.f1) == pytest.approx(
        (overall["precision"], overall["recall"], overall["f_measure"])
    )


@pytest.mark.parametrize("seed", range(4))
def test_segments_are_sed_evals(sed_eval, seed):
    true, named = drawn(seed)
    lengths = {"one": 40.0, "two": 40.0}
    metric = sed_eval.sound_event.SegmentBasedMetrics(NAMES, time_resolution=room.SEGMENT_S)
    for file in lengths:
        metric.evaluate(theirs(true, file), theirs(named, file), evaluated_length_seconds=40.0)
    ours = segments(true, named, NAMES, lengths)
    for name in NAMES[:2]:
        expected = metric.results_class_wise_metrics()[name]["f_measure"]["f_measure"]
        assert ours[name].f1 == pytest.approx(expected)


def spans(events, name):
    files = sorted({e.file for e in events if e.label == name})
    return {
        f: np.array([(e.start_s, e.end_s) for e in events if e.label == name and e.file == f]) for f in files
    }


def test_psds_of_all_and_of_nothing():
    true, _ = drawn(0)
    exact = [spans(true, name) for name in NAMES[:2]]
    assert psds(exact, [exact], 1.0).scores == {"PSDS1": 1.0, "PSDS2": 1.0}
    assert psds(exact, [[{}, {}]], 1.0).scores == {"PSDS1": 0.0, "PSDS2": 0.0}


def test_psds_by_hand():
    """One class: at one threshold half is found without a false alarm, at the next all at 40 an hour."""
    true = [{"f": np.array([[0.0, 1.0], [10.0, 11.0]])}]
    strict = [{"f": np.array([[0.0, 1.0]])}]
    loose = [{"f": np.array([[0.0, 1.0], [10.0, 11.0], [20.0, 21.0]])}]
    found = psds(true, [strict, loose], 1 / 40).scores["PSDS1"]
    assert found == pytest.approx((0.5 * 40 + 1.0 * 60) / 100)


# By psds_eval 0.5.3 (numpy 1.26, pandas 2.1: it fails with later ones) of two files of 60 s, then of 900 s.
BY_PSDS_EVAL = {
    0: ((0.29375, 0.75), (0.48625, 0.75)),
    1: ((0.20625, 0.3125), (0.53875, 0.3125)),
    2: ((0.375, 0.4375), (0.49, 0.476046994)),
}


@pytest.mark.parametrize("seed", BY_PSDS_EVAL)
@pytest.mark.parametrize(("which", "seconds"), [(0, 60.0), (1, 900.0)])
def test_psds_is_psds_evals(seed, which, seconds):
    true, named = drawn(seed)
    points = [
        [{file: merged(these) for file, these in spans(point, name).items()} for name in NAMES[:2]]
        for point in (named, named[::2], named[: len(named) // 3])
    ]
    ours = psds([spans(true, name) for name in NAMES[:2]], points, 2 * seconds / 3600)
    assert tuple(ours.scores.values()) == pytest.approx(BY_PSDS_EVAL[seed][which], abs=1e-8)


class FramesJudge(FakeJudge):
    """Says of each tenth of its windows what it says of a second; all of the last window is no number."""

    def hear(self, waveform, rate_hz):
        whole = super().hear(waveform, rate_hz)
        tenths = waveform.reshape(1, len(whole.logits), 10, -1)
        of_part = super().hear
        frames = [
            np.stack([of_part(part, rate_hz).logits[0] for part in window], axis=1) for window in tenths[0]
        ]
        logits = whole.logits.copy()
        logits[-1] = np.nan
        return replace(whole, logits=logits, frames=np.stack(frames))


def heard(labels, duration_s=6.0, unknown=(), judge=None, sings=(2.0, 4.0)):
    """A file of six seconds in which High sings, in the third and fourth second."""
    time = np.arange(round(duration_s * 16000)) / 16000
    sound = 0.3 * np.sin(2 * np.pi * 6000 * time) * ((time >= sings[0]) & (time < sings[1]))
    sound = (sound + 1e-3 * np.random.default_rng(0).standard_normal(len(time))).astype(np.float32)
    one = LabelledSound(
        "f", "r", tuple(labels), duration_s, lambda judge: iter([(0.0, sound[None], 16000)]), tuple(unknown),
        by_window=True,
    )  # fmt: skip
    judge = judge or FakeJudge()
    return hear(judge, LabelledSounds("x", [one]), classes_of(judge, ["Synthetic High"]), progress=False)


def test_windows_above_the_threshold_become_one_event():
    hearing = heard([Label("Synthetic High", 2.1, 3.9)])
    threshold = Thresholds(np.full(len(hearing.classes.names), 0.9), "")
    found = room.event_scores(hearing, threshold, 0.5)
    assert found.events["Synthetic High"] == room.Counts(1, 1, 1)
    assert found.segments["Synthetic High"] == room.Counts(2, 2, 2)
    assert found.psds is not None and found.psds.scores["PSDS1"] == pytest.approx(1.0)
    assert "Synthetic High" in found.text() and found.csv().startswith("class,events true")
    close = room.event_scores(hearing, threshold, 0.05)
    assert close.events["Synthetic High"].hits == 0 and close.macro(close.events) == 0.0


def test_a_judge_that_says_when_is_taken_at_its_frames():
    labels = [Label("Synthetic High", 2.6, 4.4), Label("Synthetic High", 5.2, 5.8)]
    found = {}
    for judge in (FakeJudge(), FramesJudge()):
        hearing = heard(labels, judge=judge, sings=(2.6, 4.4))
        threshold = Thresholds(np.full(len(hearing.classes.names), 0.6), "")
        found[type(judge)] = room.event_scores(hearing, threshold, 0.15)
    windows, frames = found[FakeJudge], found[FramesJudge]
    assert windows.events["Synthetic High"].hits == 0 and windows.unit == "windows of 1 s"
    assert frames.events["Synthetic High"] == room.Counts(2, 1, 1) and frames.unit == "frames of 100 ms"
    assert "frames of 100 ms" in frames.text() and frames.to_json()["unit"] == frames.unit
    assert windows.psds is not None and frames.psds is not None
    assert frames.psds.scores["PSDS1"] > windows.psds.scores["PSDS1"]


def test_frames_count_only_in_windows_that_name_the_class():
    frames = np.full((2, 1, 4), 5.0, np.float32)
    scores = FrameScores.of(np.array([0.0, 1.0]), np.array([[3.0], [-3.0]], np.float32), frames, 1.0)
    assert [(start, stop) for _, start, stop, _ in scores.runs(np.array([0.5]))] == [(0.0, 1.0)]
    lapped = FrameScores.of(
        np.array([0.0, 0.5]), np.array([[3.0], [-3.0]], np.float32), frames * [[[1]], [[-3]]], 1.0
    )
    assert [(start, stop) for _, start, stop, _ in lapped.runs(np.array([0.5]))] == [(0.0, 0.5)]


def test_what_is_named_where_no_bird_is_counts_against_the_judge():
    hearing = heard([Label("Synthetic High", 2.1, 3.9)])
    hearing.sounds += [replace(heard([]).sounds[0], sound=replace(heard([]).sounds[0].sound, name="empty"))]
    threshold = Thresholds(np.full(len(hearing.classes.names), 0.9), "")
    found = room.event_scores(hearing, threshold, 0.5)
    assert found.events["Synthetic High"] == room.Counts(1, 2, 1) and found.files == 2
    assert found.psds is not None and found.psds.scores["PSDS1"] == 0.0, "300 false alarms an hour"


def test_labels_without_times_have_no_events():
    hearing = heard([Label("Synthetic High")])
    threshold = Thresholds(np.full(len(hearing.classes.names), 0.5), "")
    with refuses("strong=true", kind=NothingLeft):
        room.event_scores(hearing, threshold, 0.5)
    with refuses("collar_s=0", kind=BadValue):
        room.event_scores(hearing, threshold, 0.0)
