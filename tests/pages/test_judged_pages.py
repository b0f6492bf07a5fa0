"""Where the judge speaks: pages, texts, the audit show its word with its licence, or why there is none."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from birdsd.evaluation import judged_run, judges
from birdsd.evaluation.arms import judge_arms
from birdsd.evaluation.audit_listener import listener_for
from birdsd.evaluation.comparison import KNOWN, NEW, ArmResult, Comparison, MadeClip
from birdsd.evaluation.grid_judgement import judge_cells
from birdsd.evaluation.judged_run import Reference, staircase_of
from birdsd.evaluation.judges import Sound
from birdsd.evaluation.staircase import CODEC, GENERATED, TITLES
from birdsd.evaluation.weak_check import WeakCheck, learning_check, score
from birdsd.pages.comparison.page import comparison_page
from birdsd.pages.comparison.text import text as comparison_text
from birdsd.pages.demo import Pair, demo_page
from birdsd.pages.grid import Cell, GridData, write_grid_page
from birdsd.pages.media import AudioClip, level_db, picture_levels
from birdsd.sound.audit.audit import audit_text, run_audit
from tests.support.codecs import preset
from tests.support.fake_judge import FakeJudge
from tests.support.pages import HOSTILE, _Checker, _data
from tests.support.songs import SPECIES, song
from tests.support.sound_makers import save

HINT = "pip install 'birdsd[birdnet]'"


def sounds(codec, asked=SPECIES):
    """One clip each: two are what was asked for, Trill sounds High."""
    made = [song(s if s != "Synthetic Trill" else "Synthetic High", 30, 0, codec) for s in asked]
    return [Sound(s, one, codec.rate_hz, s) for s, one in zip(asked, made, strict=True)]


def marks(path, key="data-code"):
    """The marks of a page's notes and cells, in their order."""
    return [attrs[key] for _, attrs in _Checker(path.read_text("utf-8")).tags if key in attrs]


def page_text(path):
    return " ".join("".join(_Checker(path.read_text("utf-8")).text).split())


def demo(codec, index, tmp_path, judge, pairs=None):
    run = staircase_of(index, sounds(codec), judge=judge, progress=False)
    data = dataclasses.replace(_data(codec, learning_check(index, []), True, "x"), judged=run)
    if pairs is not None:
        data = dataclasses.replace(data, pairs=pairs(run))
    return run, demo_page(tmp_path / "report.html", data)


def test_the_demo_shows_the_staircase_each_species_and_the_split(codec, index, tmp_path):
    _, path = demo(codec, index, tmp_path, FakeJudge(known=SPECIES[:2]))
    words = page_text(path)
    assert "Fake judge (CC0)" in words and TITLES[CODEC] in words and "generated" in words
    assert marks(path, "data-held-out") == ["test"]
    assert marks(path).count("no-class") == 1 and "species-without-class" in marks(path)
    assert words.count("Synthetic Trill") > 1
    assert "Other measures" in words and "noise floor" in words and "judge's embedding" in words
    assert "Species check" in words and "honest" not in words


def test_held_out_clips_through_the_autoencoder_have_a_column_of_their_own(
    codec, index, tmp_path, monkeypatch
):
    run, path = demo(codec, index, tmp_path, FakeJudge())
    assert run.measures.columns()[1:2] == ["generated"] and run.measures.columns()[0] in page_text(path)
    monkeypatch.setattr(judged_run, "_reconstruct", lambda source, codec: (np.flipud, {}))
    run, path = demo(codec, index, tmp_path, FakeJudge())
    through, words = run.measures.columns()[1], page_text(path)
    assert through.capitalize() in words and len(run.measures.columns()) == 3
    rows = [" ".join([row.title, *run.measures.cells(row)]) for row in run.measures.rows]
    assert all(row in words for row in rows), "a cell for each column"


def test_the_demo_without_a_judge_says_how_to_get_it_and_shows_the_weak_check(
    codec, index, tmp_path, monkeypatch
):
    monkeypatch.setattr(judges, "installed", lambda: False)
    _, path = demo(codec, index, tmp_path, None)
    words = page_text(path)
    assert HINT in words and "no-judge" in marks(path) and "Species check" in words
    assert "noise floor" in words and "judge's embedding" not in words


def test_the_demo_of_invented_species_says_that_the_judge_knows_none(codec, index, tmp_path):
    run, path = demo(codec, index, tmp_path, FakeJudge(known=()))
    assert "species-unknown" in marks(path) and "Fake judge" in page_text(path) and run.staircase.steps == []


