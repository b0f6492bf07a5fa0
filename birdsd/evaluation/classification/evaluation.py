"""An evaluation: every figure with its interval, the classes and mistakes, and what it rests on; as files."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.errors import listed_names
from birdsd.evaluation.classification.events import EventScores
from birdsd.evaluation.classification.figures import (
    PER_CLASS,
    Figures,
    Thresholds,
)
from birdsd.evaluation.classification.hearing import Hearing
from birdsd.evaluation.classification.scored import Item, Scored
from birdsd.evaluation.leakage import Leaks
from birdsd.evaluation.resampling import Interval, drawn_counts, percentile_interval
from birdsd.files import write_json, write_text
from birdsd.format import table
from birdsd.remarks import Remark

JSON_FILE, CLASSES_FILE, SCORES_FILE, EVENTS_FILE = (
    "evaluation.json", "classes.csv", "scores.csv", "events.csv",
)  # fmt: skip
_MOST_NUMBERS = 4e9  # rows x classes x draws: beyond that, two minutes or so, there are fewer draws
_FEWEST_DRAWS = 1000
_BLOCK_NUMBERS = 2e6


@dataclass(frozen=True)
class ClassRow:
    """The figures of one class that occurs: how much of it there is, and an interval for each figure."""

    name: str
    items: int
    recordings: int
    threshold: float
    figures: dict[str, Interval]


@dataclass(frozen=True)
class Mistake:
    """An item that was named wrongly: by how much, what is there, and what was named."""

    item: Item
    there: tuple[str, ...]
    named: str
    score: float  # of what was named, 0..1
    score_there: float | None  # of what is there
    margin: float  # between their logits


@dataclass(frozen=True)
class Evaluation:
    """What came out. `means` are the figures over all classes that occur."""

    hearing: Hearing = field(repr=False)
    table: Scored = field(repr=False)
    figures: Figures = field(repr=False)
    title: str
    means: dict[str, Interval]
    classes: list[ClassRow]
    mistakes: list[Mistake]
    decoded: bool
    leaks: Leaks | None = None
    events: EventScores | None = None
    remarks: tuple[str, ...] = ()

    @property
    def thresholds(self) -> Thresholds:
        """From which score each class counts as named."""
        return self.figures.thresholds

    @property
    def recordings(self) -> int:
        """How many the figures rest on."""
        return len({item.recording for item in self.table.items})

    @cached_property
    def notes(self) -> list[str]:
        """What a reader should know before believing the figures."""
        return [*_notes(self), *self.remarks]

    def to_json(self) -> dict[str, Any]:
        """Plain values only; what has no value is null."""
        names, counts = self.figures.confusion()
        judge = self.hearing.judge
        return {
            "judge": judge.title, "licence": judge.licence, "fingerprint": judge.fingerprint,
            "sounds": self.title, "decoded_by_the_codec": self.decoded,
            "items": len(self.table.items), "recordings": self.recordings,
            "thresholds": {"origin": self.thresholds.origin},
            "figures": {name: _plain(interval) for name, interval in self.means.items()},
            "classes": [
                {"name": row.name, "items": row.items, "recordings": row.recordings,
                 "threshold": row.threshold,
                 **{name: _plain(interval) for name, interval in row.figures.items()}}
                for row in self.classes
            ],
            "confusion": {"names": names, "counts": counts.tolist()},
            "mistakes": [_mistake_json(one) for one in self.mistakes],
            "unknown": self.hearing.classes.unknown,
            "left_out": [{"name": name, "reason": reason} for name, reason in self.hearing.left_out],
            "leakage": self.leaks.to_json() if self.leaks else None,
            "events": self.events.to_json() if self.events else None,
            "notes": self.notes,
        }  # fmt: skip

    def text(self) -> str:
        """For a terminal: the figures with their intervals, the classes, and the notes."""
        rows = [[name, interval_text(interval)] for name, interval in self.means.items()]
        lines = table([["figure", "value (95% interval)"], *rows], {0, 1})
        lines += ["", *table([class_head(), *map(class_cells, self.classes)])]
        if self.events:
            lines += ["", *self.events.text().splitlines()]
        judge = self.hearing.judge
        lines += ["", f"{judge.title} on {self.title}: {len(self.table.items)} items of {self.recordings} "
                  f"recordings; threshold {self.thresholds.origin}; intervals over recordings"]  # fmt: skip
        return "\n".join([*lines, *self.notes])

    def write(self, out: Path) -> list[Path]:
        """Write evaluation.json, classes.csv, scores.csv (the logits of every item) and, with events,
        events.csv."""
        out.mkdir(parents=True, exist_ok=True)
        written = [out / JSON_FILE, out / CLASSES_FILE, out / SCORES_FILE]
        write_json(written[0], self.to_json())
        write_text(written[1], _classes_csv(self.classes))
        write_text(written[2], _scores_csv(self.table))
        if self.events:
            written.append(out / EVENTS_FILE)
            write_text(written[-1], self.events.csv())
        return written


def evaluated(
    hearing: Hearing, table: Scored, thresholds: Thresholds, title: str, *, decoded: bool = False,
    resamples: int = 10_000, seed: int = 0, mistakes: int = 12, leaks: Leaks | None = None,
    events: EventScores | None = None, remarks: Sequence[str] = (),
) -> Evaluation:  # fmt: skip
    """Compute every figure of a table, with intervals over draws of its recordings."""
    figures = Figures(table, thresholds)
    intervals = _intervals(figures, resamples, seed)
    means = {figure: interval for (figure, name), interval in intervals.items() if not name}
    recordings = table.recordings
    rows = []
    for number in np.flatnonzero(table.present):
        name, there = table.classes[number], table.truth[:, number]
        rows.append(
            ClassRow(
                name, int(there.sum()), len(np.unique(recordings[there])), float(thresholds.values[number]),
                {figure: intervals[figure, name] for figure in PER_CLASS},
            )
        )  # fmt: skip
    return Evaluation(
        hearing, table, figures, title, means, rows, worst_mistakes(figures, mistakes), decoded, leaks,
        events, tuple(remarks),
    )  # fmt: skip


def _intervals(figures: Figures, resamples: int, seed: int) -> dict[tuple[str, str], Interval]:
    """Each figure by its name and class, with its interval over draws of recordings within their species."""
    table = figures.table
    recordings = table.recordings
    count = int(recordings.max()) + 1
    size = len(table.items) * len(table.classes)
    draws = min(resamples, max(_FEWEST_DRAWS, int(_MOST_NUMBERS / size)))
    strata = _strata(table)
    few = min(Counter(strata).values()) > 1  # else a single recording, whose spread nobody knows
    counts = drawn_counts(count, draws, seed=seed, strata=strata, few=few)
    block = max(8, int(_BLOCK_NUMBERS / len(table.items)))
    values = np.concatenate(
        [figures(counts[at : at + block][:, recordings].astype(np.float64)) for at in range(0, draws, block)]
    )
    estimates = figures(np.ones((1, len(table.items))))[0]
    return {
        name: percentile_interval(values[:, place], float(estimates[place]), groups=count)
        for place, name in enumerate(figures.names)
    }


def _strata(table: Scored) -> list[str]:
    """Of each recording its species, so that draws keep as many of each. Recordings that no other has the
    same species as are one stratum together: drawn alone, each would be in every draw, as if it were sure.
    A single one of them goes with the largest species."""
    recordings = table.recordings
    species: list[set[int]] = [set() for _ in range(int(recordings.max()) + 1)]
    for recording, row in zip(recordings.tolist(), table.truth, strict=True):
        species[recording].update(np.flatnonzero(row).tolist())
    names = [str(sorted(one)) for one in species]
    counts = Counter(names)
    largest, most = counts.most_common(1)[0]
    alone = "alone" if sum(count == 1 for count in counts.values()) > 1 or most == 1 else largest
    return [name if counts[name] > 1 else alone for name in names]


def worst_mistakes(figures: Figures, most: int) -> list[Mistake]:
    """Items whose highest class is not there, and empty ones in which something was named, the surest first;
    at most two of one recording."""
    table, found = figures.table, []
    for row in np.flatnonzero(table.heard):
        truth, logits = table.truth[row], table.logits[row]
        if truth.all():
            continue
        wrong = int(np.where(truth, -np.inf, logits).argmax())
        there = logits[truth].max() if truth.any() else None
        missed = there is not None and logits[wrong] >= there
        if missed or (there is None and figures.named[row].any()):
            scores = table.scores[row]
            found.append(
                Mistake(
                    table.items[row], tuple(table.classes[n] for n in np.flatnonzero(truth)),
                    table.classes[wrong], float(scores[wrong]),
                    None if there is None else float(scores[truth].max()),
                    float(logits[wrong] - (0.0 if there is None else there)),
                )
            )  # fmt: skip
    found.sort(key=lambda one: -one.margin)
    of_recording: dict[str, int] = {}
    kept = []
    for one in found:
        recording = one.item.recording
        of_recording[recording] = of_recording.get(recording, 0) + 1
        if of_recording[recording] <= 2:
            kept.append(one)
    return kept[:most]


def _notes(evaluation: Evaluation) -> list[Remark]:
    table, hearing = evaluation.table, evaluation.hearing
    judge, notes = hearing.judge.title, []
    absent = [name for name, there in zip(table.classes, table.present, strict=True) if not there]
    if absent:
        text = f"without a sound in the test set, and in no mean: {listed_names(absent)}"
        notes.append(Remark(text, "class-without-sound", classes=absent))
    if hearing.classes.unknown:
        text = f"{judge} has no class for {listed_names(hearing.classes.unknown)}: left out"
        notes.append(Remark(text, "species-without-class", species=hearing.classes.unknown))
    few = [row.name for row in evaluation.classes if row.recordings < 2]
    if few:
        text = f"of one recording alone, so that its interval means nothing: {listed_names(few)}"
        notes.append(Remark(text, "class-of-one-recording", classes=few))
    if int(table.present.sum()) == 1:
        text = f"one class occurs: it is told from {_others(table)}"
        notes.append(Remark(text, "one-class", told_from=_others(table)))
    silent = [item.name for item in table.items if item.note]
    if silent:
        reasons = sorted({item.note for item in table.items if item.note})
        text = (
            f"nothing was heard in {len(silent)} of {len(table.items)} items ({listed_names(reasons)}): "
            f"counted as not named; the first is {silent[0]}"
        )
        notes.append(Remark(text, "nothing-heard", items=silent, of=len(table.items), reasons=reasons))
    if hearing.left_out:
        name, reason = hearing.left_out[0]
        text = f"{len(hearing.left_out)} sounds were left out; the first is {name}: {reason}"
        notes.append(Remark(text, "sounds-left-out", sounds=dict(hearing.left_out)))
    if evaluation.decoded:
        text = (
            "the sounds are what the codec gives back of its images, not the recordings: "
            "data.recordings=FOLDER names those"
        )
        notes.append(Remark(text, "decoded-sounds"))
    if "birdnet" in judge.casefold():
        text = f"{judge} most likely learnt from published recordings among these: an upper bound"
        notes.append(Remark(text, "judge-may-know-them"))
    return notes


def _others(table: Scored) -> str:
    empty = int((~table.truth.any(axis=1)).sum())
    return f"{empty} items without a bird" if empty else "nothing, so that most figures have no value"


def interval_text(interval: Interval, digits: int = 3) -> str:
    """0.912 (0.881-0.940); a dash where a figure has no value."""
    if not math.isfinite(interval.estimate):
        return "-"
    value = f"{interval.estimate:.{digits}f}"
    if not math.isfinite(interval.low):
        return value
    return f"{value} ({interval.low:.{digits}f}-{interval.high:.{digits}f})"


def class_head() -> list[str]:
    """The header above `class_cells`."""
    return ["class", "items", "recordings", *PER_CLASS, "threshold"]


def class_cells(row: ClassRow) -> list[str]:
    """A class as a row of a table."""
    figures = [interval_text(row.figures[name], 2) for name in PER_CLASS]
    return [row.name, str(row.items), str(row.recordings), *figures, f"{row.threshold:.2f}"]


def _plain(interval: Interval) -> dict[str, Any]:
    known = {"value": interval.estimate, "low": interval.low, "high": interval.high}
    return {key: value if math.isfinite(value) else None for key, value in known.items()} | {
        "draws": interval.resamples
    }


def _mistake_json(one: Mistake) -> dict[str, Any]:
    return {
        "name": one.item.name, "recording": one.item.recording, "start_s": one.item.start_s,
        "there": list(one.there), "named": one.named, "score": one.score, "score_there": one.score_there,
    }  # fmt: skip


def _classes_csv(rows: Sequence[ClassRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{figure}{end}" for figure in PER_CLASS for end in ("", " low", " high")]
    writer.writerow(["class", "items", "recordings", "threshold", *ends])
    for row in rows:
        values = [value for figure in PER_CLASS for value in list(_plain(row.figures[figure]).values())[:3]]
        cells = ["" if value is None else f"{value:.6g}" for value in values]
        writer.writerow([row.name, row.items, row.recordings, f"{row.threshold:.6g}", *cells])
    return text.getvalue()


def _scores_csv(scored: Scored) -> str:
    """Of every item what is there, what was named, and all logits: enough to compute every figure again."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["name", "recording", "start_s", "species", "named", "note", *(f"logit {n}" for n in scored.classes)]
    )
    for item, truth, logits in zip(scored.items, scored.truth, scored.logits, strict=True):
        there = "; ".join(scored.classes[n] for n in np.flatnonzero(truth))
        cells = [""] * len(logits) if item.note else [f"{value:.7g}" for value in logits]
        writer.writerow(
            [item.name, item.recording, f"{item.start_s:.3f}", there, item.named, item.note, *cells]
        )
    return text.getvalue()
