"""`birdsd submit sim2real array=4` on a real Slurm, with generators and classifiers that are really trained:
a task is killed, the array is cancelled, and the same command completes it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from birdsd.runs.allocations import Allocation, allocations
from birdsd.sound.audio.recordings import write_wav
from tests.support.judge_sounds import PITCHES_HZ, tone

NAMES = ("Black Phoebe", "House Sparrow")
WORDS = (
    "levels=[all]", "arms=[real,synthetic]", "filters=[everything]", "classifier=cnn", "seeds=3", "steps=8",
    "autoencoder_samples=16", "diffusion_samples=16", "clips_per_species=1", "sampling_steps=1",
    "cuts_per_song=1", "draws=100", "machine=smoke", "machine.threads=1",
)  # fmt: skip
CELLS = 6  # two arms, three seeds


def birdsd(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "birdsd.cli", *words], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slurm
@pytest.mark.slow
def test_an_array_that_was_killed_and_cancelled_is_completed_and_nothing_is_trained_twice(
    testbed: None, tmp_path: Path
) -> None:
    random = np.random.default_rng(3)
    for kind, species in enumerate(NAMES):
        for number in range(6):
            sound = tone(PITCHES_HZ[2 * kind], 2.0, 32000) + 0.02 * random.normal(size=64000)
            (tmp_path / "birds" / species).mkdir(parents=True, exist_ok=True)
            write_wav(tmp_path / "birds" / species / f"XC{kind}{number}.wav", sound[None].astype("f4"), 32000)
    out = tmp_path / "out"
    words = ["sim2real", f"data={tmp_path / 'birds'}", f"out={out}", *WORDS]
    site = ["site=testbed", "site.gpus_per_node=0", "array=4"]
    until = time.monotonic() + 500

    def second() -> list[Allocation]:
        return [one for one in allocations(run) if one.began and one.began.part == "1/4"]

    def gone(task: str) -> bool:
        asked = ["squeue", "-h", "-j", task]
        return not subprocess.run(asked, capture_output=True, text=True).stdout.strip()

    def records() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in out.glob("*/cells/*.json")}

    submission = json.loads(birdsd(tmp_path, "submit", *words, *site, "--json"))
    run, job = tmp_path / submission["run"], submission["job_ids"][-1]
    while time.monotonic() < until and (not second() or len(records()) < 2):
        time.sleep(0.2)
    subprocess.run(
        ["scancel", "--signal=KILL", f"{job}_1.0"], check=True
    )  # its process alone, not its script
    while time.monotonic() < until and len(second()) < 2 and not gone(f"{job}_1"):
        time.sleep(0.2)
    again = len(second()) == 2
    subprocess.run(["scancel", job], check=True)
    while time.monotonic() < until and not gone(job):
        time.sleep(0.5)
    assert again, "killed, it came back by itself"
    assert second()[0].ended is None, "it could leave no word"
    first = records()
    assert 2 <= len(first) < CELLS, "cancelled before it was done"

    birdsd(tmp_path, "submit", *words, *site, "--wait")
    assert {path: path.stat().st_mtime_ns for path in first} == first, "nothing is trained twice"
    told = json.loads((out / "sim2real.json").read_text())
    assert len(records()) == CELLS and not told["missing"] and not told["failed"]
    stages = [json.loads(path.read_text()) for path in out.glob("*/stages/*.json")]
    assert sorted(one["stage"].split()[0] for one in stages) == ["autoencoder", "clips", "model", "shards"]
    assert all(one["facts"] for one in stages)
    assert len(list(out.glob("*/level-*/runs/*/finished.json"))) == 2, "one autoencoder, one model"
