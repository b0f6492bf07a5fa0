"""The experiment on small recordings: what each arm sees, nested levels, going on after a stop, array tasks,
and a judge made of rules in BirdNET's place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from birdsd.jobs import sim2real as job

from birdsd.config import compose
from birdsd.diffusion.networks.finite import NotFinite
from birdsd.errors import BadValue, Mismatch, NotFound, NothingLeft, NotSet, UnknownName, UserError
from birdsd.evaluation.embedded.cache import EmbeddingCache
from birdsd.evaluation.sim2real.arms import ARMS
from birdsd.files import read_json
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.labels.load import load_recordings
from birdsd.studies.sim2real import study as study_module
from birdsd.studies.sim2real.augment import augmented
from birdsd.studies.sim2real.classify import HeadClassifier, find_classifier
from birdsd.studies.sim2real.generators import Generators, link_recordings
from birdsd.studies.sim2real.sounds import (
    balanced,
    real_sounds,
    synthetic_sounds,
    usable_levels,
    windows_of_recording,
)
from birdsd.studies.sim2real.study import Experiment
from birdsd.studies.stage_runner import Stopped
from tests.support.errors import refuses
from tests.support.judge_sounds import PITCHES_HZ, PitchJudge, tone

NAMES = ("Black Phoebe", "Myrtle Warbler", "House Sparrow")
PITCH = dict(zip(NAMES, (PITCHES_HZ[0], PITCHES_HZ[1], PITCHES_HZ[3]), strict=True))


def sing(path: Path, species: str, seed: int, seconds: float = 4.0) -> None:
    """A recording: the species' pitch, another one's more softly, and noise; all of its own."""
    random = np.random.default_rng([5, seed])
    wave = tone(PITCH[species], seconds, 32000, 0.2 + 0.1 * random.random())
    wave += tone(float(random.choice(PITCHES_HZ)), seconds, 32000, 0.15 * random.random())
    wave += 0.02 * random.normal(size=len(wave)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, wave[None].astype(np.float32), 32000)


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("birds")
    for kind, species in enumerate(NAMES):
        for number in range(8):
            sing(folder / "recordings" / species / f"XC{kind}{number}.wav", species, 10 * kind + number)
        for number in range(5):
            wrong = NAMES[(kind + 1) % 3] if number == 0 else species  # one that a judge does not confirm
            sing(folder / "made" / species / f"m{kind}{number}.wav", wrong, 100 + 10 * kind + number, 1.5)
    return folder


class Control:
    """Lets so many steps pass, then asks to stop."""

    def __init__(self, steps: int = 10_000) -> None:
        self.left = steps

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left < 0

    def beat(self, pulse: object) -> None:
        pass


def settings(birds: Path, out: Path, *more: str):
    return compose("sim2real", [
        f"data={birds / 'recordings'}", f"synthetic={birds / 'made'}", f"out={out}", "levels=[1,all]",
        "seeds=2", "steps=30", "draws=100", "machine=smoke", *more,
    ])  # fmt: skip


@pytest.fixture(autouse=True)
def pitch_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "find_judge", lambda name=None: PitchJudge())


def sounds(birds: Path, seed: int = 0):
    return real_sounds(birds / "recordings", None, validation_fraction=0.125, test_fraction=0.375, seed=seed)


def test_recordings_are_split_within_species_and_levels_are_nested(birds: Path) -> None:
    real = sounds(birds)
    of = {split: {one.recording for one in found} for split, found in real.samples.items()}
    assert {split: len(found) for split, found in of.items()} == {"train": 12, "validation": 3, "test": 9}
    assert (
        not of["train"] & of["test"]
        and not of["train"] & of["validation"]
        and not of["validation"] & of["test"]
    )
    assert all(len(known) == 4 for known in real.order.values())
    levels = [{one.recording for one in real.training(count)} for count in (1, 2, 4)]
    assert [len(level) for level in levels] == [3, 6, 12] and levels[0] < levels[1] < levels[2]
    assert real.fingerprint == sounds(birds).fingerprint != sounds(birds, 1).fingerprint
    assert {r.recording_id for r in real.training_recordings(1)} == levels[0]


def test_a_window_holds_one_species_and_sound(tmp_path: Path) -> None:
    sing(tmp_path / "a" / "Black Phoebe" / "long.wav", "Black Phoebe", 1, 10.5)
    sing(tmp_path / "a" / "Black Phoebe" / "short.wav", "Black Phoebe", 2, 0.7)
    write_wav(tmp_path / "a" / "Black Phoebe" / "still.wav", np.zeros((1, 96000), np.float32), 32000)
    found = {
        one.recording_id: windows_of_recording(one) for one in load_recordings(tmp_path / "a").recordings
    }
    assert [one.start_s for one in found["long"]] == [0, 3, 6, 9] and found["long"][3].duration_s == 1.5
    assert len(found["short"]) == 1 and found["still"] == []
    sing(tmp_path / "b" / "two.wav", "Black Phoebe", 3, 9.0)
    (tmp_path / "b" / "labels.csv").write_text(
        "file,species,start_s,end_s\ntwo.wav,Black Phoebe,0.5,2\n"
        "two.wav,House Sparrow,1,2\ntwo.wav,House Sparrow,4,5\n"
    )
    (one,) = load_recordings(tmp_path / "b").recordings
    assert [(w.start_s, w.species) for w in windows_of_recording(one)] == [(3, "House Sparrow")]
    assert windows_of_recording(one, {"Black Phoebe"}) == []


def test_levels_that_ask_for_all_there_is_are_said_and_left_out(birds: Path) -> None:
    real = sounds(birds)
    assert usable_levels(["all", "2", "1", "2"], real) == (["1", "2", "all"], [])
    levels, remarks = usable_levels(["2", "4", "8", "all"], real)
    assert levels == ["2", "all"] and len(remarks) == 2 and "more than 4" in remarks[0]
    with refuses("level 9", "levels=[2,all]", kind=BadValue):
        usable_levels(["9"], real)
    with refuses("'two'", kind=BadValue):
        usable_levels(["two"], real)


def test_too_little_to_compare_is_refused_with_the_reason(birds: Path, tmp_path: Path) -> None:
    for number in range(6):
        sing(tmp_path / "one" / "Black Phoebe" / f"r{number}.wav", "Black Phoebe", number)
    sing(tmp_path / "one" / "House Sparrow" / "alone.wav", "House Sparrow", 77)
    with refuses("1 species", "two test recordings", "add recordings", kind=NothingLeft):
        real_sounds(tmp_path / "one", None, validation_fraction=0.2, test_fraction=0.4, seed=0)
    for number in range(3):
        sing(tmp_path / "one" / "House Sparrow" / f"h{number}.wav", "House Sparrow", 80 + number)
    with refuses("0 species", "raise test_fraction", kind=NothingLeft):
        real_sounds(tmp_path / "one", None, validation_fraction=0.2, test_fraction=0.2, seed=0)
    for species, many in ((NAMES[0], 0), (NAMES[1], 8)):
        for number in range(many):
            sing(tmp_path / "one" / species / f"{species}{number}.wav", species, 90 + number)
    two = real_sounds(tmp_path / "one", None, validation_fraction=0.2, test_fraction=0.35, seed=0)
    assert two.species == ["Black Phoebe", "Myrtle Warbler"] and "House Sparrow" in two.remarks[-1]
    with refuses("Black Pheobe", "Black Phoebe", kind=UnknownName):
        real_sounds(
            birds / "recordings", None, species=["Black Pheobe"],
            validation_fraction=0.125, test_fraction=0.4, seed=0,
        )  # fmt: skip
    with refuses("data is not set", "data=FOLDER", kind=NotSet):
        Experiment(compose("sim2real", []), Control())
    with refuses("seeds=0", kind=BadValue):
        Experiment(settings(birds, tmp_path, "seeds=0"), Control())
    with refuses("does not exist", "FOLDER/{level}", kind=NotFound):
        Experiment(settings(birds, tmp_path / "x", f"synthetic={tmp_path}/none"), Control()).answer()
    with refuses("no clip in", "Townsend's Warbler", "synthetic=FOLDER", kind=NothingLeft):
        synthetic_sounds(birds / "made", ["Townsend's Warbler"])


def test_a_folder_of_each_level_takes_the_levels_place(birds: Path, tmp_path: Path) -> None:
    for level, species in (("1", NAMES[0]), ("all", NAMES[1])):
        for name in NAMES:
            sing(tmp_path / level / name / f"{level}.wav", name if level == "1" else species, 50)
    experiment = Experiment(settings(birds, tmp_path / "o", f"synthetic={tmp_path}/{{level}}"), Control())
    for level in ("1", "all"):
        samples, _ = experiment.synthetic("clips", level, "everything")
        assert {one.path.parent.parent.name for one in samples} == {level} and len(samples) == 6
    one, other = (experiment.generators.identity("clips", level) for level in ("1", "all"))
    assert one != other


def test_the_generator_of_a_level_sees_that_levels_recordings_alone(birds: Path, tmp_path: Path) -> None:
    real = sounds(birds)
    folder = link_recordings(tmp_path / "linked", real.training_recordings(2))
    assert len(load_recordings(folder).recordings) == 6
    folder = link_recordings(tmp_path / "linked", real.training_recordings(1))
    found = load_recordings(folder)
    assert {one.recording_id for one in found.recordings} == {one.recording for one in real.training(1)}
    assert found.species == tuple(sorted(NAMES)), "the names are the set's own"
    assert all(one.weak for one in found.recordings)
    table = folder / ".labels.csv.n2-77.partial"
    table.write_text("another task of the array is writing it")
    link_recordings(folder, real.training_recordings(1))
    assert table.is_file() and len(load_recordings(folder).recordings) == 3
    unseen = {one.recording for split in ("validation", "test") for one in real.samples[split]}
    assert not unseen & {one.recording_id for one in found.recordings}


def test_a_test_recording_among_the_synthetic_clips_is_refused(birds: Path, tmp_path: Path) -> None:
    real = sounds(birds)
    tested = next(one for one in real.held_out if one.species == (NAMES[0],))
    for number, name in enumerate(NAMES):
        for take in range(2):
            sing(tmp_path / "given" / name / f"new{number}{take}.wav", name, 300 + 10 * number + take)
    assert synthetic_sounds(tmp_path / "given", real.species, real.held_out)[0]
    leak = tmp_path / "given" / NAMES[0] / "innocent.wav"
    leak.write_bytes(tested.path.read_bytes())
    with refuses("innocent.wav", "take these files out", kind=Mismatch):
        synthetic_sounds(tmp_path / "given", real.species, real.held_out)
    experiment = Experiment(
        settings(
            birds, tmp_path / "o", f"synthetic={tmp_path / 'given'}", "arms=[synthetic]", "levels=[all]"
        ),
        Control(), classifier=Recorder(),
    )  # fmt: skip
    experiment.run()
    told = experiment.answer()
    assert all("innocent.wav" in why for why in told.failed.values()) and len(told.failed) == 4


class Steps:
    """Notes the jobs that a level asks for; each must be one that can be typed."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, str, list[str]]] = []

    def run(self, stage: str, job: str, settings: list[str]) -> dict:
        compose(job, settings)
        self.jobs.append((stage, job, settings))
        return {"run": f"run of {stage}"}


