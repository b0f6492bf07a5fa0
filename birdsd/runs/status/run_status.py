"""What a run's status is judged by, and the status itself.

`RunRecords` is what was read of a run's folder, with what Slurm says of its jobs; `RunStatus` is what is
concluded from it (see `state` and `overview`). Everything here reads small files only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from birdsd.runs.allocations import FOLDER, STOP, SUBMISSION, Submission, newest_position
from birdsd.runs.run import EVENTS, SIGNATURE_FILE, Run
from birdsd.runs.starts import Start, last_words, over, silent_starts
from birdsd.runs.status.timing import AllocationTimes, TimeBreakdown, Trace, time_breakdown, traces
from birdsd.site.slurm import JobState
from birdsd.training.result import FINISHED_FILE

FINISHED = "finished"


@dataclass
class RunStatus:
    """The status of one run. Times are seconds since 1970; None and "" mean that nothing is known.

    `position` is in samples: the current one while it runs, and that of the newest checkpoint otherwise.
    `parts` counts the shares of an array by state. `current` is the allocation that is running,
    `slurm_job` the job that the state was concluded from.
    """

    name: str
    folder: str
    job: str
    signature: str
    state: str
    note: str = ""
    way_out: str = ""
    phase: str = ""
    position: int = 0
    total: int = 0
    saved_position: int = 0
    samples_per_s: float = 0.0
    eta_s: float | None = None
    loss: float | None = None
    allocations: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    nodes: int = 0
    world_size: int = 0
    job_id: str = ""
    queue_reason: str = ""
    expected_start: float | None = None
    activity: float = 0.0
    hours: TimeBreakdown | None = None
    current: AllocationTimes | None = None
    slurm_job: JobState | None = None

    @property
    def share(self) -> float | None:
        """The fraction of it that is done, 0 to 1."""
        if self.parts:
            return self.parts.get(FINISHED, 0) / max(1, sum(self.parts.values()))
        return min(1.0, self.position / self.total) if self.total else None

    def to_json(self) -> dict[str, Any]:
        plain = {k: v for k, v in vars(self).items() if k not in ("hours", "current", "slurm_job")}
        plain["share"] = self.share
        plain["hours"] = self.hours.to_json() if self.hours is not None else None
        return plain


@dataclass
class RunRecords:
    """What was read of a run's folder at the time `now`, and what Slurm says of its `jobs`, by job id."""

    run: Run
    job: str = "train"
    finished: dict[str, Any] | None = None
    submission: Submission | None = None
    stop: dict[str, Any] | None = None
    traces: Sequence[Trace] = ()
    in_full: bool = True  # whether its allocations were read
    activity: float = 0.0
    jobs: Mapping[str, JobState] = field(default_factory=dict)
    now: float = 0.0

    @property
    def job_ids(self) -> list[str]:
        """The jobs to ask Slurm about; an array is asked about as a whole."""
        ids = list(self.submission.job_ids) if self.submission and not self.submission.is_local else []
        ids += [trace.job_id for trace in self.traces if trace.ended is None and trace.job_id]
        return list(dict.fromkeys(name.split("_")[0] for name in ids))

    def with_slurm(self, jobs: Mapping[str, JobState], now: float) -> RunRecords:
        """These records, with those of `jobs` that are this run's own."""
        own = set(self.job_ids)
        return replace(
            self, jobs={name: job for name, job in jobs.items() if name.split("_")[0] in own}, now=now
        )

    @property
    def resume(self) -> str:
        """The command that resumes it."""
        if self.submission is not None:
            return f"birdsd resume {self.run.folder.name}"
        return f"the same `birdsd run {self.job}` command resumes it"

    @cached_property
    def saved(self) -> int:
        """Samples of the newest checkpoint."""
        return newest_position(self.run.folder) if self.finished is None else 0

    @cached_property
    def times(self) -> TimeBreakdown | None:
        """Where its time went; None where its allocations were not read."""
        if not self.in_full:
            return None
        submitted: dict[str, float] = {}
        known = self.submission.id if self.submission is not None else ""
        # Its events are read only where there were submissions before this one.
        if any(t.began and t.began.submission not in ("", known) for t in self.traces):
            submitted = submission_times(self.run)
        return time_breakdown(
            self.traces,
            self.now,
            job=self.job,
            saved=self.saved if self.finished is None else None,
            submission=self.submission,
            submitted=submitted,
            jobs=self.jobs,
            over=over(self.run.folder, self.submission),
        )

    @property
    def accounts(self) -> list[AllocationTimes]:
        """Its allocations, oldest first."""
        return self.times.accounts if self.times is not None else []

    @cached_property
    def silent_starts(self) -> list[Start]:
        """The newest starts, in a row, in which birdsd did not begin."""
        return silent_starts(self.run.folder, self.submission) if self.finished is None else []

    @cached_property
    def launcher_message(self) -> str:
        """What the launcher printed where birdsd itself never came to say anything; "" for nothing."""
        jobs = list(dict.fromkeys(start.job_id for start in self.silent_starts))
        if not jobs and self.finished is None and self.submission is not None and not self.traces:
            jobs = self.submission.job_ids
        return last_words(self.run.folder, jobs)

    def status(
        self,
        state: str,
        note: str = "",
        way_out: str = "",
        *,
        current: AllocationTimes | None = None,
        slurm_job: JobState | None = None,
    ) -> RunStatus:
        """The run in this state: the reason in a sentence, and the command that helps; "" for none."""
        run = self.run
        return RunStatus(
            run.folder.name, str(run.folder), self.job, run.signature, state, note, way_out,
            saved_position=self.saved, allocations=len(self.traces), activity=self.activity,
            hours=self.times, current=current, slurm_job=slurm_job,
        )  # fmt: skip


# -- reading ----------------------------------------------------------------------------------------


def read_records(folder: Path) -> RunRecords | None:
    """The records of a run's folder; None where it is no run. Of a finished run not the allocations."""
    try:
        with os.scandir(folder) as entries:
            existing = {entry.name: entry for entry in entries}
    except OSError:
        return None
    mark = read_object(folder / SIGNATURE_FILE) if SIGNATURE_FILE in existing else None
    if mark is None:
        return None
    records = RunRecords(Run(folder, str(mark.get("signature", ""))), str(mark.get("job", "train")))
    for name in (SIGNATURE_FILE, FINISHED_FILE, SUBMISSION, STOP, "metrics.jsonl", EVENTS):
        if name in existing:
            records.activity = max(records.activity, _changed(existing[name]))
    if FINISHED_FILE in existing:
        records.finished = read_object(folder / FINISHED_FILE)
    if records.finished is not None:
        records.activity, records.in_full = _changed(existing[FINISHED_FILE]), False
        return records
    records.submission = Submission.read(folder) if SUBMISSION in existing else None
    records.stop = read_object(folder / STOP) if STOP in existing else None
    if FOLDER in existing:
        read_allocations(records)
    return records


def read_allocations(records: RunRecords) -> None:
    """Add the records of its allocations."""
    records.traces, records.in_full = traces(records.run.folder), True
    records.submission = records.submission or Submission.read(records.run.folder)
    if records.finished is None:
        records.activity = max([records.activity, *(trace.last_sign for trace in records.traces)])


def _changed(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where the file is missing, torn, or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def submission_times(run: Run) -> dict[str, float]:
    """When each submission of a run was made, by its id, according to its events."""
    submitted = [event for event in run.events() if event.get("event") == "submitted"]
    return {str(event.get("submission", "")): float(event["time"]) for event in submitted}
