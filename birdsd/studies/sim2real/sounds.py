"""The sounds of the experiment: windows of real recordings split by recording, and synthetic clips.

Split before anything else. A recording and everything that is nearly the same belongs to one split; a level's
recordings are those of the smaller levels and more.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from birdsd.errors import BadValue, NothingLeft, listed_names, unknown_name
from birdsd.evaluation.judges.judgement import SILENT_BELOW
from birdsd.evaluation.leakage import leaks
from birdsd.evaluation.sim2real.arms import ALL
from birdsd.files import fingerprint
from birdsd.shards.prepare.splits import assign_splits
from birdsd.sound.audio.recordings import RecordingError, read
from birdsd.sound.identity import unite
from birdsd.sound.labels.load import LabelledSet, Recording, clip_labels, load_recordings

WINDOW_S = 3.0  # BirdNET's
_SHORTEST_S = 1.0  # of a last window
# Recordings of a species: of one in the test nothing says how far two differ.
_LEAST = {"train": 1, "validation": 1, "test": 2}
MOST_WINDOWS = 10  # of one recording, evenly spread


@dataclass(frozen=True)
class Sample:
    """A stretch of a sound file with one species. `variant`: 0 as it is, k the k-th augmented copy."""

    path: Path
    start_s: float
    duration_s: float
    species: str
    recording: str
    origin: str = "real"
    variant: int = 0

    @property
    def stretch(self) -> str:
        """Which sound it is, whatever was done to it."""
        return f"{self.recording}@{self.start_s:.3f}"

    @property
    def key(self) -> str:
        """What it is called in records."""
        return self.stretch + (f"+{self.variant}" if self.variant else "")


@dataclass(frozen=True)
class RealSounds:
    """Windows by split; `order`: training recordings of each species, the first of which make the small
    levels."""

    species: list[str]
    samples: dict[str, list[Sample]]
    recordings: dict[str, Recording]
    order: dict[str, list[str]]
    remarks: list[str]

    @property
    def fingerprint(self) -> str:
        """Of the split and the windows."""
        return fingerprint({split: [one.key for one in found] for split, found in self.samples.items()})

    def count(self, level: str) -> int:
        """How many recordings of a species a level has at most."""
        most = max(map(len, self.order.values()))
        return most if level == ALL else min(int(level), most)

    def training_recordings(self, count: int) -> list[Recording]:
        """The first `count` training recordings of every species."""
        names = {name for known in self.order.values() for name in known[:count]}
        return [self.recordings[name] for name in sorted(names)]

    @property
    def held_out(self) -> list[Recording]:
        """The recordings of validation and test."""
        names = {one.recording for split in ("validation", "test") for one in self.samples[split]}
        return [self.recordings[name] for name in sorted(names)]

    def training(self, count: int) -> list[Sample]:
        """Their windows."""
        chosen = {name for known in self.order.values() for name in known[:count]}
        return [one for one in self.samples["train"] if one.recording in chosen]


def real_sounds(
    folder: Path,
    labels: Path | None,
    *,
    species: Sequence[str] = (),
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> RealSounds:
    """Read, unite what is the same, split by recording within species, and cut into windows."""
    found = load_recordings(folder, labels)
    for name in species:
        if name not in found.species:
            raise unknown_name("species", name, found.species)
    groups = unite(found)
    wanted = set(species)
    recordings = {
        one.recording_id: one
        for one in found.recordings
        if one.labels and (not wanted or set(one.species) & wanted)
    }
    splits = assign_splits(
        {name: one.species for name, one in recordings.items()},
        validation_fraction, test_fraction, seed, groups,
    )  # fmt: skip
    samples: dict[str, list[Sample]] = {"train": [], "validation": [], "test": []}
    for name, one in recordings.items():
        samples[splits[name]] += windows_of_recording(one, wanted)
    known = {
        split: {
            name
            for name in {one.species for one in found}
            if len({one.recording for one in found if one.species == name}) >= _LEAST[split]
        }
        for split, found in samples.items()
    }
    usable = sorted(set.intersection(*known.values()))
    remarks = _problems(found)
    every = {one.species for found in samples.values() for one in found}
    if left := sorted(every - set(usable)):
        remarks.append(
            f"left out, for want of a training, a validation and two test recordings: {listed_names(left)}"
        )
    if len(usable) < 2:
        raise NothingLeft(
            f"{len(usable)} species of {folder} have recordings enough",
            "the experiment tells at least two apart, with at least a training, a validation and two test "
            "recordings of each",
            "add recordings, or raise test_fraction",
        )
    samples = {split: [one for one in each if one.species in usable] for split, each in samples.items()}
    order: dict[str, list[str]] = {name: [] for name in usable}
    for sample in samples["train"]:
        if sample.recording not in order[sample.species]:
            order[sample.species].append(sample.recording)
    order = {name: sorted(each, key=lambda one: _draw(seed, one)) for name, each in order.items()}
    return RealSounds(usable, samples, recordings, order, remarks)


def _draw(seed: int, recording: str) -> bytes:
    return hashlib.blake2b(f"level {seed} {recording}".encode(), digest_size=16).digest()


def _problems(found: LabelledSet) -> list[str]:
    return [f"{problem.path.name}: {problem.reason}" for problem in found.problems[:10]]


def windows_of_recording(recording: Recording, species: set[str] | None = None) -> list[Sample]:
    """Windows of 3 s, one after the other, that hold exactly one species and are not silent.

    A last window of less than 1 s is dropped, unless it is the only one; of a long recording at most
    `MOST_WINDOWS` are taken.
    """
    count = max(1, math.ceil(recording.duration_s / WINDOW_S))
    if count > 1 and recording.duration_s - (count - 1) * WINDOW_S < _SHORTEST_S:
        count -= 1
    found = []
    for number in range(count):
        start_s = number * WINDOW_S
        names = {label.label for label in clip_labels(recording, start_s, WINDOW_S)}
        if len(names) == 1 and (not species or names <= species):
            duration_s = min(WINDOW_S, max(recording.duration_s - start_s, 0.0))
            found.append(Sample(recording.path, start_s, duration_s, names.pop(), recording.recording_id))
    if len(found) > MOST_WINDOWS:
        found = [found[int(at)] for at in np.linspace(0, len(found) - 1, MOST_WINDOWS).round()]
    return [one for one in found if not _silent(one)]


def _silent(sample: Sample) -> bool:
    """Whether nothing sounds in it, or it cannot be read: nobody could learn its species there."""
    try:
        sound = read(sample.path, 16_000, start_s=sample.start_s, duration_s=sample.duration_s)
    except RecordingError:
        return True
    return float(np.ptp(sound)) < SILENT_BELOW


def usable_levels(asked: Sequence[str], real: RealSounds) -> tuple[list[str], list[str]]:
    """(the levels that differ, ascending; remarks): one that asks for as many as there are is "all"."""
    most = max(map(len, real.order.values()))
    numbers: set[int] = set()
    remarks = []
    for level in map(str, asked):
        if level == ALL:
            continue
        if not level.isdigit() or int(level) < 1:
            raise BadValue(f"level {level!r}", "a level is a number of recordings a species, or all", "")
        if int(level) >= most:
            remarks.append(f"level {level} is left out: no species has more than {most} training recordings")
            if ALL not in map(str, asked):
                raise BadValue(remarks[-1], "a level needs fewer recordings than there are", "levels=[2,all]")
        else:
            numbers.add(int(level))
    return [*map(str, sorted(numbers)), *([ALL] if ALL in map(str, asked) else [])], remarks


def synthetic_sounds(
    folder: Path, species: Sequence[str], held_out: Sequence[Recording] | None = None
) -> tuple[list[Sample], list[str]]:
    """(samples, remarks) of generated clips or of scenes: whatever labels lie beside them, as `prepare` reads
    them. Each file counts as a recording of its own."""
    found = load_recordings(folder)
    if held_out is not None:
        leaks(found.recordings, test=held_out).refuse()
    wanted = set(species)
    samples = []
    for recording in found.recordings:
        windows = windows_of_recording(recording, wanted)
        samples += [
            replace(one, recording=f"synthetic {recording.path.name}", origin="synthetic") for one in windows
        ]
    absent = sorted(wanted - {one.species for one in samples})
    remarks = [f"{folder}: no synthetic clip of {listed_names(absent)}"] if absent else []
    if not samples:
        raise NothingLeft(
            f"no clip in {folder} is labelled with one of the experiment's species",
            f"they are {listed_names(species)}",
            "name the folder of clips: synthetic=FOLDER, or FOLDER/{level} with one for each level",
        )
    return balanced(samples), remarks


def balanced(samples: Sequence[Sample]) -> list[Sample]:
    """As many of every species: those of the rarest, in the order of their files."""
    by_species: dict[str, list[Sample]] = {}
    for one in samples:
        by_species.setdefault(one.species, []).append(one)
    least = min(map(len, by_species.values()))
    return [one for name in sorted(by_species) for one in by_species[name][:least]]


def confirmed(
    samples: Sequence[Sample], named_right: Callable[[Sample], bool]
) -> tuple[list[Sample], Mapping[str, float]]:
    """(those that a judge names right, the share of each species that it does). What is left is not balanced:
    species are drawn equally often all the same."""
    kept = [one for one in samples if named_right(one)]
    names = sorted({one.species for one in samples})
    shares = {
        name: sum(one.species == name for one in kept) / sum(one.species == name for one in samples)
        for name in names
    }
    return kept, shares
