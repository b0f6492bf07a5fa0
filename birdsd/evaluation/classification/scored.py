"""What was heard as a table: a row for each item that was judged, a column for each class, and the truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from birdsd.evaluation.classification.hearing import NOT_A_NUMBER, SILENCE, Classes, Heard, Hearing
from birdsd.evaluation.classification.sounds import LabelledSound
from birdsd.sound.labels.annotation import overlaps

NOTHING = -1e4  # the logit of every class where nothing was heard: finite, so that every library ranks it
LONGEST_PART_S = 0.25  # of a label must lie in a window to count, or all of a shorter one


@dataclass(frozen=True)
class Item:
    """One row: a whole sound whose labels have no times, or a window of one whose labels have."""

    name: str
    recording: str
    start_s: float  # of the window that scored highest, to be listened to
    named: str  # the highest of all the judge's classes
    named_right: bool
    sound: LabelledSound = field(repr=False)
    note: str = ""  # why nothing was heard


@dataclass(frozen=True)
class Scored:
    """Scores and truth: rows are items, columns are classes. Nothing heard is `NOTHING` in every column."""

    classes: list[str]
    items: list[Item]
    truth: np.ndarray  # bool [items, classes]
    logits: np.ndarray  # float64 [items, classes]
    all_classes: int  # that the judge has; more than `classes` where only the set's own are compared

    @property
    def scores(self) -> np.ndarray:
        """float64 [items, classes], 0..1: the sigmoid of the logits."""
        from scipy.special import expit

        scores: np.ndarray = expit(self.logits)
        return scores

    @property
    def present(self) -> np.ndarray:
        """bool [classes]: those that occur. Others have no recall, and are in no mean."""
        return np.asarray(self.truth.any(axis=0))

    @property
    def heard(self) -> np.ndarray:
        """bool [items]: those in which anything was heard."""
        return np.asarray(self.logits.max(axis=1) > NOTHING / 2)

    @property
    def recordings(self) -> np.ndarray:
        """int64 [items]: the number of each item's recording."""
        _, numbers = np.unique([item.recording for item in self.items], return_inverse=True)
        return np.asarray(numbers, dtype=np.int64)


def scored(hearing: Hearing) -> Scored:
    """The table of everything that was heard."""
    items: list[Item] = []
    truth, logits = [], []
    for heard in hearing.sounds:
        for item, true, scores in _rows(heard, hearing):
            items.append(item)
            truth.append(true)
            logits.append(scores)
    classes = hearing.classes
    shape = (0, len(classes.names))
    return Scored(
        classes.names, items,
        np.stack(truth) if truth else np.zeros(shape, bool),
        np.stack(logits) if logits else np.zeros(shape), classes.total,
    )  # fmt: skip


def _rows(heard: Heard, hearing: Hearing) -> Iterator[tuple[Item, np.ndarray, np.ndarray]]:
    sound, classes = heard.sound, hearing.classes
    if not sound.by_window:
        yield _row(heard, hearing, np.arange(len(heard.starts_s)), sound.species)
        return
    window_s = hearing.judge.window_s
    for window, start_s in enumerate(heard.starts_s.tolist()):
        # What nobody identified, or less of a bird than a label takes, makes a window neither one nor none.
        doubtful = any(overlaps(label, start_s, window_s, LONGEST_PART_S) for label in sound.unknown)
        shown = [label for label in sound.labels if overlaps(label, start_s, window_s, LONGEST_PART_S)]
        touched = {label.label for label in sound.labels if overlaps(label, start_s, window_s, 1e-6)}
        names = tuple(sorted({label.label for label in shown}))
        unknown_to_judge = names and not any(name in classes.column_of for name in names)
        if doubtful or unknown_to_judge or touched - set(names):
            continue
        yield _row(heard, hearing, np.array([window]), names, f"{sound.name} {start_s:.2f} s")


def _row(
    heard: Heard, hearing: Hearing, windows: np.ndarray, species: tuple[str, ...], name: str = ""
) -> tuple[Item, np.ndarray, np.ndarray]:
    classes, judge = hearing.classes, hearing.judge
    true = np.zeros(len(classes.names), dtype=bool)
    true[[classes.column_of[one] for one in species if one in classes.column_of]] = True
    usable = windows[~(heard.silent | heard.broken)[windows]]
    note = "" if len(usable) else SILENCE if heard.silent[windows].all() else NOT_A_NUMBER
    if note:
        item = Item(
            name or heard.sound.name, heard.sound.recording, float(heard.starts_s[windows[0]]), "", False,
            heard.sound, note,
        )  # fmt: skip
        return item, true, np.full(len(classes.names), NOTHING)
    loudest = usable[heard.logits[usable].max(axis=1).argmax()]
    top = int(heard.best[usable[heard.best_logit[usable].argmax()]])
    item = Item(
        name or heard.sound.name, heard.sound.recording, float(heard.starts_s[loudest]), judge.label_of(top),
        _is_one_of(top, true, classes), heard.sound,
    )  # fmt: skip
    return item, true, heard.logits[usable].max(axis=0).astype(np.float64)


def _is_one_of(number: int, true: np.ndarray, classes: Classes) -> bool:
    return number in {classes.numbers[column] for column in np.flatnonzero(true)}
