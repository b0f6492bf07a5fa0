"""From a folder of recordings, and whatever labels lie in or beside it, to one labelled set.

What is known about a file comes in layers: a label table or metadata (given, or found in the folder or
its parent), an annotation beside the file (Raven, Audacity, CSV), and the name of its folder. Boxes beat
labels for the whole file; otherwise the first layer that says something counts. Licence, recordist and
recording id come from the first layer that has them. Nothing is dropped in silence: every label that is read
is in the set or in its `account`, and what a person should know is in `LabelledSet.problems`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from birdsd.errors import NotFound, NothingLeft, UserError
from birdsd.remarks import Remark
from birdsd.sound.audio.formats import AUDIO_SUFFIXES, FOREIGN_SUFFIXES, foreign_reason, not_read
from birdsd.sound.audio.recordings import AudioInfo, RecordingError, probe, walk
from birdsd.sound.labels.annotation import (
    NO_LABEL,
    REPEATED,
    SUPERSEDED,
    UNKNOWN_BIRD,
    UNREADABLE,
    Label,
    LabelledSet,
    Problem,
    Recording,
    clip_labels,
    species_of,
)
from birdsd.sound.labels.audacity import read_audacity, write_audacity
from birdsd.sound.labels.layers import (
    FOUND_NAMES,
    Facts,
    Finder,
    Layer,
    Sources,
    add_unmatched,
    annotation_layer,
    beside,
    folder_layer,
    is_annotation,
    named_layer,
)
from birdsd.sound.labels.raven import read_raven, read_raven_files, write_raven
from birdsd.sound.labels.recording_labels import RecordingLabels, covers
from birdsd.sound.labels.tables import TABLE_SUFFIXES
from birdsd.sound.labels.xenocanto import read_xenocanto, xenocanto_id
from birdsd.sound.species.vocabulary import Vocabulary

__all__ = [
    "Label",
    "LabelledSet",
    "Problem",
    "Recording",
    "clip_labels",
    "load_recordings",
    "read_audacity",
    "read_raven",
    "read_raven_files",
    "read_xenocanto",
    "species_of",
    "write_audacity",
    "write_raven",
]

ENVIRONMENT_FOLDER = "environment"  # at the top of a recordings folder: sounds to mix in, not recordings
# What lies beside sound, is neither sound nor labels, and is no surprise (the last: the synthetic aviary's).
_COMPANIONS = frozenset(
    {"README", "LICENSE", "LICENCE", "LICENSES", "ATTRIBUTION", "CITATION", "CHANGELOG", "THUMBS", "AVIARY"}
)


def load_recordings(
    source: Path,
    labels: Path | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    require_labels: bool = True,
) -> LabelledSet:
    """Everything usable in `source` (a folder, one sound file, or a label table beside its files).

    `labels` may be a table (CSV, TSV, parquet), xeno-canto JSON, a Raven or Audacity file, or a folder of
    those; without it, labels.*, manifest.* or metadata.* in the folder or its parent is used when it lists
    these files. `columns` maps the table's own column names. A sub-folder called `environment` is left to
    the mixing. Raises `UserError` when nothing is left.
    """
    source = Path(source)
    if labels is None and source.suffix.lower() in TABLE_SUFFIXES and source.is_file():
        source, labels = source.parent, source
    result = LabelledSet()
    listing = _files(source, result)
    root = source if source.is_dir() else source.parent
    infos = _probe_all(listing.sounds, result)
    sources = Sources(Finder(listing.sounds, root), infos, result.problems)
    layers, folder_names_count = _top_layers(sources, labels, columns)
    near = annotation_layer(beside(listing.sounds, sources), sources)
    for text in listing.others:
        if labels is None and text not in sources.used and is_annotation(text.name):
            add_unmatched(near, text, sources, quiet=True)
    layers.append(near)
    folders = folder_layer(listing.sounds, root, sources if folder_names_count else None)
    for problem in result.problems:
        sources.left_out[problem.code] += problem.labels
    result.account.read += sum(sources.left_out.values())
    result.account.left_out += sources.left_out
    default_ids = _default_ids(list(infos), root)
    for path in listing.sounds:
        known = [layer[path] for layer in layers if path in layer]
        if path in infos:
            _assemble(infos[path], known, folders.get(path), folder_names_count, default_ids[path], result)
        else:
            known += [folders[path]] if folder_names_count and path in folders else []
            count = sum(row.count for facts in known for row in facts.rows if row.about_birds)
            result.account.read += count
            result.account.left_out[UNREADABLE] += count
    _one_name_each(result, sources, root)
    listing.report_unread(result, sources.used)
    advice = Remark(
        "it has no label: put it into a folder named after its species, or list it in a label table",
        "no-label",
    )
    if not folder_names_count:
        why = "it has no label: no table gives it one, and beside a table, folder names do not count"
        advice = Remark(why, "no-label-in-table")
    result.problems.extend(Problem(recording.path, advice) for recording in result.unlabelled)
    if not result.recordings and (require_labels or not result.unlabelled):
        raise _nothing_left(source, result.problems)
    return result


def _nothing_left(source: Path, problems: list[Problem]) -> UserError:
    shown = "; ".join(f"{problem.path.name}: {problem.reason}" for problem in problems[:3])
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return NothingLeft(
        f"no labelled recording is left in {source}: {shown}{more}",
        "a file needs a label: a folder named after its species, a label table or an annotation beside it",
        "fix the files named, or pass data.labels=TABLE",
    )


@dataclass
class _Listing:
    """The files of a folder: sound to read, and how many of which kind are passed over."""

    root: Path
    sounds: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    def report_unread(self, result: LabelledSet, used: set[Path]) -> None:
        """One line that counts what was neither read as sound nor as labels."""
        unread = [path for path in self.others if path not in used and path.stem.upper() not in _COMPANIONS]
        if not unread:
            return
        hint = (
            "; labels are read where they bear a recording's name or name their files, or with data.labels="
        )
        tables = any(is_annotation(path.name) or path.suffix.lower() in TABLE_SUFFIXES for path in unread)
        result.problems.append(Problem(self.root, not_read(unread) + (hint if tables else "")))


def _files(source: Path, result: LabelledSet) -> _Listing:
    if not source.exists():
        raise NotFound(f"recordings folder {source} does not exist", "", "name a folder of sound files")
    listing = _Listing(source)
    for path in [source] if source.is_file() else walk(source):
        suffix = path.suffix.lower()
        inside = path.relative_to(source).parts if path != source else ()
        if len(inside) > 1 and inside[0].casefold() == ENVIRONMENT_FOLDER:
            continue
        if suffix in FOREIGN_SUFFIXES:
            result.files += 1
            result.files_left_out[UNREADABLE] += 1
            result.problems.append(Problem(path, foreign_reason(path)))
        elif suffix in AUDIO_SUFFIXES or path == source:
            result.files += 1
            try:
                str(path).encode()
                listing.sounds.append(path)
            except UnicodeEncodeError:  # bytes that are no text cannot stand in metadata
                result.files_left_out[UNREADABLE] += 1
                result.problems.append(
                    Problem(Path(ascii(str(path))), "its name is not valid UTF-8: rename it")
                )
        else:
            listing.others.append(path)
    if not listing.sounds:
        found = f" ({result.files} files are in formats that are not read)" if result.files else ""
        raise NothingLeft(
            f"no recordings in {source}{found}",
            f"read are {', '.join(sorted(suffix[1:] for suffix in AUDIO_SUFFIXES))}",
            "name a folder that holds such files, in sub-folders named after their species",
        )
    listing.sounds.sort()
    return listing


def _top_layers(
    sources: Sources, labels: Path | None, columns: Mapping[str, str] | None
) -> tuple[list[Layer], bool]:
    """The layers that a user named or that lie about, and whether folder names count beside them."""
    finder = sources.finder
    if labels is not None:
        layer = named_layer(Path(labels), sources, columns)
        if not layer:
            raise NothingLeft(
                f"{labels} has labels for none of the {len(finder.files)} recordings in {finder.root}"
                + "".join(f"; {problem.reason}" for problem in sources.problems[:3]),
                f"paths in it count from its own folder or from {finder.root}",
            )
        return [layer], False
    for folder in (finder.root, finder.root.parent):
        here, layers = folder == finder.root, []
        for path in _found_tables(folder):
            looked = Sources(finder, sources.infos, found=True, used=sources.used)
            try:
                layer = named_layer(path, looked, columns)
            except UserError as error:
                layer = {}
                looked.note(path, str(error))
            sources.synonyms += looked.synonyms
            # A table beside may list much that is not ours: of its problems only this one is.
            sources.problems += looked.problems if here else []
            sources.left_out += looked.left_out if here else Counter()
            if layer:
                layers.append(layer)
            else:
                count = len(finder.files)
                reason = f"it lists none of the {count} recordings: its labels and licences are not used"
                sources.note(path, reason)
        if layers:
            any_label = any(facts.said for layer in layers for facts in layer.values())
            return layers, not (here and any_label)
    return [], True


def _found_tables(folder: Path) -> list[Path]:
    """The tables in a folder that are found by themselves: labels.*, manifest.*, metadata.*, in any case."""
    suffixes = (*sorted(TABLE_SUFFIXES), ".json")
    names = {f"{name}{suffix}": at for at, (name, suffix) in enumerate(product(FOUND_NAMES, suffixes))}
    try:
        there = [name for name in os.listdir(folder) if name.lower() in names]
    except OSError:  # a folder above may not be ours to read
        return []
    return [folder / name for name in sorted(there, key=lambda name: names[name.lower()])]


def _probe_all(files: list[Path], result: LabelledSet) -> dict[Path, AudioInfo]:
    def attempt(path: Path) -> AudioInfo | Problem:
        try:
            return probe(path)
        except RecordingError as error:
            return Problem(path, str(error).replace(f"{path} ", "it ", 1))

    # Threads, because on a parallel file system opening a file is mostly waiting.
    with ThreadPoolExecutor(max_workers=8) as pool:
        outcomes = list(pool.map(attempt, files))
    failed = [outcome for outcome in outcomes if isinstance(outcome, Problem)]
    result.problems += failed
    result.files_left_out[UNREADABLE] += len(failed)
    infos = [outcome for outcome in outcomes if isinstance(outcome, AudioInfo)]
    result.problems += [Problem(info.path, note) for info in infos for note in info.notes]
    return {info.path: info for info in infos}


def _default_ids(files: list[Path], root: Path) -> dict[Path, str]:
    """xeno-canto's number, else the file's stem, else (where stems repeat) its path below the root."""
    stems: dict[str, int] = {}
    for file in files:
        stems[file.stem] = stems.get(file.stem, 0) + 1
    ids = {}
    for file in files:
        below = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
        unique = file.stem if stems[file.stem] == 1 else below.with_suffix("").as_posix()
        ids[file] = xenocanto_id(file.stem) or unique
    return ids


def _assemble(
    info: AudioInfo,
    known: list[Facts],
    folder: Facts | None,
    folder_counts: bool,
    default_id: str,
    result: LabelledSet,
) -> None:
    """Put a recording, with what its layers say of it, where it belongs in `result`."""
    layers = [*known, folder] if folder is not None and folder_counts else known
    chosen = _chosen(layers, info)
    for facts in layers:
        # Folder names are no rows of anybody's table: they count where they are what counts.
        count = sum(row.count for row in facts.rows if row.about_birds)
        if facts is chosen or facts is not folder:
            result.account.read += count
    content = RecordingLabels(
        info, [facts for facts in (*known, folder) if facts is not None and facts is not chosen], result
    )
    for facts in known:
        if facts is not chosen:
            content.take_aside(facts)
    if chosen is not None:
        content.take_all(chosen)
    labels = content.fitting()

    def first(name: str) -> str:
        return next((facts.first(name) for facts in layers if facts.first(name)), "")

    boxed = chosen is not None and (chosen.has_boxes or not chosen.says_of_all) and not content.is_birdless
    recording = Recording(
        path=info.path,
        recording_id=first("recording_id") or default_id,
        labels=tuple(labels),
        licence=first("licence"),
        recordist=first("recordist"),
        environment=first("environment"),
        sound_type=first("sound_type") if not boxed else "",
        weak=not boxed,
        unknown=tuple(content.unknown),
        silences=() if labels else tuple(content.silences),
        no_bird_rows=0 if labels else content.no_bird_rows,
        duration_s=info.duration_s,
        rate_hz=info.rate_hz,
        channels=info.channels,
    )
    if labels:
        result.account.left_out[SUPERSEDED] += content.no_bird_rows
        result.recordings.append(recording)
    # Labels that were all left out say nothing about the rest of the file, least of all that it has no bird.
    elif chosen is None or content.expected:
        result.unlabelled.append(recording)
        result.files_left_out[NO_LABEL] += 1
        result.account.left_out[SUPERSEDED] += recording.no_bird_rows
    elif any(label.start_s is None for label in content.unknown):
        # Somebody heard a bird in it, and nobody knows which.
        result.files_left_out[UNKNOWN_BIRD] += 1
        result.account.left_out[SUPERSEDED] += recording.no_bird_rows
    else:
        result.recordings.append(recording)


def _chosen(layers: list[Facts], info: AudioInfo) -> Facts | None:
    """The layer that counts: one with boxes of birds, else one that speaks of the whole file, else any.

    Boxes that say "no bird here" and cover the file speak of all of it too.
    """
    boxed = next((facts for facts in layers if facts.has_boxes), None)
    whole = next((f for f in layers if f.says_of_all or covers(f, info.duration_s)), None)
    return boxed or whole or next((facts for facts in layers if facts.said or facts.doubtful), None)


def _one_name_each(result: LabelledSet, sources: Sources, root: Path) -> None:
    """Give each species of the set one name, and say which spellings were taken for one."""
    words = Vocabulary()
    for recording in result.recordings:
        for label in recording.labels:
            words.add(label.label)
    for scientific, common in sources.synonyms:
        words.equate(scientific, common)
    names = words.names()
    for number, recording in enumerate(result.recordings):
        labels = [replace(label, label=names[label.label]) for label in recording.labels]
        once = list(dict.fromkeys(labels))
        result.account.left_out[REPEATED] += len(labels) - len(once)
        result.recordings[number] = replace(recording, labels=tuple(once))
    result.problems.extend(Problem(root, finding) for finding in words.findings())