def test_each_level_has_a_model_of_its_own_recordings(birds: Path, tmp_path: Path) -> None:
    real, steps = sounds(birds), Steps()
    drawn = tmp_path / "d.yaml"
    drawn.write_text("events: 4")
    asked = compose("sim2real", [
        "data=x", "autoencoder_samples=64", "diffusion_samples=128", "machine=smoke", f"distribution={drawn}",
        "settings=[optim.optimizer=muon]", "guidance=2",
    ])  # fmt: skip
    generators = Generators(asked, tmp_path, steps, real.species)
    for level in ("1", "all"):
        count = real.count(level)
        generators.folder("clips", level, real.training_recordings(count))
        told = load_recordings(tmp_path / f"level-{level}" / "recordings").recordings
        assert {one.recording_id for one in told} == {one.recording for one in real.training(count)}
    generators.folder("scenes", "all", real.training_recordings(4))
    assert [job for _, job, _ in steps.jobs] == ["prepare", "train", "train", "generate"] * 2 + [
        "prepare", "train", "train", "scene",
    ]  # fmt: skip
    prepared, ears, model, clips = (settings for _, _, settings in steps.jobs[:4])
    assert f"data.recordings={tmp_path / 'level-1' / 'recordings'}" in prepared
    assert {"data.validation_fraction=0", "data.test_fraction=0"} <= set(prepared)
    assert "optim.total_samples=64" in ears and "optim.optimizer=muon" in model
    assert "model.autoencoder=run of autoencoder of level 1" in model
    assert "run=run of model of level 1" in clips and "guidance=2.0" in clips
    one, other = (generators.identity("clips", level) for level in ("1", "all"))
    assert one != other != generators.identity("scenes", "all")


