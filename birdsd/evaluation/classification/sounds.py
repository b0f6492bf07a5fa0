"""The labelled sounds that a classifier is tested on: the clips of a shard set, or a folder of recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.errors import NotFound, NothingLeft
from birdsd.evaluation.judges.judge import Judge
from birdsd.evaluation.judges.sounds import whole_windows
from birdsd.evaluation.real_clips import SourceRecordings
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from birdsd.sound.audio.recordings import RecordingError
from birdsd.sound.codec.protocol import Codec
from birdsd.sound.labels.annotation import Label
from birdsd.sound.labels.load import load_recordings
from birdsd.sound.species.names import species_key

Blocks = Iterator[tuple[float, np.ndarray, int]]  # start_s, float [channels, samples], rate_hz


@dataclass(frozen=True)
class LabelledSound:
    """A sound with what is known to be in it. It is read when it is heard, and again when it is shown.

    `labels` have times where somebody drew boxes; without times they hold for all of it. Without labels it is
    known to have no bird. `unknown` are birds that nobody identified.
    """

    name: str
    recording: str  # the id of what it was cut from: the unit of splits and of intervals
    labels: tuple[Label, ...]
    duration_s: float
    blocks: Callable[[Judge], Blocks] = field(repr=False, compare=False)
    unknown: tuple[Label, ...] = ()
    credit: str = ""
    by_window: bool = False  # judged window by window, since its labels say when; else as a whole

    @property
    def species(self) -> tuple[str, ...]:
        """The names that occur, sorted, each once."""
        return tuple(sorted({label.label for label in self.labels}))

    def stretch(self, judge: Judge, start_s: float, duration_s: float) -> tuple[np.ndarray, int]:
        """float32 [channels, samples] and the rate: a part of it, to be listened to."""
        for begin_s, block, rate_hz in self.blocks(judge):
            if start_s < begin_s + block.shape[-1] / rate_hz:
                first = max(0, round((start_s - begin_s) * rate_hz))
                return block[..., first : first + round(duration_s * rate_hz)], rate_hz
        return np.zeros((1, 1), np.float32), judge.rate_hz


@dataclass
class LabelledSounds:
    """What is tested on. `decoded`: the sounds are what a codec makes of its images, no recordings."""

    title: str
    sounds: list[LabelledSound]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    decoded: bool = False

    @property
    def species(self) -> list[str]:
        """All names, sorted."""
        return sorted({name for sound in self.sounds for name in sound.species})


def from_folder(source: Path, labels: Path | None = None) -> LabelledSounds:
    """The labelled recordings of a folder, and those that are known to have no bird."""
    found = load_recordings(source, labels)
    sounds = [
        LabelledSound(
            f"{one.path.parent.name}/{one.path.name}", one.recording_id, one.labels, one.duration_s,
            _FileBlocks(one.path), one.unknown,
            ", ".join(text for text in (one.recordist, one.licence) if text),
            any(label.start_s is not None for label in (*one.labels, *one.unknown)),
        )
        for one in sorted(found.recordings, key=lambda recording: recording.path)
    ]  # fmt: skip
    left_out = [(one.path.name, "it has no label") for one in found.unlabelled]
    listed = {one.path for one in (*found.recordings, *found.unlabelled)}
    left_out += [
        (one.path.name, one.reason)
        for one in found.problems
        if one.path.is_file() and one.path not in listed and one.labels
    ]
    return LabelledSounds(str(source), sounds, left_out)


@dataclass(frozen=True)
class _FileBlocks:
    path: Path

    def __call__(self, judge: Judge) -> Blocks:
        for start_s, block in whole_windows(judge, self.path):
            yield start_s, block, judge.rate_hz


def from_shards(index: ShardIndex, split: str, recordings: Path | None = None) -> LabelledSounds:
    """The clips of a split: as they were recorded where the recordings are at hand, else as the codec gives
    them back. Clips with something mixed in are no test: they are taken only where there are no others."""
    if not index.count(split):
        raise NotFound(
            f"the shards in {index.folder} have no split '{split}'", f"there is {', '.join(index.splits)}",
            "set split=..., or prepare with data.test_fraction=0.1",
        )  # fmt: skip
    reader = ShardReader(index, split, want=("metadata",))
    facts = [(number, reader.read(number)) for number in range(len(reader))]
    plain = [one for one in facts if one[1].metadata.get("snr_db") is None]
    source = SourceRecordings(recordings) if recordings else None
    images = ShardReader(index, split, want=("image", "metadata"))
    found = LabelledSounds(f"{index.folder}, {split}", [])
    codec = Codec.from_json(index.codec) if index.codec else None
    clip_s = codec.clip_s if codec else 0.0
    for number, sample in plain or facts:
        metadata = sample.metadata
        there = source is not None and source.find(str(metadata.get("path", ""))) is not None
        if not there and codec is None:
            found.left_out.append((sample.key, "neither its recording nor its codec is at hand"))
            continue
        found.decoded |= not there
        found.sounds.append(
            LabelledSound(
                sample.key, str(metadata.get("recording_id") or sample.key), _labels_of(metadata),
                float(metadata.get("duration_s") or clip_s),
                _ClipBlocks(source if there else None, images, number, codec),
                tuple(Label(str(name)) for name in metadata.get("unidentified", ())),
                ", ".join(str(metadata[key]) for key in ("recordist", "licence") if metadata.get(key)),
            )
        )  # fmt: skip
    return found


@dataclass(frozen=True)
class _ClipBlocks:
    source: SourceRecordings | None
    images: ShardReader
    number: int
    codec: Codec | None

    def __call__(self, judge: Judge) -> Blocks:
        sample = self.images.read(self.number)
        stretch = self.source.stretch(sample.metadata) if self.source else None
        if stretch is not None:
            yield 0.0, *stretch
        elif sample.image is not None and self.codec is not None:
            yield 0.0, self.codec.decode(sample.image), self.codec.rate_hz
        else:
            raise RecordingError(sample.problem or f"{sample.key} cannot be read")


def _labels_of(metadata: dict[str, Any]) -> tuple[Label, ...]:
    """The labels of a sample: those that `prepare` wrote, else the names of its species."""
    known = {"label", "start_s", "end_s", "low_hz", "high_hz"}
    written = [
        Label(**{key: value for key, value in one.items() if key in known})
        for one in metadata.get("labels") or ()
        if isinstance(one, dict) and isinstance(one.get("label"), str)
    ]
    named = {species_key(label.label) for label in written}
    rest = [Label(str(name)) for name in metadata.get("species", ()) if species_key(str(name)) not in named]
    return (*written, *rest)


def readable(sounds: LabelledSounds) -> LabelledSounds:
    """The same; `UserError` where there is nothing to test on."""
    if not sounds.sounds:
        why = f": {sounds.left_out[0][0]}: {sounds.left_out[0][1]}" if sounds.left_out else ""
        raise NothingLeft(f"there is no labelled sound in {sounds.title}{why}")
    if not sounds.species:
        raise NothingLeft(
            f"no sound in {sounds.title} is labelled with a species",
            "",
            "label them, or choose another split",
        )
    return sounds
