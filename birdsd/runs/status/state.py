"""The state of a run, the reason, and what to do, concluded from its records and what Slurm says."""

from __future__ import annotations

from collections import Counter

from birdsd.format import first_line, moment, span
from birdsd.runs.allocations import Ended
from birdsd.runs.heartbeat import SILENT_S
from birdsd.runs.share import ArrayShare
from birdsd.runs.starts import has_supervisor, silent_limit
from birdsd.runs.status.run_status import FINISHED, RunRecords, RunStatus
from birdsd.runs.status.timing import AllocationTimes
from birdsd.site.slurm import JobState

QUEUED, WAITING, STARTING, RUNNING, STOPPING = "queued", "waiting", "starting", "running", "stopping"
FAILING = "failing"  # it is restarted automatically, but birdsd has not started since
FAILED, CANCELLED, KILLED = "failed", "cancelled", "killed"
STOPPED, CHAIN_STOPPED, NEVER_BEGUN, INTERRUPTED = "stopped", "chain stopped", "never begun", "interrupted"
# States in which something still happens automatically.
ACTIVE = (RUNNING, STARTING, STOPPING, FAILING, WAITING, QUEUED)
_MOST_ACTIVE_FIRST = (*ACTIVE, FAILED, KILLED, CANCELLED, INTERRUPTED, NEVER_BEGUN)
# The exit signal of slurmstepd where it cannot open a job's output: the node does not see the folder.
_NO_OUTPUT = ":53"
# Between two allocations Slurm may not list a job for a moment.
_MOMENT_S = 90.0

REASONS = {
    "Priority": "others go first",
    "Resources": "it waits for free nodes",
    "BeginTime": "its delay after the handover has not passed yet",
    "Cleaning": "the job before it is still being cleaned up",
    "Dependency": "it waits for the job before it",
    "DependencyNeverSatisfied": "the job that it waits for failed, so it never starts",
    "JobHeldUser": "it is held",
    "JobHeldAdmin": "it is held by an administrator",
    "ReqNodeNotAvail": "nodes that it needs are down or reserved",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is not active",
    "PartitionNodeLimit": "it requests more nodes than the partition allows",
    "PartitionTimeLimit": "it requests more time than the partition allows",
    "JobLaunchFailure": "its launch failed",
    "launch failed requeued held": "its launch failed, and it is held",
    "BadConstraints": "no node fits its request",
}
_HELD = ("JobHeldUser", "JobHeldAdmin", "launch failed requeued held", "job requeued in held state")
# How Slurm says that a job ended, in words for its owner.
ENDS = {
    "TIMEOUT": "it hit the time limit before it had saved",
    "NODE_FAIL": "a node failed",
    "OUT_OF_MEMORY": "it used more memory than it had requested",
    "PREEMPTED": "it was preempted",
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "its deadline passed",
}


def judge(records: RunRecords) -> RunStatus:
    """The status of a run, without its progress."""
    array = int(records.submission.submit.get("array") or 0) if records.submission is not None else 0
    if records.finished is not None:
        return records.status(FINISHED)
    if array:
        status = _of_array(records, array)
        return _failing(records, status) if status.state in (QUEUED, WAITING, STARTING) else status
    alive = next((account for account in reversed(records.accounts) if account.alive), None)
    at_work = [state for state in records.jobs.values() if not state.is_waiting and not state.is_over]
    if alive is not None or at_work:
        return _failing(records, _at_work(records, alive, at_work[0] if at_work else None))
    waiting = [state for state in records.jobs.values() if state.is_waiting]
    if waiting:
        status = _in_queue(records, min(waiting, key=lambda s: (s.reason.startswith("Dependency"), s.id)))
        return _failing(records, status)
    return _over(records)


# -- active runs --------------------------------------------------------------------------------------