def test_scenes_follow_what_stands_in_the_distribution_and_take_their_backgrounds_from_the_pool(
    birds: Path, tmp_path: Path
) -> None:
    real, steps = sounds(birds), Steps()
    sing(tmp_path / "pool" / "rain" / "r.wav", NAMES[0], 500)
    drawn = tmp_path / "d.yaml"
    drawn.write_text("events: 4\nenvironments: {rain: 1}\n")

    def made() -> tuple[Path, str]:
        asked = compose("sim2real", ["data=x", f"distribution={drawn}", f"pool={tmp_path / 'pool'}"])
        generators = Generators(asked, tmp_path, steps, real.species)
        folder = generators.folder("scenes", "1", real.training_recordings(1))
        assert {f"pool={tmp_path / 'pool'}", f"out={folder}"} <= set(steps.jobs[-1][2])
        return folder, generators.identity("scenes", "1")

    first, again = made(), made()
    drawn.write_text("events: 5\nenvironments: {rain: 1}\n")
    other = made()
    assert first == again and first[0] != other[0] and first[1] != other[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("environments: {rain: 1}", "environment"),
        ("species: {Great Tit: 1}", "Great Tit"),
        ("events: many", "events"),
        ("", "does not exist"),
    ],
)
def test_what_no_scene_can_be_drawn_from_is_refused_before_anything_is_trained(
    birds: Path, tmp_path: Path, text: str, said: str
) -> None:
    if text:
        (tmp_path / "d.yaml").write_text(text)
    recorder = Recorder()
    asked = settings(birds, tmp_path / "o", f"distribution={tmp_path / 'd.yaml'}", "arms=[real,scenes]")
    with refuses(said):
        Experiment(asked, Control(), classifier=recorder).run()
    assert not recorder.calls


