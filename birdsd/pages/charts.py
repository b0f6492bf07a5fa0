"""Charts for a page: curves, a bar of shares, a table of confusions. Inline SVG and HTML, no library.

The drawing is stretched to the width there is while the words around it stay HTML, so that a chart is
as legible on a phone as on a wide screen and follows the reader's light or dark setting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from birdsd.pages.markup import Html, element, escape, join
from birdsd.pages.page import amount, name, seconds

WIDTH, HEIGHT = 1000.0, 400.0  # the drawing's own units; what shows is stretched to the page
MOST_POINTS = 600  # of a curve that are drawn; what lies between keeps its least and its greatest value
STRIPS = 80  # places along a chart that tell their values when pointed at


@dataclass(frozen=True)
class Curve:
    """One series of a chart. `look`: a line, a pale line (raw values behind a smoothed curve), or dots."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    look: Literal["line", "pale", "dots"] = "line"
    colour: int = 1  # 1 to 6


@dataclass(frozen=True)
class Marker:
    """A place on the x axis to point out; `x_until` makes it a stretch (work that was done twice)."""

    x: float
    label: str
    x_until: float | None = None


@dataclass(frozen=True)
class _Axis:
    """A linear or logarithmic axis from `low` to `high`."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where `value` stands between the two ends, 0 to 1."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        return ((math.log(value) if self.log else value) - low) / (high - low)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values inside the axis, at most about `most` of them."""
        return _log_ticks(self.low, self.high, most) if self.log else nice_ticks(self.low, self.high, most)


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten inside [low, high], at most `most` + 1."""
    rough = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**d for d in decades for m in multiples if low <= m * 10.0**d <= high]
        if len(found) <= most + 1:
            # A range within one decade may hold no such value at all: then a linear axis's will do.
            return found if len(found) >= 2 else nice_ticks(low, high, most)
    return found[:: math.ceil(len(found) / most)]


def smoothed(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """The running mean over `window` neighbours, float64, as long as `values`.

    At the two ends there are fewer neighbours; those that are not finite do not count.
    """
    y = np.asarray(values, dtype=np.float64)
    if not len(y):
        return y
    kernel, counts = np.ones(max(1, min(window, len(y)))), np.isfinite(y).astype(np.float64)
    total = np.convolve(np.where(counts > 0, y, 0.0), kernel, "same")
    weight = np.convolve(counts, kernel, "same")
    return np.where(weight > 0.5, total / np.maximum(weight, 1.0), np.nan)


def _finite(curve: Curve, log_y: bool) -> tuple[np.ndarray, np.ndarray]:
    """The points that can be drawn, by rising x: finite, and positive on a logarithmic axis."""
    x, y = np.asarray(curve.x, dtype=np.float64), np.asarray(curve.y, dtype=np.float64)
    keep = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (not log_y))
    order = np.argsort(x[keep], kind="stable")
    return x[keep][order], y[keep][order]


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_POINTS` points, with the least and the greatest y of every stretch kept."""
    if len(x) <= MOST_POINTS:
        return x, y
    chosen: list[int] = []
    for part in np.array_split(np.arange(len(x)), MOST_POINTS // 2):
        chosen += sorted({int(part[y[part].argmin()]), int(part[y[part].argmax()])})
    return x[chosen], y[chosen]


def _path(x: np.ndarray, y: np.ndarray, across: _Axis, up: _Axis, dots: bool) -> str:
    points = [
        f"{across.share(a) * WIDTH:.1f} {(1 - up.share(b)) * HEIGHT:.1f}" for a, b in zip(x, y, strict=True)
    ]
    # A dot is a line of no length with round ends: unlike a circle it stays round when stretched.
    return "".join(f"M{p}h.01" for p in points) if dots else "M" + "L".join(points)


def _series(curve: Curve, x: np.ndarray, y: np.ndarray, across: _Axis, up: _Axis) -> Html:
    dots = curve.look == "dots"
    width = {"line": 2.2, "pale": 1.2, "dots": 7}[curve.look]
    drawn = _path(*((x, y) if dots else _thinned(x, y)), across, up, dots)
    return element(
        "path", class_=f"series s{curve.colour}", d=drawn, stroke_width=width, stroke_linecap="round",
        stroke_linejoin="round", stroke_opacity=0.35 if curve.look == "pale" else None,
    )  # fmt: skip


def _strips(series: list[tuple[Curve, np.ndarray, np.ndarray]], across: _Axis, x_label: str) -> Html:
    """Transparent strips whose titles tell the values there."""
    strips = []
    half = (across.high - across.low) / STRIPS / 2
    for i in range(STRIPS):
        middle = across.low + (2 * i + 1) * half
        said = []
        for curve, x, y in series:
            nearest = int(np.abs(x - middle).argmin())
            if abs(x[nearest] - middle) <= half:
                said.append(f"{curve.name}: {y[nearest]:.4g}")
        if said:
            words = "\n".join([f"{x_label}: {amount(round(middle))}", *said])
            strips.append(
                element("rect", element("title", words), class_="strip", x=f"{i * WIDTH / STRIPS:.1f}", y=0,
                        width=f"{WIDTH / STRIPS:.1f}", height=HEIGHT)
            )  # fmt: skip
    return join(strips)


def _legend(curves: Sequence[Curve]) -> Html:
    shape = {"line": "", "pale": " pale", "dots": " dot"}
    items = [
        element("li", element("i", class_=f"s{c.colour}{shape[c.look]}", aria_hidden="true"), c.name)
        for c in curves
    ]
    return element("ul", *items, class_="legend")


def ticks_html(positions: Sequence[tuple[float, str]], side: Literal["x", "y"]) -> Html:
    """The labels of an axis: (share of the axis, text) each; those at the ends of x stay inside."""
    spans = []
    for share, text in positions:
        kind = None
        if side == "x":
            kind = "last" if share > 0.97 else "first" if share < 0.03 else None
        place = f"left:{100 * share:.2f}%" if side == "x" else f"bottom:{100 * share:.2f}%"
        spans.append(element("span", text, style=place, class_=kind))
    return element("div", *spans, class_=side, aria_hidden="true")


def _markers(markers: Sequence[Marker], across: _Axis) -> tuple[Html, Html]:
    """The lines and bands of the drawing, and the flags that name them."""
    drawn, flags = [], []
    for marker in markers:
        share = min(1.0, max(0.0, across.share(marker.x)))
        if marker.x_until is not None:
            until = min(1.0, max(0.0, across.share(marker.x_until)))
            left, right = sorted((share, until))
            x, width = left * WIDTH, (right - left) * WIDTH
            drawn.append(element("rect", class_="band", x=x, y=0, width=width, height=HEIGHT))
        drawn.append(element("line", class_="marker", x1=share * WIDTH, x2=share * WIDTH, y1=0, y2=HEIGHT))
        side = "left" if share > 0.5 else "right"
        flags.append(element("span", marker.label, class_=f"flag {side}", style=f"left:{100 * share:.2f}%"))
    return join(drawn), join(flags)


def line_chart(
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    log_y: bool = False,
    markers: Sequence[Marker] = (),
    caption: object = None,
) -> Html:
    """Curves over a common x axis; values that cannot be drawn are left out and counted below the chart."""
    series = [(curve, *_finite(curve, log_y)) for curve in curves]
    left_out = sum(len(curve.x) - len(x) for curve, x, _ in series)
    series = [item for item in series if len(item[1])]
    if not series:
        return element("p", f"{y_label}: nothing to draw yet.", class_="quiet")
    xs, ys = np.concatenate([x for _, x, _ in series]), np.concatenate([y for _, _, y in series])
    across, up = _limits(xs, ys, log_y)
    grid_lines = [
        element("line", class_="gridline", x1=0, x2=WIDTH, y1=f"{y:.1f}", y2=f"{y:.1f}")
        for y in ((1 - up.share(tick)) * HEIGHT for tick in up.ticks())
    ]
    lines, flags = _markers(markers, across)
    drawing = element(
        "svg", element("title", alt), *grid_lines, lines, *(_series(*item, across, up) for item in series),
        _strips(series, across, x_label),
        viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}", preserveAspectRatio="none", role="img", aria_label=alt,
    )  # fmt: skip
    frame = element(
        "div",
        ticks_html([(up.share(t), f"{t:.4g}") for t in up.ticks()], "y"),
        element("div", drawing, flags, class_="field", style="height:clamp(12rem,32vw,19rem)"),
        ticks_html([(across.share(t), amount(t)) for t in across.ticks(5)], "x"),
        class_="plot chart",
    )
    scale = ", logarithmic" if log_y else ""
    units = element("div", element("span", f"{y_label}{scale}"), element("span", x_label), class_="units")
    remark = f" Values that cannot be drawn (not finite): {left_out}." if left_out else ""
    below = element("figcaption", escape(caption or "") + escape(remark)) if caption or remark else ""
    return element("figure", _legend([c for c, _, _ in series]), units, frame, below)


