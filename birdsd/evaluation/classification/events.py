"""Whether birds are found where they are: F1 of events with collars, and of segments, as sed_eval defines
them; and the PSDS, which asks for overlap instead of exact ends."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from birdsd.errors import BadValue, NothingLeft
from birdsd.evaluation.classification.figures import Thresholds
from birdsd.evaluation.classification.hearing import Heard, Hearing
from birdsd.evaluation.classification.psds import Psds, psds
from birdsd.evaluation.classify.frames import FrameScores
from birdsd.format import table

OFFSET_SHARE = 0.5  # of an event's length: the collar of its end, where that is longer
SEGMENT_S = 1.0
_PSDS_THRESHOLDS = 50


@dataclass(frozen=True)
class Event:
    """Something that is, or was named, from `start_s` to `end_s` of a file; `label` is its class."""

    file: str
    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Counts:
    """Events or segments: in the truth, named, and both."""

    true: int
    named: int
    hits: int

    @property
    def precision(self) -> float:
        """0 where nothing was named."""
        return self.hits / self.named if self.named else 0.0

    @property
    def recall(self) -> float:
        """NaN where there is nothing to find."""
        return self.hits / self.true if self.true else math.nan

    @property
    def f1(self) -> float:
        """NaN where there is nothing to find."""
        return 2 * self.hits / (self.true + self.named) if self.true else math.nan

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.true + other.true, self.named + other.named, self.hits + other.hits)


@dataclass(frozen=True)
class EventScores:
    """By class: events with a collar, and segments of a second. Classes that do not occur are in no mean."""

    events: dict[str, Counts]
    segments: dict[str, Counts]
    collar_s: float
    hours: float
    files: int
    psds: Psds | None = field(default=None)
    unit: str = ""  # what events are put together from

    def macro(self, which: Mapping[str, Counts]) -> float:
        """The mean F1 of the classes that occur."""
        known = [counts.f1 for counts in which.values() if counts.true]
        return float(np.mean(known)) if known else math.nan

    def micro(self, which: Mapping[str, Counts]) -> Counts:
        """All classes together."""
        return sum(which.values(), Counts(0, 0, 0))

    def to_json(self) -> dict[str, Any]:
        """Plain values only; what has no value is null."""
        return {
            "collar_s": self.collar_s, "offset_share": OFFSET_SHARE, "segment_s": SEGMENT_S,
            "files": self.files, "hours": self.hours, "unit": self.unit,
            "event_f1": _known(self.macro(self.events)), "event_f1_micro": _known(self.micro(self.events).f1),
            "segment_f1": _known(self.macro(self.segments)),
            "segment_f1_micro": _known(self.micro(self.segments).f1),
            "psds": self.psds.to_json() if self.psds else None,
            "classes": {
                name: {"events": vars(self.events[name]), "segments": vars(self.segments[name])}
                for name in self.events
            },
        }  # fmt: skip

    def cells(self) -> list[list[str]]:
        """A header, a row for every class that occurs or was named, and the mean."""
        head = ["class", "events", "named", "right", "event F1", "segment F1"]
        rows = [
            [
                name,
                str(one.true),
                str(one.named),
                str(one.hits),
                _shown(one.f1),
                _shown(self.segments[name].f1),
            ]
            for name, one in self.events.items()
            if one.true or one.named
        ]
        whole = self.micro(self.events)
        means = _shown(self.macro(self.events)), _shown(self.macro(self.segments))
        return [head, *rows, ["mean of classes", str(whole.true), str(whole.named), str(whole.hits), *means]]

    def text(self) -> str:
        """For a terminal."""
        lines = table(self.cells())
        lines.append(
            f"events of {self.files} files ({self.hours:.2f} h): the start within {self.collar_s:g} s, the "
            f"end within {self.collar_s:g} s or {OFFSET_SHARE:.0%} of the event; segments of {SEGMENT_S:g} s"
            + (f"; named events are made of {self.unit}" if self.unit else "")
        )
        return "\n".join([*lines, *([self.psds.text()] if self.psds else [])])

    def csv(self) -> str:
        """A row for every class."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        counted = ("true", "named", "hits")
        writer.writerow(
            ["class", *(f"{what} {n}" for what in ("events", "segments") for n in (*counted, "F1"))]
        )
        for name in self.events:
            row: list[Any] = [name]
            for one in (self.events[name], self.segments[name]):
                row += [one.true, one.named, one.hits, "" if math.isnan(one.f1) else f"{one.f1:.6g}"]
            writer.writerow(row)
        return text.getvalue()


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def event_scores(hearing: Hearing, thresholds: Thresholds, collar_s: float) -> EventScores:
    """Score the sounds whose labels say when; `UserError` where there are none, or for a collar below 0."""
    if not collar_s > 0:
        raise BadValue(f"collar_s={collar_s:g}", "it must be above 0", "0.25 and 0.5 are usual")
    timed = [heard for heard in hearing.sounds if is_timed(heard)]
    if not any(heard.sound.labels for heard in timed):
        raise NothingLeft(
            "strong=true asks when each bird sings, and no label says so",
            "a label needs a start and an end (Raven, Audacity, or a table with both)",
            "leave strong out for labels of whole files",
        )
    names = hearing.classes.names
    true = [event for heard in timed for event in true_events(heard, hearing)]
    heard_by = [_Named(heard, names, hearing.judge.window_s) for heard in timed]
    named = [event for one in heard_by for event in one.events(thresholds.values)]
    lengths_s = {heard.sound.name: heard.sound.duration_s for heard in timed}
    hours = sum(lengths_s.values()) / 3600
    used = sorted({event.label for event in true})
    levels = np.linspace(0.0, 1.0, _PSDS_THRESHOLDS + 2)[1:-1]
    points = [
        [event for one in heard_by for event in one.events(np.full(len(names), level))] for level in levels
    ]
    spans = [_spans(true, name) for name in used]
    named_at = [[_spans(point, name) for name in used] for point in points]
    return EventScores(
        matched(true, named, names, collar_s), segments(true, named, names, lengths_s), collar_s, hours,
        len(timed), psds(spans, named_at, hours) if used else None, _unit(heard_by),
    )  # fmt: skip