def test_each_generated_clip_stands_beside_a_held_out_one_with_both_verdicts(codec, index, tmp_path):
    def pairs(run):
        made, real = run.verdicts(GENERATED), run.verdicts(CODEC)
        found = []
        for number, sound in enumerate(sounds(codec)):
            image = codec.encode(sound.waveform, codec.rate_hz)
            at = next(n for n, clip in enumerate(run.real) if clip.species == sound.species)
            held = AudioClip(codec, run.real[at].image, run.real[at].heard, codec.rate_hz, HOSTILE, real[at])
            generated = AudioClip(codec, image, sound.waveform, codec.rate_hz, "", made[number])
            found += 2 * [Pair(sound.species, f"a {sound.species}", generated, held)]
        return [*found, Pair("Nobody", "a Nobody", generated, None)]

    _, path = demo(codec, index, tmp_path, FakeJudge(), pairs)
    text = path.read_text("utf-8")
    page = _Checker(text)
    assert sum(tag == "audio" for tag, _ in page.tags) == 2 * 2 * 3 + 1
    words = " ".join("".join(page.text).split())
    assert words.count("\u2713 Synthetic Low, confidence") == 4  # twice, on both sides
    assert words.count("heard as Synthetic High, confidence") == 3 and "rank" in words
    assert "Generated 2" in words and marks(path).count("nothing-held-out") == 1
    assert "<script>alert" not in text


def test_pictures_on_one_scale_compare(codec):
    loud = codec.encode(song(SPECIES[0], 1, 0, codec), codec.rate_hz)
    quiet = codec.encode(0.1 * song(SPECIES[0], 1, 0, codec), codec.rate_hz)
    top = float(level_db(codec, loud).max())
    assert picture_levels(codec, quiet).max() == picture_levels(codec, loud).max() == 255
    assert picture_levels(codec, loud, top).max() == 255
    assert picture_levels(codec, quiet, top).max() == pytest.approx(255 * (1 - 20 / 65), abs=3)


# -- comparisons ------------------------------------------------------------------------------------------


def comparison(codec, index, tmp_path, judge):
    """A control and an arm: the arm sings Low right and High as Low."""
    arms = []
    for name, sung in (("base", "Synthetic Trill"), ("taught", "Synthetic Low")):
        clips = []
        for kind, species in ((NEW, "Synthetic Low"), (NEW, "Synthetic High"), (KNOWN, "Synthetic Trill")):
            wave = song(sung, 30, 0, codec)
            sound = save(tmp_path / f"{name}-{kind}-{species}.wav", wave, codec.rate_hz)
            picture = tmp_path / f"{name}-{kind}-{species}.png"
            from PIL import Image

            Image.fromarray(codec.to_rgb(codec.encode(wave, codec.rate_hz))).save(picture)
            clips.append(MadeClip(kind, species, "", 0, f"a {species}", picture, sound))
        arms.append(ArmResult(name, name.title(), "says", control=name == "base", clips=clips))
    weak = WeakCheck.of(index)
    reference = Reference.of(index, judge=judge, progress=False)
    return Comparison(
        "compare_methods", SPECIES[:2], SPECIES[2:], judge_arms(weak, arms, None, reference),
        score(weak.classifier, weak.held_out, "recordings"), 48, 24, [], {},
        {"samples": 8, "clips_per_species": 1, "steps": 2, "guidance": 1.0, "seed": 0, "model": "tiny",
         "codec": "test"},
        stages=reference.real_stages, no_judge=reference.absent,
    )  # fmt: skip


def test_a_comparison_has_the_judge_beside_the_weak_check(codec, index, tmp_path):
    told = comparison(codec, index, tmp_path, FakeJudge())
    taught = told.arms[1]
    assert taught.heard[NEW].right.hits == 1 and taught.heard[NEW].clips == 2
    assert taught.heard[KNOWN].right.hits == 0 and told.arms[0].heard[KNOWN].right.hits == 1
    assert [clip.heard for clip in taught.clips] == ["Synthetic Low"] * 3
    assert [clip.heard_right for clip in taught.clips] == [True, False, False]
    assert taught.measures.generated == 2
    row = next(line for line in comparison_text(told).splitlines() if line.startswith("Taught"))
    assert "50% of 2" in row and "Fake judge (CC0)" in comparison_text(told)
    missing = [one.facts["stage"] for one in told.stages.remarks() if one.code == "stage-missing"]
    assert GENERATED not in missing, "the arms are the generated rows"
    words = page_text(comparison_page(tmp_path / "page.html", told, index))
    assert words.count("New species, ") == 2 and "New species, Fake judge" in words
    assert TITLES[CODEC] in words and "noise floor" in words
    plain = json.loads(json.dumps(told.to_json()))
    assert plain["arms"][1]["heard"][NEW]["right"]["hits"] == 1
    assert plain["stages"]["judge"] == "Fake judge" and "new" in plain["arms"][1]["scores"]


def test_a_comparison_without_a_judge_says_so(codec, index, tmp_path, monkeypatch):
    monkeypatch.setattr(judges, "installed", lambda: False)
    told = comparison(codec, index, tmp_path, None)
    path = comparison_page(tmp_path / "page.html", told, index)
    words = page_text(path)
    assert HINT in comparison_text(told) and HINT in words and "(weak check)" in words
    assert words.count("New species, ") == 1 and told.to_json()["stages"] is None
    assert "no-judge" in marks(path)
    unknown = comparison(codec, index, tmp_path, FakeJudge(known=()))
    assert unknown.judge == "" and unknown.stages.text() in comparison_text(unknown)
    assert "species-unknown" in marks(comparison_page(tmp_path / "page2.html", unknown, index))


