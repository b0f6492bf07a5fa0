"""How a run learnt, for its page: losses, learning rate, gradient norm, throughput."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from birdsd.pages import page as html
from birdsd.pages.charts import Curve, Marker, line_chart, smoothed
from birdsd.pages.markup import Html, element
from birdsd.pages.page import amount
from birdsd.runs.status.timing import AllocationTimes
from birdsd.training.records import read_metrics

# More shaded places than these would hide the curve, and more than one flag another flag.
_MOST_MARKERS = 5
CSS = """
.chart .flag:empty{display:none}.card>figure:first-child{margin-top:0}.card>figure:last-child{margin-bottom:0}
"""
_KEYS = ("loss", "learning_rate", "gradient_norm", "samples_per_s")


@dataclass
class Metrics:
    """A run's metrics by column; `train` holds one list for each of _KEYS, NaN where a line had none."""

    position: list[int] = field(default_factory=list)
    train: dict[str, list[float]] = field(default_factory=lambda: {key: [] for key in _KEYS})
    validation: list[tuple[int, float]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)

    @classmethod
    def read(cls, run_folder: Path) -> Metrics:
        """The metrics as far as they are written."""
        told = cls()
        for line in read_metrics(run_folder):
            kind, position = line.get("kind"), line["position"]
            if not isinstance(position, (int, float)):
                continue
            if kind == "train":
                told.position.append(int(position))
                for key in _KEYS:
                    told.train[key].append(_number(line.get(key)))
            elif kind == "validation":
                told.validation.append((int(position), _number(line.get("loss"))))
            elif kind == "resume":
                told.resumed.append(int(position))
        return told

    @property
    def rate(self) -> float | None:
        """The median of the samples a second."""
        known = [value for value in self.train["samples_per_s"] if value > 0]
        return float(np.median(known)) if known else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def learning(metrics: Metrics, accounts: Sequence[AllocationTimes], loss_label: str = "loss") -> list[Html]:
    """The curves, largest first."""
    if not metrics.position:
        return [element("p", "No step has been logged yet.", class_="quiet")]
    intro = element(
        "p",
        "The loss by samples seen. The validation loss is taken on held-out recordings with the same noise "
        "every time, so that its points can be compared; when it rises while the training loss falls, the "
        "model has begun to learn the recordings by heart.",
    )
    return [intro, html.card(_loss(metrics, accounts, loss_label)), html.grid(*_small(metrics))]


def _loss(metrics: Metrics, accounts: Sequence[AllocationTimes], loss_label: str) -> Html:
    loss = metrics.train["loss"]
    window = max(1, len(loss) // 40)
    curves = [Curve("training loss", metrics.position, loss, "line" if window == 1 else "pale")]
    if window > 1:
        curves.append(Curve(f"its mean over {window} steps", metrics.position, smoothed(loss, window)))
    if metrics.validation:
        at, value = zip(*metrics.validation, strict=True)
        curves.append(Curve("validation loss", at, value, "dots", 2))
    finite = [v for v in loss if np.isfinite(v) and v > 0]
    wide = bool(finite) and max(finite) > 8 * min(finite)
    markers, caption = _markers(metrics, accounts)
    said = [f"training loss from {loss[0]:.3g} to {loss[-1]:.3g}"]
    if metrics.validation:
        said.append(f"validation loss from {metrics.validation[0][1]:.3g} to {metrics.validation[-1][1]:.3g}")
    return line_chart(
        curves,
        x_label="samples seen",
        y_label=loss_label,
        log_y=wide,
        markers=markers,
        alt=", ".join(said),
        caption=caption,
    )


def _markers(metrics: Metrics, accounts: Sequence[AllocationTimes]) -> tuple[list[Marker], str | None]:
    """Where work was done again; a sentence instead where there are too many such places."""
    lost = [account for account in accounts if account.lost_samples]
    if len(lost) > _MOST_MARKERS:
        samples = sum(account.lost_samples for account in lost)
        again = f"; {samples:,} samples were done again, and count once here" if samples else ""
        return [], f"Taken up {len(metrics.resumed)} times from a checkpoint{again}."
    markers, said = [], []
    for account in lost:
        back = account.position - account.lost_samples
        how = f"{account.how.split(' (')[0]} at {amount(account.position)}, again from {amount(back)}"
        said.append(how)
        markers.append(Marker(back, how if len(lost) == 1 else "", account.position))
    return markers, f"Shaded: work that was done again ({'; '.join(said)})." if len(lost) > 1 else None


def _small(metrics: Metrics) -> list[Html]:
    charts = []
    for key, title, colour in (
        ("learning_rate", "learning rate", 3),
        ("gradient_norm", "norm of the gradient", 5),
        ("samples_per_s", "samples a second", 4),
    ):
        values = metrics.train[key]
        finite = [v for v in values if np.isfinite(v)]
        if not finite:
            continue
        window = max(1, len(values) // 40)
        curves = [Curve(title, metrics.position, values, "line", colour)]
        if key != "learning_rate" and window > 1:
            curves = [
                Curve("each step", metrics.position, values, "pale", colour),
                Curve(
                    f"mean over {window} steps", metrics.position, smoothed(values, window), "line", colour
                ),
            ]
        positive = [v for v in finite if v > 0]
        wide = key == "gradient_norm" and bool(positive) and max(positive) > 30 * min(positive)
        words = f"{title} from {finite[0]:.3g} to {finite[-1]:.3g}"
        charts.append(
            html.card(line_chart(curves, x_label="samples seen", y_label=title, log_y=wide, alt=words))
        )
    return charts
