"""What a label, a labelled recording and a problem are; boxes become the labels of clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from birdsd.errors import Damaged

# Why a label is in no clip: the reasons that `prepare` adds up at its end (see `Account`).
MALFORMED = "malformed row"
NO_NAME = "no name"
UNKNOWN_BIRD = "unidentified bird"
NO_BIRD_BOX = "no bird"
ABSENT = "marked absent"
MISSING_FILE = "its file is not in the set"
UNREADABLE = "in a file that cannot be read"
NO_LABEL = "without a label"
SAME_RECORDING = "the same as another"
UNCLEAR_TIMES = "ambiguous times"
OUTSIDE = "outside the recording"
OUT_OF_BAND = "outside the codec's band"
REPEATED = "listed twice"
SUPERSEDED = "replaced by a more precise source"
NOT_CHOSEN = "species not asked for"
SILENT = "silent"
LIMIT = "beyond data.max_clips_per_recording"
NOT_SHOWN = "too little of it in any clip"


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
    unknown: tuple[Label, ...] = ()  # where birds are that nobody identified: no clip may call that "no bird"
    silences: tuple[Label, ...] = ()  # boxes that say "no bird here", where nothing else is said
    no_bird_rows: int = 0  # labels that say of the whole file that there is no bird
    duration_s: float = 0.0
    rate_hz: int = 0
    channels: int = 0

    @property
    def species(self) -> tuple[str, ...]:
        """The names that occur, sorted, each once."""
        return species_of(self.labels)

    @property
    def rows(self) -> int:
        """How many labels it stands for in the account."""
        return len(self.labels) or self.no_bird_rows


@dataclass(frozen=True)
class Problem:
    """Something that could not be used, or that a person should know, and why; the rest goes on.

    `labels` of them were left out for it, under the short reason `code`.
    """

    path: Path
    reason: str
    code: str = ""
    labels: int = 0


@dataclass
class Account:
    """What became of every label: read = used + left out by reason."""

    read: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass
class LabelledSet:
    """The recordings to learn from, those without any label, and everything that was left out.

    `files` is how many sound files were found, readable or not.
    """

    recordings: list[Recording] = field(default_factory=list)
    unlabelled: list[Recording] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    files: int = 0
    files_left_out: Counter[str] = field(default_factory=Counter)

    def leave_out(self, path: Path, reason: str, code: str, labels: int) -> None:
        """Note that `labels` labels go, in the list for people and in the account."""
        self.problems.append(Problem(path, reason, code, labels))
        self.account.left_out[code] += labels

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
    return tuple(label for _, label in shown_labels(recording, start_s, duration_s, min_overlap_s))


def shown_labels(
    recording: Recording, start_s: float, duration_s: float, min_overlap_s: float = 0.25
) -> list[tuple[int, Label]]:
    """`clip_labels` with the place of each label in `recording.labels`."""
    found = []
    for index, label in enumerate(recording.labels):
        if label.start_s is None or label.end_s is None:
            found.append((index, label))
        elif overlaps(label, start_s, duration_s, min_overlap_s):
            start, end = max(label.start_s - start_s, 0.0), min(label.end_s - start_s, duration_s)
            found.append((index, replace(label, start_s=start, end_s=max(start, end))))
    return found


def overlaps(label: Label, start_s: float, duration_s: float, min_overlap_s: float) -> bool:
    """Whether at least `min_overlap_s` of a box, or all of a shorter one, lies in a clip."""
    if label.start_s is None or label.end_s is None:
        return True
    start, end = max(label.start_s - start_s, 0.0), min(label.end_s - start_s, duration_s)
    needed = min(min_overlap_s, label.end_s - label.start_s)
    # A nanosecond of slack: boxes are decimal numbers, clips multiples of a hop.
    return end - start >= needed - 1e-9 and end >= 0.0 and start <= duration_s


def read_text(path: Path) -> str:
    """A text file in UTF-8 (with or without a mark), UTF-16 with a mark, or else Windows-1252."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Damaged(f"cannot read {path}: {error.strerror}") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")