def is_timed(heard: Heard) -> bool:
    """Whether all labels of a sound say when, so that what is not labelled is not there; a sound without a
    bird has none, and what is named in it is a false alarm."""
    labels = heard.sound.labels
    timed = all(label.start_s is not None and label.end_s is not None for label in labels)
    return timed and not heard.sound.unknown


def true_events(heard: Heard, hearing: Hearing) -> Iterator[Event]:
    """The labels of a sound, of classes that the judge knows."""
    classes = hearing.classes
    for label in heard.sound.labels:
        column = classes.column_of.get(label.label)
        if column is not None and label.start_s is not None and label.end_s is not None:
            yield Event(heard.sound.name, classes.names[column], label.start_s, label.end_s)


class _Named:
    """What a judge names in one sound at any thresholds: by the frames of a judge that says when, else by its
    windows. Nothing is named in windows that are silent, or whose scores are not numbers."""

    def __init__(self, heard: Heard, names: Sequence[str], window_s: float) -> None:
        from scipy.special import expit

        self.sound, self.names, self.window_s = heard.sound, names, window_s
        usable = ~(heard.silent | heard.broken)
        self.starts_s = heard.starts_s[usable]
        self.scores = expit(heard.logits[usable].astype(np.float64))
        self.by_frame: FrameScores | None = None
        if heard.frames is not None and usable.any():
            self.by_frame = FrameScores.of(
                self.starts_s, heard.logits[usable], heard.frames[usable], window_s
            )

    def events(self, thresholds: np.ndarray) -> Iterator[Event]:
        """Windows, or frames, with a score at or above a class's threshold; those in a row are one event."""
        end_s = self.sound.duration_s or np.inf
        runs = self.by_frame.runs(thresholds) if self.by_frame else self._of_windows(thresholds)
        for column, start_s, stop_s, *_ in runs:
            if start_s < end_s:
                yield Event(self.sound.name, self.names[column], start_s, min(stop_s, end_s))

    def _of_windows(self, thresholds: np.ndarray) -> Iterator[tuple[int, float, float]]:
        above = self.scores >= thresholds
        for column in np.flatnonzero(above.any(axis=0)).tolist():
            starts = self.starts_s[above[:, column]]
            breaks = np.flatnonzero(np.diff(starts) > self.window_s + 1e-6) + 1
            for run in np.split(starts, breaks):
                yield column, float(run[0]), float(run[-1]) + self.window_s


