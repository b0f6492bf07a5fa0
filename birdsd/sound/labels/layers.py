"""Layers of knowledge about a set of files: each maps files to the rows that one source has for them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from birdsd.errors import NotFound, Unsupported, UserError
from birdsd.remarks import Remark
from birdsd.sound.audio.recordings import AUDIO_SUFFIXES, FOREIGN_SUFFIXES, AudioInfo, walk
from birdsd.sound.labels.annotation import MISSING_FILE, UNCLEAR_TIMES, UNREADABLE, Problem, read_text
from birdsd.sound.labels.audacity import is_audacity, read_track
from birdsd.sound.labels.columns import require
from birdsd.sound.labels.raven import is_raven, read_selections
from birdsd.sound.labels.rows import LabelFile, Row
from birdsd.sound.labels.sheets import load_sheet
from birdsd.sound.labels.tables import TABLE_SUFFIXES, read_sheet
from birdsd.sound.labels.xenocanto import read_xenocanto, record_of
from birdsd.sound.species.names import NOTHING, read_names
from birdsd.sound.species.wordlists import CONTAINERS

# A table of one of these names is found by itself, and may hold licences without labels.
FOUND_NAMES = ("labels", "manifest", "metadata")


@dataclass
class Facts:
    """What one layer knows about one file; `said`: it is about birds, if only to say that there are none."""

    rows: list[Row] = field(default_factory=list)
    said: bool = False
    source: Path | None = None
    named: bool = False  # its label file names species: a box without a name is one that was not named
    doubtful: bool = False  # lines about it could not be read: nobody knows what they say

    @property
    def has_boxes(self) -> bool:
        """Whether it says when a bird is to be heard: boxes of species, or without a name."""
        return any(
            row.is_box and not row.absent and (row.names.species or not row.names.count) for row in self.rows
        )

    @property
    def says_of_all(self) -> bool:
        """Whether it says something of the whole file: rows without times, or a table without a row."""
        whole = (row.about_birds and not row.is_box and not row.absent for row in self.rows)
        return self.said and (not self.rows or any(whole))

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
    found: bool = False  # its tables were found, not named by the user
    used: set[Path] = field(default_factory=set)  # label files that were read
    left_out: Counter[str] = field(
        default_factory=Counter
    )  # labels that nobody needs to be told of one by one

    def note(self, path: Path, reason: str, code: str = "", labels: int = 0) -> None:
        self.problems.append(Problem(path, reason, code, labels))


def named_layer(path: Path, sources: Sources, columns: Mapping[str, str] | None) -> Layer:
    """What a label file, or a folder of annotations, says; `UserError` when it is of no known kind."""
    if path.is_dir():
        texts = [text for text in walk(path) if is_annotation(text.name)]
        by_file, unmatched = belonging(texts, sources.finder.files, sources)
        layer = annotation_layer(by_file, sources)
        for one in unmatched:
            add_unmatched(layer, one, sources)
        return layer
    if not path.is_file():
        raise NotFound(f"label table {path} does not exist")
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
    raise Unsupported(
        f"{path} is not a known kind of label file",
        "supported are CSV, TSV, parquet, Raven selection tables, Audacity labels and xeno-canto JSON",
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
        text = re.sub(r"^(\d+)\.0$", r"\1", text.replace("\\", "/"))  # pandas makes 101.0 of 101
        places = [os.path.abspath(os.path.join(base, text)) for base in (table.parent, self.root)]
        for place in places:
            if place in self._known:
                return self._known[place]
        try:
            if any(os.path.exists(place) for place in places):
                return None
            # Tables made elsewhere keep their old folders: the bare name decides, if it is the only one and
            # the folder that the table names is not here with that file gone from it; where several files
            # bear it, the one in the same folders.
            here = "/" in text and any(os.path.isdir(Path(place).parent) for place in places)
            folders = {str(Path(place).parent) for place in places} if here else None
            for names, name in ((self._by_name, Path(text).name), (self._nearly, _loosely(Path(text).name))):
                same = [
                    file
                    for file in names.get(name, [])
                    if folders is None or os.path.abspath(file.parent) in folders
                ]
                same = closest(same, Path(text).parent)
                if len(same) == 1:
                    return same[0]
                if len(same) > 1:
                    return f"the file '{text[:200]}' may be any of {len(same)}, e.g. {same[0]} and {same[1]}"
            if re.fullmatch(r"XC\d+", text):
                same = [file for file in self.files if re.search(rf"(?<!\d){text[2:]}(?!\d)", file.stem)]
                if len(same) == 1:
                    return same[0]
        except (ValueError, OSError):  # a NUL or a name too long for the file system
            pass
        return f"the file '{text[:200]}' does not exist"


def closest(files: list[Path], folder: Path) -> list[Path]:
    """Of several files, those whose folders end most like `folder`; all of them where none does."""

    def shared(file: Path) -> int:
        pairs = zip(reversed(file.parent.parts), reversed(folder.parts), strict=False)
        same = [a.casefold() == b.casefold() for a, b in pairs]
        return same.index(False) if False in same else len(same)

    if len(files) < 2:
        return files
    most = max(map(shared, files))
    return [file for file in files if shared(file) == most]


def _loosely(name: str) -> str:
    """A file's name without what programs change in passing: suffix, case, form of Unicode."""
    stem, dot, suffix = name.rpartition(".")
    if not dot or f".{suffix.lower()}" not in AUDIO_SUFFIXES | {".mpga"}:
        stem = name
    return unicodedata.normalize("NFC", stem).casefold()


