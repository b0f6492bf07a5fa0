"""Several cuts of each song: where they lie, what they show, how loud they are, and what is mixed in."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from birdsd.errors import BadValue, Mismatch, UserError
from birdsd.files import read_json
from birdsd.shards.index import ShardIndex
from birdsd.shards.inspect import describe, text
from birdsd.shards.prepare import clips
from birdsd.shards.prepare.account import limit_lines
from birdsd.shards.prepare.further import CUTS_APART_S
from birdsd.shards.prepare.prepare import PrepareReport, prepare
from birdsd.shards.reader import ShardReader
from birdsd.sound.audio.recordings import read, write_wav
from birdsd.sound.captions import captions
from birdsd.sound.labels.annotation import Label, Recording, clip_labels
from tests.shards.prepare.test_cuts import check
from tests.shards.prepare.test_prepare import all_samples
from tests.shards.prepare.test_prepare_parts import same_set
from tests.support.errors import refuses
from tests.support.shard_makers import CODEC, data_config

RATE_HZ = CODEC.rate_hz
LONG = dataclasses.replace(CODEC, name="long", frames=256)  # clips of 2 s
CLIP_S = LONG.clip_s


def chirp(length_s: float, level: float = 0.3, hz: float = 2000.0) -> np.ndarray:
    """Rises by 2 kHz, as loud from its beginning to its end; float64 [samples]."""
    t = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
    fade = np.clip(np.minimum(t, length_s - t) / 0.01, 0.0, 1.0)
    return level * fade * np.sin(2 * np.pi * (hz * t + 1000 / length_s * t**2))


def songs_alone(seconds: float, at_s: Sequence[float], length_s: float, *sound_of: float) -> np.ndarray:
    """Chirps and silence, float64 [samples]."""
    sound = np.zeros(round(seconds * RATE_HZ))
    for start_s in at_s:
        first = round(start_s * RATE_HZ)
        song = chirp(length_s, *sound_of)[: len(sound) - first]
        sound[first : first + len(song)] += song
    return sound


def song_file(
    path: Path,
    seconds: float,
    at_s: Sequence[float],
    length_s: float = 0.5,
    level: float = 0.3,
    seed: int = 0,
) -> Path:
    """Chirps over faint noise; another seed is another voice too."""
    noise = 1e-3 * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ))
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = songs_alone(seconds, at_s, length_s, level, 2000.0 + 70 * seed) + noise
    write_wav(path, sound[None].astype(np.float32), RATE_HZ)
    return path


def birds(folder: Path, species: int = 3, recordings: int = 6, level: float = 0.3) -> Path:
    for name in range(species):
        for number in range(recordings):
            path = folder / f"species_{name}" / f"r{name}_{number}.wav"
            at_s = [1.0 + 0.2 * name, 4.0 + 0.1 * number]
            song_file(path, 6.0, at_s, 0.4, level * 0.8**number, seed=10 * name + number)
    return folder


def run(recordings: Path, shards: Path, codec: Any = LONG, **changes: Any) -> PrepareReport:
    report = prepare(data_config(recordings, shards, **changes), codec, 1, progress=False)
    check(report.facts["account"])
    return report


def held_of_song(sample: dict[str, Any], alone: np.ndarray) -> float:
    """The share of a song's energy that a clip holds; `alone`: the recording without anything else."""
    first = round(sample["start_s"] * RATE_HZ)
    inside = alone[first : first + LONG.samples_per_clip]
    return float(np.square(inside).sum() / np.square(alone).sum())


def apart(samples: list[dict[str, Any]]) -> float:
    return float(np.diff(sorted(sample["start_s"] for sample in samples)).min())


@pytest.fixture(scope="module")
def flock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return birds(tmp_path_factory.mktemp("flock"))


