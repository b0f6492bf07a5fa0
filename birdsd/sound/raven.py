"""Raven selection tables: tab-separated boxes, with the label in a column that users name freely.

Columns as Raven Pro writes them; a table over several files adds 'Begin Path' or 'Begin File' and
'File Offset (s)', the time within that file (Begin Time then counts over all files together).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from birdsd.errors import UserError
from birdsd.files import write_text
from birdsd.sound.annotation import Label, clean_name, is_no_bird, parse_number, read_text

_BEGIN, _END = "begin time (s)", "end time (s)"
_LABEL_COLUMNS = (
    "species",
    "annotation",
    "common name",
    "label",
    "class",
    "species code",
    "scientific name",
    "tag",
)
_TYPE_COLUMNS = ("type", "sound type", "call type", "vocalization type", "vocalisation type")
_FILE_COLUMNS = ("begin path", "begin file")
_NOT_LABELS = (
    {
        "selection",
        "view",
        "channel",
        _BEGIN,
        _END,
        "low freq (hz)",
        "high freq (hz)",
        "file offset (s)",
        "confidence",
    }
    | set(_FILE_COLUMNS)
    | set(_TYPE_COLUMNS)
)
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
    first = text.lstrip("\ufeff").split("\n", 1)[0].casefold()
    return "\t" in first and (_BEGIN in first or first.startswith("selection\t"))


def read_raven(path: Path, label_column: str | None = None) -> list[Label]:
    """The boxes of a selection table, whichever files they lie in. A header alone gives an empty list."""
    return [label for labels in read_raven_files(path, label_column).values() for label in labels]


def read_raven_files(path: Path, label_column: str | None = None) -> dict[str, list[Label]]:
    """The boxes of a selection table by the file named in it ('' where it names none).

    Raven writes a selection once per view (waveform, spectrogram): the one with frequencies counts.
    Raises `UserError` when the times or the label column cannot be told.
    """
    rows = list(csv.reader(io.StringIO(read_text(path)), delimiter="\t", quoting=csv.QUOTE_NONE))
    header = [name.strip() for name in rows[0]] if rows else []
    columns = {name.casefold(): number for number, name in reversed(list(enumerate(header)))}
    if _BEGIN not in columns or _END not in columns:
        named = ", ".join(filter(None, header)) or "(none)"
        raise UserError(
            f"{path} is no Raven selection table: its columns are {named}",
            "it needs 'Begin Time (s)' and 'End Time (s)', separated by tabs",
        )
    cells = [row for row in rows[1:] if any(cell.strip() for cell in row)]
    label_at = _label_column(path, columns, header, label_column) if cells else 0
    chosen: dict[tuple[str, str], tuple[str, Label]] = {}
    for number, row in enumerate(cells):

        def cell(name: str, row: Sequence[str] = row) -> str:
            at = columns.get(name, len(row))
            return row[at].strip() if at < len(row) else ""

        file = cell("begin path") or cell("begin file")
        label = _box(path, number, cell, row[label_at] if label_at < len(row) else "", bool(file))
        key = (file, cell("selection") or f"row {number}")
        if key not in chosen or cell("view").casefold().startswith("spectrogram"):
            chosen[key] = (file, label)
    found: dict[str, list[Label]] = {}
    for file, label in chosen.values():
        if not is_no_bird(label.label):
            found.setdefault(file, []).append(label)
        else:
            found.setdefault(file, [])
    return found


def _box(path: Path, number: int, cell: Callable[[str], str], name: str, in_file: bool) -> Label:
    start, end = parse_number(cell(_BEGIN)), parse_number(cell(_END))
    if start is None or end is None:
        raise UserError(
            f"{path}, selection {cell('selection') or number + 1}: the begin or end time is no number"
        )
    offset = parse_number(cell("file offset (s)")) if in_file else None
    if offset is not None:
        start, end = offset, offset + (end - start)
    channel = parse_number(cell("channel"))
    return Label(
        label=clean_name(name),
        start_s=start,
        end_s=end,
        low_hz=parse_number(cell("low freq (hz)")),
        high_hz=parse_number(cell("high freq (hz)")),
        sound_type=clean_name(next(filter(None, map(cell, _TYPE_COLUMNS)), "")),
        channel=None if channel is None else int(channel),
    )


def _label_column(path: Path, columns: dict[str, int], header: list[str], asked: str | None) -> int:
    if asked is not None:
        if asked.casefold() in columns:
            return columns[asked.casefold()]
        raise UserError(f"{path} has no column '{asked}'", f"its columns are {', '.join(header)}")
    for name in _LABEL_COLUMNS:
        if name in columns:
            return columns[name]
    free = [at for name, at in columns.items() if name and name not in _NOT_LABELS]
    if len(free) == 1:
        return free[0]
    raise UserError(
        f"{path} has no label column that can be told: its columns are {', '.join(filter(None, header))}",
        f"known are {', '.join(_LABEL_COLUMNS)}",
        "rename the one that holds the species to 'Species'",
    )


def write_raven(
    path: Path,
    labels: Sequence[Label],
    *,
    duration_s: float = 0.0,
    top_hz: float = 24000.0,
    begin_file: str = "",
) -> None:
    """Write a selection table atomically, sorted by time. Labels without times span [0, duration_s], those
    without frequencies [0, top_hz]."""
    lines = ["\t".join(_WRITTEN)]
    ordered = sorted(labels, key=lambda label: (label.start_s or 0.0, label.end_s or 0.0, label.label))
    for number, label in enumerate(ordered, start=1):
        end = label.end_s if label.end_s is not None else duration_s
        high = label.high_hz if label.high_hz is not None else top_hz
        where = f"{label.start_s or 0.0:.6f}\t{end:.6f}\t{label.low_hz or 0.0:.3f}\t{high:.3f}"
        names = "\t".join(map(clean_name, (label.label, label.sound_type, begin_file)))
        lines.append(f"{number}\tSpectrogram 1\t{label.channel or 1}\t{where}\t{names}")
    write_text(Path(path), "\n".join(lines) + "\n")
