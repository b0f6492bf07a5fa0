"""`birdsd run evaluate` on shards and on folders: figures, files, the page, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from birdsd.jobs import evaluate

from birdsd.config import compose
from birdsd.diffusion.networks.finite import NotFinite
from birdsd.errors import BadValue, Mismatch, NotFound, NothingLeft, NotSet, UnknownName
from birdsd.evaluation.classification.hearing import NOT_A_NUMBER
from birdsd.evaluation.judges import WindowScores
from birdsd.files import write_json
from birdsd.runs.effects import without_effect
from birdsd.schema import DataConfig
from birdsd.shards.index import ShardIndex
from birdsd.shards.prepare.prepare import prepare
from birdsd.shards.storage.writer import ShardWriter
from tests.support.errors import refuses
from tests.support.fake_judge import FakeJudge
from tests.support.pages import _Checker
from tests.support.remarks import codes, remarked
from tests.support.songs import SPECIES, song, write_shards
from tests.support.sound_makers import save


@pytest.fixture
def judge(monkeypatch):
    found = FakeJudge()
    monkeypatch.setattr(evaluate, "find_judge", lambda named=None: found)
    return found


def run(out: Path, *settings: str, **more: object):
    words = [*settings, *(f"{key}={value}" for key, value in more.items())]
    return evaluate.run(compose("evaluate", [f"out={out}", "resamples=200", *words]))


def folder_of(place: Path, codec, count: int = 2, first: int = 40) -> Path:
    """Recordings in folders named after their species."""
    for species in SPECIES:
        for number in range(first, first + count):
            sound = song(species, number, 0, codec)
            save(place / species / f"{species[10:]}{number}.wav", sound, codec.rate_hz)
    return place


def test_shards_are_evaluated_with_intervals_files_and_a_page(index, judge, tmp_path):
    outcome = run(tmp_path / "out", f"data.shards={index.folder}")
    facts = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert facts["items"] == 18 and facts["recordings"] == 9
    assert facts["figures"]["accuracy"]["value"] > 0.8
    low, value, high = (facts["figures"]["cmAP"][key] for key in ("low", "value", "high"))
    assert low <= value <= high
    assert [row["name"] for row in facts["classes"]] == sorted(SPECIES)
    assert all(row["items"] == 6 and row["recordings"] == 3 for row in facts["classes"])
    assert facts["leakage"]["found"][0]["kind"] == "recordist", "all of it was recorded by birdsd"
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert len(rows) == 18 and {"name", "recording", "species", "logit Synthetic Low"} <= rows[0].keys()
    assert len(list(csv.DictReader((tmp_path / "out" / "classes.csv").open()))) == 3
    text = (tmp_path / "out" / "evaluation.html").read_text()
    page = _Checker(text)
    assert "Fake judge" in text and "Calibration" in text
    assert len([tag for tag, _ in page.tags if tag == "audio"]) == len(facts["mistakes"])
    assert "Synthetic Trill" in outcome.text and "95% interval" in outcome.text
    notes = outcome.facts["notes"]
    assert facts["notes"] == notes and "data.recordings=" in remarked(notes, "decoded-sounds")
    named = remarked(notes, "class-without-sound")
    assert named.facts["classes"] == ["Nobody's Bird"] and "Nobody's Bird" in named


def test_the_same_twice_is_the_same(index, judge, tmp_path):
    for name in ("one", "two"):
        run(tmp_path / name, f"data.shards={index.folder}", leaks="list")
    one, two = ((tmp_path / n / "evaluation.json").read_text() for n in ("one", "two"))
    assert one == two


def test_a_planted_leak_is_refused_and_listed_where_asked(index, codec, judge, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    write_shards(shards, codec, {"train": range(4), "test": range(3, 6)})
    with refuses(("3 recordings", "Synthetic High 3"), kind=Mismatch):
        run(tmp_path / "out", f"data.shards={shards}")
    facts = run(tmp_path / "out", f"data.shards={shards}", leaks="list").facts
    assert sum(leak["kind"] == "recording" for leak in facts["leakage"]["found"]) == 3
    with refuses(("3 recordists", "birdsd", "train and test"), kind=Mismatch):
        run(tmp_path / "out", f"data.shards={index.folder}", leaks="strict")


def test_a_folder_is_heard_and_checked_against_what_was_learnt_from(codec, judge, tmp_path):
    sounds = folder_of(tmp_path / "sounds", codec)
    facts = run(tmp_path / "out", f"data={sounds}").facts
    assert facts["items"] == 6 and facts["leakage"] is None
    assert "trained_on=" in remarked(facts["notes"], "leakage-unchecked")
    other = folder_of(tmp_path / "other", codec, first=60)
    assert run(tmp_path / "out", f"data={sounds}", trained_on=other).facts["leakage"]["found"] == []
    shutil.copy(sounds / SPECIES[0] / "High40.wav", other / SPECIES[0] / "renamed.wav")
    with refuses(("renamed.wav", "High40.wav"), kind=Mismatch):
        run(tmp_path / "out", f"data={sounds}", trained_on=other)


def test_clips_are_cut_from_their_recordings_where_those_are_at_hand(codec, judge, tmp_path):
    sounds = folder_of(tmp_path / "sounds", codec, count=4)
    data = DataConfig(
        name="t", recordings=str(sounds), shards=str(tmp_path / "shards"), segmentation="whole",
        validation_fraction=0.0, test_fraction=0.5,
    )  # fmt: skip
    prepare(data, codec, processes=1, progress=False)
    words = f"data.shards={data.shards}", f"data.recordings={sounds}"
    facts = run(tmp_path / "out", *words).facts
    assert facts["items"] == 6 and not facts["decoded_by_the_codec"]
    assert facts["figures"]["accuracy"]["value"] == 1.0
    assert facts["leakage"] == {"recordings": {"train": 6, "test": 6}, "found": [], "unchecked": []}
    tested = {row["recording"] for row in csv.DictReader((tmp_path / "out" / "scores.csv").open())}
    # A test recording in the place of a training one.
    files = {path.stem: path for path in sounds.glob("*/*.wav")}
    learnt = next(path for stem, path in sorted(files.items()) if stem not in tested)
    shutil.copy(next(files[stem] for stem in sorted(tested)), learnt)
    with refuses(("1 recording ", "same samples"), kind=Mismatch):
        run(tmp_path / "out", *words)


@pytest.mark.parametrize("key", ["run", "judge"])
def test_a_run_is_heard_and_what_it_learnt_from_is_compared(index, codec, monkeypatch, tmp_path, key):
    asked = []
    monkeypatch.setattr(evaluate, "find_judge", lambda named=None: asked.append(named) or FakeJudge())
    folder = tmp_path / "runs" / "tiny-classifier-abc"
    folder.mkdir(parents=True)
    write_json(folder / "signature.json", {"signature": "abcdef", "job": "train"})
    write_json(folder / "config.json", {"data": {"shards": str(index.folder)}})
    other = tmp_path / "other"
    other.mkdir()
    write_shards(other, codec, {"test": range(6, 9)})  # of which 6 and 7 were learnt from
    words = [f"{key}=tiny-classifier-abc", f"runs={tmp_path / 'runs'}", f"data.shards={other}"]
    facts = run(tmp_path / "out", *words, leaks="list").facts
    assert asked == [str(folder)]
    splits = {(leak["first_split"], leak["kind"]) for leak in facts["leakage"]["found"]}
    assert splits >= {("train", "recording"), ("validation", "recording")}
    with refuses("Synthetic High 6", kind=Mismatch):
        run(tmp_path / "out", *words)
    with refuses("'nowhere'", kind=UnknownName):
        run(tmp_path / "out", "run=nowhere", *words[1:])


def test_labels_with_times_are_judged_window_by_window(judge, tmp_path):
    time = np.arange(6 * 16000) / 16000
    sound = 0.3 * np.sin(2 * np.pi * 6000 * time) * ((time >= 2) & (time < 4))
    sound = sound + 1e-3 * np.random.default_rng(0).standard_normal(len(time))
    save(tmp_path / "in" / "a.wav", sound[None].astype(np.float32), 16000)
    (tmp_path / "in" / "a.txt").write_text("2.0\t4.0\tSynthetic High\n")
    facts = run(tmp_path / "out", f"data={tmp_path / 'in'}", strong="true").facts
    assert facts["items"] == 6 and facts["figures"]["recall"]["value"] == 1.0
    assert facts["events"]["event_f1"] == 1.0 and facts["events"]["psds"]["PSDS1"] == pytest.approx(1.0)
    assert (tmp_path / "out" / "events.csv").is_file()
    assert "Events" in (tmp_path / "out" / "evaluation.html").read_text()
    assert remarked(facts["notes"], "class-of-one-recording").facts["classes"] == ["Synthetic High"]


def test_thresholds_are_chosen_on_validation_recordings(index, judge, tmp_path):
    facts = run(tmp_path / "out", f"data.shards={index.folder}", thresholds="validation").facts
    assert "validation" in facts["thresholds"]["origin"]
    assert len({row["threshold"] for row in facts["classes"]}) > 1
    with refuses("split=validation", kind=Mismatch):
        run(tmp_path / "out", f"data.shards={index.folder}", thresholds="validation", split="validation")


def test_a_classifier_may_bring_its_own_thresholds(index, judge, tmp_path):
    with refuses("Fake judge", kind=NotFound):
        run(tmp_path / "out", f"data.shards={index.folder}", thresholds="own")
    judge.thresholds = (0.11, 0.22, 0.33, 0.44)  # in the order of its classes: High, Low, Trill, Nobody's
    facts = run(tmp_path / "out", f"data.shards={index.folder}", thresholds="own").facts
    assert [row["threshold"] for row in facts["classes"]] == [0.11, 0.22, 0.33]
    assert not {"own-thresholds-unused", "own-thresholds-chosen-here"} & set(codes(facts["notes"]))


def test_thresholds_that_classify_would_take_are_told_of(index, judge, tmp_path):
    facts = run(tmp_path / "plain", f"data.shards={index.folder}").facts
    assert "own-thresholds-unused" not in codes(facts["notes"]), "it keeps none"
    judge.thresholds = (0.11, 0.22, 0.33, 0.44)
    told = remarked(
        run(tmp_path / "out", f"data.shards={index.folder}").facts["notes"], "own-thresholds-unused"
    )
    assert told.facts == {"low": 0.11, "high": 0.44} and "thresholds=own" in told
    judge.thresholds = (0.5,) * 4
    facts = run(tmp_path / "same", f"data.shards={index.folder}").facts
    assert "own-thresholds-unused" not in codes(facts["notes"])


def test_thresholds_that_were_chosen_on_what_is_evaluated_are_said_to_flatter(index, judge, tmp_path):
    judge.thresholds = (0.11, 0.22, 0.33, 0.44)
    words = {"thresholds": "own", "split": "validation", "leaks": "list"}
    facts = run(tmp_path / "out", f"data.shards={index.folder}", **words).facts
    assert remarked(facts["notes"], "own-thresholds-chosen-here").facts == {"split": "validation"}


def test_the_same_picture_under_another_id_is_a_leak(codec, judge, tmp_path):
    write_shards(tmp_path, codec, {"train": range(3), "test": range(3, 6)})
    with ShardWriter(tmp_path / "train-000001.tar") as writer:
        image = codec.encode(song(SPECIES[0], 4, 0, codec), codec.rate_hz)
        writer.write("renamed", {"npy": image, "json": {"recording_id": "new", "species": [SPECIES[1]]}})
    with refuses(("1 recording ", "renamed ", "High-4-0"), kind=Mismatch):
        run(tmp_path / "out", f"data.shards={tmp_path}")


def test_species_without_a_class_are_left_out_and_a_judge_that_knows_none_is_refused(index, judge, tmp_path):
    judge.known = ("Synthetic High", "Synthetic Low")
    facts = run(tmp_path / "out", f"data.shards={index.folder}").facts
    assert facts["items"] == 12 and facts["unknown"] == ["Synthetic Trill"]
    assert len(facts["left_out"]) == 6 and "Synthetic Trill" in facts["left_out"][0]["reason"]
    assert any("Synthetic Trill" in note for note in facts["notes"])
    judge.known = ()
    with refuses("Synthetic High, Synthetic Low", kind=NothingLeft):
        run(tmp_path / "out", f"data.shards={index.folder}")


def test_one_class_is_told_from_nothing_and_said_so(codec, judge, tmp_path):
    judge.names = judge.names[:1]
    judge.hear, heard = (lambda *given: _first(heard(*given))), judge.hear
    sounds = folder_of(tmp_path / "sounds", codec)
    for species in SPECIES[1:]:
        shutil.rmtree(sounds / species)
    facts = run(tmp_path / "out", f"data={sounds}").facts
    assert facts["figures"]["cmAP"]["value"] is None and "accuracy" not in facts["figures"]
    assert remarked(facts["notes"], "one-class").facts["told_from"].startswith("nothing")


def _first(scores: WindowScores) -> WindowScores:
    return WindowScores(scores.starts_s, scores.logits[:, :1], scores.embeddings)


def test_scores_that_are_no_numbers_count_as_nothing_heard_and_all_such_are_refused(index, judge, tmp_path):
    heard, count = judge.hear, iter(range(1000))

    def broken(waveform, rate_hz, often=6):
        scores = heard(waveform, rate_hz)
        if next(count) % often == 0:
            scores.logits[:] = np.nan
        return scores

    judge.hear = broken
    facts = run(tmp_path / "out", f"data.shards={index.folder}").facts
    assert facts["items"] == 18 and facts["figures"]["recall"]["value"] < 0.95
    unheard = remarked(facts["notes"], "nothing-heard")
    assert len(unheard.facts["items"]) == 3 and unheard.facts["of"] == 18 and "3 of 18 items" in unheard
    assert unheard.facts["reasons"] == [NOT_A_NUMBER] and NOT_A_NUMBER in unheard
    judge.hear = lambda *given: broken(*given, often=1)
    with refuses(("score", "NaN"), "learning rate", kind=NotFinite):
        run(tmp_path / "out", f"data.shards={index.folder}")


def test_silent_sounds_are_missed_and_nothing_but_silence_is_refused(codec, judge, tmp_path):
    sounds = folder_of(tmp_path / "sounds", codec)
    silent = save(sounds / SPECIES[0] / "silent.wav", np.zeros((1, 16000), np.float32), 16000)
    facts = run(tmp_path / "out", f"data={sounds}").facts
    assert facts["items"] == 7
    (row,) = (one for one in facts["classes"] if one["name"] == SPECIES[0])
    assert row["recall"]["value"] == pytest.approx(2 / 3)
    only = tmp_path / "only" / SPECIES[0]
    only.mkdir(parents=True)
    shutil.copy(silent, only / "a.wav")
    with refuses("all 1 sounds", kind=NothingLeft):
        run(tmp_path / "out", f"data={tmp_path / 'only'}")


@pytest.mark.parametrize(
    ("settings", "kind", "named"),
    [
        ([], NotSet, "sounds"),
        (["data.recordings=x", "threshold=1"], BadValue, "threshold=1"),
        (["data.recordings=x", "thresholds=best"], UnknownName, "'best'"),
        (["data.recordings=x", "leaks=ignore"], UnknownName, "'ignore'"),
        (["data.recordings=x", "run=a", "judge=b"], Mismatch, "run=a and judge=b"),
        (["data.recordings=x", "thresholds=validation"], Mismatch, "thresholds=validation"),
        (["data.recordings=x", "resamples=0"], BadValue, "resamples=0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, kind, named, tmp_path):
    with refuses(named, kind=kind):
        evaluate.run(compose("evaluate", [f"out={tmp_path}", *settings]))


def test_a_split_that_is_not_there_is_named(codec, judge, tmp_path):
    write_shards(tmp_path, codec, {"train": range(2)})
    with refuses("'test'", kind=NotFound):
        run(tmp_path / "out", f"data.shards={tmp_path}")
    assert ShardIndex.open(tmp_path).splits == ("train",)


def test_settings_without_effect_are_told():
    words = ["data.recordings=x", "collar_s=0.2", "split=train", "data.overlap=0.5"]
    lines = without_effect("evaluate", words, compose("evaluate", words))
    assert len(lines) == 3 and any("strong=false" in line for line in lines)
