"""`birdsd run scene`, from a bank and a pool: the sound is what the labels say, and a batch is made once."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from birdsd.errors import AlreadyThere, BadValue, DiskFull, Mismatch, NotFound, NotSet, UnknownName
from birdsd.jobs_api import load_job
from birdsd.scenes.bank import bank as files
from birdsd.scenes.compose.mixdown import largest_error, read_stem
from birdsd.scenes.compose.recipe import scene_from
from birdsd.scenes.store import read_scene
from birdsd.schema import SceneConfig
from birdsd.sound.labels.audacity import read_audacity
from birdsd.sound.labels.load import load_recordings
from birdsd.sound.labels.raven import read_raven
from birdsd.sound.species.names import clean_name
from tests.support.errors import refuses
from tests.support.songs_of_scenes import RATE_HZ, SPECIES, a_song, make_bank, make_pool

PROSE = "a Synthetic High in loud rain followed by a Synthetic Low twice in a quiet stream"
DISTRIBUTION = """
duration_s: {uniform: [6, 10]}
events: {choose: [2, 3, 4]}
event_s: 1.0
species: {Synthetic High: 1, Synthetic Low: 1, Synthetic Trill: 2}
snr_db: {uniform: [6, 20]}
environments: {rain: 1, stream: 1}
max_overlap: 2
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stage")
    make_bank(folder / "bank")
    make_pool(folder / "pool")
    (folder / "drawn.yaml").write_text(DISTRIBUTION)
    return folder


def asked(stage: Path, out: Path, **changes) -> SceneConfig:
    settings = {"bank": str(stage / "bank"), "pool": str(stage / "pool"), **changes}
    return SceneConfig(out=str(out), **settings)


def run(stage: Path, out: Path, **changes):
    return load_job("scene")(asked(stage, out, **changes))


def labels_of(folder: Path) -> dict:
    return json.loads((folder / "labels.json").read_text())


def only(out: Path) -> Path:
    return next(path.parent for path in out.glob("*/labels.json"))