# -- grid -------------------------------------------------------------------------------------------------


def test_a_grid_says_what_is_heard_in_its_cells(codec, tmp_path):
    wave = song(SPECIES[1], 30, 0, codec)
    cells = [
        [Sound("a", wave, codec.rate_hz, SPECIES[1]), Sound("b", wave, codec.rate_hz, SPECIES[0])],
        [Sound("c", wave, codec.rate_hz, SPECIES[2]), Sound("d", wave, codec.rate_hz)],
    ]
    heard = judge_cells(cells, FakeJudge(known=SPECIES[:2]))
    assert heard.of(0) == "1 of 2 named right" and heard.of(1) == ""
    assert heard.cells[1] == [None, None] and "Synthetic Trill" in heard.remark
    assert heard.to_json(0)[0]["right"] is True
    image = codec.encode(wave, codec.rate_hz)
    shown = [AudioClip(codec, image, wave, codec.rate_hz, "", verdict) for verdict in heard.cells[0]]
    data = GridData("steps", ["1"], "", [""], [Cell(0, 0, "c", shown, heard.of(0))], {}, heard.judge,
                    heard.remark)  # fmt: skip
    words = page_text(write_grid_page(tmp_path / "grid.html", data))
    assert "1 of 2 named right" in words and "Fake judge (CC0)" in words and "\u2713 Synthetic Low" in words


def test_a_grid_without_species_or_judge_still_has_its_page(codec, monkeypatch):
    wave = song(SPECIES[1], 30, 0, codec)
    nobody = judge_cells([[Sound("a", wave, codec.rate_hz)]], FakeJudge())
    assert (nobody.judge, nobody.remark, nobody.of(0), nobody.to_json(0)) == ("", "", "", [])
    monkeypatch.setattr(judges, "installed", lambda: False)
    absent = judge_cells([[Sound("a", wave, codec.rate_hz, SPECIES[1])]])
    assert HINT in absent.remark and absent.of(0) == ""


# -- audit ------------------------------------------------------------------------------------------------


@pytest.fixture
def birds(tmp_path, codec):
    for species in ("Synthetic High", "Synthetic Low"):
        for number in range(2):
            save(
                tmp_path / "birds" / species / f"{number}.wav",
                np.tile(song(species, number, 0, codec), 2),
                16000,
            )
    return tmp_path / "birds"


def test_an_audit_says_whether_the_species_is_still_heard(birds):
    """A codec that ends at 4 kHz loses the high one (about 6 kHz), and not the low one."""
    kept = preset("birdsong-small", griffin_lim_iterations=8)
    cut = preset("birdsong-small", bands=32, fmax_hz=4000.0, griffin_lim_iterations=8)
    result = run_audit(birds, [kept, cut], None, 0, listener_for(birds, FakeJudge()))
    heard = result.hearing
    assert heard.stretches == 4 and heard.before == (4, 4)
    assert heard.after[0] == (4, 4) and heard.after[1][0] == 2
    text = audit_text(result)
    row = next(line for line in text.splitlines() if line.startswith("species still heard  "))
    assert "100%" in row and "50%" in row and "codec 100%" in row and "Fake judge (CC0)" in text
    assert json.loads(json.dumps(result.to_json()))["judge"]["before"] == [4, 4]


def test_an_audit_without_the_row_says_why(birds, tmp_path, codec, monkeypatch):
    small = [preset("birdsong-small", griffin_lim_iterations=0)]

    def heard(folder, judge):
        result = run_audit(folder, small, None, 0, listener_for(folder, judge))
        return result.hearing, audit_text(result)

    hearing, said = heard(birds, FakeJudge(known=()))
    assert (hearing.stretches, hearing.species) == (0, []) and "Fake judge" in hearing.missing
    assert hearing.missing in said
    hearing, said = heard(birds, FakeJudge(known=("Synthetic High",)))
    assert (hearing.stretches, hearing.unknown) == (2, ["Synthetic Low"])
    assert "Synthetic Low: left out" in said and "  2; before" in said
    monkeypatch.setattr(judges, "installed", lambda: False)
    assert HINT in heard(birds, None)[1]
    assert run_audit(birds, small, None, 0).hearing is None


def test_the_weak_check_keeps_its_keys_in_check_json(codec, index, tmp_path):
    from birdsd.studies.demo_results import Report

    weak = learning_check(index, [])
    run = staircase_of(index, sounds(codec), judge=FakeJudge(), progress=False)
    told = json.loads(json.dumps(Report(tmp_path, weak, run).to_json()))
    assert told["weak_check"].items() <= told.items()
    assert told["held_out"]["accuracy"] == weak.held_out.accuracy and told["held_out_split"] == "test"
    assert told["staircase"]["stages"] and told["measures"]["rows"]
    alone = Report(tmp_path, None, run)
    assert alone.to_json()["weak_check"] is None and "other measures" in alone.text()
