"""Where the hours went: sums over records that were written by hand, the odd ones too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from birdsd.runs.allocations import Submission
from birdsd.runs.status.timing import KINDS, TimeBreakdown, time_breakdown, traces
from birdsd.site.slurm import JobState
from tests.support.histories import HOUR, T0, History, job_state

START = {"start": 0.10, "imports": 0.04, "restore": 0.02, "build": 0.05, "first batch": 0.03}


def account(history: History, at: float, saved: int | None = None, **jobs: JobState) -> TimeBreakdown:
    """Of a history, at an hour; jobs as job_12=..."""
    return time_breakdown(
        traces(history.folder),
        T0 + at * HOUR,
        job=history.job,
        saved=saved,
        submission=Submission.read(history.folder),
        jobs={name.removeprefix("job_"): state for name, state in jobs.items()},
    )


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path)


def test_an_allocation_in_good_order_is_accounted_for_to_the_second(history: History) -> None:
    history.submitted(0, ["12"])
    took = {**START, "train": 3.0, "wait for data": 0.2, "validate": 0.1, "save": 0.05, "preview": 0.01}
    history.ran("12.0", 2, took=took, to=3000, end="finished", gpus=4)
    spent = account(history, 10)
    (only,) = spent.accounts
    assert only.how == "finished" and not only.alive
    # Python had run for a while when the record was written: that belongs to the start, not to the queue.
    assert only.queue_s == pytest.approx((2 - 0.06) * HOUR)
    assert only.start_parts == {
        "launch": pytest.approx(0.06 * HOUR), "imports": pytest.approx(0.04 * HOUR),
        "restore": pytest.approx(0.02 * HOUR), "build": pytest.approx(0.05 * HOUR),
        "first batch": pytest.approx(0.03 * HOUR),
    }  # fmt: skip
    assert only.seconds["start"] == pytest.approx(0.2 * HOUR)
    assert only.seconds["train"] == pytest.approx(3 * HOUR)
    assert sum(only.seconds.values()) == pytest.approx(only.end - only.begin)
    assert spent.gpu_hours == pytest.approx(4 * spent.wall_s / 3600)
    assert spent.process_hours == 0
    assert spent.ratio == pytest.approx(3 * HOUR / spent.wall_s)
    assert spent.ratio_with_queue == pytest.approx(3 * HOUR / (spent.wall_s + spent.queue_s))
    assert sum(value for _, value in spent.table()) == pytest.approx(spent.wall_s + spent.queue_s)


def test_work_after_the_last_checkpoint_of_a_killed_allocation_is_lost(history: History) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took={"train": 2.0}, to=2000, end=None)
    history.ran("12.1", 4, took={"restore": 0.1, "train": 1.0}, start=1500, to=2500, end="stopped")
    spent = account(history, 20)
    killed, after = spent.accounts
    assert (killed.how, killed.lost_samples) == ("killed", 500)
    assert killed.lost_s == pytest.approx(0.5 * HOUR)  # 500 of the 2,000 samples that took two hours
    assert (after.lost_samples, after.start_position) == (0, 1500)
    assert after.queue_s == pytest.approx(1 * HOUR)  # from the last word of the one before
    assert spent.useful_s == pytest.approx(2.5 * HOUR)
    assert dict(spent.table())["lost"] == pytest.approx(0.5 * HOUR)


def test_a_damaged_checkpoint_sends_back_further_than_one_allocation(history: History) -> None:
    history.ran("12.0", 0, took={"train": 1.0}, to=1000)
    history.ran("12.1", 2, took={"train": 1.0}, start=1000, to=2000, end=None)
    history.ran("12.2", 4, took={"train": 2.0}, start=500, to=2500)
    first, second, third = account(history, 20).accounts
    assert [a.lost_samples for a in (first, second, third)] == [500, 1000, 0]
    assert (first.lost_s, second.lost_s) == (pytest.approx(0.5 * HOUR), pytest.approx(1 * HOUR))


def test_what_nothing_followed_yet_is_lost_beyond_the_newest_checkpoint(history: History) -> None:
    history.ran("12.0", 0, took={"train": 1.0}, to=1000, end=None)
    assert account(history, 5, saved=800).lost_samples == 200
    alive = account(history, 1.0, saved=800)
    assert alive.accounts[0].alive and alive.lost_samples == 0


def test_who_died_before_it_had_restored_sends_nobody_back(history: History) -> None:
    history.ran("12.0", 0, took={"train": 1.0}, to=1000)
    # Its heartbeat says position 0 and nothing of where it resumed: it had only begun to.
    history.ran("12.1", 2, took={"start": 0.1}, start=1000, to=0, end=None, phase="restore", last=2.5)
    history.ran("12.2", 4, took={"train": 1.0}, start=1000, to=2000)
    spent = account(history, 20)
    assert spent.lost_samples == 0
    dead = spent.accounts[1]
    assert dead.start_parts["restore"] == pytest.approx(0.5 * HOUR)  # the phase that it died in
    assert dead.position == dead.start_position == 1000


def test_slurm_knows_when_a_killed_allocation_ended(history: History) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took={"train": 2.0}, to=2000, end=None)
    state = job_state("12", "NODE_FAIL", start=0.9, end=4.0, source="sacct")
    (only,) = account(history, 20, saved=2000, job_12=state).accounts
    assert only.how == "killed (NODE_FAIL)"
    assert only.start_parts["launch"] == pytest.approx(0.1 * HOUR)
    assert only.seconds["unknown"] == pytest.approx(1 * HOUR)  # from the last heartbeat to its end
    assert only.wall_s == pytest.approx(3.1 * HOUR)


def test_what_slurm_says_of_a_later_restart_says_nothing_of_an_earlier_one(history: History) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took={"train": 2.0}, to=2000, end=None)
    state = job_state("12", "RUNNING", start=8.0, restarts=1)
    (only,) = account(history, 9, saved=2000, job_12=state).accounts
    assert not only.alive and only.end == T0 + 3 * HOUR


def test_the_clock_may_jump_back_within_and_between_allocations(history: History) -> None:
    history.submitted(0, ["12"])
    # It worked for two hours by its own measure, and its last heartbeat is from before it began.
    history.ran("12.0", 5, took={"train": 2.0}, to=2000, last=4.0)
    # The next one says it began before the first: restarts of a job stay in their order all the same.
    history.ran("12.1", 3, took={"train": 1.0}, start=2000, to=3000, last=4.1)
    spent = account(history, 20)
    first, second = spent.accounts
    assert [a.name for a in spent.accounts] == ["12.0", "12.1"]
    assert first.wall_s == pytest.approx(2 * HOUR) and first.end >= first.begin
    assert second.queue_s == 0 and spent.lost_samples == 0
    assert all(value >= 0 for a in spent.accounts for value in a.seconds.values())
    assert 0 < (spent.ratio or 0) <= 1


def test_missing_and_torn_files_are_passed_over(history: History) -> None:
    history.ran("12.0", 0, took={"train": 1.0}, to=1000)
    refused = history.folder / "allocations" / "13.0"
    refused.mkdir()
    (refused / "end.json").write_text(json.dumps({"time": T0, "reason": "refused", "status": 2}))
    torn = history.ran("14.0", 2, took={"train": 1.0}, start=1000, to=2000)
    (torn / "heartbeat.json").write_text('{"time": 17')
    empty = history.folder / "allocations" / "15.0"
    empty.mkdir()
    begun = history.ran("16.0", 4, took={}, start=2000)
    (begun / "heartbeat.json").unlink()
    (begun / "end.json").unlink()
    spent = account(history, 20)
    assert [a.name for a in spent.accounts] == ["12.0", "14.0", "16.0"]
    assert (spent.accounts[1].start_position, spent.accounts[1].position) == (1000, 2000)  # from its end
    assert (spent.accounts[2].how, spent.accounts[2].wall_s) == ("killed", 0)
    assert len(traces(history.folder)) == 5
    assert time_breakdown([], T0).ratio is None and traces(history.folder / "nothing") == []


def test_a_run_by_hand_waits_in_no_queue(history: History) -> None:
    for k in range(2):
        history.ran(f"local-n1-2023-{k}", 10 * k, took={"train": 1.0}, start=1000 * k, to=1000 * (k + 1),
                    submission="", job_id="", gpus=0)  # fmt: skip
    spent = account(history, 20)
    assert spent.queue_s == 0
    assert spent.gpu_hours == 0 and spent.process_hours == pytest.approx(4 * 2.0)


def test_parts_of_an_array_overlap_and_each_waits_for_itself(tmp_path: Path) -> None:
    history = History(tmp_path, "prepare-0123456789ab", job="prepare")
    history.submitted(0, ["20_0", "20_1", "20_2"], array=3)
    for part in range(2):
        history.ran(f"20_{part}.0", 1 + part, took={}, last=3, end="finished", part=f"{part}/3", gpus=0)
    # A duplicate of a part that was done already.
    history.ran("20_0.1", 2, took={}, last=2.5, end="finished", part="0/3", gpus=0)
    pending = {"job_20": job_state("20", "PENDING"), "job_20_2": job_state("20_2", "PENDING", submit=0)}
    spent = account(history, 4, **pending)
    assert [a.queue_s for a in spent.accounts] == [pytest.approx(HOUR), 0, pytest.approx(2 * HOUR)]
    assert spent.waiting_s == pytest.approx(4 * HOUR)  # of the third, once
    # A job that is no training names no phases: all of its time is work.
    assert spent.of("train") == spent.wall_s == pytest.approx((2 + 1 + 0.5) * HOUR)
    assert spent.lost_samples == 0


def test_waiting_now_counts_and_waiting_for_ones_own_job_does_not(history: History) -> None:
    history.submitted(0, ["12", "13", "14"])
    history.ran("12.0", 1, took={"train": 2.0}, to=2000, end="stopped")
    chain = {
        "job_13": job_state("13", "PENDING", reason="Priority", submit=0),
        "job_14": job_state("14", "PENDING", reason="Dependency", submit=0),
    }
    assert account(history, 5, saved=2000, **chain).waiting_s == pytest.approx(2 * HOUR)
    history.ran("13.0", 5, took={"train": 1.0}, start=2000, to=3000, end=None)
    chain["job_13"] = job_state("13", "RUNNING", start=5)
    assert account(history, 6.0, saved=2000, **chain).waiting_s == 0


def test_all_of_it_as_json(history: History) -> None:
    history.submitted(0, ["12"])
    history.ran("12.0", 2, took={**START, "train": 3.0}, to=3000)
    spent = account(history, 10)
    told = json.loads(json.dumps({**spent.to_json(), "table": [a.to_json() for a in spent.accounts]}))
    assert told["effective_ratio"] == pytest.approx(3 / 3.2, abs=1e-3)
    assert set(told["table"][0]["seconds"]) == set(KINDS)