def test_without_further_cuts_nothing_is_other_than_before(
    tones: Path, prepared: Path, tmp_path: Path
) -> None:
    run(tones, tmp_path / "s", CODEC, samples_per_shard=4, cuts_per_song=1, background_mixtures=0)
    assert same_set(tmp_path / "s", prepared)
    # What sets that were prepared before there were further cuts have noted of themselves, and no more.
    assert set(read_json(prepared / "prepare.json")) == {"format", "codec", "settings", "recordings"}
    assert set(read_json(prepared / "prepare.json")["settings"]) == {
        "segmentation", "overlap", "max_clips_per_recording", "min_label_overlap_s", "snr_db_low",
        "snr_db_high", "mixtures_per_clip", "keep_clean", "wordings", "validation_fraction", "test_fraction",
        "samples_per_shard", "seed",
    }  # fmt: skip
    for sample in all_samples(prepared):
        assert not {"song", "cut", "cut_gain_db", "background_id"} & set(sample)
        assert "-cut" not in sample["key"]
    for index in prepared.glob("*.index.json"):
        assert not {"songs", "cuts_of_songs"} & set(read_json(index)["summary"])


def test_the_first_cut_is_the_one_there_was(flock: Path, tmp_path: Path) -> None:
    run(flock, tmp_path / "one")
    run(flock, tmp_path / "many", cuts_per_song=5, cut_gain_db=6.0)
    held = []
    for name in ("one", "many"):
        index = ShardIndex.open(tmp_path / name)
        samples = [
            s
            for split in index.splits
            for s in ShardReader(index, split).read_many(range(index.count(split)))
        ]
        held.append({s.key: (s.image, s.metadata) for s in samples})
    one, many = held
    assert set(one) == {key for key, (_, facts) in many.items() if facts["cut"] == 1}
    assert len(many) == 5 * len(one)
    for key, (image, facts) in one.items():
        assert np.array_equal(image, many[key][0]) and facts == {
            name: value for name, value in many[key][1].items() if name in facts
        }


@pytest.mark.parametrize(
    ("at_s", "length_s", "least"),
    [
        (5.0, 0.5, 10),  # in the middle of a recording of 10 s
        (5.0, 1.2, 7),
        (0.4, 0.5, 4),  # near its beginning: the clip cannot begin before it
        (9.1, 0.5, 4),
        (0.0, 0.3, 1),  # at the very beginning: there is but one place
    ],
)
def test_cuts_of_a_song_that_is_shorter_than_a_clip_hold_all_of_it(
    tmp_path: Path, at_s: float, length_s: float, least: int
) -> None:
    song_file(tmp_path / "r/wren/a.wav", 10.0, [at_s], length_s)
    run(tmp_path / "r", tmp_path / "s", cuts_per_song=10)
    samples = all_samples(tmp_path / "s")
    alone = songs_alone(10.0, [at_s], length_s)
    assert least <= len(samples) <= 10
    for sample in samples:
        assert held_of_song(sample, alone) > 0.99
        assert 0.0 <= sample["start_s"] <= 10.0 - CLIP_S
    if len(samples) > 1:
        assert apart(samples) >= CUTS_APART_S - 1e-5
    assert len({sample["key"] for sample in samples}) == len(samples)
    if least >= 7:  # anywhere in the clip, and not only in the middle
        places = [at_s - sample["start_s"] for sample in samples]
        assert min(places) < 0.2 * CLIP_S and max(places) > 0.8 * (CLIP_S - length_s)


def test_cuts_of_a_song_that_is_longer_than_a_clip_slide_along_it(tmp_path: Path) -> None:
    song_file(tmp_path / "r/wren/a.wav", 12.0, [3.0], 6.0)
    run(tmp_path / "r", tmp_path / "s", cuts_per_song=10, max_clips_per_recording=1)
    samples = all_samples(tmp_path / "s")
    alone = songs_alone(12.0, [3.0], 6.0)
    assert len(samples) == 10 and apart(samples) > 0.1 * CLIP_S
    for sample in samples:
        if sample["cut"] > 1:
            assert held_of_song(sample, alone) > 0.7 * CLIP_S / 6.0
    places = [sample["start_s"] for sample in samples]
    assert min(places) < 4.0 and max(places) + CLIP_S > 8.0


