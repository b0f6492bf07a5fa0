"""One run in detail: its main settings, its allocations, the time breakdown, and the next steps."""

from __future__ import annotations

import shlex
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsd.errors import UserError
from birdsd.format import moment
from birdsd.runs.allocations import Submission
from birdsd.runs.run import Run
from birdsd.runs.status.overview import look, status_of
from birdsd.runs.status.run_status import RunRecords, RunStatus
from birdsd.runs.status.state import ACTIVE, CHAIN_STOPPED, FAILED, FAILING, FINISHED, KILLED, QUEUED, RUNNING
from birdsd.runs.status.timing import TimeBreakdown
from birdsd.runs.status.what_next import after
from birdsd.training.records import read_metrics

EVENTS_SHOWN, LOSSES_SHOWN = 12, 6
# So frequent that they would hide the other events.
_ROUTINE = ("saved", "validated", "preview")


@dataclass(frozen=True)
class Submitted:
    """One submission, described for the user."""

    time: float
    id: str
    words: str


@dataclass
class RunDetail:
    """What `birdsd status RUN` shows. `next_steps`: (what it does, command)."""

    status: RunStatus
    hours: TimeBreakdown
    settings: list[str]
    submissions: list[Submitted]
    events: list[dict[str, Any]]
    validation: list[tuple[int, float]]
    next_steps: list[tuple[str, str]]

    def to_json(self) -> dict[str, Any]:
        return {
            **self.status.to_json(),
            "settings": self.settings,
            "submissions": [vars(submission) for submission in self.submissions],
            "allocation_table": [account.to_json() for account in self.hours.accounts],
            "events": self.events,
            "validation": [{"position": at, "loss": loss} for at, loss in self.validation],
            "next_steps": [{"says": says, "command": run} for says, run in self.next_steps],
        }


def detail(run: Run, now: float | None = None) -> RunDetail:
    """The details of one run, as much as fits on a screen."""
    now = time.time() if now is None else now
    records, jobs = look(run)
    status = status_of(records, jobs, now)
    events = run.events()
    telling = [event for event in events if event.get("event") not in _ROUTINE]
    losses: deque[tuple[int, float]] = deque(maxlen=LOSSES_SHOWN)
    for line in read_metrics(run.folder):
        if line.get("kind") == "validation" and isinstance(line.get("loss"), (int, float)):
            losses.append((int(line["position"]), float(line["loss"])))
    return RunDetail(
        status,
        status.hours or TimeBreakdown([]),
        short_settings(records),
        submissions(records.submission, events),
        telling[-EVENTS_SHOWN:],
        list(losses),
        next_steps(status, now),
    )


def short_settings(records: RunRecords) -> list[str]:
    """The settings that distinguish runs: as typed for a submission, else from the config."""
    if records.submission is not None:
        return [as_typed(records.submission)]
    try:
        config = records.run.config
    except UserError:
        return []
    if records.job != "train":
        chosen = {key: value for key, value in config.items() if not isinstance(value, dict) and value}
        return [" ".join(f"{key}={value}" for key, value in chosen.items())] if chosen else []
    return training_settings(config)


def as_typed(submission: Submission) -> str:
    """The shell command that submits the job with the same settings."""
    return shlex.join(["birdsd", "submit", submission.job, *submission.settings])


def training_settings(config: dict[str, Any]) -> list[str]:
    """The groups of a training, and its most important numbers."""
    groups = [f"{group}={(config.get(group) or {}).get('name')}" for group in ("model", "method", "machine")]
    shards = (config.get("data") or {}).get("shards")
    optim = config.get("optim") or {}
    numbers = ("total_samples", "global_batch", "learning_rate")
    return [
        " ".join([*groups, f"data.shards={shards}"]),
        " ".join([f"seed={config.get('seed')}", *(f"optim.{key}={optim.get(key)}" for key in numbers)]),
    ]


def submissions(newest: Submission | None, events: list[dict[str, Any]]) -> list[Submitted]:
    """All submissions, newest first; earlier ones are taken from the events."""
    job_ids: dict[str, list[str]] = {}
    times: dict[str, float] = {}
    for event in events:
        if event.get("event") == "submitted":
            name = str(event.get("submission", ""))
            job_ids.setdefault(name, []).append(str(event.get("job_id", "?")))
            times.setdefault(name, float(event["time"]))
    earlier = [
        Submitted(times[name], name, f"job {', '.join(ids)}")
        for name, ids in job_ids.items()
        if newest is None or name != newest.id
    ]
    if newest is not None:
        earlier.append(Submitted(newest.time, newest.id, in_words(newest)))
    return sorted(earlier, key=lambda submission: -submission.time)


def in_words(submission: Submission) -> str:
    """The site and the resources of a submission, as a line."""
    site, wanted = submission.site, submission.submit
    nodes, tasks = int(wanted.get("nodes") or 1), int(wanted.get("tasks_per_node") or 0)
    parts = [f"site {site.get('name')}", f"{nodes} node{'s' * (nodes > 1)}"]
    parts += [f"{tasks} process{'es' * (tasks > 1)} per node"] if tasks else []
    parts += [f"{wanted['array']} parts"] if wanted.get("array") else []
    parts += [f"{site['time_limit_min']} min per allocation"] if site.get("time_limit_min") else []
    parts += [f"handover: {site['hand_over']}"] if site.get("hand_over") else []
    ids = submission.job_ids
    parts += [f"job {', '.join(ids[:3])}{f' and {len(ids) - 3} more' if len(ids) > 3 else ''}"] if ids else []
    parts += [f"code {submission.code_version}"] if submission.code_version else []
    return ", ".join(parts)


def next_steps(status: RunStatus, now: float) -> list[tuple[str, str]]:
    """The likely next steps: (what it does, command)."""
    name, steps = status.name, list[tuple[str, str]]()
    if status.way_out:
        says = "resumes it" if status.way_out.startswith("birdsd resume") else ""
        in_full = status.way_out.startswith("birdsd logs")
        steps.append(("shows the launcher's output" if in_full else says, status.way_out))
        if in_full and status.state not in ACTIVE:
            steps.append(("resumes it, once that is fixed", f"birdsd resume {name}"))
    if status.state == RUNNING:
        steps.append(("follows its log", f"birdsd logs -f {name}"))
    if status.state in (FAILED, KILLED, CHAIN_STOPPED, FAILING) and "birdsd logs" not in status.way_out:
        steps.append(("shows the end of its log", f"birdsd logs {name}"))
    if status.state in ACTIVE:
        steps.append(("saves, stops, and leaves the queue", f"birdsd cancel {name}"))
    if status.state == QUEUED and status.expected_start:
        steps.append(
            (f"expected to start about {moment(status.expected_start, now)}", f"squeue -j {status.job_id}")
        )
    if status.state == FINISHED:
        steps += after(Run(Path(status.folder), status.signature), status.job)
    if status.job == "train" and status.position:
        steps.append(("writes a page with curves, sounds and times", f"birdsd report {name}"))
    return steps
