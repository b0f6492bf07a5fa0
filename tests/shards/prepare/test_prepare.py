"""prepare: what is written, what is left out and why, and that it can be stopped and repeated anywhere."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from birdsd.errors import (
    AlreadyThere,
    BadValue,
    Damaged,
    DiskFull,
    Mismatch,
    NothingLeft,
    NotSet,
    UnknownName,
    UserError,
)
from birdsd.files import read_json
from birdsd.schema import DataConfig
from birdsd.shards.index import ShardIndex
from birdsd.shards.inspect import describe, text
from birdsd.shards.prepare.prepare import PrepareReport, prepare
from birdsd.shards.reader import ShardReader
from birdsd.shards.storage.writer import ShardWriter
from birdsd.sound.audio.recordings import read, write_wav
from tests.support.errors import refuses
from tests.support.shard_makers import CODEC, data_config, tone, tone_folder


def run(recordings: Path, shards: Path, processes: int = 1, **changes: Any) -> PrepareReport:
    return prepare(data_config(recordings, shards, **changes), CODEC, processes, progress=False)


def all_samples(folder: Path) -> list[dict[str, Any]]:
    index = ShardIndex.open(folder)
    return [
        s.metadata
        for split in index.splits
        for s in ShardReader(index, split).read_many(range(index.count(split)))
    ]


def leftovers(folder: Path) -> list[str]:
    """Hidden files: unfinished ones, and the lock that stays."""
    return sorted(p.name for p in folder.glob(".*"))


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.tar"))}


def test_a_sample_is_the_sound_of_its_recording(prepared: Path, tones: Path) -> None:
    index = ShardIndex.open(prepared)
    assert index.codec == CODEC.to_json() and index.species == ("Species 0", "Species 1", "Species 2")
    for split in index.splits:
        for sample in ShardReader(index, split).read_many(range(index.count(split))):
            facts = sample.metadata
            assert (
                facts["split"] == split
                and facts["key"] == sample.key
                and facts["codec"] == CODEC.fingerprint()
            )
            sound = read(tones / facts["path"], CODEC.rate_hz)
            first = round(facts["start_s"] * CODEC.rate_hz)
            assert np.array_equal(sample.image, CODEC.encode(sound[:, first:], CODEC.rate_hz))
            assert facts["species"][0].replace(" ", "_").lower() == facts["path"].split("/")[0]
            assert facts["captions"] and facts["species"][0] in facts["captions"][0]


def test_splits_are_by_recording(prepared: Path) -> None:
    splits: dict[str, set[str]] = {}
    for facts in all_samples(prepared):
        splits.setdefault(facts["recording_id"], set()).add(facts["split"])
    assert all(len(held) == 1 for held in splits.values())
    held = describe(prepared)["species"]
    assert all(set(by_split) == {"train", "validation", "test"} for by_split in held.values())
    with open(prepared / "recordings.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {r["recording_id"]: {r["split"]} for r in rows} == splits


def test_again_does_nothing_and_missing_shards_alone_are_written(
    prepared: Path, tones: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder)
    before = shard_bytes(folder)
    again = run(tones, folder, samples_per_shard=4)
    assert again.nothing_to_do and again.facts["fingerprint"] == ShardIndex.open(prepared).fingerprint
    names = sorted(before)
    (folder / names[0]).unlink()
    (folder / names[1].replace(".tar", ".index.json")).unlink()
    os.truncate(folder / names[2], 1000)
    untouched = {n: (folder / n).stat().st_mtime_ns for n in names[3:]}
    report = run(tones, folder, samples_per_shard=4)
    assert report.written == 3 and shard_bytes(folder) == before
    assert {n: (folder / n).stat().st_mtime_ns for n in names[3:]} == untouched


def test_the_number_of_processes_does_not_matter(prepared: Path, tones: Path, tmp_path: Path) -> None:
    report = run(tones, tmp_path / "two", processes=2, samples_per_shard=4)
    assert shard_bytes(tmp_path / "two") == shard_bytes(prepared)
    assert report.facts["fingerprint"] == ShardIndex.open(prepared).fingerprint


def test_other_settings_or_recordings_are_refused_in_the_same_folder(
    tones: Path, prepared: Path, tmp_path: Path
) -> None:
    folder, recordings = tmp_path / "shards", tmp_path / "recordings"
    shutil.copytree(tones, recordings)
    run(recordings, folder)
    before = shard_bytes(folder)
    with refuses("data.wordings was 4, is 2", "data.shards", kind=Mismatch):
        run(recordings, folder, wordings=2)
    tone(recordings / "species_0" / "new.wav")
    (recordings / "species_1" / "r1_0.wav").unlink()
    tone(recordings / "species_1" / "r1_1.wav", hz=5000)
    with refuses(("1 file of data.recordings removed", "added", "changed"), kind=Mismatch):
        run(recordings, folder)
    assert shard_bytes(folder) == before
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(next(prepared.glob("*.tar")), other / "mine.tar")
    with refuses(str(other), kind=AlreadyThere):
        run(recordings, other)


def bad_files(folder: Path) -> dict[str, str]:
    """Files that cannot be used, each with a word of its reason."""
    here = folder / "species_0"
    here.mkdir(parents=True, exist_ok=True)
    (here / "zero.wav").write_bytes(b"")
    (here / "text.wav").write_text("<html>404 not found</html>")
    good = tone(here / "good.wav", 2.0)
    (here / "cut.wav").write_bytes(good.read_bytes()[:20_000])
    write_wav(here / "nan.wav", np.zeros((1, 8000), np.float32), 16000, "float32")
    damaged = bytearray((here / "nan.wav").read_bytes())
    damaged[-4:] = np.float32(np.nan).tobytes()
    (here / "nan.wav").write_bytes(damaged)
    return {"zero.wav": "empty", "text.wav": "text", "cut.wav": "cut short", "nan.wav": "NaN"}


def test_what_cannot_be_read_is_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    recordings = tone_folder(tmp_path / "r", 2, 3)
    expected = bad_files(recordings)
    write_wav(recordings / "species_0" / "silence.wav", np.zeros((1, 16000), np.float32), 16000)
    report = run(recordings, tmp_path / "s")
    left_out = read_json(tmp_path / "s" / "problems.json")
    reasons = {p["path"].split("/")[-1]: p["reason"] for p in left_out["problems"]}
    same = {p["reason"] for p in left_out["problems"] if p.get("code") == "sounds-the-same"}
    alike = {name for name, reason in reasons.items() if reason in same}  # pure tones do
    assert set(reasons) - alike == set(expected)
    for name, word in expected.items():
        assert word in reasons[name], (name, reasons[name])
    assert [s["path"] for s in left_out["skipped_clips"]] == ["species_0/silence.wav"]
    assert report.facts["problems"] == 4 + len(alike) and report.facts["skipped"] == 1
    assert len({m["path"] for m in all_samples(tmp_path / "s")}) == 7
    assert "zero.wav" in text(describe(tmp_path / "s"))


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingLeft):
        run(tmp_path / "empty", tmp_path / "s1")
    write_wav(tmp_path / "silent" / "a" / "x.wav", np.zeros((1, 16000), np.float32), 16000)
    with refuses("x.wav", kind=NothingLeft):
        run(tmp_path / "silent", tmp_path / "s2")
    with refuses(str(tmp_path / "s2"), kind=Damaged):
        ShardIndex.open(tmp_path / "s2")
    with refuses("data.recordings", kind=NotSet):
        prepare(DataConfig(name="test", shards=str(tmp_path / "s3")), CODEC)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"segmentation": "sogn"}, UnknownName),
        ({"overlap": 1.0}, BadValue),
        ({"samples_per_shard": 0}, BadValue),
        ({"mixtures_per_clip": 1}, NotSet),
        ({"keep_clean": False}, Mismatch),
        ({"snr_db_low": 9.0, "snr_db_high": 3.0}, Mismatch),
        ({"wordings": 0}, BadValue),
        ({"validation_fraction": 0.9, "test_fraction": 0.2}, Mismatch),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(
    tones: Path, tmp_path: Path, changes: dict, kind: type[UserError]
) -> None:
    with pytest.raises(kind):
        run(tones, tmp_path / "s", **changes)
    assert not (tmp_path / "s").exists()


def test_hostile_names_and_odd_rates(tmp_path: Path) -> None:
    recordings = tmp_path / "r"
    names = ("-dash.wav", "two..dots ...wav", "quo'te\".wav", "鳥 é.wav", "a.b.c.wav", "$(touch x).wav")
    for number, name in enumerate(names):
        tone(recordings / "Wren" / name, hz=1000.0 + 500 * number)
    for rate, hz in ((8000, 700.0), (384000, 4500.0)):
        tone(recordings / "Robin" / f"{rate}.wav", rate_hz=rate, hz=hz)
    seven = np.repeat(read(tone(tmp_path / "mono.wav", hz=5500.0), 16000), 7, axis=0)
    (tmp_path / "mono.wav").unlink()
    write_wav(recordings / "Robin" / "seven.wav", seven, 16000)
    report = run(recordings, tmp_path / "s")
    samples = all_samples(tmp_path / "s")
    assert report.facts["problems"] == 0 and len({s["path"] for s in samples}) == 9
    keys = [s["key"] for s in samples]
    assert len(set(keys)) == len(keys)
    assert all("." not in key and "/" not in key and not key.startswith("-") for key in keys)
    assert list(ShardIndex.open(tmp_path / "s").verify()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r", "s"]


def test_windows_carry_the_boxes_that_lie_in_them(tmp_path: Path) -> None:
    recordings = tmp_path / "r"
    tone(recordings / "night.wav", seconds=10.0)
    (recordings / "labels.csv").write_text(
        "path,label,start,end\nnight.wav,Wren,1.0,1.4\nnight.wav,Robin,1.2,5.0\n", encoding="utf-8"
    )
    run(
        recordings,
        tmp_path / "s",
        segmentation="windows",
        overlap=0.5,
        max_clips_per_recording=0,
        samples_per_shard=7,
    )
    samples = sorted(all_samples(tmp_path / "s"), key=lambda s: s["start_s"])
    clip_s = CODEC.clip_s
    starts = [s["start_s"] for s in samples]
    # A window with only the edge of a bird is neither a clip of it nor one without a bird.
    skipped = read_json(tmp_path / "s" / "problems.json")["skipped_clips"]
    edges = [float(re.search(r"at ([\d.]+) s", entry["reason"])[1]) for entry in skipped]
    assert {entry["code"] for entry in skipped} == {"edge-of-a-bird"}
    assert edges and all(min(abs(e + clip_s - 1.0), abs(e - 5.0)) < 0.25 for e in edges)
    starts = sorted([*starts, *edges])
    assert np.allclose(np.diff(starts[:-1]), clip_s / 2, atol=0.02)
    assert starts[-1] + clip_s > 10.0 - clip_s / 2
    for sample in samples:
        start = sample["start_s"]
        inside = {
            name
            for name, a, b in (("Wren", 1.0, 1.4), ("Robin", 1.2, 5.0))
            if min(b, start + clip_s) - max(a, start) >= min(0.25, b - a) - 1e-6
        }
        assert set(sample["species"]) == inside
        for label in sample["labels"]:
            assert 0 <= label["start_s"] <= label["end_s"] <= clip_s
    assert any(not s["species"] for s in samples) and any(len(s["species"]) == 2 for s in samples)
    assert len(ShardIndex.open(tmp_path / "s").shards("train")) > 1  # one long recording fills several shards


def test_a_long_recording_in_parts_gives_what_it_gives_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = tmp_path / "r"
    tone(recordings / "Wren" / "long.wav", seconds=12.0, rate_hz=CODEC.rate_hz)
    run(recordings, tmp_path / "whole", segmentation="windows", max_clips_per_recording=0)
    monkeypatch.setattr("birdsd.shards.prepare.clips.PART_S", 2.0)
    run(recordings, tmp_path / "parts", segmentation="windows", max_clips_per_recording=0)
    assert shard_bytes(tmp_path / "parts") == shard_bytes(tmp_path / "whole")


def test_songs_are_cut_around_boxes(tmp_path: Path) -> None:
    recordings = tmp_path / "r"
    tone(recordings / "a.wav", seconds=6.0)
    (recordings / "labels.csv").write_text(
        "path,label,start,end\na.wav,Wren,3.0,3.3\na.wav,Wren,3.31,3.4\na.wav,Wren,5.8,6.0\n"
    )
    run(recordings, tmp_path / "s", validation_fraction=0.0, test_fraction=0.0)
    samples = sorted(all_samples(tmp_path / "s"), key=lambda s: s["start_s"])
    assert [round(s["start_s"], 3) for s in samples] == [
        round(3.15 - CODEC.clip_s / 2, 3),
        round(6.0 - CODEC.clip_s, 3),
    ]
    assert len(samples[0]["labels"]) == 2


def test_mixtures_are_seeded_and_say_what_is_in_them(tmp_path: Path) -> None:
    recordings = tone_folder(tmp_path / "r", 1, 3)
    tone(tmp_path / "env" / "rain" / "x.wav", 3.0, hz=900)
    settings: dict[str, Any] = {"environment": str(tmp_path / "env"), "mixtures_per_clip": 2}
    run(recordings, tmp_path / "a", **settings)
    run(recordings, tmp_path / "b", **settings)
    run(recordings, tmp_path / "c", **settings, seed=1)
    assert shard_bytes(tmp_path / "a") == shard_bytes(tmp_path / "b")
    samples = {s["key"]: s for s in all_samples(tmp_path / "a")}
    mixed = [s for key, s in samples.items() if "-mix" in key]
    assert len(mixed) == 2 * (len(samples) - len(mixed))
    for sample in mixed:
        assert sample["environment"] == "rain" and 3 <= sample["snr_db"] <= 20
        assert sample["environment_source"] == "rain/x.wav" and any("rain" in c for c in sample["captions"])
        assert samples[sample["key"].rsplit("-mix", 1)[0]]["split"] == sample["split"]
    other = {s["key"]: s["snr_db"] for s in all_samples(tmp_path / "c") if "-mix" in s["key"]}
    assert other and all(other[k] != samples[k]["snr_db"] for k in other if k in samples)


def test_a_full_disk_keeps_what_was_complete(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from birdsd.shards.storage.writer import ShardWriter

    real, written = ShardWriter._add, []

    def add(self: ShardWriter, name: str, data: bytes) -> None:
        written.append(name)
        if len(written) > 14:
            raise OSError(28, "No space left on device")
        real(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "_add", add)
        with refuses(str(tmp_path / "s"), kind=DiskFull):
            run(tones, tmp_path / "s", samples_per_shard=4)
    assert shard_bytes(tmp_path / "s") and leftovers(tmp_path / "s") == [".lock"]
    kept = {n: (tmp_path / "s" / n).stat().st_mtime_ns for n in shard_bytes(tmp_path / "s")}
    run(tones, tmp_path / "s", samples_per_shard=4)
    assert {n: (tmp_path / "s" / n).stat().st_mtime_ns for n in kept} == kept
    assert list(ShardIndex.open(tmp_path / "s").verify()) == []


KILLED = """
import sys, time
from tests.support.shard_makers import CODEC, data_config
from birdsd.shards.prepare import prepare
if __name__ == "__main__":
    data = data_config(sys.argv[1], sys.argv[2], samples_per_shard=4)
    prepare.prepare(data, CODEC, int(sys.argv[3]), False)
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_run_again_gives_the_same_set(
    tones: Path, prepared: Path, tmp_path: Path, processes: int
) -> None:
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    folder = tmp_path / "shards"
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    child = subprocess.Popen(
        [sys.executable, str(script), str(tones), str(folder), str(processes)],
        env=environment,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.index.json")) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    # Its workers notice that they are alone, and end without having to be told.
    while _group_lives(child.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _group_lives(child.pid)
    run(tones, folder, samples_per_shard=4)
    assert shard_bytes(folder) == shard_bytes(prepared)
    assert leftovers(folder) == [".lock"]
    assert ShardIndex.open(folder).fingerprint == ShardIndex.open(prepared).fingerprint


def _group_lives(group: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def test_the_card_and_the_contact_sheet(prepared: Path) -> None:
    from PIL import Image

    card = (prepared / "README.md").read_text(encoding="utf-8")
    for word in ("Species 1", "validation", "rate_hz | 16000", ShardIndex.open(prepared).fingerprint):
        assert word in card
    with Image.open(prepared / "contact_sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape[1] == 1280 and pixels.shape[0] % 3 == 0  # a row for each of the three species
    assert all(band.std() > 10 for band in np.split(pixels, 3))


def test_inspect_says_what_there_is(prepared: Path) -> None:
    facts = describe(prepared, verify=True)
    assert facts["damaged"] == [] and json.loads(json.dumps(facts)) == facts
    assert sum(s["samples"] for s in facts["splits"].values()) == len(all_samples(prepared))
    page = text(facts)
    for word in (
        "Species 2",
        "train",
        "codec     test: 16000 Hz",
        "(not stated)",
    ):
        assert word in page
    assert page.splitlines()[-1].startswith("checked: ") and "damaged" not in page


def test_inspect_counts_shards_of_others_the_same_way(prepared: Path, tmp_path: Path) -> None:
    for tar in prepared.glob("*.tar"):
        shutil.copy(tar, tmp_path / tar.name)
    own, foreign = describe(prepared), describe(tmp_path, verify=True)
    for name in ("species", "licences", "environments", "image_shape", "no_bird"):
        assert own[name] == foreign[name]
    assert {k: v["samples"] for k, v in own["splits"].items()} == {
        k: v["samples"] for k, v in foreign["splits"].items()
    }
    assert foreign["damaged"] == [] and foreign["codec"] is None


@pytest.mark.data
def test_real_recordings(data_folder: Path, tmp_path: Path) -> None:
    run(data_folder / "birdsong", tmp_path / "s", max_clips_per_recording=1)
    facts = describe(tmp_path / "s")
    assert len(facts["species"]) == 10
    (note,) = facts["problems"]  # a recording whose second channel is dead
    assert "channel 1 is taken" in note["reason"]
    assert all(set(held) == {"train", "validation", "test"} for held in facts["species"].values())
    assert all(s["licence"].startswith("CC BY") and s["recordist"] for s in all_samples(tmp_path / "s"))


def test_one_process_computes_with_one_thread(
    tones: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As several processes do: more threads only spin over matrices as small as a clip's."""
    seen: list[set[int]] = []
    whole = ShardWriter.write

    def looked_at(writer: ShardWriter, key: str, parts: dict[str, Any]) -> None:
        seen.append({pool["num_threads"] for pool in threadpool_info()})
        whole(writer, key, parts)

    monkeypatch.setattr(ShardWriter, "write", looked_at)
    with threadpool_limits(2):
        run(tones, tmp_path / "s", samples_per_shard=4)
        after = {pool["num_threads"] for pool in threadpool_info()}
    assert seen and all(threads == {1} for threads in seen)
    assert after == {2}, "whoever calls prepare keeps their threads"
    assert shard_bytes(tmp_path / "s") == shard_bytes(prepared)