def _at_work(records: RunRecords, alive: AllocationTimes | None, state: JobState | None) -> RunStatus:
    if alive is None:
        assert state is not None
        return _around_work(records, state)
    trace = next((t for t in records.traces if t.name == alive.name), None)
    status = records.status(RUNNING, current=alive, slurm_job=state)
    if records.stop is not None:
        status.state = STOPPING
        status.note = f"{records.stop.get('by') or 'somebody'} asked it to stop: it is saving and will exit"
    elif state is not None and state.state == "COMPLETING":
        status.state = STOPPING
    elif trace is None or trace.heartbeat is None or _is_starting(records.job, trace.heartbeat.phase):
        status.state = STARTING
    silent_s = records.now - trace.last_sign if trace is not None else 0.0
    if trace is not None and trace.is_silent(records.now) and silent_s > SILENT_S:
        status.note = (
            f"no heartbeat for {span(silent_s)}; the watchdog ends a rank that hangs "
            "(machine.watchdog_s), and `birdsd logs` may show more"
        )
    return status


def _is_starting(job: str, phase: str) -> bool:
    """Whether a training has not come to its first step. Other jobs do not tell their phases: where there is
    a heartbeat, they are at work."""
    return job == "train" and phase in ("start", "restore", "build")


def _failing(records: RunRecords, status: RunStatus) -> RunStatus:
    """A queue looks healthy whatever becomes of its jobs: starts that came to nothing are named first."""
    count = len(records.silent_starts)
    if not count or status.current is not None or records.submission is None:
        return status
    times = {1: "once", 2: "twice"}.get(count, f"{count} times")
    note = (
        f"its job was started {times} and birdsd did not start{_launcher(records)}; "
        f"it gives up after {silent_limit(records.submission.site)}"
    )
    status.state, status.way_out = FAILING, f"birdsd logs {records.run.folder.name}"
    status.note = f"{note}; {status.note}" if status.note else note
    return status


def _launcher(records: RunRecords) -> str:
    return f"; the launcher said: {records.launcher_message}" if records.launcher_message else ""


def _around_work(records: RunRecords, state: JobState) -> RunStatus:
    """The job has its nodes but birdsd does not run: not yet, or not any more."""
    where = f" on {state.nodes}" if state.nodes else ""
    begun = [t.began for t in records.traces if t.began is not None and t.began.job_id == state.id]
    if begun and max(began.restart for began in begun) >= state.restarts:
        return records.status(STOPPING, f"job {state.id} is about to end{where}", slurm_job=state)
    if state.state == "COMPLETING":
        return records.status(STOPPING, f"job {state.id} is being cleaned up{where}", slurm_job=state)
    return records.status(
        STARTING, f"job {state.id} has its nodes{where}, but birdsd has not started yet", slurm_job=state
    )


def _in_queue(records: RunRecords, state: JobState) -> RunStatus:
    begun = [account for account in records.accounts if account.position or account.how != "killed"]
    status = records.status(WAITING if begun else QUEUED, slurm_job=state)
    why = reason(state.reason)
    start = ""
    if state.start and state.start > records.now:
        start = f"; starts about {moment(state.start, records.now)}"
    status.note = f"job {state.id}: {why}{start}" if why else f"job {state.id} is in the queue{start}"
    if records.stop is not None:
        status.note = f"{records.stop.get('by') or 'somebody'} asked it to stop; {status.note}"
    elif begun and begun[-1].how.startswith("killed"):
        status.note = f"{begun[-1].how}, and requeued; {status.note}"
    if state.reason in _HELD:
        status.way_out = f"scontrol release {state.id}"
    elif state.reason == "DependencyNeverSatisfied":
        status.way_out = f"birdsd cancel {records.run.folder.name}, then {records.resume}"
    return status


def reason(word: str) -> str:
    """Slurm's reason as a sentence, with Slurm's own word behind it."""
    if not word or word == "None":
        return ""
    text = REASONS.get(word) or next(
        (text for key, text in REASONS.items() if word.startswith((f"{key},", f"{key} ", f"{key}:"))), ""
    )
    if not text and ("Limit" in word or word.startswith(("Assoc", "QOS"))):
        text = "a limit of the account or its QOS has been reached"
    return f"{text} ({word})" if text else word


# -- inactive runs ------------------------------------------------------------------------------------


