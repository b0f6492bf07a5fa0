"""What lies between songs as a background, and further cuts in parts and processes, and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from birdsd.files import read_json
from birdsd.runs.share import ArrayShare
from birdsd.shards.index import ShardIndex
from birdsd.shards.inspect import describe
from birdsd.shards.prepare.prepare import prepare
from birdsd.shards.reader import ShardReader
from birdsd.sound.audio.recordings import read, write_wav
from tests.shards.prepare.test_further_cuts import CLIP_S, LONG, RATE_HZ, birds, run, song_file, songs_alone
from tests.shards.prepare.test_prepare import all_samples, shard_bytes
from tests.shards.prepare.test_prepare_parts import same_set
from tests.support.shard_makers import data_config


@pytest.fixture(scope="module")
def flock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return birds(tmp_path_factory.mktemp("flock"))


@pytest.fixture(scope="module")
def over_background(flock: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("background") / "shards"
    run(
        flock, folder, cuts_per_song=2, background_mixtures=2, cut_gain_db=3.0, validation_fraction=0.3,
        test_fraction=0.3, samples_per_shard=24,
    )  # fmt: skip
    return folder


def test_backgrounds_lie_between_songs_of_other_recordings_of_the_split(
    flock: Path, over_background: Path
) -> None:
    samples = all_samples(over_background)
    mixtures = [s for s in samples if "background_id" in s]
    assert len(mixtures) == 2 * (len(samples) - len(mixtures)) > 100
    split_of = {s["recording_id"]: s["split"] for s in samples}
    used = set()
    for s in mixtures:
        assert s["background_id"] != s["recording_id"] and split_of[s["background_id"]] == s["split"]
        name, number = (int(part) for part in s["background_id"][1:].split("_"))
        start_s = s["background_start_s"]
        for song_s in (1.0 + 0.2 * name, 4.0 + 0.1 * number):
            assert not (start_s < song_s + 0.4 and song_s < start_s + 0.5 * CLIP_S)
        assert s["background_path"] == f"species_{name}/{s['background_id']}.wav"
        assert 3.0 <= s["snr_db"] <= 20.0 and s["environment"] == ""
        assert not any("background" in caption for caption in s["captions"])
        assert s["captions"][0] == f"a {s['species'][0]}"
        used.add((s["background_id"], start_s))
    assert len(used) > 0.5 * len(mixtures), "drawn anew for each"
    assert describe(over_background)["over_background"] == len(mixtures)


def test_a_background_is_heard_at_the_ratio_that_is_written_down(flock: Path, over_background: Path) -> None:
    clean = {s["key"]: s for s in all_samples(over_background) if "background_id" not in s}
    index = ShardIndex.open(over_background)
    reader = ShardReader(index, "train")
    samples = {s.key: s for s in reader.read_many(range(len(reader)))}
    compared = 0
    for key, sample in samples.items():
        facts = sample.metadata
        if "background_id" not in facts:
            continue
        original = samples[key.rpartition("-bg")[0]]
        assert original.metadata == clean[original.key]
        # The floor of the picture rises by what was mixed in, the song stays.
        quiet = np.percentile(original.image, 20)
        assert np.percentile(sample.image, 20) >= quiet
        assert abs(int(sample.image.max()) - int(original.image.max())) <= 8
        compared += np.percentile(sample.image, 20) > quiet + 5
    assert compared > 20


def test_licences_of_both_recordings_are_kept(tmp_path: Path) -> None:
    rows = ["path,label,licence,recordist"]
    for number in range(2):
        song_file(tmp_path / f"r/{number}.wav", 6.0, [3.0], 0.5, seed=4 * number)
        rows.append(f"{number}.wav,Wren,CC BY {number}.0,Person {number}")
    (tmp_path / "r/labels.csv").write_text("\n".join(rows) + "\n")
    run(tmp_path / "r", tmp_path / "s", background_mixtures=1)
    mixtures = [s for s in all_samples(tmp_path / "s") if "background_id" in s]
    assert len(mixtures) == 2
    for s in mixtures:
        own, other = int(s["recording_id"]), 1 - int(s["recording_id"])
        assert (s["licence"], s["background_licence"]) == (f"CC BY {own}.0", f"CC BY {other}.0")
        assert s["background_recordist"] == f"Person {other}"


def without_background(shards: Path) -> list[str]:
    problems = read_json(shards / "problems.json")["problems"]
    return [problem["reason"] for problem in problems if problem.get("code") == "no-background"]


def codes_of_problems(shards: Path) -> list[str]:
    return [problem.get("code", "") for problem in read_json(shards / "problems.json")["problems"]]


def test_where_no_recording_has_a_stretch_without_song_it_is_said(tmp_path: Path) -> None:
    """One recording a split; boxes all over; a bird that never pauses; digital silence between songs."""
    birds(tmp_path / "one", species=1, recordings=3)
    report = run(tmp_path / "one", tmp_path / "s1", background_mixtures=1)
    said = without_background(tmp_path / "s1")
    for split in ("train", "validation", "test"):
        assert sum(f"{split} split" in reason and "1 recording " in reason for reason in said) == 1
    assert report.facts["splits"]["train"]["samples"] == 2
    for name, row in (("boxed", "0\t6\tWren\n"), ("unknown", "2.9\t3.6\tWren\n0\t2.8\t?\n3.7\t6\t?\n")):
        for number in range(2):
            song_file(tmp_path / f"{name}/{number}.wav", 6.0, [3.0], 0.5, seed=4 * number)
            (tmp_path / f"{name}/{number}.txt").write_text(row)
        run(tmp_path / name, tmp_path / f"{name}-s", background_mixtures=1)
        assert not any("background_id" in s for s in all_samples(tmp_path / f"{name}-s"))
    for number in range(2):
        song_file(tmp_path / f"always/wren/{number}.wav", 6.0, [0.0], 6.0, seed=4 * number)
        silent = songs_alone(6.0, [3.0], 0.5, 0.3, 2000.0 + 300 * number)[None].astype(np.float32)
        (tmp_path / "silent/wren").mkdir(parents=True, exist_ok=True)
        write_wav(tmp_path / f"silent/wren/{number}.wav", silent, RATE_HZ)
        faint = silent + 5e-5 * np.random.default_rng(number).standard_normal(silent.shape)  # -86 dBFS
        (tmp_path / "faint/wren").mkdir(parents=True, exist_ok=True)
        write_wav(tmp_path / f"faint/wren/{number}.wav", faint.astype(np.float32), RATE_HZ, "float32")
    for name in ("always", "silent", "faint"):
        run(tmp_path / name, tmp_path / f"{name}-s", background_mixtures=1)
        assert not any("background_id" in s for s in all_samples(tmp_path / f"{name}-s"))
        assert any(" 2 recordings " in reason for reason in without_background(tmp_path / f"{name}-s"))
        assert "sounds-the-same" not in codes_of_problems(tmp_path / f"{name}-s")


def test_recordings_that_sound_the_same_are_no_background_for_each_other(tmp_path: Path) -> None:
    for number in range(2):
        path = song_file(tmp_path / f"r/wren/{number}.wav", 6.0, [3.0], 0.5)
        write_wav(path, 0.7**number * read(path, RATE_HZ), RATE_HZ)
    run(tmp_path / "r", tmp_path / "s", background_mixtures=1)
    assert "sounds-the-same" in codes_of_problems(tmp_path / "s")
    assert not any("background_id" in s for s in all_samples(tmp_path / "s"))


SETTINGS = {
    "cuts_per_song": 3, "cut_gain_db": 6.0, "background_mixtures": 1, "samples_per_shard": 24,
    "validation_fraction": 0.3, "test_fraction": 0.3,
}  # fmt: skip


def test_parts_and_processes_make_the_same_set(flock: Path, tmp_path: Path) -> None:
    run(flock, tmp_path / "whole", **SETTINGS)
    data = data_config(flock, tmp_path / "parts", **SETTINGS)
    first = prepare(data, LONG, 1, False, ArrayShare(0, 2))
    last = prepare(data, LONG, 1, False, ArrayShare(1, 2))
    assert not first.finished and last.finished and last.total > 3
    prepare(data_config(flock, tmp_path / "two", **SETTINGS), LONG, 2, False)
    assert same_set(tmp_path / "whole", tmp_path / "parts")
    assert same_set(tmp_path / "whole", tmp_path / "two")
    assert run(flock, tmp_path / "whole", **SETTINGS).nothing_to_do


KILLED = """
import json, sys
from birdsd.shards.prepare.prepare import prepare
from tests.support.shard_makers import data_config
from tests.shards.prepare.test_further_cuts import LONG
if __name__ == "__main__":
    prepare(data_config(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3])), LONG, 1, False)
"""


@pytest.mark.parametrize("after", [".survey.json", "*.index.json"])
def test_killed_and_run_again_gives_the_same_set(flock: Path, tmp_path: Path, after: str) -> None:
    folder, script = tmp_path / "s", tmp_path / "script.py"
    script.write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    child = subprocess.Popen(
        [sys.executable, str(script), str(flock), str(folder), json.dumps(SETTINGS)], env=environment
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob(after)) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (folder / "dataset.json").is_file(), "killed before its end"
    run(flock, folder, **SETTINGS)
    run(flock, tmp_path / "whole", **SETTINGS)
    assert shard_bytes(folder) == shard_bytes(tmp_path / "whole") and same_set(folder, tmp_path / "whole")
