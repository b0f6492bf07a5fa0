"""Recordings -> what is heard in them: stretch by stretch, in several processes; run again, it goes on.

Each stretch leaves a file of its own, OUT/parts/NAME/NUMBER.json; what stands there is not heard again. The
tables are written once all are there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.diffusion.classifiers.folder import load_classifier
from birdsd.diffusion.classifiers.place import WEIGHTS
from birdsd.errors import BadValue, Mismatch, NotFound, NothingLeft, UserError, unknown_name
from birdsd.evaluation.classify.detections import merged, of_frames, of_windows
from birdsd.evaluation.classify.windows import SHORTEST, Windows
from birdsd.evaluation.judges.sounds import Detection, SoundFile, SoundFiles
from birdsd.files import fingerprint, read_json, safe_name, sha256_file, write_json
from birdsd.remarks import Remark
from birdsd.sound.audio.recordings import find_recordings, probe, rate_remarks
from birdsd.workers import cores, done_by_workers

STRETCH_S = 300.0  # of sound that is read at once: a minute of 32 kHz is 8 MB
PARTS, RECORD = "parts", "classify.json"
FORMATS = ("raven", "audacity", "csv", "parquet")


@dataclass(frozen=True)
class ClassifySettings:
    """What decides the result. `threshold` holds for every species; None: each has its own, found on
    validation recordings. `strong`: with onsets and offsets, by the frames of a CRNN."""

    overlap: float = 0.5
    threshold: float | None = None
    merge: bool = False
    strong: bool = False

    def check(self) -> None:
        """Refuse a threshold that is no score. (`Windows` looks at the overlap.)"""
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise BadValue(
                f"threshold={self.threshold:g}",
                "a score lies between 0 and 1",
                "threshold=0.5; or leave it out, and each species has its own",
            )


@dataclass(frozen=True)
class Stretch:
    """Windows `first` to `first + count` of the recording `number`; `place` is where the result goes."""

    number: int
    path: Path
    duration_s: float
    first: int
    count: int
    place: Path


@dataclass
class Listener:
    """Hears stretches; one in each process."""

    folder: str
    settings: ClassifySettings

    def __post_init__(self) -> None:
        import torch

        if os.environ.get("OMP_NUM_THREADS") == "1":
            torch.set_num_threads(1)
        self.classifier = load_classifier(Path(self.folder))
        self.windows = Windows(self.classifier, self.settings.overlap)
        if self.settings.strong and not self._says_when:
            raise Mismatch(
                f"strong=true with a {self.classifier.settings['network']}",
                "only a CRNN says when in a window it hears a species",
                "train one with method.network=crnn, or leave strong out",
            )

    @property
    def _says_when(self) -> bool:
        return self.classifier.settings["network"] == "crnn"

    @cached_property
    def thresholds(self) -> np.ndarray:
        """float64 [classes]."""
        one, own = self.settings.threshold, self.classifier.thresholds
        return np.array(own) if one is None else np.full(len(own), one)

    def hear(self, stretch: Stretch) -> tuple[Stretch, str]:
        """Write what is heard in a stretch; returns why it cannot be, or nothing."""
        try:
            parts = list(self.windows.heard(stretch.path, stretch.first, stretch.count))
        except UserError as error:
            return stretch, str(error)
        end_s = stretch.duration_s
        if self.settings.strong:
            found = of_frames(self.windows, stretch.first, parts, self.thresholds, end_s)
        else:
            found = [
                one
                for first, heard in parts
                for one in of_windows(self.windows, first, heard, self.thresholds, end_s)
            ]
        write_json(stretch.place, {**_stamp(stretch), "detections": [asdict(one) for one in found]})
        return stretch, ""


def _stamp(stretch: Stretch) -> dict[str, Any]:
    """What tells that a stretch's file is of this recording as it is now."""
    state = os.stat(stretch.path)
    return {
        "bytes": state.st_size,
        "modified_ns": state.st_mtime_ns,
        "first": stretch.first,
        "count": stretch.count,
    }


