"""The experiment's classifiers that learn from pictures, and several of them in one comparison."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from birdsd.jobs import sim2real as job

from birdsd.config import compose
from birdsd.errors import UnknownName, UserError
from birdsd.evaluation.sim2real.ranking import by_recording
from birdsd.runs.effects import without_effect
from birdsd.sound.audio.recordings import read, write_wav
from birdsd.sound.codec.protocol import Codec
from birdsd.studies.sim2real import study as study_module
from birdsd.studies.sim2real.augment import augmented
from birdsd.studies.sim2real.from_scratch import CnnClassifier
from birdsd.studies.sim2real.pictures import Pictures
from birdsd.studies.sim2real.regression import RegressionClassifier
from birdsd.studies.sim2real.sounds import RealSounds, real_sounds
from birdsd.studies.sim2real.study import Experiment
from tests.support.errors import refuses
from tests.support.judge_sounds import PITCHES_HZ, PitchJudge, tone
from tests.support.remarks import codes, remarked

NAMES = ("Black Phoebe", "Myrtle Warbler")


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two species with a pitch each, eight recordings of three seconds."""
    folder = tmp_path_factory.mktemp("birds")
    for kind, species in enumerate(NAMES):
        for number in range(8):
            random = np.random.default_rng([7, kind, number])
            wave = tone(PITCHES_HZ[kind], 3.0, 32000, 0.1 + 0.3 * random.random())
            wave += 0.02 * random.normal(size=len(wave)).astype(np.float32)
            (folder / species).mkdir(exist_ok=True)
            write_wav(folder / species / f"XC{kind}{number}.wav", wave[None].astype(np.float32), 32000)
    return folder


@pytest.fixture(scope="module")
def real(birds: Path) -> RealSounds:
    return real_sounds(birds, None, validation_fraction=0.125, test_fraction=0.375, seed=0)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    config = compose("prepare", ["codec=birdsong-tiny", "machine=smoke"])
    return Pictures(Codec.from_config(config.codec), config.machine)


SMALL = ["method.width=8", "optim.global_batch=8", "optim.ema_decay=0.5"]


@pytest.mark.parametrize("kind", ["cnn", "regression"])
def test_it_learns_from_pictures_and_copies_only_real_windows(
    kind: str, real: RealSounds, pictures: Pictures
) -> None:
    made = CnnClassifier(pictures, SMALL, 1) if kind == "cnn" else RegressionClassifier(pictures, 1)
    known = len(pictures._known)
    held, tested = real.samples["validation"], real.samples["test"]
    predict, told = made.fit([real.training(4)], held, real.species, augment=False, seed=3, steps=12)
    scores = predict(tested)
    assert scores.shape == (6, 2) and np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    truth = [real.species.index(one.species) for one in tested]
    assert scores.argmax(axis=1).tolist() == truth
    if kind == "cnn":
        assert 0 < told["best_step"] <= 12 and np.isfinite(told["validation_loss"])
    again, _ = made.fit([real.training(4)], held, real.species, augment=False, seed=3, steps=12)
    np.testing.assert_array_equal(again(tested), scores)
    other, _ = made.fit([real.training(4)], held, real.species, augment=False, seed=4, steps=12)
    assert np.array_equal(other(tested), scores) is (kind == "regression")
    assert len(pictures._known) <= known + 16, "every window is read once"
    made.fit([real.training(2)], held, real.species, augment=True, seed=0, steps=1)
    assert sum(one.variant > 0 for one in pictures._known) == 4


def test_a_picture_is_that_of_the_window_or_of_its_copy(real: RealSounds, pictures: Pictures) -> None:
    from dataclasses import replace

    from birdsd.sound.audio.recordings import read

    one = real.samples["test"][0]
    sound = read(one.path, 32000, start_s=one.start_s, duration_s=one.duration_s)
    np.testing.assert_array_equal(pictures.of(one), pictures.codec.encode(sound, 32000))
    changed = augmented(sound, 32000, one.stretch, 2)
    np.testing.assert_array_equal(pictures.of(replace(one, variant=2)), pictures.codec.encode(changed, 32000))


def test_a_species_that_the_arms_do_not_have_gets_no_score(real: RealSounds, pictures: Pictures) -> None:
    made = RegressionClassifier(pictures)
    species = ["Aardvark", *real.species]
    predict, _ = made.fit([real.training(2)], [], species, augment=False, seed=0, steps=1)
    scores = predict(real.samples["test"])
    assert scores.shape == (6, 3) and not scores[:, 0].any() and scores[:, 1:].any(axis=1).all()
    with refuses((".wav", real.species[1]), kind=UnknownName):
        made.fit([real.training(2)], [], real.species[:1], augment=False, seed=0, steps=1)


