"""What a run ran on and with which code, and what happened: the plain facts for its page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from birdsd.format import event_words, first_line, moment
from birdsd.pages.environment import printed, unbroken
from birdsd.pages.page import name
from birdsd.runs.allocations import Submission
from birdsd.runs.run import Run
from birdsd.runs.status.logs import newest_source, tail, text_of
from birdsd.runs.status.run_status import RunRecords

LOG_LINES, LOG_BYTES = 60, 24_000
_EVENTS = 60
# So frequent that they would hide what matters; the curves and the timeline show them.
_ROUTINE = ("saved", "validated", "preview", "training", "began", "resumed")
_BAD = (
    "save failed",
    "checkpoint set aside",
    "chain stopped",
    "killed",
    "hung",
    "error",
    "sample not decoded",
)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def environment(files: RunRecords, events: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """What it ran on, and with which code."""
    rows: dict[str, object] = {}
    none: dict[str, Any] = {}
    training = next((event for event in reversed(events) if event.get("event") == "training"), none)
    if "parameters" in training:
        rows["Trainable"] = f"{int(training['parameters']):,} parameters"
    for key, title in (("precision", "Precision"), ("engine", "Engine")):
        if key in training:
            why = training.get(f"{key}_reason")
            rows[title] = f"{training[key]} ({why})" if why else str(training[key])
    if "global_batch" in training:
        ranks, count, most = (training.get(key) for key in ("world_size", "micro_batches", "micro_batch"))
        layout = f"{ranks} \u00d7 {count} \u00d7 up to {most}"
        rows["Global batch"] = f"{training['global_batch']}; last time {layout}"
    began = [trace.began for trace in files.traces if trace.began is not None]
    hosts = list(dict.fromkeys(host for one in began for host in (one.hosts or [one.host]) if host))
    if hosts:
        rest = [f"and {len(hosts) - 6} more"] if len(hosts) > 6 else []
        rows["Ran on"] = Markup(", ").join([*map(name, hosts[:6]), *rest])
    versions = dict.fromkeys(str(event["birdsd"]) for event in events if event.get("birdsd"))
    if versions:
        rows["birdsd"] = ", ".join(versions)
    rows["Code"] = _code(files.submission)
    rows["Signature"] = Markup("<code>{}</code>").format(files.run.signature)
    rows["Folder"] = Markup("<code>{}</code>").format(printed(files.run.folder.resolve()))
    return rows


def _code(submission: Submission | None) -> object:
    if submission is None:
        return "started with `birdsd run` from the installed package: no snapshot was taken"
    version = f"commit {submission.code_version}" if submission.code_version else "version not known"
    if not submission.snapshot:
        return f"{version}; no snapshot"
    snapshot = Path(submission.snapshot)
    diff = snapshot.with_suffix(".diff")
    try:
        size = diff.stat().st_size
    except OSError:
        changes = "with uncommitted changes" if "+changes" in version else "no uncommitted changes"
        return f"{version}, {changes}; a copy is in code/{snapshot.name}"
    return f"{version}, with uncommitted changes: {size:,} bytes in code/{diff.name}, beside the copy"


def log_of_events(
    events: Sequence[Mapping[str, Any]], now: float
) -> tuple[list[tuple[str, str, bool, str]], int]:
    """The events that matter, the newest last: (when, what, whether it is bad, details) of the last ones,
    and how many there are in all."""
    telling = [event for event in events if event.get("event") not in _ROUTINE]
    rows = []
    for event in telling[-_EVENTS:]:
        word = str(event.get("event", "?"))
        when = unbroken(moment(float(event.get("time", 0.0)), now))
        rows.append((when, word, word in _BAD, first_line(event_words(event), 600)))
    return rows, len(telling)


def end_of_log(run: Run) -> tuple[str, list[str]]:
    """What the log of a run that failed is called, and the end of each of its files; empty without one."""
    source = newest_source(run, 0)
    texts = []
    for path in source.paths if source is not None else ():
        try:
            text = _ANSI.sub("", text_of(tail(path, LOG_LINES)[0][-LOG_BYTES:])).strip()
        except OSError:
            continue
        # A progress bar writes over its own line: only its last state is of interest.
        lines = [line.rpartition("\r")[2] if "\r" in line.rstrip("\r") else line for line in text.split("\n")]
        if text:
            texts.append("\n".join(lines))
    return (source.title if source is not None else ""), texts
