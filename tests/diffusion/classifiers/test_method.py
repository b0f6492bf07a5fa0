"""method=classifier as a method: what it learns, what it refuses, what its export says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from birdsd.cli import main
from birdsd.diffusion.classifiers.folder import load_classifier
from birdsd.diffusion.methods import make_method
from birdsd.errors import BadValue, Mismatch, NothingLeft, UnknownName
from birdsd.evaluation.judges import find_judge, judge_sounds
from birdsd.evaluation.judges.judge import Sound
from birdsd.files import read_json
from birdsd.shards.index import ShardIndex
from tests.support.classified import EVERY, HIGH, LOW, configured, song, song_shards, taught
from tests.support.errors import refuses
from tests.support.remarks import remarked
from tests.support.tiny import CODEC


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return song_shards(tmp_path_factory.mktemp("songs"))


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught(shards, tmp_path_factory.mktemp("run") / "two-birds")


def test_it_learns_several_species_in_a_clip_and_none(run: Path) -> None:
    facts = read_json(run / "export/classifier.json")
    assert facts["classes"] == [HIGH, LOW] and facts["held_out_macro_f1"] > 0.95
    made = load_classifier(run)
    for number, kind in enumerate(EVERY):
        image = CODEC.encode(song(kind, 7000 + number), 16000)
        scores = 1 / (1 + np.exp(-made.hear([made.grid.power(image)]).logits[0]))
        assert [bool(s >= t) for s, t in zip(scores, made.thresholds, strict=True)] == [
            HIGH in kind,
            LOW in kind,
        ]


def test_its_card_says_how_it_is_used(run: Path) -> None:
    card = (run / "export/README.md").read_text()
    assert "birdsd classify" in card and "find_judge" in card and "StableDiffusion" not in card
    told = read_json(run / "export/training.json")
    assert told["kind"] == "classifier" and told["licences"] == {"CC0": 24}


def test_a_run_and_its_folder_are_judges(run: Path) -> None:
    for place in (run, run / "export"):
        judge = find_judge(str(place))
        assert list(judge.names) == [HIGH, LOW] and judge.title == "classifier two-birds"
        assert judge.rate_hz == 16000 and judge.window_s == CODEC.clip_s and "CC0" in judge.licence
        assert judge.class_of("low bird") == 1 and judge.class_of("Wren") is None
        heard = judge.hear(song((LOW,), 5, seconds=1.6), 16000)
        assert heard.logits.shape == (3, 2) and (heard.logits.argmax(axis=1) == 1).all()
        assert (
            heard.embeddings.shape == (3, judge.classifier.network.embedding_width)
            and heard.starts_s[1] == CODEC.clip_s
        )
    sounds = [Sound(f"{k}", song((name,), 50 + k), 16000, name) for k, name in enumerate((HIGH, LOW))]
    assert all(verdict.right for verdict in judge_sounds(judge, sounds, [HIGH, LOW]).verdicts)


def test_a_judge_hears_what_the_shards_show(run: Path, shards: Path) -> None:
    """A clip as a sound, and as the picture that it is in the shards."""
    judge, sound = find_judge(str(run)), song((HIGH,), 3)
    image = CODEC.encode(sound, 16000)
    ours = judge.classifier.hear([judge.classifier.grid.power(image)]).logits
    np.testing.assert_allclose(judge.hear(sound, 16000).logits, ours, atol=1e-5)
    at_48k = np.repeat(sound, 3)  # another rate, to the ear nearly the same
    assert judge.hear(at_48k, 48000).logits.argmax() == ours.argmax()
    for bad, named, kind in (
        (np.zeros(0, np.float32), "no samples", NothingLeft),
        (np.full(100, np.nan, np.float32), "NaN", BadValue),
    ):
        with refuses(named, kind=kind):
            judge.hear(bad, 16000)


def test_the_judge_of_the_command_line(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    from birdsd.sound.audio.recordings import write_wav

    monkeypatch.chdir(tmp_path)
    for name in (HIGH, LOW):
        for number in range(2):
            write_wav(tmp_path / name / f"{number}.wav", song((name,), 80 + number, 1.0), 16000)
    assert main.main(["judge", HIGH, LOW, "--judge", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [v["right"] for v in told["verdicts"]] == [True] * 4


def test_frames_of_strong_labels_are_learnt(tmp_path: Path) -> None:
    shards = song_shards(tmp_path / "shards", strong=True)
    run = taught(shards, tmp_path / "run", network="crnn", total_samples=400)
    made = load_classifier(run)
    sound = song((LOW,), 5)
    sound[: len(sound) // 2] = song((), 5)[: len(sound) // 2]
    heard = made.hear([made.grid.power(CODEC.encode(sound, 16000))])
    first, second = np.split(heard.frames[0, 1], 2)
    assert second.mean() > first.mean() + 2


def test_what_is_heard_is_the_same_whether_previewed_or_not(run: Path, shards: Path, tmp_path: Path) -> None:
    config = configured()
    method = make_method(config, ShardIndex.open(shards))
    modules = method.build(torch.device("cpu"), torch.float32)
    before = modules.learner.network.head.weight.clone()
    paths = method.preview(modules, [f"a {LOW} singing"], tmp_path / "preview")
    assert [path.name for path in paths] == ["grid.png", "00-Low_Bird.wav"]
    assert torch.equal(modules.learner.network.head.weight, before) and modules.learner.training


# -- refused, or said -------------------------------------------------------------------------------


def made(shards: Path, **settings):
    return make_method(configured(**settings), ShardIndex.open(shards))


def notes_of(shards: Path, **settings) -> list[str]:
    method = made(shards, **settings)
    return method.setup(method.build(torch.device("cpu"), torch.float32), list, lambda: None)


def test_one_class_needs_something_else_beside_it(tmp_path: Path) -> None:
    with refuses(HIGH, kind=NothingLeft):
        made(song_shards(tmp_path / "one", ((HIGH,),)))
    assert len(made(song_shards(tmp_path / "or none", ((HIGH,), ()))).found.classes) == 1
    with refuses(str(tmp_path / "none"), kind=NothingLeft):
        made(song_shards(tmp_path / "none", ((),)))


def test_cross_entropy_needs_one_species_a_clip(tmp_path: Path) -> None:
    with refuses(("loss=cross_entropy", "6 training clips", "6 hold none"), "method.loss=bce", kind=Mismatch):
        made(song_shards(tmp_path / "all"), loss="cross_entropy")
    made(song_shards(tmp_path / "single", ((HIGH,), (LOW,))), loss="cross_entropy")


def test_classes_are_those_of_the_shards(shards: Path) -> None:
    with refuses("'High Bord'", HIGH, kind=UnknownName):
        made(shards, classes=["High Bord"])
    method = made(shards, classes=[LOW])
    assert method.found.classes.names == (LOW,) and method.found.counts.tolist() == [12]


@pytest.mark.parametrize("changes", [{"network": "rnn"}, {"loss": "mse"}])
def test_a_name_that_there_is_not_is_refused(shards: Path, changes: dict) -> None:
    with refuses(tuple(changes.values()), kind=UnknownName):
        made(shards, **changes).build(torch.device("cpu"), torch.float32)


def test_held_out_species_that_are_no_classes_are_said_and_left_out(tmp_path: Path) -> None:
    folder = song_shards(tmp_path / "shards", ((HIGH,), ()), (("train", 8),))
    song_shards(folder, ((HIGH,), (LOW,)), (("validation", 6),))
    said = remarked(notes_of(folder), "species-without-class")
    assert said.facts == {"clips": 3, "of": 6, "species": [LOW]} and "3 of 6" in said and LOW in said
    run = taught(folder, tmp_path / "run", total_samples=16, validate_every_samples=8)
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {line["samples"] for line in told if line["kind"] == "validation"} == {3}


def test_without_validation_thresholds_stay(tmp_path: Path) -> None:
    folder = song_shards(tmp_path / "shards", splits=(("train", 8),))
    assert "0.5" in remarked(notes_of(folder), "no-validation")
    run = taught(folder, tmp_path / "run", total_samples=16, patience=1, validate_every_samples=8)
    assert load_classifier(run).thresholds == (0.5, 0.5)


def test_one_recording_is_said(tmp_path: Path) -> None:
    folder = song_shards(tmp_path / "shards")
    index = ShardIndex.open(folder)
    index.dataset["species"] = {HIGH: {"train": {"recordings": 1}}, LOW: {"train": {"recordings": 9}}}
    method = make_method(configured(), index)
    told = method.setup(method.build(torch.device("cpu"), torch.float32), list, lambda: None)
    assert remarked(told, "class-of-one-recording").facts == {"classes": [HIGH]}


@pytest.mark.parametrize(("settings", "first"), [
    ({}, 0.25), ({"loss": "focal"}, 0.25), ({"network": "crnn"}, 0.25), ({"loss": "cross_entropy"}, None),
])  # fmt: skip
def test_a_class_is_expected_as_often_as_it_is_there(tmp_path: Path, settings: dict, first: float) -> None:
    four = {HIGH: "A", LOW: "B"}
    folder = song_shards(
        tmp_path / "two", ((HIGH,), (LOW,), (), ()) if first else ((HIGH,), (LOW,)), called=four
    )
    method = made(folder, **settings)
    head = method.build(torch.device("cpu"), torch.float32).learner.network.head
    if first is None:  # the sum over classes is 1 whatever the biases are
        assert head.bias.abs().max() < 0.1 and head.bias.std() > 0
    else:
        torch.testing.assert_close(head.bias.sigmoid(), torch.full((2,), first))


def test_silent_clips_teach_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.classified.song", lambda *_, **__: np.zeros(8192, np.float32))
    with refuses(str(tmp_path / "shards"), "birdsd inspect", kind=NothingLeft):
        made(song_shards(tmp_path / "shards")).build(torch.device("cpu"), torch.float32)


def test_backgrounds_must_be_there(tmp_path: Path) -> None:
    with refuses("method.background=0.5", "method.background=0", kind=NothingLeft):
        notes_of(song_shards(tmp_path / "birds", ((HIGH,), (LOW,))), background=0.5)
    notes_of(song_shards(tmp_path / "all"), background=0.5)


def test_a_clip_that_cannot_be_read_is_mixed_into_none(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = made(shards, mixup=1.0)
    read = method._training.read

    def broken(number: int):
        sample = read(number)
        sample.weight, sample.image = 0.0, None
        return sample

    modules = method.build(torch.device("cpu"), torch.float32)
    sample = method._reader("train").read(0)
    whole = method.make_example(modules, sample, 3)["power"]
    monkeypatch.setattr(method._training, "read", broken)
    alone = method.make_example(modules, sample, 3)["power"]
    plain = method.grid.power(sample.image)
    assert np.array_equal(alone.numpy(), plain) and not np.array_equal(whole.numpy(), plain)
