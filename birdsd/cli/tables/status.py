"""What `birdsd status` prints: a table of runs, and one run in detail."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from birdsd.format import ELLIPSIS, event_words, moment, printable, short, span, table
from birdsd.runs.status.overview import RECENT, counts
from birdsd.runs.status.run_status import RunStatus
from birdsd.runs.status.state import CANCELLED, FINISHED
from birdsd.runs.status.timing import START_PARTS, AllocationTimes, TimeBreakdown, title

if TYPE_CHECKING:
    from birdsd.runs.status.detail import RunDetail

WIDTH = 100
_QUIET = (FINISHED, CANCELLED)
_BAR = 30


def text(runs: Sequence[RunStatus], everything: bool = False, now: float | None = None) -> str:
    """The table of runs, at most `WIDTH` columns wide; without `everything` only the latest that ended."""
    now = time.time() if now is None else now
    if not runs:
        return "no runs here yet; start one with `birdsd run JOB ...` or `birdsd submit JOB ...`"
    ended = [s for s in runs if s.state in _QUIET]
    dropped = {id(s) for s in ([] if everything else ended[RECENT:])}
    shown = [s for s in runs if id(s) not in dropped]
    rows = [_cells(s) for s in shown]
    head = ("RUN", "STATE", "DONE", "RATE", "ETA", "ALLOC", "HOURS", "EFF")
    lines = table([head, *rows], left=(0, 1), width=WIDTH)
    out = [lines[0]]
    for status, line in zip(shown, lines[1:], strict=True):
        out.append(line)
        if status.state != FINISHED:
            out += _remarks(status)
    tally = ", ".join(f"{n} {state}" for state, n in counts(runs).items())
    out += ["", f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}: {tally}"]
    if dropped:
        out.append(f"{len(dropped)} finished or cancelled runs are not shown; use --all to list them")
    return "\n".join(out)


def _remarks(status: RunStatus) -> list[str]:
    remarks = [status.note] if status.note else []
    if status.way_out:
        remarks.append(f"-> {status.way_out}")
    return [line for remark in remarks for line in _wrapped(remark, "    ", "    ")]


def _wrapped(remark: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        printable(remark), WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )


def _cells(status: RunStatus) -> tuple[str, ...]:
    share = status.share
    done = f"{share:.0%}" if share is not None else ""
    if status.parts:
        done += f" of {sum(status.parts.values())} parts"
    elif status.total:
        done += f" of {short(status.total)}"
    rate = f"{short(status.samples_per_s)}/s" if status.samples_per_s else ""
    to_go = span(status.eta_s) if status.eta_s is not None else ""
    spent = status.hours
    ratio = spent.ratio if spent is not None and spent.wall_s >= 1 else None
    count = str(status.allocations) if status.hours is not None else ""
    return (
        status.name, status.state, done, rate, to_go, count, used_hours(spent),
        f"{ratio:.0%}" if ratio is not None else "",
    )  # fmt: skip


def used_hours(spent: TimeBreakdown | None) -> str:
    """GPU hours; hours of processes where there was no GPU."""
    if spent is None or spent.wall_s <= 0:
        return ""
    value, unit = (spent.gpu_hours, "gpu") if spent.gpu_hours else (spent.process_hours, "cpu")
    return (
        f"{value:,.0f} {unit}"
        if value >= 100
        else f"{value:.1f} {unit}"
        if value >= 1
        else f"{value:.2f} {unit}"
    )


# -- one run ------------------------------------------------------------------------------------------


def detail_text(detail: RunDetail, now: float | None = None) -> str:
    """One run in detail."""
    now = time.time() if now is None else now
    status = detail.status
    out = [f"{printable(status.name)}  {status.state}"]
    if status.note:
        out += _wrapped(status.note, "  ", "  ")
    out += _facts(detail, now)
    if detail.hours.accounts:
        out += ["", "ALLOCATIONS", *allocation_lines(detail.hours.accounts, now)]
    if detail.hours.wall_s > 0:
        out += ["", "TIME BREAKDOWN", *hour_lines(detail.hours, status.job)]
    if detail.validation:
        out += ["", "VALIDATION LOSS", _losses(detail.validation)]
    if detail.events:
        out += ["", "LAST EVENTS", *(_event_line(event, now) for event in detail.events)]
    if detail.next_steps:
        out += ["", "NEXT STEPS"]
        width = max((len(run) for says, run in detail.next_steps if says), default=0)
        out += [f"  {run:<{width}}  {says}".rstrip() for says, run in detail.next_steps]
    return "\n".join(out)


def _facts(detail: RunDetail, now: float) -> list[str]:
    status, rows = detail.status, list[tuple[str, str]]()
    if status.parts:
        rows.append(("parts", ", ".join(f"{n} {state}" for state, n in status.parts.items())))
    elif status.total:
        line = f"{status.position:,} of {status.total:,} samples ({status.share or 0:.1%})"
        if status.samples_per_s:
            line += f", {status.samples_per_s:,.1f}/s"
        if status.eta_s is not None:
            line += f", {span(status.eta_s)} left (ETA {moment(now + status.eta_s, now)})"
        rows.append(("progress", line))
        if status.state != FINISHED:
            rows.append(("saved", f"{status.saved_position:,} samples"))
    if status.world_size and status.phase:
        where = f"{status.world_size} rank{'s' * (status.world_size > 1)} on {status.nodes} node"
        loss = f", loss {status.loss:.4g}" if status.loss is not None else ""
        rows.append(("now", f"{status.phase}, {where}{'s' * (status.nodes > 1)}{loss}"))
    rows += [("settings", line) if not i else ("", line) for i, line in enumerate(detail.settings)]
    for number, submission in enumerate(detail.submissions):
        line = f"{moment(submission.time, now)}  {submission.words}"
        rows.append(("submitted" if not number else "", line))
    rows.append(("folder", status.folder))
    return [
        line
        for key, value in rows
        for line in _wrapped(value, f"  {key:<10}", " " * 12)
    ]  # fmt: skip


def allocation_lines(accounts: Sequence[AllocationTimes], now: float) -> list[str]:
    """The table of allocations."""
    parts = any(account.part not in ("", "0/1") for account in accounts)
    rows = []
    for account in accounts:
        name = f"{account.name} ({account.part})" if parts and account.part else account.name
        size = f"{account.nodes}x{max(1, account.world_size // max(1, account.nodes))}"
        lost = f"{account.lost_samples:,} ({span(account.lost_s)})" if account.lost_samples else ""
        moved = f"{account.start_position:,} -> {account.position:,}" if account.position else ""
        rows.append(
            (name, moment(account.begin, now), span(account.queue_s) if account.queue_s >= 1 else "",
             size, span(account.wall_s), moved, account.how, lost)
        )  # fmt: skip
    head = ("NAME", "STARTED", "QUEUED", "SIZE", "WALL TIME", "SAMPLES", "END", "LOST")
    return table([head, *rows], left=(0, 1, 6), indent=2, width=WIDTH)


def hour_lines(spent: TimeBreakdown, job: str = "train") -> list[str]:
    """Where the hours went, with a bar for each share of the allocated time."""
    whole = spent.wall_s + spent.queue_s
    lines = []
    for kind, value in spent.table():
        share = value / whole
        bar = "#" * max(1, round(_BAR * share)) if value else ""
        lines.append(f"  {title(kind, job):<26} {span(value):>12}  {share:>6.1%}  {bar}".rstrip())
        if kind == "start":
            parts = spent.start_parts()
            named = [f"{name} {span(parts[name])}" for name in START_PARTS if parts[name] >= 0.5]
            lines += [f"    {', '.join(named)}"] if named else []
    totals = [f"allocated {span(spent.wall_s)}"]
    totals += [f"{hours} GPU hours" for hours in [f"{spent.gpu_hours:,.2f}"] if spent.gpu_hours]
    totals += [
        f"{hours} CPU process hours" for hours in [f"{spent.process_hours:,.2f}"] if spent.process_hours
    ]
    if spent.ratio is not None:
        with_queue = f", {spent.ratio_with_queue:.1%} including queue time" if spent.queue_s else ""
        what = "effective training time" if job == "train" else "at work"
        totals.append(f"{what} {spent.ratio:.1%}{with_queue}")
    return [*lines, *_wrapped("; ".join(totals), "  ", "  ")]


def _losses(points: Sequence[tuple[int, float]]) -> str:
    return "  " + "   ".join(f"{short(at)}: {loss:.4g}" for at, loss in points)


def _event_line(event: dict[str, Any], now: float) -> str:
    details = event_words(event)
    name = str(event.get("event", "?"))
    line = printable(f"{moment(float(event['time']), now)}  {name}{f': {details}' if details else ''}")
    return f"  {line if len(line) <= WIDTH - 2 else line[: WIDTH - 3] + ELLIPSIS}"
