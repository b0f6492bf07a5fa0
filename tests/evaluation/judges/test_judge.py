"""Judging sets of sounds: figures, what is left out, files and folders, and the command line's tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from birdsd.errors import NotFound, NothingLeft
from birdsd.evaluation.judges import Sound, judge_sounds
from birdsd.evaluation.judges.judge import sigmoid
from birdsd.evaluation.judges.judgement import NOTHING_HEARD, wilson
from birdsd.evaluation.judges.listening import listen
from birdsd.evaluation.judges.sounds import find_sounds
from birdsd.evaluation.judges.table import judgement_text, listening_text
from birdsd.evaluation.judges.windows import windows_of
from birdsd.files import write_json
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.labels.raven import read_raven
from tests.support.errors import refuses
from tests.support.judge_sounds import PitchJudge, tone

RATE_HZ = PitchJudge.rate_hz
SPECIES = ["Black Phoebe", "Myrtle Warbler", "House Sparrow"]


def written(path: Path, *pitches_hz: float, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, np.concatenate([tone(pitch, seconds) for pitch in pitches_hz])[None], RATE_HZ)
    return path


# -- windows and scores -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "windows"), [(0.4, 1), (3.0, 1), (3.9, 1), (4.0, 2), (6.0, 2), (6.9, 2), (7.1, 3)]
)
def test_windows_pad_with_zeros_and_drop_a_short_rest(seconds: float, windows: int) -> None:
    sound = np.ones(round(seconds * 100), dtype=np.float32)
    cut = windows_of(sound, 100, 3.0, 1.0)
    assert cut.shape == (windows, 300)
    kept = min(len(sound), windows * 300)
    assert cut.reshape(-1)[:kept].all() and not cut.reshape(-1)[kept:].any()


def test_scores_tie_far_out_where_logits_do_not() -> None:
    assert sigmoid(np.float32([-40, 0, 40]))[1] == 0.5
    assert sigmoid(np.float32(20)) == sigmoid(np.float32(30)) == pytest.approx(1, abs=1e-6)


# -- figures ----------------------------------------------------------------------------------------------


def test_a_set_is_counted_by_species_with_wilson_intervals() -> None:
    sounds = [
        Sound("1", tone(1000), RATE_HZ, "Black Phoebe"),
        Sound("2", tone(1000) + tone(4000, level=0.4), RATE_HZ, "black_phoebe"),  # heard as Townsend's
        Sound("3", tone(2000), RATE_HZ, "Myrtle Warbler"),
        Sound("4", np.stack([tone(2000), tone(2000)]), RATE_HZ, "Setophaga coronata"),
    ]
    found = judge_sounds(PitchJudge(), sounds, SPECIES, progress=False)
    assert [v.right for v in found.verdicts] == [True, False, True, True]
    second = found.verdicts[1]
    assert (second.named, second.named_among, second.rank) == ("Townsend's Warbler", "Black Phoebe", 2)
    assert second.right_among and second.score < found.verdicts[0].score
    assert (found.clips, found.right.right, found.right_among.right) == (4, 3, 4)
    assert found.right.interval == wilson(3, 4)
    # One species has one row, in the spelling of the set.
    assert [(row.species, row.clips, row.right.right) for row in found.rows] == [
        ("Black Phoebe", 2, 1), ("Myrtle Warbler", 2, 2),
    ]  # fmt: skip
    assert found.embeddings.shape == (4, 4)
    told = json.loads(json.dumps(found.to_json()))
    assert told["total"]["right"]["low"] == wilson(3, 4)[0] and told["licence"] == "CC0"
    assert "CC0" in judgement_text(found) and "75% (30%-95%)" in judgement_text(found)


def test_a_species_without_a_class_is_named_and_in_no_figure() -> None:
    sounds = [
        Sound("1", tone(1000), RATE_HZ, "Black Phoebe"),
        Sound("2", tone(1000), RATE_HZ, "Synthetic Low"),
    ]
    found = judge_sounds(PitchJudge(), sounds, ["Black Phoebe", "Synthetic High"], progress=False)
    assert found.clips == 1 and found.right.share == 1.0 and found.among == ["Black Phoebe"]
    assert found.unknown == ["Synthetic High", "Synthetic Low"]
    verdict = found.verdicts[1]
    assert (verdict.known, verdict.right, verdict.rank, verdict.score) == (False, None, None, None)
    assert "Synthetic High, Synthetic Low: left out" in judgement_text(found)


@pytest.mark.parametrize(
    ("waveform", "why"),
    [
        (np.zeros((1, 0), np.float32), "no samples"),
        (np.full(RATE_HZ, np.nan, np.float32), "NaN or infinite samples"),
        (np.append(tone(1000), np.float32(np.inf)), "NaN or infinite samples"),
        (np.zeros((2, RATE_HZ), np.float32), "silence"),
        (np.full(RATE_HZ, 0.25, np.float32), "silence"),  # an offset is no sound
        (tone(1000, level=2.0**-18), "silence"),
    ],
)
def test_where_there_is_nothing_to_hear_it_is_said_and_counts_as_wrong(
    waveform: np.ndarray, why: str
) -> None:
    sounds = [
        Sound("bad", waveform, RATE_HZ, "Black Phoebe"),
        Sound("good", tone(1000), RATE_HZ, "Black Phoebe"),
    ]
    found = judge_sounds(PitchJudge(), sounds, SPECIES, progress=False)
    verdict = found.verdicts[0]
    assert (verdict.named, verdict.note, verdict.right, verdict.rank) == (NOTHING_HEARD, why, False, None)
    assert verdict.score == verdict.confidence == 0.0 and verdict.named_among is None
    assert (found.right.right, found.clips) == (1, 2)
    assert np.isfinite(found.embeddings).all()
    assert "1 of 2 clips" in judgement_text(found)


def test_no_sounds_are_refused() -> None:
    with refuses("sound", kind=NothingLeft):
        judge_sounds(PitchJudge(), [], SPECIES, progress=False)


# -- files ------------------------------------------------------------------------------------------------


def test_what_a_file_should_be_comes_from_folder_recipe_and_preview(tmp_path: Path) -> None:
    by_folder = written(tmp_path / "birds" / "black_phoebe" / "a.wav", 1000)
    made = written(tmp_path / "made" / "a_House_Sparrow-0011-000.wav", 8000)
    write_json(
        made.with_suffix(".json"), {"generated": True, "species": ["House Sparrow"], "prompt": "a ..."}
    )
    previews = tmp_path / "run" / "previews" / "000000000064"
    shown = written(previews / "00-a_Townsend_s_Warbler_singing.wav", 4000)
    unsaid = written(previews / "01-recorded.wav", 4000)
    sources = [tmp_path / "birds", tmp_path / "made", previews.parent]
    found = find_sounds(sources, PitchJudge())
    assert {one.path: one.species for one in found.files} == {
        by_folder: ("Black Phoebe",), made: ("House Sparrow",), shown: ("Townsend's Warbler",), unsaid: (),
    }  # fmt: skip
    # A folder, or a file in it, means the same as the folder above it.
    for source in (by_folder, by_folder.parent):
        assert find_sounds([source], PitchJudge()).files[0].species == ("Black Phoebe",)


def test_a_sound_named_from_inside_its_folder_is_the_same(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(written(tmp_path / "black_phoebe" / "a.wav", 1000).parent)
    assert find_sounds([Path("a.wav")], PitchJudge()).files[0].species == ("Black Phoebe",)
    monkeypatch.chdir(written(tmp_path / "previews" / "000000000064" / "00-a_Black_Phoebe.wav", 1000).parent)
    assert find_sounds([Path(".")], PitchJudge()).files[0].species == ("Black Phoebe",)


def test_a_folder_of_four_letters_is_a_species_by_its_name_alone(tmp_path: Path) -> None:
    """'TOWA' and 'data' around a file may mean anything; below a folder that is named they are labels."""
    for folder in ("TOWA", "clip"):
        path = written(tmp_path / folder / "a.wav", 4000)
        assert find_sounds([path], PitchJudge()).files[0].species == ()
    below = find_sounds([tmp_path], PitchJudge()).files
    assert ("TOWA",) in [one.species for one in below]


def test_a_set_that_lacks_the_right_species_says_nothing_of_it() -> None:
    found = judge_sounds(PitchJudge(), [Sound("a", tone(4000), RATE_HZ, "TOWA")], SPECIES, progress=False)
    assert found.verdicts[0].right is True and found.verdicts[0].right_among is None
    assert found.right_among.share is None and " - " in judgement_text(found)


def test_a_damaged_recipe_costs_nothing(tmp_path: Path) -> None:
    sound = written(tmp_path / "House Sparrow" / "a.wav", 8000)
    sound.with_suffix(".json").write_text("{")
    assert find_sounds([tmp_path], PitchJudge()).files[0].species == ("House Sparrow",)


def test_files_that_cannot_be_read_are_named_and_the_others_go_on(tmp_path: Path) -> None:
    good = written(tmp_path / "black_phoebe" / "good.wav", 1000)
    (tmp_path / "black_phoebe" / "empty.wav").write_bytes(b"")
    cut = written(tmp_path / "black_phoebe" / "cut.flac", 1000)
    cut.write_bytes(good.read_bytes()[:2000])
    write_wav(tmp_path / "black_phoebe" / "nan.wav", tone(1000)[None], RATE_HZ, "float32")
    data = bytearray((tmp_path / "black_phoebe" / "nan.wav").read_bytes())
    data[-400:-396] = np.float32(np.nan).tobytes()
    (tmp_path / "black_phoebe" / "nan.wav").write_bytes(bytes(data))
    alone = tmp_path / "alone.mp3"
    alone.write_text("<html>not found</html>")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    judge = PitchJudge()
    found = listen(judge, find_sounds([nothing, tmp_path / "black_phoebe", alone], judge), progress=False)
    assert found.judgement.clips == 1 and found.judgement.right.right == 1
    assert {path.name for path, _ in found.left_out} == {
        "empty.wav", "cut.flac", "nan.wav", "alone.mp3", "nothing",
    }  # fmt: skip
    for path, _ in found.left_out:
        assert f"left out: {path.name}" in listening_text(found)
    with refuses("alone.mp3", kind=NothingLeft):
        find_sounds([alone], judge)
    with refuses("nowhere", kind=NotFound):
        find_sounds([good, tmp_path / "nowhere"], judge)


def test_a_long_file_is_heard_in_blocks_as_it_is_in_one_piece(tmp_path: Path, monkeypatch) -> None:
    from birdsd.evaluation.judges import sounds

    judge = PitchJudge()
    pitches_hz = [1000, 2000, 4000, 8000, 1000, 2000, 2000]
    # 13.6 s: windows at 0, 3, 6, 9 and 12 s; of blocks of two windows the last is shorter than one.
    path = written(tmp_path / "long.wav", *pitches_hz, seconds=1.9428571)
    whole = sounds.hear_file(judge, path, 0.25)
    monkeypatch.setattr(sounds, "_BLOCK_WINDOWS", 2)
    parts = sounds.hear_file(judge, path, 0.25)
    assert whole.detections == parts.detections and len({one.start_s for one in parts.detections}) == 5
    np.testing.assert_array_equal(whole.logits, parts.logits)
    np.testing.assert_allclose(whole.embedding, parts.embedding, rtol=1e-6)
    assert parts.detections[-1].end_s == pytest.approx(13.6, abs=0.01)


def test_tables_say_what_was_heard_where(tmp_path: Path) -> None:
    judge = PitchJudge()
    written(tmp_path / "in" / "Black Phoebe" / "one.wav", 1000, 8000, seconds=3.0)
    written(tmp_path / "in" / "House Sparrow" / "one.wav", 2000)
    found = listen(judge, find_sounds([tmp_path / "in"], judge), min_confidence=0.5, progress=False)
    found.write(tmp_path / "out")
    table = tmp_path / "out" / "tables" / "Black_Phoebe" / "one.wav.selections.txt"
    assert [(box.label, box.start_s, box.end_s) for box in read_raven(table)] == [
        ("Black Phoebe", 0.0, 3.0), ("House Sparrow", 3.0, 6.0),
    ]  # fmt: skip
    assert table.read_text().splitlines()[0].endswith("\tConfidence")
    rows = (tmp_path / "out" / "judge.csv").read_text().splitlines()
    assert len(rows) == 3 and rows[2].startswith(
        "House Sparrow/one.wav,House Sparrow,True,Yellow-rumped Warbler"
    )
    told = json.loads((tmp_path / "out" / "judge.json").read_text())
    assert [len(one["heard"]) for one in told["verdicts"]] == [2, 1]
    assert told["total"]["right"]["right"] == 1 and told["verdicts"][0]["path"].endswith("one.wav")


def test_files_of_several_species_and_of_none_are_heard_and_in_no_figure(tmp_path: Path) -> None:
    judge = PitchJudge()
    written(tmp_path / "Black Phoebe, House Sparrow" / "both.wav", 1000)
    written(tmp_path / "loose.wav", 8000)
    found = listen(judge, find_sounds([tmp_path], judge), progress=False)
    assert found.judgement.clips == 0 and found.several == 1
    lines = listening_text(found).splitlines()
    for reason in ("several", "label"):
        assert [line.split()[0] for line in lines if f" {reason}" in line] == ["1"], reason
    expected = listen(judge, find_sounds([tmp_path], judge), ["HOSP"], expected="HOSP", progress=False)
    assert (expected.judgement.clips, expected.judgement.right.right) == (1, 1)