def test_a_generator_that_failed_is_not_tried_again_for_each_of_its_cells(
    birds: Path, tmp_path: Path
) -> None:
    asked = settings(birds, tmp_path, "synthetic=null", "arms=[synthetic,synthetic_only]", "levels=[all]")
    experiment = Experiment(asked, Control(), classifier=Recorder())
    tried = []

    def run(stage: str, job: str, settings: list[str]) -> dict:
        tried.append(stage)
        raise UserError("out of memory")

    experiment.stages.run = run
    experiment.run()
    assert tried == ["shards of level all"]
    told = experiment.answer()
    assert len(told.failed) == 8 and set(told.failed.values()) == {str(UserError("out of memory"))}
    assert told.score("real", "all") is not None


class Recorder:
    """Notes what each arm is given, and knows nothing."""

    title, identity = "recorder", "recorder"

    def __init__(self, fail: str = "") -> None:
        self.calls: list[dict] = []
        self.fail = fail

    def fit(self, pools, validation, species, *, augment, seed, steps):
        self.calls.append(
            {"pools": pools, "validation": validation, "augment": augment, "seed": seed, "steps": steps}
        )
        if self.fail == "nan":
            return lambda samples: np.full((len(samples), len(species)), np.nan), {}
        random = np.random.default_rng(seed)
        return lambda samples: random.random((len(samples), len(species))), {"best_step": steps}


def test_every_arm_learns_for_as_long_from_what_it_should_and_is_tested_on_the_same(
    birds: Path, tmp_path: Path
) -> None:
    recorder = Recorder()
    experiment = Experiment(
        settings(birds, tmp_path, "seeds=1", "filters=[everything]"), Control(), classifier=recorder
    )
    experiment.run()
    cells = experiment.mine()
    assert len(cells) == 12 and len(recorder.calls) == 12
    held = experiment.real.samples["validation"]
    for cell, call in zip(cells, recorder.calls, strict=True):
        assert call["steps"] == 30 and call["validation"] == held
        origins = [{one.origin for one in pool} for pool in call["pools"]]
        expected = ([{"real"}] if cell.arm.real else []) + ([{"synthetic"}] if cell.arm.synthetic else [])
        assert origins == expected and call["augment"] is cell.arm.augmented
        real = {one.recording for pool in call["pools"] for one in pool if one.origin == "real"}
        assert len(real) == (0 if not cell.arm.real else 3 if cell.level == "1" else 12)
        assert not real & {one.recording for one in experiment.real.samples["test"]}
    seeds = {cell.arm.name: call["seed"] for cell, call in zip(cells, recorder.calls, strict=True)}
    assert seeds["real"] == seeds["synthetic"] == seeds["augmented"] != seeds["repeated"]
    record = json.loads(experiment.place(cells[0]).read_text())
    assert record["recordings"] == 3 and len(record["keys"]) == len(experiment.real.samples["test"])


