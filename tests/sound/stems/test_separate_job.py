"""`birdsd run separate`: sound, tables, picture and recipe of each recording; again, and with bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdsd import config
from birdsd.cli import main
from birdsd.errors import AlreadyThere, NothingLeft
from birdsd.jobs_api import load_job
from birdsd.scenes.backgrounds.pool import Pool
from birdsd.schema import SeparateConfig
from birdsd.sound.labels.raven import read_selections
from birdsd.sound.separation.mat import load_bases
from birdsd.sound.stems.events import EventMeter
from birdsd.sound.stems.wav import FloatWav
from tests.support.birds_and_noise import RATE_HZ, at_0_db, rain, song
from tests.support.errors import refused_as, refuses
from tests.support.sound_makers import save

QUICK = {"bases": 6, "depth": 3}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for seed in (1, 2):
        bird = song(6.0, seed)
        save(
            folder / "site" / f"rec{seed}.wav",
            (bird + 0.3 * at_0_db(bird, rain(6.0, seed)))[None],
            RATE_HZ,
            "FLOAT",
        )
    return folder


def separate(out: Path, **settings) -> dict:
    return load_job("separate")(SeparateConfig(out=str(out), **(QUICK | settings))).facts


@pytest.fixture(scope="module")
def separated(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("out") / "separated"
    return out, separate(out, recordings=[str(recordings)], method="gate", pool=str(out.parent / "pool"))


def test_stems_on_disk_sum_to_the_recording(recordings: Path, separated: tuple[Path, dict]):
    out, facts = separated
    assert facts["made"] == ["site_rec1", "site_rec2"] and not facts["refused"]
    for name in facts["made"]:
        whole, rate_hz = soundfile.read(recordings / "site" / f"{name[5:]}.wav", dtype="float32")
        stems = [soundfile.read(out / name / f"{name}.{one}.wav")[0] for one in ("bird", "background")]
        assert rate_hz == RATE_HZ and np.abs(sum(stems) - whole).max() <= 1e-6
        assert json.loads((out / name / "separation.json").read_text())["sum_error"] <= 1e-6


def boxes_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_tables_say_where_the_bird_sings(separated: tuple[Path, dict]):
    out, _ = separated
    table = out / "site_rec1" / "site_rec1.bird.Table.1.selections.txt"
    boxes = boxes_of(table)
    starts = np.arange(0.4, 5.6, 1.2)  # as the songs were made, 0.35 s each
    assert len(boxes) == len(starts)
    for box, start_s in zip(boxes, starts, strict=True):
        assert box["Species"] == "bird" and box["Begin File"] == "site_rec1.bird.wav"
        assert float(box["Begin Time (s)"]) == pytest.approx(start_s, abs=0.12)
        assert float(box["End Time (s)"]) == pytest.approx(start_s + 0.35, abs=0.12)
        assert 2500 < float(box["Low Freq (Hz)"]) < float(box["High Freq (Hz)"]) < 5200
        assert float(box["SNR (dB)"]) > 0
    assert len(read_selections(table, named=True).rows) == 5, "and birdsd reads it back"
    rest = boxes_of(out / "site_rec1" / "site_rec1.background.Table.1.selections.txt")
    assert len(rest) == 1 and float(rest[0]["End Time (s)"]) > 5.8, "rain is one box, from end to end"


def test_pictures_and_facts(separated: tuple[Path, dict]):
    from PIL import Image

    out, facts = separated
    for path in (out / "sheet.png", out / "site_rec1" / "site_rec1.png"):
        assert np.asarray(Image.open(path).convert("L")).std() > 5
    told = facts["recordings"][0]["sources"]
    assert told["bird"]["snr_db"] > 3 and told["bird"]["events"] == 5
    assert told["bird"]["file"] == "site_rec1.bird.wav"


def test_again_it_does_nothing_and_other_settings_are_refused(recordings: Path, separated: tuple[Path, dict]):
    out, _ = separated
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    same = {"recordings": [str(recordings)], "method": "gate", "pool": str(out.parent / "pool")}
    facts = separate(out, **same)
    assert facts["nothing_to_do"] and facts["kept"] == ["site_rec1", "site_rec2"]
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    with refuses(("site_rec1", "settings"), kind=NothingLeft):
        separate(out, **(same | {"method": "pcnmf"}))


def test_another_recording_of_that_name_is_not_taken_for_the_one_that_is_there(tmp_path: Path):
    path = tmp_path / "rec.wav"
    save(path, (song(2.0, 1) + rain(2.0))[None], RATE_HZ)
    separate(tmp_path / "out", recordings=[str(path)], method="gate", picture=False)
    save(path, (song(2.0, 2) + rain(2.0))[None], RATE_HZ)
    with refuses("sha256", kind=AlreadyThere):
        separate(tmp_path / "out", recordings=[str(path)], method="gate", picture=False)


def test_what_a_kill_left_is_made_anew(recordings: Path, tmp_path: Path):
    out = tmp_path / "out"
    (out / ".writing-elsewhere-1" / "site_rec1").mkdir(parents=True)
    facts = separate(out, recordings=[str(recordings / "site" / "rec1.wav")], method="gate")
    assert facts["made"] == ["rec1"]
    again = separate(out, recordings=[str(recordings / "site" / "rec1.wav")], method="gate")
    assert again["nothing_to_do"]


def test_the_same_settings_give_the_same_bytes(
    recordings: Path, separated: tuple[Path, dict], tmp_path: Path
):
    out, _ = separated
    separate(tmp_path / "o", recordings=[str(recordings)], method="gate", picture=False)
    for path in sorted((tmp_path / "o").rglob("*.wav")):
        assert path.read_bytes() == (out / path.relative_to(tmp_path / "o")).read_bytes(), path.name


def test_the_rest_is_a_background_for_scenes(separated: tuple[Path, dict]):
    out, _ = separated
    pool = Pool(out.parent / "pool")
    assert pool.names == ("background",)
    assert [path.name for path in pool.files("background")] == ["site_rec1.wav", "site_rec2.wav"]
    used, parts = pool.sound("background", RATE_HZ, RATE_HZ, 0)
    assert used and sum(len(part) for part in parts) == RATE_HZ


def test_parts_share_the_recordings(recordings: Path, tmp_path: Path):
    made = []
    for part in ("0/2", "1/2"):
        made += separate(tmp_path, recordings=[str(recordings)], method="gate", part=part)["made"]
    assert sorted(made) == ["site_rec1", "site_rec2"]


def test_a_model_is_learnt_saved_and_used(recordings: Path, tmp_path: Path):
    for name, make in (("bird", song), ("rain", rain)):
        for seed in (3, 4):
            save(tmp_path / name / f"{seed}.wav", make(4.0, seed)[None], RATE_HZ)
    learn = {name: str(tmp_path / name) for name in ("bird", "rain")}
    one = separate(tmp_path / "a", recordings=[str(recordings)], learn=learn, picture=False)
    assert one["recordings"][0]["method"] == "nmf" and list(one["recordings"][0]["sources"]) == [
        "bird",
        "rain",
    ]
    assert load_bases(Path(one["model"])).sources == ("bird", "rain")
    two = separate(tmp_path / "b", recordings=[str(recordings)], model=one["model"], picture=False)
    for path in sorted((tmp_path / "a").rglob("*.wav")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    assert two["model"] == one["model"]
    separate(tmp_path / "c", learn=learn, save=str(tmp_path / "theirs.mat"), domain="decibel")
    three = separate(
        tmp_path / "d", recordings=[str(recordings)], model=str(tmp_path / "theirs.mat"), picture=False
    )
    assert list(three["recordings"][0]["sources"]) == ["bird", "rain"]


def test_channels_stay(tmp_path: Path):
    bird = song(3.0, 1)
    sound = np.stack([bird + rain(3.0, 1), 0.4 * bird + rain(3.0, 2)])
    path = save(tmp_path / "stereo.wav", sound, RATE_HZ, "FLOAT")
    separate(tmp_path / "out", recordings=[str(path)], method="gate", picture=False)
    stems = [
        soundfile.read(one, dtype="float32")[0] for one in sorted((tmp_path / "out" / "stereo").glob("*.wav"))
    ]
    assert stems[0].shape == (3 * RATE_HZ, 2) and np.abs(sum(stems) - sound.T).max() <= 1e-6


def test_recordings_that_cannot_be_are_named_and_the_others_go_on(recordings: Path, tmp_path: Path):
    place = tmp_path / "in"
    save(place / "silent.wav", np.zeros((1, RATE_HZ)), RATE_HZ)
    save(place / "click.wav", rain(0.01)[None], RATE_HZ)
    (place / "broken.wav").write_bytes(b"RIFF no sound at all")
    sound = rain(2.0)[None].copy()
    sound[0, 20000] = np.nan
    save(place / "nan.wav", sound, RATE_HZ, "FLOAT")
    save(place / "good.wav", (song(3.0) + rain(3.0))[None], RATE_HZ)
    facts = separate(tmp_path / "out", recordings=[str(place)], method="gate", picture=False)
    why = {one["recording"]: one["why"] for one in facts["refused"]}
    assert facts["made"] == ["good"] and set(why) == {"silent", "click", "broken", "nan"}
    assert "silent" in why["silent"] and "a frame is 32 ms" in why["click"] and "NaN" in why["nan"]
    left = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert left == {"good"}, "nothing half-made is left"


@pytest.mark.parametrize(
    ("words", "code", "named", "offers"),
    [
        ([], "not-set", "", "recordings"),
        (["nowhere/"], "not-found", "nowhere", ""),
        (["{}", "method=magic"], "unknown-name", "'magic'", "gate"),
        (["{}", "bases=100000"], "bad-value", "bases is 100000", ""),
        (["{}", "model=nowhere.safetensors"], "not-found", "nowhere.safetensors", ""),
        (["{}", "model=a", "learn.bird=b"], "mismatch", "model", "learn"),
        (["{}", "metod=gate"], "unknown-name", "'metod'", "'method'"),
    ],
)
def test_mistakes_are_sentences(
    words: list[str], code: str, named: str, offers: str, recordings: Path, tmp_path: Path, capsys
) -> None:
    typed = [word.replace("{}", str(recordings)) for word in words]
    typed = ["run", "separate", *typed, f"out={tmp_path / 'out'}"]
    assert main.main([*typed, "--json"]) == 2
    assert refused_as(capsys.readouterr().out, code, named, offers)
    assert main.main(typed) == 2
    said = capsys.readouterr()
    assert (
        said.err.startswith("birdsd: ") and named in said.err and "Traceback" not in said.err and not said.out
    )


def test_words_without_an_equals_sign_are_recordings(recordings: Path, tmp_path: Path, capsys):
    odd = save(tmp_path / "a=b, [c].wav", (song(2.0) + rain(2.0))[None], RATE_HZ)
    settled = config.compose("separate", [str(odd), "method=gate", str(recordings)])
    assert settled.recordings == [str(odd), str(recordings)]
    status = main.main(["run", "separate", str(odd), "method=gate", f"out={tmp_path / 'out'}", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert status == 0 and len(told["made"]) == 1
    _, what = config.split_settings("separate", ["site=local", str(recordings), "bases=4"])
    assert config.compose("separate", what).recordings == [str(recordings)]


def test_a_float_file_is_what_others_read_and_may_be_long(tmp_path: Path):
    blocks = [np.random.default_rng(n).standard_normal((2, 1000)).astype(np.float32) for n in range(3)]
    with FloatWav(tmp_path / "x.wav", 48000, 2) as file:
        for block in blocks:
            file.write(block)
    read, rate_hz = soundfile.read(tmp_path / "x.wav", dtype="float32")
    assert rate_hz == 48000
    np.testing.assert_array_equal(read.T, np.concatenate(blocks, axis=1))
    with FloatWav(tmp_path / "long.wav", 48000, 1) as file:
        file.samples = 1_200_000_000  # 4.8 GB, which are not written here
    assert (tmp_path / "long.wav").read_bytes()[:16] == b"RF64\xff\xff\xff\xffWAVEds64"


def test_events_do_not_depend_on_blocks():
    bird, noise = song(5.0, 1), rain(5.0, 1, level=0.005)
    found = []
    for block in (len(bird), 1234):
        meter = EventMeter(RATE_HZ)
        for at in range(0, len(bird), block):
            meter.add(bird[at : at + block], (bird + noise)[at : at + block])
        found.append((meter.events(), meter.level_db, meter.snr_db(meter.events())))
    assert found[0] == found[1] and len(found[0][0]) == 4
