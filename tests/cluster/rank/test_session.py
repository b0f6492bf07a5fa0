"""A session's records, its lock, its watchdog; and what follows from how an allocation ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from birdsd.cluster import next_allocation
from birdsd.cluster.next_allocation import decide
from birdsd.cluster.rank.session import Session
from birdsd.config import as_dict, compose
from birdsd.errors import InUse, UserError
from birdsd.files import write_json
from birdsd.runs.allocations import (
    Allocation,
    Began,
    Ended,
    Submission,
    allocations,
    is_superseded,
    newest_position,
    request_stop,
    write_record,
)
from birdsd.runs.run import Run
from tests.support.errors import refuses

LOCAL = as_dict(compose("submit", ["site=local", "site.max_idle_allocations=3"]))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "runs" / "tiny-full-abc"
    folder.mkdir(parents=True)
    write_json(folder / "signature.json", {"signature": "abc", "job": "train"})
    return Run(folder, "abc")


def submission(**changes) -> Submission:
    return Submission("s1", "train", [], {**LOCAL, **changes}, time.time(), "/", sys.executable)


def allocation(run: Run, name: str, position: int, ended: Ended | None, at: float = 0.0) -> Allocation:
    folder = run.folder / "allocations" / name
    write_record(folder, "allocation.json", Began(at, position=position, submission="s1"))
    if ended is not None:
        write_record(folder, "end.json", ended)
    return Allocation(folder)


def commit(run: Run, position: int) -> None:
    write_json(run.folder / "checkpoints" / f"{position:012d}" / "COMMIT.json", {})


def test_a_session_leaves_its_record(run: Run, monkeypatch) -> None:
    monkeypatch.setenv("BIRDSD_ALLOCATION", "a1")
    commit(run, 40)
    with Session(run) as session:
        session.outcome(finished=False, status=75, position=60)
    (held,) = allocations(run.folder)
    assert held.began is not None and held.began.position == 40 == newest_position(run.folder)
    assert held.heartbeat is not None and held.heartbeat.phase == "start"
    assert held.ended is not None
    assert (held.ended.reason, held.ended.status, held.ended.position) == ("stopped", 75, 60)


@pytest.mark.parametrize(
    ("error", "status"),
    [(UserError("the disk is full"), 2), (RuntimeError("no"), 1), (KeyboardInterrupt(), 130)],
)
def test_an_error_is_written_down(run: Run, error: BaseException, status: int) -> None:
    with pytest.raises(type(error)), Session(run):
        raise error
    (held,) = allocations(run.folder)
    assert held.ended is not None and held.ended.status == status
    assert not held.seems_alive


def test_a_second_session_is_refused_and_leaves_the_first_alone(run: Run, monkeypatch) -> None:
    script = (
        "import sys; from pathlib import Path; from birdsd.cluster.rank.session import Session\n"
        "from birdsd.runs.run import Run\n"
        "with Session(Run(Path(sys.argv[1]), 'abc')): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, run.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "BIRDSD_ALLOCATION": "first"},
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    monkeypatch.setenv("BIRDSD_ALLOCATION", "second")
    with refuses(f"process {holder.pid} ", kind=InUse), Session(run):
        raise AssertionError("two hold it")
    holder.communicate("")
    told = {a.name: a.ended for a in allocations(run.folder)}
    assert told["second"] is not None and told["second"].reason == "refused"
    # It ended by itself, as far as it knows; and it never began as far as progress is concerned.
    assert told["first"] is None and Allocation(run.folder / "allocations" / "second").began is None


def test_the_watchdog_ends_a_step_that_hangs_even_inside_c_code(run: Run) -> None:
    script = (
        "import sys, time, ctypes; from pathlib import Path\n"
        "from birdsd.cluster.rank.session import Session; from birdsd.runs.run import Run\n"
        "from birdsd.training.progress import Pulse\n"
        "with Session(Run(Path(sys.argv[1]), 'abc'), watchdog_s=1) as session:\n"
        "    session.beat(Pulse('export')); time.sleep(1.5)\n"  # not a step: it may take its time
        "    session.beat(Pulse('train')); print('stuck', flush=True)\n"
        "    ctypes.PyDLL(None).sleep(60)\n"  # holds Python's lock, as a hung driver may
    )
    done = subprocess.run(
        [sys.executable, "-c", script, run.folder], capture_output=True, text=True, timeout=40,
        env={**os.environ, "BIRDSD_ALLOCATION": "a1"},
    )  # fmt: skip
    assert done.returncode == 1 and "stuck" in done.stdout
    assert "Thread" in Allocation(run.folder / "allocations/a1").stacks(0).read_text()
    decision = decide(run, submission(), Allocation(run.folder / "allocations/a1"), 1)
    assert decision.what == "again" and "hung" in decision.reason


def test_a_newer_allocation_of_the_same_job_supersedes(run: Run, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    write_json(run.folder / "claim.json", {"job_id": "7", "restart": 2, "time": 0})
    for restart, expected in (("1", True), ("2", False), ("3", False)):
        monkeypatch.setenv("SLURM_RESTART_COUNT", restart)
        assert is_superseded(run.folder) is expected
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert not is_superseded(run.folder), "another job's claim is no business of ours"


def test_what_follows_from_an_ending(run: Run) -> None:
    stopped = allocation(run, "a", 0, Ended(1, "stopped", 75, 60, "SIGUSR2"))
    assert decide(run, submission(), stopped, 0).what == "again"
    assert decide(run, submission(), allocation(run, "b", 0, None), 137).what == "again", "killed"
    crashed = allocation(run, "b", 0, Ended(1, "error", 1, message="RuntimeError: peer died"))
    assert decide(run, submission(), crashed, 1).what == "again"
    wrong = decide(run, submission(), allocation(run, "c", 0, Ended(1, "error", 2, message="no such key")), 2)
    assert (wrong.what, wrong.reason) == ("stop", "no such key")
    request_stop(run.folder, "me")
    assert decide(run, submission(), stopped, 0).what == "stop"
    write_json(run.folder / "finished.json", {})
    assert decide(run, submission(), stopped, 0).what == "done"


def test_a_run_by_hand_is_wanted_again_and_a_submitted_one_stays_stopped(run: Run, monkeypatch) -> None:
    for submission_id, stays in (("s1", True), ("", False)):
        monkeypatch.setenv("BIRDSD_SUBMISSION", submission_id)
        request_stop(run.folder, "me")
        with Session(run) as session:
            session.outcome(finished=False, status=75)
        assert (run.folder / "stop.json").exists() is stays


def test_no_progress_ends_the_chain_and_says_why(run: Run) -> None:
    commit(run, 40)
    for number in range(2):
        last = allocation(run, f"a{number}", 40, Ended(1, "error", 1, message="CUDA is out"), at=number)
        assert decide(run, submission(), last, 1).what == "again"
    last = allocation(run, "a2", 40, None, at=2)
    decision = decide(run, submission(), last, 1)
    assert decision.what == "stop"
    assert "3 allocations" in decision.reason and "beyond 40" in decision.reason
    assert "CUDA is out" in decision.reason
    commit(run, 60)
    assert decide(run, submission(), last, 1).what == "again", "there is a newer checkpoint"


def test_a_requeue_that_slurm_refuses_says_how_to_go_on(run: Run, monkeypatch, capsys) -> None:
    def refuse(job: str) -> None:
        raise UserError("Requested operation is presently disabled")

    monkeypatch.setattr(next_allocation.slurm, "requeue", refuse)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    ours = submission()
    ours.submit = {**LOCAL, "site": {**LOCAL["site"], "executor": "slurm"}}
    next_allocation.carry_out(run, ours, next_allocation.Decision("again", "saved"))
    assert "birdsd resume" in capsys.readouterr().out
    assert "presently disabled" in json.dumps(run.events())
