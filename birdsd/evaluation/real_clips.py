"""Real clips of a shard set: as the codec shows them, and as they were cut from their recordings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.sound.audio.recordings import RecordingError, probe, read, resampled, walk

if TYPE_CHECKING:
    from birdsd.shards.index import ShardIndex
    from birdsd.sound.codec.protocol import Codec

FIGURES, CHOICES = "test", "validation"  # figures come from the one split, settings are chosen on the other


@dataclass(frozen=True)
class RealClip:
    """A real clip with one species: the codec's image, uint8 [C, H, W], and where it comes from.

    `original` is the same stretch at the recording's own rate and quality, float32 [channels, samples]; None
    where the recording is not there. `heard` is what the codec makes of the image, float32 [channels,
    samples] at its own rate; None: nobody has decoded it yet. `credit` names the recordist and the licence.
    """

    name: str
    species: str
    recording: str
    image: np.ndarray
    original: np.ndarray | None = None
    rate_hz: int = 0
    heard: np.ndarray | None = None
    credit: str = ""


def held_out_split(index: ShardIndex) -> str | None:
    """Which split figures come from: the test recordings, or those of validation where there are none."""
    return next((split for split in (FIGURES, CHOICES) if _count(index, split)), None)


def read_real(
    index: ShardIndex,
    split: str,
    *,
    recordings: Path | None = None,
    limit: int = 0,
    species: Sequence[str] | None = None,
) -> list[RealClip]:
    """The clips of a split that have exactly one species, at most `limit` of them (0: all), spread evenly.

    `recordings` is the folder that the shards were prepared from: with it each clip is also read as it was
    before the codec. Clips with an environment mixed in are taken only where there are no others, since they
    are no longer what was recorded.
    """
    from birdsd.shards.reader import ShardReader

    if not _count(index, split):
        return []
    reader = ShardReader(index, split, want=("metadata",))
    facts = [(number, reader.read(number).metadata) for number in range(len(reader))]
    wanted = [
        (number, metadata)
        for number, metadata in facts
        if len(metadata["species"]) == 1 and (species is None or metadata["species"][0] in species)
    ]
    plain = [sample for sample in wanted if sample[1].get("snr_db") is None]
    wanted = plain or wanted
    if limit and len(wanted) > limit:
        places = np.unique(np.linspace(0, len(wanted) - 1, limit).round().astype(int))
        wanted = [wanted[int(place)] for place in places]
    source = SourceRecordings(recordings) if recordings else None
    images = ShardReader(index, split, want=("image", "metadata"))
    clips = []
    for number, _ in wanted:
        sample = images.read(number)
        if sample.image is None:
            continue
        metadata = sample.metadata
        credit = ", ".join(t for t in (metadata.get("recordist", ""), metadata.get("licence", "")) if t)
        clip = RealClip(
            sample.key, metadata["species"][0], str(metadata.get("recording_id") or sample.key), sample.image,
            credit=credit,
        )  # fmt: skip
        found = source.stretch(metadata) if source else None
        clips.append(clip if found is None else replace(clip, original=found[0], rate_hz=found[1]))
    return clips


def decoded(codec: Codec, clip: RealClip) -> np.ndarray:
    """The clip as the codec gives it back, float32 [channels, samples] at the codec's rate."""
    return codec.decode(clip.image) if clip.heard is None else clip.heard


def as_the_codec_takes(codec: Codec, waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """A waveform, [channels, samples] or [samples], as float32 [channels, samples] at the codec's rate."""
    sound = resampled(np.atleast_2d(np.asarray(waveform, dtype=np.float32)), rate_hz, codec.rate_hz)
    if len(sound) != codec.channels:
        sound = sound.mean(axis=0, keepdims=True).repeat(codec.channels, axis=0)
    return sound


def _count(index: ShardIndex, split: str) -> int:
    return index.count(split) if split in index.splits else 0


class SourceRecordings:
    """Finds the recordings that clips name, below the folder (or beside the file) that was prepared."""

    def __init__(self, folder: Path) -> None:
        self.base = Path(folder) if Path(folder).is_dir() else Path(folder).parent
        self._by_name: dict[str, Path | None] | None = None

    def find(self, named: str) -> Path | None:
        """The file; None where it is not there, or the name fits several.

        Shards may be anybody's: what they name outside of the folder is not read. A link in it may lead out
        of it: of such recordings the shards hold the name alone.
        """
        path = Path(os.path.normpath(self.base / named))
        if not path.is_relative_to(os.path.normpath(self.base)):
            return None
        if path.is_file():
            return path
        if self._by_name is None:
            self._by_name = {}
            for file in walk(self.base):
                self._by_name[file.name] = None if file.name in self._by_name else file
        return self._by_name.get(named)

    def stretch(self, metadata: dict[str, Any]) -> tuple[np.ndarray, int] | None:
        """What a clip was cut from: float32 [channels, samples] and the rate; None where that cannot be read
        any more."""
        path = self.find(str(metadata["path"])) if "path" in metadata and "start_s" in metadata else None
        if path is None:
            return None
        chosen = {label.get("channel") for label in metadata.get("labels", ()) if isinstance(label, dict)}
        channel = chosen.pop() if len(chosen) == 1 else None
        try:
            rate_hz = probe(path).rate_hz
            start_s, duration_s = float(metadata["start_s"]), float(metadata.get("duration_s", 0.0))
            sound = read(path, rate_hz, start_s=start_s, duration_s=duration_s or None, channel=channel)
        except (RecordingError, OSError):
            return None
        return sound, rate_hz
