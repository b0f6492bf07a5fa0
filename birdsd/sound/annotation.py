"""What a label, a labelled recording and a problem are; boxes become the labels of clips."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from birdsd.errors import UserError

# Names that say "there is no bird here" (BirdNET's convention for folders, kept for every format).
NO_BIRD = frozenset({"noise", "other", "background", "silence", "no bird", "nobird", "no event"})
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Label:
    """One named sound: a box in time and frequency. Without times it holds for the whole recording."""

    label: str
    start_s: float | None = None
    end_s: float | None = None
    low_hz: float | None = None
    high_hz: float | None = None
    sound_type: str = ""
    environment: str = ""
    channel: int | None = None


@dataclass(frozen=True)
class Recording:
    """A sound file with what is known about it. `labels` is empty where it is known to have no bird."""

    path: Path
    recording_id: str
    labels: tuple[Label, ...] = ()
    licence: str = ""
    recordist: str = ""
    environment: str = ""
    sound_type: str = ""
    weak: bool = True  # the labels hold for the whole file: no box says when
    duration_s: float = 0.0
    rate_hz: int = 0
    channels: int = 0

    @property
    def species(self) -> tuple[str, ...]:
        """The names that occur, sorted, each once."""
        return species_of(self.labels)


@dataclass(frozen=True)
class Problem:
    """Something that could not be used, and why; the rest goes on."""

    path: Path
    reason: str


@dataclass
class LabelledSet:
    """The recordings to learn from, those without any label, and everything that was left out."""

    recordings: list[Recording] = field(default_factory=list)
    unlabelled: list[Recording] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def species(self) -> tuple[str, ...]:
        """All names in the set, sorted, each once."""
        return tuple(sorted({name for recording in self.recordings for name in recording.species}))


def species_of(labels: Iterable[Label]) -> tuple[str, ...]:
    """The names in `labels`, sorted, each once."""
    return tuple(sorted({label.label for label in labels}))


def clip_labels(
    recording: Recording, start_s: float, duration_s: float, min_overlap_s: float = 0.25
) -> tuple[Label, ...]:
    """The labels of the clip [start_s, start_s + duration_s) of a recording.

    A box counts when at least `min_overlap_s` of it, or all of a shorter box, lies in the clip. Times
    become relative to the clip and are cut at its ends; labels for the whole file pass through.
    """
    found = []
    for label in recording.labels:
        if label.start_s is None or label.end_s is None:
            found.append(label)
            continue
        start, end = max(label.start_s - start_s, 0.0), min(label.end_s - start_s, duration_s)
        needed = min(min_overlap_s, label.end_s - label.start_s)
        # A nanosecond of slack: boxes are decimal numbers, clips multiples of a hop.
        if end - start >= needed - 1e-9 and end >= 0.0 and start <= duration_s:
            found.append(replace(label, start_s=start, end_s=max(start, end)))
    return tuple(found)


def clean_name(text: str) -> str:
    """A label as it is kept: one line, no control characters, composed Unicode, at most 120 characters."""
    text = "".join(
        c if unicodedata.category(c)[0] != "C" else " " for c in unicodedata.normalize("NFC", text)
    )
    return " ".join(text.split())[:_LONGEST_NAME]


def tidy_folder_name(name: str) -> str:
    """A folder's name as a species: 'black_phoebe' -> 'Black Phoebe', 'Sayornis nigricans_Black Phoebe'
    (BirdNET's label) -> 'Black Phoebe'. Names with capitals keep them."""
    if match := re.fullmatch(r"[A-Z][a-z-]+ [a-z -]+_(.+)", name):
        name = match[1]
    name = clean_name(name.replace("_", " "))
    if name == name.lower():
        name = " ".join(word[:1].upper() + word[1:] for word in name.split())
    return name


def is_no_bird(name: str) -> bool:
    """Whether a label or folder name means that there is no bird."""
    return clean_name(name.replace("_", " ").replace("-", " ")).casefold() in NO_BIRD


def read_text(path: Path) -> str:
    """A text file in UTF-8 (with or without a mark), UTF-16 with a mark, or else Windows-1252."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def parse_number(text: str) -> float | None:
    """A finite decimal number, with a point or a comma; None for an empty cell or anything else."""
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
