"""`birdsd run scene`: a judge listens to the mix at every label; with confirm=mix what is not heard there is
swapped for the next song, and then left out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdsd.errors import Mismatch, UnknownName
from birdsd.evaluation.judges import WindowScores
from birdsd.jobs_api import load_job
from birdsd.scenes.bank import bank as files
from birdsd.scenes.bank.clip import GENERATED, EventClip, Origin
from birdsd.scenes.bank.gate import EventVerdict
from birdsd.scenes.compose import makers
from birdsd.scenes.compose.mixdown import largest_error
from birdsd.scenes.compose.record import NOT_HEARD
from birdsd.scenes.heard.cutting import cut_out
from birdsd.schema import SceneConfig
from birdsd.sound.labels.load import load_recordings
from tests.support.errors import refuses
from tests.support.fake_judge import FakeJudge
from tests.support.songs_of_scenes import RATE_HZ, clip_with, make_pool, sweep

HIGH, LOW = "Synthetic High", "Synthetic Low"
FAINT_HZ, HEARD_HZ = 5000.0, 6400.0
ONE = "name: one\nseed: {seed}\nduration_s: 6\nbackgrounds: [{{environment: rain, source: pool}}]\nevents:\n"
AT_2 = ONE + "  - {{species: Synthetic High, onset_s: 2, snr_db: {snr}}}\n"
DRAWN = """
duration_s: {uniform: [5, 7]}
events: {choose: [2, 3]}
event_s: 1.0
species: {Synthetic High: 3, Synthetic Low: 1}
snr_db: {uniform: [28, 35]}
environments: {rain: 1}
max_overlap: 2
"""


class DeafJudge(FakeJudge):
    """Hears a High above 5.8 kHz alone, so that some of the bank's are lost on it in any mix."""

    title, fingerprint = "Deaf judge", "d" * 64
    edges_hz = ((5800, 8000), (500, 2000), (2000, 4500))

    def hear(self, waveform, rate_hz):
        mono = np.atleast_2d(waveform).mean(axis=0)
        power = np.abs(np.fft.rfft(mono)) ** 2
        hz = np.fft.rfftfreq(len(mono), 1 / rate_hz)
        shares = np.array([power[(hz >= low) & (hz < high)].sum() for low, high in self.edges_hz])
        logits = np.append(12 * shares / (power.sum() + 1e-12) - 6, 1.5)[None].astype(np.float32)
        return WindowScores(np.zeros(1), logits, logits)


def bank_of(folder: Path, *pitches_hz: float, takes: int = 1) -> Path:
    """A High at each pitch (an individual each), and two Lows. Later ones are longer."""
    files.begin(folder, {"model": "made by hand", "rate_hz": RATE_HZ, "judge": "Fake judge"})
    songs = [(HIGH, pitch, voice) for voice, pitch in enumerate(pitches_hz)]
    for species, pitch_hz, number in [*songs, (LOW, 900.0, 0), (LOW, 1200.0, 1)]:
        voice, take = divmod(number, takes) if species == HIGH else (number, 0)
        song = sweep(0.5 + 0.1 * number, pitch_hz, pitch_hz + 60)
        cut = cut_out(clip_with(song, 0.4, 2.2, floor=2e-4, seed=number), RATE_HZ)
        assert cut is not None
        clip = EventClip(
            f"{species}-{pitch_hz:.0f}", species, "", RATE_HZ,
            Origin(GENERATED, "model/export", "f00d", "CC BY 4.0", "", species, number),
            EventVerdict("Fake judge", True, 0.9, species), cut.measured, cut.samples,
        )  # fmt: skip
        files.keep_clip(folder, files.clip_name(species, "", voice, take), clip, voice, take, "train")
    return folder


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    return make_pool(tmp_path_factory.mktemp("mixed") / "pool")


@pytest.fixture(autouse=True)
def judge(monkeypatch) -> DeafJudge:
    planted = DeafJudge()
    monkeypatch.setattr(makers, "available_judge", lambda: (planted, ""))
    return planted


def made(tmp_path: Path, pool: Path, bank: Path, text: str, **settings):
    """The folder of the scene `text`, its labels, and what was said."""
    path = tmp_path / "one.yaml"
    path.write_text(text)
    out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
    settings = {"picture": False, **settings}
    said = load_job("scene")(
        SceneConfig(bank=str(bank), pool=str(pool), scene=str(path), out=str(out), **settings)
    )
    return out / "one", json.loads((out / "one" / "labels.json").read_text()), said.text


def sums_up(folder: Path, told: dict) -> bool:
    placed = [(folder / one["stem"], one["start"]) for one in told["came_out"]]
    placed.append((next(folder.glob("stems/background0_*")), 0))
    mix = next(folder.glob("*.flac"))
    return largest_error(mix, placed, soundfile.info(mix).frames) == 0


