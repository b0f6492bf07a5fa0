"""What the other Slurm tests rely on: that the testbed behaves like a cluster."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("testbed")]


def told(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def eventually(look: Callable[[], str], wanted: str, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while (seen := look()) != wanted:
        assert time.monotonic() < end, f"{seen!r} after {seconds} s, not {wanted!r}"
        time.sleep(0.2)


@pytest.fixture
def submit(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Submits a script and gives its id; whatever the test leaves of it is cancelled."""
    jobs: list[str] = []

    def submit_script(script: str) -> str:
        path = tmp_path / "job.sh"
        path.write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
        job = told("sbatch", "--parsable", "--time=5", f"--output={tmp_path}/log", str(path))
        jobs.append(job)
        return job

    yield submit_script
    for job in jobs:
        subprocess.run(["scancel", job], check=False, capture_output=True, timeout=60)


def test_four_nodes_with_two_gpus_each() -> None:
    nodes = told("sinfo", "-h", "-N", "-p", "normal", "-o", "%N %G %c").splitlines()
    assert sorted(nodes) == [f"n{number} gpu:2 4" for number in (1, 2, 3, 4)]


def test_a_job_sees_the_gpus_that_it_asked_for() -> None:
    show = ["bash", "-c", "echo $SLURMD_NODENAME:$CUDA_VISIBLE_DEVICES"]
    one = told("srun", "--time=1", "--nodes=1", "--gres=gpu:1", *show)
    assert one.split(":")[1] in {"0", "1"}
    both = told("srun", "--time=1", "--nodes=2", "--ntasks=4", "--gres=gpu:2", *show).splitlines()
    assert [line.split(":")[1] for line in both] == ["0,1"] * 4
    assert len({line.split(":")[0] for line in both}) == 2


def test_nodes_are_found_by_their_names() -> None:
    """Training ranks meet at the name of their first node."""
    meet = 'getent ahostsv4 "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'
    assert told("srun", "--time=1", "--nodes=1", "bash", "-c", meet).startswith("127.0.0.1 ")


@pytest.mark.parametrize(("code", "state"), [(0, "COMPLETED|0:0|"), (3, "FAILED|3:0|")])
def test_accounting_knows_how_a_job_ended(submit: Callable[[str], str], code: int, state: str) -> None:
    job = submit(f"exit {code}")
    eventually(lambda: told("sacct", "-n", "-p", "-X", "-j", job, "-o", "State,ExitCode"), state)


def test_a_requeued_job_comes_back_and_knows_it(submit: Callable[[str], str], tmp_path: Path) -> None:
    job = submit(f"echo ${{SLURM_RESTART_COUNT:-0}} >>{tmp_path}/starts; sleep 120")
    starts = tmp_path / "starts"
    eventually(lambda: starts.read_text() if starts.exists() else "", "0\n")
    told("scontrol", "requeue", job)
    eventually(starts.read_text, "0\n1\n")


def test_one_failed_task_ends_the_others() -> None:
    command = ["srun", "--time=10", "--nodes=2", "--ntasks=2", "--kill-on-bad-exit=1", "bash", "-c"]
    ended = subprocess.run(
        [*command, "if ((SLURM_PROCID == 0)); then exit 3; else sleep 1000; fi"],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    # srun tells of the task's own code in words only: it returns 128 + SIGTERM, how the others ended.
    assert "task 0:" in ended.stderr and "exit code 3" in ended.stderr
    # Neither its time limit nor its own end: it was ended long before it had slept.
    assert ended.returncode == 143
