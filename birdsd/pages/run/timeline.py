"""The timeline of a run's allocations, for its page: progress above, what each allocation did below.

Where everything lies; templates/timeline.html draws it, as inline SVG that is stretched to the width there
is, with its text in HTML around it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from birdsd.format import moment, short, span
from birdsd.pages.charts import HEIGHT, WIDTH, nice_ticks
from birdsd.pages.environment import amount, macro, unbroken
from birdsd.runs.status.timing import KINDS, START_PARTS, AllocationTimes, TimeBreakdown, title

# Stretches in which nothing ran and nothing waited are shown shortened where they would take the page.
_LONG_GAP, _SHOWN_GAP = 0.10, 0.035
MOST_LANES = 24
MOST_SIGNS = 14  # that have room for their sign; more are dots
_LANE = 26.0
_TICKS_S = (
    *(5, 10, 20, 60, 300, 900, 1800, 3600, 7200, 3 * 3600, 6 * 3600, 12 * 3600),
    *(days * 86400 for days in (1, 2, 7, 14, 30, 90, 365)),
)
# The columns of the table of allocations, and those with figures.
_ORDER = ("Allocation", "Part", "Started", "Queued", "Nodes \u00d7 ranks", "Wall time", "Samples", "End",
          "Recomputed")  # fmt: skip
_FIGURES = ("Queued", "Nodes \u00d7 ranks", "Wall time", "Samples", "Recomputed")
# How an allocation ended: a sign, and how it looks.
_SIGNS = {
    "finished": ("\u2713", "good"),
    "handed over": ("\u203a", "plain"),
    "stopped": ("\u25aa", "plain"),
    "cancelled": ("\u25aa", "plain"),
    "killed": ("\u00d7", "bad"),
    "error": ("!", "bad"),
}


def kind_class(kind: str) -> str:
    """The class that colours one kind of time."""
    short = {"wait for data": "wait", "preview": "show", "export": "show"}.get(kind, kind)
    return f"k k-{short}"


@dataclass(frozen=True)
class _Axis:
    """Time to a share of the width: straight where something happens, shortened where nothing does."""

    knots: tuple[tuple[float, float], ...]
    gaps: tuple[tuple[float, float], ...]

    @classmethod
    def over(cls, spans: Sequence[tuple[float, float]]) -> _Axis:
        """An axis over stretches of time that may overlap."""
        busy: list[list[float]] = []
        for begin, end in sorted(spans):
            if busy and begin <= busy[-1][1]:
                busy[-1][1] = max(busy[-1][1], end)
            else:
                busy.append([begin, end])
        whole = sum(end - begin for begin, end in busy) or 1.0
        knots, gaps, at = [(busy[0][0], 0.0)], [], 0.0
        for place, (begin, end) in enumerate(busy):
            if place:
                idle = begin - busy[place - 1][1]
                if idle > _LONG_GAP * whole:
                    gaps.append((busy[place - 1][1], begin))
                    idle = _SHOWN_GAP * whole
                at += idle
                knots.append((begin, at))
            at += end - begin
            knots.append((end, at))
        return cls(tuple((when, x / (at or 1.0)) for when, x in knots), tuple(gaps))

    def share(self, when: float) -> float:
        """Where a time stands, 0 to 1."""
        before = self.knots[0]
        for knot in self.knots:
            if when <= knot[0]:
                width = knot[0] - before[0]
                part = (when - before[0]) / width if width > 0 else 1.0
                return before[1] + (knot[1] - before[1]) * min(1.0, max(0.0, part))
            before = knot
        return 1.0

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Round times of day, or days, that do not stand too close; never inside a shortened gap."""
        begin, end = self.knots[0][0], self.knots[-1][0]
        busy = (end - begin) - sum(b - a for a, b in self.gaps)
        step = next((s for s in _TICKS_S if busy / s <= most), _TICKS_S[-1])
        zone = time.localtime(begin).tm_gmtoff
        first = (int((begin + zone) // step) + 1) * step - zone
        placed: list[tuple[float, str]] = []
        day = ""
        when = float(first)
        while when < end and len(placed) < 200:
            inside = any(a < when < b for a, b in self.gaps)
            share = self.share(when)
            room = 0.15 if placed and "," in placed[-1][1] else 0.1
            if not inside and (not placed or share - placed[-1][0] > room):
                today = time.strftime("%b %-d", time.localtime(when))
                clock = time.strftime("%H:%M" if step >= 60 else "%H:%M:%S", time.localtime(when))
                if step >= 86400:
                    text = today
                else:
                    text = clock if today == day else f"{today}, {clock}"
                day = today
                placed.append((share, text))
            when += step
        return placed


def time_line(
    spent: TimeBreakdown, events: Sequence[dict[str, Any]], total: int, now: float, job: str = "train"
) -> Markup:
    """Progress and allocations over one axis of time."""
    lanes, left_out = _lanes(spent.accounts)
    shown = [account for lane in lanes for account in lane]
    if not shown:
        return Markup('<p class="quiet">No allocation has started yet.</p>')
    waited = _waited(lanes)
    spans = [(waited[account.name], account.end) for account in shown]
    waiting_s = max(spent.waiting.values(), default=0.0)
    if waiting_s > 0:
        spans.append((now - waiting_s, now))
    axis = _Axis.over(spans)
    return macro("timeline.html", "time_line")(
        signs=_signs(shown), ticks=axis.ticks(), left_out=left_out, shortened=bool(axis.gaps), width=WIDTH,
        progress=_progress(shown, events, total, axis, now) if any(a.position for a in shown) else None,
        strip=_strip(lanes, waited, axis, (waiting_s, now), job), kinds=_kinds(spent, job),
    )  # fmt: skip


def _lanes(accounts: Sequence[AllocationTimes]) -> tuple[list[list[AllocationTimes]], int]:
    """Allocations that do not overlap share a lane; what finds none is counted."""
    lanes: list[list[AllocationTimes]] = []
    left_out = 0
    for account in sorted(accounts, key=lambda a: a.begin):
        free = next((lane for lane in lanes if lane[-1].end <= account.begin + 1), None)
        if free is not None:
            free.append(account)
        elif len(lanes) < MOST_LANES:
            lanes.append([account])
        else:
            left_out += 1
    return lanes, left_out


def _waited(lanes: Sequence[Sequence[AllocationTimes]]) -> dict[str, float]:
    """When each began to wait, by name; in the drawing not before the one before it in its lane had ended."""
    since: dict[str, float] = {}
    for lane in lanes:
        before = float("-inf")
        for account in lane:
            since[account.name] = min(account.begin, max(account.begin - account.queue_s, before))
            before = account.end
    return since


@dataclass(frozen=True)
class _Box:
    """A stretch of time in a lane: its colour, place and size in the drawing, and its tip."""

    look: str
    x: float
    y: float
    width: float
    tip: str
    height: float = _LANE - 4


def _strip(
    lanes: Sequence[Sequence[AllocationTimes]],
    waited: dict[str, float],
    axis: _Axis,
    waiting: tuple[float, float],
    job: str,
) -> dict[str, Any]:
    """The lanes: boxes, the edges between allocations, their names, and where the axis is cut."""
    boxes, edges, names = [], [], []
    high = _LANE * len(lanes)
    for row, lane in enumerate(lanes):
        y = row * _LANE + 2
        for account in lane:
            tip = f"{title('queue')}: {span(account.queue_s)}"
            boxes.append(_box(axis, waited[account.name], account.begin, y, "queue", tip))
            boxes += _phases(account, axis, y, job)
            left, right = axis.share(account.begin), axis.share(account.end)
            edges.append((WIDTH * left, y, y + _LANE - 4))
            if right - left > 0.07:
                names.append((account.name, left, right - left, (y + 6.5) / high))
    waiting_s, now = waiting
    if waiting_s > 0:
        since = max(now - waiting_s, lanes[0][-1].end)
        boxes.append(_box(axis, since, now, 2, "queue", f"{title('queue')}: {span(waiting_s)}"))
    return {
        "boxes": [box for box in boxes if box.width >= 0.05], "edges": edges, "names": names, "height": high,
        "cuts": [WIDTH * (axis.share(a) + axis.share(b)) / 2 for a, b in axis.gaps],
        "count": sum(len(lane) for lane in lanes),
    }  # fmt: skip


def _box(axis: _Axis, begin: float, end: float, y: float, kind: str, tip: str) -> _Box:
    x = WIDTH * axis.share(begin)
    return _Box(kind_class(kind), x, y, WIDTH * axis.share(end) - x, tip)


def _phases(account: AllocationTimes, axis: _Axis, y: float, job: str) -> list[_Box]:
    """The boxes of one allocation, each as wide as its share of the allocation."""
    parts = {**account.seconds, "train": account.seconds["train"] - account.lost_s}
    order = ["start", "train", "lost", *KINDS[2:]]
    parts["lost"] = account.lost_s
    whole = sum(parts.values()) or 1.0
    boxes, at = [], account.begin
    length = account.end - account.begin
    for kind in order:
        until = at + length * parts[kind] / whole
        tip = f"{account.name}, {title(kind, job)}: {span(parts[kind])}"
        boxes.append(_box(axis, at, until, y, kind, tip))
        at = until
    return boxes


def _progress(
    shown: Sequence[AllocationTimes], events: Sequence[dict[str, Any]], total: int, axis: _Axis, now: float
) -> dict[str, Any]:
    """Samples by time: the paths where they rise, wait (`flat`) and fall back (`drop`), and the signs."""
    top = max(total, max(account.position for account in shown)) or 1
    paths, signs = [], []
    ordered = sorted(shown, key=lambda a: a.begin)

    def path(*points: tuple[float, float]) -> str:
        return "M" + "L".join(f"{WIDTH * axis.share(when):.1f} {HEIGHT * (1 - position / top):.1f}"
                              for when, position in points)  # fmt: skip

    for place, account in enumerate(ordered):
        points = _points(account, events)
        paths.append(("series s1", path(*points)))
        after = ordered[place + 1] if place + 1 < len(ordered) else None
        end, reached = points[-1]
        back = reached - account.lost_samples if after is None else after.start_position
        if back < reached:
            paths.append(("drop", path((end, reached), (end, back))))
        if after is not None and after.begin > end:
            paths.append(("flat", path((end, back), (after.begin, back))))
        signs.append(_sign(account, axis.share(end), reached / top, small=len(ordered) > MOST_SIGNS))
    ticks = [(tick / top, short(tick)) for tick in nice_ticks(0, top, 4)]
    return {
        "paths": paths, "signs": [sign for sign in signs if sign], "ticks": ticks, "height": HEIGHT,
        "gridlines": [HEIGHT * (1 - share) for share, _ in ticks],
        "alt": f"Progress in samples, up to {amount(max(a.position for a in shown))} of {amount(top)}",
    }  # fmt: skip


def _points(account: AllocationTimes, events: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """(time, samples) of an allocation: flat while it starts, then by its own events."""
    marks = [
        (float(event["time"]), float(event["position"]))
        for event in events
        if event.get("allocation") == account.name and event.get("event") in ("saved", "validated", "preview")
        and isinstance(event.get("position"), (int, float))
    ]  # fmt: skip
    begin = min(account.begin + account.seconds["start"], account.end)
    points = [(account.begin, float(account.start_position)), (begin, float(account.start_position))]
    last = account.end - account.seconds["unknown"]
    for when, position in sorted(marks):
        if points[-1][0] < when < last and position >= points[-1][1]:
            points.append((when, position))
    points.append((max(last, points[-1][0]), float(account.position)))
    if account.end > points[-1][0]:
        points.append((account.end, float(account.position)))
    return points


def _sign(account: AllocationTimes, x: float, y: float, small: bool) -> dict[str, Any] | None:
    """How an allocation ended; None where there is no sign for it."""
    sign, look = _SIGNS.get(account.how.split(" (")[0], ("", ""))
    if not sign:
        return None
    tip = f"{account.name}: {account.how} at sample {account.position:,}"
    if account.lost_samples:
        tip += f"; {account.lost_samples:,} samples were recomputed"
    return {"text": "" if small else sign, "look": f"sign {look}{' small' if small else ''}", "x": x, "y": y,
            "tip": tip}  # fmt: skip


def _signs(shown: Sequence[AllocationTimes]) -> list[tuple[str, str, str]]:
    """What the signs mean, of those that there are: (class, sign, meaning)."""
    counts = Counter(how for account in shown if (how := account.how.split(" (")[0]) in _SIGNS)
    small = len(shown) > MOST_SIGNS
    return [
        (
            f"sign {_SIGNS[how][1]}{' small' if small else ''}",
            "" if small else _SIGNS[how][0],
            f"{how}, {n} times" if n > 1 else how,
        )
        for how, n in counts.items()
    ]


def _kinds(spent: TimeBreakdown, job: str) -> list[tuple[str, str]]:
    """What the colours mean, of those that there are; two kinds of one colour share a name."""
    named: dict[str, list[str]] = {}
    for kind, _ in spent.table():
        named.setdefault(f"dot {kind_class(kind)}", []).append(title(kind, job))
    return [(look, " and ".join(titles)) for look, titles in named.items()]


# -- figures ------------------------------------------------------------------------------------------


def hours_table(spent: TimeBreakdown, job: str, price: float | None, currency: str) -> Markup:
    """Where the hours went, as a bar and a table; with a price also what each cost."""
    whole, allocated = spent.wall_s + spent.queue_s, spent.wall_s
    rate = spent.gpu_hours / allocated * (price or 0.0) if allocated else 0.0  # per second
    rows = []
    for kind, value in spent.table():
        in_allocation = kind != "queue"
        rows.append((
            kind_class(kind), title(kind, job), span(value), value / whole,
            f"{value / allocated:.1%}" if in_allocation and allocated else "",
            f"{value * rate:,.2f}" if in_allocation else "",
        ))  # fmt: skip
    parts = spent.start_parts()
    return macro("timeline.html", "hours_table")(
        rows=rows, allocated=span(allocated), share=f"{allocated / whole:.1%}" if whole else "",
        cost=f"{spent.gpu_hours * price:,.2f}" if price is not None else None, currency=currency,
        start=", ".join(f"{name} {span(parts[name])}" for name in START_PARTS if parts[name] >= 0.5),
    )  # fmt: skip


def allocation_table(spent: TimeBreakdown, now: float) -> Markup:
    """One row for each allocation; columns that are empty throughout are left out."""
    has_parts = any(account.part not in ("", "0/1") for account in spent.accounts)
    columns: dict[str, list[object]] = {head: [] for head in _ORDER}
    for a in spent.accounts:
        columns["Allocation"].append(macro("blocks.html", "name")(a.name))
        columns["Part"].append(a.part if has_parts else "")
        columns["Started"].append(unbroken(moment(a.begin, now)))
        columns["End"].append(
            macro("timeline.html", "ended")(a.how, a.message[:160] if a.how == "error" else "")
        )
        columns["Queued"].append(span(a.queue_s) if a.queue_s >= 1 else "")
        columns["Nodes \u00d7 ranks"].append(f"{a.nodes} \u00d7 {max(1, a.world_size // max(1, a.nodes))}")
        columns["Wall time"].append(span(a.wall_s))
        columns["Samples"].append(f"{a.start_position:,} \u2192 {a.position:,}" if a.position else "")
        columns["Recomputed"].append(f"{a.lost_samples:,} ({span(a.lost_s)})" if a.lost_samples else "")
    heads = [head for head in _ORDER if head == "Allocation" or any(columns[head])]
    return macro("blocks.html", "table")(
        heads, list(zip(*(columns[head] for head in heads), strict=True)), wide=True,
        numeric=[place for place, head in enumerate(heads) if head in _FIGURES],
    )  # fmt: skip