def _limits(xs: np.ndarray, ys: np.ndarray, log_y: bool) -> tuple[_Axis, _Axis]:
    low, high = float(xs.min()), float(xs.max())
    across = _Axis(low if low > 0.1 * high else 0.0, high if high > low else low + 1)
    if log_y:
        margin = (ys.max() / ys.min()) ** 0.05 + 0.01
        return across, _Axis(float(ys.min() / margin), float(ys.max() * margin), log=True)
    spread = float(np.ptp(ys)) or abs(float(ys[0])) or 1.0
    bottom, top = float(ys.min()) - 0.05 * spread, float(ys.max()) + 0.05 * spread
    return across, _Axis(0.0 if ys.min() >= 0 and bottom < 0.3 * spread else bottom, top)


def share_bar(parts: Sequence[tuple[str, float]], *, alt: str) -> Html:
    """A bar divided as the seconds of `parts` are, with a legend that gives each its time and share."""
    whole = sum(max(0.0, value) for _, value in parts) or 1.0
    pieces, items = [], []
    for i, (title, value) in enumerate(parts):
        share = max(0.0, value) / whole
        colour, said = f"s{i % 6 + 1}", f"{seconds(value)}, {share:.0%}"
        pieces.append(
            element("span", class_=colour, style=f"flex-grow:{share:.5f}", title=f"{title}: {said}")
        )
        dot = element("i", class_=f"{colour} dot", aria_hidden="true")
        items.append(element("li", dot, name(title), f" {said}"))
    bar = element("div", *pieces, class_="bar", role="img", aria_label=alt)
    return join([bar, element("ul", *items, class_="legend")])


