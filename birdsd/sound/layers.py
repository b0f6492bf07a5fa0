"""Layers of knowledge about a set of files: each maps files to the rows that one source has for them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from birdsd.errors import UserError
from birdsd.sound.annotation import MISSING_FILE, UNCLEAR_TIMES, Problem, read_text
from birdsd.sound.audacity import is_audacity, read_track
from birdsd.sound.names import read_names
from birdsd.sound.raven import is_raven, read_selections
from birdsd.sound.recordings import AUDIO_SUFFIXES, AudioInfo, walk
from birdsd.sound.rows import LabelFile, Row
from birdsd.sound.tables import TABLE_SUFFIXES, load_sheet, read_sheet, require
from birdsd.sound.wordlists import CONTAINERS
from birdsd.sound.xenocanto import read_xenocanto, record_of

# A table of one of these names is found by itself, and may hold licences without labels.
FOUND_NAMES = ("labels", "manifest", "metadata")


@dataclass
class Facts:
    """What one layer knows about one file; `said`: it is about birds, if only to say that there are none."""

    rows: list[Row] = field(default_factory=list)
    said: bool = False
    source: Path | None = None

    @property
    def has_boxes(self) -> bool:
        """Whether it says when: boxes of species, of birds that nobody identified, or without a name."""
        return any(row.is_box and not (row.names.no_bird and row.names.count == 1) for row in self.rows)

    def first(self, name: str) -> str:
        """The first of its rows that has a licence, a recordist, ..."""
        return next((getattr(row, name) for row in self.rows if getattr(row, name)), "")


Layer = dict[Path, Facts]


@dataclass
class Sources:
    """Everything that the readers of a set share: its files, and where they note what they meet."""

    finder: Finder
    infos: Mapping[Path, AudioInfo]
    problems: list[Problem] = field(default_factory=list)
    synonyms: list[tuple[str, str]] = field(default_factory=list)
    used: set[Path] = field(default_factory=set)  # label files that were read

    def note(self, path: Path, reason: str, code: str = "", labels: int = 0) -> None:
        self.problems.append(Problem(path, reason, code, labels))


def named_layer(path: Path, sources: Sources, columns: Mapping[str, str] | None) -> Layer:
    """What a label file, or a folder of annotations, says; `UserError` when it is of no known kind."""
    if path.is_dir():
        texts = _grouped(text for text in walk(path) if is_annotation(text.name))
        by_file = {file: _matching(file, texts) for file in sources.finder.files}
        matched = {text for found in by_file.values() for text in found}
        layer = annotation_layer(by_file, sources)
        for one in (one for group in texts.values() for one in group if one not in matched):
            _add_unmatched(layer, one, sources)
        return layer
    if not path.is_file():
        raise UserError(f"label table {path} does not exist")
    sources.used.add(path)
    if path.suffix.lower() == ".json":
        return _xenocanto_layer(path, sources)
    if path.suffix.lower() in TABLE_SUFFIXES:
        return _table_layer(path, sources, columns)
    text = read_text(path)
    if is_raven(text):
        return _routed(read_selections(path), sources)
    if is_audacity(text):
        return _routed(read_track(path), sources)
    raise UserError(
        f"{path} is not a label file that is known",
        "read are CSV, TSV, parquet, Raven selection tables, Audacity labels and xeno-canto JSON",
    )


class Finder:
    """Finds the recording that a table means by a path."""

    def __init__(self, files: list[Path], root: Path) -> None:
        self.files, self.root = files, root
        self._known = {os.path.abspath(file): file for file in files}
        self._by_name: dict[str, list[Path]] = {}
        self._nearly: dict[str, list[Path]] = {}
        for file in files:
            self._by_name.setdefault(file.name, []).append(file)
            self._nearly.setdefault(_loosely(file.name), []).append(file)
        self._found: dict[tuple[str, Path], Path | str | None] = {}  # tables of boxes name a file often

    def find(self, text: str, table: Path) -> Path | str | None:
        """The recording; None for a file that exists but is not in the set; else why there is none."""
        key = (text, table)
        if key not in self._found:
            self._found[key] = self._find(text, table)
        return self._found[key]

    def _find(self, text: str, table: Path) -> Path | str | None:
        if not text:
            if len(self.files) == 1:
                return self.files[0]
            return f"it names no file, and there are {len(self.files)} recordings"
        text = text.replace("\\", "/")
        places = [os.path.abspath(os.path.join(base, text)) for base in (table.parent, self.root)]
        for place in places:
            if place in self._known:
                return self._known[place]
        try:
            if any(os.path.exists(place) for place in places):
                return None
            # Tables made elsewhere keep their old folders: the bare name decides, if it is the only one and
            # the folder that the table names is not here with that file gone from it.
            here = "/" in text and any(os.path.isdir(Path(place).parent) for place in places)
            folders = {str(Path(place).parent) for place in places} if here else None
            for names, name in ((self._by_name, Path(text).name), (self._nearly, _loosely(Path(text).name))):
                same = [
                    file
                    for file in names.get(name, [])
                    if folders is None or os.path.abspath(file.parent) in folders
                ]
                if len(same) == 1:
                    return same[0]
                if len(same) > 1:
                    return f"the file '{text[:200]}' may be any of {len(same)}, e.g. {same[0]} and {same[1]}"
        except (ValueError, OSError):  # a NUL or a name too long for the file system
            pass
        return f"the file '{text[:200]}' does not exist"


def _loosely(name: str) -> str:
    """A file's name without what programs change in passing: suffix, case, form of Unicode."""
    stem, dot, suffix = name.rpartition(".")
    if not dot or f".{suffix.lower()}" not in AUDIO_SUFFIXES | {".mpga"}:
        stem = name
    return unicodedata.normalize("NFC", stem).casefold()


