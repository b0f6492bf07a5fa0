"""Beside busy programs: the real command notices them, says so in a line, and learns the same to the bit."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from birdsd.training.devices.cores import Bystander, usable_cores
from birdsd.training.records import read_metrics
from tests.support.quiet import foreign, training, words
from tests.support.tiny import make_shards
from tests.support.untrained import make_model

SAID = re.compile(r"birdsd: other programs keep [\d.]+ of \d+ cores busy: .* with the same results$")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        usable_cores() < 2 or Bystander.for_torch() is None, reason="needs GNU's OpenMP and two cores"
    ),
]


@contextmanager
def busy_programs() -> Iterator[None]:
    """One for each core."""
    programs = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(usable_cores())
    ]  # fmt: skip
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("busy")
    make_shards(folder / "shards")
    make_model(folder / "model")
    return folder


def losses(place: Path, runs: str) -> list[float]:
    [run] = (place / runs).glob("tiny-full-*")
    return [line["loss"] for line in read_metrics(run) if line["kind"] == "train"]


def test_a_run_beside_busy_programs_says_so_once_and_learns_the_same_to_the_bit(place: Path):
    threads = f"machine.threads={usable_cores()}"
    with busy_programs():
        status, lines = words(place, "run", *training("method=full", threads, "runs=minds"))
        assert status == 0, lines
        assert sum(bool(SAID.match(line)) for line in lines) == 1, lines
        assert foreign(lines) == []
        command = ["run", "generate", "run=model", "prompt=an American Robin", "steps=40", threads]
        status, lines = words(place, *command, "machine=smoke", "count=24")
        assert status == 0 and sum(bool(SAID.match(line)) for line in lines) == 1, lines
        # Who decides how threads wait is left alone, and has the same number of them.
        status, lines = words(
            place, "run", *training("method=full", threads, "runs=alone"), OMP_WAIT_POLICY="passive"
        )
        assert status == 0 and not any("other programs" in line for line in lines), lines
    assert losses(place, "minds") == losses(place, "alone") != []