def test_clips_of_a_recording_speak_together() -> None:
    scores = np.array([[0.6, 0.4], [0.1, 0.9], [0.7, 0.3], [0.5, 0.5]])
    found, kinds = by_recording(scores, np.array([0, 0, 1, 0]), np.array([0, 0, 1, 1]))
    assert kinds.tolist() == [0, 0, 1]
    np.testing.assert_allclose(found, [np.log(scores[:2]).mean(axis=0), np.log(scores[3]), np.log(scores[2])])


def settings(birds: Path, out: Path, *more: str):
    return compose("sim2real", [
        f"data={birds}", f"out={out}", "arms=[real]", "levels=[1,2,all]", "seeds=1", "steps=2",
        "draws=50", "machine=smoke", *more,
    ])  # fmt: skip


def test_several_classifiers_are_drawn_in_one_page(birds: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(study_module, "find_judge", lambda name=None: PitchJudge())
    config = settings(birds, tmp_path, "classifier=head,regression")
    outcome = job.run(config)
    page = Path(outcome.facts["report"]).read_text()
    for text in ("head: Real", "regression: Real", "report-head.html", "log-mel", "Corrected"):
        assert text in page, text
    facts = json.loads((tmp_path / "sim2real.json").read_text())
    told = facts["classifiers"]
    pairs = [(one["arm"], one["against"], one["level"]) for one in facts["differences"]]
    assert pairs == [("regression: Real", "head: Real", level) for level in ("1", "2", "all")]
    for one in facts["differences"]:
        mine, other = (
            next(s for s in told[name]["scores"] if s["level"] == one["level"])
            for name in ("regression", "head")
        )
        apart = mine["average_precision"]["estimate"] - other["average_precision"]["estimate"]
        assert one["difference"]["estimate"] == pytest.approx(apart)
    assert [len(one["scores"]) for one in told.values()] == [3, 3]
    best = told["regression"]["scores"][-1]
    assert best["level"] == "all" and best["recordings_f1"] == 1.0
    assert "regression: Real" in outcome.text and "macro F1 of recordings" in outcome.text
    assert (tmp_path / "report-regression.html").is_file()
    cells = sorted(tmp_path.rglob("cells/*.json"))
    before = [path.stat().st_mtime_ns for path in cells]
    job.run(config)
    assert [path.stat().st_mtime_ns for path in cells] == before and len(cells) == 6, "it goes on"


def test_without_a_head_no_judge_is_needed(birds: Path, tmp_path: Path, monkeypatch) -> None:
    def none(name: str | None = None) -> None:
        raise UserError("no judge is installed")

    monkeypatch.setattr(study_module, "find_judge", none)
    told = job.run(settings(birds, tmp_path, "classifier=regression", "levels=[all]")).facts
    assert told["classifier"].startswith("logistic regression ") and not told["failed"]
    both = job.run(settings(birds, tmp_path, "classifier=regression,head", "levels=[all]")).facts
    assert list(both["classifiers"]) == ["regression"] and "no judge" in both["failed"]["head"]


def test_a_classifier_that_there_is_not_is_refused(birds: Path, tmp_path: Path) -> None:
    with refuses("cnnn", "cnn", kind=UnknownName):
        job.run(settings(birds, tmp_path, "classifier=head,cnnn"))


def test_the_codec_matters_to_what_learns_from_pictures(birds: Path, tmp_path: Path) -> None:
    def useless(classifier: str) -> str:
        words = ["codec=birdsong", f"classifier={classifier}", "synthetic=clips"]
        return " ".join(without_effect("sim2real", words, settings(birds, tmp_path, *words)))

    assert "codec=birdsong" in useless("head") and "codec=birdsong" not in useless("cnn")


def test_recordings_that_hold_less_than_the_codec_shows_are_said_before_anything_is_trained(
    birds: Path, tmp_path: Path
) -> None:
    for path in birds.glob("*/*.wav"):
        sound, place = read(path, 16000), tmp_path / "in" / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        write_wav(place, sound, 32000 if path.stem.endswith("1") else 16000)

    def remarks(classifier: str) -> list[str]:
        asked = [f"data={tmp_path / 'in'}", f"classifier={classifier}", f"out={tmp_path / classifier}"]
        asked += ["levels=[all]", "arms=[real]", "machine=smoke"]
        return Experiment(compose("sim2real", asked), None).plan.remarks

    told = remarked(remarks("regression"), "rate-too-low")
    assert len(told.facts["recordings"]) == 14 and told.startswith("14 recordings (")
    assert "rate-too-low" not in codes(remarks("head")), "BirdNET has a rate of its own"
