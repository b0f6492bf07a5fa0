"""Charts for a page: where everything lies; templates/charts.html draws it. Inline SVG and HTML, no library.

The drawing is stretched to the width there is while the words around it stay HTML, so that a chart is
as legible on a phone as on a wide screen and follows the reader's light or dark setting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup

from birdsd.pages.environment import amount, duration, macro

WIDTH, HEIGHT = 1000.0, 400.0  # the drawing's own units; what shows is stretched to the page
MOST_POINTS = 600  # drawn of a curve; every stretch keeps its minimum and maximum
STRIPS = 80  # places along a chart that show their values when pointed at
meter = macro("charts.html", "meter")
confusion_table = macro("charts.html", "confusion_table")
column_chart = macro("charts.html", "column_chart")


@dataclass(frozen=True)
class Curve:
    """One series of a chart. `look`: a line, a pale line (raw values behind a smoothed curve, or the end of
    an interval), or dots. Without a name it is in neither the legend nor the tips."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    look: Literal["line", "pale", "dots"] = "line"
    colour: int = 1  # 1 to 6


@dataclass(frozen=True)
class Marker:
    """A place on the x axis to point out; `x_until` makes it a stretch (work that was recomputed)."""

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
        ticks = [m * 10.0**d for d in decades for m in multiples if low <= m * 10.0**d <= high]
        if len(ticks) <= most + 1:
            # A range within one decade may hold no such value at all: then a linear axis's will do.
            return ticks if len(ticks) >= 2 else nice_ticks(low, high, most)
    return ticks[:: math.ceil(len(ticks) / most)]


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
    """At most `MOST_POINTS` points that keep the minimum and maximum of every stretch."""
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


_Series = tuple[Curve, np.ndarray, np.ndarray]


def _strips(series: Sequence[_Series], across: _Axis, x_label: str) -> list[tuple[float, str]]:
    """(x, tip) of transparent strips whose tips show the values there."""
    strips = []
    half = (across.high - across.low) / STRIPS / 2
    for i in range(STRIPS):
        middle = across.low + (2 * i + 1) * half
        lines = []
        for curve, x, y in series:
            nearest = int(np.abs(x - middle).argmin())
            if curve.name and abs(x[nearest] - middle) <= half:
                lines.append(f"{curve.name}: {y[nearest]:.4g}")
        if lines:
            # Samples are whole numbers; on a narrow axis the fraction is what tells places apart.
            place = amount(round(middle)) if across.high - across.low > STRIPS else f"{middle:.3g}"
            strips.append((i * WIDTH / STRIPS, "\n".join([f"{x_label}: {place}", *lines])))
    return strips


def _placed(marker: Marker, across: _Axis) -> dict[str, object]:
    """A marker on the drawing; `left` and `width` are those of its band, where it is a stretch."""
    share = min(1.0, max(0.0, across.share(marker.x)))
    until = share if marker.x_until is None else min(1.0, max(0.0, across.share(marker.x_until)))
    return {
        "share": share, "at": share * WIDTH, "label": marker.label, "left": min(share, until) * WIDTH,
        "width": None if marker.x_until is None else abs(until - share) * WIDTH,
    }  # fmt: skip


def line_chart(
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    log_y: bool = False,
    markers: Sequence[Marker] = (),
    caption: str = "",
) -> Markup:
    """Curves over a common x axis; values that cannot be drawn are left out and counted below the chart."""
    series = [(curve, *_finite(curve, log_y)) for curve in curves]
    left_out = sum(len(curve.x) - len(x) for curve, x, _ in series)
    series = [item for item in series if len(item[1])]
    if not series:
        return Markup('<p class="quiet" data-code="empty">{}: nothing to draw yet.</p>').format(y_label)
    xs, ys = np.concatenate([x for _, x, _ in series]), np.concatenate([y for _, _, y in series])
    across, up = _limits(xs, ys, log_y)
    looks = {"line": ("", 2.2), "pale": (" pale", 1.2), "dots": (" dot", 7)}
    drawn = []
    for curve, x, y in series:
        dots = curve.look == "dots"
        path = _path(*((x, y) if dots else _thinned(x, y)), across, up, dots)
        drawn.append({"colour": curve.colour, "path": path, "width": looks[curve.look][1],
                      "pale": curve.look == "pale"})  # fmt: skip
    remark = f" Values that cannot be drawn (not finite): {left_out}." if left_out else ""
    return _line_chart({
        "legend": [(f"s{c.colour}{looks[c.look][0]}", c.name) for c, _, _ in series if c.name],
        "x_label": x_label, "y_label": f"{y_label}{', logarithmic' if log_y else ''}", "alt": alt,
        "width": WIDTH, "height": HEIGHT, "strip": WIDTH / STRIPS, "caption": caption + remark,
        "left_out": left_out,
        "x_ticks": [(across.share(tick), amount(tick)) for tick in across.ticks(5)],
        "y_ticks": [(up.share(tick), f"{tick:.4g}") for tick in up.ticks()],
        "gridlines": [(1 - up.share(tick)) * HEIGHT for tick in up.ticks()],
        "markers": [_placed(marker, across) for marker in markers],
        "series": drawn, "strips": _strips(series, across, x_label),
    })  # fmt: skip


