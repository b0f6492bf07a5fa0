"""The time breakdown of a run: queue, start, productive training, recomputation, saving, idle.

Pure arithmetic over the records of allocations (see `allocations`) and, where available, what Slurm says of
their jobs. Clocks of different nodes may disagree, and one may jump back: a duration that a process
measured itself takes precedence over the difference of two times, and no difference is negative.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.runs.allocations import FOLDER, Allocation, Began, Ended, Submission
from birdsd.runs.heartbeat import Heartbeat, is_silent

if TYPE_CHECKING:
    from birdsd.site.slurm import JobState

# What an allocation spends its time on, in the order in which tables show it.
KINDS = ("start", "train", "wait for data", "validate", "save", "preview", "export", "unknown")
# What a start is made of, in order. "launch": Slurm's prolog, srun, Python, reading the settings.
START_PARTS = ("launch", "imports", "restore", "build", "first batch")
# While an allocation is in one of these phases, its time is not in the records yet.
_UNNOTED = {"start": "start", "restore": "start", "build": "start"}
_UNNOTED |= {kind: kind for kind in ("validate", "save", "preview", "export")}
TITLES = {
    "queue": "waiting in the queue",
    "start": "starting",
    "train": "productive training",
    "lost": "recomputed after failures",
    "wait for data": "waiting for data",
    "validate": "validating",
    "save": "blocked on checkpointing",
    "preview": "previews",
    "export": "export",
    "unknown": "idle or unknown",
}


def title(kind: str, job: str = "train") -> str:
    """The label of a kind of time in tables; jobs other than train are simply "at work"."""
    return "at work" if kind == "train" and job != "train" else TITLES[kind]


@dataclass(frozen=True)
class Trace:
    """The records of one allocation. Without `began` it was refused, or killed before it wrote anything."""

    name: str
    began: Began | None = None
    heartbeat: Heartbeat | None = None
    ended: Ended | None = None
    heard: float | None = None  # when its heartbeat was last written, by the file server's clock

    @property
    def job_id(self) -> str:
        """Slurm's job id; "" for a run by hand."""
        if self.began is not None:
            return self.began.job_id
        job, dot, restart = self.name.rpartition(".")
        return job if dot and restart.isdigit() and job.replace("_", "").isdigit() else ""

    @property
    def last_sign(self) -> float:
        """The time of its last record, seconds since 1970; 0 where there is none."""
        return max(
            (record.time for record in (self.began, self.heartbeat, self.ended) if record is not None),
            default=0.0,
        )

    def is_silent(self, now: float) -> bool:
        """Whether it has been silent for so long that only Slurm can tell whether it is alive."""
        return is_silent(now, (self.last_sign, self.heard))

    @property
    def resumed(self) -> int | None:
        """Where it resumed the run, in samples; None where it never got that far."""
        beat = self.heartbeat
        if beat is not None and beat.phase not in ("start", "restore"):
            return beat.resumed_from
        if self.ended is not None and self.ended.seconds.get("train") and self.began is not None:
            return self.began.position
        return None

    @property
    def position(self) -> int:
        """How far it got, in samples; 0 where it never resumed the run."""
        resumed = self.resumed
        if resumed is None:
            return 0
        positions = [record.position for record in (self.heartbeat, self.ended) if record is not None]
        return max([resumed, *positions])

    @property
    def seconds(self) -> dict[str, float]:
        """Its time by phase, as it measured it."""
        if self.ended is not None and self.ended.seconds:
            return self.ended.seconds
        return self.heartbeat.seconds if self.heartbeat is not None else {}


def traces(run_folder: Path) -> list[Trace]:
    """The records of all allocations of a run, each file read once, in the order in which they began."""
    records = []
    for path in (Path(run_folder) / FOLDER).glob("*"):
        allocation = Allocation(path)
        ended = allocation.ended
        beat = allocation.heartbeat
        heard = None
        if beat is not None and ended is None:
            try:
                heard = (path / "heartbeat.json").stat().st_mtime
            except OSError:
                heard = None
        records.append(Trace(path.name, allocation.began, beat, ended, heard))
    return in_order(records)


