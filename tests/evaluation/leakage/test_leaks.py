"""A planted leak is caught under any name, level, rate or start; other recordings of a species are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from birdsd.errors import Mismatch
from birdsd.evaluation.leakage import AUDIO, RECORDING, RECORDIST, check, from_folder, from_shards, leaks
from birdsd.shards.index import ShardIndex
from birdsd.shards.storage.writer import ShardWriter
from birdsd.sound.labels.annotation import Label, Recording
from tests.sound.test_identity import RATE, recording, song
from tests.support.errors import refuses
from tests.support.songs import write_shards
from tests.support.sound_makers import save


def named(folder: Path, first: int, count: int, **facts: object) -> list[Recording]:
    """Recordings of one species, each with songs of its own."""
    return [
        recording(
            save(folder / f"{n:02}.wav", song(n), RATE), "Wren", recording_id=f"{folder.name}{n}", **facts
        )
        for n in range(first, first + count)
    ]


def resampled_and_offset(sound: np.ndarray) -> tuple[np.ndarray, int]:
    """The sound at 16 kHz, softer, and beginning 0.73 s later within a noise of its own."""
    slow = soxr.resample(0.4 * sound[0], RATE, 16000)
    lead = 1e-3 * np.random.default_rng(3).standard_normal(round(0.73 * 16000))
    return np.concatenate([lead, slow])[None].astype(np.float32), 16000


def test_a_planted_copy_is_caught_resampled_softer_and_offset(tmp_path):
    train, test = named(tmp_path / "train", 1, 5), named(tmp_path / "test", 11, 3)
    planted = save(tmp_path / "train" / "another name.flac", *resampled_and_offset(song(12)))
    (leak,) = leaks([*train, recording(planted, "Robin")], [], test).found
    assert (leak.kind, leak.first_split, leak.second_split) == (AUDIO, "train", "test")
    assert leak.first.endswith("another name.flac") and leak.second == "test/12.wav"
    assert "0.73 s earlier" in leak.detail
    with refuses(("another name.flac", "12.wav"), kind=Mismatch):
        leaks([*train, recording(planted, "Robin")], [], test).refuse()


def test_other_recordings_of_the_species_are_no_leak(tmp_path):
    found = leaks(named(tmp_path / "a", 1, 6), named(tmp_path / "b", 11, 3), named(tmp_path / "c", 21, 3))
    assert found.found == [] and found.refuse() is found
    assert found.recordings == {"train": 6, "validation": 3, "test": 3}


def test_a_clip_out_of_the_midst_of_a_long_recording_is_found(tmp_path):
    """Beyond the 30 s that `prepare` listens to."""
    long = np.hstack([song(n) for n in range(5, 17)])
    train = [recording(save(tmp_path / "long.wav", long, RATE), "Wren")]
    clip = save(tmp_path / "clip.wav", 0.5 * long[:, 61 * RATE : 65 * RATE], RATE)
    (leak,) = leaks(train, [], [recording(clip, "Wren")]).found
    assert leak.kind == AUDIO and "61.00 s" in leak.detail


def test_many_copies_hide_nothing(tmp_path):
    """Sound that is in twenty files is no word that says nothing."""
    train = [
        recording(
            save(tmp_path / f"copy{n}.wav", (0.3 + 0.03 * n) * song(7), RATE), "Wren", recording_id=f"c{n}"
        )
        for n in range(20)
    ]
    test = named(tmp_path / "test", 7, 1)
    assert len(leaks(train, [], test).of(AUDIO)) == 20


def test_songs_put_together_are_found(tmp_path):
    """A test recording as one stretch of a longer file of training."""
    train = [recording(save(tmp_path / "joined.wav", np.hstack([song(1), song(2), song(3)]), RATE), "Wren")]
    (leak,) = leaks(train, [], [recording(save(tmp_path / "two.wav", song(2), RATE), "Wren")]).found
    assert leak.kind == AUDIO and "6.00 s" in leak.detail


def test_the_same_id_bytes_or_samples_or_name(tmp_path):
    first = named(tmp_path / "train", 1, 1)[0]
    copy = tmp_path / "test" / "other.wav"
    copy.parent.mkdir()
    shutil.copy(first.path, copy)
    samples = soundfile.read(first.path, dtype="int16", always_2d=True)[0].T
    flac = save(tmp_path / "validation" / "third.flac", samples, RATE, "PCM_16")
    found = leaks([first], [recording(flac, "Wren")], [recording(copy, "Wren")], listen=False)
    assert {(leak.first_split, leak.second_split) for leak in found.of(RECORDING)} == {
        ("train", "validation"), ("train", "test"), ("validation", "test"),
    }  # fmt: skip
    parts = [
        recording(save(tmp_path / f"XC9_{a}.0s_{a + 3}.0s.wav", song(40 + a, 3.0), RATE), "Wren")
        for a in (0, 3)
    ]
    (leak,) = leaks(parts[:1], [], parts[1:], listen=False).found
    assert leak.kind == RECORDING and "names" in leak.detail
    (leak,) = leaks([Recording(Path("a"), "XC77")], [], [Recording(Path("b"), "XC77")]).found
    assert leak.kind == RECORDING and "XC77" in leak.detail


def test_file_names_that_are_mere_numbers_are_no_leak(tmp_path):
    both = []
    for n, split in enumerate(("train", "test")):
        path = save(tmp_path / split / "Wren" / "01.wav", song(60 + n), RATE)
        both.append(recording(path, "Wren", recording_id="01"))
    assert leaks(both[:1], [], both[1:]).found == []


def test_recordists_are_listed_and_refused_where_asked(tmp_path):
    train = named(tmp_path / "train", 1, 2, recordist="Ann  Lee, XC5, https://xeno-canto.org/5")
    test = [*named(tmp_path / "test", 11, 1, recordist="ann lee"), *named(tmp_path / "more", 12, 1)]
    found = leaks(train, [], test)
    (leak,) = found.found
    assert (leak.kind, leak.detail, leak.second) == (RECORDIST, "Ann Lee", "1 recording")
    found.refuse()
    with refuses(("Ann Lee", "train and test"), kind=Mismatch):
        found.refuse(recordists=True)
    last = found.text().splitlines()[-1]
    assert last.startswith("leakage: 1 recordist ") and "Ann Lee" in found.text()


def test_what_could_not_be_compared_is_said(tmp_path, monkeypatch):
    gone = [Recording(Path("gone.wav"), "a", (Label("Wren"),))]
    (said,) = leaks(gone, [], named(tmp_path / "test", 1, 1)).unchecked
    assert said.code == "files-not-at-hand" and said.facts == {"recordings": 1, "of": 2}
    assert "1 of 2 recordings" in said and "data.recordings=" in said
    monkeypatch.setattr(check, "MOST_LISTENED_S", 5.0)
    (said,) = leaks(named(tmp_path / "a", 1, 1), [], named(tmp_path / "b", 1, 1), listen=True).unchecked
    assert "limit" in said
    damaged = tmp_path / "b" / "bad.wav"
    damaged.write_bytes(b"RIFF nothing")
    monkeypatch.undo()
    assert leaks([Recording(damaged, "x")], [], named(tmp_path / "c", 3, 1)).found == []


def test_shards_are_compared_by_their_recordings(tmp_path, codec):
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shards(folder, codec, {"train": range(2), "test": range(2, 4)})
    clean = ShardIndex.open(folder)
    assert leaks(from_shards(clean, "train"), [], from_shards(clean, "test")).of(RECORDING) == []
    with ShardWriter(folder / "test-000001.tar") as writer:
        writer.write(
            "x", {"json": {"recording_id": "new", "background_id": "Synthetic Low 1", "species": []}}
        )
    mixed = ShardIndex.open(folder)
    (leak,) = leaks(from_shards(mixed, "train"), [], from_shards(mixed, "test")).of(RECORDING)
    assert "Synthetic Low 1" in leak.detail, "the background under a clip is a parent too"
    assert from_shards(mixed, "validation") == []


@pytest.mark.data
def test_real_recordings_of_a_species_are_no_leak_and_a_copy_is_one(data_folder, tmp_path):
    phoebe = from_folder(data_folder / "birdsong" / "black_phoebe")
    train, test = phoebe[:5], phoebe[5:]
    assert leaks(train, [], test).of(AUDIO, RECORDING) == []
    from birdsd.sound.audio.recordings import read

    sound = read(test[0].path, RATE)
    planted = save(tmp_path / "mine.wav", *resampled_and_offset(sound))
    (leak,) = leaks([*train, recording(planted, "Black Phoebe")], [], test).of(AUDIO)
    assert leak.first.endswith("mine.wav")
