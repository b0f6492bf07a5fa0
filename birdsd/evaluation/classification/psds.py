"""The polyphonic sound detection score (Bilen et al. 2020): how much is found at how many false alarms an
hour, by overlap instead of by exact ends. As `psds_eval` computes it, without its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Spans = Mapping[str, np.ndarray]  # file -> starts and ends in seconds, float64 [events, 2]
MOST_AN_HOUR = 100.0  # false alarms, up to which the area counts


@dataclass(frozen=True)
class Scenario:
    """What counts as found. `detection`: the share of a detection that must lie in true events of its class;
    `truth`: the share of a true event that such detections must cover; `cross`: the share of a false alarm
    that makes it one of another class, which counts `cross_weight`; `spread_weight`: the cost of classes that
    differ.
    """

    detection: float
    truth: float
    cross: float
    cross_weight: float
    spread_weight: float = 1.0


# Those of DCASE's task 4: one for exact times, one for what is there at all.
SCENARIOS = {"PSDS1": Scenario(0.7, 0.7, 0.3, 0.0), "PSDS2": Scenario(0.1, 0.1, 0.3, 0.5)}


@dataclass(frozen=True)
class Psds:
    """The score in each scenario, 0..1."""

    scores: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        scenarios = {name: asdict(scenario) for name, scenario in SCENARIOS.items()}
        return {**self.scores, "scenarios": scenarios, "most_false_alarms_an_hour": MOST_AN_HOUR}

    def text(self) -> str:
        """In a line."""
        return ", ".join(f"{name} {score:.3f}" for name, score in self.scores.items()) + (
            f" (up to {MOST_AN_HOUR:g} false alarms an hour)"
        )


def psds(true: Sequence[Spans], points: Sequence[Sequence[Spans]], hours: float) -> Psds:
    """The score of classes from their true events and, for each operating point (a threshold), from what was
    named: one `Spans` a class. Overlapping true events of a class are one."""
    united = [{file: merged(spans) for file, spans in one.items()} for one in true]
    scores = {}
    for name, scenario in SCENARIOS.items():
        found = [_rates(united, point, scenario, hours) for point in points]
        scores[name] = _area(np.stack([one[0] for one in found]), np.stack([one[1] for one in found]),
                             scenario.spread_weight)  # fmt: skip
    return Psds(scores)


def merged(spans: np.ndarray) -> np.ndarray:
    """Spans [n, 2] sorted, those that overlap or touch as one."""
    if not len(spans):
        return spans.reshape(0, 2)
    ordered = spans[np.argsort(spans[:, 0], kind="stable")]
    reach = np.maximum.accumulate(ordered[:, 1])
    first = np.concatenate([[True], ordered[1:, 0] > reach[:-1]])
    ends = reach[np.concatenate([np.flatnonzero(first)[1:] - 1, [len(ordered) - 1]])]
    return np.stack([ordered[first, 0], ends], axis=1)


def _rates(
    true: Sequence[Spans], named: Sequence[Spans], scenario: Scenario, hours: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of each class the share of true events found, and effective false alarms an hour; float64 [classes]."""
    classes = len(true)
    lengths_h = np.array([sum(np.ptp(spans, axis=1).sum() for spans in one.values()) for one in true]) / 3600
    found, alarms, crossed = np.zeros(classes), np.zeros(classes), np.zeros((classes, classes))
    for number, detections in enumerate(named):
        for file, spans in detections.items():
            length = np.maximum(np.ptp(spans, axis=1), 1e-12)
            shared = _shared(spans, true[number].get(file))
            good = shared.sum(axis=1) / length >= scenario.detection
            if shared.size:
                events = np.ptp(true[number][file], axis=1)
                found[number] += (
                    shared[good].sum(axis=0) / np.maximum(events, 1e-12) >= scenario.truth
                ).sum()
            alarms[number] += (~good).sum()
            for other in range(classes):
                if other != number and (~good).any():
                    part = _shared(spans[~good], true[other].get(file)).sum(axis=1) / length[~good]
                    crossed[number, other] += ((part >= scenario.cross) & (part > 0)).sum()
    counts = np.array([sum(map(len, one.values())) for one in true])
    rate = alarms / hours
    if classes > 1 and scenario.cross_weight:
        each = crossed / np.maximum(lengths_h, 1e-12)
        rate = rate + scenario.cross_weight * each.sum(axis=1) / (classes - 1)
    return found / np.maximum(counts, 1), rate


def _shared(spans: np.ndarray, others: np.ndarray | None) -> np.ndarray:
    """Seconds that each span has in common with each of the others, float64 [spans, others]."""
    if others is None or not len(others):
        return np.zeros((len(spans), 0))
    low = np.maximum(spans[:, None, 0], others[None, :, 0])
    return np.maximum(np.minimum(spans[:, None, 1], others[None, :, 1]) - low, 0.0)


def _area(found: np.ndarray, alarms: np.ndarray, spread_weight: float) -> float:
    """The normalised area below the staircase of what is found over false alarms; [points, classes] each."""
    zero = np.zeros((1, found.shape[1]))
    found, alarms = np.concatenate([found, zero]), np.concatenate([alarms, zero])
    x = np.unique(alarms)
    curves = np.empty((found.shape[1], len(x)))
    for number, (y, at) in enumerate(zip(found.T, alarms.T, strict=True)):
        order = np.argsort(at, kind="stable")
        highest = np.maximum.accumulate(y[order])
        curves[number] = highest[np.searchsorted(at[order], x, "right") - 1]
    effective = np.maximum(curves.mean(axis=0) - spread_weight * curves.std(axis=0), 0.0)
    inside = x <= MOST_AN_HOUR
    ends = np.concatenate([x[inside], [MOST_AN_HOUR]])
    return float((np.diff(ends) * effective[inside]).sum() / MOST_AN_HOUR)
