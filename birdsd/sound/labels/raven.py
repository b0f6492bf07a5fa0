"""Raven selection tables: tab-separated boxes, with the label in a column that users name freely.

Columns as Raven Pro writes them; a table over several files adds 'Begin Path' or 'Begin File' and
'File Offset (s)', the time within that file (Begin Time then counts over all files together).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from birdsd.errors import NotFound, listed_names
from birdsd.files import write_text
from birdsd.sound.labels.annotation import Label, read_text
from birdsd.sound.labels.columns import COLUMNS, map_columns
from birdsd.sound.labels.rows import LabelFile
from birdsd.sound.labels.sheets import load_sheet, separated
from birdsd.sound.labels.tables import read_sheet
from birdsd.sound.species.names import clean_name

_WRITTEN = (
    "Selection",
    "View",
    "Channel",
    "Begin Time (s)",
    "End Time (s)",
    "Low Freq (Hz)",
    "High Freq (Hz)",
    "Species",
    "Type",
    "Begin File",
)


def is_raven(text: str) -> bool:
    """Whether a text starts like a selection table."""
    first = text.lstrip("\ufeff").split("\n", 1)[0].casefold().replace('"', "")
    return "\t" in first and ("begin time (s)" in first or first.startswith("selection\t"))


def read_raven(path: Path, label_column: str | None = None) -> list[Label]:
    """The boxes of a selection table, whichever files they lie in. A header alone gives an empty list."""
    return [label for labels in read_raven_files(path, label_column).values() for label in labels]


def read_raven_files(path: Path, label_column: str | None = None) -> dict[str, list[Label]]:
    """The boxes of species in a selection table by the file named in it ('' where it names none).

    Raven writes a selection once per view (waveform, spectrogram): the one with frequencies counts.
    Raises `UserError` when a time is no number or the label column cannot be told.
    """
    found: dict[str, list[Label]] = {}
    for row in read_selections(path, label_column, named=True).strictly():
        found.setdefault(row.file, []).extend(row.labels())
    return found


def read_selections(path: Path, label_column: str | None = None, *, named: bool = False) -> LabelFile:
    """All rows of a selection table; `named`: refuse one in which no column holds names."""
    sheet = separated(read_text(path), path) if path.suffix.lower() == ".txt" else load_sheet(path)
    choices = {"label": label_column} if label_column else None
    columns = map_columns(path, sheet, choices or {})
    shown = listed_names(filter(None, sheet.header))
    if not (columns.has("start") and (columns.has("end") or columns.has("duration"))):
        raise NotFound(
            f"{path} is not a Raven selection table: its columns are {shown}",
            "it needs 'Begin Time (s)' and 'End Time (s)', separated by tabs",
        )
    if named and sheet.rows and not columns.names_species():
        raise NotFound(
            f"{path} has no recognisable label column: its columns are {shown}",
            f"known are {listed_names(COLUMNS['label'])}",
            "rename the one that holds the species to 'Species'",
        )
    return read_sheet(path, sheet, choices)[0]


def write_raven(path: Path, labels: Sequence[Label], **how: Any) -> None:
    """Write a selection table atomically: `raven_text` with its keywords."""
    write_text(Path(path), raven_text(labels, **how))


def raven_text(
    labels: Sequence[Label],
    *,
    duration_s: float = 0.0,
    top_hz: float = 24000.0,
    begin_file: str = "",
    further: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """A selection table, sorted by time. Labels without times span [0, duration_s], those without frequencies
    [0, top_hz]. `further` are more columns, by their headings: a cell for each label."""
    further = further or {}
    lines = ["\t".join([*_WRITTEN, *further])]
    order = [(label.start_s or 0.0, label.end_s or 0.0, label.label) for label in labels]
    for number, at in enumerate(sorted(range(len(labels)), key=order.__getitem__), start=1):
        label = labels[at]
        end = label.end_s if label.end_s is not None else duration_s
        high = label.high_hz if label.high_hz is not None else top_hz
        where = f"{label.start_s or 0.0:.6f}\t{end:.6f}\t{label.low_hz or 0.0:.3f}\t{high:.3f}"
        names = "\t".join(map(clean_name, (label.label, label.sound_type, begin_file)))
        cells = [f"{number}\tSpectrogram 1\t{label.channel or 1}\t{where}\t{names}"]
        lines.append("\t".join([*cells, *(column[at] for column in further.values())]))
    return "\n".join(lines) + "\n"
