"""What `birdsd status` says of runs in every state, from records that real allocations would leave."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from birdsd.cli.tables.status import WIDTH, detail_text, text
from birdsd.format import moment, short, span
from birdsd.runs.allocations import STOP, request_stop
from birdsd.runs.status.detail import detail
from birdsd.runs.status.overview import in_order, overview, status_of
from birdsd.runs.status.run_status import RunStatus, read_records
from birdsd.runs.status.state import ENDS, REASONS, reason
from birdsd.site.slurm import JobState
from tests.support.histories import HOUR, T0, History, job_state
from tests.support.imports import imported_by

WORK = {"start": 0.1, "imports": 0.05, "train": 1.0}


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path)


def judged(history: History, at: float, *states: JobState) -> RunStatus:
    """The status at an hour, with what Slurm would say."""
    files = read_records(history.folder)
    assert files is not None
    return status_of(files, {state.id: state for state in states}, T0 + at * HOUR)


# -- states --------------------------------------------------------------------------------------------


def test_a_job_in_the_queue_says_why_it_waits_and_until_when(history: History) -> None:
    history.submitted(0, ["12"])
    told = judged(history, 1, job_state("12", "PENDING", reason="Priority", start=3, submit=0))
    assert (told.state, told.job_id, told.queue_reason) == ("queued", "12", "Priority")
    assert "(Priority)" in told.note and moment(T0 + 3 * HOUR, T0 + HOUR) in told.note
    assert told.expected_start == T0 + 3 * HOUR
    assert told.hours is not None and told.hours.waiting_s == pytest.approx(HOUR)
    assert (told.position, told.total, told.share) == (0, 12000, 0.0)


def test_a_run_at_work_tells_its_rate_and_how_long_it_will_take(history: History) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took=WORK, to=3000, end=None)
    told = judged(history, 2.05, job_state("12", "RUNNING", start=1))
    assert (told.state, told.phase, told.position) == ("running", "train", 3000)
    assert told.samples_per_s == 100
    assert told.eta_s == pytest.approx(9000 / 100)
    assert (told.world_size, told.nodes, told.allocations) == (4, 2, 1)


def test_its_own_heartbeat_counts_where_slurm_cannot_be_asked(history: History) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took=WORK, to=3000, end=None)
    history.saved(2500)
    assert judged(history, 2.05).state == "running"
    later = judged(history, 5)
    assert (later.state, later.position) == ("killed", 2500)
    assert later.way_out == f"birdsd resume {history.folder.name}"
    assert "500 samples" in later.note and "sample 2,500" in later.note


def test_a_rank_that_says_nothing_while_slurm_calls_it_running(history: History) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took=WORK, to=3000, end=None)
    told = judged(history, 5, job_state("12", "RUNNING", start=1))
    assert told.state == "running" and "2 h" in told.note and "watchdog_s" in told.note
    assert told.samples_per_s == 0 and told.eta_s is None


@pytest.mark.parametrize("phase", ["start", "restore", "build"])
def test_before_its_first_step_it_is_starting(history: History, phase: str) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took={}, end=None, last=1.01, phase=phase)
    assert judged(history, 1.01, job_state("12", "RUNNING", start=1)).state == "starting"


def test_a_job_that_tells_no_phases_is_at_work_once_its_heart_beats(tmp_path: Path) -> None:
    history = History(tmp_path, "scene-0123456789ab", job="scene")
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took={}, end=None, last=1.01, phase="start", part="0/4")
    assert judged(history, 1.01, job_state("12", "RUNNING", start=1)).state == "running"


def test_around_an_allocation_slurm_calls_the_job_running(history: History) -> None:
    history.submitted(0, ["12"])
    starting = judged(history, 1, job_state("12", "RUNNING", nodes="n1"))
    assert starting.state == "starting" and "job 12" in starting.note and "n1" in starting.note
    history.ran("12.0", 1, took=WORK, to=3000)
    leaving = judged(history, 2.1, job_state("12", "RUNNING"))
    assert leaving.state == "stopping" and leaving.note.startswith("job 12 ")
    again = judged(history, 2.1, job_state("12", "RUNNING", restarts=1))
    assert again.state == "starting"


def test_handed_over_it_waits(history: History) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took=WORK, to=3000, message="SIGUSR2")
    history.saved(3000)
    told = judged(history, 3, job_state("12", "PENDING", reason="BeginTime", restarts=1, submit=2.1))
    assert (told.state, told.position) == ("waiting", 3000)
    assert "(BeginTime)" in told.note
    # Between the end and the requeue Slurm may say nothing; that is no end of the run.
    assert judged(history, 2.06).state == "waiting"
    ended = judged(history, 5)
    assert (ended.state, ended.way_out) == ("stopped", f"birdsd resume {history.folder.name}")


def test_killed_and_requeued(history: History) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took=WORK, to=3000, end=None)
    history.saved(2000)
    told = judged(history, 5, job_state("12", "PENDING", reason="Resources", restarts=1, submit=3))
    assert told.state == "waiting" and told.note.startswith("killed") and "(Resources)" in told.note


@pytest.mark.parametrize("word", ["TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"])
def test_slurm_says_what_killed_it(history: History, word: str) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took=WORK, to=3000, end=None)
    told = judged(history, 5, job_state("12", word, start=1, end=2.2, source="sacct"))
    assert told.state == "killed" and ENDS[word] in told.note


def test_an_error_is_told_as_it_is(history: History) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took=WORK, to=3000, end="error", message="the disk is full. Free some.")
    history.event(2.1, event="chain stopped", reason="the disk is full. Free some.")
    told = judged(history, 5, job_state("12", "FAILED", source="sacct"))
    assert (told.state, told.note) == ("failed", "the disk is full. Free some.")
    assert told.way_out


def test_a_chain_that_birdsd_gave_up_says_why(history: History) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took=WORK, to=0, end="error", message="RuntimeError: rank 1")
    history.event(2.1, event="chain stopped", reason="5 allocations in a row brought no new checkpoint")
    told = judged(history, 5)
    assert (told.state, told.note) == ("chain stopped", "5 allocations in a row brought no new checkpoint")
    # Slurm brought the job back all the same: what was said before does not hold any more.
    history.event(2.2, event="began", allocation="12.1")
    assert judged(history, 5).state == "failed"
    # Nor does what was said of an earlier submission.
    history.submitted(6, ["13"], id="s2")
    assert judged(history, 6.001).state == "queued"
    assert judged(history, 9).state == "interrupted"


def test_a_hand_over_by_hand_is_no_failure(history: History) -> None:
    history.submitted(0, ["12"])
    path = history.folder / "submission.json"
    path.write_text(path.read_text().replace('"requeue"', '"manual"'))
    history.ran("12.0", 1, took=WORK, to=3000)
    history.saved(3000)
    history.event(2.1, event="chain stopped", reason="saved at 3000 and left (SIGUSR2)")
    told = judged(history, 5)
    assert (
        told.state == "stopped" and "sample 3,000" in told.note and told.way_out.startswith("birdsd resume")
    )


def test_cancelled_by_whom(history: History) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took=WORK, to=3000, end=None)
    request_stop(history.folder, "eve on login1")
    stopping = judged(history, 2.05, job_state("12", "RUNNING", start=1))
    assert stopping.state == "stopping" and "eve on login1" in stopping.note
    assert judged(history, 5).state == "cancelled" and "eve on login1" in judged(history, 5).note
    (history.folder / STOP).unlink()
    by_slurm = judged(history, 5, job_state("12", "CANCELLED", start=1, end=2.1, source="sacct"))
    assert (by_slurm.state, by_slurm.note) == ("cancelled", "job 12 was cancelled")


def test_a_job_that_ended_before_birdsd_began(history: History) -> None:
    history.submitted(0, ["12"])
    told = judged(history, 1, job_state("12", "FAILED", exit_code="1:0", source="sacct"))
    assert told.state == "failed" and "job 12" in told.note and "1:0" in told.note
    assert told.way_out == f"birdsd logs {history.folder.name}"
    assert judged(history, 0.001).state == "queued"
    assert judged(history, 9).state == "never begun"


def test_runs_by_hand(tmp_path: Path) -> None:
    never = History(tmp_path, "a-full-000000000001")
    assert judged(never, 1).state == "never begun"
    before = History(tmp_path, "b-full-000000000002")  # of a version that left no records
    before.saved(500)
    assert (judged(before, 1).state, judged(before, 1).position) == ("interrupted", 500)
    asked = History(tmp_path, "c-full-000000000003")
    asked.ran("local-n1-1", 1, took=WORK, to=3000, submission="", job_id="", message="SIGINT")
    asked.saved(3000)
    told = judged(asked, 2.05)
    assert told.state == "stopped" and "`birdsd run train`" in told.way_out
    dead = History(tmp_path, "d-full-000000000004")
    dead.ran("local-n1-1", 1, took=WORK, to=3000, submission="", job_id="", end=None)
    assert judged(dead, 5).state == "killed"
    done = History(tmp_path, "e-full-000000000005")
    done.finished(12000)
    told = judged(done, 5)
    assert (told.state, told.share, told.note) == ("finished", 1.0, "")


def test_another_process_that_was_refused_changes_nothing(history: History) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took=WORK, to=3000, end=None)
    refused = history.folder / "allocations" / "local-n1-2"
    refused.mkdir()
    record = {"time": T0 + 2 * HOUR, "reason": "refused", "status": 2, "message": "process 7 is at work"}
    (refused / "end.json").write_text(json.dumps(record))
    assert judged(history, 2.05, job_state("12", "RUNNING", start=1)).state == "running"


def test_an_array_is_as_lively_as_its_liveliest_part(tmp_path: Path) -> None:
    history = History(tmp_path, "prepare-0123456789ab", job="prepare")
    history.submitted(0, ["20"], array=4)
    waiting = [job_state(f"20_{k}", "PENDING", reason="Resources", submit=0) for k in range(4)]
    told = judged(history, 1, job_state("20", "PENDING", reason="Resources"), *waiting)
    assert (told.state, told.parts) == ("queued", {"queued": 4})
    history.ran("20_0.0", 1, took={}, last=2, end="finished", part="0/4", gpus=0)
    history.ran("20_1.0", 1, took={}, last=2, end="error", message="no space", part="1/4", gpus=0)
    history.ran("20_2.0", 1, took={}, last=2, end=None, part="2/4", gpus=0)
    states = [job_state("20", "RUNNING"), job_state("20_2", "RUNNING", start=1), waiting[3]]
    told = judged(history, 2.01, *states)
    assert told.state == "running" and told.share == 0.25
    assert told.parts == {"finished": 1, "failed": 1, "running": 1, "queued": 1}
    assert told.note == "part 1/4 failed: no space"
    for k in (2, 3):
        history.ran(f"20_{k}.0", 1, took={}, last=2, end="finished", part=f"{k}/4", gpus=0)
    assert judged(history, 9).state == "failed"
    # The part is tried again and succeeds; a duplicate that then fails does no harm.
    history.ran("20_1.1", 3, took={}, last=4, end="finished", part="1/4", gpus=0)
    history.ran("20_1.2", 5, took={}, last=6, end="error", part="1/4", gpus=0)
    told = judged(history, 9)
    assert (told.state, told.parts, told.share) == ("finished", {"finished": 4}, 1.0)


# -- the table and the detail ---------------------------------------------------------------------------


def many(root: Path, finished: int) -> None:
    for k in range(finished):
        done = History(root, f"done-full-{k:012d}")
        done.ran("7.0", k, took=WORK, to=12000, end="finished")
        done.finished(12000)
    live = History(
        root, "a-name-so-long-that-no-table-of-a-hundred-columns-has-room-for-it-full-0123456789ab"
    )
    live.ran("local-1", 1, took=WORK, to=3_000_000, end=None, submission="", job_id="")
    bad = History(root, "bad-full-bbbbbbbbbbbb")
    bad.ran("local-1", 1, took=WORK, to=30, end="error", message="x" * 400, submission="", job_id="")


def test_the_table_fits_and_the_unfinished_come_first(tmp_path: Path) -> None:
    many(tmp_path, 14)
    (tmp_path / "no run").mkdir()
    (tmp_path / "a file").write_text("")
    told = overview(tmp_path, now=T0 + 2.05 * HOUR)
    assert len(told) == 16
    assert [s.state for s in told[:2]] in (["running", "failed"], ["failed", "running"])
    assert {s.state for s in told[2:]} == {"finished"}
    lines = text(told).split("\n")
    assert max(map(len, lines)) <= WIDTH
    assert sum("finished" in line for line in lines[1:-2]) == 10
    assert re.findall(r"\d+", lines[-1])[0] == "4"
    full = text(told, True)
    assert full.count("done-full-") == 14 and "not shown" not in full
    assert "\u2026" in full and "3456789ab" in full  # shortened in the middle: the signature stays
    json.dumps([s.to_json() for s in told])


def test_names_cannot_steer_the_terminal() -> None:
    hostile = RunStatus("\x1b[31mred\n-full-0", "/x", "train", "0", "failed", note="a\x1b]0;b\x07 c")
    assert "\x1b" not in text([hostile]) and "\x07" not in text([hostile])


def test_nothing_there_says_what_makes_a_run(tmp_path: Path) -> None:
    assert "birdsd submit" in text(overview(tmp_path / "missing"))


def test_of_finished_runs_only_the_newest_are_read_in_full(tmp_path: Path) -> None:
    many(tmp_path, 14)
    told = overview(tmp_path, everything=False, now=T0 + 2.05 * HOUR)
    assert sum(s.hours is None for s in told) == 4
    assert all(s.share == 1.0 for s in told if s.state == "finished")


def test_a_run_in_detail(history: History) -> None:
    history.submitted(0, ["11"], id="s0")
    history.submitted(1, ["12"], id="s1")
    history.ran("12.0", 2, took=WORK, to=3000, end=None)
    history.ran("12.1", 4, took=WORK, start=2500, to=5000, message="SIGUSR2")
    history.saved(5000)
    history.event(4, event="resumed", allocation="12.1", checkpoint="000000002500")
    lines = [
        {"kind": "train", "position": 1, "loss": 3.0},
        {"kind": "validation", "position": 2500, "loss": 0.25},
    ]
    (history.folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    told = detail(history.run, now=T0 + 20 * HOUR)
    said = detail_text(told, T0 + 20 * HOUR)
    assert max(map(len, said.split("\n"))) <= WIDTH
    for words in ("stopped", "500 (10 min)", "2,500 -> 5,000", "job 11", "handover: requeue", "2.5k: 0.25",
                  "birdsd resume", "effective ", "resumed"):  # fmt: skip
        assert words in said, words
    facts = json.loads(json.dumps(told.to_json()))
    assert [a["lost_samples"] for a in facts["allocation_table"]] == [500, 0]
    assert facts["validation"] == [{"position": 2500, "loss": 0.25}]
    assert [s["id"] for s in facts["submissions"]] == ["s1", "s0"]


def test_words() -> None:
    assert [span(s) for s in (3, 99, 130, 4000, 7500, 200_000)] == [
        "3 s", "99 s", "2 min", "67 min", "2 h 05 min", "2 d 7 h",
    ]  # fmt: skip
    assert [short(v) for v in (3.44, 812, 4500, 999_999, 1_240_000, 3e9)] == [
        "3.4", "812", "4.5k", "1M", "1.24M", "3G",
    ]  # fmt: skip
    limit = reason("QOSMaxJobsPerUserLimit")
    assert "QOS " in limit and limit.endswith(" (QOSMaxJobsPerUserLimit)")
    word = "ReqNodeNotAvail, UnavailableNodes:n1"
    assert reason(word) == f"{REASONS['ReqNodeNotAvail']} ({word})"
    assert reason("SomethingNew") == "SomethingNew" and reason("None") == ""


def test_in_order() -> None:
    def one(name: str, state: str, activity: float) -> RunStatus:
        return RunStatus(name, "", "train", "", state, activity=activity)

    found = [one("a", "finished", 9), one("b", "failed", 1), one("c", "running", 5)]
    assert [s.name for s in in_order(found)] == ["c", "b", "a"]


# -- as a whole process -----------------------------------------------------------------------------------


def test_the_course_of_status_and_logs_imports_nothing_heavy(history: History) -> None:
    history.submitted(0, ["999999"])
    folder = history.ran("999999.0", 1, took=WORK, to=3000)
    (folder / "rank-00000.log").write_text("hello\n")
    script = """
