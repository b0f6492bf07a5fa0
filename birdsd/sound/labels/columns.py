"""Which column of a label table holds what, under the names that many programs give their columns."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from birdsd.errors import NotFound, listed_names, unknown_name
from birdsd.sound.labels.numbers import column_rule, comma_rule, parse_number
from birdsd.sound.labels.sheets import Sheet
from birdsd.sound.species.names import Names, read_names

# Canonical column -> names under which it is met (BirdNET, Perch, OpenSoundscape, BirdCLEF, Kaleidoscope,
# Raven), in the order of their worth. A unit at the end of a name ('start_ms', 'Low Freq (kHz)') is read.
_NAMES = """
path: path file filename file_name filepath file_path begin_path begin_file in_file sound_file soundfile
    audio_file audio wav recording_file soundscape item_id itemid sound_files
label: species label primary_label manual_id species_name annotation bird tag sp class
common: common_name english_name english_cname english en vernacular_name com_name
genus: genus gen
epithet: epithet specific_epithet species_epithet sp species
scientific: scientific_name sci_name latin_name latin binomial
code: species_code ebird_code code alpha_code banding_code
start: start start_time begin_time begin onset offset_start onset_time time_start time_begin t_start tmin
    t_min min_t segment_start clip_start from start_sample
end: end end_time offset stop stop_time offset_time time_end time_stop t_end tmax t_max max_t segment_end
    clip_end to end_sample
duration: duration delta_time length
file_offset: file_offset
low: low low_freq low_frequency freq_min min_freq low_f f_low freq_low fmin f_min min_frequency
high: high high_freq high_frequency freq_max max_freq high_f f_high freq_high fmax f_max max_frequency
type: type sound_type call_type vocalization_type vocalisation_type vocalization vocalisation
environment: environment env background_sound
licence: licence license lic
recordist: recordist attribution author rec
recording_id: recording_id recording xc_id
number: xc_id catalogue_number catalog_number ml_catalog_number id nr
channel: channel
kind: kind role
selection: selection selec
view: view
folder: folder
present: present presence detected is_present correct validated count
has_bird: has_bird hasbird
"""
COLUMNS: dict[str, tuple[str, ...]] = {
    line.split(":")[0]: tuple(line.split(":")[1].split())
    for line in _NAMES.replace("\n    ", " ").strip().splitlines()
}
NUMBERS = ("start", "end", "duration", "file_offset", "low", "high", "channel")
# What a row is called by, the best first: a common name says more than a code.
NAMED_BY = ("asked", "common", "label", "binomial", "scientific", "code")
_UNITS = {"s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "min": 60.0}
_UNITS |= {"hz": 1.0, "khz": 1e3}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NOT_LABELS = _words(
    """
    confidence score probability notes note comments comment remarks date time distance sex age observer
    annotator quality certainty reviewer user weather call stage
    """
)
_FLAGS = _NOT_LABELS | _words(
    """
    used playback channels channel n overlap verified total sum power length inband reviewed checked train
    test split fold is has flag valid index id no number year month day hour minute second temperature lat lon
    latitude longitude elevation site rating rank count present detections selected duration rate
    """
)
# Columns that hold names in label tables, and something else in as many tables of licences.
WEAK = frozenset({"annotation", "bird", "tag", "class", "sp"})
_TAXA = frozenset({"kingdom", "phylum", "order", "family", "genus"})
_TIMES = _words("start end begin stop onset offset timestamp time sample frame")
_MARKS = frozenset({"0", "1", "0.0", "1.0", "true", "false"})


@dataclass(frozen=True)
class Columns:
    """Which column holds what: canonical name -> position; `scale` turns a column's unit into s or Hz."""

    at: dict[str, int]
    scale: dict[str, float]
    rules: dict[str, str]  # what a comma means in it
    labels: tuple[int, ...] = ()  # all that may hold a label, the best first
    guessed: str = ""  # the name of a column that was taken for the species, since it is the only one of text
    marks: tuple[tuple[int, Names], ...] = ()  # columns of 0 and 1, each named after a species
    first_channel: int = 1
    unread_times: tuple[str, ...] = ()  # columns that look like times, and nobody knows
    weak: bool = False  # what names birds may be about something else: it gives way to folders

    def has(self, name: str) -> bool:
        return name in self.at

    def names_species(self) -> bool:
        return any(name in self.at for name in NAMED_BY) or bool(self.marks) or self.has("has_bird")

    @property
    def is_raven(self) -> bool:
        """Whether begin times may count over all the files of a table together."""
        return self.at.get("raven_times") is not None and self.has("path")


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
    headless = any(parse_number(cell) is not None for cell in sheet.header)
    hint = f"Did you mean '{near[0][1]}' by '{near[0][0]}'?" if near else f"rename a column to '{valid[0]}'"
    raise NotFound(
        f"{path} has no column for the {name}; its columns are {listed_names(filter(None, sheet.header))}",
        f"known names are {listed_names(valid)}",
        "the first line must hold the columns' names, and this one holds numbers" if headless else hint,
    )


