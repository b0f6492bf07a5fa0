"""The sounds to be judged: files and folders of recordings or generated clips, and what they should be.

Labels are read as `prepare` reads them (tables, annotations, folders named after a species); beside a
generated clip its recipe says what was asked for, and a preview says it in its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from birdsd.errors import NotFound, NothingLeft, UserError
from birdsd.evaluation.judges.judge import Judge, sigmoid
from birdsd.evaluation.judges.judgement import SILENT_BELOW
from birdsd.files import read_json
from birdsd.sound.audio.recordings import RecordingError, blocks, find_recordings, probe
from birdsd.sound.labels.layers import is_container
from birdsd.sound.labels.load import Recording, load_recordings
from birdsd.sound.species.names import read_names, species_key

_BLOCK_WINDOWS = 100  # a recording is heard in blocks, whatever its length
_PREVIEWS = "previews"


@dataclass(frozen=True)
class SoundFile:
    """A file to be judged; `species` are all that it is said to hold, none where nobody said."""

    path: Path
    species: tuple[str, ...] = ()
    duration_s: float = 0.0


@dataclass
class SoundFiles:
    """All files to be judged, and those that cannot be, with the reason."""

    files: list[SoundFile] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def species(self) -> list[str]:
        """All species that the files are said to hold, sorted."""
        return sorted({name for file in self.files for name in file.species})

    def names(self) -> list[str]:
        """A short name for each file: its path below the folder that all of them share."""
        paths = [os.path.abspath(file.path) for file in self.files]
        shared = os.path.commonpath([os.path.dirname(path) for path in paths])
        return [Path(os.path.relpath(path, shared)).as_posix() for path in paths]


def find_sounds(sources: Sequence[Path], judge: Judge) -> SoundFiles:
    """The sounds in files and folders. What cannot be read is listed and costs nothing else; a path that does
    not exist is a `UserError`, and so is finding nothing at all."""
    for source in sources:
        if not source.exists():
            raise NotFound(f"{source} does not exist", "", "name sound files, or folders of them")
    found = SoundFiles()
    for source in sources:
        try:
            known = load_recordings(source, require_labels=False)
        except UserError as error:
            if (unreadable := _unreadable(source, error)) is None:
                raise
            found.left_out += unreadable
            continue
        readable = [*known.recordings, *known.unlabelled]
        paths = {one.path for one in readable}
        found.left_out += [
            (one.path, one.reason) for one in known.problems if one.path.is_file() and one.path not in paths
        ]
        for one in sorted(readable, key=lambda recording: recording.path):
            found.files.append(SoundFile(one.path, _species_of(one, judge), one.duration_s))
    unique = {os.path.abspath(file.path): file for file in found.files}
    found.files = list(unique.values())
    if not found.files:
        reasons = "; ".join(reason for _, reason in found.left_out[:3])
        raise NothingLeft(f"there is no sound to judge: {reasons}")
    return found


def _unreadable(source: Path, error: UserError) -> list[tuple[Path, str]] | None:
    """Why a source has nothing to hear, file by file; None where some of it is sound, so that the error is
    about something else (its labels)."""
    paths = find_recordings(source)
    reasons = []
    for path in paths:
        try:
            probe(path)
        except RecordingError as reason:
            reasons.append((path, str(reason)))
        else:
            return None
    return reasons if paths else [(source, error.problem)]


def _species_of(recording: Recording, judge: Judge) -> tuple[str, ...]:
    """What a sound should be: as it was asked for, else as it is labelled, else as its folder is called."""
    path = Path(os.path.abspath(recording.path))  # named from inside its folder, too
    if path.parent.parent.name == _PREVIEWS and path.parent.name.isdigit():
        return _in_prompt(path.stem, judge)
    species = _asked_for(path) or recording.species
    if species or recording.unknown or recording.no_bird_rows:
        return species
    return _of_its_folder(path, judge)


def _asked_for(path: Path) -> tuple[str, ...]:
    """What a generated clip was asked to be, by the recipe beside it."""
    recipe = path.with_suffix(".json")
    if not recipe.is_file():
        return ()
    try:
        values = read_json(recipe, "recipe")
    except UserError:
        return ()
    if not isinstance(values, dict) or not values.get("generated"):
        return ()
    species = values.get("species")
    return tuple(str(name) for name in species) if isinstance(species, list) else ()


def _in_prompt(stem: str, judge: Judge) -> tuple[str, ...]:
    """The species in the name of a preview: '03-a_Black_Phoebe_singing' -> Black Phoebe."""
    words = stem.partition("-")[2].split("_")
    for count in range(min(6, len(words)), 0, -1):
        for first in range(len(words) - count + 1):
            name = " ".join(words[first : first + count])
            # One short word could be anything: 'a', a code, the engine in 'with engine in the background'.
            if count == 1 and (len(name) <= 4 or not name[0].isupper()):
                continue
            if (number := judge.class_of(name)) is not None:
                return (judge.label_of(number),)
    return ()


def _of_its_folder(path: Path, judge: Judge) -> tuple[str, ...]:
    """The species that the folder around a file is named after: whoever names that folder, or a file in it,
    means the same as whoever names the one above. It must be one that the judge knows, and no code."""
    folder = path.parent.name
    names = () if is_container(folder) else read_names(folder, folder=True).species
    numbers = [judge.class_of(name) for name in names]
    if None in numbers:
        return ()
    coded = [
        len(name) == 4 and species_key(name) != species_key(judge.label_of(number))
        for name, number in zip(names, numbers, strict=True)
        if number is not None
    ]
    return () if any(coded) else names


@dataclass(frozen=True)
class Detection:
    """A class with a score of at least the minimum in one window of a file."""

    start_s: float
    end_s: float
    species: str
    score: float


@dataclass(frozen=True)
class HeardFile:
    """What a judge heard in one file, however long: of all windows together, and where."""

    logits: np.ndarray  # float32 [classes], the highest of any window
    embedding: np.ndarray  # float32 [width], the mean over windows
    duration_s: float
    silent: bool
    detections: list[Detection]


def hear_file(judge: Judge, path: Path, min_confidence: float) -> HeardFile:
    """Listen to a file block by block. `RecordingError` where it cannot be read to its end."""
    highest: np.ndarray | None = None
    total: np.ndarray | None = None
    windows, end_s, detections = 0, 0.0, []
    low, high = np.inf, -np.inf
    for start_s, block in whole_windows(judge, path):
        heard = judge.hear(block, judge.rate_hz)
        end_s = start_s + block.shape[-1] / judge.rate_hz
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        top, summed = heard.clip_logits, heard.embeddings.sum(axis=0, dtype=np.float64)
        highest = top if highest is None else np.maximum(highest, top)
        total = summed if total is None else total + summed
        windows += len(heard.logits)
        scores = sigmoid(heard.logits)
        for window, number in np.argwhere(scores >= min_confidence):
            begin_s = start_s + float(heard.starts_s[window])
            end_of_window_s = min(begin_s + judge.window_s, end_s)
            detections.append(
                Detection(
                    begin_s, end_of_window_s, judge.label_of(int(number)), float(scores[window, number])
                )
            )
    if highest is None or total is None:
        raise NothingLeft(f"{path} has no samples")
    silent = high - low < SILENT_BELOW
    return HeardFile(
        highest, (total / windows).astype(np.float32), end_s, silent, [] if silent else detections
    )


def whole_windows(judge: Judge, path: Path) -> Iterator[tuple[float, np.ndarray]]:
    """Blocks of whole windows; what is left at the end, less than a window, comes with the block before, so
    that the judge treats it as the end of a sound."""
    pending: tuple[float, np.ndarray] | None = None
    for start_s, block in blocks(path, judge.rate_hz, _BLOCK_WINDOWS * judge.window_s):
        if pending is not None and block.shape[-1] < judge.window_s * judge.rate_hz:
            pending = pending[0], np.concatenate([pending[1], block], axis=-1)
            continue
        if pending is not None:
            yield pending
        pending = start_s, block
    if pending is not None:
        yield pending