_line_chart = macro("charts.html", "line_chart")


def loss_chart(
    positions: Sequence[int],
    loss: Sequence[float],
    validation: Sequence[tuple[int, float]],
    *,
    label: str = "loss",
    title: str = "",
    stops: Sequence[str] = (),
    markers: Sequence[Marker] = (),
    caption: str = "",
) -> Markup:
    """The losses of a run by samples seen, the running mean of a long one before its own pale curve.

    `validation` holds (samples seen, loss); `title` and `stops` are for those who cannot see the chart.
    """
    curves = smoothed_curves("training loss", positions, loss)
    ranges = [f"training loss from {loss[0]:.3g} to {loss[-1]:.3g}"] if len(loss) else []
    if validation:
        at, value = zip(*validation, strict=True)
        curves.append(Curve("validation loss", at, value, "dots", 2))
        ranges.append(f"validation loss from {value[0]:.3g} to {value[-1]:.3g}")
    alt = "; ".join([", ".join(ranges), *stops])
    return line_chart(
        curves, x_label="samples seen", y_label=label, log_y=spread_over(loss, 8), markers=markers,
        alt=f"{title}: {alt}" if title else alt, caption=caption,
    )  # fmt: skip


def smoothed_curves(name: str, x: Sequence[float], y: Sequence[float], colour: int = 1) -> list[Curve]:
    """One curve; of a long one the running mean before the pale curve itself."""
    window = max(1, len(y) // 40)
    if window == 1:
        return [Curve(name, x, y, "line", colour)]
    return [
        Curve(name, x, y, "pale", colour),
        Curve(f"mean over {window} steps", x, smoothed(y, window), "line", colour),
    ]


def spread_over(values: Sequence[float], times: float) -> bool:
    """Whether the largest positive value is more than so many times the smallest: a logarithmic axis then."""
    positive = [value for value in values if np.isfinite(value) and value > 0]
    return bool(positive) and max(positive) > times * min(positive)


def _limits(xs: np.ndarray, ys: np.ndarray, log_y: bool) -> tuple[_Axis, _Axis]:
    low, high = float(xs.min()), float(xs.max())
    across = _Axis(low if low > 0.1 * high else 0.0, high if high > low else low + 1)
    if log_y:
        margin = (ys.max() / ys.min()) ** 0.05 + 0.01
        return across, _Axis(float(ys.min() / margin), float(ys.max() * margin), log=True)
    spread = float(np.ptp(ys)) or abs(float(ys[0])) or 1.0
    bottom, top = float(ys.min()) - 0.05 * spread, float(ys.max()) + 0.05 * spread
    return across, _Axis(0.0 if ys.min() >= 0 and bottom < 0.3 * spread else bottom, top)


def time_bar(parts: Sequence[tuple[str, float]]) -> Markup:
    """A bar divided as the seconds of `parts` are, with a legend that gives each its time and share."""
    alt = "Time breakdown: " + ", ".join(f"{title} {duration(seconds)}" for title, seconds in parts)
    whole = sum(max(0.0, value) for _, value in parts) or 1.0
    shares = [(title, max(0.0, value) / whole, duration(value)) for title, value in parts]
    template = macro("charts.html", "share_bar")
    return template([(f"s{i % 6 + 1}", *share) for i, share in enumerate(shares)], alt)
