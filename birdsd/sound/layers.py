"""Layers of knowledge about a set of files: each maps files to what one source of labels says of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from birdsd.errors import UserError
from birdsd.sound.annotation import Label, Problem, is_no_bird, read_text, tidy_folder_name
from birdsd.sound.audacity import is_audacity, read_audacity
from birdsd.sound.raven import is_raven, read_raven, read_raven_files
from birdsd.sound.recordings import AUDIO_SUFFIXES, walk
from birdsd.sound.tables import TABLE_SUFFIXES, Entry, read_table, require
from birdsd.sound.xenocanto import read_xenocanto, xenocanto_id

# A table of one of these names is found by itself, and may hold licences without labels.
FOUND_NAMES = ("labels", "manifest", "metadata")


@dataclass
class Facts:
    """What one layer knows about one file."""

    labels: list[Label] = field(default_factory=list)
    labelled: bool = False
    recording_id: str = ""
    licence: str = ""
    recordist: str = ""
    environment: str = ""
    sound_type: str = ""


Layer = dict[Path, Facts]


def named_layer(
    path: Path, finder: Finder, columns: Mapping[str, str] | None, problems: list[Problem]
) -> Layer:
    """What a label file, or a folder of annotations, says; `UserError` when it is of no known kind."""
    if path.is_dir():
        texts = _grouped(text for text in walk(path) if _is_text(text.name))
        by_file = {file: _matching(file, texts) for file in finder.files}
        used = {text for found in by_file.values() for text in found}
        for text in (text for group in texts.values() for text in group if text not in used):
            problems.append(Problem(text, "no recording has its name, so its labels are not used"))
        return annotation_layer(by_file, problems)
    if not path.is_file():
        raise UserError(f"label table {path} does not exist")
    if path.suffix.lower() == ".json":
        return _xenocanto_layer(path, finder)
    if path.suffix.lower() in TABLE_SUFFIXES and not is_raven(_head(path)):
        return _table_layer(path, finder, columns, problems)
    if is_raven(read_text(path)):
        named = read_raven_files(path)
        return _by_file(path, {name: named[name] for name in named} or {"": []}, finder, problems)
    if is_audacity(read_text(path)):
        return _by_file(path, {"": read_audacity(path)}, finder, problems)
    raise UserError(
        f"{path} is not a label file that is known",
        "read are CSV, TSV, parquet, Raven selection tables, Audacity labels and xeno-canto JSON",
    )


def _head(path: Path) -> str:
    return "" if path.suffix.lower() == ".parquet" else read_text(path).split("\n", 1)[0]


class Finder:
    """Finds the recording that a table means by a path."""

    def __init__(self, files: list[Path], root: Path) -> None:
        self.files, self.root = files, root
        self._known = {os.path.abspath(file): file for file in files}
        self._by_name: dict[str, list[Path]] = {}
        for file in files:
            self._by_name.setdefault(file.name, []).append(file)
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
            same_name = self._by_name.get(Path(text).name, [])
            # Tables made elsewhere keep their old folders: the bare name decides, if it is the only one and
            # the folder that the table names is not here with that file gone from it.
            if len(same_name) == 1 and (
                "/" not in text or not any(os.path.isdir(Path(p).parent) for p in places)
            ):
                return same_name[0]
        except (ValueError, OSError):  # a NUL or a name too long for the file system
            pass
        return f"the file '{text[:200]}' does not exist"


def _table_layer(
    path: Path, finder: Finder, columns: Mapping[str, str] | None, problems: list[Problem]
) -> Layer:
    table = read_table(path, columns)
    if len(finder.files) > 1:
        require(table, path, "path")
    if path.stem not in FOUND_NAMES:
        require(table, path, "label")
    problems.extend(table.problems)
    layer: Layer = {}
    absent: dict[str, str] = {}
    for entry in table.entries:
        file = finder.find(entry.file, path)
        if isinstance(file, str):
            if Path(entry.file).suffix.lower() in AUDIO_SUFFIXES or not Path(entry.file).suffix:
                absent.setdefault(entry.file, f"row {entry.row}: {file}")
        elif file is not None:
            _add_entry(layer.setdefault(file, Facts()), entry)
    problems.extend(Problem(path, reason) for reason in absent.values())
    for facts in layer.values():
        facts.labels = list(dict.fromkeys(facts.labels))  # a row may stand twice
    return layer


def _add_entry(facts: Facts, entry: Entry) -> None:
    if entry.label is not None:
        facts.labels.append(entry.label)
    facts.labelled |= entry.labelled
    for name in ("recording_id", "licence", "recordist", "environment", "sound_type"):
        if not getattr(facts, name):
            setattr(facts, name, getattr(entry, name))


def _xenocanto_layer(path: Path, finder: Finder) -> Layer:
    records = read_xenocanto(path)
    layer: Layer = {}
    for file in finder.files:
        number = xenocanto_id(file.stem) or (f"XC{file.stem}" if file.stem.isdigit() else "")
        if number in records:
            record = records[number]
            whole = [Label(record.label, sound_type=record.sound_type)] if record.label else []
            layer[file] = Facts(
                whole,
                bool(whole),
                record.recording_id,
                record.licence,
                record.recordist,
                "",
                record.sound_type,
            )
    return layer


def _by_file(path: Path, named: dict[str, list[Label]], finder: Finder, problems: list[Problem]) -> Layer:
    layer: Layer = {}
    for name, found in named.items():
        file = finder.find(name, path)
        if isinstance(file, str):
            problems.append(Problem(path, file))
        elif file is not None:
            layer[file] = Facts(found, True)
    return layer


def _is_text(name: str) -> bool:
    return name.lower().endswith((".txt", ".tsv")) and not name.startswith(".")


def _grouped(texts: Iterable[Path]) -> dict[str, list[Path]]:
    """Text files by what stands before the first point of their names."""
    groups: dict[str, list[Path]] = {}
    for text in texts:
        groups.setdefault(text.name.split(".", 1)[0], []).append(text)
    return groups


def _matching(file: Path, groups: Mapping[str, list[Path]]) -> list[Path]:
    """The annotations of a file: 'NAME.txt', or 'NAME.Table.1.selections.txt' and the like, which win."""
    same = groups.get(file.name.split(".", 1)[0], [])
    found = [text for text in same if text.name.startswith(f"{file.stem}.")]
    return [text for text in found if text.stem != file.stem] or found


def beside(files: list[Path]) -> dict[Path, list[Path]]:
    """The annotations that lie in the same folder as each file."""
    groups: dict[Path, dict[str, list[Path]]] = {}
    for folder in {file.parent for file in files}:
        groups[folder] = _grouped(folder / name for name in sorted(os.listdir(folder)) if _is_text(name))
    return {file: _matching(file, groups[file.parent]) for file in files}


def annotation_layer(by_file: Mapping[Path, list[Path]], problems: list[Problem]) -> Layer:
    """The boxes of Raven tables and Audacity tracks that belong to a file each."""
    layer: Layer = {}
    for file, texts in by_file.items():
        for path in texts:
            try:
                text = read_text(path)
                if is_raven(text):
                    found = read_raven(path)
                elif is_audacity(text):
                    found = read_audacity(path)
                else:
                    problems.append(
                        Problem(path, "it is neither a Raven table nor an Audacity label track: ignored")
                    )
                    continue
            except UserError as error:
                problems.append(Problem(path, str(error)))
                continue
            if not found:
                problems.append(
                    Problem(path, f"it has no bird's box, so {file.name} counts as one without birds")
                )
            facts = layer.setdefault(file, Facts(labelled=True))
            facts.labels.extend(found)
    return layer


def folder_layer(files: list[Path], root: Path) -> Layer:
    """Folder per species: the first folder below the root names them; a comma separates several."""
    layer: Layer = {}
    for file in files:
        parts = file.relative_to(root).parts if file.is_relative_to(root) else ()
        if len(parts) < 2:
            continue
        names = [tidy_folder_name(name) for name in parts[0].split(",") if not is_no_bird(name)]
        layer[file] = Facts([Label(name) for name in dict.fromkeys(filter(None, names))], labelled=True)
    return layer
