"""Label tables: CSV, TSV (Raven's selection tables among them) or parquet, under many column names."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from birdsd.errors import UserError, listed_names, unknown_name
from birdsd.sound.annotation import MALFORMED, Problem, read_text
from birdsd.sound.names import Names, clean_name, read_names, read_types
from birdsd.sound.numbers import EMPTY, column_rule, comma_rule, parse_number
from birdsd.sound.rows import LabelFile, Row
from birdsd.sound.xenocanto import licence_name

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})

# Canonical column -> names under which it is met (BirdNET, Perch, OpenSoundscape, BirdCLEF, Kaleidoscope,
# Raven), in the order of their worth. A unit at the end of a name ('start_ms', 'Low Freq (kHz)') is read.
COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "begin_path", "begin_file",
             "in_file", "sound_file", "soundfile", "audio_file", "audio", "wav", "recording_file"),
    "label": ("label", "species", "annotation", "class", "primary_label", "manual_id", "species_name", "tag",
              "bird"),
    "common": ("common_name", "english_name", "english_cname", "english", "en", "vernacular_name",
               "com_name"),
    "genus": ("genus", "gen"),
    "epithet": ("epithet", "specific_epithet", "species_epithet", "sp", "species"),
    "scientific": ("scientific_name", "sci_name", "latin_name", "latin", "binomial"),
    "code": ("species_code", "ebird_code", "code", "alpha_code", "banding_code"),
    "start": ("start", "start_time", "begin_time", "begin", "onset", "offset_start"),
    "end": ("end", "end_time", "offset", "stop", "stop_time"),
    "duration": ("duration", "delta_time", "length"),
    "file_offset": ("file_offset",),
    "low": ("low", "low_freq", "low_frequency", "freq_min", "min_freq", "low_f", "f_low", "freq_low", "fmin"),
    "high": ("high", "high_freq", "high_frequency", "freq_max", "max_freq", "high_f", "f_high", "freq_high",
             "fmax"),
    "type": ("type", "sound_type", "call_type", "vocalization_type", "vocalisation_type", "vocalization",
             "vocalisation"),
    "environment": ("environment", "env", "background_sound"),
    "licence": ("licence", "license", "lic"),
    "recordist": ("recordist", "attribution", "author", "rec"),
    "recording_id": ("recording_id", "recording", "xc_id"),
    "channel": ("channel",),
    "kind": ("kind", "role"),
    "selection": ("selection",),
    "view": ("view",),
    "folder": ("folder",),
}  # fmt: skip
_NUMBERS = ("start", "end", "duration", "file_offset", "low", "high", "channel")
# What a row is called by, the best first: a common name says more than a code.
_NAMED_BY = ("asked", "common", "label", "binomial", "scientific", "code")
_UNITS = {
    "s": 1.0,
    "sec": 1.0,
    "secs": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "ms": 1e-3,
    "min": 60.0,
    "hz": 1.0,
}
_UNITS |= {"khz": 1e3}
_NOT_LABELS = (
    "confidence",
    "score",
    "probability",
    "notes",
    "comments",
    "date",
    "time",
    "distance",
    "sex",
    "age",
)


@dataclass(frozen=True)
class Sheet:
    """A table as text: its column names and, for each row, its line and cells."""

    header: list[str]
    rows: list[tuple[int, list[str]]]
    delimiter: str

    def column(self, at: int) -> list[str]:
        """The cells of a column that hold something."""
        cells = (row[at].strip() for _, row in self.rows if at < len(row))
        return [cell for cell in cells if cell.casefold() not in EMPTY]


@dataclass(frozen=True)
class Columns:
    """Which column holds what: canonical name -> position; `scale` turns a column's unit into s or Hz."""

    at: dict[str, int]
    scale: dict[str, float]
    rules: dict[str, str]  # what a comma means in it

    def has(self, name: str) -> bool:
        return name in self.at

    def names_species(self) -> bool:
        return any(name in self.at for name in _NAMED_BY)

    @property
    def is_raven(self) -> bool:
        """Whether begin times may count over all the files of a table together."""
        return self.at.get("raven_times") is not None and self.has("path")


