"""Which files are one recording: by bytes, samples, names, and by what is to be heard."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdsd.sound import identity as room
from birdsd.sound.audio.recordings import probe
from birdsd.sound.identity import BYTES, SAMPLES, group_recordings, identify, merge_equal, parent_of
from birdsd.sound.labels.annotation import Label, Recording
from tests.support.sound_makers import save

RATE = 22050


def recording(path: Path, *species: str, **facts: object) -> Recording:
    info = probe(path)
    known = {"recording_id": f"{path.parent.name}/{path.stem}", **facts}
    return Recording(
        path, labels=tuple(Label(name) for name in species), duration_s=info.duration_s, rate_hz=info.rate_hz,
        channels=info.channels, **known,
    )  # fmt: skip


def song(seed: int, seconds: float = 6.0, noise: float = 0.003) -> np.ndarray:
    """[1, samples]: chirps drawn from the seed, in noise of its own."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    sound = noise * draw.standard_normal(len(time))
    for start in draw.uniform(0, seconds - 0.5, round(2 * seconds)):
        here = (time >= start) & (time < start + 0.3)
        hz = draw.uniform(1500, 5000) + draw.uniform(-3000, 3000) * (time - start)
        sound += here * draw.uniform(0.03, 0.2) * np.sin(2 * np.pi * np.cumsum(hz) / RATE)
    return sound[None].astype(np.float32)


def test_equal_bytes_are_one_recording_with_both_labels(tmp_path):
    first = save(tmp_path / "Black Phoebe" / "20230510_060000.flac", song(1), RATE)
    second = tmp_path / "House Sparrow" / "another.flac"
    second.parent.mkdir()
    shutil.copy(first, second)
    other = save(tmp_path / "House Sparrow" / "20230510_060000.flac", song(2), RATE)
    found = merge_equal(
        [
            recording(first, "Black Phoebe", licence=""), recording(second, "House Sparrow", licence="CC0"),
            recording(other, "House Sparrow"),
        ]
    )  # fmt: skip
    assert [r.path for r in found.recordings] == [first, other]
    assert found.recordings[0].species == ("Black Phoebe", "House Sparrow")
    assert found.recordings[0].licence == "CC0"
    assert [(double.path, kept.path) for double, kept in found.stands_for] == [(second, first)]
    (problem,) = found.problems
    assert problem.path == second and "20230510_060000.flac" in problem.reason
    assert problem.reason.code == "same-recording" and problem.reason.facts["how"] == BYTES
    assert "Black Phoebe, House Sparrow" in problem.reason and BYTES in problem.reason


def test_the_same_samples_in_another_container_are_one_recording(tmp_path):
    sound = np.rint(song(1, 20.0) * 32768).astype(np.int16)
    flac = save(tmp_path / "a.flac", sound, RATE)
    wav = save(tmp_path / "b.wav", sound, RATE, "PCM_16")
    tagged = tmp_path / "c.wav"
    with soundfile.SoundFile(tagged, "w", RATE, 1, "PCM_16") as stream:
        stream.comment = "another tag"
        stream.write(sound[0])
    almost = sound.copy()
    almost[0, 1000] += 1  # not in the middle
    almost = save(tmp_path / "d.wav", almost, RATE, "PCM_16")
    found = merge_equal([recording(path) for path in (flac, wav, tagged, almost)])
    assert [r.path for r in found.recordings] == [flac, almost]
    assert [problem.reason.facts["how"] for problem in found.problems] == [SAMPLES] * 2


def test_clips_of_one_length_are_not_the_same_for_it(tmp_path):
    clips = [recording(save(tmp_path / f"{n}.wav", song(n, 3.0), RATE)) for n in range(6)]
    silent = np.zeros((1, 3 * RATE), np.float32)
    for n in (7, 8):  # equal in the middle, which is silent
        sound = silent.copy()
        sound[0, n] = 0.5
        clips.append(recording(save(tmp_path / f"{n}.wav", sound, RATE)))
    found = merge_equal(clips)
    assert found.recordings == clips and found.problems == []


def test_boxes_of_both_files_are_kept(tmp_path):
    paths = [save(tmp_path / f"{n}.wav", song(1), RATE) for n in range(2)]
    boxed = recording(paths[0], weak=False)
    boxed = Recording(**{**boxed.__dict__, "labels": (Label("Wren", 0.5, 1.0), Label("Wren", 2.0, 2.5))})
    again = recording(paths[1], weak=False)
    again = Recording(**{**again.__dict__, "labels": (Label("Wren", 0.5, 1.0), Label("Robin", 3.0, 3.5))})
    (one,) = merge_equal([boxed, again]).recordings
    assert not one.weak and [label.label for label in one.labels] == ["Wren", "Wren", "Robin"]


