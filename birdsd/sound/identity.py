"""Which files are one recording: by their bytes, their samples, their names, or by what is to be heard.

Two clips of one recording in training and test make a test that means nothing. What is the same to the
byte, or to the sample, is one recording with both labels. What was cut from one recording, or sounds the
same, stays together when recordings are split.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from birdsd.files import sha256_file
from birdsd.remarks import Remark
from birdsd.sound.audio.formats import AUDIO_SUFFIXES
from birdsd.sound.audio.source import RecordingError, opened
from birdsd.sound.labels.annotation import REPEATED, SAME_RECORDING, Label, LabelledSet, Problem, Recording
from birdsd.sound.likeness import LOOKED_AT_S, find_alike
from birdsd.sound.species.names import species_key
from birdsd.sound.species.vocabulary import banding_codes

# In sets with more sound than this (a minute of work for two cores), near-identical ones are not looked for.
MOST_LISTENED_S = 6 * 3600.0
# How far two files are the same.
BYTES, SAMPLES = "byte for byte", "sample for sample"
_MIDDLE_S = 0.5  # of two files of equal length, what is compared before all of it
_LENGTH_SLACK_S = 0.06

_NUMBER = r"(\d+(?:\.\d+)?)"
_BEFORE = r"[\s_@.\[(-]+"  # what stands between a recording's name and its part
_AFTER = r"[\])]*"
# 0.875_3_NAME_0.0s_3.0s: BirdNET-Analyzer puts confidence and rank first.
_BIRDNET = re.compile(rf"[01]\.\d+_\d+_(?P<parent>.+)_{_NUMBER}s[_-]{_NUMBER}s")
# NAME_3.0s-6.0s, NAME_3.0s-6.0s_final (OpenSoundscape).
_SECONDS = re.compile(rf"(?P<parent>.+?){_BEFORE}{_NUMBER}s(?:ec)?[_-]+{_NUMBER}s(?:ec)?{_AFTER}(?:_final)?")
# NAME_000.0-003.0, NAME_00-05, NAME_12.0_15.0, NAME_1000_4000: only with a length that fits.
_RANGE = re.compile(rf"(?P<parent>.+?){_BEFORE}(?P<start>{_NUMBER})[_-](?P<end>{_NUMBER}){_AFTER}(?:_final)?")
# NAME_seg3, NAME-clip-002, NAME_part1, NAME_chunk_12, NAME (part 2).
_COUNTED = re.compile(
    rf"(?P<parent>.+?){_BEFORE}(?:segment|seg|clip|part|pt|chunk|split|cut|slice|snippet|window|win|piece|section"
    rf"|excerpt)[\s_.-]*\d+{_AFTER}",
    re.IGNORECASE,
)
# NAME_30s, NAME_t12.5s: where it begins.
_START = re.compile(rf"(?P<parent>.+?){_BEFORE}t?\d+(?:\.\d+)?s", re.IGNORECASE)
_DATE = re.compile(r"(?:19|20)\d\d[-_](?:0\d|1[0-2])[-_][0-3]\d$")


@dataclass
class Identity:
    """What `identify` found.

    `recordings`: each recording once, with all labels of those that are the same; `stands_for`: (left out,
    kept) for those; `groups`: recording id -> the id of what it is split with, its own for most.
    """

    recordings: list[Recording] = field(default_factory=list)
    stands_for: list[tuple[Recording, Recording]] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def identify(recordings: Sequence[Recording], listen: bool = True) -> Identity:
    """Merge what is the same, and group what belongs together; nothing is written anywhere.

    `listen`: also look for near-identical sound, in sets of up to 6 hours of it.
    """
    result = Identity()
    merge_equal(recordings, result)
    result.groups, found = group_recordings(result.recordings, listen)
    result.problems += found
    return result


def unite(found: LabelledSet) -> dict[str, str]:
    """Make what is the same one recording in a set, with an account of it; the groups to split by."""
    before = sum(recording.rows for recording in found.recordings)
    identity = identify(found.recordings)
    found.recordings = identity.recordings
    found.problems += identity.problems
    found.account.left_out[REPEATED] += before - sum(recording.rows for recording in found.recordings)
    found.files_left_out[SAME_RECORDING] += len(identity.stands_for)
    return identity.groups


def merge_equal(recordings: Sequence[Recording], result: Identity | None = None) -> Identity:
    """Files of the same bytes, or of the same samples in another container, become one recording.

    Only files of equal size are hashed, and only files of equal length are decoded: half a second of each,
    and the whole where that is the same.
    """
    result = result or Identity()
    twins: list[tuple[list[Recording], str]] = []
    rest = list(recordings)
    for same_size in _alike(rest, lambda r: r.path.stat().st_size):
        twins += [(found, BYTES) for found in _alike(same_size, lambda r: sha256_file(r.path))]
    doubles = {id(r) for found, _ in twins for r in found[1:]}
    rest = [r for r in rest if id(r) not in doubles]
    for same_length in _alike(rest, lambda r: (r.rate_hz, r.channels, round(r.duration_s * r.rate_hz))):
        for same_middle in _alike(same_length, lambda r: _samples_hash(r.path, _MIDDLE_S)):
            found = _alike(same_middle, lambda r: _samples_hash(r.path))
            twins += [(same, SAMPLES) for same in found]
    kept: dict[int, Recording] = {id(r): r for r in recordings}
    for same, how in twins:
        one = _with_all_labels([kept[id(r)] for r in same])
        kept[id(same[0])] = one
        for double in same[1:]:
            kept.pop(id(double))
            result.stands_for.append((double, one))
            named = ", ".join(one.species) or "no bird"
            result.problems.append(
                Problem(
                    double.path,
                    Remark(
                        f"it is the same recording as {_place(one.path, double.path)}, {how}: "
                        f"read once, labelled {named}",
                        "same-recording",
                        of=one.path,
                        how=how,
                        species=one.species,
                    ),
                )
            )
    result.recordings += [kept[id(r)] for r in recordings if id(r) in kept]
    return result


def group_recordings(
    recordings: Sequence[Recording], listen: bool = True
) -> tuple[dict[str, str], list[Problem]]:
    """Recording id -> the id of the group to split it with, and what was found.

    A group is named after the first of its recording ids, so that a recording alone has its own. Segments go
    by their names (see `parent_of`); near-identical sound is reported, and goes together too.
    """
    groups = _Groups(recording.recording_id for recording in recordings)
    problems: list[Problem] = []
    parents: dict[str, list[Recording]] = {}
    whole: dict[str, list[Recording]] = {}
    for recording in recordings:
        parent = parent_of(recording)
        if parent:
            parents.setdefault(parent.casefold(), []).append(recording)
        else:
            whole.setdefault(recording.path.stem.casefold(), []).append(recording)
    for parent, segments in list(parents.items()):
        if len({recording.species for recording in segments}) > 1:
            # One name before the numbers, over several species: that of the set, and of no recording.
            del parents[parent]
            continue
        found = whole.get(parent, [])
        beside = [r for r in found if r.path.parent == segments[0].path.parent]
        family = [*segments, *(beside or (found if len(found) == 1 else []))]
        for other in family[1:]:
            groups.join(family[0].recording_id, other.recording_id)
    cut = [segments for segments in parents.values() if len({r.recording_id for r in segments}) > 1]
    if cut:
        count = sum(map(len, cut))
        problems.append(
            Problem(
                cut[0][0].path,
                f"by their names, {count} files (this is the first) are parts of {len(cut)} recordings: "
                "the parts of one stay in one split",
            )
        )
    problems += _listened(recordings, groups) if listen else []
    return groups.names(), problems


def parent_of(recording: Recording) -> str | None:
    """The name of the recording that a segment was cut from, going by its own name; None for no segment.

    Known are the names of BirdNET-Analyzer and OpenSoundscape, and numbers of parts. Bare numbers count
    where they fit the file's length, so that a date and a time are no range. What is left must be more than
    the name of the species.
    """
    stem = recording.path.stem
    for pattern in (_BIRDNET, _SECONDS, _COUNTED, _RANGE, _START):
        if match := pattern.fullmatch(stem):
            if pattern is _RANGE and (
                _DATE.search(stem) or not _fits(float(match["start"]), float(match["end"]), recording)
            ):
                continue
            parent = match["parent"].rstrip(" _-.")
            if Path(parent).suffix.lower() in AUDIO_SUFFIXES:
                parent = Path(parent).stem
            if parent and not _is_species(parent, recording):
                return parent
            return None
    return None


def _fits(start: float, end: float, recording: Recording) -> bool:
    """Whether two numbers are the ends of a segment of this length: in s, ms or samples."""
    length_s, rate_hz = recording.duration_s, recording.rate_hz or 1
    slack = max(_LENGTH_SLACK_S, 0.01 * length_s)
    return any(
        end > start and abs((end - start) * unit - length_s) <= slack for unit in (1.0, 0.001, 1 / rate_hz)
    )


def _is_species(name: str, recording: Recording) -> bool:
    known = {recording.path.parent.name, *recording.species}
    codes = {code.lower() for known_name in known for code in banding_codes(known_name)}
    return species_key(name) in {species_key(known_name) for known_name in known} | codes


def _listened(recordings: Sequence[Recording], groups: _Groups) -> list[Problem]:
    heard_s = sum(min(r.duration_s, LOOKED_AT_S) for r in recordings)
    if heard_s > MOST_LISTENED_S:
        problem = (
            f"near-identical recordings were not looked for: that would take {heard_s / 3600:.0f} h of "
            f"listening, and the limit is {MOST_LISTENED_S / 3600:.0f} h"
        )
        return [Problem(recordings[0].path.parent, Remark(problem, "alike-unchecked"))]
    problems = []
    paths = [recording.path for recording in recordings]

    def same(first: int, second: int) -> bool:
        return groups.same(recordings[first].recording_id, recordings[second].recording_id)

    for found in find_alike(paths, same):
        first, second = recordings[found.first], recordings[found.second]
        groups.join(first.recording_id, second.recording_id)
        shift = f", {abs(found.later_s):.2f} s {'later' if found.later_s > 0 else 'earlier'}"
        labels = "" if first.species == second.species else (
            f"; their labels differ: {', '.join(first.species) or 'no bird'} there, "
            f"{', '.join(second.species) or 'no bird'} here"
        )  # fmt: skip
        problems.append(
            Problem(
                second.path,
                Remark(
                    f"it sounds the same as {_place(first.path, second.path)}"
                    f"{shift if abs(found.later_s) > 0.1 else ''}: both go into one split{labels}",
                    "sounds-the-same",
                    of=first.path,
                    labels_differ=bool(labels),
                ),
            )
        )
    return problems


class _Groups:
    """Sets of ids that are joined two by two."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._above = {one: one for one in ids}

    def _top(self, one: str) -> str:
        while self._above[one] != one:
            self._above[one] = self._above[self._above[one]]
            one = self._above[one]
        return one

    def join(self, one: str, other: str) -> None:
        first, second = sorted((self._top(one), self._top(other)))
        self._above[second] = first

    def same(self, one: str, other: str) -> bool:
        return self._top(one) == self._top(other)

    def names(self) -> dict[str, str]:
        return {one: self._top(one) for one in self._above}


