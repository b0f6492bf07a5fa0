"""From a folder of recordings, and whatever labels lie in or beside it, to one labelled set.

What is known about a file comes in layers: a label table or metadata (given, or found in the folder or
its parent), an annotation beside the file (Raven, Audacity), and the name of its folder. Boxes beat labels
for the whole file; otherwise the first layer that says something counts. Licence, recordist and recording
id come from the first layer that has them. Nothing is dropped in silence: see `LabelledSet.problems`.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from birdsd.errors import UserError
from birdsd.sound.annotation import Label, LabelledSet, Problem, Recording, clip_labels, species_of
from birdsd.sound.audacity import read_audacity, write_audacity
from birdsd.sound.layers import (
    FOUND_NAMES,
    Finder,
    Layer,
    annotation_layer,
    beside,
    folder_layer,
    named_layer,
)
from birdsd.sound.raven import read_raven, read_raven_files, write_raven
from birdsd.sound.recordings import AUDIO_SUFFIXES, FOREIGN_SUFFIXES, AudioInfo, RecordingError, probe, walk
from birdsd.sound.tables import TABLE_SUFFIXES
from birdsd.sound.xenocanto import read_xenocanto, xenocanto_id

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
_SLACK_S = 0.05  # labels may end this much after the file (rounding by the tool that wrote them)


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
    files = _files(source, result.problems)
    root = source if source.is_dir() else source.parent
    finder = Finder(files, root)
    layers, folder_names_count = _top_layers(finder, labels, columns, result.problems)
    layers.append(annotation_layer(beside(files), result.problems))
    if folder_names_count:
        layers.append(folder_layer(files, root))
    infos = _probe_all(files, result.problems)
    default_ids = _default_ids([info.path for info in infos], root)
    for info in infos:
        recording, labelled = _assemble(info, layers, default_ids[info.path], result.problems)
        (result.recordings if labelled else result.unlabelled).append(recording)
    advice = "it has no label: put it into a folder named after its species, or list it in a label table"
    result.problems.extend(Problem(recording.path, advice) for recording in result.unlabelled)
    if not result.recordings and (require_labels or not result.unlabelled):
        raise _nothing_left(source, result.problems)
    return result


def _nothing_left(source: Path, problems: list[Problem]) -> UserError:
    shown = "; ".join(f"{problem.path.name}: {problem.reason}" for problem in problems[:3])
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return UserError(
        f"no labelled recording is left in {source}: {shown}{more}",
        "a file needs a label: a folder named after its species, a label table or an annotation beside it",
        "mend the files named, or pass data.labels=TABLE",
    )


def _files(source: Path, problems: list[Problem]) -> list[Path]:
    if not source.exists():
        raise UserError(f"recordings folder {source} does not exist", "", "name a folder of sound files")
    files = []
    for path in [source] if source.is_file() else walk(source):
        suffix = path.suffix.lower()
        inside = path.relative_to(source).parts if path != source else ()
        if len(inside) > 1 and inside[0].casefold() == ENVIRONMENT_FOLDER:
            continue
        if suffix in FOREIGN_SUFFIXES:
            problems.append(Problem(path, f"libsndfile does not decode {suffix}: convert it to flac or wav"))
        elif suffix in AUDIO_SUFFIXES or path == source:
            try:
                str(path).encode()
                files.append(path)
            except UnicodeEncodeError:  # bytes that are no text cannot stand in metadata
                problems.append(Problem(Path(ascii(str(path))), "its name is not valid UTF-8: rename it"))
    if not files:
        found = f" ({len(problems)} files are in formats that are not read)" if problems else ""
        raise UserError(
            f"no recordings in {source}{found}",
            f"read are {', '.join(sorted(suffix[1:] for suffix in AUDIO_SUFFIXES))}",
            "name a folder that holds such files, in sub-folders named after their species",
        )
    return sorted(files)


def _top_layers(
    finder: Finder, labels: Path | None, columns: Mapping[str, str] | None, problems: list[Problem]
) -> tuple[list[Layer], bool]:
    """The layers that a user named or that lie about, and whether folder names count beside them."""
    if labels is not None:
        layer = named_layer(Path(labels), finder, columns, problems)
        if not layer:
            raise UserError(
                f"{labels} has labels for none of the {len(finder.files)} recordings in {finder.root}"
                + "".join(f"; {problem.reason}" for problem in problems[:3]),
                f"paths in it count from its own folder or from {finder.root}",
            )
        return [layer], False
    for folder in (finder.root, finder.root.parent):
        for name in FOUND_NAMES:
            for suffix in (*sorted(TABLE_SUFFIXES), ".json"):
                path = folder / f"{name}{suffix}"
                if not path.is_file():
                    continue
                here = folder == finder.root
                noted: list[Problem] = []
                try:
                    layer = named_layer(path, finder, columns, noted)
                except UserError as error:
                    layer = {}
                    noted.append(Problem(path, str(error)))
                problems.extend(noted if here else [])  # a table beside may list much that is not ours
                if layer:
                    return [layer], not (here and any(facts.labelled for facts in layer.values()))
    return [], True


def _probe_all(files: list[Path], problems: list[Problem]) -> list[AudioInfo]:
    def attempt(path: Path) -> AudioInfo | Problem:
        try:
            return probe(path)
        except RecordingError as error:
            return Problem(path, str(error).replace(f"{path} ", "it ", 1))

    # Threads, because on a parallel file system opening a file is mostly waiting.
    with ThreadPoolExecutor(max_workers=8) as pool:
        outcomes = list(pool.map(attempt, files))
    problems.extend(outcome for outcome in outcomes if isinstance(outcome, Problem))
    return [outcome for outcome in outcomes if isinstance(outcome, AudioInfo)]


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
    info: AudioInfo, layers: list[Layer], default_id: str, problems: list[Problem]
) -> tuple[Recording, bool]:
    known = [layer[info.path] for layer in layers if info.path in layer]
    boxed = [facts for facts in known if any(label.start_s is not None for label in facts.labels)]
    said = boxed or [facts for facts in known if facts.labelled]
    labels = _fit(said[0].labels, info, problems) if said else []

    def first(name: str) -> str:
        return next((getattr(facts, name) for facts in known if getattr(facts, name)), "")

    recording = Recording(
        path=info.path,
        recording_id=first("recording_id") or default_id,
        labels=tuple(labels),
        licence=first("licence"),
        recordist=first("recordist"),
        environment=first("environment"),
        sound_type=first("sound_type"),
        weak=not boxed,
        duration_s=info.duration_s,
        rate_hz=info.rate_hz,
        channels=info.channels,
    )
    # Boxes that all lie outside the file say nothing about it, least of all that it has no bird.
    return recording, bool(said) and bool(labels or not said[0].labels)


def _fit(labels: list[Label], info: AudioInfo, problems: list[Problem]) -> list[Label]:
    """Labels inside the recording: cut at its end, dropped where they lie outside; both are reported."""
    kept = []
    for label in labels:
        if label.start_s is None or label.end_s is None:
            kept.append(label)
            continue
        where = f"the label '{label.label}' at {label.start_s:.3f}-{label.end_s:.3f} s"
        if not label.label:
            problems.append(Problem(info.path, f"{where} has no name: left out"))
        elif label.end_s < label.start_s:
            problems.append(Problem(info.path, f"{where} ends before it starts: left out"))
        elif label.start_s >= info.duration_s or label.end_s < 0:
            problems.append(
                Problem(
                    info.path,
                    f"{where} lies outside the recording, which lasts {info.duration_s:.3f} s: left out",
                )
            )
        else:
            if label.end_s > info.duration_s + _SLACK_S or label.start_s < -_SLACK_S:
                problems.append(
                    Problem(
                        info.path,
                        f"{where} is longer than the recording ({info.duration_s:.3f} s): cut to fit",
                    )
                )
            kept.append(
                replace(label, start_s=max(0.0, label.start_s), end_s=min(label.end_s, info.duration_s))
            )
    return kept