SEGMENTS = {
    "REC_0600_000.0-003.0": ("REC_0600", 3.0),
    "REC_0600_003.0-006.0": ("REC_0600", 3.0),
    "XC1234_seg3": ("XC1234", 2.0),
    "20230510_060000_00-05": ("20230510_060000", 5.0),
    "20230510_060000_05-10": ("20230510_060000", 5.0),
    "name_3.0s-6.0s_final": ("name", 3.0),
    "my recording_0.0s-3.0s": ("my recording", 3.0),
    "0.875_3_name_0.0s_3.0s": ("name", 3.0),
    "0.912_12_20230510_060000_9.0s_12.0s": ("20230510_060000", 3.0),
    "morning_part1": ("morning", 9.0),
    "morning (part 2)": ("morning", 9.0),
    "site-4-clip-002": ("site-4", 9.0),
    "A_chunk_012": ("A", 9.0),
    "REC.WAV_12.0_15.0": ("REC", 3.0),
    "rec_12000_15000": ("rec", 3.0),
    "rec[12.5-15.5]": ("rec", 3.0),
    "LIFECLEF2014_segment-7": ("LIFECLEF2014", 1.0),
    "XC234437_020s": ("XC234437", 1.0),
}
RECORDINGS = {
    "20230510_060000": 3.0, "20230510_060003": 3.0, "S4A03895_20190522_000000": 3.0, "2023-05-10": 5.0,
    "site_2023-05-10": 5.0, "REC_0600": 3.0, "XC1234": 3.0, "rec-12": 3.0, "dawn chorus 2": 3.0, "a_1": 1.0,
    "sparrow_12_15": 4.0, "LS100235 American Robin B": 1.0, "BLPH_part": 1.0, "track 02": 1.0, "_part1": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("stem", sorted(SEGMENTS))
def test_names_of_segments_tell_their_recording(stem):
    parent, duration_s = SEGMENTS[stem]
    one = Recording(Path(f"rec/Wren/{stem}.wav"), stem, duration_s=duration_s, rate_hz=48000, channels=1)
    assert parent_of(one) == parent


@pytest.mark.parametrize("stem", sorted(RECORDINGS))
def test_other_names_are_recordings_of_their_own(stem):
    one = Recording(
        Path(f"rec/Wren/{stem}.wav"), stem, duration_s=RECORDINGS[stem], rate_hz=48000, channels=1
    )
    assert parent_of(one) is None


@pytest.mark.parametrize("stem", ["house_sparrow_clip_1", "House Sparrow part 2", "house-sparrow_seg3"])
def test_a_species_with_a_number_is_no_recording_that_was_cut(stem):
    one = Recording(Path(f"rec/House Sparrow/{stem}.wav"), stem, (Label("House Sparrow"),), duration_s=3.0)
    other = Recording(Path(f"rec/x/{stem}.wav"), stem, (Label("House Sparrow"),), duration_s=3.0)
    assert parent_of(one) is None and parent_of(other) is None


def test_segments_of_one_recording_are_one_group_and_dates_are_none(tmp_path):
    def some(name: str, duration_s: float = 3.0) -> Recording:
        path = tmp_path / f"{name}.wav"
        return Recording(path, path.relative_to(tmp_path).with_suffix("").as_posix(), duration_s=duration_s)

    held = [
        some("Wren/R1_0.0-3.0"), some("Robin/R1_3.0-6.0"), some("Wren/R1"), some("Wren/R2_0.0-3.0"),
        some("Wren/20230510_060000"), some("Robin/20230510_060000"), some("Wren/R3_seg1"),
        some("Wren/R3_seg2"),
    ]  # fmt: skip
    groups, problems = group_recordings(held, listen=False)
    assert groups["Wren/R1_0.0-3.0"] == groups["Robin/R1_3.0-6.0"] == groups["Wren/R1"] == "Robin/R1_3.0-6.0"
    assert groups["Wren/R3_seg1"] == groups["Wren/R3_seg2"]
    for alone in ("Wren/R2_0.0-3.0", "Wren/20230510_060000", "Robin/20230510_060000"):
        assert groups[alone] == alone
    (problem,) = problems
    assert "4 files" in problem.reason and "2 recordings" in problem.reason


def encoded(path: Path, sound: np.ndarray, level: float | None = None) -> Path:
    with soundfile.SoundFile(
        path, "w", RATE, len(sound), compression_level=level, format=path.suffix[1:]
    ) as f:
        f.write(sound.T)
    return path


def variants(folder: Path, sound: np.ndarray) -> dict[str, Path]:
    late = np.concatenate([0.003 * np.random.default_rng(9).standard_normal((1, RATE // 3)), sound], axis=1)
    turned = np.concatenate([sound, -0.6 * sound])
    return {
        "mp3": encoded(folder / "mp3.mp3", sound, 0.5),
        "poor": encoded(folder / "poor.mp3", sound, 0.95),
        "ogg": encoded(folder / "ogg.ogg", sound, 0.8),
        "softer": save(folder / "softer.wav", 0.2 * sound, RATE),
        "louder": save(folder / "louder.flac", 1.7 * sound, RATE),
        "later": save(folder / "later.wav", late.astype(np.float32), RATE),
        "cut": save(folder / "cut.wav", sound[:, RATE : 4 * RATE], RATE),
        "turned": save(folder / "turned.wav", -sound, RATE),
        "stereo": save(folder / "stereo.wav", turned, RATE),
        "offset": save(folder / "offset.wav", sound + 0.1, RATE),
    }


KINDS = ["mp3", "poor", "ogg", "softer", "louder", "later", "cut", "turned", "stereo", "offset"]


@pytest.mark.parametrize("kind", KINDS)
def test_near_identical_sound_is_reported_and_goes_together(tmp_path, kind):
    first = save(tmp_path / "first.wav", song(1), RATE)
    second = variants(tmp_path, song(1))[kind]
    others = [save(tmp_path / f"other{n}.wav", song(n), RATE) for n in range(10, 16)]
    held = [recording(first, "Wren"), *map(recording, others), recording(second, "Robin")]
    groups, problems = group_recordings(held)
    assert groups[held[0].recording_id] == groups[held[-1].recording_id]
    assert len(set(groups.values())) == len(held) - 1
    (problem,) = problems
    assert (
        problem.path == second and "first.wav" in problem.reason and "labels differ: Wren" in problem.reason
    )
    assert ("0.33 s later" in problem.reason) == (kind == "later")
    assert group_recordings(held, listen=False)[1] == []


def test_what_is_only_similar_is_not_the_same(tmp_path):
    """The same song in other noise, tones that come and go at once, noise, silence, hum."""
    draw = np.random.default_rng(0)
    time = np.arange(4 * RATE) / RATE
    gate = np.sin(2 * np.pi * 1.5 * time) > 0
    sounds = [0.3 * np.sin(2 * np.pi * hz * time) * gate for hz in (2000, 2040, 2700, 2740)]
    sounds += [0.1 * draw.standard_normal(len(time)) for _ in range(3)]
    sounds += [1e-5 * draw.standard_normal(len(time)), np.zeros(len(time)), 0 * time + 0.1]
    sounds += [
        0.1 * np.sin(2 * np.pi * 50 * time + n) + 1e-3 * draw.standard_normal(len(time)) for n in (0, 1)
    ]
    sounds += [
        song(1, 4.0, 0)[0] + 0.05 * draw.standard_normal(len(time)) * np.roll(gate, n) for n in (0, 9000)
    ]
    held = [
        recording(save(tmp_path / f"{n}.wav", sound[None].astype(np.float32), RATE))
        for n, sound in enumerate(sounds[:-2])
    ]
    groups, problems = group_recordings(held)
    assert problems == [] and len(set(groups.values())) == len(held)


def test_sets_that_are_too_large_to_listen_to_are_told_so(tmp_path, monkeypatch):
    held = [recording(save(tmp_path / f"{n}.wav", song(1) * (n + 1) / 3, RATE)) for n in range(3)]
    assert len(group_recordings(held)[1]) == 2
    monkeypatch.setattr(room, "MOST_LISTENED_S", 17.0)
    groups, (problem,) = group_recordings(held)
    assert len(set(groups.values())) == 3 and problem.reason.code == "alike-unchecked"


def test_a_file_that_is_gone_or_damaged_is_like_no_other(tmp_path):
    held = [recording(save(tmp_path / f"{n}.wav", song(1), RATE)) for n in range(3)]
    held[1].path.unlink()
    held[2].path.write_bytes(held[2].path.read_bytes()[:5000])
    assert identify(held).recordings == held and identify(held).problems == []


def test_everything_together(tmp_path):
    sound = np.rint(song(1) * 32768).astype(np.int16)
    held = [recording(save(tmp_path / "Wren" / f"{n}.wav", song(20 + n), RATE), "Wren") for n in range(5)]
    held += [
        recording(save(tmp_path / "Robin" / "a.wav", sound, RATE), "Robin"),
        recording(save(tmp_path / "Wren" / "b.flac", sound, RATE), "Wren"),
        recording(encoded(tmp_path / "Robin" / "c.mp3", sound, 0.5), "Robin"),
    ]
    found = identify(held)
    assert len(found.recordings) == 7 and len(set(found.groups.values())) == 6
    assert found.groups["Robin/a"] == found.groups["Robin/c"] and "Wren/b" not in found.groups
    assert {p.path.name for p in found.problems} == {"b.flac", "c.mp3"}
    again = identify(held)
    assert again == found


@pytest.mark.data
def test_no_two_of_the_real_recordings_are_taken_for_one(data_folder):
    paths = sorted((data_folder / "birdsong").rglob("*.mp3"))
    found = identify([recording(path, path.parent.name) for path in paths])
    assert found.problems == [] and len(set(found.groups.values())) == len(paths)