def test_every_one_of_several_songs_gives_cuts_and_none_is_cut_twice_at_a_place(tmp_path: Path) -> None:
    at_s = [1.0, 3.0, 4.4, 8.0]
    song_file(tmp_path / "r/wren/a.wav", 10.0, at_s, 0.4)
    report = run(tmp_path / "r", tmp_path / "s", cuts_per_song=6)
    samples = all_samples(tmp_path / "s")
    by_song: dict[int, list[dict[str, Any]]] = {}
    for sample in samples:
        by_song.setdefault(sample["song"], []).append(sample)
    assert len(by_song) == 4 and apart(samples) >= CUTS_APART_S - 1e-5
    for song, held in by_song.items():
        alone = songs_alone(10.0, [at_s[song - 1]], 0.4)
        assert len(held) == 6 and sorted(s["cut"] for s in held) == [1, 2, 3, 4, 5, 6]
        assert all(held_of_song(sample, alone) > 0.99 for sample in held)
    assert report.facts["species"]["Wren"]["train"] == {"samples": 24, "recordings": 1, "songs": 4}
    assert report.facts["account"]["cuts_of_songs"] == {"6": 4}
    assert "24 (    4,    1)" in text(describe(tmp_path / "s"))


def test_songs_without_room_for_so_many_cuts_are_counted_and_said(tmp_path: Path) -> None:
    song_file(tmp_path / "r/wren/a.wav", 10.0, [5.0], 1.5)
    song_file(tmp_path / "r/wren/short.wav", 1.0, [0.3], 0.3)  # shorter than a clip: there is one place
    report = run(tmp_path / "r", tmp_path / "s", cuts_per_song=10)
    by_path: dict[str, int] = {}
    for sample in all_samples(tmp_path / "s"):
        by_path[sample["path"]] = by_path.get(sample["path"], 0) + 1
    assert by_path["wren/short.wav"] == 1 and 2 <= by_path["wren/a.wav"] < 10
    (line,) = limit_lines(report.facts["account"], data_config(tmp_path, tmp_path, cuts_per_song=10))
    cuts = {int(count): songs for count, songs in report.facts["account"]["cuts_of_songs"].items()}
    total, songs, short, wanted, least = map(int, re.findall(r"\d+", line))
    assert (total, songs) == (sum(count * of for count, of in cuts.items()), sum(cuts.values()))
    assert short == songs and (wanted, least) == (10, 1) == (wanted, min(cuts))


def test_labels_of_each_cut_are_what_it_shows(tmp_path: Path) -> None:
    """Boxes of three birds, two of them in one clip: every box is held by several cuts."""
    rows = [(2.0, 2.4, "Wren"), (2.9, 3.2, "Robin"), (7.0, 7.5, "Owl"), (8.9, 9.6, "Wren")]
    song_file(tmp_path / "r/a.wav", 10.0, [start for start, _, _ in rows], 0.3)
    (tmp_path / "r/a.txt").write_text("".join(f"{a}\t{b}\t{name}\n" for a, b, name in rows))
    report = run(tmp_path / "r", tmp_path / "s", cuts_per_song=6)
    recording = Recording(
        Path("a.wav"), "a", tuple(Label(name, a, b) for a, b, name in rows), weak=False, duration_s=10.0
    )
    samples = all_samples(tmp_path / "s")
    for sample in samples:
        shown = clip_labels(recording, sample["start_s"], CLIP_S)
        assert sample["species"] == sorted({label.label for label in shown}) and shown
        assert [label["label"] for label in sample["labels"]] == [label.label for label in shown]
        for label, expected in zip(sample["labels"], shown, strict=True):
            assert label["start_s"] == pytest.approx(expected.start_s, abs=1e-4)
    for start_s, end_s, name in rows:
        whole = [s for s in samples if s["start_s"] <= start_s and end_s <= s["start_s"] + CLIP_S]
        assert len(whole) >= 4 and all(name in s["species"] for s in whole)
    assert any(s["species"] == ["Robin"] for s in samples), "a box beside another's clip has its own cuts too"
    assert any(s["species"] == ["Wren"] for s in samples) and apart(samples) >= CUTS_APART_S - 1e-5
    assert report.facts["account"]["labels"] == {"read": 4, "in_clips": 4, "left_out": {}}