def read_table(path: Path, columns: Mapping[str, str] | None = None) -> LabelFile:
    """Read a table; `columns` maps canonical names (see COLUMNS) to those of the table where they differ.

    Rows that cannot be read are problems. `UserError` when the file cannot be read at all.
    """
    return read_sheet(path, load_sheet(path), columns)[0]


def read_sheet(path: Path, sheet: Sheet, asked: Mapping[str, str] | None = None) -> tuple[LabelFile, Columns]:
    """The rows of a table that is loaded, and which column holds what."""
    columns = map_columns(path, sheet, asked or {})
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
            continue
        found.rows.append(row)
        found.synonyms += synonyms
        found.problems += [Problem(path, f"row {number}: {remark}") for remark in row.names.remarks]
    return found, columns


def require(path: Path, columns: Columns, sheet: Sheet, name: str) -> None:
    """Refuse a table that lacks a canonical column, naming what it has and the nearest match."""
    there = columns.names_species() if name == "label" else columns.has(name)
    if there:
        return
    valid = COLUMNS[name]
    near = [
        (column, match)
        for column in sheet.header
        for match in difflib.get_close_matches(fold(column), valid, 1, 0.6)
    ]
    hint = f"Did you mean '{near[0][1]}' by '{near[0][0]}'?" if near else f"rename a column to '{valid[0]}'"
    raise UserError(
        f"{path} has no column for the {name}; its columns are {listed_names(filter(None, sheet.header))}",
        f"known names are {listed_names(valid)}",
        hint,
    )


