"""The plain shell of a batch script, run by bash without Slurm: it counts, and stops without Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from birdsd.cluster.next_allocation import _array_task, decide
from birdsd.cluster.script_lines import jobs_file, setup_lines, teardown_lines
from birdsd.cluster.submit import new_submission
from birdsd.config import compose
from birdsd.runs.allocations import BEGAN, END, FOLDER, Allocation, Began, Ended, write_record
from birdsd.runs.starts import last_words, note, silent_starts, starts
from birdsd.runs.status.overview import status
from tests.support.histories import History
from tests.support.remarks import remarked

JOB = "77"
SRUN = "srun: error: n1: tasks 0-1: Exited with exit code 1\n"


class Batch:
    """Runs a submission's script as Slurm would, with a line in the place of srun."""

    def __init__(
        self, folder: Path, *settings: str, job: str = "train", python: str = sys.executable
    ) -> None:
        self.history = History(folder, job=job)
        self.run = self.history.run
        asked = asdict(compose("submit", ["site=testbed", *settings]))
        self.submission = new_submission(self.run, job, ["model=tiny"], asked, str(folder), python)
        self.submission.snapshot = str(Path(__file__).resolve().parents[2])
        self.submission.job_ids = [JOB]
        self.submission.write(self.run.folder)
        (self.run.folder / "submitit").mkdir()
        # scontrol and scancel only write down that they were called.
        self.tools, self.called = folder / "tools", folder / "called"
        self.tools.mkdir()
        for name in ("scontrol", "scancel", "sbatch", "squeue", "sacct"):
            (self.tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{self.called}\n')
            (self.tools / name).chmod(0o755)

    def start(
        self, restart: int = 0, command: str = "(exit 1)", **variables: str
    ) -> subprocess.CompletedProcess:
        lines = [*setup_lines(self.submission, self.run.folder), command, *teardown_lines()]
        # Slurm ends a script that was requeued; here nobody does.
        lines = [line.replace("exec ", "exec timeout 20 ") for line in lines]
        environment = {
            "PATH": f"{self.tools}:{os.environ['PATH']}",
            "SLURM_JOB_ID": JOB,
            "SLURM_RESTART_COUNT": str(restart),
            **variables,
        }
        return subprocess.run(
            ["bash", "-c", "\n".join(lines)], capture_output=True, text=True, env=environment
        )

    def stopped(self) -> list[tuple[str, str]]:
        """(kind, reason) of each end of the chain."""
        ends = [event for event in self.run.events() if event["event"] == "chain stopped"]
        return [(event.get("code", ""), event["reason"]) for event in ends]

    def reasons(self) -> list[str]:
        return [reason for _, reason in self.stopped()]

    def calls(self) -> str:
        return self.called.read_text() if self.called.is_file() else ""


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A Python that cannot be run."""
    path = tmp_path / "python"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    return str(path)


def test_without_a_python_the_script_ends_with_srun_s_status_and_says_so(tmp_path: Path, broken: str) -> None:
    batch = Batch(tmp_path, python=broken)
    done = batch.start(command="(exit 7)")
    assert done.returncode == 7
    assert "scontrol requeue" not in batch.calls()
    ((code, reason),) = batch.stopped()
    assert code == "cannot-start" and reason in done.stdout
    told = status(batch.run)
    assert told.state == "chain stopped" and told.way_out == f"birdsd logs {batch.run.folder.name}"


def test_a_chain_without_a_python_is_given_up_at_the_third_job(tmp_path: Path, broken: str) -> None:
    batch = Batch(tmp_path, "site.hand_over=chain", python=broken)
    for job in ("77", "78", "79", "80", "81"):
        note_job = jobs_file(batch.run.folder, batch.submission.id)
        with open(note_job, "a") as stream:
            stream.write(f"{job}\n")
    for job in ("77", "78"):
        said = batch.start(SLURM_JOB_ID=job).stdout.splitlines()
        assert sum(line.startswith("birdsd: ") for line in said) == 1 and not batch.reasons()
    batch.start(SLURM_JOB_ID="79")
    assert [code for code, _ in batch.stopped()] == ["cannot-start"]
    assert [line for line in batch.calls().splitlines() if "scancel" in line] == ["scancel 80", "scancel 81"]


def test_slurm_s_own_requeues_are_counted_where_no_script_comes_to_its_end(tmp_path: Path) -> None:
    batch = Batch(tmp_path)
    for restart in range(3):  # the node dies: no trap, no teardown
        batch.start(restart, command="trap - EXIT; exit 0")
    done = batch.start(3, command="echo srun runs")
    assert done.returncode == 1 and "srun runs" not in done.stdout
    ((code, reason),) = batch.stopped()
    assert code == "did-not-start" and re.findall(r"\d+", reason) == ["3"]
    assert len(silent_starts(batch.run.folder, batch.submission)) == 3


def test_preemptions_that_bring_something_go_on_and_others_end_at_the_limit(tmp_path: Path) -> None:
    batch = Batch(tmp_path, "site.max_idle_allocations=4")

    def start(restart: int) -> bool:
        folder = batch.run.folder / FOLDER / f"{JOB}.{restart}"
        began = f"mkdir -p {folder} && echo '{{}}' >{folder}/{BEGAN}; trap - EXIT; echo srun; exit 0"
        return "srun" in batch.start(restart, command=began).stdout

    assert all(start(n) for n in range(3))
    batch.history.saved(100)
    assert all(start(n) for n in range(3, 7)), "a new checkpoint: the count begins anew"
    assert not start(7)
    assert "000000000100" in batch.reasons()[0]


def test_where_nothing_can_be_written_slurm_s_count_ends_it(tmp_path: Path) -> None:
    batch = Batch(tmp_path)
    # A folder in the place of the record: as full a disk as root can be shown.
    (batch.run.folder / "submitit" / f"{batch.submission.id}.starts").mkdir()
    assert "srun runs" in batch.start(1, command="echo srun runs; trap - EXIT").stdout
    assert "srun runs" not in batch.start(5, command="echo srun runs; trap - EXIT").stdout


def test_a_setup_that_ends_early_is_followed_by_the_same_decision(tmp_path: Path) -> None:
    batch = Batch(
        tmp_path, "site.hand_over=manual", "site.setup=[set -eu, 'echo no module >&2', false, echo never]"
    )
    done = batch.start(command="echo srun runs")
    assert done.returncode == 1 and "srun runs" not in done.stdout and "never" not in done.stdout
    assert "continue with: birdsd resume" in done.stdout, done
    assert [(s.name, s.ended, s.recorded) for s in starts(batch.run.folder, batch.submission.id)] == [
        (f"{JOB}.0", True, False)
    ]


def test_each_task_of_an_array_counts_for_itself(tmp_path: Path) -> None:
    batch = Batch(tmp_path, "array=2", job="prepare")
    task = {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "1"}
    for restart in range(3):
        batch.start(restart, command="trap - EXIT; exit 0", **task)
    assert "srun runs" not in batch.start(3, command="echo srun runs", **task).stdout
    other = {**task, "SLURM_ARRAY_TASK_ID": "0"}
    assert "srun runs" in batch.start(0, command="echo srun runs; trap - EXIT", **other).stdout
    assert [s.name for s in starts(batch.run.folder, batch.submission.id, "1")] == [
        "70_1.0",
        "70_1.1",
        "70_1.2",
        "70_1.3",
    ]


@pytest.mark.parametrize(("name", "task"), [("70_1.3", "1"), ("70.0", ""), ("local-20260101-1.0_2-000", "")])
def test_the_task_of_an_allocation(tmp_path: Path, name: str, task: str) -> None:
    assert _array_task(Allocation(tmp_path / name)) == task


# -- the same in Python -----------------------------------------------------------------------------------


def test_silent_starts_end_a_submission_of_local_processes(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.submitted(0, ["5"], executor="local")
    from birdsd.runs.allocations import Submission

    submission = Submission.read(history.folder)
    assert submission is not None
    log = history.folder / "submitit" / "901_0_log.err"
    for number in range(3):
        name = f"local-s1-{number:03d}"
        note(history.folder, "s1", "begin", name, 0, "901")
        log.write_text(f"Traceback:\nModuleNotFoundError: No module named 'numpy'\n{SRUN}")
        note(history.folder, "s1", "end", name, 1)
        decision = decide(history.run, submission, Allocation(history.folder / FOLDER / name), 1)
        assert decision.what == ("again" if number < 2 else "stop"), decision
    facts = remarked([decision.reason], "did-not-start").facts
    assert facts == {"allocations": 3, "launcher": "ModuleNotFoundError: No module named 'numpy'"}
    assert facts["launcher"] in decision.reason and "3 allocations" in decision.reason


def test_one_that_spoke_in_between_is_no_silent_row(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.submitted(0, ["5"])
    for number in range(4):
        note(history.folder, "s1", "begin", f"5.{number}", 0)
        note(history.folder, "s1", "end", f"5.{number}", 1)
    write_record(history.folder / FOLDER / "5.1", BEGAN, Began(0.0))
    write_record(history.folder / FOLDER / "5.3", END, Ended(0.0, "error", 2))
    from birdsd.runs.allocations import Submission

    submission = Submission.read(history.folder)
    assert silent_starts(history.folder, submission) == []
    note(history.folder, "s1", "begin", "5.4", 0)
    assert silent_starts(history.folder, submission) == [], "it may just be starting"
    note(history.folder, "s1", "end", "5.4", 1)
    assert [start.name for start in silent_starts(history.folder, submission)] == ["5.4"]


@pytest.mark.parametrize(
    ("said", "telling"),
    [
        (f"Traceback:\n  File\nImportError: no x\n{SRUN}", "ImportError: no x"),
        (f"bash: line 3: module: command not found\n{SRUN}", "bash: line 3: module: command not found"),
        (f"slurmstepd: error: execve(): /x/python: No such file or directory\n{SRUN}",
         "slurmstepd: error: execve(): /x/python: No such file or directory"),
        ("birdsd: again: the processes ended with status 1\nOSError: [Errno 28] No space left on device\n",
         "OSError: [Errno 28] No space left on device"),
        ("something quite else\n", "something quite else"),
        ("", ""),
    ],
)  # fmt: skip
def test_the_line_that_tells_most(tmp_path: Path, said: str, telling: str) -> None:
    (tmp_path / "submitit").mkdir()
    (tmp_path / "submitit" / "9_0_log.err").write_text(said)
    assert last_words(tmp_path, ["9"]) == telling


def test_the_jobs_of_an_unfinished_array_are_not_sent_again_by_each_task(tmp_path: Path, monkeypatch) -> None:
    """With resubmit each task that is not done would have sent the whole array: N, then N times N of them."""
    from birdsd.cluster import next_allocation

    batch = Batch(tmp_path, "array=3", "site.hand_over=resubmit", job="prepare")
    monkeypatch.setenv("SLURM_JOB_ID", JOB)
    next_allocation.carry_out(
        batch.run, batch.submission, next_allocation.Decision("again", "the processes ended")
    )
    assert batch.reasons() and "sbatch" not in batch.calls()


@pytest.mark.parametrize(
    ("state", "what", "reason"),
    [
        ("COMPLETING Reason=None EndTime=1000000000", "stop", "the job was cancelled"),
        ("COMPLETING Reason=None EndTime=33000000000", "done", "Slurm requeues the job by itself"),
        ("COMPLETING Reason=TimeLimit EndTime=1000000000", "again", "the processes ended with status 1"),
        ("RUNNING Reason=None EndTime=33000000000", "again", "the processes ended with status 1"),
    ],
)
def test_a_job_that_slurm_is_ending_is_brought_back_only_at_its_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, what: str, reason: str
) -> None:
    """What scontrol says while the script of a cancelled, requeued, or timed-out job still runs."""
    batch = Batch(tmp_path, "array=2", job="prepare")
    told = f"JobId=77 ArrayJobId=70 ArrayTaskId=1 JobState={state} Requeue=1"
    (batch.tools / "scontrol").write_text(f'#!/bin/sh\n[ "$4" = 70_1 ] && echo "{told}"\n')
    monkeypatch.setenv("PATH", f"{batch.tools}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    found = decide(batch.run, batch.submission, Allocation(batch.run.folder / FOLDER / "70_1.0"), 1)
    assert (found.what, found.reason) == (what, reason)