def test_no_further_cut_shows_a_bird_that_nobody_identified(tmp_path: Path) -> None:
    song_file(tmp_path / "r/a.wav", 10.0, [3.0, 6.0], 0.5)
    (tmp_path / "r/a.txt").write_text("3.0\t3.5\tWren\n4.4\t4.6\t?\n6.0\t6.5\tWren\n")
    run(tmp_path / "r", tmp_path / "s", cuts_per_song=8)
    samples = all_samples(tmp_path / "s")
    assert len(samples) > 8 and all(sample["species"] == ["Wren"] for sample in samples)
    # Of a whole file with one box of an unidentified bird, that box is in no clip.
    song_file(tmp_path / "w/a.wav", 10.0, [3.0], 0.5)
    (tmp_path / "w/labels.csv").write_text("path,label,start,end\na.wav,Wren,,\na.wav,?,4.4,4.6\n")
    run(tmp_path / "w", tmp_path / "t", cuts_per_song=8)
    samples = all_samples(tmp_path / "t")
    assert len(samples) >= 4
    assert all(s["start_s"] + CLIP_S < 4.45 or s["start_s"] > 4.55 for s in samples)
    assert not read_json(tmp_path / "t/problems.json")["skipped_clips"], (
        "a cut is not tried where it may not be"
    )


def test_cuts_of_a_box_longer_than_a_clip_stay_inside_it_and_where_it_sounds(tmp_path: Path) -> None:
    song_file(tmp_path / "r/a.wav", 30.0, [3.0, 10.2, 22.0], 0.5)
    (tmp_path / "r/a.txt").write_text("10\t26\tWren\n\\\t1500\t4500\n")
    run(tmp_path / "r", tmp_path / "s", cuts_per_song=5)
    samples = all_samples(tmp_path / "s")
    assert {sample["song"] for sample in samples} == {1, 2} and len(samples) >= 6
    for sample in samples:
        assert 10.0 <= sample["start_s"] <= 26.0 - CLIP_S
        at_s = 10.2 if sample["start_s"] < 18.0 else 22.0
        assert held_of_song(sample, songs_alone(30.0, [at_s], 0.5)) > 0.99


def test_a_recording_too_long_for_memory_is_cut_again_too(tmp_path: Path) -> None:
    at_s = [10.0, 100.0, 170.0]
    song_file(tmp_path / "r/wren/a.wav", 180.0, at_s, 0.5)
    run(tmp_path / "r", tmp_path / "s", cuts_per_song=6, max_clips_per_recording=3)
    samples = all_samples(tmp_path / "s")
    assert len(samples) == 18
    for sample in samples:
        alone = songs_alone(180.0, [at_s[sample["song"] - 1]], 0.5)
        assert held_of_song(sample, alone) > 0.99
        expected = read(tmp_path / "r/wren/a.wav", RATE_HZ, start_s=sample["start_s"], duration_s=CLIP_S)
        assert sample["loudness_db"] == pytest.approx(LONG.level_db(expected), abs=0.1)


def test_a_raised_limit_finds_more_songs(tmp_path: Path) -> None:
    song_file(tmp_path / "r/wren/a.wav", 6.0, [0.8 + 1.1 * n for n in range(5)], 0.3)
    few = run(tmp_path / "r", tmp_path / "few", max_clips_per_recording=3)
    run(tmp_path / "r", tmp_path / "usual")
    many = run(tmp_path / "r", tmp_path / "many", max_clips_per_recording=40)
    starts = [sorted(s["start_s"] for s in all_samples(tmp_path / n)) for n in ("few", "usual", "many")]
    assert len(starts[0]) == len(starts[1]) < len(starts[2])
    assert min(np.diff(starts[2])) >= 0.5 * CLIP_S - 0.01, "clips of songs share at most half"
    asked = data_config(tmp_path, tmp_path, max_clips_per_recording=40)
    assert few.facts["account"]["most_clips_per_recording"] <= 3
    assert (
        "max_clips_per_recording=40" in limit_lines(many.facts["account"], asked)[0]
    )  # there are no more than 5
    song_file(tmp_path / "r/wren/a.wav", 12.0, [0.8 + 1.1 * n for n in range(10)], 0.3)
    more = run(tmp_path / "r", tmp_path / "more", max_clips_per_recording=40)
    assert more.facts["account"]["most_clips_per_recording"] > 6 and not limit_lines(
        more.facts["account"], asked
    )
    cut_again = run(tmp_path / "r", tmp_path / "again", cuts_per_song=9, max_clips_per_recording=5)
    assert cut_again.facts["account"]["most_songs_per_recording"] == 5
    # An unfinished folder whose songs were found by the older rule is not gone on with by the new one.
    plan = read_json(tmp_path / "more" / "prepare.json")
    del plan["songs"]
    (tmp_path / "more" / "prepare.json").write_text(json.dumps(plan))
    with refuses((str(tmp_path / "more"), "data.max_clips_per_recording"), "data.shards", kind=Mismatch):
        run(tmp_path / "r", tmp_path / "more", max_clips_per_recording=40)