@pytest.fixture(scope="module")
def composed(stage, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("composed")
    run(stage, out, prompt=PROSE)
    return only(out)


@pytest.fixture(scope="module")
def many(stage, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("many")
    run(stage, out, distribution=str(stage / "drawn.yaml"), count=12, picture=False)
    return out


def energy_boundaries(stem: np.ndarray) -> tuple[float, float]:
    """An independent detector: first and last time that the envelope of the analytic signal is within 23 dB
    of its peak, in s."""
    from scipy.signal import hilbert

    loud = np.convolve(np.abs(hilbert(stem)), np.ones(80) / 80, "same")
    above = np.flatnonzero(loud > loud.max() * 10 ** (-23 / 20))
    return above[0] / RATE_HZ, above[-1] / RATE_HZ


def test_prose_becomes_sound_with_the_events_in_order(composed):
    told = labels_of(composed)
    assert [one["species"] for one in told["came_out"]] == [
        "Synthetic High",
        "Synthetic Low",
        "Synthetic Low",
    ]
    onsets = [one["onset_s"] for one in told["came_out"]]
    assert onsets == sorted(onsets)
    for one in told["asked"]:
        came = next(two for two in told["came_out"] if two["key"] == one["key"])
        assert came["onset_s"] == pytest.approx(one["onset_s"], abs=0.002), "placed by what was measured"
    assert {one["environment"] for one in told["backgrounds"]} == {"rain", "stream"}
    with Image.open(composed.parent / f"{composed.name}.asked.png") as plan:
        assert plan.size[0] >= 600, "what was asked for is drawn beside the folder"


def test_stems_sum_to_the_mix_in_every_scene(many, composed):
    for folder in [composed, *(path.parent for path in many.glob("*/labels.json"))]:
        told = labels_of(folder)
        placed = [(folder / one["stem"], one["start"]) for one in told["came_out"]]
        for number, one in enumerate(told["backgrounds"]):
            path = next(folder.glob(f"stems/background{number}_*.flac"))
            placed.append((path, round(one["from_s"] * told["rate_hz"])))
        mix = next(folder.glob("*.flac"))
        assert largest_error(mix, placed, soundfile.info(mix).frames) == 0


def test_snr_measured_on_the_written_stems_is_what_was_asked(many):
    """With another filter than the composer's: Butterworth, forwards and backwards."""
    from scipy.signal import butter, sosfiltfilt

    differences = []
    for folder in (path.parent for path in many.glob("*/labels.json")):
        told = labels_of(folder)
        for one in told["came_out"]:
            event = read_stem(folder / one["stem"]) / 2**23
            band = [max(30.0, one["low_hz"]), min(one["high_hz"], 0.49 * RATE_HZ)]
            sos = butter(6, band, "bandpass", fs=RATE_HZ, output="sos")
            first, last = (round(one[name] * RATE_HZ) for name in ("onset_s", "offset_s"))
            under = np.zeros(round(told["duration_s"] * RATE_HZ))
            for number, piece in enumerate(told["backgrounds"]):
                sound = read_stem(next(folder.glob(f"stems/background{number}_*.flac"))) / 2**23
                start = round(piece["from_s"] * RATE_HZ)
                under[start : start + len(sound)] += sound[: len(under) - start]
            under = sosfiltfilt(sos, under)[max(0, first - RATE_HZ // 2) : last + RATE_HZ // 2]
            heard = sosfiltfilt(sos, event)[first - one["start"] : last - one["start"]]
            snr = 10 * math.log10(np.square(heard).mean() / np.square(under).mean())
            differences.append(snr - one["asked_snr_db"])
            assert one["snr_db"] == pytest.approx(one["asked_snr_db"], abs=0.01)
    assert len(differences) > 20 and np.abs(differences).max() < 1.0


def test_boundaries_agree_with_an_independent_energy_detector(many):
    for folder in (path.parent for path in many.glob("*/labels.json")):
        for one in labels_of(folder)["came_out"]:
            on, off = energy_boundaries(read_stem(folder / one["stem"]) / 2**23)
            at = one["start"] / RATE_HZ
            assert at + on == pytest.approx(one["onset_s"], abs=0.03)
            assert at + off == pytest.approx(one["offset_s"], abs=0.03)


def test_every_table_holds_the_measured_events(composed):
    told = labels_of(composed)
    name = composed.name
    raven = read_raven(composed / f"{name}.Table.1.selections.txt")
    header, first = (composed / f"{name}.Table.1.selections.txt").read_text().splitlines()[:2]
    cells = dict(zip(header.split("\t"), first.split("\t"), strict=True))
    came = min(told["came_out"], key=lambda event: event["onset_s"])
    assert cells["Event Id"] == came["key"] and cells["SNR (dB)"] == f"{came['snr_db']:.2f}"
    assert cells["Begin File"] == f"{name}.flac" and cells["Verified"] in ("yes", "no")
    track = read_audacity(composed / "tables" / "audacity.txt")
    with open(composed / "tables" / "came_out.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    jams = json.loads((composed / "tables" / f"{name}.jams").read_text())
    strong = (composed / "tables" / "strong.tsv").read_text().splitlines()
    assert strong[0] == "filename\tonset\toffset\tevent_label"
    foreground = [one for one in jams["annotations"][0]["data"] if one["value"]["role"] == "foreground"]
    for number, one in enumerate(sorted(told["came_out"], key=lambda e: e["onset_s"])):
        for label in (raven[number], track[number]):
            assert (label.label, label.start_s, label.end_s) == (
                one["species"],
                one["onset_s"],
                one["offset_s"],
            )
            assert (label.low_hz, label.high_hz) == pytest.approx((one["low_hz"], one["high_hz"]), abs=0.01)
        assert float(rows[number]["snr_db"]) == one["snr_db"] and rows[number]["judge"] == "Fake judge"
        value = foreground[number]["value"]
        assert set(value) == {
            "label",
            "source_file",
            "source_time",
            "event_time",
            "event_duration",
            "snr",
            "role",
            "pitch_shift",
            "time_stretch",
        }
        assert value["event_duration"] > 0 and value["label"] == one["species"]
        assert strong[1 + number].split("\t")[3] == one["species"]
    with open(composed / "tables" / "attribution.csv", newline="") as stream:
        trail = list(csv.DictReader(stream))
    assert {row["licence"] for row in trail if row["kind"] == "recorded"} == {"CC0"}
    assert any(row["attribution"].startswith("Recordist") for row in trail)
    from PIL import Image

    assert Image.open(composed / f"{name}.png").height > 250


def test_a_jams_file_is_as_the_schema_of_its_namespace_wants_it(composed):
    jams = json.loads((composed / "tables" / f"{composed.name}.jams").read_text())
    assert {"file_metadata", "annotations", "sandbox"} <= set(jams)
    assert jams["file_metadata"]["jams_version"] == "0.3.5" and jams["file_metadata"]["duration"] > 0
    for annotation in jams["annotations"]:
        assert {"namespace", "data", "annotation_metadata"} <= set(annotation)
        for one in annotation["data"]:
            assert (
                set(one) == {"time", "duration", "value", "confidence"} and one["duration"] > 0 <= one["time"]
            )
    assert jams["annotations"][0]["sandbox"]["scaper"]["n_events"] == 3


def test_a_recipe_makes_the_scene_again_to_the_byte(stage, composed, tmp_path):
    load_job("scene")(SceneConfig(recipe=str(composed / "recipe.json"), out=str(tmp_path)))
    made = {path.relative_to(composed): path.read_bytes() for path in composed.rglob("*") if path.is_file()}
    again = only(tmp_path)
    assert {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()} == made


def test_the_folder_holds_the_scene_that_made_it_as_people_edit_it(composed):
    told = json.loads((composed / "recipe.json").read_text())["scene"]
    scene = read_scene(composed / "scene.yaml")
    assert scene == scene_from(told) and len(scene.events) == 2


def test_a_recipe_whose_bank_has_changed_is_refused(stage, composed, tmp_path):
    make_bank(tmp_path / "bank", voices=5)
    with refuses(("bank", str(composed / "recipe.json")), "bank=", kind=Mismatch):
        load_job("scene")(
            SceneConfig(
                recipe=str(composed / "recipe.json"), bank=str(tmp_path / "bank"), out=str(tmp_path / "out")
            )
        )


def test_scenes_are_made_once_extended_and_shared_out(stage, many, tmp_path):
    settings = {"distribution": str(stage / "drawn.yaml"), "picture": False, "count": 12}
    for part in ("2/3", "0/3", "1/3", "0/3"):
        outcome = run(stage, tmp_path, part=part, **settings)
    assert outcome.facts["nothing_to_do"] and len(outcome.facts["kept"]) == 4
    names = sorted(path.parent.name for path in tmp_path.glob("*/labels.json"))
    assert len(names) == 12
    for name in names:  # whoever made it, it is the same
        assert (tmp_path / name / f"{name}.flac").read_bytes() == (many / name / f"{name}.flac").read_bytes()
    more = run(stage, tmp_path, **{**settings, "count": 14})
    assert len(more.facts["made"]) == 2 and len(more.facts["kept"]) == 12
    with open(tmp_path / "manifest.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 14
    with refuses((str(tmp_path), "scene"), "out=", kind=AlreadyThere):
        run(stage, tmp_path, **{**settings, "count": 1, "distribution": None, "prompt": PROSE}) and run(
            stage, tmp_path, **{**settings, "count": 1, "distribution": None, "prompt": PROSE, "seed": 5}
        )


def test_a_task_that_was_killed_leaves_nothing_half_made_and_completes_afterwards(stage, many, tmp_path):
    words = [
        f"bank={stage / 'bank'}",
        f"pool={stage / 'pool'}",
        f"distribution={stage / 'drawn.yaml'}",
        "count=12",
        "picture=false",
        f"out={tmp_path}",
    ]
    command = [sys.executable, "-m", "birdsd.cli", "run", "scene", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while (
        time.monotonic() < until and len(list(tmp_path.glob("*/labels.json"))) < 2 and process.poll() is None
    ):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = sorted(tmp_path.glob("*/labels.json"))
    assert 2 <= len(there) < 12, "killed in the middle"
    before = {path: path.stat().st_mtime_ns for path in there}
    for path in there:
        assert (path.parent / "recipe.json").is_file() and next(path.parent.glob("*.flac"))
    outcome = run(stage, tmp_path, distribution=str(stage / "drawn.yaml"), count=12, picture=False)
    assert len(outcome.facts["made"]) == 12 - len(there)
    assert {path: path.stat().st_mtime_ns for path in there} == before, "nothing is made twice"
    assert not list(tmp_path.glob(".writing-*"))
    for path in many.glob("*/*.flac"):
        assert (tmp_path / path.relative_to(many)).read_bytes() == path.read_bytes()


def test_a_full_disk_ends_the_batch_and_the_same_command_goes_on(stage, tmp_path, monkeypatch):
    from birdsd.scenes.compose import compose

    usual, calls = compose.write_mix, []

    def full(path, *rest, **more):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        usual(path, *rest, **more)

    settings = {"distribution": str(stage / "drawn.yaml"), "count": 6, "picture": False}
    monkeypatch.setattr(compose, "write_mix", full)
    with refuses(str(tmp_path), kind=DiskFull):
        run(stage, tmp_path, **settings)
    assert len(calls) == 3, "it does not try the others"
    assert len(list(tmp_path.glob("*/labels.json"))) == 2 and not list(tmp_path.glob(".writing-*"))
    monkeypatch.undo()
    assert len(run(stage, tmp_path, **settings).facts["made"]) == 4


def test_a_long_batch_says_how_far_it_is(stage, tmp_path, monkeypatch, capsys):
    settings = {"distribution": str(stage / "drawn.yaml"), "count": 3, "picture": False, "stems": False}
    run(stage, tmp_path / "short", **settings)
    assert "scenes" not in capsys.readouterr().err
    monkeypatch.setattr("birdsd.scenes.compose.batch._SAID_EVERY_S", -1.0)
    run(stage, tmp_path / "long", **settings)
    assert capsys.readouterr().err.splitlines() == [f"{at} of 3 scenes" for at in range(3)]


def test_a_scene_is_on_the_disk_before_it_is_published(stage, tmp_path, monkeypatch):
    """And where the disk has no room for it after all, nothing is published."""
    from birdsd.scenes.compose import batch

    waited: list[str] = []

    def soon(paths):
        waited.extend(path.name for path in paths)

        def wait():
            assert not list((tmp_path / "one").glob("*/labels.json")), "published too early"
            raise OSError(28, "No space left on device")

        return wait

    monkeypatch.setattr(batch, "fsync_soon", soon)
    with refuses(str(tmp_path), kind=DiskFull):
        run(stage, tmp_path / "one", prompt=PROSE)
    assert not list((tmp_path / "one").glob("*/labels.json")) and not list(
        (tmp_path / "one").glob(".writing-*")
    )
    assert {"labels.json", "recipe.json", "stems", "tables"} <= set(waited)
    assert sum(name.endswith(".flac") for name in waited) == 6, "the mix, three events and two backgrounds"
    monkeypatch.undo()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with refuses(str(tmp_path), kind=DiskFull):
        run(stage, tmp_path / "two", prompt=PROSE)
    assert not list((tmp_path / "two").glob("*/labels.json"))


def test_prepare_takes_the_scenes_back_as_labelled_recordings_and_knows_that_they_are_generated(many):
    found = load_recordings(many)
    assert len(found.recordings) == 12 and not found.unlabelled
    told = {path.parent.name: labels_of(path.parent) for path in many.glob("*/labels.json")}
    for recording in found.recordings:
        came_out = told[recording.path.parent.name]["came_out"]
        assert len(recording.labels) == len(came_out) and not recording.weak
        assert recording.recording_id.startswith("generated-")
        assert "birdsd" in recording.recordist and recording.licence.startswith("generated")
    assert found.account.read == sum(len(one["came_out"]) for one in told.values())


def test_the_songs_of_training_scenes_are_in_no_test_scene(stage, tmp_path):
    heard, files = {}, {}
    for split in ("train", "test"):
        run(
            stage,
            tmp_path / split,
            distribution=str(stage / "drawn.yaml"),
            count=6,
            split=split,
            picture=False,
            stems=False,
        )
        told = [labels_of(path.parent) for path in (tmp_path / split).glob("*/labels.json")]
        heard[split] = {one["clip"] for scene in told for one in scene["came_out"]}
        files[split] = {
            one["source"] for scene in told for one in scene["trail"] if one["kind"] == "recorded"
        }
    assert heard["train"] and heard["test"] and not heard["train"] & heard["test"]
    assert files["train"] and files["test"] and not files["train"] & files["test"]


def test_what_cannot_be_is_said_before_anything_is_made(stage, tmp_path):
    late = tmp_path / "late.yaml"
    late.write_text("duration_s: 10\nevents: [{species: Synthetic Low, onset_s: 30, level_db: -30}]\n")
    for settings, named, offers, kind in (
        ({}, "", "prompt, scene and distribution", NotSet),
        ({"prompt": PROSE, "scene": "x.yaml"}, "prompt and scene", "distribution", Mismatch),
        ({"prompt": "a Great Tit in rain"}, "'Great Tit'", "", UnknownName),
        ({"prompt": PROSE, "count": 0}, "count=0", "", BadValue),
        ({"prompt": PROSE, "split": "trian"}, "'trian'", "train", UnknownName),
        ({"prompt": PROSE, "format": "mp3"}, "format=mp3", "flac", UnknownName),
        ({"scene": "nowhere.yaml"}, "nowhere.yaml", "YAML", NotFound),
        ({"scene": str(late)}, ("30.0 s", "Synthetic Low"), "duration_s", Mismatch),
        ({"prompt": PROSE, "tries": 0}, "tries=0", "once", BadValue),
        ({"prompt": PROSE, "bank": str(tmp_path)}, str(tmp_path), "birdsd run bank", NotFound),
    ):
        with refuses(named, offers, kind=kind):
            run(stage, tmp_path / "out", **settings)
    with refuses(("run", "bank"), "run=RUN", "bank=FOLDER", kind=NotSet):
        load_job("scene")(SceneConfig(prompt=PROSE, out=str(tmp_path / "out")))
    assert not list((tmp_path / "out").glob("*/labels.json"))


def test_an_event_of_a_species_that_never_came_out_is_left_out_of_the_labels_and_said(
    stage, tmp_path, monkeypatch
):
    usual = files.Bank.clip

    def failing(self, wanted):
        clip = usual(self, wanted)
        if wanted.species == "Synthetic High":
            clip = files.EventClip(**{**vars(clip), "measured": None})
        return clip

    monkeypatch.setattr(files.Bank, "clip", failing)
    outcome = run(stage, tmp_path, prompt=PROSE)
    assert f"at {RATE_HZ} Hz" in outcome.text, "understood, with the rate that it will have"
    told = labels_of(only(tmp_path))
    assert {one["species"] for one in told["came_out"]} == {"Synthetic Low"}
    missing = [one for one in told["asked"] if one["fate"] != "placed"]
    assert [one["species"] for one in missing] == ["Synthetic High"] and "nothing sounded" in missing[0][
        "why"
    ]
    assert f"{missing[0]['key']} ({missing[0]['species']}) " in outcome.text
    assert SPECIES[0] not in (only(tmp_path) / "tables" / "strong.tsv").read_text()


@pytest.mark.parametrize("species", ["../../Évil Bird", 'Bird, "of" =1+1; 鳥\u202e', "-rf", "con"])
def test_a_hostile_name_of_a_bird_stays_a_name_in_every_file(stage, tmp_path, species):
    """In a bank of somebody else's."""
    bank = tmp_path / "bank"
    files.begin(bank, {"model": "made by hand", "rate_hz": RATE_HZ, "judge": "Fake judge"})
    clip = replace(a_song(SPECIES[0], 0), species=species)
    files.keep_clip(bank, files.clip_name(species, "", 0, 0), clip, 0, 0, "train")
    rain, bird = {"environment": "rain", "source": "pool"}, {"species": species, "onset_s": 1, "snr_db": 20}
    told = {"seed": 1, "duration_s": 4, "name": "one", "backgrounds": [rain], "events": [bird]}
    (tmp_path / "one.yaml").write_text(json.dumps(told))
    picture = "鳥" in species
    run(stage, tmp_path / "out", bank=str(bank), scene=str(tmp_path / "one.yaml"), picture=picture)
    folder = tmp_path / "out" / "one"
    (came,) = labels_of(folder)["came_out"]
    assert came["species"] == species and (folder / came["stem"]).is_file()
    assert Path(came["stem"]).parts[0] == "stems" and len(Path(came["stem"]).parts) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"bank", "one.yaml", "out"}, "nothing lies elsewhere"
    header, row = (folder / "one.Table.1.selections.txt").read_text(encoding="utf-8").splitlines()
    assert header.count("\t") == row.count("\t") and clean_name(species) in row
    with open(folder / "tables" / "came_out.csv", newline="", encoding="utf-8") as stream:
        assert [row["species"] for row in csv.DictReader(stream)] == [species]


def test_a_scene_file_with_a_background_of_its_own_is_made_again_from_its_recipe(stage, tmp_path):
    """The file lies beside the scene, and the recipe elsewhere."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE_HZ)
    soundfile.write(tmp_path / "wind.wav", noise, RATE_HZ)
    (tmp_path / "mine.yaml").write_text(
        "seed: 1\nduration_s: 8\nname: mine\nbackgrounds:\n"
        "  - environment: wind\n    source: file\n    path: wind.wav\n"
        "events:\n  - species: Synthetic Trill\n    onset_s: 2.5\n    snr_db: 15\n"
        "  - species: Synthetic Low\n    onset_s: 5\n    snr_db: 10\n"
        "    pitch_semitones: [2, 2]\n    rate: [1.2, 1.2]\n"
    )
    run(stage, tmp_path / "one", scene=str(tmp_path / "mine.yaml"))
    told = labels_of(tmp_path / "one" / "mine")
    assert [one["onset_s"] for one in told["came_out"]] == pytest.approx([2.5, 5.0], abs=0.002)
    load_job("scene")(
        SceneConfig(recipe=str(tmp_path / "one" / "mine" / "recipe.json"), out=str(tmp_path / "two"))
    )
    one, two = ((tmp_path / name / "mine" / "mine.flac").read_bytes() for name in ("one", "two"))
    assert one == two


def test_an_event_at_the_very_beginning_and_one_at_the_end_are_whole_in_their_labels(stage, tmp_path):
    (tmp_path / "edges.yaml").write_text(
        "seed: 1\nduration_s: 6\nname: edges\nbackgrounds:\n  - environment: rain\n    source: pool\n"
        "events:\n  - species: Synthetic Trill\n    onset_s: 0\n    snr_db: 15\n"
        "  - species: Synthetic Low\n    onset_s: 5.9\n    snr_db: 15\n"
    )
    outcome = run(stage, tmp_path / "out", scene=str(tmp_path / "edges.yaml"))
    told = labels_of(tmp_path / "out" / "edges")
    assert [one["key"] for one in told["came_out"]] == ["e0"], "the other would end behind the scene"
    assert told["came_out"][0]["onset_s"] == pytest.approx(0, abs=0.002) and told["came_out"][0]["start"] == 0
    assert sum(line.count("e1 (Synthetic Low) ") for line in told["notes"]) == 1, "and that is said"
    assert "e1 (Synthetic Low) " in outcome.text
    folder = tmp_path / "out" / "edges"
    placed = [(folder / one["stem"], one["start"]) for one in told["came_out"]]
    placed.append((next(folder.glob("stems/background0_*")), 0))
    assert largest_error(folder / "edges.flac", placed, 6 * RATE_HZ) == 0