def in_order(records: Iterable[Trace]) -> list[Trace]:
    """Sorted by start time; the restarts of one job stay in order even where a clock jumped back."""
    by_time = sorted(records, key=lambda t: (t.began.time if t.began else t.last_sign, t.name))
    slots: dict[str, list[int]] = {}
    for place, trace in enumerate(by_time):
        if trace.began is not None and trace.began.job_id:
            slots.setdefault(trace.began.job_id, []).append(place)
    ordered = list(by_time)
    for places in slots.values():
        same = sorted((by_time[p] for p in places), key=lambda t: t.began.restart if t.began else 0)
        for place, trace in zip(places, same, strict=True):
            ordered[place] = trace
    return ordered


@dataclass
class AllocationTimes:
    """The times of one allocation, in seconds. `begin` and `end` are seconds since 1970."""

    name: str
    part: str
    job_id: str
    begin: float
    end: float
    alive: bool
    how: str  # finished, handed over, stopped, error, killed, cancelled; or running
    nodes: int = 1
    world_size: int = 1
    gpus: int = 0
    start_position: int = 0
    position: int = 0
    queue_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)  # by KINDS
    start_parts: dict[str, float] = field(default_factory=dict)
    lost_samples: int = 0
    lost_s: float = 0.0
    message: str = ""

    @property
    def wall_s(self) -> float:
        """The wall time of the allocation."""
        return sum(self.seconds.values())

    def to_json(self) -> dict[str, Any]:
        plain = {**vars(self), "wall_s": self.wall_s}
        plain["seconds"] = {name: round(value, 3) for name, value in self.seconds.items()}
        plain["start_parts"] = {name: round(value, 3) for name, value in self.start_parts.items()}
        return plain


@dataclass
class TimeBreakdown:
    """The time breakdown of a run. Seconds are summed over all its allocations."""

    accounts: list[AllocationTimes]
    waiting: dict[str, float] = field(default_factory=dict)  # seconds in the queue until now, by job

    @property
    def waiting_s(self) -> float:
        return sum(self.waiting.values())

    @property
    def wall_s(self) -> float:
        return sum(account.wall_s for account in self.accounts)

    @property
    def queue_s(self) -> float:
        return self.waiting_s + sum(account.queue_s for account in self.accounts)

    @property
    def lost_s(self) -> float:
        return sum(account.lost_s for account in self.accounts)

    @property
    def lost_samples(self) -> int:
        return sum(account.lost_samples for account in self.accounts)

    @property
    def useful_s(self) -> float:
        """Time in productive steps."""
        return self.of("train") - self.lost_s

    @property
    def ratio(self) -> float | None:
        """Effective training time: the fraction of the allocated time spent in productive steps."""
        return self.useful_s / self.wall_s if self.wall_s > 0 else None

    @property
    def ratio_with_queue(self) -> float | None:
        """The same fraction of allocated and queue time together."""
        whole = self.wall_s + self.queue_s
        return self.useful_s / whole if whole > 0 else None

    @property
    def gpu_hours(self) -> float:
        return sum(account.gpus * account.wall_s for account in self.accounts) / 3600

    @property
    def process_hours(self) -> float:
        """Process hours of allocations without a GPU."""
        return sum(a.world_size * a.wall_s for a in self.accounts if not a.gpus) / 3600

    def of(self, kind: str) -> float:
        """Seconds of one of KINDS."""
        return sum(account.seconds.get(kind, 0.0) for account in self.accounts)

    def start_parts(self) -> dict[str, float]:
        """Seconds by part of the start."""
        return {n: sum(a.start_parts.get(n, 0.0) for a in self.accounts) for n in START_PARTS}

    def table(self) -> list[tuple[str, float]]:
        """(kind, seconds) for "queue", KINDS and "lost"; "train" is productive time. Zeros are left out."""
        rows = [("queue", self.queue_s), ("start", self.of("start")), ("train", self.useful_s)]
        rows.append(("lost", self.lost_s))
        rows += [(kind, self.of(kind)) for kind in KINDS[2:]]
        return [(kind, value) for kind, value in rows if value > 0]

    def to_json(self) -> dict[str, Any]:
        def rounded(value: float | None) -> float | None:
            return None if value is None else round(value, 4)

        return {
            "seconds": {kind: round(value, 3) for kind, value in self.table()},
            "start_parts": {name: round(value, 3) for name, value in self.start_parts().items()},
            "wall_s": round(self.wall_s, 3),
            "queue_s": round(self.queue_s, 3),
            "lost_samples": self.lost_samples,
            "gpu_hours": round(self.gpu_hours, 4),
            "process_hours": round(self.process_hours, 4),
            "effective_ratio": rounded(self.ratio),
            "effective_ratio_with_queue": rounded(self.ratio_with_queue),
        }


