"""The status of runs, from their folders and from what Slurm says of their jobs.

States come from Slurm where it answers, and from the run's own heartbeat where it does not: on a laptop, or
with the controller down. Only small files are read, and Slurm is asked once for all runs.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from birdsd.runs.run import Run
from birdsd.runs.status.run_status import (
    FINISHED,
    RunRecords,
    RunStatus,
    read_allocations,
    read_object,
    read_records,
)
from birdsd.runs.status.state import ACTIVE, RUNNING, judge
from birdsd.site.slurm import JobState
from birdsd.site.slurm import jobs as ask_slurm

# How many finished runs are read in full; the overview shows no more without --all.
RECENT = 10
# After this time the controller is not waited for any more, and heartbeats must do.
_PATIENCE_S = 8.0


def overview(root: Path, *, everything: bool = True, now: float | None = None) -> list[RunStatus]:
    """Every run below `root`: unfinished runs first, and by newest activity within each group.

    Without `everything`, all but the newest finished runs come without time breakdown and allocations.
    """
    now = time.time() if now is None else now
    runs = [records for path in _folders(Path(root)) if (records := read_records(path)) is not None]
    finished = sorted((r for r in runs if r.finished is not None), key=lambda r: -r.activity)
    for records in finished if everything else finished[:RECENT]:
        read_allocations(records)
    ids = [name for records in runs if records.finished is None for name in records.job_ids]
    jobs = ask_slurm(list(dict.fromkeys(ids)), timeout_s=_PATIENCE_S) if ids else {}
    return in_order(status_of(records, jobs, now) for records in runs)


def status(run: Run, now: float | None = None) -> RunStatus:
    """The status of one run; asks Slurm where the run has jobs."""
    records, jobs = look(run)
    return status_of(records, jobs, time.time() if now is None else now)


def look(run: Run) -> tuple[RunRecords, dict[str, JobState]]:
    """Everything that can be read of one run, and what Slurm says of its jobs."""
    records = read_records(run.folder) or RunRecords(run)
    if not records.in_full:
        read_allocations(records)
    return records, ask_slurm(records.job_ids, timeout_s=_PATIENCE_S) if records.job_ids else {}


def in_order(runs: Iterable[RunStatus]) -> list[RunStatus]:
    """The unfinished first, then the newest activity."""
    return sorted(runs, key=lambda s: (s.state == FINISHED, -s.activity, s.name))


def _folders(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except OSError:
        return []


def status_of(records: RunRecords, jobs: Mapping[str, JobState], now: float) -> RunStatus:
    """The status of a run, from what was read of it and what Slurm says."""
    records = records.with_slurm(jobs, now)
    status = judge(records)
    _add_progress(status, records)
    if status.slurm_job is not None:
        status.job_id = status.slurm_job.id
        if status.slurm_job.is_waiting:
            status.queue_reason, status.expected_start = status.slurm_job.reason, status.slurm_job.start
    return status


def _add_progress(status: RunStatus, records: RunRecords) -> None:
    if records.finished is not None:
        status.position = status.saved_position = int(records.finished.get("position") or 0)
        status.total = int(records.finished.get("total") or status.position)
    else:
        status.position, status.total = status.saved_position, _total(records)
    current = status.current
    if current is None:
        return
    status.nodes, status.world_size = current.nodes, current.world_size
    trace = next((trace for trace in records.traces if trace.name == current.name), None)
    beat = trace.heartbeat if trace is not None else None
    if trace is None or beat is None:
        return
    status.phase, status.loss = beat.phase, beat.loss
    status.position = max(current.position, 0)
    # The throughput of a run that is silent is unknown.
    if status.state == RUNNING and records.job == "train" and not trace.is_silent(records.now):
        status.samples_per_s = beat.samples_per_s
        if beat.samples_per_s > 0 and status.total:
            status.eta_s = max(0.0, (status.total - status.position) / beat.samples_per_s)


def _total(records: RunRecords) -> int:
    """How many samples the run will see."""
    for trace in reversed(records.traces):
        if trace.heartbeat is not None and trace.heartbeat.total:
            return trace.heartbeat.total
    if records.job != "train":
        return 0
    try:
        optim = (read_object(records.run.folder / "config.json") or {})["optim"]
        batch = int(optim["global_batch"] or 1)
        return math.ceil(int(optim["total_samples"] or 0) / batch) * batch
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0


def counts(runs: Sequence[RunStatus]) -> dict[str, int]:
    """How many runs are in each state, active ones first."""
    order = [*ACTIVE, *sorted({s.state for s in runs} - set(ACTIVE) - {FINISHED}), FINISHED]
    return {state: n for state in order if (n := sum(s.state == state for s in runs))}