def _table_layer(path: Path, sources: Sources, columns: Mapping[str, str] | None) -> Layer:
    sheet = load_sheet(path)
    found, known = read_sheet(path, sheet, columns)
    if len(sources.finder.files) > 1 and not known.has("number"):
        require(path, known, sheet, "path")
    if known.weak and sources.found:
        # In a table of licences that was only found, a tag or a ring number names no bird.
        found.rows = [replace(row, names=NOTHING, about_birds=False) for row in found.rows]
    if path.stem not in FOUND_NAMES and not known.has("start"):
        require(path, known, sheet, "label")
    return _routed(found, sources)


def _routed(found: LabelFile, sources: Sources, home: Path | None = None) -> Layer:
    """The rows of a label file by the recordings that they mean: the file that a row names, else `home`."""
    sources.problems += found.problems
    sources.synonyms += found.synonyms
    layer: Layer = {}
    if home is not None and not found.rows and not found.doubtful:
        layer[home] = Facts(said=True, source=found.path)
    for name in dict.fromkeys(found.doubtful):
        if isinstance(file := _file_of(name, found.path, sources, home), Path):
            layer.setdefault(file, Facts(source=found.path)).doubtful = True
    unclear = _unclear(found, sources)
    names_species = any(row.names.species and not row.guessed for row in found.rows)
    absent: dict[str, tuple[Row, str, int]] = {}
    for row in found.rows:
        if id(row) in unclear:
            continue
        file = _file_of(row.file, found.path, sources, home)
        count = row.count if row.about_birds else 0
        if isinstance(file, Path):
            facts = layer.setdefault(file, Facts(source=found.path))
            facts.rows.append(row)
            facts.said |= row.about_birds and not row.absent
            facts.named = names_species
        elif file is None and home is None:  # it is there, and not one of the recordings
            foreign = Path(row.file).suffix.lower() in FOREIGN_SUFFIXES
            sources.left_out[UNREADABLE if foreign else MISSING_FILE] += count
        elif count or Path(row.file).suffix.lower() in AUDIO_SUFFIXES or not Path(row.file).suffix:
            problem = file or f"the file '{row.file}' is not among the recordings"
            first, reason, before = absent.get(row.file, (row, problem, 0))
            absent[row.file] = (first, reason, before + count)
    for row, reason, count in absent.values():
        sources.note(found.path, f"row {row.number}: {reason}", MISSING_FILE if count else "", count)
    return layer


def _file_of(name: str, table: Path, sources: Sources, home: Path | None) -> Path | str | None:
    """The recording that a row means; `home` is the one that its label file lies beside or is named after."""
    if home is None:
        return sources.finder.find(name, table)
    if not name:
        return home
    file = sources.finder.find(name, table)
    same_name = _loosely(Path(name.replace("\\", "/")).name) == _loosely(home.name)
    return home if same_name and not isinstance(file, Path) else file


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


def belonging(
    texts: list[Path], files: list[Path], sources: Sources, beside: bool = False
) -> tuple[dict[Path, list[Path]], list[Path]]:
    """Which label files belong to which recording, and those that belong to none.

    'NAME.txt', or 'NAME.Table.1.selections.txt' and the like, which win; of the recordings 'S1' and 'S1.1',
    the longest name that fits counts. `beside`: only files of the same folder. Elsewhere the folders decide
    between recordings of one name.
    """
    by_name: dict[tuple[Path | None, str], list[Path]] = {}
    for file in files:
        for name in {_plain(file.stem), _plain(file.name)}:
            by_name.setdefault((file.parent if beside else None, name), []).append(file)
    found: dict[Path, list[tuple[Path, bool]]] = {file: [] for file in files}
    unmatched = []
    for text in texts:
        name = _plain(text.name)
        stems = [name[:at] for at in range(len(name) - 1, 0, -1) if name[at] == "."]
        stem = next((one for one in stems if (text.parent if beside else None, one) in by_name), None)
        same = by_name[text.parent if beside else None, stem] if stem is not None else []
        if not beside and len({file.parent for file in same}) > 1:
            same = closest(same, text.parent)
            if len({file.parent for file in same}) > 1:
                sources.used.add(text)
                sources.note(
                    text, f"it may belong to any of {len(same)}, e.g. {same[0]} and {same[1]}: not read"
                )
                continue
        if not same:
            unmatched.append(text)
        for file in same:
            found[file].append((text, stem == stems[0]))
    chosen = {
        file: [t for t, plain in titles if not plain] or [t for t, _ in titles]
        for file, titles in found.items()
    }
    return chosen, unmatched


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def beside(files: list[Path], sources: Sources) -> dict[Path, list[Path]]:
    """The annotations that lie in the same folder as each file."""
    texts = [
        folder / name
        for folder in sorted({file.parent for file in files})
        for name in sorted(os.listdir(folder))
        if is_annotation(name)
    ]
    return belonging(texts, files, sources, beside=True)[0]


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
            empty = file in routed and not layer.get(file, Facts()).rows and not routed[file].has_boxes
            if empty and len(texts) == 1 and len(sources.problems) == before:
                reason = f"it has no bird's box, so {file.name} counts as one without birds"
                sources.note(path, Remark(reason, "no-box", recording=file.name))
            _add(layer, routed, path)
    return layer