def test_a_limit_and_ratios_that_change_nothing_are_said(tmp_path: Path) -> None:
    song_file(tmp_path / "r/wren/a.wav", 6.0, [2.0])
    settings = {"segmentation": "whole", "max_clips_per_recording": 3, "snr_db_high": 9.0}
    account = run(tmp_path / "r", tmp_path / "s", **settings).facts["account"]
    lines = limit_lines(account, data_config(tmp_path, tmp_path, **settings))
    assert ["max_clips_per_recording=3" in lines[0], "snr_db_high=9" in lines[1]] == [True] * 2
    assert len(lines) == 2 and not limit_lines(account, data_config(tmp_path, tmp_path))


@pytest.mark.parametrize("seed", [0, 7])
def test_gains_stay_within_what_is_asked_and_what_the_species_shows(
    flock: Path, tmp_path: Path, seed: int
) -> None:
    run(flock, tmp_path / "s", cuts_per_song=5, cut_gain_db=9.0, seed=seed)
    samples = all_samples(tmp_path / "s")
    ranges: dict[str, list[float]] = {}
    for s in samples:
        if s["split"] == "train" and s["cut"] == 1:
            ranges.setdefault(s["species"][0], []).append(s["loudness_db"])
    gains = []
    for s in samples:
        sound = read(flock / s["path"], RATE_HZ)
        first = round(s["start_s"] * RATE_HZ)
        clip = sound[:, first : first + LONG.samples_per_clip]
        gain_db = s["cut_gain_db"]
        assert abs(gain_db) <= 9.0 and (s["cut"] > 1 or gain_db == 0.0)
        assert s["loudness_db"] == pytest.approx(LONG.level_db(clip) + gain_db, abs=0.02)
        assert np.abs(clip).max() * 10 ** (gain_db / 20) <= 1.0
        held = [*ranges[s["species"][0]], s["loudness_db"] - gain_db]  # a louder one is made no louder
        assert min(held) - 0.02 <= s["loudness_db"] <= max(held) + 0.02
        gains.append(gain_db)
        key = (seed, s["key"])
        assert s["captions"] == captions(s["species"], loudness_db=s["loudness_db"], count=4, key=key)
    assert len(gains) > 60 and min(gains) < -3.0 and max(gains) > 3.0


def test_a_cut_that_becomes_loud_is_called_loud_and_is_not_clipped(tmp_path: Path) -> None:
    for number, level in enumerate((0.9, 0.05, 0.06)):
        song_file(tmp_path / f"r/wren/{number}.wav", 6.0, [2.5], 1.0, level, seed=number)
    run(tmp_path / "r", tmp_path / "s", cuts_per_song=9, cut_gain_db=60.0, test_fraction=0, seed=3,
        validation_fraction=0, wordings=20)  # fmt: skip
    samples = all_samples(tmp_path / "s")
    words = set()
    for s in samples:
        peak = np.abs(read(tmp_path / "r" / s["path"], RATE_HZ)).max() * 10 ** (s["cut_gain_db"] / 20)
        assert peak <= 1.0
        loud = any("loud" in caption for caption in s["captions"])
        assert loud == (s["loudness_db"] >= -20.0)
        words.add((s["path"], loud))
    assert ("wren/1.wav", True) in words and ("wren/0.wav", False) in words, "a gain changed the words"