def _is_done(stretch: Stretch) -> bool:
    try:
        stored = json.loads(stretch.place.read_text(encoding="utf-8"))
        return all(stored[key] == value for key, value in _stamp(stretch).items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


@dataclass
class Classified:
    """What was heard in each recording, and what could not be. `heard_now` of the `windows` were not there
    from an earlier call."""

    out: Path
    names: list[str] = field(default_factory=list)
    durations_s: list[float] = field(default_factory=list)
    detections: list[list[Detection]] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    windows: int = 0
    heard_now: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        rows = zip(self.names, self.durations_s, self.detections, strict=True)
        return {
            "out": str(self.out),
            "recordings": [
                {
                    "name": name,
                    "duration_s": round(duration_s, 3),
                    "detections": [asdict(one) for one in found],
                }
                for name, duration_s, found in rows
            ],
            "left_out": [{"path": str(path), "reason": reason} for path, reason in self.left_out],
            "remarks": self.remarks,
            "windows": self.windows,
            "heard_now": self.heard_now,
        }


def classify(
    sources: Sequence[Path],
    folder: Path,
    out: Path,
    settings: ClassifySettings,
    *,
    processes: int = 0,
    progress: bool = True,
) -> Classified:
    """Hear all recordings in `sources` with the classifier in `folder`; results lie below `out`.

    `processes` 0 takes every core. A recording that cannot be read is listed in `left_out`, and the others go
    on. Raises `UserError` where nothing can be heard, or where `out` holds other results.
    """
    from tqdm import tqdm

    settings.check()
    listener = Listener(str(folder), settings)
    result = Classified(Path(out))
    files = _found(sources, result)
    _claim(result.out, folder, listener)
    stretches = _stretches(files, listener, result)
    todo = [one for one in stretches if not _is_done(one)]
    result.windows, result.heard_now = sum(s.count for s in stretches), sum(s.count for s in todo)
    broken = UserError(
        "a process that was listening ended abruptly",
        "most often the machine ran out of memory; what was heard is kept",
        "run the same command again with fewer processes: processes=1",
    )
    failed: dict[int, str] = {}
    count = min(processes or cores(), len(todo))
    made = (lambda *_: listener) if count <= 1 else Listener  # it is here already
    with tqdm(
        total=result.heard_now, desc="classify", unit="window", disable=None if progress else True
    ) as bar:
        done = done_by_workers(made, (str(folder), settings), Listener.hear, todo[::-1], count, broken)
        for stretch, reason in done:
            bar.update(stretch.count)
            if reason:
                failed.setdefault(stretch.number, reason)
    _collect(files, stretches, failed, settings, result)
    return result


def _found(sources: Sequence[Path], result: Classified) -> SoundFiles:
    """The recordings, each once; what is none is listed."""
    files, seen = SoundFiles(), set[str]()
    for source in sources:
        if not Path(source).exists():
            raise NotFound(f"{source} does not exist", "", "name sound files, or folders of them")
        for path in find_recordings(Path(source)):
            if (real := os.path.abspath(path)) in seen:
                continue
            seen.add(real)
            try:
                info = probe(path)
            except UserError as error:
                result.left_out.append((path, str(error)))
                continue
            files.files.append(SoundFile(path, (), info.duration_s))
    if not files.files:
        why = "; ".join(reason for _, reason in result.left_out[:3]) or "no file there holds sound"
        raise NothingLeft(f"there is no recording to classify: {why}")
    return files


def _claim(out: Path, folder: Path, listener: Listener) -> None:
    """Write down what the results in `out` are of; refuse a folder with those of something else."""
    told = {
        "weights": sha256_file(Path(folder) / WEIGHTS),
        **asdict(listener.settings),
        "thresholds": [round(float(one), 6) for one in listener.thresholds],
    }
    mark, path = fingerprint(told), Path(out) / RECORD
    if path.is_file() and (before := read_json(path)).get("mark") != mark:
        changed = sorted(key for key, value in told.items() if before.get(key) != value)
        raise Mismatch(
            f"{out} holds what was heard with other settings ({', '.join(changed) or 'unknown'})",
            "one folder holds the results of one classifier and one set of settings",
            "name another folder with out=FOLDER, or delete this one",
        )
    Path(out).mkdir(parents=True, exist_ok=True)
    write_json(path, {"mark": mark, **told})


def _stretches(files: SoundFiles, listener: Listener, result: Classified) -> list[Stretch]:
    windows, codec = listener.windows, listener.classifier.codec
    together = max(1, int(STRETCH_S / windows.step_s))
    found = []
    for number, (name, file) in enumerate(zip(files.names(), files.files, strict=True)):
        place = Path(result.out, PARTS, *(safe_name(part, 150) for part in Path(name).parts))
        total = windows.count(file.duration_s)
        for first in range(0, total, together):
            count = min(together, total - first)
            found.append(
                Stretch(number, file.path, file.duration_s, first, count, place / f"{first:08d}.json")
            )
    paths = {name: file.path for name, file in zip(files.names(), files.files, strict=True)}
    result.remarks += rate_remarks(paths, codec.fmax_hz)
    result.remarks += _brief(files, windows.window_s)
    return found


def _brief(files: SoundFiles, window_s: float) -> list[str]:
    """What to say of recordings that fill less of a window than would be heard at the end of a longer one."""
    durations = zip(files.names(), files.files, strict=True)
    brief = [name for name, file in durations if file.duration_s < SHORTEST * window_s]
    if not brief:
        return []
    which = (
        f"1 recording ({brief[0]}) is"
        if len(brief) == 1
        else f"{len(brief)} recordings ({brief[0]}, ...) are"
    )
    text = (
        f"{which} shorter than {SHORTEST * window_s:.1f} s, a third of the clips that the classifier was "
        "trained on: the rest is filled with silence, and what is named there is a guess"
    )
    return [Remark(text, "recording-too-short", recordings=brief, needed_s=SHORTEST * window_s)]


def _collect(
    files: SoundFiles, stretches: Sequence[Stretch], failed: dict[int, str], settings: ClassifySettings,
    result: Classified,
) -> None:  # fmt: skip
    by_file: dict[int, list[Stretch]] = {}
    for stretch in stretches:
        by_file.setdefault(stretch.number, []).append(stretch)
    for number, (name, file) in enumerate(zip(files.names(), files.files, strict=True)):
        if number in failed:
            result.left_out.append((file.path, failed[number]))
            continue
        found = [
            Detection(**one)
            for stretch in by_file[number]
            for one in json.loads(stretch.place.read_text(encoding="utf-8"))["detections"]
        ]
        # A stretch ends between windows, and runs of frames go on in the next one.
        found = merged(found) if settings.merge or settings.strong else found
        result.names.append(name)
        result.durations_s.append(file.duration_s)
        result.detections.append(sorted(found, key=lambda one: (one.start_s, one.species)))
    if not result.names:
        raise NothingLeft(f"none of the recordings can be classified: {result.left_out[0][1]}")


def check_formats(formats: Sequence[str]) -> None:
    """Refuse an unknown name of a table's format."""
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
