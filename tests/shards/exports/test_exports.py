"""Labelled recordings as other programs take them: folders for BirdNET-Analyzer, a folder for datasets."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
import yaml

from birdsd.cli import main
from birdsd.errors import AlreadyThere, BadValue, NothingLeft
from birdsd.shards.exports.birdnet import export_birdnet, folder_name
from birdsd.shards.exports.cut import Asked
from birdsd.shards.exports.huggingface import export_huggingface, licence_ids
from tests.sound.test_identity import RATE, song
from tests.support.errors import refused_as, refuses
from tests.support.sound_makers import save

NAMES = {"Wren": "Troglodytes troglodytes_Eurasian Wren", "Robin": "Erithacus rubecula_European Robin"}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    """Five recordings each of two species, one of both, one without a bird, rain, and a generated clip."""
    folder = tmp_path_factory.mktemp("sounds")
    rows = ["path,label,licence,recordist"]
    for name, first in (("Wren", 0), ("Robin", 10)):
        for n in range(first, first + 5):
            save(folder / f"{name}{n}.wav", song(n, 5.0), RATE)
            rows.append(f"{name}{n}.wav,{name},CC BY-NC-SA 4.0,Ann Lee")
    for n, name in ((20, "Wren"), (20, "Robin")):
        save(folder / f"both{n}.wav", song(n, 4.0), RATE)
        rows.append(f"both{n}.wav,{name},CC0,")
    save(folder / "nothing.wav", song(30, 4.0), RATE)
    rows.append("nothing.wav,no bird,CC0,")
    save(folder / "made.wav", song(31, 3.0), RATE)
    (folder / "made.json").write_text(json.dumps({"generated": True, "species": ["Wren"]}))
    rows.append("made.wav,Wren,,")
    rain = 0.05 * np.random.default_rng(0).standard_normal((1, 7 * RATE))
    save(folder / "environment" / "rain" / "rain1.wav", rain.astype(np.float32), RATE)
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def asked(sounds: Path, **changes) -> Asked:
    return Asked(sounds, **{"class_label": lambda name: NAMES.get(name, name), **changes})


def test_folders_are_what_birdnet_analyzer_reads(sounds, tmp_path):
    result = export_birdnet(asked(sounds), tmp_path / "out")
    folders = {path.name for path in (tmp_path / "out" / "train").iterdir()}
    both = ",".join(sorted(NAMES.values()))
    assert folders == {*NAMES.values(), both, "noise"} and ", " not in both
    assert {path.name for path in (tmp_path / "out" / "test").iterdir()} <= folders
    for path in (tmp_path / "out").glob("*/*/*.wav"):
        info = soundfile.info(path)
        assert (info.samplerate, info.frames, info.channels) == (48000, 144000, 1), path
        assert np.abs(soundfile.read(path)[0]).max() > 1e-3
    rows = list(csv.DictReader((tmp_path / "out" / "manifest.csv").open()))
    assert len(rows) == sum(result.clips.values()) == len(list((tmp_path / "out").glob("*/*/*.wav")))
    of = {
        split: {row["recording_id"] for row in rows if row["split"] == split} for split in ("train", "test")
    }
    assert of["test"] and not of["train"] & of["test"], "split by recording"
    assert {row["origin"] for row in rows if row["source"] == "made.wav"} == {"synthetic"}
    assert {row["licence"] for row in rows if row["class"] == NAMES["Robin"]} == {"CC BY-NC-SA 4.0"}
    noise = {row["source"] for row in rows if row["class"] == "noise"}
    assert noise == {"nothing.wav", "rain1.wav"}


def test_names_are_safe_as_folders_and_mean_nothing_else():
    assert folder_name("a, b") == "a b" and folder_name("-Wren") == "Wren"
    assert folder_name("../up") == "up" and folder_name("Noise") == "Noise_Noise"
    assert folder_name(NAMES["Wren"]) == NAMES["Wren"]


def test_a_name_without_its_scientific_half_is_told(sounds, tmp_path):
    result = export_birdnet(asked(sounds, class_label=str), tmp_path / "out")
    assert any("scientific name" in remark and "Robin, Wren" in remark for remark in result.remarks)


def test_a_single_class_without_noise_is_told(tmp_path):
    for n in range(3):
        save(tmp_path / "in" / "Wren" / f"{n}.wav", song(n, 3.0), RATE)
    result = export_birdnet(asked(tmp_path / "in"), tmp_path / "out")
    assert any("noise folder" in remark for remark in result.remarks)


def test_a_datasets_folder_has_a_card_a_table_and_audio(sounds, tmp_path):
    export_huggingface(asked(sounds, class_label=str), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text().split("---\n")
    head = yaml.safe_load(card[1])
    assert head["task_categories"] == ["audio-classification"]
    assert head["license"] == ["cc-by-nc-sa-4.0", "cc0-1.0", "other"] and "Ann Lee" in card[2]
    ids = []
    for split in ("train", "test"):
        table = pyarrow.parquet.read_table(tmp_path / "out" / split / "metadata.parquet").to_pylist()
        assert table and all((tmp_path / "out" / split / row["file_name"]).is_file() for row in table)
        ids.append({row["recording_id"] for row in table})
        assert all(isinstance(row["species"], list) for row in table)
    assert not ids[0] & ids[1]


def test_boxes_are_kept_as_events_of_the_clip(tmp_path):
    save(tmp_path / "in" / "a.wav", song(1, 6.0), RATE)
    (tmp_path / "in" / "a.txt").write_text("1.0\t2.5\tWren\n4.0\t5.0\tRobin\n")
    export_huggingface(asked(tmp_path / "in", test_fraction=0.0, class_label=str), tmp_path / "out")
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "train" / "metadata.parquet").to_pylist()
    events = [event for row in rows for event in row["events"]]
    assert {event["species"] for event in events} == {"Wren", "Robin"}
    wren = next(r for r in rows for e in r["events"] if e["species"] == "Wren")
    event = next(e for e in wren["events"] if e["species"] == "Wren")
    assert wren["start_s"] + event["start_s"] == pytest.approx(1.0, abs=0.01)
    assert not (tmp_path / "out" / "test").exists()


def test_datasets_reads_it_back(sounds, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    if int(datasets.__version__.split(".")[0]) >= 4:  # reads sound by torchcodec alone
        try:
            import torchcodec  # noqa: F401
        except (ImportError, OSError, RuntimeError) as error:
            pytest.skip(f"datasets needs torchcodec: {error}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = export_huggingface(asked(sounds, class_label=str), tmp_path / "out")
    read = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in read.items()} == {
        split: sum(n for (_, s), n in result.clips.items() if s == split) for split in ("train", "test")
    }
    rows = read["train"].cast_column("audio", datasets.Audio(decode=False))
    first = rows[0]
    data, rate_hz = soundfile.read(first["audio"]["path"])
    assert (len(data), rate_hz) == (144000, 48000) and first["origin"] in ("real", "synthetic")


def test_birdnet_analyzer_reads_it_back(sounds, tmp_path, monkeypatch):
    """Its own reader of training folders; the embeddings alone, which need TensorFlow, are put aside."""
    pytest.importorskip("birdnet_analyzer")
    model = ModuleType("birdnet_analyzer.model")
    model.embeddings = lambda clips: [np.zeros(4, np.float32) for _ in clips]
    monkeypatch.setitem(sys.modules, model.__name__, model)
    monkeypatch.setattr("birdnet_analyzer.model", model, raising=False)
    from birdnet_analyzer import config
    from birdnet_analyzer.train import utils

    result = export_birdnet(asked(sounds), tmp_path / "out")
    monkeypatch.setattr(config, "TRAIN_DATA_PATH", str(tmp_path / "out" / "train"))
    monkeypatch.setattr(config, "TEST_DATA_PATH", str(tmp_path / "out" / "test"))
    monkeypatch.setattr(config, "CPU_THREADS", 1)
    for name in ("SAMPLE_RATE", "SIG_LENGTH"):  # as its train_model begins
        monkeypatch.setattr(config, name, getattr(config, f"BIRDNET_{name}"))
    train, labels, test, _, names = utils._load_training_data()
    assert sorted(names) == sorted(NAMES.values()) and config.MULTI_LABEL
    counts = {
        split: sum(n for (_, s), n in result.clips.items() if s == split) for split in ("train", "test")
    }
    assert {"train": len(train), "test": len(test)} == counts
    noise = result.clips["noise", "train"]
    assert int((labels.sum(axis=1) == 0).sum()) == noise and labels.sum(axis=1).max() == 2


def test_what_is_there_is_not_written_over(sounds, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with refuses(str(tmp_path / "out"), "--out", kind=AlreadyThere):
        export_birdnet(asked(sounds), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_nothing_is_left_of_an_export_that_fails(tmp_path):
    save(tmp_path / "in" / "Wren" / "a.wav", np.zeros((1, 3 * RATE), np.float32), RATE)
    with refuses("a.wav", kind=NothingLeft):
        export_birdnet(asked(tmp_path / "in"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(("changes", "named"), [({"seconds": 0.1}, "--seconds"), ({"most": -1}, "--clips")])
def test_settings_that_cannot_be_are_refused(sounds, tmp_path, changes, named):
    with refuses(named, kind=BadValue):
        export_birdnet(asked(sounds, **changes), tmp_path / "out")


def test_licences_have_the_hubs_names():
    given = ["CC BY-NC-SA 4.0", "cc-by 3.0", "CC0", "CC0 1.0", "", "MIT (repo)"]
    assert licence_ids(given) == ["cc-by-3.0", "cc-by-nc-sa-4.0", "cc0-1.0", "other"]


def test_the_verb(sounds, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(["export", str(sounds), "--format", "birdnet", "--clips", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["exports"][0]
    assert Path(facts["folder"]).name == f"{sounds.name}-birdnet" and facts["clips"] > 8
    assert main.main(["export", str(sounds), "--format", "birdnet", "huggingface", "--out", "both"]) == 0
    assert sorted(path.name for path in Path("both").iterdir()) == ["birdnet", "huggingface"]
    for words, code, named, offers in (
        (["--format", "birdnet", "a1111"], "mismatch", "birdnet a1111", "huggingface"),
        (["--format", "birdnet", "huggingfaces"], "unknown-name", "'huggingfaces'", "huggingface"),
        (["--format", "birdnet", "--dtype", "fp16"], "mismatch", "--dtype", ""),
        (["--format", "peft", "--clips", "3"], "mismatch", "--clips", ""),
    ):
        capsys.readouterr()
        assert main.main(["export", str(sounds), *words, "--json"]) == 2
        assert refused_as(capsys.readouterr().out, code, named, offers)
    assert main.main(["export", str(tmp_path / "gone"), "--format", "birdnet"]) == 2