def _unit(heard_by: Sequence[_Named]) -> str:
    """What named events are made of, in words."""
    for one in heard_by:
        if one.by_frame:
            return f"frames of {1000 * one.by_frame.frame_s:.0f} ms"
    return f"windows of {heard_by[0].window_s:g} s"


def matched(
    true: Sequence[Event], named: Sequence[Event], names: Sequence[str], collar_s: float
) -> dict[str, Counts]:
    """Counts of each class: as many pairs of a true and a named event as can be made, where the starts differ
    by at most `collar_s`, and the ends by at most that or `OFFSET_SHARE` of the true event (sed_eval's
    event-based metric with its optimal matching)."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    counts = dict.fromkeys(names, Counts(0, 0, 0))
    for (_, name), (these, those) in _by_file_and_class(true, named).items():
        hits = 0
        if len(these) and len(those):
            length = np.maximum(collar_s, OFFSET_SHARE * (these[:, 1] - these[:, 0]))
            near = np.abs(these[:, None] - those[None])
            fits = (near[..., 0] <= collar_s) & (near[..., 1] <= length[:, None])
            hits = int((maximum_bipartite_matching(csr_array(fits), perm_type="column") >= 0).sum())
        counts[name] += Counts(len(these), len(those), hits)
    return counts


def segments(
    true: Sequence[Event], named: Sequence[Event], names: Sequence[str], lengths_s: Mapping[str, float]
) -> dict[str, Counts]:
    """The same of segments of `SEGMENT_S`: one counts as soon as any of an event lies in it."""
    counts = dict.fromkeys(names, Counts(0, 0, 0))
    for (file, name), (these, those) in _by_file_and_class(true, named).items():
        ends = [lengths_s.get(file, 0.0), *these[:, 1].tolist(), *those[:, 1].tolist()]
        size = math.ceil(max(ends) / SEGMENT_S)
        rolls = [np.zeros(size, bool), np.zeros(size, bool)]
        for roll, events in zip(rolls, (these, those), strict=True):
            for start_s, end_s in events.tolist():
                roll[math.floor(start_s / SEGMENT_S) : math.ceil(end_s / SEGMENT_S)] = True
        counts[name] += Counts(*(int(roll.sum()) for roll in (*rolls, rolls[0] & rolls[1])))
    return counts


def _by_file_and_class(
    true: Sequence[Event], named: Sequence[Event]
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Starts and ends, float64 [events, 2], of the true and the named events of each file and class."""
    found: dict[tuple[str, str], tuple[list[Any], list[Any]]] = {}
    for side, events in enumerate((true, named)):
        for event in events:
            found.setdefault((event.file, event.label), ([], []))[side].append((event.start_s, event.end_s))
    return {
        key: (
            np.array(pair[0], dtype=np.float64).reshape(-1, 2),
            np.array(pair[1], dtype=np.float64).reshape(-1, 2),
        )
        for key, pair in found.items()
    }


def _spans(events: Sequence[Event], name: str) -> dict[str, np.ndarray]:
    found: dict[str, list[Any]] = {}
    for event in events:
        if event.label == name:
            found.setdefault(event.file, []).append((event.start_s, event.end_s))
    return {file: np.array(spans, dtype=np.float64) for file, spans in found.items()}
