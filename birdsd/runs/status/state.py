"""In which state a run is, why, and what to do: a judgement on its records and Slurm's word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from birdsd.format import first_line, moment, span
from birdsd.runs.allocations import SILENT_S, Ended, Submission
from birdsd.runs.run import Run
from birdsd.runs.starts import silent_limit
from birdsd.runs.status.timing import Account, Trace
from birdsd.site.machine import command_line
from birdsd.site.slurm import JobState

QUEUED, WAITING, STARTING, RUNNING, STOPPING = "queued", "waiting", "starting", "running", "stopping"
FAILING = "failing"  # it comes back by itself, and birdsd has not begun since
FINISHED, FAILED, CANCELLED, KILLED = "finished", "failed", "cancelled", "killed"
STOPPED, CHAIN_STOPPED, NEVER_BEGUN, INTERRUPTED = "stopped", "chain stopped", "never begun", "interrupted"
# States in which something still happens by itself.
ACTIVE = (RUNNING, STARTING, STOPPING, FAILING, WAITING, QUEUED)
# What slurmstepd ends with where it cannot open a job's output: the node does not see the folder.
_NO_OUTPUT = ":53"
# Between two allocations Slurm may say nothing of a job for a moment.
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
# Slurm's words for an end, and what they mean for who reads them.
ENDS = {
    "TIMEOUT": "it hit the time limit before it had saved",
    "NODE_FAIL": "a node failed",
    "OUT_OF_MEMORY": "it used more memory than it had requested",
    "PREEMPTED": "it was preempted",
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "its deadline passed",
}


@dataclass(frozen=True)
class Case:
    """What is known of a run. `jobs` are its own, by id; `saved` is the newest checkpoint's position."""

    run: Run
    job: str
    finished: bool
    submission: Submission | None
    stop: dict[str, Any] | None
    traces: Sequence[Trace]
    accounts: Sequence[Account]
    jobs: Mapping[str, JobState]
    now: float
    saved: int
    silent: int = 0  # allocations in a row, the newest, in which birdsd did not begin
    said: str = ""  # what the launcher said in them

    @property
    def resume(self) -> str:
        """The command that takes it up."""
        if self.submission is not None:
            return f"birdsd resume {self.run.folder.name}"
        return f"the same `birdsd run {self.job}` command resumes it"


@dataclass
class Verdict:
    """The state, why in a sentence, and the command that helps; "" where there is nothing to say."""

    state: str
    note: str = ""
    way_out: str = ""
    alive: Account | None = None
    of_slurm: JobState | None = None
    parts: dict[str, int] = field(default_factory=dict)


def verdict(case: Case) -> Verdict:
    """The state of a run."""
    array = int(case.submission.submit.get("array") or 0) if case.submission is not None else 0
    if case.finished:
        return Verdict(FINISHED)
    if array:
        told = _of_array(case, array)
        return _failing(case, told) if told.state in (QUEUED, WAITING, STARTING) else told
    alive = next((account for account in reversed(case.accounts) if account.alive), None)
    at_work = [state for state in case.jobs.values() if not state.is_waiting and not state.is_over]
    if alive is not None or at_work:
        return _failing(case, _at_work(case, alive, at_work[0] if at_work else None))
    waiting = [state for state in case.jobs.values() if state.is_waiting]
    if waiting:
        told = _in_queue(case, min(waiting, key=lambda s: (s.reason.startswith("Dependency"), s.id)))
        return _failing(case, told)
    return _over(case)


# -- something happens by itself ----------------------------------------------------------------------


def _at_work(case: Case, alive: Account | None, state: JobState | None) -> Verdict:
    if alive is None:
        assert state is not None
        return _around_work(case, state)
    trace = next((t for t in case.traces if t.name == alive.name), None)
    told = Verdict(RUNNING, alive=alive, of_slurm=state)
    if case.stop is not None:
        told.state = STOPPING
        told.note = f"{case.stop.get('by') or 'somebody'} asked it to stop: it is saving and will exit"
    elif state is not None and state.state == "COMPLETING":
        told.state = STOPPING
    elif trace is None or trace.heartbeat is None or trace.heartbeat.phase in ("start", "restore", "build"):
        told.state = STARTING
    silent_s = case.now - trace.last_sign if trace is not None else 0.0
    if trace is not None and trace.is_silent(case.now) and silent_s > SILENT_S:
        told.note = (
            f"no heartbeat for {span(silent_s)}; the watchdog ends a rank that hangs "
            "(machine.watchdog_s), and `birdsd logs` may show more"
        )
    return told


