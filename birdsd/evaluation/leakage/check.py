"""The check itself: which recordings stand in two splits, under whatever name, and who made them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from birdsd.errors import Mismatch, listed_names
from birdsd.format import table
from birdsd.remarks import Remark
from birdsd.sound.identity import group_recordings, merge_equal
from birdsd.sound.labels.annotation import Recording
from birdsd.sound.likeness import find_alike_across

RECORDING, RECORDIST, AUDIO = "recording", "recordist", "near-identical audio"
SPLITS = ("train", "validation", "test")
# In sets with more sound than this (ten minutes for one core), near-identical sound is not looked for.
MOST_LISTENED_S = 48 * 3600.0
_SHOWN = 20
_NO_NAMES = re.compile(r"\bhttps?://\S+|\bXC\s?\d+\b|(?<=,)\s*,")
_INAUDIBLE_S = 0.1  # an offset that is not worth a word


@dataclass(frozen=True)
class Leak:
    """Something that stands in two splits. `first` is what it is called in `first_split`."""

    kind: str  # RECORDING, RECORDIST or AUDIO
    first_split: str
    second_split: str
    first: str
    second: str
    detail: str

    def to_json(self) -> dict[str, str]:
        """Plain values only."""
        return dict(vars(self))


@dataclass(frozen=True)
class Leaks:
    """What `leaks` found, the surest first; `unchecked` says what could not be looked at, and why."""

    found: list[Leak]
    recordings: dict[str, int]  # of each split
    unchecked: list[str] = field(default_factory=list)

    def of(self, *kinds: str) -> list[Leak]:
        """Those of some kinds."""
        return [leak for leak in self.found if leak.kind in kinds]

    def refuse(self, recordists: bool = False) -> Leaks:
        """Itself, where no recording or near-identical sound is in two splits; else a `Mismatch` that names
        them. With `recordists` a person who recorded for two splits is refused as well."""
        refused = self.of(RECORDING, AUDIO, *([RECORDIST] if recordists else []))
        if not refused:
            return self
        shown = "; ".join(leak_text(leak) for leak in refused[:5])
        more = f"; and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise Mismatch(
            f"{_counted(refused)} in two splits: {shown}{more}",
            "what was trained on says nothing about new recordings",
            "split anew by recording (`birdsd run prepare` does), or take these files out of one split",
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {
            "recordings": self.recordings,
            "found": [leak.to_json() for leak in self.found],
            "unchecked": self.unchecked,
        }

    def text(self) -> str:
        """For a terminal: a row for each, at most twenty of a kind."""
        lines = []
        for kind in (RECORDING, AUDIO, RECORDIST):
            those = self.of(kind)
            rows = [
                [leak.kind, f"{leak.first_split}: {leak.first}", f"{leak.second_split}: {leak.second}",
                 leak.detail]
                for leak in those[:_SHOWN]
            ]  # fmt: skip
            lines += table([["in two splits", "", "", ""], *rows], {0, 1, 2, 3}) if rows else []
            lines += [f"... and {len(those) - _SHOWN} more"] if len(those) > _SHOWN else []
        counts = ", ".join(f"{count} {split}" for split, count in self.recordings.items())
        lines.append(
            f"leakage: {_counted(self.found) or 'nothing'} in two splits ({counts} recordings compared)"
        )
        return "\n".join([*lines, *self.unchecked])


def leaks(
    train: Sequence[Recording],
    validation: Sequence[Recording] = (),
    test: Sequence[Recording] = (),
    *,
    listen: bool = True,
) -> Leaks:
    """What stands in two of the splits: recordings (the same id, the same bytes or samples, parts of one by
    their names), recordists, and near-identical sound under another name, at another level, rate or start.

    Nothing is raised: see `Leaks.refuse`. Recordings whose file is not there are compared by what is known of
    them; `Leaks.unchecked` says so. `listen=False` looks for no near-identical sound.
    """
    given = dict(zip(SPLITS, (train, validation, test), strict=True))
    splits = {name: _named_apart(name, recordings) for name, recordings in given.items() if recordings}
    sets = _Sets(splits)
    found = [*_same_id(splits), *sets.same_samples(), *sets.same_parent()]
    unchecked = sets.without_file()
    if listen:
        found += sets.near_identical(found, unchecked)
    found += _same_recordist(splits)
    once = {(leak.first_split, leak.second_split, leak.first, leak.second): leak for leak in reversed(found)}
    ordered = [leak for leak in found if once[_place(leak)] is leak]
    return Leaks(ordered, {name: len(recordings) for name, recordings in splits.items()}, unchecked)


def _place(leak: Leak) -> tuple[str, str, str, str]:
    return leak.first_split, leak.second_split, leak.first, leak.second


@dataclass(frozen=True)
class _Placed:
    """A recording with its split and its own id. `key` is unique among all splits."""

    split: str
    key: str
    recording: Recording

    @property
    def name(self) -> str:
        """What it is called in a table: its file below its folder, or its id."""
        path = self.recording.path
        if not path.name:
            return self.recording.recording_id
        return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def _named_apart(split: str, recordings: Sequence[Recording]) -> list[_Placed]:
    return [_Placed(split, f"{split}\x1f{number}", one) for number, one in enumerate(recordings)]


def _pairs(splits: dict[str, list[_Placed]]) -> Iterator[tuple[list[_Placed], list[_Placed]]]:
    yield from combinations(splits.values(), 2)


def _leak(kind: str, first: _Placed, second: _Placed, detail: str) -> Leak:
    return Leak(kind, first.split, second.split, first.name, second.name, detail)


def _same_id(splits: dict[str, list[_Placed]]) -> Iterator[Leak]:
    """Recordings of one id. An id that is no more than a file's name counts where the files are not two that
    differ: the names 01.wav of two folders say nothing."""
    for one, other in _pairs(splits):
        known: dict[str, _Placed] = {}
        for placed in one:
            known.setdefault(placed.recording.recording_id, placed)
        for placed in other:
            twin = known.get(placed.recording.recording_id)
            if twin is not None and not _only_a_file_name(twin, placed):
                yield _leak(RECORDING, twin, placed, f"recording {placed.recording.recording_id}")


def _only_a_file_name(first: _Placed, second: _Placed) -> bool:
    """Whether two recordings share an id that was made of their files' names, in two different folders."""
    from birdsd.sound.labels.xenocanto import xenocanto_id

    paths = first.recording.path, second.recording.path
    name = first.recording.recording_id
    from_names = all(path.is_file() and path.with_suffix("").as_posix().endswith(name) for path in paths)
    return from_names and paths[0] != paths[1] and not xenocanto_id(paths[0].stem)