def fold(name: str) -> str:
    """'Begin Time (s)' -> 'begin_time_s', 'startTime' -> 'start_time'."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return "_".join("".join(c if c.isalnum() else " " for c in name.casefold()).split())


def without_unit(name: str) -> tuple[str, float]:
    """A folded column name without its unit, and what its numbers are multiplied by to be s or Hz."""
    stem, _, last = name.rpartition("_")
    return (stem, _UNITS[last]) if stem and last in _UNITS else (name, 1.0)


def map_columns(path: Path, sheet: Sheet, choices: Mapping[str, str]) -> Columns:
    """Which column holds what.

    None is guessed by elimination, but for a single one of free text in a table of boxes: measurements carry
    a unit, or numbers; and that guess gives way to whatever else names the species.
    """
    header = sheet.header
    folded = {fold(name): at for at, name in reversed(list(enumerate(header)))}
    bare = {without_unit(name)[0]: at for name, at in reversed(folded.items())}
    found: dict[str, int] = {}
    for canonical, column in choices.items():
        if canonical not in COLUMNS:
            raise unknown_name("column", canonical, COLUMNS)
        if column not in header:
            there = listed_names(filter(None, header), column)
            raise NotFound(f"{path} has no column '{column}'", f"its columns are {there}")
        found["asked" if canonical == "label" else canonical] = header.index(column)
    for canonical, names in COLUMNS.items():
        places = folded if canonical not in NUMBERS else folded | bare
        match = next((places[name] for name in names if name in places), None)
        if match is not None:
            found.setdefault(canonical, match)
    labels = _settle(found, folded, bare)
    scale = {name: without_unit(fold(header[found[name]]))[1] for name in NUMBERS if name in found}
    texts = {name: sheet.column(found[name]) for name in NUMBERS if name in found}
    # Excel separates by semicolons where the comma is the decimal mark.
    whole = comma_rule(cell for cells in texts.values() for cell in cells)
    points = any("." in cell for cells in texts.values() for cell in cells)
    whole = whole or ("decimal" if sheet.delimiter == ";" and not points else "")
    rules = {name: column_rule(cells, whole) for name, cells in texts.items()}
    guessed, marks = "", _marks(sheet, found)
    if "start" in found and not any(name in found for name in NAMED_BY) and not marks:
        free = _free_text(sheet, found)
        if len(free) == 1:
            found["label"], guessed = free[0], header[free[0]]
            labels = (free[0],)
    first = 0 if any(parse_number(cell) == 0 for cell in texts.get("channel", [])) else 1
    times = _unread_times(sheet, found) if "start" not in found else ()
    called = {fold(header[at]) for at in labels}
    strong = {"asked", "common", "binomial", "scientific", "start"}.intersection(found)
    weak = bool(called) and called <= WEAK and not strong
    return Columns(found, scale, rules, labels, guessed, marks, first, times, weak)


def _settle(found: dict[str, int], folded: dict[str, int], bare: dict[str, int]) -> tuple[int, ...]:
    """Settle what depends on the other columns; returns those that may hold a label, the best first."""
    labels = [name for name in COLUMNS["label"] if name in folded]
    if "genus" in found and "epithet" in found:
        # Beside a genus, `species` is the epithet: two birds are called 'major'.
        labels = [name for name in labels if folded[name] != found["epithet"] and name != "sp"]
        found["binomial"] = found["genus"]
    else:
        for name in ("genus", "epithet"):
            found.pop(name, None)
    if "class" in labels and _TAXA.intersection(folded):
        labels.remove("class")  # Aves
    found.pop("label", None)
    if labels:
        found["label"] = folded[labels[0]]
    # Kaleidoscope's OFFSET and DURATION are a start and a length; sed_eval's onset and offset are two ends.
    if "start" not in found and "duration" in found and found.get("end") == bare.get("offset", -1):
        found["start"] = found.pop("end")
    if found.get("path") != folded.get("in_file", -1):  # other tables mean other things by a folder
        found.pop("folder", None)
    if "start" not in found or found["start"] in (folded.get("start_sample"), folded.get("end_sample")):
        for name in ("start", "end"):
            if found.get(name) == folded.get(f"{name}_sample", -1):
                del found[name]  # samples of which rate, nobody says
    if "begin_time" in bare and ("begin_file" in folded or "begin_path" in folded):
        found["raven_times"] = bare["begin_time"]
    return tuple(folded[name] for name in labels)


def _marks(sheet: Sheet, found: Mapping[str, int]) -> tuple[tuple[int, Names], ...]:
    """The columns of a table of marks or counts (OpenSoundscape): each is named after what is there or not.

    A column of 0 and 1 may be anything (playback used, verified): such a table has windows, or several
    columns of species; it has no licences and is none of Raven's.
    """
    other = (*NAMED_BY, "has_bird", "licence", "recordist", "selection", "view")
    if any(name in found for name in other) or "path" not in found:
        return ()
    marks = []
    for at, name in enumerate(sheet.header):
        cells = {cell.casefold() for cell in sheet.column(at)}
        counted = all(re.fullmatch(r"\d{1,2}(\.0)?|true|false", cell) for cell in cells)
        plain = at not in found.values() and name and not _FLAGS.intersection(fold(name).split("_"))
        if plain and not re.search(r"\(.*\)|[%/]", name) and cells and counted and cells & _MARKS:
            names = read_names(name)
            if names.count:
                marks.append((at, names))
    return tuple(marks) if "start" in found or len(marks) > 2 else ()


def _free_text(sheet: Sheet, found: Mapping[str, int]) -> list[int]:
    """Unknown columns that hold words: no unit in the name, no numbers or dates in the cells."""
    free = []
    for at, name in enumerate(sheet.header):
        words = fold(name).split("_")
        known = at in found.values() or _NOT_LABELS.intersection(words)
        if not name or known or re.search(r"\(.*\)|[%/]", name) or words[-1] in _UNITS:
            continue
        cells = sheet.column(at)
        numbers = (
            parse_number(cell, "decimal") is not None or re.search(r"\d[-/:.]\d", cell) for cell in cells
        )
        if cells and not any(numbers):
            free.append(at)
    return free


def _unread_times(sheet: Sheet, found: Mapping[str, int]) -> tuple[str, ...]:
    """Unknown columns of numbers that are called like times: rows without them lose their place."""
    return tuple(
        name
        for at, name in enumerate(sheet.header)
        if at not in found.values()
        and _TIMES.intersection(fold(name).split("_"))
        and "rate" not in fold(name).split("_")
        and sheet.column(at)
        and all(parse_number(cell, "decimal") is not None for cell in sheet.column(at))
    )