def _failing(case: Case, told: Verdict) -> Verdict:
    """A queue looks healthy whatever its jobs come to: what did not begin is said first."""
    if not case.silent or told.alive is not None or case.submission is None:
        return told
    limit = silent_limit(case.submission.site)
    times = {1: "once", 2: "twice"}.get(case.silent, f"{case.silent} times")
    words = f"its job was started {times} and birdsd did not start{_launcher(case)}; "
    words += f"it gives up after {limit}"
    note = f"{words}; {told.note}" if told.note else words
    return replace(told, state=FAILING, note=note, way_out=f"birdsd logs {case.run.folder.name}")


def _launcher(case: Case) -> str:
    return f"; the launcher said: {case.said}" if case.said else ""


def _around_work(case: Case, state: JobState) -> Verdict:
    """The job has its nodes, and birdsd is not at work: not yet, or not any more."""
    where = f" on {state.nodes}" if state.nodes else ""
    begun = [t.began for t in case.traces if t.began is not None and t.began.job_id == state.id]
    if begun and max(began.restart for began in begun) >= state.restarts:
        return Verdict(STOPPING, f"job {state.id} is about to end{where}", of_slurm=state)
    if state.state == "COMPLETING":
        return Verdict(STOPPING, f"job {state.id} is being cleaned up{where}", of_slurm=state)
    return Verdict(
        STARTING, f"job {state.id} has its nodes{where}, but birdsd has not started yet", of_slurm=state
    )


def _in_queue(case: Case, state: JobState) -> Verdict:
    begun = [account for account in case.accounts if account.position or account.how != "killed"]
    told = Verdict(WAITING if begun else QUEUED, of_slurm=state)
    why = reason(state.reason)
    start = ""
    if state.start and state.start > case.now:
        start = f"; starts about {moment(state.start, case.now)}"
    told.note = f"job {state.id}: {why}{start}" if why else f"job {state.id} is in the queue{start}"
    if case.stop is not None:
        told.note = f"{case.stop.get('by') or 'somebody'} asked it to stop; {told.note}"
    elif begun and begun[-1].how.startswith("killed"):
        told.note = f"{begun[-1].how}, and requeued; {told.note}"
    if state.reason in _HELD:
        told.way_out = f"scontrol release {state.id}"
    elif state.reason == "DependencyNeverSatisfied":
        told.way_out = f"birdsd cancel {case.run.folder.name}, then {case.resume}"
    return told


def reason(word: str) -> str:
    """Slurm's reason in words, with Slurm's own word behind it."""
    if not word or word == "None":
        return ""
    said = REASONS.get(word) or next(
        (text for key, text in REASONS.items() if word.startswith((f"{key},", f"{key} ", f"{key}:"))), ""
    )
    if not said and ("Limit" in word or word.startswith(("Assoc", "QOS"))):
        said = "a limit of the account or its QOS has been reached"
    return f"{said} ({word})" if said else word


# -- nothing happens any more -------------------------------------------------------------------------


def _over(case: Case) -> Verdict:
    last = case.accounts[-1] if case.accounts else None
    if case.stop is not None:
        by = case.stop.get("by") or "somebody"
        return Verdict(CANCELLED, f"by {by}", case.resume)
    if case.submission is None:
        return _by_hand(case, last)
    newest = max(case.jobs.values(), key=lambda s: (s.submit or 0.0, s.id), default=None)
    if _supervised(case):
        return Verdict(WAITING if last else STARTING, "the next allocation starts immediately")
    given_up = _chain_stopped(case)
    unheard = last is None or last.begin < case.submission.time - SILENT_S
    unsaid = unheard and _said_before_it_began(case) is None
    if given_up and (case.silent or unsaid) and "was cancelled" not in given_up:
        said = "" if not case.said or case.said in given_up else _launcher(case)
        logs = f"birdsd logs {case.run.folder.name}"
        return Verdict(CHAIN_STOPPED, f"{given_up}{said}", logs, of_slurm=newest)
    if last is None or unheard:
        return _not_begun(case, newest, last)
    if (newest is not None and newest.state == "CANCELLED") or "was cancelled" in given_up:
        job = newest.id if newest is not None else last.job_id
        return Verdict(CANCELLED, f"job {job} was cancelled", case.resume, of_slurm=newest)
    # An error that no other allocation would mend is told as it is, and so is a handover by hand.
    by_itself = last.how == "error" and last.message == given_up
    by_hand = last.how == "stopped" and case.submission.site.get("hand_over") == "manual"
    if given_up and not by_itself and not by_hand:
        return Verdict(CHAIN_STOPPED, given_up, case.resume, of_slurm=newest)
    return _of_last(case, last, newest)


