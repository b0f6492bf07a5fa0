"""Where recordings are cut, what a limit may not drop, and an account in which every label is found again."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from birdsd.errors import Mismatch, NothingLeft
from birdsd.files import read_json
from birdsd.schema import DataConfig
from birdsd.shards.prepare.account import account_lines, limit_lines
from birdsd.shards.prepare.cuts import cut, keep_species, without_invisible
from birdsd.shards.prepare.prepare import prepare
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.labels.annotation import (
    NO_BIRD_BOX,
    NOT_CHOSEN,
    OUT_OF_BAND,
    SILENT,
    UNKNOWN_BIRD,
    UNREADABLE,
    Label,
    Recording,
)
from birdsd.sound.song_finder import Segment
from tests.shards.prepare.test_prepare import all_samples
from tests.support.errors import refuses
from tests.support.shard_makers import CODEC, data_config, tone

RATE_HZ = 16000


def notes(path: Path, seconds: float, at_s: list[float], hz: float = 3000.0, channels: int = 1) -> Path:
    """Short notes over faint noise; with two channels they are in the second alone."""
    sound = 1e-4 * np.random.default_rng(0).standard_normal((channels, round(seconds * RATE_HZ)))
    time = np.arange(round(0.3 * RATE_HZ)) / RATE_HZ
    for start_s in at_s:
        first = round(start_s * RATE_HZ)
        sound[-1, first : first + len(time)] += 0.3 * np.sin(2 * np.pi * hz * time) * np.hanning(len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, sound.astype(np.float32), RATE_HZ)
    return path


def run(recordings: Path, shards: Path, **changes: object) -> dict:
    facts = prepare(data_config(recordings, shards, **changes), CODEC, 1, progress=False).facts
    check(facts["account"])
    return facts["account"]


def check(account: dict) -> None:
    """Both sums hold."""
    labels, files = account["labels"], account["files"]
    assert labels["read"] == labels["in_clips"] + sum(labels["left_out"].values()), account
    assert files["found"] == files["used"] + sum(files["left_out"].values()), account


def starts(folder: Path) -> list[float]:
    return sorted(sample["start_s"] for sample in all_samples(folder))


def nobody(*_: object) -> list[Segment]:
    raise AssertionError("nothing is to be listened to")


def test_a_long_box_becomes_clips_where_something_sounds(tmp_path):
    notes(tmp_path / "rec/a.wav", 30.0, [2.0, 12.0, 25.0])
    (tmp_path / "rec/a.txt").write_text("0\t30\tWren\n\\\t2500\t3500\n")
    account = run(tmp_path / "rec", tmp_path / "shards")
    assert account["labels"] == {"read": 1, "in_clips": 1, "left_out": {}}
    found = starts(tmp_path / "shards")
    assert len(found) == 3
    for start_s, note_s in zip(found, (2.0, 12.0, 25.0), strict=True):
        assert start_s <= note_s and note_s + 0.3 <= start_s + CODEC.clip_s


def test_clips_of_a_long_box_stay_inside_it_and_in_its_band(tmp_path):
    notes(tmp_path / "rec/a.wav", 20.0, [1.0, 8.0, 15.0])
    (tmp_path / "rec/a.txt").write_text("6\t11\tWren\n\\\t2500\t3500\n")
    run(tmp_path / "rec", tmp_path / "shards")
    (start_s,) = starts(tmp_path / "shards")
    assert 6.0 <= start_s <= 8.0


def test_a_rare_species_keeps_a_clip_whatever_the_limit():
    labels = [Label("Common", float(at), at + 0.5) for at in range(0, 60, 2)]
    labels.insert(7, Label("Rare", 15.0, 15.3))
    labels.append(Label("Rarer", 59.0, 59.2))
    recording = Recording(Path("r.wav"), "r", tuple(labels), weak=False, duration_s=60.0)
    for limit in (2, 3, 5):
        cuts = cut(recording, 1.0, DataConfig(name="x", max_clips_per_recording=limit), nobody)
        shown = [
            label for s in cuts.segments for label in labels if s.start_s <= label.start_s < s.start_s + 1.0
        ]
        assert {label.label for label in shown} == {"Common", "Rare", "Rarer"}
        assert len(cuts.segments) == max(limit, 3)
        assert len(cuts.beyond_limit) == len(labels) - len(set(shown))


def test_a_limit_drops_nothing_where_everything_fits():
    segments = [Segment(float(at), 1.0) for at in range(4)]
    recording = Recording(Path("r.wav"), "r", (Label("A", 0.0, 0.5),), weak=False, duration_s=4.0)
    assert keep_species(segments, recording, 4, 0.25).segments == segments
    assert keep_species(segments, recording, 0, 0.25).segments == segments
    cuts = keep_species(segments, recording, 2, 0.25)
    assert [s.start_s for s in cuts.segments] == [0.0, 3.0]


def test_what_the_limit_left_out_is_counted(tmp_path):
    notes(tmp_path / "rec/a.wav", 30.0, [float(at) for at in range(1, 29, 2)])
    rows = "".join(f"{at}\t{at + 0.3}\t{'Rare' if at == 9 else 'Wren'}\n" for at in range(1, 29, 2))
    (tmp_path / "rec/a.txt").write_text(rows)
    account = run(tmp_path / "rec", tmp_path / "shards", max_clips_per_recording=3)
    assert account["labels"] == {
        "read": 14,
        "in_clips": 3,
        "left_out": {"beyond data.max_clips_per_recording": 11},
    }
    assert {name for sample in all_samples(tmp_path / "shards") for name in sample["species"]} == {
        "Wren",
        "Rare",
    }


@pytest.mark.parametrize("segmentation", ["song", "windows"])
def test_a_bird_that_nobody_identified_is_in_no_clip_and_is_not_called_no_bird(tmp_path, segmentation):
    notes(tmp_path / "rec/a.wav", 8.0, [1.0, 4.0, 7.0])
    (tmp_path / "rec/a.txt").write_text("1.0\t1.3\tWren\n4.0\t4.3\t?\n7.0\t7.3\tEngine\n")
    limit = 5 if segmentation == "song" else 0
    account = run(
        tmp_path / "rec", tmp_path / "shards", segmentation=segmentation, max_clips_per_recording=limit
    )
    assert account["labels"]["in_clips"] == 1
    assert account["labels"]["left_out"] == {UNKNOWN_BIRD: 1, NO_BIRD_BOX: 1}
    for sample in all_samples(tmp_path / "shards"):
        assert sample["start_s"] > 4.28 or sample["start_s"] + CODEC.clip_s < 4.02
        assert sample["species"] or segmentation == "windows"
    if segmentation == "windows":
        skipped = read_json(tmp_path / "shards" / "problems.json")["skipped_clips"]
        assert any("('?')" in entry["reason"] and entry["code"] == "may-hold-a-bird" for entry in skipped)


def test_boxes_outside_of_what_the_codec_shows_are_left_out(tmp_path):
    notes(tmp_path / "rec/a.wav", 6.0, [1.0, 4.0])
    notes(tmp_path / "rec/b.wav", 6.0, [1.0])
    (tmp_path / "rec/a.txt").write_text("1\t1.3\tWren\n\\\t2500\t3500\n4\t4.3\tLow\n\\\t10\t40\n")
    (tmp_path / "rec/b.txt").write_text("1\t1.3\tLow\n\\\t10\t40\n")
    account = run(tmp_path / "rec", tmp_path / "shards")
    assert account["labels"]["left_out"] == {OUT_OF_BAND: 2}
    assert account["files"]["left_out"] == {OUT_OF_BAND: 1}
    assert {name for sample in all_samples(tmp_path / "shards") for name in sample["species"]} == {"Wren"}
    (tmp_path / "rec/a.wav").unlink()
    with refuses("1 recordings", "62-8000 Hz", kind=NothingLeft):
        run(tmp_path / "rec", tmp_path / "other")


def test_a_box_shows_when_a_tenth_of_it_does():
    visible, invisible = without_invisible(
        [
            Label("a"),
            Label("b", 0, 1, 100.0, 900.0),
            Label("c", 0, 1, 7900.0, 20000.0),
            Label("d", 0, 1, 6000.0, 15000.0),
            Label("e", 0, 1, 40000.0, 50000.0),
            Label("f", 0, 1, None, 50.0),
            Label("g", 0, 1, 0.0, 100000.0),  # drawn over everything: the whole band is in it
        ],
        62.5,
        8000.0,
    )
    assert [label.label for label in visible] == ["a", "b", "d", "g"]
    assert [label.label for label in invisible] == ["c", "e", "f"]


def test_a_box_is_cut_from_the_channel_that_it_names(tmp_path):
    notes(tmp_path / "rec/a.wav", 8.0, [1.0, 5.0], channels=2)  # the first channel is noise alone
    columns = "Selection View Channel Begin_Time_(s) End_Time_(s) Low_Freq_(Hz) High_Freq_(Hz) Species"
    rows = ["1 Spectrogram_1 2 1.0 1.3 2500 3500 Wren", "2 Spectrogram_2 1 5.0 5.3 2500 3500 Owl"]
    table = "\n".join(line.replace(" ", "\t").replace("_", " ") for line in (columns, *rows))
    (tmp_path / "rec/a.txt").write_text(table + "\n")
    account = run(tmp_path / "rec", tmp_path / "shards")
    assert account["labels"]["in_clips"] == 2
    levels = {sample["species"][0]: sample["loudness_db"] for sample in all_samples(tmp_path / "shards")}
    assert levels["Wren"] > -30 and levels["Owl"] < -70


def test_every_label_is_found_again(tmp_path):
    """Rows that end in clips, in silence, in a damaged file and in a folder without birds."""
    notes(tmp_path / "rec/wren/a.wav", 6.0, [1.0])
    write_wav(tmp_path / "rec/wren/silent.wav", np.zeros((1, 3 * RATE_HZ), np.float32), RATE_HZ)
    (tmp_path / "rec/wren/silent.txt").write_text("1\t1.2\tRobin\n2\t2.2\tRobin\n")
    (tmp_path / "rec/wren/broken.wav").write_bytes(b"RIFF....")
    tone(tmp_path / "rec/noise/n.wav", 3.0)
    (tmp_path / "rec/wren/phone.m4a").write_bytes(b"\0")
    account = run(tmp_path / "rec", tmp_path / "shards")
    assert account["labels"] == {
        "read": 5,
        "in_clips": 2,
        "left_out": {SILENT: 2, UNREADABLE: 1},
    }
    assert account["files"]["found"] == 5 and account["files"]["used"] == 2
    lines = account_lines(account)
    counts = [
        "5",
        "2",
        str(account["samples"]),
        "3",
        "2",
        "1",
    ]  # read, in clips, of samples; left out, and why
    assert re.findall(r"\d+", lines[0]) == counts
    assert f"2 {SILENT}, 1 {UNREADABLE}" in lines[0]


def test_windows_that_were_shared_out_among_shards_count_each_label_once(tmp_path):
    notes(tmp_path / "rec/a.wav", 20.0, [1.0, 9.0, 17.0])
    rows = "1.0\t1.3\tWren\n9.0\t9.3\tRobin\n17.0\t17.3\tWren\n19.99\t20\tLate\n"
    (tmp_path / "rec/a.txt").write_text(rows)
    account = run(
        tmp_path / "rec", tmp_path / "shards", segmentation="windows", max_clips_per_recording=0,
        samples_per_shard=4, overlap=0.5,
    )  # fmt: skip
    assert len(list((tmp_path / "shards").glob("*.tar"))) > 1
    assert account["labels"]["read"] == 4 and account["labels"]["in_clips"] >= 3


def test_overlap_of_songs_is_refused(tmp_path):
    tone(tmp_path / "rec/wren/a.wav")
    with refuses(("data.overlap is 0.8", "'song'"), "data=soundscape", kind=Mismatch):
        run(tmp_path / "rec", tmp_path / "shards", overlap=0.8)


def test_a_raised_limit_that_changes_nothing_is_said(tmp_path):
    tone(tmp_path / "rec/wren/a.wav")
    account = run(tmp_path / "rec", tmp_path / "shards", max_clips_per_recording=40)
    assert account["most_clips_per_recording"] <= 2
    asked = DataConfig(name="x", max_clips_per_recording=40)
    assert "max_clips_per_recording=40" in limit_lines(account, asked)[0]
    assert not limit_lines(account, DataConfig(name="x"))
    assert not limit_lines({**account, "most_clips_per_recording": 9}, asked)


def test_species_are_chosen_by_any_spelling(tmp_path):
    tone(tmp_path / "rec/Townsend's Warbler/a.wav")
    tone(tmp_path / "rec/wren/b.wav", hz=1200.0)
    account = run(tmp_path / "rec", tmp_path / "shards", species=["townsend\u2019s warbler"])
    assert account["labels"] == {"read": 2, "in_clips": 1, "left_out": {NOT_CHOSEN: 1}}
