"""Which classes a clip's metadata names, as numbers; and what sets of clips cannot teach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from birdsd.errors import Mismatch, NothingLeft, listed_names, unknown_name
from birdsd.remarks import Remark
from birdsd.shards.balance import species_of_samples
from birdsd.shards.index import ShardIndex
from birdsd.shards.summary import NO_BIRD


@dataclass(frozen=True)
class Classes:
    """The species that a classifier tells apart, in the order of its logits."""

    names: tuple[str, ...]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def target(self, metadata: Mapping[str, Any]) -> np.ndarray:
        """float32 [classes]: 1 for each that the clip holds. Other species are left out."""
        found = np.zeros(len(self.names), np.float32)
        for name in metadata.get("species", ()):
            if (number := self._numbers.get(str(name))) is not None:
                found[number] = 1
        return found

    def outside(self, metadata: Mapping[str, Any]) -> list[str]:
        """The species of a clip that are no classes."""
        return [str(name) for name in metadata.get("species", ()) if str(name) not in self._numbers]

    def frames(self, metadata: Mapping[str, Any], count: int, clip_s: float) -> tuple[np.ndarray, bool]:
        """float32 [classes, count]: in which frames each class is heard, and whether the labels say so.

        They do where each has a beginning and an end, and where there is no bird.
        """
        found = np.zeros((len(self.names), count), np.float32)
        labels = list(metadata.get("labels") or ())
        if not metadata.get("species"):
            return found, True
        known = bool(labels)
        for label in labels:
            start, end = label.get("start_s"), label.get("end_s")
            if start is None or end is None:
                return np.zeros_like(found), False
            number = self._numbers.get(str(label.get("label")))
            if number is not None:
                first = int(np.floor(float(start) / clip_s * count))
                last = max(first + 1, int(np.ceil(float(end) / clip_s * count)))
                found[number, max(0, first) : last] = 1
        return found, known


@dataclass(frozen=True)
class Census:
    """What the training split holds: the classes, how many clips each has, and which clips have none."""

    classes: Classes
    counts: np.ndarray  # int64 [classes]
    without_bird: np.ndarray  # int64: numbers of clips
    several: int  # clips with more than one class
    none: int  # clips with none of them


def census(index: ShardIndex, wanted: Sequence[str]) -> Census:
    """Of the training split of `index`. `wanted` are the classes; empty: all its species."""
    groups, of_sample = species_of_samples(index, "train")
    there = sorted({name for names in groups for name in names} - {NO_BIRD})
    for name in wanted:
        if name not in there:
            raise unknown_name("class in method.classes", name, there)
    classes = Classes(tuple(dict.fromkeys(wanted)) or tuple(there))
    per_group = np.bincount(of_sample, minlength=len(groups))
    held = [set(names) & set(classes.names) for names in groups]
    counts: Counter[str] = Counter()
    for names, count in zip(held, per_group.tolist(), strict=True):
        counts.update(dict.fromkeys(names, count))
    silent = [number for number, names in enumerate(groups) if names == [NO_BIRD]]
    return Census(
        classes,
        np.array([counts[name] for name in classes.names], np.int64),
        np.flatnonzero(np.isin(of_sample, silent)),
        sum(count for names, count in zip(held, per_group.tolist(), strict=True) if len(names) > 1),
        sum(count for names, count in zip(held, per_group.tolist(), strict=True) if not names),
    )


def check_classes(found: Census, loss: str, folder: object) -> None:
    """Refuse what cannot be learnt from: fewer than two kinds of clips, or a loss that does not fit them."""
    names, total = found.classes.names, int(found.counts.sum())
    if not names:
        raise NothingLeft(
            f"no clip in the training split of {folder} names a species",
            "a classifier learns from labelled clips",
            "prepare the shards from labelled recordings",
        )
    if len(names) == 1 and not found.none:
        raise NothingLeft(
            f"all clips in the training split of {folder} are of {names[0]}",
            "a classifier tells at least two kinds of sound apart",
            "add recordings of another species, or recordings without a bird",
        )
    if loss == "cross_entropy" and (found.several or found.none or len(names) == 1):
        raise Mismatch(
            f"method.loss=cross_entropy, and {found.several} training clips hold several of the "
            f"{len(names)} classes, {found.none} hold none",
            "it needs exactly one of at least two classes in each clip",
            "set method.loss=bce",
        )
    if not total:
        raise NothingLeft(f"no training clip holds any of {listed_names(names)}", "", "name other classes")


def remarks(index: ShardIndex, found: Census) -> list[str]:
    """What a user should know of the classes: those with one recording, and held-out species without one."""
    lines: list[str] = []
    known = index.dataset.get("species", {})
    counts = {
        name: int(known.get(name, {}).get("train", {}).get("recordings", 0)) for name in found.classes.names
    }
    if single := [name for name, count in counts.items() if count == 1]:
        text = f"{listed_names(single)}: one training recording: what is learnt is that recording"
        lines.append(Remark(text, "class-of-one-recording", classes=single))
    if not index.count("validation"):
        text = (
            "there are no validation recordings: thresholds stay at 0.5, and nothing tells how well it does "
            "(data.validation_fraction=0.1 of `birdsd run prepare` holds some out)"
        )
        lines.append(Remark(text, "no-validation"))
        return lines
    groups, of_sample = species_of_samples(index, "validation")
    count = np.bincount(of_sample, minlength=len(groups)).tolist()
    others = {name for names in groups for name in names} - {NO_BIRD, *found.classes.names}
    if others:
        clips = sum(n for names, n in zip(groups, count, strict=True) if set(names) & others)
        text = (
            f"{clips} of {sum(count)} validation clips hold species that are no classes "
            f"({listed_names(sorted(others))}): those are left out of validation"
        )
        lines.append(
            Remark(text, "species-without-class", clips=clips, of=sum(count), species=sorted(others))
        )
    return lines