def _table_layer(path: Path, sources: Sources, columns: Mapping[str, str] | None) -> Layer:
    sheet = load_sheet(path)
    found, known = read_sheet(path, sheet, columns)
    if len(sources.finder.files) > 1:
        require(path, known, sheet, "path")
    if path.stem not in FOUND_NAMES and not known.has("start"):
        require(path, known, sheet, "label")
    return _routed(found, sources)


def _routed(found: LabelFile, sources: Sources, home: Path | None = None) -> Layer:
    """The rows of a label file by the recordings that they mean: the file that a row names, else `home`."""
    sources.problems += found.problems
    sources.synonyms += found.synonyms
    layer: Layer = {}
    if home is not None and not found.rows:
        layer[home] = Facts(said=True, source=found.path)
    unclear = _unclear(found, sources)
    absent: dict[str, tuple[Row, str, int]] = {}
    for row in found.rows:
        if id(row) in unclear:
            continue
        file = home if home and _means(row, home) else sources.finder.find(row.file, found.path)
        if isinstance(file, Path):
            facts = layer.setdefault(file, Facts(source=found.path))
            facts.rows.append(row)
            facts.said |= row.about_birds
        elif Path(row.file).suffix.lower() in AUDIO_SUFFIXES or not Path(row.file).suffix or home:
            said = file or f"the file '{row.file}' is not among the recordings"
            first, reason, count = absent.get(row.file, (row, said, 0))
            if file is not None or home:
                absent[row.file] = (first, reason, count + (row.count if row.about_birds else 0))
    for row, reason, count in absent.values():
        sources.note(found.path, f"row {row.number}: {reason}", MISSING_FILE if count else "", count)
    return layer


def _means(row: Row, home: Path) -> bool:
    """Whether a row beside a recording is about it: it names no file, or that one."""
    return not row.file or _loosely(Path(row.file.replace("\\", "/")).name) == _loosely(home.name)


def _unclear(found: LabelFile, sources: Sources) -> set[int]:
    """Rows (by identity) of a Raven table over several files whose begin times have two readings.

    Without 'File Offset (s)', Raven's begin times count over all files together; in tables that were joined
    they count within each file. Where the durations rule the first reading out, the second holds.
    """
    rows = [row for row in found.rows if row.perhaps_cumulative and row.file]
    names = sorted(
        {row.file for row in rows}, key=lambda name: min(r.start_s or 0.0 for r in rows if r.file == name)
    )
    if len(names) < 2:
        return set()
    fits, before_s, cumulative = True, 0.0, True
    for name in names:
        file = sources.finder.find(name, found.path)
        duration = (
            sources.infos[file].duration_s if isinstance(file, Path) and file in sources.infos else None
        )
        starts = [row.start_s or 0.0 for row in rows if row.file == name]
        fits &= duration is not None and max(starts) < duration
        cumulative &= min(starts) >= before_s
        # Of a file that is not here only this is known: the next one begins after its boxes.
        before_s = before_s + duration if duration is not None else max(before_s, *starts)
    if fits and not cumulative:
        return set()
    if not cumulative:  # times of either kind that fit nowhere are reported one by one
        return set()
    reason = (
        f"'Begin Time (s)' may count over all {len(names)} files together, without 'File Offset (s)': "
        f"{len(rows)} boxes are left out; save the table from Raven with that column"
    )
    sources.note(found.path, reason, UNCLEAR_TIMES, sum(row.count for row in rows))
    return {id(row) for row in rows}


def _xenocanto_layer(path: Path, sources: Sources) -> Layer:
    records = read_xenocanto(path)
    layer: Layer = {}
    for file in sources.finder.files:
        record = record_of(file.stem, records)
        if record is None:
            continue
        row = Row(
            0, record.names, sound_type=record.sound_type, about_birds=bool(record.names.count),
            recording_id=record.recording_id, licence=record.licence, recordist=record.recordist,
        )  # fmt: skip
        layer[file] = Facts([row], row.about_birds, path)
    sources.synonyms += [
        (record.scientific, record.label) for record in records.values() if record.scientific and record.label
    ]
    return layer


def is_annotation(name: str) -> bool:
    """Whether a file of this name may be the annotation of one recording."""
    lower = name.lower()
    table = lower.endswith(".csv") and lower.split(".", 1)[0] not in FOUND_NAMES
    return (table or lower.endswith((".txt", ".tsv"))) and not name.startswith(".")


