"""`birdsd submit scene array=N` on a real Slurm: a task is killed, and the same command completes the set."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from birdsd.runs.allocations import Allocation, allocations
from tests.support.songs_of_scenes import make_bank, make_pool

COUNT = 480  # a task composes its 120 for some seconds, so that it can be killed in the middle
DISTRIBUTION = """
duration_s: {uniform: [10, 20]}
events: {choose: [3, 4, 5]}
event_s: 1.0
species: {Synthetic High: 1, Synthetic Low: 1, Synthetic Trill: 2}
snr_db: {uniform: [6, 20]}
environments: {rain: 1, stream: 1}
max_overlap: 2
"""


def birdsd(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "birdsd.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slurm
@pytest.mark.slow
def test_a_killed_task_of_an_array_loses_nothing_and_nothing_is_made_twice(testbed, tmp_path: Path) -> None:
    make_bank(tmp_path / "bank")
    make_pool(tmp_path / "pool")
    (tmp_path / "drawn.yaml").write_text(DISTRIBUTION)
    words = ["scene", f"bank={tmp_path / 'bank'}", f"pool={tmp_path / 'pool'}",
             f"distribution={tmp_path / 'drawn.yaml'}", f"count={COUNT}"]  # fmt: skip
    site = ["site=testbed", "site.gpus_per_node=0", "array=4"]
    out = tmp_path / "parts"

    submitted = json.loads(birdsd(tmp_path, "submit", *words, f"out={out}", *site, "--json"))
    run, job = tmp_path / submitted["run"], submitted["job_ids"][-1]
    until = time.monotonic() + 300

    def second() -> list[Allocation]:
        return [one for one in allocations(run) if one.began and one.began.part == "1/4"]

    while time.monotonic() < until and (not second() or len(list(out.glob("*/labels.json"))) < 2):
        time.sleep(0.1)
    subprocess.run(["scancel", "--signal=KILL", "--full", f"{job}_1"], check=True)
    while (
        time.monotonic() < until
        and subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True).stdout.strip()
    ):
        time.sleep(1)
    first = {path: path.stat().st_mtime_ns for path in out.glob("*/labels.json")}
    assert 2 <= len(first) < COUNT, "a task was killed before it was done"
    assert second()[0].ended is None, "it could leave no word"

    birdsd(tmp_path, "submit", *words, f"out={out}", *site, "--wait")
    assert {path: path.stat().st_mtime_ns for path in first} == first, "nothing is made twice"
    birdsd(tmp_path, "run", *words, f"out={tmp_path / 'whole'}")
    whole = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").glob("*/*.flac"))
    assert len(whole) == COUNT
    assert sorted(path.relative_to(out) for path in out.glob("*/*.flac")) == whole
    for path in whole:
        assert (out / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()
    assert not list(out.glob(".writing-*"))
    birdsd(tmp_path, "run", *words, f"out={out}")  # the manifest of a set that is whole
    rows = (out / "manifest.csv").read_text().splitlines()
    assert len(rows) == COUNT + 1 and len(set(rows)) == len(rows)
