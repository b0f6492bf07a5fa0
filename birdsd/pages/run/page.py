"""`birdsd report RUN`: one self-contained page about a run, to be copied off the cluster and opened.

It needs no torch: it shows what the run wrote (metrics, previews, events, allocations).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import birdsd
from birdsd.config import settings_as_typed
from birdsd.errors import BadValue, UserError
from birdsd.format import span
from birdsd.pages.environment import amount, unbroken
from birdsd.pages.page import Page
from birdsd.pages.run import facts, timeline
from birdsd.pages.run.curves import Metrics, loss_curves, small_curves
from birdsd.pages.run.previews import Budget, listen
from birdsd.runs.run import Run
from birdsd.runs.status.detail import as_typed, in_words
from birdsd.runs.status.overview import look, status_of
from birdsd.runs.status.run_status import RunStatus
from birdsd.runs.status.state import CHAIN_STOPPED, FAILED, FINISHED, KILLED, RUNNING
from birdsd.runs.status.timing import TimeBreakdown

REPORT = "report.html"
_BAD = (FAILED, KILLED, CHAIN_STOPPED)


@dataclass(frozen=True)
class Written:
    """A page that was written, and its figures."""

    path: Path
    facts: dict[str, Any]


def report(run: Run, out: Path | None = None, price: float | None = None, currency: str = "EUR") -> Path:
    """Write the page to `out` (a file, or a folder for it; default: RUN/report.html) and return its path.

    `price` is that of one GPU hour. Raises `UserError` for a price below zero.
    """
    return write(run, out, price, currency).path


def write(
    run: Run,
    out: Path | None = None,
    price: float | None = None,
    currency: str = "EUR",
    now: float | None = None,
) -> Written:
    """As `report`, with the figures that the page shows."""
    if price is not None and not 0 <= price < float("inf"):
        raise BadValue(f"--price {price}", "the price per GPU hour must be zero or more", "--price 2.50")
    now = time.time() if now is None else now
    files, jobs = look(run)
    status = status_of(files, jobs, now)
    spent = status.hours or TimeBreakdown([])
    metrics, events = Metrics.read(run.folder), run.events()
    try:
        config = run.config
    except UserError:
        config = {}
    origin = f"Made by birdsd {birdsd.__version__} on {time.strftime('%Y-%m-%d %H:%M', time.localtime(now))}."
    bad = status.state in _BAD
    page = Page(
        title=status.name,
        lead=_lead(status, config),
        badges=("birdsd report", status.state),
        warns=bad,
        footer=f"{origin} This page needs no network: sounds, images and figures are embedded in the file.",
        css=("timeline.css",),
    )
    log_title, log = facts.end_of_log(run) if bad else ("", [])
    rows, count = facts.log_of_events(events, now)
    submission = files.submission
    page.fill(
        "run.html", status=status, spent=spent, bad=bad, metrics=metrics,
        figures=_figures(status, spent, metrics, price, currency),
        loss=loss_curves(metrics, spent.accounts) if metrics.position else None,
        small=small_curves(metrics), sounds=listen(run.folder, config, Budget()),
        time_line=timeline.time_line(spent, events, status.total, now, status.job),
        hours=timeline.hours_table(spent, status.job, price, currency) if spent.wall_s > 0 else "",
        allocations=timeline.allocation_table(spent, now) if spent.accounts else "",
        submitted=in_words(submission) if submission else "",
        typed=as_typed(submission) if submission else "",
        settings=list(settings_as_typed(config)), environment=facts.environment(files, events),
        log_title=log_title, log=log, events=rows, event_count=count,
    )  # fmt: skip
    path = page.write(_place(run, out))
    written = {"page": str(path), "bytes": path.stat().st_size, **status.to_json()}
    if price is not None:
        written |= {"cost": round(spent.gpu_hours * price, 2), "currency": currency}
    return Written(path, written)


def _place(run: Run, out: Path | None) -> Path:
    if out is None:
        return run.folder / REPORT
    out = Path(out)
    return out / f"{run.folder.name}.html" if out.is_dir() else out


def _lead(status: RunStatus, config: dict[str, Any]) -> str:
    if status.job != "train":
        parts = f" in {sum(status.parts.values())} parts" if status.parts else ""
        return f"The job {status.job}{parts}."
    model, method = ((config.get(key) or {}).get("name") for key in ("model", "method"))
    batch = (config.get("optim") or {}).get("global_batch")
    lead = f"Training {model} with method {method}" if model else "A training"
    lead += f", {amount(status.total)} samples" if status.total else ""
    return f"{lead} in steps of {batch}." if batch else f"{lead}."


def _figures(
    status: RunStatus, spent: TimeBreakdown, metrics: Metrics, price: float | None, currency: str
) -> dict[str, str]:
    """The large figures, by what they mean."""
    figures = {}
    if status.parts:
        figures["parts finished"] = f"{status.parts.get(FINISHED, 0)} of {sum(status.parts.values())}"
    elif status.share is not None:
        figures[f"of {amount(status.total)} samples"] = f"{status.share:.0%}"
    if status.state == RUNNING and status.eta_s is not None:
        figures["left"] = unbroken(span(status.eta_s))
    if spent.ratio is not None and status.job == "train":
        figures["effective training time"] = f"{spent.ratio:.0%}"
    if spent.gpu_hours:
        figures["GPU hours"] = f"{spent.gpu_hours:,.3g}" if spent.gpu_hours < 100 else amount(spent.gpu_hours)
    elif spent.process_hours:
        figures["CPU process hours"] = f"{spent.process_hours:,.2f}"
    if price is not None:
        figures[f"{currency}, at {price:,.2f} per GPU hour"] = f"{spent.gpu_hours * price:,.2f}"
    if status.allocations:
        figures["allocations" if status.allocations > 1 else "allocation"] = str(status.allocations)
    if metrics.rate:
        figures["samples per second"] = amount(metrics.rate)
    if metrics.validation:
        at, loss = metrics.validation[-1]
        figures[f"validation loss at {amount(at)}"] = f"{loss:.3g}"
    return figures
