"""How a run learnt, for its page: losses, learning rate, gradient norm, throughput."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup

from birdsd.pages.charts import Curve, Marker, line_chart, loss_chart, smoothed_curves, spread_over
from birdsd.pages.environment import amount
from birdsd.runs.status.timing import AllocationTimes
from birdsd.training.records import read_metrics

# More shaded places than these would hide the curve, and more than one flag another flag.
_MOST_MARKERS = 5
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
        metrics = cls()
        for line in read_metrics(run_folder):
            kind, position = line.get("kind"), line["position"]
            if not isinstance(position, (int, float)):
                continue
            if kind == "train":
                metrics.position.append(int(position))
                for key in _KEYS:
                    metrics.train[key].append(_number(line.get(key)))
            elif kind == "validation":
                metrics.validation.append((int(position), _number(line.get("loss"))))
            elif kind == "resume":
                metrics.resumed.append(int(position))
        return metrics

    @property
    def rate(self) -> float | None:
        """The median of the samples a second."""
        known = [value for value in self.train["samples_per_s"] if value > 0]
        return float(np.median(known)) if known else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def loss_curves(metrics: Metrics, accounts: Sequence[AllocationTimes]) -> Markup:
    """The losses, with what was recomputed marked."""
    markers, caption = _markers(metrics, accounts)
    return loss_chart(
        metrics.position, metrics.train["loss"], metrics.validation, markers=markers, caption=caption
    )


def _markers(metrics: Metrics, accounts: Sequence[AllocationTimes]) -> tuple[list[Marker], str]:
    """Where work was recomputed; a sentence instead where there are too many such places."""
    lost = [account for account in accounts if account.lost_samples]
    if len(lost) > _MOST_MARKERS:
        samples = sum(account.lost_samples for account in lost)
        again = f"; {samples:,} samples were recomputed, and count once here" if samples else ""
        return [], f"Resumed {len(metrics.resumed)} times from a checkpoint{again}."
    markers, labels = [], []
    for account in lost:
        back = account.position - account.lost_samples
        labels.append(
            f"{account.how.split(' (')[0]} at {amount(account.position)}, again from {amount(back)}"
        )
        markers.append(Marker(back, labels[-1] if len(lost) == 1 else "", account.position))
    return markers, f"Shaded: recomputed ({'; '.join(labels)})." if len(lost) > 1 else ""


def small_curves(metrics: Metrics) -> list[Markup]:
    """Learning rate, gradient norm and throughput, as far as they were logged."""
    charts = []
    for key, title, colour in (
        ("learning_rate", "learning rate", 3),
        ("gradient_norm", "gradient norm", 5),
        ("samples_per_s", "samples per second", 4),
    ):
        values = metrics.train[key]
        finite = [v for v in values if np.isfinite(v)]
        if not finite:
            continue
        curves = [Curve(title, metrics.position, values, "line", colour)]
        if key != "learning_rate":
            curves = smoothed_curves(title, metrics.position, values, colour)
        charts.append(line_chart(
            curves, x_label="samples seen", y_label=title,
            alt=f"{title} from {finite[0]:.3g} to {finite[-1]:.3g}",
            log_y=key == "gradient_norm" and spread_over(finite, 30),
        ))  # fmt: skip
    return charts
