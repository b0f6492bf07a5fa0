"""`birdsd run scene layout=...`: stems sum to the mix, the labels say from where, and what is heard is where
they say."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdsd.errors import BadValue, Mismatch, NotFound, UnknownName
from birdsd.jobs_api import load_job
from birdsd.runs.effects import without_effect
from birdsd.scenes.compose.mixdown import largest_error
from birdsd.schema import BearingsConfig, SceneConfig, SpaceConfig
from birdsd.shards.prepare.prepare import prepare
from birdsd.sound.audio.channels import choose_channels
from birdsd.sound.labels.load import load_recordings
from birdsd.sound.space.intensity import turned_deg
from birdsd.sound.space.stereo import ortf_azimuth
from tests.shards.prepare.test_prepare import all_samples
from tests.support.errors import refuses
from tests.support.located import located
from tests.support.remarks import remarked
from tests.support.shard_makers import CODEC, data_config
from tests.support.songs_of_scenes import RATE_HZ, make_bank, make_pool

TWO = "a Synthetic Trill at 30 degrees, 20 metres, and a Synthetic High at 80 degrees"
ARRAY = "A=-20,-20 B=25,-15 C=18,22 D=-22,20 E=0,3"


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stage")
    make_bank(folder / "bank")
    make_pool(folder / "pool")
    return folder


def made(stage: Path, out: Path, **changes) -> Path:
    space = SpaceConfig(**changes.pop("space", {}))
    config = SceneConfig(
        bank=str(stage / "bank"), pool=str(stage / "pool"), out=str(out), space=space, **changes
    )
    load_job("scene")(config)
    return next(path.parent for path in out.glob("*/labels.json"))


def labels_of(folder: Path) -> dict:
    return json.loads((folder / "labels.json").read_text())


def stems_of(folder: Path) -> list[tuple[Path, int]]:
    told = labels_of(folder)
    found = [(folder / one["stem"], one["start"]) for one in told["came_out"]]
    for number, one in enumerate(told["backgrounds"]):
        path = next(folder.glob(f"stems/background{number}_*"))
        found.append((path, round(one["from_s"] * told["rate_hz"])))
    return found


@pytest.fixture(scope="module")
def foa(stage, tmp_path_factory) -> Path:
    return made(stage, tmp_path_factory.mktemp("foa"), prompt=f"{TWO} in rain", layout="foa", seed=3)


@pytest.fixture(scope="module")
def array(stage, tmp_path_factory) -> Path:
    prompt = "a Synthetic Trill at 50 degrees, 12 metres"
    prompt += ", then a Synthetic Trill at -120 degrees, 15 metres, in rain"
    space = {"recorders": ARRAY, "reverb_s": 0.5}
    return made(stage, tmp_path_factory.mktemp("array"), prompt=prompt, layout="array", space=space, seed=5)


@pytest.mark.parametrize(("layout", "channels"), [("ortf", 2), ("ms", 2), ("foa", 4), ("array", 5)])
def test_stems_sum_to_the_mix_in_every_channel(stage, tmp_path, layout, channels):
    prompt = "a Synthetic High from the left to the right and a Synthetic Low behind in loud rain"
    folder = made(stage, tmp_path, prompt=prompt, layout=layout, space={"recorders": ARRAY})
    files = sorted(folder.glob("*.flac")) or sorted(folder.glob("*.wav"))
    assert len(files) == (5 if layout == "array" else 1)
    length = soundfile.info(files[0]).frames
    for channel in range(channels):
        file, of_mix = (files[channel], 0) if layout == "array" else (files[0], channel)
        assert largest_error(file, stems_of(folder), length, channel, of_mix) == 0
    assert labels_of(folder)["channels"] == channels
    assert all(soundfile.info(stem).channels == channels for stem, _ in stems_of(folder))


def test_asked_snr_and_onset_are_what_arrives(foa):
    told = labels_of(foa)
    assert len(told["came_out"]) == 2
    for one in told["came_out"]:
        asked = next(two for two in told["asked"] if two["key"] == one["key"])
        assert one["onset_s"] == pytest.approx(asked["onset_s"], abs=0.002)
        assert one["snr_db"] == pytest.approx(one["asked_snr_db"], abs=0.01)


def test_the_labels_say_from_where_in_every_table(foa):
    told = labels_of(foa)
    where = told["space"]["events"]
    trill, high = (
        next(e for e in told["came_out"] if e["species"].endswith(name)) for name in ("Trill", "High")
    )
    assert (where[trill["key"]]["azimuth_deg"], where[trill["key"]]["distance_m"]) == (30.0, 20.0)
    assert (where[high["key"]]["azimuth_deg"], where[high["key"]]["distance_m"]) == (80.0, 10.0)
    assert where[trill["key"]]["bearing_deg"] == 330.0, "a compass turns to the right"
    table = (foa / f"{foa.name}.Table.1.selections.txt").read_text().splitlines()
    rows = [dict(zip(table[0].split("\t"), line.split("\t"), strict=True)) for line in table[1:]]
    row = next(one for one in rows if one["Species"] == "Synthetic Trill")
    assert (row["Azimuth (deg)"], row["Elevation (deg)"], row["Distance (m)"]) == ("30.00", "0.00", "20.00")
    assert row["Bearing (deg)"] == "330.00" and row["Channel"] == "1"
    seld = [
        [int(cell) for cell in line.split(",")] for line in (foa / "tables/seld.csv").read_text().splitlines()
    ]
    classes = dict(csv.reader((foa / "tables/seld_classes.csv").read_text().splitlines()[1:]))
    of_trill = [row for row in seld if classes[str(row[1])] == "Synthetic Trill"]
    first, last = trill["onset_s"], trill["offset_s"]
    assert [row[0] for row in of_trill] == list(range(int(first * 10), math.ceil(last * 10)))
    assert {tuple(row[2:]) for row in of_trill} == {(0, 30, 0, 2000)}
    with open(foa / "tables/came_out.csv", newline="") as stream:
        assert {float(row["azimuth_deg"]) for row in csv.DictReader(stream)} == {30.0, 80.0}
    sidecar = json.loads((foa / f"{foa.name}.space.json").read_text())
    assert (sidecar["order"], sidecar["normalisation"], sidecar["channels"]) == ("ACN", "SN3D", list("WYZX"))


def test_a_bird_that_moves_is_labelled_along_its_way(stage, tmp_path):
    folder = made(stage, tmp_path, prompt="a Synthetic Low from the left to the right", layout="foa")
    rows = [
        [int(cell) for cell in line.split(",")]
        for line in (folder / "tables/seld.csv").read_text().splitlines()
    ]
    azimuths = [row[3] for row in rows]
    assert (
        len(azimuths) >= 3
        and azimuths == sorted(azimuths, reverse=True)
        and azimuths[0] > 20 > -20 > azimuths[-1]
    )
    assert "Azimuth End (deg)" in (folder / f"{folder.name}.Table.1.selections.txt").read_text()


def test_bearings_are_heard_where_the_labels_say(foa, tmp_path):
    outcome = load_job("bearings")(BearingsConfig(str(foa.parent), out=str(tmp_path / "b"), separate=True))
    where = {
        one["species"]: labels_of(foa)["space"]["events"][one["key"]] for one in labels_of(foa)["came_out"]
    }
    assert len(outcome.facts["sounds"]) == 2
    for row in outcome.facts["sounds"]:
        assert row["azimuth_deg"], "each has a bearing"
        assert turned_deg(float(row["azimuth_deg"]), where[row["species"]]["azimuth_deg"]) <= 3.0
    table = next((tmp_path / "b").glob("*.selections.txt")).read_text()
    assert "Bearing (deg)" in table.splitlines()[0]
    assert len(list((tmp_path / "b").glob("*.azigram.png"))) == 1
    parts = [soundfile.read(path, dtype="float32")[0] for path in sorted((tmp_path / "b").glob("*.wav"))]
    whole = soundfile.read(next(foa.glob("*.flac")), dtype="float32")[0][:, 0]
    assert len(parts) == 3 and np.sum(parts, axis=0) == pytest.approx(whole, abs=1e-6)


def test_an_unlabelled_recording_is_searched_and_rain_alone_says_nothing(stage, foa, tmp_path):
    (tmp_path / "in").mkdir()
    sound, rate = soundfile.read(next(foa.glob("*.flac")))
    soundfile.write(tmp_path / "in" / "birds.wav", sound, rate)
    rain = made(stage, tmp_path / "rain", prompt="10 s of rain", layout="foa")
    sound, rate = soundfile.read(next(rain.glob("*.flac")))
    soundfile.write(tmp_path / "in" / "rain.wav", sound, rate)
    soundfile.write(tmp_path / "in" / "mono.wav", sound[:, 0], rate)
    outcome = load_job("bearings")(BearingsConfig(str(tmp_path / "in"), out=str(tmp_path / "out")))
    found = [row for row in outcome.facts["sounds"] if "birds" in row["path"]]
    assert {round(float(row["azimuth_deg"]) / 10) for row in found} == {3, 8}
    assert [row for row in outcome.facts["sounds"] if "rain" in row["path"]] == [], "no source, no bearing"
    (refused,) = outcome.facts["refused"]
    assert "has 1 channel" in refused["why"]
    with refuses(("mono.wav", "1 channel"), kind=BadValue):
        load_job("bearings")(BearingsConfig(str(tmp_path / "in" / "mono.wav"), out=str(tmp_path / "no")))


def test_other_orders_are_told_or_asked_for_and_what_is_no_ambisonics_is_named(foa, tmp_path):
    sound, rate = soundfile.read(next(foa.glob("*.flac")))
    w, y, z, x = sound.T
    folder = tmp_path / "in"
    folder.mkdir()
    soundfile.write(folder / "fuma.wav", np.stack([w / 2**0.5, x, y, z], 1), rate, subtype="FLOAT")
    n3d = tmp_path / "n3d.wav"
    soundfile.write(n3d, np.stack([w, *(3**0.5 * one for one in (y, z, x))], 1), rate, subtype="FLOAT")
    wrong = np.stack([w, y, z, x], 1)
    wrong[100] = np.nan
    soundfile.write(folder / "nan.wav", wrong, rate, subtype="FLOAT")
    outcome = load_job("bearings")(BearingsConfig(str(folder), out=str(tmp_path / "a"), picture=False))
    assert {round(float(row["azimuth_deg"]) / 10) for row in outcome.facts["sounds"]} == {3, 8}
    assert ["NaN" in one["why"] or "not finite" in one["why"] for one in outcome.facts["refused"]] == [True]
    with refuses(("n3d.wav", "3.00"), "order=acn-sn3d", kind=Mismatch):
        load_job("bearings")(BearingsConfig(str(n3d), out=str(tmp_path / "b")))
    outcome = load_job("bearings")(
        BearingsConfig(str(n3d), order="acn-n3d", heading_deg=90.0, out=str(tmp_path / "c"))
    )
    assert {round(float(row["bearing_deg"]) / 10) for row in outcome.facts["sounds"]} == {6, 1}
    for wrong_one, named, kind in (
        ({"heading_deg": 400.0}, "heading_deg is 400", BadValue),
        ({"order": "wxyz"}, "'wxyz'", UnknownName),
        ({"low_hz": math.nan}, "low_hz=nan", BadValue),
    ):
        with refuses(named, kind=kind):
            load_job("bearings")(BearingsConfig(str(n3d), out=str(tmp_path / "d"), **wrong_one))


def test_settings_of_space_that_do_nothing_are_told():
    said = without_effect("scene", ["space.reverb_s=0"], SceneConfig(space=SpaceConfig(reverb_s=0.0)))
    facts = remarked(said, "no-effect").facts
    assert (facts["key"], facts["value"]) == ("space.reverb_s", 0.0) and "layout=mono" in facts["why"]
    heard = SceneConfig(layout="foa", space=SpaceConfig(reverb_s=0.0, recorders="A=0,0 B=1,1"))
    (line,) = without_effect("scene", ["space.reverb_s=0", "space.recorders=A"], heard)
    assert "layout=array" in remarked([line], "no-effect").facts["why"]


def test_an_ortf_scene_is_heard_where_it_says(stage, tmp_path):
    folder = made(
        stage, tmp_path, prompt="a Synthetic Trill at -25 degrees", layout="ortf", space={"reverb_s": 0.4}
    )
    sound, rate = soundfile.read(next(folder.glob("*.flac")), dtype="float32")
    assert ortf_azimuth(sound.T, rate) == pytest.approx(-25.0, abs=2.0)


def test_an_array_is_written_as_opensoundscape_takes_it_and_its_birds_are_found_within_a_metre(array):
    told = labels_of(array)
    with open(array / "aru_coords.csv", newline="") as stream:
        coords = {row["file"]: [float(row["x"]), float(row["y"])] for row in csv.DictReader(stream)}
    assert sorted(coords) == sorted(path.name for path in array.glob("*.wav")) and len(coords) == 5
    with open(array / "tables/detections.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert set(rows[0]) == {"file", "start_time", "end_time", "start_timestamp", "Synthetic Trill"}
    sounds = {name: soundfile.read(array / name, dtype="float32")[0] for name in coords}
    for one in told["came_out"]:
        where = told["space"]["events"][one["key"]]
        inside = [
            row
            for row in rows
            if float(row["start_time"]) <= one["onset_s"] and float(row["end_time"]) >= one["offset_s"]
        ]
        assert sorted(row["file"] for row in inside) == sorted(coords), "the same window of every recorder"
        first, last = (round(float(inside[0][name]) * RATE_HZ) for name in ("start_time", "end_time"))
        heard = np.stack([sounds[name][first:last] for name in coords])
        places = np.array(list(coords.values()))
        speed = told["space"]["speed_of_sound_m_s"]
        found, left = located(heard, RATE_HZ, places, (one["low_hz"], one["high_hz"]), speed)
        assert math.dist(found, (where["east_m"], where["north_m"])) <= 1.0, (found, where, left)
        assert math.hypot(where["east_m"], where["north_m"]) == pytest.approx(where["distance_m"], abs=0.01)


def test_each_recorder_has_labels_of_its_own_later_where_it_is_farther(array):
    told = labels_of(array)
    names = [one["name"] for one in told["space"]["recorders"]]
    found = load_recordings(array.parent)
    assert len(found.recordings) == 5 and len({one.recording_id for one in found.recordings}) == 1
    of = {one.path.name.split(".")[-2]: one for one in found.recordings}
    for number, event in enumerate(sorted(told["came_out"], key=lambda e: e["onset_s"])):
        delays = told["space"]["events"][event["key"]]["delays_s"]
        for name, delay in zip(names, delays, strict=True):
            label = sorted(of[name].labels, key=lambda one: one.start_s)[number]
            assert label.start_s == pytest.approx(event["onset_s"] + delay, abs=1e-5)


def test_a_bird_that_flies_past_an_array_is_labelled_where_each_recorder_stops_hearing_it(stage, tmp_path):
    """By an independent detector: where the envelope falls 20 dB below its peak."""
    prompt = "a Synthetic Low from 80 degrees to -80 degrees, 30 metres"
    space = {"recorders": "A=-25,0 B=25,0", "reverb_s": 0.0}
    folder = made(stage, tmp_path, prompt=prompt, layout="array", space=space)
    found = {one.path.name.split(".")[-2]: one.labels[0] for one in load_recordings(tmp_path).recordings}
    for name, label in found.items():
        sound = soundfile.read(folder / f"{folder.name}.{name}.wav")[0]
        loud = np.convolve(np.square(sound), np.ones(160) / 160, "same")
        heard = np.flatnonzero(loud > 0.01 * loud.max()) / RATE_HZ
        assert (heard[0], heard[-1]) == pytest.approx((label.start_s, label.end_s), abs=0.03)
    assert found["A"].start_s < found["B"].start_s and found["A"].end_s > found["B"].end_s


def test_loudness_of_the_source_falls_with_the_distance(stage, tmp_path):
    levels = {}
    for loudness in ("heard", "source"):
        prompt = "a Synthetic Low at 40 metres"
        space = {"loudness": loudness, "reverb_s": 0.0}
        folder = made(stage, tmp_path / loudness, prompt=prompt, layout="foa", space=space)
        (one,) = labels_of(folder)["came_out"]
        levels[loudness] = one["level_db"]
    assert levels["heard"] == pytest.approx(-27.0, abs=0.1)
    assert levels["source"] == pytest.approx(-27.0 - 12.04, abs=0.5)


def test_a_recipe_makes_the_same_bytes_again_and_mono_is_as_it_was(stage, array, tmp_path):
    again = load_job("scene")
    again(SceneConfig(recipe=str(array / "recipe.json"), out=str(tmp_path / "again")))
    for path in sorted(array.rglob("*")):
        if path.is_file():
            assert (
                tmp_path / "again" / array.name / path.relative_to(array)
            ).read_bytes() == path.read_bytes(), path
    mono = made(stage, tmp_path / "mono", prompt=TWO)
    assert not set(json.loads((mono / "recipe.json").read_text())["settings"]) & {"layout", "space"}
    assert "space" not in labels_of(mono) and not list(mono.rglob("*space.json"))
    assert "Azimuth" not in (mono / f"{mono.name}.Table.1.selections.txt").read_text()


def test_a_loop_in_ambisonics_sums_too(stage, tmp_path):
    folder = made(stage, tmp_path, prompt=f"{TWO} in rain", layout="foa", loop=True, seed=1)
    mix = next(folder.glob("*.flac"))
    stems = [
        (path, 0 if soundfile.info(path).frames == soundfile.info(mix).frames else at)
        for path, at in stems_of(folder)
    ]
    assert largest_error(mix, list(dict.fromkeys(stems)), soundfile.info(mix).frames, 3) == 0


@pytest.mark.parametrize(
    ("changes", "said", "kind"),
    [
        ({"layout": "quad"}, "'quad'", UnknownName),
        ({"layout": "foa", "space": {"humidity_percent": 300.0}}, "humidity_percent is 300", BadValue),
        ({"layout": "foa", "space": {"heading_deg": 400.0}}, "heading_deg is 400", BadValue),
        ({"layout": "foa", "space": {"direct_db": math.nan}}, "direct_db is nan", BadValue),
        ({"layout": "foa", "space": {"loudness": "loud"}}, "unknown loudness", UnknownName),
        ({"layout": "array", "space": {"recorders": "A=0,0"}}, "names 1 recorders", BadValue),
        ({"layout": "array", "space": {"recorders": "A=0,0 B=0,here"}}, "'here'", BadValue),
        ({"layout": "array", "space": {"recorders": "A=0,0 B=48.1"}}, "'B=48.1'", BadValue),
        ({"layout": "array", "space": {"recorders": "A=0,0 B=9000,0"}}, "not degrees", BadValue),
        ({"layout": "array", "space": {"recorders": "nowhere.csv"}}, "nowhere.csv", NotFound),
        ({"layout": "foa", "prompt": "a Synthetic High at 400 degrees"}, "-180 to 180", BadValue),
        ({"layout": "foa", "prompt": "a Synthetic High at 0 metres"}, "metres", BadValue),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(stage, tmp_path, changes, said, kind):
    with pytest.raises(kind) as caught:
        made(stage, tmp_path, **{"prompt": TWO, **changes})
    assert said in str(caught.value) and not list(tmp_path.glob("*/*.flac"))


def test_a_csv_of_recorders_is_moved_to_its_middle_and_named_rows_are_checked(stage, tmp_path):
    table = tmp_path / "aru_coords.csv"
    table.write_text(
        "file,x,y\nnorth.wav,500010,4100020\nsouth.wav,500010,4099980\neast.wav,500040,4100000\n"
    )
    space = {"recorders": str(table)}
    folder = made(stage, tmp_path / "out", prompt=TWO, layout="array", space=space)
    recorders = labels_of(folder)["space"]["recorders"]
    assert [one["name"] for one in recorders] == ["north", "south", "east"]
    assert sum(one["east_m"] for one in recorders) == pytest.approx(0, abs=1e-3)
    table.write_text("file,lat,lon\na.wav,1,2\n")
    with refuses(("aru_coords.csv", "file, lat, lon"), "x, y", kind=BadValue):
        made(stage, tmp_path / "no", prompt=TWO, layout="array", space=space)


def test_prepare_takes_the_pressure_of_ambisonics_and_says_so(stage, foa, tmp_path):
    sound = next(foa.glob("*.flac"))
    choice = choose_channels(sound)
    assert choice.channel == 1 and "ambisonics" in choice.note
    # Four channels of one sound, and of four recorders, stay what they were: their mean.
    mono = soundfile.read(sound)[0][:, :1]
    for name, gains in (("equal", (1, 1, 1, 1)), ("uneven", (1, 0.8, 0.9, 0.7))):
        soundfile.write(tmp_path / f"{name}.wav", mono * gains, RATE_HZ)
        assert choose_channels(tmp_path / f"{name}.wav").channel is None


@pytest.mark.slow
def test_memory_stays_flat_with_the_duration(stage, tmp_path):
    """Of a scene in ambisonics, six times as long, in processes of their own."""
    script = (
        "import sys, resource\n"
        "from birdsd.jobs_api import load_job\n"
        "from birdsd.schema import SceneConfig\n"
        "load_job('scene')(SceneConfig(bank=sys.argv[1], pool=sys.argv[2], out=sys.argv[3], layout='foa',\n"
        "  picture=False, stems=False, prompt=sys.argv[4]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    peaks = []
    for seconds in (100, 600):
        prompt = f"{seconds} s: a Synthetic Low at 30 degrees every 10 s until the end in rain"
        words = [str(stage / "bank"), str(stage / "pool"), str(tmp_path / str(seconds)), prompt]
        done = subprocess.run(
            [sys.executable, "-c", script, *words], capture_output=True, text=True, check=True
        )
        peaks.append(float(done.stdout.split()[-1]))
    assert peaks[1] < peaks[0] + 60, peaks


def test_prepare_takes_all_recorders_and_of_ambisonics_the_pressure(foa, array, tmp_path):
    for folder, sounds in ((foa, 1), (array, 5)):
        shards = tmp_path / f"shards{sounds}"
        prepare(data_config(folder.parent, shards), CODEC, 1, progress=False)
        keys = [sample["key"] for sample in all_samples(shards)]
        assert len(set(keys)) == len(keys) >= sounds
        said = (shards / "problems.json").read_text()
        assert ("ambisonics" in said) == (folder == foa)