def test_an_event_that_loud_rain_drowns_is_kept_and_flagged_in_every_table(tmp_path, pool):
    bank = bank_of(tmp_path / "bank", HEARD_HZ)
    folder, told, said = made(tmp_path, pool, bank, AT_2.format(seed=1, snr=-25))
    (one,) = told["came_out"]
    assert (one["confirmed"], one["mix_heard"], one["mix_judge"]) == (True, False, "Deaf judge")
    assert one["mix_named"] == LOW and one["mix_score"] < 0.25 and one["stem"]
    assert (told["ear"], told["confirm"]) == ("Deaf judge", "song")
    with open(folder / "tables" / "came_out.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["mix_heard"], row["mix_named"], float(row["mix_score"])) == ("False", LOW, one["mix_score"])
    header, cells = (folder / "one.Table.1.selections.txt").read_text().splitlines()
    raven = dict(zip(header.split("\t"), cells.split("\t"), strict=True))
    assert raven["Heard"] == "no" and raven["Heard Score"] == f"{one['mix_score']:.4f}"
    with open(folder.parent / "manifest.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["events"], row["heard"], row["unheard"]) == ("1", "0", "1")
    assert "not heard" in said
    assert len(load_recordings(folder.parent).recordings[0].labels) == 1, "`prepare` takes it all the same"


def test_the_same_event_in_quiet_rain_is_heard(tmp_path, pool):
    folder, told, _ = made(tmp_path, pool, bank_of(tmp_path / "bank", HEARD_HZ), AT_2.format(seed=1, snr=40))
    (one,) = told["came_out"]
    assert one["mix_heard"] is True and one["mix_named"] == HIGH and one["mix_score"] > 0.9
    assert "\tyes\t" in (folder / "one.Table.1.selections.txt").read_text().splitlines()[1]


def test_with_confirm_mix_a_drowned_event_is_left_out_of_mix_and_labels_and_said(tmp_path, pool):
    bank = bank_of(tmp_path / "bank", HEARD_HZ)
    text = AT_2.format(seed=1, snr=-25) + "  - {species: Synthetic Low, onset_s: 4, snr_db: 30}\n"
    folder, told, said = made(tmp_path, pool, bank, text, confirm="mix")
    assert [one["species"] for one in told["came_out"]] == [LOW]
    high = next(one for one in told["asked"] if one["species"] == HIGH)
    assert high["fate"] == NOT_HEARD
    assert high["why"].startswith(NOT_HEARD) and all(
        one in high["why"] for one in ("1 song ", "Deaf judge", LOW)
    )
    assert f"e0 ({HIGH})" in said and told["confirm"] == "mix"
    assert HIGH not in (folder / "tables" / "strong.tsv").read_text()
    assert [path.name for path in folder.glob("stems/event*")] == ["event000_Synthetic_Low.flac"]
    assert sums_up(folder, told), "and of the mix"
    with open(folder.parent / "manifest.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["left_out"], row["heard"], row["unheard"]) == ("1", "1", "0")


@pytest.mark.parametrize("seed", range(4))
def test_with_confirm_mix_a_song_that_is_lost_is_swapped_for_the_next_one(tmp_path, pool, seed):
    """Whichever individual the seed draws: three of four are lost on the judge."""
    bank = bank_of(tmp_path / "bank", FAINT_HZ, 5100, 5200, HEARD_HZ)
    text = (
        AT_2.format(seed=seed, snr=30)
        + "  - {species: Synthetic Low, after: e0, gap_s: [1, 1], snr_db: 30}\n"
    )
    _, alone, _ = made(tmp_path, pool, bank, text)
    folder, told, _ = made(tmp_path, pool, bank, text, confirm="mix")
    high, low = told["came_out"]
    assert high["clip"] == f"{HIGH}-{HEARD_HZ:.0f}" and high["mix_heard"] is True
    assert high["onset_s"] == pytest.approx(2, abs=0.002) and high["snr_db"] == pytest.approx(30, abs=0.01)
    assert low["onset_s"] == pytest.approx(high["offset_s"] + 1, abs=0.003), "what follows moved with it"
    swapped = alone["came_out"][0]["clip"] != high["clip"]
    assert (alone["came_out"][0]["mix_heard"] is False) == swapped
    assert (high["individual"] != alone["came_out"][0]["individual"]) == swapped, "it is another bird"
    assert sums_up(folder, told)


def test_the_other_takes_of_an_individual_come_before_other_individuals(tmp_path, pool):
    bank = bank_of(tmp_path / "bank", FAINT_HZ, HEARD_HZ, takes=2)
    _, told, _ = made(tmp_path, pool, bank, AT_2.format(seed=1, snr=30), confirm="mix")
    (one,) = told["came_out"]
    assert one["clip"] == f"{HIGH}-{HEARD_HZ:.0f}" and one["individual"] == 0, "the same bird"


def test_no_more_songs_are_tried_than_tries(tmp_path, pool):
    bank = bank_of(tmp_path / "bank", FAINT_HZ, 5100, 5200, 5300)
    for tries, songs in ((1, "1 song"), (3, "any of 3 songs"), (9, "any of 4 songs")):
        _, told, _ = made(tmp_path, pool, bank, AT_2.format(seed=1, snr=30), confirm="mix", tries=tries)
        assert not told["came_out"] and songs in told["asked"][0]["why"]


def test_a_scene_is_a_function_of_its_number_and_its_recipe_makes_it_again(tmp_path, pool):
    bank = bank_of(tmp_path / "bank", FAINT_HZ, 5100, HEARD_HZ, 6600)
    (tmp_path / "drawn.yaml").write_text(DRAWN)
    settings = {
        "bank": str(bank), "pool": str(pool), "distribution": str(tmp_path / "drawn.yaml"), "count": 4,
        "picture": False, "confirm": "mix",
    }  # fmt: skip
    run = load_job("scene")
    run(SceneConfig(out=str(tmp_path / "a"), **settings))
    for part in ("1/2", "0/2"):
        run(SceneConfig(out=str(tmp_path / "b"), part=part, **settings))
    folders = sorted(path.parent for path in (tmp_path / "a").glob("*/labels.json"))
    told = [json.loads((folder / "labels.json").read_text()) for folder in folders]
    assert len(folders) == 4 and all(one["mix_heard"] for scene in told for one in scene["came_out"])
    for folder in folders:
        run(SceneConfig(recipe=str(folder / "recipe.json"), out=str(tmp_path / "c")))
        for path in (path for path in folder.rglob("*") if path.is_file()):
            for other in "bc":
                again = tmp_path / other / path.relative_to(tmp_path / "a")
                assert again.read_bytes() == path.read_bytes(), again


def test_a_recipe_of_another_judge_is_refused_where_the_judge_decided(tmp_path, pool, judge):
    bank = bank_of(tmp_path / "bank", HEARD_HZ)
    decided, _, _ = made(tmp_path, pool, bank, AT_2.format(seed=1, snr=30), confirm="mix")
    flagged, told, _ = made(tmp_path, pool, bank, AT_2.format(seed=1, snr=30))
    assert "confirm" not in json.loads((flagged / "recipe.json").read_text())["settings"], (
        "recipes of before stay as they were"
    )
    judge.fingerprint = "e" * 64
    with refuses(("judge", str(decided / "recipe.json")), "e" * 64, "judge=", kind=Mismatch):
        load_job("scene")(SceneConfig(recipe=str(decided / "recipe.json"), out=str(tmp_path / "x")))
    load_job("scene")(
        SceneConfig(recipe=str(flagged / "recipe.json"), confirm="mix", out=str(tmp_path / "y"))
    )
    assert json.loads((tmp_path / "y" / "one" / "labels.json").read_text()) == told, "the recipe says it"


@pytest.mark.parametrize(
    ("settings", "known", "judged", "said"),
    [
        ({"judge": "none"}, (HIGH, LOW), "nobody", "no judge"),
        ({}, (LOW,), "Deaf judge", "Deaf judge"),
    ],
)
def test_what_nobody_can_confirm_is_kept_and_said(tmp_path, pool, judge, settings, known, judged, said):
    judge.known = known
    bank = bank_of(tmp_path / "bank", FAINT_HZ)
    folder, told, text = made(tmp_path, pool, bank, AT_2.format(seed=1, snr=-25), confirm="mix", **settings)
    (one,) = told["came_out"]
    assert (one["mix_judge"], one["mix_heard"], one["mix_score"]) == (judged, None, None)
    (note,) = [one for one in told["notes"] if said in one and HIGH in one]
    assert note in text
    header, cells = (folder / "one.Table.1.selections.txt").read_text().splitlines()
    assert dict(zip(header.split("\t"), cells.split("\t"), strict=True))["Heard"] == ""


def test_over_the_end_of_a_loop_and_in_stereo(tmp_path, pool):
    bank = bank_of(tmp_path / "bank", FAINT_HZ, HEARD_HZ)
    text = ONE.format(seed=1) + "  - {species: Synthetic High, onset_s: 5.8, snr_db: 30}\n"
    for settings in ({"loop": True}, {"layout": "ortf"}, {"layout": "foa", "loop": True}):
        if not settings.get("loop"):
            text = text.replace("5.8", "4.5")
        _, told, _ = made(tmp_path, pool, bank, text, confirm="mix", **settings)
        assert {one["mix_heard"] for one in told["came_out"]} == {True}, settings
        assert {one["clip"] for one in told["came_out"]} == {f"{HIGH}-{HEARD_HZ:.0f}"}


def test_a_place_to_confirm_in_that_there_is_not(tmp_path, pool):
    with refuses("'mxi'", "mix", kind=UnknownName):
        made(tmp_path, pool, bank_of(tmp_path / "bank", HEARD_HZ), AT_2.format(seed=1, snr=9), confirm="mxi")
