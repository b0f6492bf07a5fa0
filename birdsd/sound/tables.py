"""Label tables: CSV, TSV or parquet, a row for each recording or each box, under many column names."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from birdsd.errors import UserError
from birdsd.sound.annotation import Label, Problem, clean_name, is_no_bird, parse_number, read_text

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})

# Canonical column -> names under which it is met (BirdNET, Perch, OpenSoundscape, BirdCLEF, Raven).
COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "begin_path", "begin_file"),
    "label": ("label", "species", "common_name", "annotation", "class", "primary_label", "scientific_name"),
    "start": ("start", "start_s", "start_time", "start_time_s", "begin_time", "begin_time_s", "onset"),
    "end": ("end", "end_s", "end_time", "end_time_s", "offset"),
    "low": ("low_hz", "low", "low_freq", "low_freq_hz", "freq_min", "min_freq", "low_f"),
    "high": ("high_hz", "high", "high_freq", "high_freq_hz", "freq_max", "max_freq", "high_f"),
    "type": ("type", "sound_type", "call_type", "vocalization", "vocalisation"),
    "environment": ("environment", "env", "background_sound"),
    "licence": ("licence", "license", "lic"),
    "recordist": ("recordist", "attribution", "author", "rec"),
    "recording_id": ("recording_id", "recording", "xc_id"),
    "channel": ("channel",),
    "kind": ("kind", "role"),
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One row: the file as written in the table, its label (None: none given) and what else is known."""

    row: int
    file: str
    label: Label | None
    labelled: bool  # False: the row says nothing about birds; True with no label: there is no bird
    recording_id: str = ""
    licence: str = ""
    recordist: str = ""
    environment: str = ""
    sound_type: str = ""


@dataclass(frozen=True)
class Table:
    """The usable rows of a table, the others as problems, and which column holds what."""

    entries: list[Entry]
    problems: list[Problem]
    columns: dict[str, str]
    header: list[str]


def read_table(path: Path, columns: Mapping[str, str] | None = None) -> Table:
    """Read a table; `columns` maps canonical names (see COLUMNS) to those of the table where they differ.

    Raises `UserError` when the file cannot be read or has neither labels nor files.
    """
    path = Path(path)
    header, rows = _parquet(path) if path.suffix.lower() == ".parquet" else _separated(path)
    found = _map_columns(path, header, columns or {})
    table = Table([], [], found, header)
    for number, row in enumerate(rows, start=2):  # line 1 is the header
        try:
            table.entries.append(
                _entry(number, {name: row.get(column, "") for name, column in found.items()})
            )
        except ValueError as error:
            table.problems.append(Problem(path, f"row {number}: {error}"))
    return table


def require(table: Table, path: Path, name: str) -> None:
    """Refuse a table that lacks a canonical column, naming what it has and the nearest match."""
    if name in table.columns:
        return
    raise _missing(path, name, table.header)


def _missing(path: Path, name: str, header: list[str]) -> UserError:
    valid = COLUMNS[name]
    near = [
        (column, match)
        for column in header
        for match in difflib.get_close_matches(_fold(column), valid, 1, 0.6)
    ]
    hint = f"Did you mean '{near[0][1]}' by '{near[0][0]}'?" if near else f"rename a column to '{valid[0]}'"
    return UserError(
        f"{path} has no column for the {name}; its columns are {', '.join(header) or '(none)'}",
        f"known names are {', '.join(valid)}",
        hint,
    )


def _fold(name: str) -> str:
    """'Begin Time (s)' -> 'begin_time_s'."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.casefold()).split())


def _map_columns(path: Path, header: list[str], asked: Mapping[str, str]) -> dict[str, str]:
    folded = {_fold(name): name for name in reversed(header)}
    found = {}
    for canonical, column in asked.items():
        if canonical not in COLUMNS:
            raise UserError(f"unknown column '{canonical}'", f"valid: {', '.join(COLUMNS)}")
        if column not in header:
            raise UserError(f"{path} has no column '{column}'", f"its columns are {', '.join(header)}")
        found[canonical] = column
    for canonical, names in COLUMNS.items():
        match = next((folded[name] for name in names if name in folded), None)
        if match is not None:
            found.setdefault(canonical, match)
    if "label" not in found and "path" not in found:
        raise _missing(path, "label", header)
    return found


def _entry(number: int, cells: Mapping[str, str]) -> Entry:
    name = clean_name(cells.get("label", ""))
    kind = cells.get("kind", "").strip().casefold()
    environment = clean_name(cells.get("environment", ""))
    sound_type = clean_name(cells.get("type", ""))
    start, end = _number(cells, "start"), _number(cells, "end")
    label, labelled = None, False
    if kind.startswith(("environment", "noise", "background")):
        labelled, environment = True, environment or clean_name(name.replace("_", " ")).lower()
    elif is_no_bird(name):
        labelled = True
    elif name and not (kind.startswith(("soundscape", "annotation", "unlabelled")) and start is None):
        channel = _number(cells, "channel")
        low, high = _number(cells, "low"), _number(cells, "high")
        label = Label(
            name, start, end, low, high, sound_type, environment, None if channel is None else int(channel)
        )
        labelled = True
    if (start is None) != (end is None):
        raise ValueError("it has a start without an end, or an end without a start")
    return Entry(
        row=number,
        file=cells.get("path", "").strip(),
        label=label,
        labelled=labelled,
        recording_id=clean_name(cells.get("recording_id", "")),
        licence=clean_name(cells.get("licence", "")),
        recordist=" ".join(cells.get("recordist", "").split()),
        environment=environment,
        sound_type=sound_type,
    )


def _number(cells: Mapping[str, str], name: str) -> float | None:
    text = cells.get(name, "").strip()
    if not text or text.casefold() in {"nan", "na", "none", "null"}:
        return None
    value = parse_number(text)
    if value is None:
        raise ValueError(f"the {name} is '{text[:40]}', not a number")
    return value


def _separated(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    text = read_text(path)
    first = text.split("\n", 1)[0]
    delimiter = max("\t,;", key=first.count) if any(d in first for d in "\t,;") else ","
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
        header = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = header
        rows = [{key: value for key, value in row.items() if isinstance(value, str)} for row in reader]
    except csv.Error as error:
        raise UserError(f"{path} is not a readable table: {error}") from error
    return header, rows


def _parquet(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    import pyarrow  # only parquet needs it
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable parquet table: {error}") from error
    rows = [{k: "" if v is None else str(v) for k, v in row.items()} for row in table.to_pylist()]
    return list(table.column_names), rows