def _by_hand(case: Case, last: Account | None) -> Verdict:
    if last is not None:
        return _of_last(case, last, None)
    refused = next((t.ended for t in reversed(case.traces) if t.ended is not None), None)
    if refused is not None:
        return Verdict(FAILED, refused.message, case.resume)
    if case.saved:
        return Verdict(INTERRUPTED, f"saved at sample {case.saved:,}", case.resume)
    return Verdict(NEVER_BEGUN, "nothing was saved", f"birdsd run {case.job} ... starts it")


def _not_begun(case: Case, newest: JobState | None, last: Account | None) -> Verdict:
    """Of its newest submission nothing is there: no allocation, nothing in the queue."""
    assert case.submission is not None
    ids = ", ".join(case.submission.job_ids[-3:]) or "(none)"
    age = case.now - case.submission.time
    if (ended := _said_before_it_began(case)) is not None:
        return Verdict(FAILED, ended.message, case.resume)
    if newest is not None and newest.is_over:
        said = ENDS.get(newest.state, f"Slurm says {newest.state}, exit code {newest.exit_code}")
        if newest.exit_code.endswith(_NO_OUTPUT):
            where = f" on {newest.nodes}" if newest.nodes else ""
            said += f": its output could not be opened{where}; is {case.run.folder.resolve()} visible there?"
        return Verdict(
            FAILED, f"job {newest.id} ended before birdsd started: {said}{_launcher(case)}",
            f"birdsd logs {case.run.folder.name}", of_slurm=newest,
        )  # fmt: skip
    if 0 <= age < _MOMENT_S:
        return Verdict(QUEUED, f"submitted {span(age)} ago as job {ids}")
    what = NEVER_BEGUN if last is None else INTERRUPTED
    where = "the process" if case.submission.is_local else "Slurm"
    gone = f"{where} {ids} is gone" if case.submission.is_local else f"{where} does not know job {ids}"
    return Verdict(what, gone, case.resume)


def _said_before_it_began(case: Case) -> Ended | None:
    """The word that an allocation of the newest submission left without ever having begun."""
    assert case.submission is not None
    ended = next((t.ended for t in reversed(case.traces) if t.ended is not None and t.began is None), None)
    return ended if ended is not None and ended.time >= case.submission.time - SILENT_S else None


def _of_last(case: Case, last: Account, newest: JobState | None) -> Verdict:
    told = Verdict(FAILED, first_line(last.message), case.resume, of_slurm=newest)
    if last.how == "finished":
        told.state = FINISHED if case.job != "train" else INTERRUPTED
        told.way_out = case.resume if case.job == "train" else ""
    elif last.how in ("stopped", "handed over"):
        told.note = f"stopped and saved at sample {case.saved:,}" if case.saved else "stopped"
        just_now = 0 <= case.now - last.end < _MOMENT_S
        if just_now and case.submission is not None and not case.submission.is_local:
            told.state, told.way_out = WAITING, ""
            told.note += f", {span(case.now - last.end)} ago; the next job is not in the queue yet"
        else:
            told.state = STOPPED
            told.note += "" if case.submission is None else "; none of its jobs is in the queue"
    elif last.how == "cancelled":
        told.state, told.note = CANCELLED, f"job {last.job_id} was cancelled"
    elif last.how.startswith("killed"):
        told.state, told.note = KILLED, _how_killed(case, last)
    elif last.how != "error":
        told.note = last.how
    return told


