"""Labelled recordings cut into clips of one length, each with where it comes from; as files, when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from birdsd.errors import BadValue, Unsupported, UserError
from birdsd.files import read_json, safe_name
from birdsd.schema import DataConfig
from birdsd.shards.prepare.clips import SampleMaker
from birdsd.shards.prepare.splits import assign_splits
from birdsd.sound.audio.levels import fit
from birdsd.sound.audio.recordings import RecordingError, probe
from birdsd.sound.codec.grids import grid_of_length
from birdsd.sound.identity import unite
from birdsd.sound.labels.annotation import Label, Recording, species_of
from birdsd.sound.labels.load import ENVIRONMENT_FOLDER, load_recordings
from birdsd.sound.mixing import EnvironmentPool

REAL, SYNTHETIC = "real", "synthetic"
TRAIN, TEST = "train", "test"
_HOP_MS = 4.0


@dataclass(frozen=True)
class Asked:
    """What is exported, and how. `class_label` gives a species' name as the format has it."""

    sounds: Path
    labels: Path | None = None
    environment: Path | None = None  # sounds without birds; None: the folder environment/ in `sounds`
    seconds: float = 3.0
    rate_hz: int = 48000
    most: int = 5  # clips per recording; 0: all, one after the other
    test_fraction: float = 0.2  # of the recordings
    seed: int = 0
    class_label: Callable[[str], str] = field(default=str, repr=False)


@dataclass(frozen=True)
class Clip:
    """A clip, float32 [1, samples], with what is known of it. Without species it has no bird."""

    waveform: np.ndarray = field(repr=False)
    rate_hz: int
    name: str  # safe as a file's name, and unique in the set
    split: str
    species: tuple[str, ...]
    labels: tuple[Label, ...]
    recording_id: str
    start_s: float
    origin: str
    licence: str
    recordist: str
    source: str

    def facts(self) -> dict[str, Any]:
        """What a table says of it, besides its file and class."""
        return {
            "recording_id": self.recording_id, "start_s": round(self.start_s, 3),
            "end_s": round(self.start_s + self.waveform.shape[-1] / self.rate_hz, 3), "origin": self.origin,
            "licence": self.licence, "recordist": self.recordist, "source": self.source,
        }  # fmt: skip


@dataclass
class Cutting:
    """The clips of a set, made while they are asked for; afterwards what was left out, and why."""

    asked: Asked
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        asked = self.asked
        if not 0.5 <= asked.seconds <= 60:
            raise BadValue(f"--seconds {asked.seconds:g}", "it must be from 0.5 to 60", "BirdNET hears 3")
        if asked.most < 0:
            raise BadValue(f"--clips {asked.most}", "it must be 0 (all) or more")
        if asked.sounds.is_dir() and any(asked.sounds.glob("*.tar")):
            raise Unsupported(
                f"{asked.sounds} holds shards, whose sound a codec has been through", "",
                "export the recordings that they were prepared from",
            )  # fmt: skip
        self._found = load_recordings(asked.sounds, asked.labels)
        groups = unite(self._found)
        self._splits = assign_splits(
            {one.recording_id: one.species for one in self._found.recordings}, 0.0, asked.test_fraction,
            asked.seed, groups,
        )  # fmt: skip
        frames = round(1000 * asked.seconds / _HOP_MS)
        codec = grid_of_length("export", asked.rate_hz, asked.seconds, frames, asked.rate_hz / 3)
        how = "song" if asked.most else "windows"
        data = DataConfig(name="export", segmentation=how, max_clips_per_recording=asked.most)
        self._maker = SampleMaker(codec, data)
        self.species = self._found.species

    def __iter__(self) -> Iterator[Clip]:
        self.left_out = [
            (one.path.name, one.reason)
            for one in self._found.problems
            if one.path.is_file() and (one.labels or one.code)
        ]
        for recording in self._found.recordings:
            yield from self._of(recording, self._splits[recording.recording_id])
        yield from self._without_birds()

    def _of(self, recording: Recording, split: str) -> Iterator[Clip]:
        origin = origin_of(recording.path)
        stem = safe_name(recording.recording_id, 60)
        count = 0
        try:
            for clip in self._maker.clips(recording):
                count += 1
                yield Clip(
                    self._full(clip.waveform), self.asked.rate_hz, _named(stem, clip.start_s)
                    + (f"_ch{clip.channel}" if clip.channel is not None else ""), split,
                    species_of(clip.labels), clip.labels, recording.recording_id, clip.start_s, origin,
                    recording.licence, recording.recordist, recording.path.name,
                )  # fmt: skip
        except RecordingError as error:
            self.left_out.append((recording.path.name, str(error)))
            return
        if not count:
            self.left_out.append((recording.path.name, "no clip of it shows what it is labelled with"))

    def _without_birds(self) -> Iterator[Clip]:
        """Environmental sound; for training alone, since a test of it would say how often rain is a bird."""
        folder = self.asked.environment
        inside = self.asked.sounds / ENVIRONMENT_FOLDER
        if folder is None and self.asked.sounds.is_dir() and inside.is_dir():
            folder = inside
        if folder is None:
            return
        pool = EnvironmentPool(folder)
        self.left_out += [(problem.path.name, problem.reason) for problem in pool.problems]
        windows = SampleMaker(
            self._maker.codec, DataConfig(name="export", segmentation="windows", max_clips_per_recording=0)
        )
        for name in pool.names:
            for path in pool.files(name):
                info = probe(path)
                identity = f"{name}-{path.stem}"
                recording = Recording(
                    path, identity, licence=pool.licence(path), recordist=pool.recordist(path),
                    duration_s=info.duration_s, rate_hz=info.rate_hz, channels=info.channels,
                )  # fmt: skip
                for number, clip in enumerate(windows.clips(recording)):
                    if self.asked.most and number >= self.asked.most:
                        break
                    yield Clip(
                        self._full(clip.waveform), self.asked.rate_hz,
                        _named(safe_name(identity, 60), clip.start_s), TRAIN, (), (), identity,
                        clip.start_s, origin_of(path), recording.licence, recording.recordist, path.name,
                    )  # fmt: skip

    def _full(self, waveform: np.ndarray) -> np.ndarray:
        """Padded with zeros at its end to the length of a clip."""
        size = round(self.asked.seconds * self.asked.rate_hz)
        return np.pad(waveform[:1, :size], ((0, 0), (0, max(0, size - waveform.shape[1]))))


def _named(stem: str, start_s: float) -> str:
    """XC123_0001500ms: a clip of a recording by where it begins."""
    return f"{stem}_{round(1000 * start_s):07d}ms"


def origin_of(path: Path) -> str:
    """Whether a sound was generated, by the recipe beside it."""
    recipe = path.with_suffix(".json")
    if recipe.is_file():
        try:
            values = read_json(recipe, "recipe")
        except UserError:
            return REAL
        if isinstance(values, dict) and values.get("generated"):
            return SYNTHETIC
    return REAL


def write_clip(path: Path, clip: Clip) -> None:
    """Write a clip as 16 bits, WAV or FLAC by its name; beyond full scale it is turned down as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = fit(clip.waveform).waveform[0]
    soundfile.write(path, samples, clip.rate_hz, format=path.suffix[1:].upper(), subtype="PCM_16")