def _over(records: RunRecords) -> RunStatus:
    last = records.accounts[-1] if records.accounts else None
    if records.stop is not None:
        by = records.stop.get("by") or "somebody"
        return records.status(CANCELLED, f"by {by}", records.resume)
    if records.submission is None:
        return _by_hand(records, last)
    newest = max(records.jobs.values(), key=lambda s: (s.submit or 0.0, s.id), default=None)
    if _supervised(records):
        return records.status(WAITING if last else STARTING, "the next allocation starts immediately")
    given_up = _chain_stopped(records)
    not_begun = last is None or last.begin < records.submission.time - SILENT_S
    silent = not_begun and _ended_before_it_began(records) is None
    if given_up and (records.silent_starts or silent) and "was cancelled" not in given_up:
        launcher = "" if records.launcher_message in given_up else _launcher(records)
        logs = f"birdsd logs {records.run.folder.name}"
        return records.status(CHAIN_STOPPED, f"{given_up}{launcher}", logs, slurm_job=newest)
    if last is None or not_begun:
        return _not_begun(records, newest, last)
    if (newest is not None and newest.state == "CANCELLED") or "was cancelled" in given_up:
        job = newest.id if newest is not None else last.job_id
        return records.status(CANCELLED, f"job {job} was cancelled", records.resume, slurm_job=newest)
    # An error that no other allocation would mend is reported as it is, and so is a handover by hand.
    by_itself = last.how == "error" and last.message == given_up
    by_hand = last.how == "stopped" and records.submission.site.get("hand_over") == "manual"
    if given_up and not by_itself and not by_hand:
        return records.status(CHAIN_STOPPED, given_up, records.resume, slurm_job=newest)
    return _of_last(records, last, newest)


def _by_hand(records: RunRecords, last: AllocationTimes | None) -> RunStatus:
    if last is not None:
        return _of_last(records, last, None)
    refused = next((t.ended for t in reversed(records.traces) if t.ended is not None), None)
    if refused is not None:
        return records.status(FAILED, refused.message, records.resume)
    if records.saved:
        return records.status(INTERRUPTED, f"saved at sample {records.saved:,}", records.resume)
    return records.status(NEVER_BEGUN, "nothing was saved", f"birdsd run {records.job} ... starts it")


def _not_begun(records: RunRecords, newest: JobState | None, last: AllocationTimes | None) -> RunStatus:
    """Nothing is left of its newest submission: no allocation, nothing in the queue."""
    assert records.submission is not None
    ids = ", ".join(records.submission.job_ids[-3:]) or "(none)"
    age = records.now - records.submission.time
    if (ended := _ended_before_it_began(records)) is not None:
        return records.status(FAILED, ended.message, records.resume)
    if newest is not None and newest.is_over:
        why = ENDS.get(newest.state, f"Slurm says {newest.state}, exit code {newest.exit_code}")
        if newest.exit_code.endswith(_NO_OUTPUT):
            where = f" on {newest.nodes}" if newest.nodes else ""
            why += (
                f": its output could not be opened{where}; is {records.run.folder.resolve()} visible there?"
            )
        return records.status(
            FAILED, f"job {newest.id} ended before birdsd started: {why}{_launcher(records)}",
            f"birdsd logs {records.run.folder.name}", slurm_job=newest,
        )  # fmt: skip
    if 0 <= age < _MOMENT_S:
        return records.status(QUEUED, f"submitted {span(age)} ago as job {ids}")
    what = NEVER_BEGUN if last is None else INTERRUPTED
    where = "the process" if records.submission.is_local else "Slurm"
    gone = f"{where} {ids} is gone" if records.submission.is_local else f"{where} does not know job {ids}"
    return records.status(what, gone, records.resume)


def _ended_before_it_began(records: RunRecords) -> Ended | None:
    """How an allocation of the newest submission ended that never began; None where there is none."""
    assert records.submission is not None
    ended = next((t.ended for t in reversed(records.traces) if t.ended is not None and t.began is None), None)
    return ended if ended is not None and ended.time >= records.submission.time - SILENT_S else None