def test_a_species_that_is_always_recorded_alike_keeps_its_level(tmp_path: Path) -> None:
    song_file(tmp_path / "r/wren/a.wav", 6.0, [2.5], 0.5)
    run(tmp_path / "r", tmp_path / "s", cuts_per_song=5, cut_gain_db=12.0)
    assert all(abs(s["cut_gain_db"]) < 0.1 for s in all_samples(tmp_path / "s"))


def test_a_recording_that_comes_or_goes_moves_no_cut_of_the_others(flock: Path, tmp_path: Path) -> None:
    run(flock, tmp_path / "all", cuts_per_song=4)
    run(flock, tmp_path / "some", cuts_per_song=4, species=["Species 1"])
    held = [
        {(s["path"], s["song"], s["cut"]): s["start_s"] for s in all_samples(tmp_path / name)}
        for name in ("all", "some")
    ]
    assert held[1] and held[1].items() <= held[0].items()
    run(flock, tmp_path / "other", cuts_per_song=4, seed=5)
    other = {(s["path"], s["song"], s["cut"]): s["start_s"] for s in all_samples(tmp_path / "other")}
    moved = [key for key in other if other[key] != held[0].get(key)]
    assert {cut for _, _, cut in moved} == {2, 3, 4} and len(moved) > len(other) / 2


def test_other_cuts_are_another_set(flock: Path, tmp_path: Path) -> None:
    run(flock, tmp_path / "s")
    with refuses("data.cuts_per_song was 1, is 3", kind=Mismatch):
        run(flock, tmp_path / "s", cuts_per_song=3)
    run(flock, tmp_path / "t", cuts_per_song=3, cut_gain_db=6.0)
    with refuses("data.cut_gain_db was 6.0, is 0.0", kind=Mismatch):
        run(flock, tmp_path / "t", cuts_per_song=3)


@pytest.mark.parametrize(
    ("changes", "named", "offers", "kind"),
    [
        (
            {"segmentation": "windows", "cuts_per_song": 4},
            ("cuts_per_song is 4", "'windows'"),
            "data=song",
            Mismatch,
        ),
        (
            {"segmentation": "whole", "cuts_per_song": 4},
            ("cuts_per_song is 4", "'whole'"),
            "data=song",
            Mismatch,
        ),
        (
            {"segmentation": "windows", "background_mixtures": 1},
            ("background_mixtures is 1", "'windows'"),
            "data=song",
            Mismatch,
        ),
        (
            {"cut_gain_db": 6.0},
            ("cut_gain_db is 6", "data.cuts_per_song is 1"),
            "data.cuts_per_song=4",
            Mismatch,
        ),
        ({"cuts_per_song": 0}, "cuts_per_song is 0", "at least 1", BadValue),
        ({"cuts_per_song": 2, "cut_gain_db": -1.0}, "cut_gain_db is -1.0", "at least 0", BadValue),
        ({"cuts_per_song": 2, "cut_gain_db": float("nan")}, "cut_gain_db is nan", "at least 0", BadValue),
        ({"cuts_per_song": 2, "cut_gain_db": float("inf")}, "cut_gain_db is inf", "at least 0", BadValue),
        ({"background_mixtures": -1}, "background_mixtures is -1", "at least 0", BadValue),
    ],
)
def test_settings_that_would_do_nothing_are_refused(
    flock: Path, tmp_path: Path, changes: dict[str, Any], named: str | tuple[str, ...], offers: str,
    kind: type[UserError],
) -> None:  # fmt: skip
    with refuses(named, offers, kind=kind):
        run(flock, tmp_path / "s", **changes)
    assert not (tmp_path / "s").exists()


def test_ten_cuts_decode_a_recording_once(
    flock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []

    def counted(path: Path, *settings: Any, **more: Any) -> np.ndarray:
        decoded.append(path)
        return read(path, *settings, **more)

    monkeypatch.setattr(clips, "read", counted)
    report = run(flock, tmp_path / "s", cuts_per_song=10)
    assert report.facts["splits"]["train"]["samples"] > 200
    assert len(decoded) == len(set(decoded)) == 18