def fold(name: str) -> str:
    """'Begin Time (s)' -> 'begin_time_s'."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.casefold()).split())


def without_unit(name: str) -> tuple[str, float]:
    """A folded column name without its unit, and what its numbers are multiplied by to be s or Hz."""
    stem, _, last = name.rpartition("_")
    return (stem, _UNITS[last]) if stem and last in _UNITS else (name, 1.0)


def map_columns(path: Path, sheet: Sheet, asked: Mapping[str, str]) -> Columns:
    """Which column holds what.

    None is guessed by elimination, but for a single one of free text in a table of boxes: measurements carry
    a unit, or numbers.
    """
    header = sheet.header
    folded = {fold(name): at for at, name in reversed(list(enumerate(header)))}
    bare = {without_unit(name)[0]: at for name, at in reversed(folded.items())}
    found: dict[str, int] = {}
    for canonical, column in asked.items():
        if canonical not in COLUMNS:
            raise unknown_name("column", canonical, COLUMNS)
        if column not in header:
            there = listed_names(filter(None, header), column)
            raise UserError(f"{path} has no column '{column}'", f"its columns are {there}")
        found["asked" if canonical == "label" else canonical] = header.index(column)
    for canonical, names in COLUMNS.items():
        places = folded if canonical not in _NUMBERS else folded | bare
        match = next((places[name] for name in names if name in places), None)
        if match is not None:
            found.setdefault(canonical, match)
    _settle(found, folded, bare)
    if "start" in found and not any(name in found for name in _NAMED_BY):
        free = _free_text(sheet, found)
        if len(free) == 1:
            found["label"] = free[0]
    scale = {name: without_unit(fold(header[found[name]]))[1] for name in _NUMBERS if name in found}
    texts = {name: sheet.column(found[name]) for name in _NUMBERS if name in found}
    # Excel separates by semicolons where the comma is the decimal mark.
    whole = comma_rule(cell for cells in texts.values() for cell in cells)
    whole = whole or ("decimal" if sheet.delimiter == ";" else "")
    return Columns(found, scale, {name: column_rule(cells, whole) for name, cells in texts.items()})


def _settle(found: dict[str, int], folded: dict[str, int], bare: dict[str, int]) -> None:
    """Columns whose meaning depends on the others."""
    if "genus" in found and "epithet" in found:
        # Beside a genus, `species` is the epithet: two birds are called 'major'.
        if found.get("label") == found["epithet"]:
            others = [name for name in COLUMNS["label"] if name != "species" and name in folded]
            if others:
                found["label"] = folded[others[0]]
            else:
                del found["label"]
        found["binomial"] = found["genus"]
    else:
        for name in ("genus", "epithet"):
            found.pop(name, None)
    # Kaleidoscope's OFFSET and DURATION are a start and a length; sed_eval's onset and offset are two ends.
    if "start" not in found and "duration" in found and found.get("end") == bare.get("offset", -1):
        found["start"] = found.pop("end")
    if found.get("path") != folded.get("in_file", -1):  # other tables mean other things by a folder
        found.pop("folder", None)
    if "begin_time" in bare and ("begin_file" in folded or "begin_path" in folded):
        found["raven_times"] = bare["begin_time"]


def _free_text(sheet: Sheet, found: Mapping[str, int]) -> list[int]:
    """Columns that nobody knows and that hold words: no unit in the name, no numbers in the cells."""
    free = []
    for at, name in enumerate(sheet.header):
        known = at in found.values() or without_unit(fold(name))[0] in _NOT_LABELS
        if (
            not name
            or known
            or re.search(r"\(.*\)|[%/]", name)
            or fold(name).endswith(tuple(f"_{u}" for u in _UNITS))
        ):
            continue
        cells = sheet.column(at)
        if cells and not any(parse_number(cell, "decimal") is not None for cell in cells):
            free.append(at)
    return free


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

    kept: dict[tuple[str, ...], list[tuple[int, list[str]]]] = {}
    for number, cells in sheet.rows:
        same = ("selection", "path", "start", "end", "file_offset", "channel")
        group = kept.setdefault(tuple(cell(cells, name) for name in same), [])
        view = cell(cells, "view").casefold()
        for place, (_, other) in enumerate(group):
            if cell(other, "view").casefold() != view:
                if view.startswith("spectrogram"):
                    group[place] = (number, cells)
                break
        else:
            group.append((number, cells))
    return sorted(row for group in kept.values() for row in group)


def _row(number: int, cells: list[str], columns: Columns) -> tuple[Row, list[tuple[str, str]]]:
    def cell(name: str) -> str:
        at = columns.at.get(name, len(cells))
        return cells[at].strip() if at < len(cells) else ""

    def value(name: str) -> float | None:
        return _number(cell(name), name, columns)

    names, synonyms = _names(cell)
    kind = cell("kind").casefold()
    environment = clean_name(cell("environment"))
    start, end, duration, offset = (value(name) for name in ("start", "end", "duration", "file_offset"))
    if end is None and start is not None and duration is not None:
        end = start + duration
    if (start is None) != (end is None):
        raise ValueError("it has a start without an end, or an end without a start")
    about_birds = bool(names.count or names.sound_types) or start is not None
    if kind.startswith(("environment", "noise", "background")):
        said = names.no_bird + names.species + names.unknown
        environment = environment or clean_name((said or ("",))[0].replace("_", " ")).lower()
        names, about_birds = Names(no_bird=(environment or "environment",)), True
    elif kind.startswith(("soundscape", "annotation", "unlabelled")) and start is None:
        names, about_birds = Names(), False
    file = cell("path")
    if columns.has("folder") and file and "/" not in file and "\\" not in file and cell("folder"):
        file = f"{cell('folder')}/{file}"
    if start is not None and end is not None and offset is not None and file:
        start, end = offset, offset + (end - start)
    channel = value("channel")
    return Row(
        number, names, file, start, end, value("low"), value("high"),
        channel=None if channel is None else int(channel),
        sound_type=read_types(cell("type")),
        environment=environment,
        about_birds=about_birds,
        perhaps_cumulative=columns.is_raven and start is not None and offset is None,
        recording_id=clean_name(cell("recording_id")),
        licence=licence_name(cell("licence")),
        recordist=" ".join(cell("recordist").split()),
    ), synonyms  # fmt: skip


def _names(cell: Callable[[str], str]) -> tuple[Names, list[tuple[str, str]]]:
    """What a row is called, from the best of its columns that says something; names that it equates."""
    binomial = " ".join(filter(None, (cell("genus"), cell("epithet"))))
    texts = {name: binomial if name == "binomial" else cell(name) for name in _NAMED_BY}
    readings = [read_names(text) for text in texts.values() if text]
    chosen = next((names for names in readings if names.count), None)
    if chosen is None:
        chosen = next((names for names in readings if names.sound_types), Names())
    synonyms = list(chosen.scientific)
    scientific = read_names(texts["scientific"] or binomial).species
    if len(scientific) == len(chosen.species):
        synonyms += [(a, b) for a, b in zip(scientific, chosen.species, strict=True) if a != b]
    return chosen, synonyms


def _number(text: str, name: str, columns: Columns) -> float | None:
    if text.casefold() in EMPTY:
        return None
    rule = columns.rules.get(name, "")
    value = parse_number(text, rule)
    if value is None:
        if parse_number(text, "decimal") is not None:
            raise ValueError(f"the {name} '{text[:40]}' has two readings: write a decimal point, or no comma")
        raise ValueError(f"the {name} is '{text[:40]}', not a number")
    return value * columns.scale.get(name, 1.0)


def load_sheet(path: Path) -> Sheet:
    """A table as text: parquet, or separated by tabs, semicolons or commas.

    Excel's 'sep=' line is understood, and so are the quotes that R puts around everything.
    """
    path = Path(path)
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    return separated(read_text(path), path)


def separated(text: str, path: Path) -> Sheet:
    """The cells of a separated text."""
    lines = text.lstrip("\ufeff").splitlines()
    skipped, delimiter = 0, ""
    while skipped < len(lines):
        line = lines[skipped].strip(" \r")
        if match := re.fullmatch(r'"?sep=(.)"?', line, re.IGNORECASE):
            delimiter = match[1]
        elif line.strip(" ,;") and not (line.startswith("#") and not re.search("[\t,;]", line)):
            break
        skipped += 1
    first = lines[skipped] if skipped < len(lines) else ""
    if not delimiter or delimiter not in first:
        delimiter = max("\t,;", key=first.count) if any(d in first for d in "\t,;") else ","
    body = "\n".join(lines[skipped:])
    try:
        # In a table with tabs a quotation mark is a letter (6" pipe), but for a pair around a whole cell.
        source = io.StringIO(body, newline="")
        if delimiter == "\t":
            reader = csv.reader(source, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        else:
            reader = csv.reader(source, delimiter=delimiter)
        table = [(reader.line_num + skipped, [_unquoted(cell) for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise UserError(f"{path} is not a readable table: {error}") from error
    header = [name.strip() for name in table[0][1]] if table else []
    rows = [(number, cells) for number, cells in table[1:] if any(cell.strip() for cell in cells)]
    # R's write.table names its rows, and leaves their column without a name.
    if rows and all(len(cells) == len(header) + 1 and cells[-1].strip() for _, cells in rows):
        header = ["", *header]
    return Sheet(header, rows, delimiter)


def _unquoted(cell: str) -> str:
    cell = cell.strip()
    if len(cell) > 1 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"').replace('\\"', '"')
    return cell


def _parquet(path: Path) -> Sheet:
    import pyarrow  # only parquet needs it
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable parquet table: {error}") from error
    rows = [["" if value is None else str(value) for value in row.values()] for row in table.to_pylist()]
    return Sheet(list(table.column_names), list(enumerate(rows, start=2)), "")