def test_it_goes_on_where_it_was_stopped_and_tasks_share_the_cells(birds: Path, tmp_path: Path) -> None:
    first = Recorder()
    stopped = Experiment(settings(birds, tmp_path), Control(5), classifier=first)
    with pytest.raises(Stopped):
        stopped.run()
    assert 0 < len(first.calls) < len(stopped.plan.cells)
    plan = stopped.plan_file.read_text()
    parts = [Recorder(), Recorder()]
    for number, recorder in enumerate(parts):
        Experiment(settings(birds, tmp_path, f"part={number}/2"), Control(), classifier=recorder).run()
    done = len(first.calls) + sum(len(one.calls) for one in parts)
    assert done == len(stopped.plan.cells), "each cell once"
    assert all(one.calls for one in parts)
    assert stopped.plan_file.read_text() == plan
    again = Recorder()
    whole = Experiment(settings(birds, tmp_path), Control(), classifier=again)
    whole.run()
    assert not again.calls and not whole.answer().missing
    longer = Recorder()
    Experiment(settings(birds, tmp_path, "steps=31"), Control(), classifier=longer).run()
    assert len(longer.calls) == len(whole.plan.cells), "other settings are other cells"


def test_a_record_without_its_scores_is_made_again(birds: Path, tmp_path: Path) -> None:
    experiment = Experiment(
        settings(birds, tmp_path, "arms=[synthetic]", "seeds=1", "levels=[all]"),
        Control(),
        classifier=Recorder(),
    )
    experiment.run()
    place = experiment.place(experiment.plan.cells[0])
    place.with_suffix(".npy").unlink()
    assert experiment.plan.cells[0].name in experiment.answer().missing
    again = Recorder()
    Experiment(experiment.config, Control(), classifier=again).run()
    assert len(again.calls) == 1


@pytest.mark.parametrize(
    ("scores", "named", "offers", "kind"),
    [
        (np.zeros((3, 4)), "(3, 4)", "(4, 3)", Mismatch),
        (np.full((3, 4), np.nan), "(3, 4)", "(4, 3)", Mismatch),  # of another shape is worse
        (np.array([[0, np.inf, 1]] * 4), "4 of 12", "learning rate", NotFinite),
    ],
)
def test_scores_of_another_shape_are_another_error_than_those_that_are_no_numbers(
    scores: np.ndarray, named: str, offers: str, kind: type[UserError]
) -> None:
    study_module.check_scores(np.zeros((4, 3)), 4, 3)
    with refuses(named, offers, kind=kind):
        study_module.check_scores(scores, 4, 3)


def test_an_arm_that_fails_is_named_and_tried_again(birds: Path, tmp_path: Path) -> None:
    asked = settings(birds, tmp_path, "arms=[synthetic]", "seeds=1", "levels=[all]", "filters=[everything]")
    failing = Experiment(asked, Control(), classifier=Recorder("nan"))
    failing.run()
    with refuses("(18, 3)", kind=NothingLeft):
        failing.answer()
    assert {read_json(failing.place(cell))["code"] for cell in failing.plan.cells} == {NotFinite.code}
    mended = Recorder()
    experiment = Experiment(asked, Control(), classifier=mended)
    experiment.train(experiment.plan.cells[0])
    told = experiment.answer()
    assert list(told.failed) == ["synthetic-all-everything-s0"] and "Failed" in told.sentence()
    experiment.run()
    assert not experiment.answer().failed and len(mended.calls) == 2


