"""How the runs are: what their folders tell, and what Slurm says of their jobs, put together.

States come from Slurm where it answers, and from the run's own heartbeat where it does not: on a laptop,
or with the controller down. Everything here reads small files only, and asks Slurm once for all runs.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from birdsd.runs.allocations import FOLDER, STOP, SUBMISSION, Submission, newest_position
from birdsd.runs.run import EVENTS, SIGNATURE_FILE, Run
from birdsd.runs.starts import Start, last_words, over, silent_starts
from birdsd.runs.status.state import ACTIVE, FINISHED, RUNNING, Case, Verdict, verdict
from birdsd.runs.status.timing import Hours, Trace, hours, traces
from birdsd.site.slurm import JobState
from birdsd.site.slurm import jobs as ask_slurm

FINISHED_FILE = "finished.json"
# Runs that are over are read in full only so far back; the overview shows no more without --all.
RECENT = 10
# A controller that does not answer in this time is not waited for: heartbeats must do.
_PATIENCE_S = 8.0


@dataclass
class RunStatus:
    """How one run is. Times are seconds since 1970; None and "" mean that nothing is known.

    `position` is in samples: where it is while it runs, and of the newest checkpoint otherwise.
    `parts` counts the parts of an array by state.
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
    hours: Hours | None = None

    @property
    def share(self) -> float | None:
        """How much of it is done, 0 to 1."""
        if self.parts:
            return self.parts.get(FINISHED, 0) / max(1, sum(self.parts.values()))
        return min(1.0, self.position / self.total) if self.total else None

    def to_json(self) -> dict[str, Any]:
        plain = {key: value for key, value in vars(self).items() if key != "hours"}
        plain["share"] = self.share
        plain["hours"] = self.hours.to_json() if self.hours is not None else None
        return plain


@dataclass
class Files:
    """What was read of a run's folder."""

    run: Run
    job: str
    finished: dict[str, Any] | None = None
    submission: Submission | None = None
    stop: dict[str, Any] | None = None
    traces: list[Trace] = field(default_factory=list)
    in_full: bool = True
    held: int = 0  # folders of allocations
    activity: float = 0.0

    @property
    def job_ids(self) -> list[str]:
        """The jobs to ask Slurm for; an array is asked for as a whole."""
        found = list(self.submission.job_ids) if self.submission and not self.submission.is_local else []
        found += [trace.job_id for trace in self.traces if trace.ended is None and trace.job_id]
        return list(dict.fromkeys(name.split("_")[0] for name in found))

    def of_slurm(self, jobs: Mapping[str, JobState]) -> dict[str, JobState]:
        """What Slurm says of this run's jobs."""
        own = set(self.job_ids)
        return {name: state for name, state in jobs.items() if name.split("_")[0] in own}


def overview(root: Path, *, everything: bool = True, now: float | None = None) -> list[RunStatus]:
    """Every run below `root`: the unfinished first, and of each kind the newest activity first.

    Without `everything`, finished runs but the newest few come without hours and allocations.
    """
    now = time.time() if now is None else now
    found = [files for path in _folders(Path(root)) if (files := read_files(path)) is not None]
    finished = sorted((f for f in found if f.finished is not None), key=lambda f: -f.activity)
    for files in finished if everything else finished[:RECENT]:
        _read_allocations(files)
    ids = [name for files in found if files.finished is None for name in files.job_ids]
    jobs = ask_slurm(list(dict.fromkeys(ids)), timeout_s=_PATIENCE_S) if ids else {}
    return in_order(status_of(files, jobs, now) for files in found)


def status(run: Run, now: float | None = None) -> RunStatus:
    """How one run is; asks Slurm where the run has jobs."""
    files, jobs = look(run)
    return status_of(files, jobs, time.time() if now is None else now)


def look(run: Run) -> tuple[Files, dict[str, JobState]]:
    """All that is to be read of one run, and what Slurm says of its jobs."""
    files = read_files(run.folder) or Files(run, "train")
    if not files.in_full:
        _read_allocations(files)
    return files, ask_slurm(files.job_ids, timeout_s=_PATIENCE_S) if files.job_ids else {}


def in_order(found: Iterable[RunStatus]) -> list[RunStatus]:
    """The unfinished first, then the newest activity."""
    return sorted(found, key=lambda s: (s.state == FINISHED, -s.activity, s.name))


# -- reading ----------------------------------------------------------------------------------------