def person(recordist: str) -> str:
    """The name in what a table says of a recordist, where a number and an address may follow it.

    >>> person("Ann  Lee, XC536501, https://xeno-canto.org/536501")
    'Ann Lee'
    """
    return " ".join(_NO_NAMES.sub(" ", recordist).split()).strip(" ,;/")


def _same_recordist(splits: dict[str, list[_Placed]]) -> Iterator[Leak]:
    for one, other in _pairs(splits):
        by_name: list[dict[str, list[_Placed]]] = [{}, {}]
        for people, members in zip(by_name, (one, other), strict=True):
            for placed in members:
                if name := person(placed.recording.recordist):
                    people.setdefault(name.casefold(), []).append(placed)
        for key in sorted(by_name[0].keys() & by_name[1].keys()):
            first, second = by_name[0][key], by_name[1][key]
            counts = [f"{len(made)} recording{'s' if len(made) > 1 else ''}" for made in (first, second)]
            name = person(first[0].recording.recordist)
            yield Leak(RECORDIST, first[0].split, second[0].split, counts[0], counts[1], name)


class _Sets:
    """The splits together, each recording under a key of its own."""

    def __init__(self, splits: dict[str, list[_Placed]]) -> None:
        self.splits = splits
        self.placed = {one.key: one for members in splits.values() for one in members}
        self.there = {key: one for key, one in self.placed.items() if one.recording.path.is_file()}

    def without_file(self) -> list[str]:
        """A sentence on the recordings whose sound is not at hand."""
        gone = len(self.placed) - len(self.there)
        if not gone:
            return []
        text = (
            f"near-identical sound was not looked for in {gone} of {len(self.placed)} recordings: their "
            "files are not at hand (data.recordings=FOLDER says where they lie)"
        )
        return [Remark(text, "files-not-at-hand", recordings=gone, of=len(self.placed))]

    def _keyed(self) -> list[Recording]:
        return [replace(one.recording, recording_id=key) for key, one in self.there.items()]

    def _across(self, first: str, second: str, detail: str) -> Iterator[Leak]:
        one, other = self.placed[first], self.placed[second]
        if one.split != other.split:
            first_split, second_split = sorted((one, other), key=lambda placed: SPLITS.index(placed.split))
            yield _leak(RECORDING, first_split, second_split, detail)

    def same_samples(self) -> Iterator[Leak]:
        """Files of the same bytes or samples."""
        united: dict[str, list[str]] = {}
        for double, kept in merge_equal(self._keyed()).stands_for:
            united.setdefault(kept.recording_id, [kept.recording_id]).append(double.recording_id)
        for keys in united.values():
            for first, second in combinations(keys, 2):
                yield from self._across(first, second, "the same samples")

    def same_parent(self) -> Iterator[Leak]:
        """Parts of one recording, going by their names."""
        groups: dict[str, list[str]] = {}
        for key, group in group_recordings(self._keyed(), listen=False)[0].items():
            groups.setdefault(group, []).append(key)
        for keys in groups.values():
            for first, second in combinations(keys, 2):
                yield from self._across(first, second, "by their names parts of one recording")

    def near_identical(self, found: Sequence[Leak], unchecked: list[str]) -> Iterator[Leak]:
        """Near-identical sound, in pairs that were not found before."""
        listened_s = sum(one.recording.duration_s for one in self.there.values())
        if listened_s > MOST_LISTENED_S:
            text = (
                f"near-identical sound was not looked for: {listened_s / 3600:.0f} h is more than the limit "
                f"of {MOST_LISTENED_S / 3600:.0f} h"
            )
            unchecked.append(Remark(text, "alike-unchecked"))
            return
        known = {_place(leak) for leak in found}
        there = {
            name: [one for one in members if one.key in self.there] for name, members in self.splits.items()
        }
        for one, other in _pairs(there):
            if not one or not other:
                continue

            def same(i: int, j: int, one: list[_Placed] = one, other: list[_Placed] = other) -> bool:
                return _place(_leak("", one[i], other[j], "")) in known

            paths = [placed.recording.path for placed in one], [placed.recording.path for placed in other]
            for alike in find_alike_across(*paths, same):
                later_s = alike.later_s
                shift = f", {abs(later_s):.2f} s {'later' if later_s > 0 else 'earlier'}"
                detail = f"the same sound{shift if abs(later_s) > _INAUDIBLE_S else ''}"
                yield _leak(AUDIO, one[alike.first], other[alike.second], detail)


def leak_text(leak: Leak) -> str:
    """One leak in a line."""
    if leak.kind == RECORDIST:
        return f"{leak.detail} recorded for {leak.first_split} and {leak.second_split}"
    return f"{leak.first} ({leak.first_split}) and {leak.second} ({leak.second_split}): {leak.detail}"


def _counted(found: Sequence[Leak]) -> str:
    """How many of each kind, in words."""
    several = {RECORDING: "recordings", RECORDIST: "recordists", AUDIO: "pairs of near-identical sound"}
    one = {RECORDING: "recording", RECORDIST: "recordist", AUDIO: "pair of near-identical sound"}
    counts = [(kind, sum(leak.kind == kind for leak in found)) for kind in (RECORDING, AUDIO, RECORDIST)]
    words = [f"{count} {(one if count == 1 else several)[kind]}" for kind, count in counts if count]
    return listed_names(words) if words else ""
