"""What a run was asked for, with which code it ran, and what happened: the plain facts for its page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from birdsd.config import settings_as_typed
from birdsd.format import event_words, first_line, moment
from birdsd.pages import page as html
from birdsd.pages.markup import Html, element, join
from birdsd.pages.page import name
from birdsd.runs.allocations import Submission
from birdsd.runs.run import Run
from birdsd.runs.status.detail import as_typed, in_words
from birdsd.runs.status.logs import newest_source, tail, text_of
from birdsd.runs.status.records import RunRecords

LOG_LINES, LOG_BYTES = 60, 24_000
_EVENTS = 60
# Told so often that they would hide what matters; the curves and the time line show them.
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

CSS = """
details{background:var(--card);border:1px solid var(--rule);border-radius:.7rem;padding:.7rem 1.2rem;
margin:1rem 0}
summary{cursor:pointer;font-weight:600}details[open] summary{margin-bottom:.6rem}
pre.asked{white-space:pre-wrap;overflow-wrap:anywhere}td .badge{margin:0;white-space:nowrap}
pre.log{display:flex;flex-direction:column-reverse;max-height:26rem;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere}
"""


def settings(config: Mapping[str, Any], submission: Submission | None) -> list[Html]:
    """What was asked for: the words that were typed, and everything that follows from them."""
    blocks = []
    if submission is not None:
        says = element("p", f"Submitted: {in_words(submission)}", class_="quiet")
        blocks += [says, element("pre", element("code", as_typed(submission)), class_="asked")]
    lines = list(settings_as_typed(config))
    if lines:
        summary = element("summary", f"The resolved configuration ({len(lines)} settings)")
        blocks.append(element("details", summary, element("pre", element("code", "\n".join(lines)))))
    return blocks


def environment(files: RunRecords, events: Sequence[Mapping[str, Any]]) -> Html:
    """What it ran on, and with which code."""
    rows: dict[str, object] = {}
    none: dict[str, Any] = {}
    told = next((event for event in reversed(events) if event.get("event") == "training"), none)
    if "parameters" in told:
        rows["Learns"] = f"{int(told['parameters']):,} parameters"
    for key, words in (("precision", "Precision"), ("engine", "Engine")):
        if key in told:
            why = told.get(f"{key}_reason")
            rows[words] = f"{told[key]} ({why})" if why else str(told[key])
    if "global_batch" in told:
        ranks, count, most = (told.get(key) for key in ("world_size", "micro_batches", "micro_batch"))
        rows["Global batch"] = f"{told['global_batch']}; last time {ranks} \u00d7 {count} \u00d7 up to {most}"
    began = [trace.began for trace in files.traces if trace.began is not None]
    hosts = list(dict.fromkeys(host for one in began for host in (one.hosts or [one.host]) if host))
    if hosts:
        rest = [f"and {len(hosts) - 6} more"] if len(hosts) > 6 else []
        rows["Ran on"] = join([*(name(host) for host in hosts[:6]), *rest], ", ")
    versions = dict.fromkeys(str(event["birdsd"]) for event in events if event.get("birdsd"))
    if versions:
        rows["birdsd"] = ", ".join(versions)
    rows["Code"] = _code(files.submission)
    rows["Signature"] = element("code", files.run.signature)
    rows["Folder"] = element("code", files.run.folder.resolve())
    return html.key_values(rows)


def _code(submission: Submission | None) -> object:
    if submission is None:
        return "started with `birdsd run` from the installed package: no snapshot was taken"
    said = f"commit {submission.code_version}" if submission.code_version else "version not known"
    if not submission.snapshot:
        return f"{said}; no snapshot"
    snapshot = Path(submission.snapshot)
    diff = snapshot.with_suffix(".diff")
    try:
        size = diff.stat().st_size
    except OSError:
        changes = "with uncommitted changes" if "+changes" in said else "no uncommitted changes"
        return f"{said}, {changes}; a copy is in code/{snapshot.name}"
    return (
        f"{said}, with uncommitted changes: {size:,} bytes in code/{diff.name}, beside the copy of the code"
    )


def happenings(events: Sequence[Mapping[str, Any]], now: float) -> Html:
    """The events that matter, the newest last."""
    telling = [event for event in events if event.get("event") not in _ROUTINE]
    left_out = max(0, len(telling) - _EVENTS)
    rows = []
    for event in telling[-_EVENTS:]:
        word = str(event.get("event", "?"))
        badge = html.badge(word, warn=True) if word in _BAD else word
        when = moment(float(event.get("time", 0.0)), now).replace(" ", "\u00a0")
        rows.append([when, badge, name(first_line(event_words(event), 600))])
    caption = f"The last {len(rows)} of {len(telling)} events; all are in events/." if left_out else None
    return html.table(["When", "What", ""], rows, caption=caption) if rows else Html("")


def last_words(run: Run) -> list[Html]:
    """The end of the log of a run that failed; empty where there is none."""
    source = newest_source(run, 0)
    if source is None:
        return []
    blocks = []
    for path in source.paths:
        try:
            said = _ANSI.sub("", text_of(tail(path, LOG_LINES)[0][-LOG_BYTES:])).strip()
        except OSError:
            continue
        # Of a progress bar, which writes over its own line, only the last state is worth a line.
        said = "\n".join(
            line.rpartition("\r")[2] if "\r" in line.rstrip("\r") else line for line in said.split("\n")
        )
        if said:
            blocks.append(element("pre", element("code", said), class_="log"))
    if not blocks:
        return []
    return [element("h3", "The end of its log"), element("p", source.title, class_="quiet"), *blocks]