def _add(layer: Layer, more: Layer, source: Path) -> None:
    for file, facts in more.items():
        merged = layer.setdefault(file, Facts(source=source))
        merged.rows += facts.rows
        merged.said |= facts.said
        merged.doubtful |= facts.doubtful
        merged.named |= facts.named


def _annotation(path: Path, sources: Sources, quiet: bool = False) -> LabelFile | None:
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
    if not quiet:
        sources.note(
            path, "it is neither a Raven table nor an Audacity label track nor a table of labels: ignored"
        )
    return None


def add_unmatched(layer: Layer, text: Path, sources: Sources, quiet: bool = False) -> None:
    """A label file whose name is no recording's: its rows may name their files themselves.

    quiet: in a folder of recordings, where it may be anything; then only a table that names them is read.
    """
    try:
        found = _annotation(text, sources, quiet)
    except UserError as error:
        if not quiet:
            sources.note(text, str(error))
        return
    if found is None or (quiet and not any(row.file for row in found.rows)):
        return
    sources.used.add(text)
    if not any(row.file for row in found.rows):
        count = found.count
        reason = f"no recording has its name: {count} label{'s are' if count != 1 else ' is'} not used"
        sources.note(text, Remark(reason, "belongs-to-no-recording"), MISSING_FILE if count else "", count)
        return
    _add(layer, _routed(found, sources), text)


def folder_layer(files: list[Path], root: Path, sources: Sources | None) -> Layer:
    """Folder per species: the first folder below the root that is no container names them; a comma separates
    several. Folders of splits, formats and dates are seen through, and that is said (in `sources`)."""
    layer: Layer = {}
    passed: dict[str, bool] = {}  # container -> whether a folder below names a species
    below: dict[str, set[str]] = {}
    for file in files:
        parts = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else ()
        skipped = next((n for n, name in enumerate(parts) if not is_container(name)), len(parts))
        for name in parts[:skipped]:
            passed[name] = passed.get(name, False) or skipped < len(parts)
        if skipped == len(parts):
            continue
        names = read_names(parts[skipped], folder=True)
        for deeper in parts[skipped + 1 :]:
            if not is_container(deeper) and read_names(deeper).species:
                below.setdefault(parts[skipped], set()).add(deeper)
        layer[file] = Facts([Row(0, names, about_birds=bool(names.count))], bool(names.count), root)
        if sources is not None:
            sources.synonyms += names.scientific
    if sources is not None:
        _note_folders(passed, below, root, sources)
    return layer


def _note_folders(passed: dict[str, bool], below: dict[str, set[str]], root: Path, sources: Sources) -> None:
    def quoted(names: Iterable[str]) -> str:
        return ", ".join(f"'{name}'" for name in sorted(names)[:5])

    for deep, effect in (
        (True, "the folders below do"),
        (False, "the recordings in them have no label from it"),
    ):
        if names := [name for name, named in passed.items() if named == deep]:
            verb = f"folder {quoted(names)} names" if len(names) == 1 else f"folders {quoted(names)} name"
            reason = f"the {verb} no species: {effect}{' (splits are made anew)' if deep else ''}"
            sources.note(root, Remark(reason, "folder-without-species", folders=sorted(names), deep=deep))
    # Species whose folders hold the same folders are sites, or families of birds.
    counts = Counter(name for names in below.values() for name in names)
    if len(below) > 1 and any(count > 1 for count in counts.values()):
        names = [name for name, count in counts.items() if count > 1]
        sources.note(
            root,
            f"{quoted(below)} are taken for species; below them lie {quoted(names)}: move those up",
        )


def is_container(name: str) -> bool:
    """Whether a folder sorts recordings (by split, format, site, date) and names no species."""
    if not re.fullmatch(r"[\w .-]+", name):
        return False
    words = re.sub(r"(?<=[^\W\d])(?=\d)|[\W_]+", " ", name.casefold()).split()
    numbers = [word for word in words if re.fullmatch(r"\d{1,4}|[12]\d{7}", word)]
    others = [word for word in words if word not in numbers]
    known = [
        word for word in others if word in CONTAINERS and not (numbers and word in ("species", "classes"))
    ]
    # 'fold 3' and 'Site A' sort, 'species 3' is somebody's name for a bird.
    letters = [word for word in others if word not in known]
    site = re.fullmatch(
        r"(site|plot|station|location|recorder|aru|batch|set|data|part|cd)[a-z]?", "".join(others)
    )
    return bool(words) and (
        not letters or site is not None or bool(known and all(len(x) == 1 for x in letters))
    )