def _of_last(records: RunRecords, last: AllocationTimes, newest: JobState | None) -> RunStatus:
    status = records.status(FAILED, first_line(last.message), records.resume, slurm_job=newest)
    if last.how == "finished":
        status.state = FINISHED if records.job != "train" else INTERRUPTED
        status.way_out = records.resume if records.job == "train" else ""
    elif last.how in ("stopped", "handed over"):
        status.note = f"stopped and saved at sample {records.saved:,}" if records.saved else "stopped"
        just_now = 0 <= records.now - last.end < _MOMENT_S
        if just_now and records.submission is not None and not records.submission.is_local:
            status.state, status.way_out = WAITING, ""
            status.note += f", {span(records.now - last.end)} ago; the next job is not in the queue yet"
        else:
            status.state = STOPPED
            status.note += "" if records.submission is None else "; none of its jobs is in the queue"
    elif last.how == "cancelled":
        status.state, status.note = CANCELLED, f"job {last.job_id} was cancelled"
    elif last.how.startswith("killed"):
        status.state, status.note = KILLED, _how_killed(records, last)
    elif last.how != "error":
        status.note = last.how
    return status


def _how_killed(records: RunRecords, last: AllocationTimes) -> str:
    word = last.how.removeprefix("killed").strip(" ()")
    why = ENDS.get(word, f"Slurm says {word}" if word else "its last heartbeat was")
    when = moment(last.end, records.now)
    note = f"{why} {when}" if not word else f"{why}, {when}"
    if records.job == "train":
        note += f"; resumes from sample {records.saved:,}" if records.saved else "; nothing was saved yet"
        if last.lost_samples:
            note += f" ({last.lost_samples:,} samples to be recomputed)"
    return note


def _chain_stopped(records: RunRecords) -> str:
    """Why birdsd itself ended the chain of allocations, if it did since the newest of them began."""
    for event in reversed(records.run.events()):
        # Where Slurm itself brought the job back, it continues whatever was decided before.
        if event.get("event") in ("submitted", "began"):
            return ""
        if event.get("event") == "chain stopped":
            return str(event.get("reason") or "no progress")
    return ""


def _supervised(records: RunRecords) -> bool:
    """Whether a local supervisor of the newest submission still runs on this machine."""
    submission = records.submission
    if submission is None or not submission.is_local:
        return False
    return has_supervisor(records.run.folder, submission.job_ids)


# -- arrays -------------------------------------------------------------------------------------------


def _of_array(records: RunRecords, array: int) -> RunStatus:
    """An array is as active as its most active share."""
    shares = {str(ArrayShare(k, array)): _of_share(records, k, array) for k in range(array)}
    tally = dict(Counter(share.state for share in shares.values()))
    state = next((state for state in _MOST_ACTIVE_FIRST if tally.get(state)), FINISHED)
    if state != FINISHED and records.stop is not None:
        state = STOPPING if state in ACTIVE else CANCELLED
    first = next((share for share in shares.values() if share.state == state), records.status(state))
    status = records.status(state, current=first.current, slurm_job=first.slurm_job)
    status.parts = tally
    bad = {name: share for name, share in shares.items() if share.state in (FAILED, KILLED)}
    if bad:
        name, share = next(iter(bad.items()))
        others = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        status.note = f"part {name} {share.state}{f': {share.note}' if share.note else ''}{others}"
    elif state in (QUEUED, WAITING):
        status.note = first.note
    if state not in (*ACTIVE, FINISHED):
        status.way_out = records.resume
    return status


def _of_share(records: RunRecords, number: int, array: int) -> RunStatus:
    name = str(ArrayShare(number, array))
    own = [account for account in records.accounts if account.part == name]
    state = next((s for key, s in records.jobs.items() if key.endswith(f"_{number}")), None)
    if any(account.how == "finished" for account in own):
        return records.status(FINISHED)  # even if a duplicate failed later
    alive = next((account for account in reversed(own) if account.alive), None)
    if alive is not None or (state is not None and not state.is_waiting and not state.is_over):
        return _at_work(records, alive, state)
    if state is not None and state.is_waiting:
        return records.status(WAITING if own else QUEUED, reason(state.reason), slurm_job=state)
    if own:
        return _of_last(records, own[-1], state)
    ended = next((t.ended for t in records.traces if t.ended and t.job_id.endswith(f"_{number}")), None)
    if ended is not None:
        return records.status(FAILED, first_line(ended.message))
    if state is not None:
        over = CANCELLED if state.state == "CANCELLED" else FAILED
        return records.status(over, f"Slurm says {state.state}", slurm_job=state)
    submission = records.submission
    if submission is not None and (_supervised(records) or 0 <= records.now - submission.time < _MOMENT_S):
        return records.status(QUEUED)
    return records.status(NEVER_BEGUN)
