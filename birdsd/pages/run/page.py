"""`birdsd report RUN`: one self-contained page about a run, to be copied off the cluster and opened.

It needs no torch: what it shows was written by the run (metrics, previews, events, allocations).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import birdsd
from birdsd.errors import UserError
from birdsd.format import span
from birdsd.pages import page as html
from birdsd.pages.markup import Html, element
from birdsd.pages.page import Page, amount
from birdsd.pages.run import curves, previews, timeline
from birdsd.pages.run import facts as report_facts
from birdsd.pages.run.curves import Metrics, learning
from birdsd.pages.run.previews import Budget, listen
from birdsd.runs.run import Run
from birdsd.runs.status.overview import look, status_of
from birdsd.runs.status.records import RunRecords, RunStatus
from birdsd.runs.status.state import CHAIN_STOPPED, FAILED, FINISHED, KILLED, RUNNING
from birdsd.runs.status.timing import TimeBreakdown

REPORT = "report.html"
_BAD = (FAILED, KILLED, CHAIN_STOPPED)
_CSS = curves.CSS + timeline.CSS + previews.CSS + report_facts.CSS


class _StyledPage(Page):
    """A page with the looks of this report's own blocks."""

    def render(self) -> str:
        return super().render().replace("</style>", f"{_CSS}</style>", 1)


@dataclass(frozen=True)
class Written:
    """A page that was written, and what it says in figures."""

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
        raise UserError(f"--price {price}", "the price per GPU hour must be zero or more", "--price 2.50")
    now = time.time() if now is None else now
    files, jobs = look(run)
    status = status_of(files, jobs, now)
    spent = status.hours or TimeBreakdown([])
    metrics, events = Metrics.read(run.folder), run.events()
    try:
        config = run.config
    except UserError:
        config = {}
    made = f"Made by birdsd {birdsd.__version__} on {time.strftime('%Y-%m-%d %H:%M', time.localtime(now))}."
    page = _StyledPage(
        title=status.name,
        lead=_lead(status, config),
        badges=(html.badge("birdsd report"), html.badge(status.state, warn=status.state in _BAD)),
        footer=f"{made} This page needs no network: sounds, images and figures are embedded in the file.",
    )
    page.section("Status", *_state(status, spent, metrics, price, currency))
    if metrics.position:
        page.section("Training curves", *learning(metrics, spent.accounts))
    sounds = listen(run.folder, config, Budget())
    if sounds:
        page.section("Listen", *sounds)
    if spent.accounts or spent.waiting_s:
        page.section("Time breakdown", *_time(status, spent, events, price, currency, now))
    page.section("Settings, machines and code", *report_facts.settings(config, files.submission),
                 report_facts.environment(files, events))  # fmt: skip
    happened = _happened(status, files, events, now)
    if happened:
        page.section("Event log", *happened)
    path = page.write(_place(run, out))
    facts = {"page": str(path), "bytes": path.stat().st_size, **status.to_json()}
    if price is not None:
        facts |= {"cost": round(spent.gpu_hours * price, 2), "currency": currency}
    return Written(path, facts)


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
    said = f"Training {model} with method {method}" if model else "A training"
    said += f", {amount(status.total)} samples" if status.total else ""
    return f"{said} in steps of {batch}." if batch else f"{said}."


def _state(
    status: RunStatus, spent: TimeBreakdown, metrics: Metrics, price: float | None, currency: str
) -> list[Html]:
    blocks = []
    if status.note or status.way_out:
        said: list[object] = [status.note] if status.note else []
        if status.way_out:
            said.append(element("p", element("code", status.way_out)))
        blocks.append(html.note(*said, warn=status.state in _BAD))
    figures: dict[str, object] = {}
    if status.parts:
        figures["parts finished"] = f"{status.parts.get(FINISHED, 0)} of {sum(status.parts.values())}"
    elif status.share is not None:
        figures[f"of {amount(status.total)} samples"] = f"{status.share:.0%}"
    if status.state == RUNNING and status.eta_s is not None:
        figures["left"] = span(status.eta_s).replace(" ", "\u00a0")
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
    return [*blocks, html.tiles(figures)] if figures else blocks


def _time(
    status: RunStatus,
    spent: TimeBreakdown,
    events: list[dict[str, Any]],
    price: float | None,
    currency: str,
    now: float,
) -> list[Html]:
    said = ""
    if spent.ratio is not None and status.job == "train":
        said = f"{spent.ratio:.1%} of the allocated time was effective training time"
        said += f" ({spent.ratio_with_queue:.1%} including queue time)." if spent.queue_s else "."
    if spent.lost_samples:
        said += f" {spent.lost_samples:,} samples had to be recomputed."
    blocks = [element("p", said.strip())] if said else []
    line = timeline.time_line(spent, events, status.total, now, status.job)
    blocks.append(html.card(line))
    if spent.wall_s > 0:
        blocks.append(timeline.hours_table(spent, status.job, price, currency))
    if spent.accounts:
        blocks += [element("h3", "Allocations"), timeline.allocation_table(spent, now)]
    return blocks


def _happened(status: RunStatus, files: RunRecords, events: list[dict[str, Any]], now: float) -> list[Html]:
    blocks = []
    if status.state in _BAD:
        blocks += report_facts.last_words(files.run)
    table = report_facts.happenings(events, now)
    return [*blocks, table] if table else blocks