def test_the_judge_confirms_what_it_names_right_and_the_share_is_told(birds: Path, tmp_path: Path) -> None:
    experiment = Experiment(settings(birds, tmp_path), Control())
    everything, none = experiment.synthetic("clips", "all", "everything")
    kept, shares = experiment.synthetic("clips", "all", "confirmed")
    assert len(everything) == 15 and none == {} and len(kept) == 12
    assert shares == {name: pytest.approx(0.8) for name in NAMES}
    assert not any(one.path.stem.endswith("0") for one in kept)
    deaf = Experiment(settings(birds, tmp_path, f"synthetic={tmp_path}/wrong"), Control())
    for number, name in enumerate(NAMES):
        sing(tmp_path / "wrong" / name / "w.wav", NAMES[(number + 1) % 3], 403 + number, 1.5)
    with refuses("names none of 3", "filters=[everything]", kind=NothingLeft):
        deaf.synthetic("clips", "all", "confirmed")


def test_a_judge_that_knows_none_of_the_species_is_refused(birds: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(PitchJudge, "class_of", lambda self, species: None)
    with refuses("knows none of the 3 species", "filters=[everything]", kind=NothingLeft):
        _ = Experiment(settings(birds, tmp_path), Control()).judge


def test_augmented_copies_are_a_function_of_name_and_number() -> None:
    wave = tone(1000.0, 3.0, 32000)[None]
    one, same, other = (augmented(wave, 32000, "a", k) for k in (1, 1, 2))
    assert (
        (one == same).all() and (one != other).any() and one.shape == wave.shape and one.dtype == np.float32
    )
    assert np.isfinite(one).all() and (augmented(wave, 32000, "b", 1) != one).any()
    spectra = [np.abs(np.fft.rfft(augmented(wave, 32000, "a", k)[0])) for k in range(8)]
    assert all(abs(int(s.argmax()) / 3 - 1000) < 1 for s in spectra), "the bird keeps its pitch"
    assert np.isfinite(augmented(np.zeros((1, 96000), np.float32), 32000, "z", 1)).all()


def test_the_head_learns_the_species_and_copies_only_real_windows(birds: Path, tmp_path: Path) -> None:
    real = sounds(birds)
    cache = EmbeddingCache(PitchJudge(), tmp_path)
    head = HeadClassifier(cache, copies=2)
    made, _ = synthetic_sounds(birds / "made", real.species)
    predict, told = head.fit(
        [real.training(4), made], real.samples["validation"], real.species, augment=True, seed=0, steps=200
    )
    truth = [real.species.index(one.species) for one in real.samples["test"]]
    assert (predict(real.samples["test"]).argmax(axis=1) == truth).mean() > 0.9 and told["best_step"] > 0
    windows = len(real.training(4))
    held = len(real.samples["validation"]) + len(real.samples["test"])
    assert cache.listened == 3 * windows + len(made) + held
    with refuses("cnnn", "head", kind=UnknownName):
        find_classifier("cnnn", PitchJudge(), tmp_path)
    assert len(balanced(made[:-2])) == 9


def test_the_job_writes_a_page_with_the_sentence_and_the_power(birds: Path, tmp_path: Path) -> None:
    outcome = job.run(settings(birds, tmp_path))
    page = Path(outcome.facts["report"]).read_text()
    both = next(arm for arm in ARMS if arm.name == "both")
    assert outcome.facts["sentence"] in outcome.text and "test recordings (" in outcome.text
    for text in (
        f"{both.title}, confirmed",
        "80% power at",
        "Black Phoebe",
    ):
        assert text in page, text
    told = json.loads((tmp_path / "sim2real.json").read_text())
    assert told["power"]["recordings"] == 9 and told["recordings"] == {
        "train": 12,
        "validation": 3,
        "test": 9,
    }
    assert len(told["scores"]) == 2 * (3 + 3 * 2) and len(told["effects"]) == 2 * (2 + 3 * 2)
    assert told["kept"]["synthetic-all-confirmed-s0"]["Black Phoebe"] == pytest.approx(0.8)


def test_a_stopped_job_says_so_with_the_status_for_it(birds: Path, tmp_path: Path, monkeypatch) -> None:
    from contextlib import contextmanager

    @contextmanager
    def control():
        yield Control(2)

    monkeypatch.setattr(job, "run_control", control)
    outcome = job.run(settings(birds, tmp_path))
    assert outcome.exit_status == 75 and "goes on" in outcome.text
