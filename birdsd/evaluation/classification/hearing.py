"""A judge hears labelled sounds: what it gave each class in every window, and what was the highest of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from birdsd.diffusion.networks.finite import NotFinite
from birdsd.errors import NothingLeft, UserError, listed_names
from birdsd.evaluation.classification.sounds import LabelledSound, LabelledSounds
from birdsd.evaluation.judges.judge import Judge
from birdsd.evaluation.judges.judgement import is_silent

# Of a judge with more classes than this, only those of the test set compete for the highest score.
MOST_CLASSES = 200
SILENCE, NOT_A_NUMBER = "silence", "its scores are not numbers (NaN or infinite)"


@dataclass(frozen=True)
class Classes:
    """The classes that are compared: their numbers among the judge's own, and what they are called here."""

    numbers: list[int]
    names: list[str]
    column_of: dict[str, int]  # any spelling in the set -> column
    unknown: list[str]  # species of the set that the judge has no class for
    total: int  # classes that the judge has


@dataclass(frozen=True)
class Heard:
    """What a judge gave one sound, window by window."""

    sound: LabelledSound
    starts_s: np.ndarray  # float64 [windows]
    logits: np.ndarray  # float32 [windows, columns]
    best: np.ndarray  # int64 [windows]: the highest of all the judge's classes
    best_logit: np.ndarray  # float32 [windows]
    silent: np.ndarray  # bool [windows]
    broken: np.ndarray  # bool [windows]: scores that are not numbers
    frames: np.ndarray | None = None  # of a judge that says when: logits, float32 [windows, columns, frames]


@dataclass
class Hearing:
    """All sounds as one judge heard them."""

    judge: Judge
    classes: Classes
    sounds: list[Heard]
    left_out: list[tuple[str, str]] = field(default_factory=list)


def classes_of(judge: Judge, species: Sequence[str]) -> Classes:
    """The columns for a set's species: all classes of a small judge, of a large one those of the set.

    `UserError` where the judge has a class for none of them.
    """
    numbers: dict[int, str] = {}
    columns: dict[str, int] = {}
    unknown = []
    for name in species:
        number = judge.class_of(name)
        if number is None:
            unknown.append(name)
        else:
            numbers.setdefault(number, name)
            columns[name] = number
    if not numbers:
        some = [judge.label_of(number) for number in range(min(3, len(judge.names)))]
        raise NothingLeft(
            f"{judge.title} has a class for none of {listed_names(unknown)}",
            f"its {len(judge.names)} classes begin with {listed_names(some)}",
            "name another judge, or sounds of species that it knows",
        )
    total = len(judge.names)
    if total <= MOST_CLASSES:
        for number in range(total):
            numbers.setdefault(number, judge.label_of(number))
    ordered = sorted(numbers, key=lambda number: numbers[number].casefold())
    place = {number: column for column, number in enumerate(ordered)}
    return Classes(
        ordered, [numbers[number] for number in ordered], {name: place[n] for name, n in columns.items()},
        sorted(unknown), total,
    )  # fmt: skip


def hear(judge: Judge, sounds: LabelledSounds, classes: Classes, progress: bool = True) -> Hearing:
    """Let a judge hear every sound whose species it knows, and those without a bird.

    A sound that cannot be read, or of whose species it knows none, is listed in `left_out`. `NothingLeft`
    where none is left, or all are silent; `NotFinite` where no score is a number.
    """
    from tqdm import tqdm

    hearing = Hearing(judge, classes, [], list(sounds.left_out))
    total_s = round(sum(sound.duration_s for sound in sounds.sounds))
    with tqdm(total=total_s, desc=judge.title, unit="s", disable=None if progress else True) as bar:
        for sound in sounds.sounds:
            known = [name for name in sound.species if name in classes.column_of]
            if sound.labels and not known:
                why = f"{judge.title} has no class for {listed_names(sound.species)}"
                hearing.left_out.append((sound.name, why))
            elif sound.unknown and not sound.by_window:
                hearing.left_out.append((sound.name, "a bird in it is unidentified"))
            else:
                try:
                    hearing.sounds.append(_heard(judge, sound, classes))
                except UserError as error:
                    hearing.left_out.append((sound.name, str(error)))
            bar.update(min(round(sound.duration_s), total_s - bar.n))
    _check_usable(hearing, sounds)
    return hearing


def _check_usable(hearing: Hearing, sounds: LabelledSounds) -> None:
    judge = hearing.judge.title
    if not hearing.sounds:
        raise NothingLeft(f"none of the sounds in {sounds.title} can be judged: {hearing.left_out[0][1]}")
    if all(heard.silent.all() for heard in hearing.sounds):
        raise NothingLeft(
            f"all {len(hearing.sounds)} sounds in {sounds.title} are silent", "",
            "look at how they were written: `birdsd inspect` shows their levels",
        )  # fmt: skip
    if all((heard.broken | heard.silent).all() for heard in hearing.sounds):
        raise NotFinite(
            f"{judge} gives no score that is a number (NaN or infinite)",
            "its training diverged, or its weights are damaged",
            "use an earlier checkpoint, or train it anew with a lower learning rate",
        )


def _heard(judge: Judge, sound: LabelledSound, classes: Classes) -> Heard:
    starts, logits, best, best_logit, silent, broken = [], [], [], [], [], []
    frames: list[np.ndarray] = []
    for begin_s, block, rate_hz in sound.blocks(judge):
        heard = judge.hear(block, rate_hz)
        scores = np.asarray(heard.logits, dtype=np.float32)
        starts.append(np.asarray(heard.starts_s, dtype=np.float64) + begin_s)
        bad = np.logical_not(np.isfinite(scores).all(axis=1))
        scores = np.where(np.reshape(bad, (-1, 1)), np.float32(0), scores)
        logits.append(scores[:, classes.numbers])
        best.append(scores.argmax(axis=1))
        best_logit.append(scores.max(axis=1))
        broken.append(bad)
        if heard.frames is not None:
            frames.append(np.asarray(heard.frames, dtype=np.float32)[:, classes.numbers])
        silent.append([_is_silent(block, rate_hz, start_s, judge.window_s) for start_s in heard.starts_s])
    if not starts:
        raise NothingLeft(f"{sound.name} has no samples")
    return Heard(
        sound, np.concatenate(starts), np.concatenate(logits), np.concatenate(best),
        np.concatenate(best_logit), np.concatenate(silent).astype(bool), np.concatenate(broken),
        np.concatenate(frames) if frames else None,
    )  # fmt: skip


def _is_silent(block: np.ndarray, rate_hz: int, start_s: float, window_s: float) -> bool:
    first = round(float(start_s) * rate_hz)
    part = block[..., first : first + max(1, round(window_s * rate_hz))]
    return part.size == 0 or is_silent(part)
