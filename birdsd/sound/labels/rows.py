"""A row: one statement about sound, whichever format it was written in.

Every reader of labels gives rows: which file a row means, which stretch of it, which band and channel, and
whether it names species, no bird, or a bird that nobody identified. `labels.layers` finds the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from birdsd.errors import BadValue
from birdsd.sound.labels.annotation import Label, Problem
from birdsd.sound.species.names import NOTHING, Names


@dataclass(frozen=True)
class Row:
    """A line of a label file. Without times it holds for the whole file; `file` is '' where it names none."""

    number: int  # its line in the label file
    names: Names = NOTHING
    file: str = ""
    start_s: float | None = None
    end_s: float | None = None
    low_hz: float | None = None
    high_hz: float | None = None
    channel: int | None = None
    sound_type: str = ""
    environment: str = ""
    about_birds: bool = True  # False: it has a licence or a date, but says nothing about birds
    guessed: bool = False  # its column was taken for the species by elimination
    absent: bool = False  # it says that the bird it names is not there
    perhaps_cumulative: bool = False  # Raven's begin times count over all files of a table together
    recording_id: str = ""
    licence: str = ""
    recordist: str = ""

    @property
    def is_box(self) -> bool:
        return self.start_s is not None

    @property
    def count(self) -> int:
        """How many labels it holds; a box without a name is one too."""
        return self.names.count or int(self.about_birds)

    def label(self, name: str) -> Label:
        """The row's box as a label of this name."""
        kind = self.sound_type or ", ".join(self.names.sound_types)
        return Label(
            name, self.start_s, self.end_s, self.low_hz, self.high_hz, kind, self.environment, self.channel
        )

    def labels(self) -> list[Label]:
        """One for each species that it names; one without a name where it names nothing at all."""
        names = self.names.species or (("",) if self.is_box and not self.names.count else ())
        return [self.label(name) for name in names]


@dataclass
class LabelFile:
    """What one label file says: its rows, the lines that could not be read, and names that it equates."""

    path: Path
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    synonyms: list[tuple[str, str]] = field(default_factory=list)  # (scientific, common)
    doubtful: list[str] = field(default_factory=list)  # the files that lines name which cannot be read

    @property
    def count(self) -> int:
        """All labels read, also those of lines that could not be used."""
        return sum(row.count for row in self.rows) + sum(problem.labels for problem in self.problems)

    @property
    def has_boxes(self) -> bool:
        return any(row.is_box for row in self.rows)

    def strictly(self) -> Iterator[Row]:
        """The rows, or a `UserError` for the first line that could not be read."""
        for problem in self.problems:
            if problem.labels:
                raise BadValue(f"{self.path}, {problem.reason}")
        yield from self.rows