def time_breakdown(
    records: Sequence[Trace],
    now: float,
    *,
    job: str = "train",
    saved: int | None = None,
    submission: Submission | None = None,
    submitted: Mapping[str, float] | None = None,
    jobs: Mapping[str, JobState] | None = None,
    over: Container[str] = (),
) -> TimeBreakdown:
    """The time breakdown of a run with the allocations `records`, at the time `now`.

    `saved`: position of the newest checkpoint, which decides what the last allocation lost. `submitted`:
    the time of each submission, by its id. `jobs`: what Slurm says, by job id. `over`: names of allocations
    that are known to have ended, whatever their heartbeats say. Time that no phase accounts for is work in
    jobs other than train, and unknown in a training.
    """
    jobs = jobs or {}
    times = {**(submitted or {})}
    if submission is not None:
        times.setdefault(submission.id, submission.time)
    accounts: list[AllocationTimes] = []
    last: dict[str, AllocationTimes] = {}
    for place, trace in enumerate(records):
        if trace.began is None:
            continue
        part = trace.began.part
        followed = trace.name in over or any(
            t.began is not None and t.began.part == part for t in records[place + 1 :]
        )
        before = last.get(part)
        account = _account(trace, now, job, _state_of(trace, jobs), followed)
        if before is not None and account.job_id and account.job_id == before.job_id:
            _begin_after(account, before.end)
        account.queue_s = _queued(trace.began, account.begin, before, times)
        if before is not None and before.how == "stopped" and trace.began.submission:
            before.how = "handed over"
        accounts.append(account)
        last[account.part] = account
    for part in last:
        ran = [trace for trace in records if trace.began is not None and trace.began.part == part]
        _note_losses(ran, [account for account in accounts if account.part == part], saved)
    return TimeBreakdown(accounts, _waiting_now(accounts, now, submission, jobs))


def _state_of(trace: Trace, jobs: Mapping[str, JobState]) -> JobState | None:
    """What Slurm says of this allocation: of its job, unless that was restarted since."""
    assert trace.began is not None
    state = jobs.get(trace.began.job_id) if trace.began.job_id else None
    if state is None or state.is_waiting or state.restarts != trace.began.restart:
        return None
    return state


def _account(trace: Trace, now: float, job: str, state: JobState | None, followed: bool) -> AllocationTimes:
    began = trace.began
    assert began is not None
    measured = trace.seconds
    seems_alive = not followed and not trace.is_silent(now)
    alive = trace.ended is None and (seems_alive if state is None else not state.is_over)
    taken_up = trace.resumed if trace.resumed is not None else began.position
    before_record = max(0.0, measured.get("start", 0.0) - measured.get("imports", 0.0))
    begin = began.time - before_record
    if state is not None and state.start and state.start < begin:
        begin = state.start
    end = now if alive else trace.last_sign
    if state is not None and state.is_over and state.end:
        end = max(end, state.end)
    seconds = {kind: measured.get(kind, 0.0) for kind in KINDS[1:-1]}
    parts = {name: measured.get(name, 0.0) for name in START_PARTS[1:]}
    parts["launch"] = before_record + max(0.0, began.time - before_record - begin)
    seconds["start"] = sum(parts.values())
    # The process has not recorded the time of the phase that it is in, or died in.
    until = now if alive and not trace.is_silent(now) else trace.last_sign
    unclaimed = max(0.0, until - begin - sum(seconds.values()))
    phase = trace.heartbeat.phase if trace.heartbeat is not None and trace.ended is None else ""
    if job != "train":
        seconds["train"] += unclaimed
    elif phase in _UNNOTED:
        kind = _UNNOTED[phase]
        seconds[kind] += unclaimed
        if kind == "start":
            name = {"start": "imports"}.get(phase, phase)
            parts[name] += unclaimed
    seconds["unknown"] = max(0.0, end - begin - sum(seconds.values()))
    return AllocationTimes(
        name=trace.name,
        part=began.part,
        job_id=began.job_id,
        begin=begin,
        end=max(end, begin),
        alive=alive,
        how=_how(trace, alive, state),
        nodes=began.nodes,
        world_size=began.world_size,
        gpus=began.gpus,
        start_position=taken_up,
        position=max(trace.position, taken_up),
        seconds={kind: seconds[kind] for kind in KINDS},
        start_parts={name: parts[name] for name in START_PARTS},
        message=trace.ended.message if trace.ended is not None else "",
    )