def _how_killed(case: Case, last: Account) -> str:
    word = last.how.removeprefix("killed").strip(" ()")
    why = ENDS.get(word, f"Slurm says {word}" if word else "its last heartbeat was")
    when = moment(last.end, case.now)
    said = f"{why} {when}" if not word else f"{why}, {when}"
    if case.job == "train":
        said += f"; resumes from sample {case.saved:,}" if case.saved else "; nothing was saved yet"
        if last.lost_samples:
            said += f" ({last.lost_samples:,} samples to be recomputed)"
    return said


def _chain_stopped(case: Case) -> str:
    """Why birdsd itself gave the chain of allocations up, if it did since the newest of them began."""
    for event in reversed(case.run.events()):
        # Where Slurm itself brought the job back, it goes on whatever was said before.
        if event.get("event") in ("submitted", "began"):
            return ""
        if event.get("event") == "chain stopped":
            return str(event.get("reason") or "no progress")
    return ""


def _supervised(case: Case) -> bool:
    """Whether a local supervisor of the newest submission still runs on this machine."""
    submission = case.submission
    if submission is None or not submission.is_local:
        return False
    folder = str(case.run.folder.resolve())
    words = [command_line(name) for name in submission.job_ids]
    # An older birdsd calls the same process birdsd.cluster.supervisor.
    names = ("birdsd.cluster.local", "birdsd.cluster.supervisor")
    return any(any(name in one for name in names) and folder in one for one in words)


# -- arrays -------------------------------------------------------------------------------------------


def _of_array(case: Case, array: int) -> Verdict:
    """An array is as lively as its liveliest part."""
    of_parts = {part_name(k, array): _of_part(case, k, array) for k in range(array)}
    tally: dict[str, int] = {}
    for told in of_parts.values():
        tally[told.state] = tally.get(told.state, 0) + 1
    order = (
        RUNNING,
        STARTING,
        STOPPING,
        FAILING,
        WAITING,
        QUEUED,
        FAILED,
        KILLED,
        CANCELLED,
        INTERRUPTED,
        NEVER_BEGUN,
    )
    state = next((word for word in order if tally.get(word)), FINISHED)
    if state != FINISHED and case.stop is not None:
        state = STOPPING if state in ACTIVE else CANCELLED
    first = next((told for told in of_parts.values() if told.state == state), Verdict(state))
    told = Verdict(state, parts=tally, alive=first.alive, of_slurm=first.of_slurm)
    bad = {name: one for name, one in of_parts.items() if one.state in (FAILED, KILLED)}
    if bad:
        name, one = next(iter(bad.items()))
        others = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        told.note = f"part {name} {one.state}{f': {one.note}' if one.note else ''}{others}"
    elif state in (QUEUED, WAITING):
        told.note = first.note
    if state not in (*ACTIVE, FINISHED):
        told.way_out = case.resume
    return told


def part_name(number: int, array: int) -> str:
    """How settings and records name a part: 0/4 is the first of four."""
    return f"{number}/{array}"


def _of_part(case: Case, number: int, array: int) -> Verdict:
    name = part_name(number, array)
    own = [account for account in case.accounts if account.part == name]
    state = next((s for key, s in case.jobs.items() if key.endswith(f"_{number}")), None)
    if any(account.how == "finished" for account in own):
        return Verdict(FINISHED)  # a duplicate that failed later did no harm
    alive = next((account for account in reversed(own) if account.alive), None)
    if alive is not None or (state is not None and not state.is_waiting and not state.is_over):
        return _at_work(case, alive, state)
    if state is not None and state.is_waiting:
        return Verdict(WAITING if own else QUEUED, reason(state.reason), of_slurm=state)
    if own:
        return _of_last(case, own[-1], state)
    ended = next((t.ended for t in case.traces if t.ended and t.job_id.endswith(f"_{number}")), None)
    if ended is not None:
        return Verdict(FAILED, first_line(ended.message))
    if state is not None:
        word = CANCELLED if state.state == "CANCELLED" else FAILED
        return Verdict(word, f"Slurm says {state.state}", of_slurm=state)
    submission = case.submission
    if submission is not None and (_supervised(case) or 0 <= case.now - submission.time < _MOMENT_S):
        return Verdict(QUEUED)
    return Verdict(NEVER_BEGUN)
