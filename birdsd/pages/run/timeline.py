"""The time line of a run's allocations, for its page: progress above, what each allocation did below.

Inline SVG, stretched to the width there is, with its words in HTML around it (as `evaluation.charts` does).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from birdsd.format import moment, span
from birdsd.pages import page as html
from birdsd.pages.charts import HEIGHT, WIDTH, nice_ticks, ticks_html
from birdsd.pages.markup import Html, element, join
from birdsd.pages.page import amount, name
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
# How an allocation ended: a sign, and how it looks.
_SIGNS = {
    "finished": ("\u2713", "good"),
    "handed over": ("\u203a", "plain"),
    "stopped": ("\u25aa", "plain"),
    "cancelled": ("\u25aa", "plain"),
    "killed": ("\u00d7", "bad"),
    "error": ("!", "bad"),
}

CSS = """
.k-queue{--k:var(--rule)}.k-start{--k:var(--c2)}.k-train{--k:var(--c1)}.k-lost{--k:var(--c5)}
.k-wait{--k:var(--c6)}.k-validate{--k:var(--c4)}.k-save{--k:var(--c3)}
.k-show{--k:rgb(var(--heat)/.45)}.k-unknown{--k:var(--soft)}
.line rect{fill:var(--k)}.line rect.k-queue{fill:var(--soft);fill-opacity:.22}
.legend i.k,.bar span.k,td i.k,th i.k{background:var(--k)}
.legend i.k-queue,th i.k-queue,.bar span.k-queue{background:var(--soft);opacity:.35}
th i.k{display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.55em}
.line .field{background:none}.line svg{overflow:visible}
.line .gap{fill:var(--paper)}.line .cut{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 3;
vector-effect:non-scaling-stroke}
.line .edge{stroke:var(--card);stroke-width:1.5;vector-effect:non-scaling-stroke}
.line .name{position:absolute;font-size:.72rem;line-height:1;white-space:nowrap;overflow:hidden;
text-overflow:ellipsis;color:var(--paper);padding-left:.4rem;pointer-events:none}
.chart path.flat{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:2 4}
.chart path.drop{stroke:var(--c5);stroke-width:1.8;stroke-dasharray:4 3}
.sign{position:absolute;width:1.05rem;height:1.05rem;border-radius:50%;transform:translate(-50%,50%);
font:700 .8rem/1.02rem var(--sans);text-align:center;background:var(--card);border:1.5px solid var(--c1);
color:var(--c1);cursor:default}
.sign.bad{border-color:var(--c5);color:var(--c5)}.sign.good{border-color:var(--c4);color:var(--c4)}
.sign.small{width:.5rem;height:.5rem;border-width:0;background:var(--c1)}
.sign.small.bad{background:var(--c5)}.sign.small.good{background:var(--c4)}
.legend .sign{position:static;display:inline-block;transform:none;margin-right:.45em}
.plot.tight{grid-template:"y f" auto/2.9rem 1fr}
@media (max-width:34rem){.plot.tight{grid-template-columns:2.4rem 1fr}.line .name{display:none}
.line .x>span:nth-child(even){display:none}}
"""


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
) -> Html:
    """Progress and allocations over one axis of time."""
    lanes, left_out = _lanes(spent.accounts)
    shown = [account for lane in lanes for account in lane]
    if not shown:
        return element("p", "No allocation has started yet.", class_="quiet")
    waited = _waited(lanes)
    spans = [(waited[account.name], account.end) for account in shown]
    waiting_s = max(spent.waiting.values(), default=0.0)
    if waiting_s > 0:
        spans.append((now - waiting_s, now))
    axis = _Axis.over(spans)
    strip = element(
        "div",
        element("div", class_="y"),
        _strip(lanes, waited, axis, (waiting_s, now), job),
        ticks_html(axis.ticks(), "x"),
        class_="plot line",
    )
    progress = _progress(shown, events, total, axis, now) if any(a.position for a in shown) else ""
    remarks = ["Times are those of the machine that made this page."]
    if axis.gaps:
        remarks.append("Periods in which nothing ran or waited are shortened.")
    if left_out:
        remarks.append(f"{left_out} further allocations are listed only in the table.")
    remarks.append(
        "Within an allocation the colours show how much time went where, not when: hover for figures."
    )
    return element(
        "figure", _signs(shown), progress, strip, _kinds(spent, job), element("figcaption", " ".join(remarks))
    )


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


def _strip(
    lanes: Sequence[Sequence[AllocationTimes]],
    waited: dict[str, float],
    axis: _Axis,
    waiting: tuple[float, float],
    job: str,
) -> Html:
    drawn, names = [], []
    high = _LANE * len(lanes)
    for row, lane in enumerate(lanes):
        y = row * _LANE + 2
        for account in lane:
            words = f"{title('queue')}: {span(account.queue_s)}"
            drawn.append(_box(axis, waited[account.name], account.begin, y, "queue", words))
            drawn += _phases(account, axis, y, job)
            left, right = axis.share(account.begin), axis.share(account.end)
            if right - left > 0.07:
                style = f"left:{100 * left:.2f}%;width:{100 * (right - left):.2f}%"
                style += f";top:{100 * (y + 6.5) / high:.2f}%"
                names.append(element("span", account.name, class_="name", style=style))
    waiting_s, now = waiting
    if waiting_s > 0:
        since = max(now - waiting_s, lanes[0][-1].end)
        drawn.append(_box(axis, since, now, 2, "queue", f"{title('queue')}: {span(waiting_s)}"))
    drawn += [
        element("line", class_="cut", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=0, y2=high)
        for x in (WIDTH * (axis.share(a) + axis.share(b)) / 2 for a, b in axis.gaps)
    ]
    count = sum(len(lane) for lane in lanes)
    alt = f"{count} allocations on a line of time, coloured by what they did"
    drawing = element(
        "svg", element("title", alt), *drawn, viewBox=f"0 0 {WIDTH:.0f} {high:.0f}",
        preserveAspectRatio="none", role="img", aria_label=alt,
    )  # fmt: skip
    return element("div", drawing, *names, class_="field", style=f"height:{high * 0.075:.2f}rem")


def _box(axis: _Axis, begin: float, end: float, y: float, kind: str, words: str) -> Html:
    x, until = WIDTH * axis.share(begin), WIDTH * axis.share(end)
    if until - x < 0.05:
        return Html("")
    return element(
        "rect", element("title", words), class_=kind_class(kind),
        x=f"{x:.2f}", y=y, width=f"{until - x:.2f}", height=_LANE - 4,
    )  # fmt: skip


def _phases(account: AllocationTimes, axis: _Axis, y: float, job: str) -> list[Html]:
    """The boxes of one allocation, each as wide as its share of the allocation."""
    parts = {**account.seconds, "train": account.seconds["train"] - account.lost_s}
    order = ["start", "train", "lost", *KINDS[2:]]
    parts["lost"] = account.lost_s
    whole = sum(parts.values()) or 1.0
    boxes, at = [], account.begin
    length = account.end - account.begin
    for kind in order:
        until = at + length * parts[kind] / whole
        words = f"{account.name}, {title(kind, job)}: {span(parts[kind])}"
        boxes.append(_box(axis, at, until, y, kind, words))
        at = until
    x = f"{WIDTH * axis.share(account.begin):.2f}"
    boxes.append(element("line", class_="edge", x1=x, x2=x, y1=y, y2=y + _LANE - 4))
    return boxes


def _progress(
    shown: Sequence[AllocationTimes], events: Sequence[dict[str, Any]], total: int, axis: _Axis, now: float
) -> Html:
    """Samples by time: where they rise, wait, and fall back."""
    top = max(total, max(account.position for account in shown)) or 1
    parts: list[Html] = []
    signs: list[Html] = []
    ordered = sorted(shown, key=lambda a: a.begin)

    def point(when: float, position: float) -> str:
        return f"{WIDTH * axis.share(when):.1f} {HEIGHT * (1 - position / top):.1f}"

    for place, account in enumerate(ordered):
        points = _points(account, events)
        drawn = "M" + "L".join(point(*p) for p in points)
        parts.append(element("path", class_="series s1", d=drawn, stroke_width=2.2, stroke_linejoin="round"))
        after = ordered[place + 1] if place + 1 < len(ordered) else None
        end, reached = points[-1]
        back = reached - account.lost_samples if account.lost_samples else reached
        if after is not None:
            back = after.start_position
        if back < reached:
            parts.append(element("path", class_="drop", d=f"M{point(end, reached)}L{point(end, back)}"))
        until = (
            after.begin
            if after is not None
            else now
            if not account.alive and account.how != "finished"
            else end
        )
        if until > end and after is not None:
            parts.append(element("path", class_="flat", d=f"M{point(end, back)}L{point(until, back)}"))
        signs.append(_sign(account, axis.share(end), reached / top, small=len(ordered) > MOST_SIGNS))
    lines = [
        element("line", class_="gridline", x1=0, x2=WIDTH, y1=f"{y:.1f}", y2=f"{y:.1f}")
        for y in (HEIGHT * (1 - tick / top) for tick in nice_ticks(0, top, 4))
    ]
    alt = f"Progress in samples, up to {amount(max(a.position for a in shown))} of {amount(top)}"
    drawing = element(
        "svg", element("title", alt), *lines, *parts, viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}",
        preserveAspectRatio="none", role="img", aria_label=alt,
    )  # fmt: skip
    ticks = [(tick / top, _brief(tick)) for tick in nice_ticks(0, top, 4)]
    field = element("div", drawing, *signs, class_="field", style="height:clamp(9rem,20vw,12rem)")
    units = element("div", element("span", "samples"), element("span", "time"), class_="units")
    return join([units, element("div", ticks_html(ticks, "y"), field, class_="plot chart tight")])


def _brief(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _points(account: AllocationTimes, events: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """(time, samples) of an allocation: flat while it starts, then as its own events tell."""
    told = [
        (float(event["time"]), float(event["position"]))
        for event in events
        if event.get("allocation") == account.name and event.get("event") in ("saved", "validated", "preview")
        and isinstance(event.get("position"), (int, float))
    ]  # fmt: skip
    begin = min(account.begin + account.seconds["start"], account.end)
    points = [(account.begin, float(account.start_position)), (begin, float(account.start_position))]
    last = account.end - account.seconds["unknown"]
    for when, position in sorted(told):
        if points[-1][0] < when < last and position >= points[-1][1]:
            points.append((when, position))
    points.append((max(last, points[-1][0]), float(account.position)))
    if account.end > points[-1][0]:
        points.append((account.end, float(account.position)))
    return points


def _sign(account: AllocationTimes, x: float, y: float, small: bool) -> Html:
    sign, look = _SIGNS.get(account.how.split(" (")[0], ("", ""))
    if not sign:
        return Html("")
    words = f"{account.name}: {account.how} at sample {account.position:,}"
    if account.lost_samples:
        words += f"; {account.lost_samples:,} samples were recomputed"
    style = f"left:{100 * x:.2f}%;bottom:{100 * y:.2f}%"
    kind = f"sign {look}{' small' if small else ''}"
    return element("span", "" if small else sign, class_=kind, style=style, title=words)


def _signs(shown: Sequence[AllocationTimes]) -> Html:
    """What the signs mean, of those that there are."""
    counts: dict[str, int] = {}
    for account in shown:
        how = account.how.split(" (")[0]
        if how in _SIGNS:
            counts[how] = counts.get(how, 0) + 1
    small = " small" if len(shown) > MOST_SIGNS else ""
    items = []
    for how, n in counts.items():
        sign, look = _SIGNS[how]
        dot = element("span", "" if small else sign, class_=f"sign {look}{small}", aria_hidden="true")
        items.append(element("li", dot, f"{how}, {n} times" if n > 1 else how))
    return element("ul", *items, class_="legend") if items else Html("")


def _kinds(spent: TimeBreakdown, job: str) -> Html:
    """What the colours mean, of those that there are; two kinds of one colour share a name."""
    named: dict[str, list[str]] = {}
    for kind, _ in spent.table():
        named.setdefault(kind_class(kind), []).append(title(kind, job))
    items = [
        element("li", element("i", class_=f"dot {look}", aria_hidden="true"), " and ".join(words))
        for look, words in named.items()
    ]
    return element("ul", *items, class_="legend")


# -- figures ------------------------------------------------------------------------------------------


def hours_table(spent: TimeBreakdown, job: str, price: float | None, currency: str) -> Html:
    """Where the hours went, as a bar and a table; with a price also what each cost."""
    rows: list[list[object]] = []
    pieces = []
    whole, allocated = spent.wall_s + spent.queue_s, spent.wall_s
    gpu_s = spent.gpu_hours * 3600 / allocated if allocated else 0.0
    for kind, value in spent.table():
        words = title(kind, job)
        head = join([element("i", class_=kind_class(kind)), words[0].upper() + words[1:]])
        row: list[object] = [head, span(value), f"{value / whole:.1%}"]
        row.append(f"{value / allocated:.1%}" if kind != "queue" and allocated else "")
        if price is not None:
            row.append(f"{value * gpu_s * price / 3600:,.2f}" if kind != "queue" else "")
        rows.append(row)
        pieces.append(
            element("span", class_=kind_class(kind), style=f"flex-grow:{value / whole:.5f}",
                    title=f"{words}: {span(value)}, {value / whole:.0%}")
        )  # fmt: skip
    headers = ["", "Time", "Of total", "Of allocated"]
    last: list[object] = ["Allocated", span(allocated), f"{allocated / whole:.1%}" if whole else "", "100%"]
    if price is not None:
        headers.append(currency)
        last.append(f"{spent.gpu_hours * price:,.2f}")
    words = ", ".join(f"{title(kind, job)} {value / whole:.0%}" for kind, value in spent.table())
    bar = element("div", *pieces, class_="bar", role="img", aria_label=f"Where the time went: {words}")
    table = html.table(headers, [*rows, last], numeric=tuple(range(1, len(headers))), total=True)
    parts = spent.start_parts()
    named = [f"{name} {span(parts[name])}" for name in START_PARTS if parts[name] >= 0.5]
    below = element("p", f"Start-up consisted of: {', '.join(named)}.", class_="quiet") if named else ""
    return join([bar, table, below])


def allocation_table(spent: TimeBreakdown, now: float) -> Html:
    """One row for each allocation."""
    parts = any(account.part not in ("", "0/1") for account in spent.accounts)
    rows: list[list[object]] = []
    for a in spent.accounts:
        lost = f"{a.lost_samples:,} ({span(a.lost_s)})" if a.lost_samples else ""
        moved = f"{a.start_position:,} \u2192 {a.position:,}" if a.position else ""
        size = f"{a.nodes} \u00d7 {max(1, a.world_size // max(1, a.nodes))}"
        how = (
            join([a.how, element("div", a.message[:160], class_="quiet")])
            if a.message and a.how == "error"
            else a.how
        )
        began = moment(a.begin, now).replace(" ", "\u00a0")
        row: list[object] = [name(a.name), began, span(a.queue_s) if a.queue_s >= 1 else ""]
        row += [size, span(a.wall_s), moved, how, lost]
        rows.append([*row[:1], a.part, *row[1:]] if parts else row)
    headers = [
        "Allocation",
        *(["Part"] if parts else []),
        "Began",
        "Waited",
        "Nodes \u00d7 ranks",
        "Held",
        "Samples",
    ]
    headers += ["End", "Recomputed"]
    used = [c for c in range(len(headers)) if c == 0 or any(row[c] for row in rows)]
    figures = ("Queued", "Nodes \u00d7 ranks", "Wall time", "Samples", "Recomputed")
    return html.table(
        [headers[c] for c in used],
        [[row[c] for c in used] for row in rows],
        numeric=[place for place, c in enumerate(used) if headers[c] in figures],
        wide=True,
    )