def _alike(recordings: Sequence[Recording], key: Callable[[Recording], object]) -> list[list[Recording]]:
    """Those that share a key with another, together; where it cannot be had, it is shared with none."""

    def attempt(recording: Recording) -> object:
        try:
            return key(recording)
        except (OSError, RecordingError):
            return recording.path  # its own alone

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        values = list(pool.map(attempt, recordings))
    found: dict[object, list[Recording]] = {}
    for recording, value in zip(recordings, values, strict=True):
        found.setdefault(value, []).append(recording)
    return [files for files in found.values() if len(files) > 1]


def _samples_hash(path: Path, middle_s: float | None = None) -> bytes:
    """Of the samples as 24-bit numbers: all of them, or those of half a second, if possible in the middle."""
    digest = hashlib.blake2b(digest_size=16)
    with opened(path) as source:
        first, end = 0, source.frames
        if middle_s is not None:
            # An MP3 is read from its start: its decoder complains on the terminal after a leap.
            leaps = source.sound.format != "MP3"
            first = max(0, (end - round(middle_s * source.rate_hz)) // 2) if leaps else 0
            end = min(end, first + round(middle_s * source.rate_hz))
        step = 1 << 18
        for position in range(first, end, step):
            frames = source.peek(position, min(step, end - position))
            digest.update(np.rint(frames * 2.0**23).astype(np.int32).tobytes())
    return digest.digest()


def _with_all_labels(same: Sequence[Recording]) -> Recording:
    first = same[0]

    def known(name: str) -> str:
        return next((str(getattr(r, name)) for r in same if getattr(r, name)), "")

    labels = tuple(dict.fromkeys(label for recording in same for label in recording.labels))
    whole: tuple[Label, ...] = ()
    if not all(recording.weak for recording in same):
        # Beside boxes, what holds for the whole file is somewhere: it names none of the boxes' clips.
        whole = tuple(label for label in labels if label.start_s is None)
        labels = tuple(label for label in labels if label.start_s is not None) or labels
    return replace(
        first,
        labels=labels,
        unknown=tuple(dict.fromkeys([*(x for r in same for x in r.unknown), *whole])),
        silences=() if labels else tuple(label for recording in same for label in recording.silences),
        no_bird_rows=0 if labels else sum(recording.no_bird_rows for recording in same),
        weak=all(recording.weak for recording in same),
        licence=known("licence"),
        recordist=known("recordist"),
        environment=known("environment"),
        sound_type=known("sound_type"),
    )


def _place(path: Path, beside: Path) -> str:
    """A path as it is told apart from another: its name, with its folder where the names are the same."""
    return path.name if path.name != beside.name else f"{path.parent.name}/{path.name}"