def _grouped(texts: Iterable[Path]) -> dict[str, list[Path]]:
    """Text files by what stands before the first point of their names."""
    groups: dict[str, list[Path]] = {}
    for text in texts:
        groups.setdefault(_start(text.name), []).append(text)
    return groups


def _start(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().split(".", 1)[0]


def _matching(file: Path, groups: Mapping[str, list[Path]]) -> list[Path]:
    """The annotations of a file: 'NAME.txt', or 'NAME.Table.1.selections.txt' and the like, which win."""
    stem = unicodedata.normalize("NFC", file.stem).casefold()
    found = [
        text
        for text in groups.get(_start(file.name), [])
        if unicodedata.normalize("NFC", text.name).casefold().startswith(f"{stem}.")
    ]
    exact = [text for text in found if text.name.startswith(f"{file.stem}.")] or found
    return [text for text in exact if _start_of(text) != stem] or exact


def _start_of(text: Path) -> str:
    return unicodedata.normalize("NFC", text.stem).casefold()


def beside(files: list[Path]) -> dict[Path, list[Path]]:
    """The annotations that lie in the same folder as each file."""
    groups: dict[Path, dict[str, list[Path]]] = {}
    for folder in {file.parent for file in files}:
        groups[folder] = _grouped(folder / name for name in sorted(os.listdir(folder)) if is_annotation(name))
    return {file: _matching(file, groups[file.parent]) for file in files}


def annotation_layer(by_file: Mapping[Path, list[Path]], sources: Sources) -> Layer:
    """The boxes of Raven tables, Audacity tracks and CSV files that lie with a recording each.

    A row that names another file goes to that one: Raven names a table of several sounds after the first.
    """
    layer: Layer = {}
    for file, texts in by_file.items():
        for path in texts:
            try:
                found = _annotation(path, sources)
            except UserError as error:
                sources.note(path, str(error))
                continue
            if found is None:
                continue
            sources.used.add(path)
            before = len(sources.problems)
            routed = _routed(found, sources, file)
            if file in routed and not routed[file].has_boxes and len(sources.problems) == before:
                sources.note(path, f"it has no bird's box, so {file.name} counts as one without birds")
            for other, facts in routed.items():
                held = layer.setdefault(other, Facts(source=path))
                held.rows += facts.rows
                held.said |= facts.said
    return layer


def _annotation(path: Path, sources: Sources) -> LabelFile | None:
    """What an annotation beside a recording says; None (and a note) where it is no annotation."""
    text = read_text(path)
    if path.suffix.lower() != ".csv" and is_raven(text):
        return read_selections(path)
    if path.suffix.lower() == ".csv":
        found, columns = read_sheet(path, load_sheet(path))
        if columns.has("start") or columns.names_species():
            return found
    elif is_audacity(text):
        return read_track(path)
    sources.note(
        path, "it is neither a Raven table nor an Audacity label track nor a table of labels: ignored"
    )
    return None


def _add_unmatched(layer: Layer, text: Path, sources: Sources) -> None:
    """A label file whose name is no recording's: its rows may name their files themselves."""
    try:
        found = _annotation(text, sources)
    except UserError as error:
        sources.note(text, str(error))
        return
    if found is None:
        return
    sources.used.add(text)
    if not any(row.file for row in found.rows):
        count = found.count
        reason = f"no recording has its name, so its {count} labels are not used"
        sources.note(text, reason, MISSING_FILE if count else "", count)
        return
    for file, facts in _routed(found, sources).items():
        held = layer.setdefault(file, Facts(source=text))
        held.rows += facts.rows
        held.said |= facts.said


def folder_layer(files: list[Path], root: Path, sources: Sources) -> Layer:
    """Folder per species: the first folder below the root that is no container names them; a comma separates
    several. Folders of splits, formats and dates are seen through, and that is said."""
    layer: Layer = {}
    passed: dict[str, int] = {}
    for file in files:
        parts = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else ()
        skipped = 0
        while skipped < len(parts) and is_container(parts[skipped]):
            passed[parts[skipped]] = passed.get(parts[skipped], 0) + 1
            skipped += 1
        if skipped == len(parts):
            continue
        names = read_names(parts[skipped], folder=True)
        sources.synonyms += names.scientific
        layer[file] = Facts([Row(0, names, about_birds=bool(names.count))], bool(names.count), root)
    if passed:
        shown = ", ".join(f"'{name}'" for name in sorted(passed)[:5])
        sources.note(
            root, f"the folders {shown} name no species: the folders below them do (splits are made anew)"
        )
    return layer


def is_container(name: str) -> bool:
    """Whether a folder sorts recordings (by split, format, date) and names no species."""
    words = re.sub(r"[\W_]+", " ", name.casefold()).split()
    numbers = [word for word in words if re.fullmatch(r"\d{1,4}|[12]\d{7}", word)]
    others = [word for word in words if word not in numbers]
    if not words or not re.fullmatch(r"[\w .-]+", name):
        return False
    # 'fold 3' sorts, 'species 3' is somebody's name for a bird.
    return all(word in CONTAINERS and not (numbers and word in ("species", "classes")) for word in others)
