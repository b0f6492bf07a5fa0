"""Label tables: CSV, TSV (Raven's selection tables among them) or parquet, a row for each box or file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from birdsd.errors import listed_names
from birdsd.remarks import Remark
from birdsd.sound.labels.annotation import MALFORMED, UNCLEAR_TIMES, Problem
from birdsd.sound.labels.columns import COLUMNS, NAMED_BY, Columns, map_columns, require
from birdsd.sound.labels.numbers import parse_number
from birdsd.sound.labels.rows import LabelFile, Row
from birdsd.sound.labels.sheets import Sheet, load_sheet
from birdsd.sound.labels.xenocanto import licence_name
from birdsd.sound.species.names import NOTHING, Names, clean_name, read_environment, read_names, read_types
from birdsd.sound.species.wordlists import EMPTY

__all__ = ["COLUMNS", "TABLE_SUFFIXES", "load_sheet", "map_columns", "read_sheet", "read_table", "require"]

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})
_CALLED = {"low": "lowest frequency", "high": "highest frequency", "start": "start", "end": "end"}
_NOT_THERE = frozenset({"0", "0.0", "false", "no", "n", "absent", "f"})


def read_table(path: Path, columns: Mapping[str, str] | None = None) -> LabelFile:
    """Read a table; `columns` maps canonical names (see COLUMNS) to those of the table where they differ.

    Rows that cannot be read are problems. `UserError` when the file cannot be read at all.
    """
    return read_sheet(path, load_sheet(path), columns)[0]


def read_sheet(
    path: Path, sheet: Sheet, choices: Mapping[str, str] | None = None
) -> tuple[LabelFile, Columns]:
    """The rows of a table that is loaded, and which column holds what."""
    columns = map_columns(path, sheet, choices or {})
    if not columns.names_species() and not columns.has("path") and not columns.has("start"):
        require(path, columns, sheet, "label")
    found = LabelFile(path)
    for number, cells in _views_once(sheet, columns):
        try:
            row, synonyms = _row(number, cells, columns)
        except ValueError as error:
            at = columns.at.get("selection", len(cells))
            which = f", selection {cells[at].strip()}" if at < len(cells) else ""
            found.problems.append(Problem(path, f"row {number}{which}: {error}", MALFORMED, 1))
            at = columns.at.get("path", len(cells))
            found.doubtful.append(cells[at].strip() if at < len(cells) else "")
            continue
        found.rows.append(row)
        found.synonyms += synonyms
        found.problems += [Problem(path, f"row {number}: {remark}") for remark in row.names.remarks]
    if columns.marks:
        names = [sheet.header[at] for at, _ in columns.marks]
        words = f"its columns {listed_names(names)} are read as present (1) or absent (0)"
        found.problems.append(Problem(path, Remark(words, "species-in-columns", columns=names)))
    if columns.guessed:
        words = f"its column '{columns.guessed}' is taken for the species where nothing else names them"
        found.problems.append(Problem(path, Remark(words, "guessed-column", column=columns.guessed)))
    if columns.unread_times:
        named = ", ".join(f"'{name}'" for name in columns.unread_times[:4])
        words = f"{named} look like times and are not read: call them 'start' and 'end', in seconds"
        found.problems.append(Problem(path, Remark(words, "unread-times", columns=columns.unread_times)))
        _leave_out_boxes(found)
    return found, columns


def _leave_out_boxes(found: LabelFile) -> None:
    """Without their times, several rows of one file are boxes of which nobody knows where they are."""
    rows = Counter(row.file for row in found.rows if row.about_birds and not row.is_box)
    boxes = [row for row in found.rows if rows[row.file] > 1 and row.about_birds and not row.is_box]
    if boxes:
        count = sum(row.count for row in boxes)
        reason = f"{count} labels are left out: their files have several rows, whose times are not read"
        reason = Remark(reason, "rows-without-times", labels=count)
        found.problems.append(Problem(found.path, reason, UNCLEAR_TIMES, count))
        found.doubtful += list(dict.fromkeys(row.file for row in boxes))
        gone = set(map(id, boxes))
        found.rows = [row for row in found.rows if id(row) not in gone]


def _views_once(sheet: Sheet, columns: Columns) -> list[tuple[int, list[str]]]:
    """The rows, a selection that Raven wrote once per view only once: the view with frequencies counts.

    Two rows are one box only where number, file, times and channel agree and the views differ: joined tables
    number their selections anew.
    """
    if not (columns.has("view") and columns.has("selection")):
        return sheet.rows

    def cell(cells: list[str], name: str) -> str:
        at = columns.at.get(name, len(cells))
        return cells[at].strip() if at < len(cells) else ""

    same = ("selection", "path", "start", "end", "file_offset", "channel")
    alone: dict[tuple[str, ...], tuple[str, int]] = {}  # box -> a view of it, and its place in `kept`
    kept: list[tuple[int, list[str]]] = []
    for number, cells in sheet.rows:
        box, view = tuple(cell(cells, name) for name in same), cell(cells, "view").casefold()
        before = alone.get(box)
        if before is None or before[0] == view:
            alone[box] = view, len(kept)
            kept.append((number, cells))
            continue
        place = before[1]
        first, other = kept[place]
        own, spare = (cells, other) if view.startswith("spectrogram") else (other, cells)
        # The name may stand in the row of the other view alone.
        joined = [one or more for one, more in zip_longest(own, spare, fillvalue="")]
        kept[place] = (number if own is cells else first, joined)
    return sorted(kept)


def _row(number: int, cells: list[str], columns: Columns) -> tuple[Row, list[tuple[str, str]]]:
    def cell(name: str) -> str:
        at = columns.at.get(name, len(cells))
        return cells[at].strip() if at < len(cells) else ""

    def value(name: str) -> float | None:
        return _number(cell(name), name, columns)

    names, synonyms = _names(cell, cells, columns)
    kind = cell("kind").casefold()
    environment = read_environment(cell("environment"))
    start, end, duration, offset = (value(name) for name in ("start", "end", "duration", "file_offset"))
    if end is None and start is not None and duration is not None:
        end = start + duration
    if (start is None) != (end is None):
        raise ValueError("it has a start without an end, or an end without a start")
    about_birds = bool(names.count or names.sound_types) or start is not None
    absent = bool(names.count) and cell("present").casefold() in _NOT_THERE
    if kind.startswith(("environment", "noise", "background")):
        words = names.no_bird + names.species + names.unknown
        environment = environment or clean_name((words or ("",))[0].replace("_", " ")).lower()
        names, about_birds = Names(no_bird=(environment or "environment",)), True
    elif kind.startswith(("soundscape", "annotation", "unlabelled")) and start is None:
        names, about_birds = Names(), False
    file = cell("path")
    if columns.has("folder") and file and "/" not in file and "\\" not in file and cell("folder"):
        file = f"{cell('folder')}/{file}"
    if not file or "://" in file or file.startswith("//"):
        number_there = cell("number").upper().removeprefix("XC").removeprefix("ML")
        file = f"XC{number_there}" if number_there.isdigit() else file
    if start is not None and end is not None and offset is not None and file:
        start, end = offset, offset + (end - start)
    channel, (low, high) = value("channel"), _band(value("low"), value("high"))
    return Row(
        number, names, file, start, end, low, high,
        channel=None if channel is None else int(channel) + 1 - columns.first_channel,
        sound_type=read_types(cell("type")),
        environment=environment,
        about_birds=about_birds,
        perhaps_cumulative=columns.is_raven and start is not None and offset is None,
        recording_id=clean_name(cell("recording_id")),
        licence=licence_name(cell("licence")),
        recordist=" ".join(cell("recordist").split()),
        guessed=bool(columns.guessed),
        absent=absent,
    ), synonyms  # fmt: skip


def _names(
    cell: Callable[[str], str], cells: list[str], columns: Columns
) -> tuple[Names, list[tuple[str, str]]]:
    """What a row is called, from the best of its columns that says something; names that it equates."""
    if columns.marks:
        return _marked(cells, columns), []
    if columns.has("has_bird"):
        there = cell("has_bird").casefold()
        bird = Names(unknown=("a bird",)) if there else NOTHING
        return (Names(no_bird=("no bird",)) if there in _NOT_THERE else bird), []
    binomial = " ".join(filter(None, (cell("genus"), cell("epithet"))))
    texts: list[str] = []
    for name in NAMED_BY:
        if name == "label":
            texts += [cells[at].strip() for at in columns.labels if at < len(cells)]
        else:
            texts.append(binomial if name == "binomial" else cell(name))
    readings = [read_names(text) for text in texts if text]
    chosen = next((names for names in readings if names.species), None)
    chosen = chosen or next((names for names in readings if names.count), None)
    types = tuple(dict.fromkeys(kind for names in readings for kind in names.sound_types))
    chosen = replace(chosen or NOTHING, sound_types=types)
    synonyms = list(chosen.scientific)
    scientific = read_names(cell("scientific") or binomial).species
    if len(scientific) == len(chosen.species):
        synonyms += [(a, b) for a, b in zip(scientific, chosen.species, strict=True) if a != b]
    return chosen, synonyms


def _marked(cells: list[str], columns: Columns) -> Names:
    """The names of the columns in which a row has a 1; none of them: no bird."""
    there = [
        names
        for at, names in columns.marks
        if at < len(cells) and cells[at].strip() and cells[at].strip().casefold() not in _NOT_THERE
    ]
    if not there:
        return Names(no_bird=("none of its columns",))
    return Names(
        *(
            tuple(name for names in there for name in getattr(names, kind))
            for kind in ("species", "no_bird", "unknown")
        )
    )


def _band(low_hz: float | None, high_hz: float | None) -> tuple[float | None, float | None]:
    """A box's frequencies; -1, and 0 to 0, are how programs write that there are none."""
    if low_hz is not None and low_hz < 0:
        low_hz = None
    if high_hz is not None and high_hz <= 0:
        low_hz, high_hz = low_hz or None, None
    return low_hz, high_hz


def _number(text: str, name: str, columns: Columns) -> float | None:
    if text.casefold() in EMPTY:
        return None
    rule = columns.rules.get(name, "")
    value = parse_number(text, rule)
    if value is None:
        if parse_number(text, "decimal") is not None:
            words = f"the {_CALLED.get(name, name)} '{text[:40]}' has two readings"
            raise ValueError(f"{words}: write a decimal point, or no comma")
        raise ValueError(f"the {_CALLED.get(name, name)} is '{text[:40]}', not a number")
    return value * columns.scale.get(name, 1.0)