import sys
from pathlib import Path
from birdsd.cli.tables.status import detail_text, text
from birdsd.runs.status.detail import detail
from birdsd.runs.status.overview import overview
from birdsd.runs.status.logs import show
from birdsd.runs.run import RunStore
root = Path(sys.argv[1])
print(text(overview(root)))
run = RunStore(root).runs()[0]
print(detail_text(detail(run)))
show(run)
"""
    assert imported_by(script, str(history.folder.parent)) == []


@pytest.mark.slurm
def test_what_a_real_slurm_says(testbed: None, history: History) -> None:
    def sbatch(*options: str) -> str:
        words = ["sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", "sleep 600"]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    def state(of: str = "") -> RunStatus:
        told = overview(history.folder.parent)[0]
        deadline = time.monotonic() + 90
        while of and told.state != of and time.monotonic() < deadline:
            time.sleep(0.5)
            told = overview(history.folder.parent)[0]
        return told

    held = sbatch("--hold", "--requeue")
    try:
        history.submitted((time.time() - T0) / HOUR, [held])
        told = state("queued")
        assert (told.state, told.queue_reason, told.job_id) == ("queued", "JobHeldUser", held)
        assert told.way_out == f"scontrol release {held}"
        subprocess.run(["scontrol", "release", held], check=True)
        assert state("starting").state == "starting"  # it has its nodes, and nothing of birdsd is there
        began = (time.time() - T0) / HOUR
        history.ran(f"{held}.0", began, took={}, to=100, last=began, end=None)
        assert state("running").position == 100
    finally:
        subprocess.run(["scancel", held], check=True)
    assert state("cancelled").note == f"job {held} was cancelled"


def test_a_run_that_is_being_written_is_read_all_the_same(history: History) -> None:
    """Files come and go under the reader: a folder that is half made, a record that is half gone."""
    history.ran("12.0", 1, took=WORK, to=3000, end=None)
    (history.folder / "allocations" / "stray file").write_text("")
    (history.folder / "events").mkdir(exist_ok=True)
    (history.folder / "events" / "n1-2.jsonl").write_text('{"time": 1, "event": "beg')
    (history.folder / "finished.json").write_text("{")
    assert judged(history, 2.05).state == "running"
    (history.folder / "signature.json").write_text("")
    assert read_records(history.folder) is None
    assert overview(history.folder.parent, now=time.time()) == []