def _folders(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except OSError:
        return []


def read_files(folder: Path) -> Files | None:
    """What a run's folder tells; None where it is no run. Of a finished run not the allocations."""
    try:
        with os.scandir(folder) as entries:
            held = {entry.name: entry for entry in entries}
    except OSError:
        return None
    mark = _json(folder / SIGNATURE_FILE) if SIGNATURE_FILE in held else None
    if mark is None:
        return None
    files = Files(Run(folder, str(mark.get("signature", ""))), str(mark.get("job", "train")))
    for name in (SIGNATURE_FILE, FINISHED_FILE, SUBMISSION, STOP, "metrics.jsonl", EVENTS):
        if name in held:
            files.activity = max(files.activity, _changed(held[name]))
    if FINISHED_FILE in held:
        files.finished = _json(folder / FINISHED_FILE)
    if files.finished is not None:
        files.activity, files.in_full = _changed(held[FINISHED_FILE]), False
        return files
    files.submission = Submission.read(folder) if SUBMISSION in held else None
    files.stop = _json(folder / STOP) if STOP in held else None
    if FOLDER in held:
        _read_allocations(files)
    return files


def _read_allocations(files: Files) -> None:
    files.traces, files.in_full = traces(files.run.folder), True
    files.held = len(files.traces)
    files.submission = files.submission or Submission.read(files.run.folder)
    if files.finished is None:
        files.activity = max([files.activity, *(trace.last_sign for trace in files.traces)])


def _changed(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def submission_times(run: Run) -> dict[str, float]:
    """When each submission of a run was made, by its id, as its events tell."""
    told = [event for event in run.events() if event.get("event") == "submitted"]
    return {str(event.get("submission", "")): float(event["time"]) for event in told}


# -- judging ----------------------------------------------------------------------------------------


def status_of(files: Files, jobs: Mapping[str, JobState], now: float) -> RunStatus:
    """How a run is, from what was read of it and what Slurm says."""
    run, own = files.run, files.of_slurm(jobs)
    told = RunStatus(run.folder.name, str(run.folder), files.job, run.signature, FINISHED)
    told.activity, told.allocations = files.activity, files.held
    if files.finished is None:
        told.saved_position = newest_position(run.folder)
    if files.in_full:
        told.hours = account(files, own, now, told.saved_position)
    silent = silent_starts(run.folder, files.submission) if files.finished is None else []
    case = Case(
        run, files.job, files.finished is not None, files.submission, files.stop, files.traces,
        told.hours.accounts if told.hours else [], own, now, told.saved_position, len(silent),
        _launcher_said(files, silent),
    )  # fmt: skip
    judged = verdict(case)
    told.state, told.note, told.way_out, told.parts = judged.state, judged.note, judged.way_out, judged.parts
    _add_progress(told, files, judged, now)
    _add_queue(told, judged)
    return told


def _launcher_said(files: Files, silent: Sequence[Start]) -> str:
    """The launcher's words where birdsd itself never came to say any."""
    jobs = list(dict.fromkeys(start.job_id for start in silent))
    if not jobs and files.finished is None and files.submission is not None and not files.traces:
        jobs = files.submission.job_ids
    return last_words(files.run.folder, jobs)


def account(files: Files, own: Mapping[str, JobState], now: float, saved: int) -> Hours:
    """Where the hours of a run went. Its events are read only where submissions came before this one."""
    times: dict[str, float] = {}
    known = files.submission.id if files.submission is not None else ""
    if any(t.began and t.began.submission not in ("", known) for t in files.traces):
        times = submission_times(files.run)
    return hours(
        files.traces,
        now,
        job=files.job,
        saved=saved if files.finished is None else None,
        submission=files.submission,
        submitted=times,
        jobs=own,
        over=over(files.run.folder, files.submission),
    )


def _add_progress(told: RunStatus, files: Files, judged: Verdict, now: float) -> None:
    if files.finished is not None:
        told.position = told.saved_position = int(files.finished.get("position") or 0)
        told.total = int(files.finished.get("total") or told.position)
    else:
        told.position = told.saved_position
        told.total = _total(files)
    alive = judged.alive
    if alive is None:
        return
    told.nodes, told.world_size = alive.nodes, alive.world_size
    trace = next((trace for trace in files.traces if trace.name == alive.name), None)
    beat = trace.heartbeat if trace is not None else None
    if trace is None or beat is None:
        return
    told.phase, told.loss = beat.phase, beat.loss
    told.position = max(alive.position, 0)
    # What is silent goes at no rate that anyone knows.
    if told.state == RUNNING and files.job == "train" and not trace.is_silent(now):
        told.samples_per_s = beat.samples_per_s
        if beat.samples_per_s > 0 and told.total:
            told.eta_s = max(0.0, (told.total - told.position) / beat.samples_per_s)


def _total(files: Files) -> int:
    """How many samples the run is to see."""
    for trace in reversed(files.traces):
        if trace.heartbeat is not None and trace.heartbeat.total:
            return trace.heartbeat.total
    if files.job != "train":
        return 0
    try:
        optim = (_json(files.run.folder / "config.json") or {})["optim"]
        batch = int(optim["global_batch"] or 1)
        return math.ceil(int(optim["total_samples"] or 0) / batch) * batch
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0


def _add_queue(told: RunStatus, judged: Verdict) -> None:
    if judged.of_slurm is None:
        return
    told.job_id = judged.of_slurm.id
    if judged.of_slurm.is_waiting:
        told.queue_reason, told.expected_start = judged.of_slurm.reason, judged.of_slurm.start


def counts(found: Sequence[RunStatus]) -> dict[str, int]:
    """How many runs are in each state, the lively ones first."""
    order = [*ACTIVE, *sorted({s.state for s in found} - set(ACTIVE) - {FINISHED}), FINISHED]
    return {state: n for state in order if (n := sum(s.state == state for s in found))}