def meter(
    share: float, *, mark: float | None = None, interval: tuple[float, float] | None = None, colour: int = 1
) -> Html:
    """A share as a small bar with its percentage.

    `mark` draws a line to compare it with (chance), `interval` a whisker from its low to its high end.
    """
    parts = [element("i", style=f"width:{100 * share:.1f}%")]
    if interval is not None:
        low, high = interval
        parts.append(element("s", style=f"left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"))
    if mark is not None:
        parts.append(element("u", style=f"left:{100 * mark:.1f}%"))
    bar = element("span", *parts, aria_hidden="true")
    return element("div", bar, element("b", f"{share:.0%}"), class_=f"meter s{colour}")


@dataclass(frozen=True)
class Column:
    """A share as a column, with the interval that it lies in."""

    value: float
    interval: tuple[float, float]


def column_chart(groups: Sequence[tuple[str, Sequence[Column]]], names: Sequence[str], *, alt: str) -> Html:
    """Shares as columns with whiskers, group by group from left to right; `names` are those of a group's
    columns, in their order."""
    if not groups:
        return element("p", "Nothing to draw yet.", class_="quiet")
    drawn, labels = [], []
    slot = 100 / len(groups)
    width = 0.78 * slot / max(1, len(names))
    for at, (title, columns) in enumerate(groups):
        labels.append(element("span", title, style=f"left:{(at + 0.5) * slot:.2f}%;width:{slot:.2f}%"))
        for number, column in enumerate(columns):
            left = at * slot + 0.11 * slot + number * width
            low, high = column.interval
            tip = f"{title}, {names[number]}: {column.value:.0%} ({low:.0%} to {high:.0%})"
            place = f"left:{left:.2f}%;width:{0.88 * width:.2f}%"
            drawn += [
                element("i", class_=f"s{number + 1}", title=tip,
                        style=f"{place};height:{100 * column.value:.1f}%"),
                element("s", style=f"left:{left + 0.44 * width:.2f}%;bottom:{100 * low:.1f}%;"
                        f"height:{100 * (high - low):.1f}%"),
                element("b", f"{column.value:.0%}", style=f"{place};bottom:{100 * high:.1f}%"),
            ]  # fmt: skip
    lines = [element("u", style=f"bottom:{v}%") for v in (25, 50, 75, 100)]
    levels = [(v / 100, f"{v}%") for v in (0, 25, 50, 75, 100)]
    legend = element(
        "ul",
        *(
            element("li", element("i", class_=f"s{n} dot", aria_hidden="true"), one)
            for n, one in enumerate(names, 1)
        ),
        class_="legend",
    )
    frame = element(
        "div", ticks_html(levels, "y"),
        element("div", *lines, *drawn, class_="field", role="img", aria_label=alt),
        element("div", *labels, class_="x", aria_hidden="true"), class_="plot chart columns",
    )  # fmt: skip
    return element("figure", legend, frame)


def confusion_table(names: Sequence[str], counts: np.ndarray, *, title: str, rows: str, columns: str) -> Html:
    """Counts [K, K] as a shaded table: a row for what was meant, a column for what was recognised."""
    head = [element("th", f"{rows} \u2193 \u00b7 {columns} \u2192", class_="corner", scope="col")]
    head += [element("th", name(n), scope="col") for n in names]
    body = []
    for row_name, row in zip(names, counts, strict=True):
        whole = max(1, int(row.sum()))
        cells = []
        for value in row:
            share = value / whole
            kind, depth = "strong" if share > 0.55 else None, f"--h:{0.04 + 0.9 * share:.2f}"
            cells.append(element("td", int(value) if value else "", class_=kind, style=depth))
        body.append(element("tr", element("th", name(row_name), scope="row", title=row_name), *cells))
    head_row, rest = element("thead", element("tr", *head)), element("tbody", *body)
    content = element("table", head_row, rest, class_="heat", aria_label=title)
    return join([element("h4", title), element("div", content, class_="scroll")])