def _begin_after(account: AllocationTimes, end: float) -> None:
    """Correct a start that Slurm reported for an earlier life of the job: it began after the previous one
    ended."""
    early = min(end - account.begin, account.start_parts["launch"])
    if early > 0:
        account.begin += early
        account.start_parts["launch"] -= early
        account.seconds["start"] -= early


def _how(trace: Trace, alive: bool, state: JobState | None) -> str:
    if trace.ended is not None:
        return trace.ended.reason
    if alive:
        return "running"
    if state is not None and state.state == "CANCELLED":
        return "cancelled"
    word = state.state if state is not None and state.state not in ("COMPLETED", "FAILED") else ""
    return f"killed ({word})" if word else "killed"


def _queued(
    began: Began, begin: float, before: AllocationTimes | None, submitted: Mapping[str, float]
) -> float:
    """Seconds in the queue before an allocation; 0 for a run by hand."""
    if began.waited_s is not None:
        return max(0.0, began.waited_s)
    if not began.submission or not began.job_id:
        return 0.0
    since = [submitted[began.submission]] if began.submission in submitted else []
    if before is not None and before.job_id:
        since.append(before.end)
    return max(0.0, begin - max(since)) if since else 0.0


def _note_losses(ran: Sequence[Trace], accounts: Sequence[AllocationTimes], saved: int | None) -> None:
    """Count samples that had to be recomputed, for the allocation that lost them."""
    counted: list[tuple[AllocationTimes, int, int]] = []

    def go_back_to(position: int) -> None:
        for place, (account, low, high) in enumerate(counted):
            if high > position:
                kept = max(low, position)
                account.lost_samples += high - kept
                counted[place] = (account, low, kept)

    for trace, account in zip(ran, accounts, strict=True):
        if trace.resumed is not None:
            go_back_to(account.start_position)
            counted.append((account, account.start_position, account.position))
    if accounts and saved is not None and not accounts[-1].alive and accounts[-1].how != "finished":
        go_back_to(saved)
    for account in accounts:
        done = account.position - account.start_position
        if account.lost_samples and done > 0:
            account.lost_s = account.seconds["train"] * min(1.0, account.lost_samples / done)


def _waiting_now(
    accounts: Sequence[AllocationTimes],
    now: float,
    submission: Submission | None,
    jobs: Mapping[str, JobState],
) -> dict[str, float]:
    """Seconds in the queue so far, by job, of jobs that wait now, unless they wait for another job of the
    run."""
    waiting: dict[str, float] = {}
    for name, state in jobs.items():
        is_task = "_" in name
        if not state.is_waiting or state.reason.startswith("Dependency"):
            continue
        if any(other.startswith(f"{name}_") for other in jobs):
            continue  # it stands for tasks that are listed themselves
        of_same = [account for account in accounts if account.job_id == name or not is_task]
        if any(account.alive for account in of_same) or (not is_task and waiting):
            continue
        since = [account.end for account in of_same]
        since += [state.submit or (submission.time if submission is not None else now)]
        waiting[name] = max(0.0, now - max(since))
    return waiting
