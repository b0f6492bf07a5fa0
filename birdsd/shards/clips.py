"""One recording -> its samples. The sound is decoded once, however many clips come from it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.files import safe_name
from birdsd.randomness import generator
from birdsd.schema import DataConfig
from birdsd.shards.plan import Item, relative
from birdsd.sound.annotation import Label, Recording, clip_labels, species_of
from birdsd.sound.captions import captions, environment_phrase
from birdsd.sound.codec import SpectrogramCodec
from birdsd.sound.mixing import EnvironmentPool, level_db, mix_at_snr
from birdsd.sound.recordings import RecordingError, read
from birdsd.sound.segments import Segment, find_songs, windows

# Below this level nothing is in a clip but the last bits of the converter.
SILENCE_DBFS = -90.0
# A recording is held in memory in parts of at most this length, so that a night costs no more than a song.
PART_S = 120.0
SYNTHETIC = "Synthetic"  # every species of the synthetic aviary begins with this word


@dataclass(frozen=True)
class Clip:
    """A stretch of a recording: its sound, float32 [channels, samples] at the codec's rate, and labels."""

    start_s: float
    waveform: np.ndarray
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class Encoded:
    """A finished sample: uint8 [C, H, W], and what is known about it. `image` is None for a skipped clip."""

    key: str
    image: np.ndarray | None
    metadata: dict[str, Any]
    skipped: str = ""


@dataclass(frozen=True)
class SampleMaker:
    """Makes the samples of recordings; one in each process. `pool` is None where nothing is mixed in."""

    codec: SpectrogramCodec
    data: DataConfig
    pool: EnvironmentPool | None = None

    def samples(self, item: Item, split: str) -> Iterator[Encoded]:
        """The samples of some segments of a recording; `RecordingError` when it cannot be read."""
        empty = True
        for clip in self._clips(item):
            empty = False
            yield from self._encode(item.recording, clip, split)
        if empty:
            yield Encoded("", None, {}, "nothing is to be heard in it")

    def _clips(self, item: Item) -> Iterator[Clip]:
        recording, codec = item.recording, self.codec
        whole = None
        if recording.duration_s <= PART_S:
            whole = read(recording.path, codec.rate_hz, channels=codec.channels)
        segments = self._segments(recording, whole)[item.first : item.last]
        for part in _parts(segments, codec.clip_s):
            begin = 0.0 if whole is not None else part[0].start_s
            sound = whole
            if sound is None:
                length = part[-1].start_s + codec.clip_s - begin
                sound = read(
                    recording.path, codec.rate_hz, start_s=begin, duration_s=length, channels=codec.channels
                )
            for segment in part:
                first = round((segment.start_s - begin) * codec.rate_hz)
                waveform = sound[:, first : first + codec.samples_per_clip]
                labels = clip_labels(recording, segment.start_s, codec.clip_s, self.data.min_label_overlap_s)
                yield Clip(segment.start_s, waveform, labels)

    def _segments(self, recording: Recording, whole: np.ndarray | None) -> list[Segment]:
        clip_s, limit = self.codec.clip_s, self.data.max_clips_per_recording
        if self.data.segmentation == "whole":
            return [Segment(0.0, clip_s, 0.0)]
        if self.data.segmentation == "windows":
            return spread(list(windows(recording.duration_s, clip_s, self.data.overlap)), limit)
        if not recording.weak:
            return spread(around_labels(recording, clip_s, self.data.min_label_overlap_s), limit)
        most = limit or max(1, math.ceil(recording.duration_s / clip_s))
        if whole is None:
            return find_songs(recording.path, clip_s, most)
        return find_songs([(0.0, whole)], clip_s, most, rate_hz=self.codec.rate_hz)

    def _encode(self, recording: Recording, clip: Clip, split: str) -> Iterator[Encoded]:
        key = sample_key(recording, clip.start_s, self.data)
        facts = self._facts(recording, clip, split)
        level = level_db(clip.waveform)
        if level < SILENCE_DBFS:
            yield Encoded(key, None, facts, f"the clip at {clip.start_s:.2f} s is silent")
            return
        if self.data.keep_clean:
            facts_clean = {**facts, "environment": recording.environment}
            yield self._sample(key, clip.waveform, facts_clean, recording.environment, level, level)
        for number in range(self.data.mixtures_per_clip if self.pool else 0):
            try:
                yield self._mixture(f"{key}-mix{number}", clip, facts, level)
            except RecordingError as error:  # damage inside a file of the pool: the bird is not to blame
                yield Encoded(key, None, facts, f"the clip at {clip.start_s:.2f} s was not mixed: {error}")

    def _mixture(self, key: str, clip: Clip, facts: dict[str, Any], level: float) -> Encoded:
        assert self.pool is not None
        draw = generator(self.data.seed, "mixture", key)
        snr_db = float(draw.uniform(self.data.snr_db_low, self.data.snr_db_high))
        codec = self.codec
        background = self.pool.draw(draw, codec.clip_s, codec.rate_hz, codec.channels)
        foreground = np.zeros((codec.channels, codec.samples_per_clip), np.float32)
        foreground[:, : clip.waveform.shape[1]] = clip.waveform
        mixture, gain = mix_at_snr(foreground, background.waveform[:, : codec.samples_per_clip], snr_db)
        facts = {
            **facts,
            "environment": background.name,
            "snr_db": round(snr_db, 2),
            "mixture_gain": round(gain, 6),
            "environment_source": relative(background.path, Path(self.data.environment or ".")),
            "environment_licence": background.licence,
            "environment_recordist": self.pool.recordist(background.path),
        }
        worded = environment_phrase(background.name, snr_db)
        bird_db = level + 20 * math.log10(gain)
        return self._sample(key, mixture, facts, worded, level_db(mixture), bird_db)

    def _sample(
        self,
        key: str,
        waveform: np.ndarray,
        facts: dict[str, Any],
        environment: str,
        loudness_db: float,
        bird_db: float,
    ) -> Encoded:
        """`environment` and `bird_db` (the level without what was mixed in) are for the captions."""
        wordings = captions(
            facts["species"], sound_type=facts["sound_type"], environment=environment,
            loudness_db=bird_db, count=self.data.wordings, key=(self.data.seed, key),
        )  # fmt: skip
        image = self.codec.encode(waveform, self.codec.rate_hz)
        facts = {**facts, "key": key, "loudness_db": round(loudness_db, 2), "captions": wordings}
        return Encoded(key, image, facts)

    def _facts(self, recording: Recording, clip: Clip, split: str) -> dict[str, Any]:
        species = list(species_of(clip.labels))
        kinds = {label.sound_type for label in clip.labels if label.sound_type}
        return {
            "recording_id": recording.recording_id,
            "path": relative(recording.path, Path(self.data.recordings or ".")),
            "start_s": round(clip.start_s, 6),
            "duration_s": round(self.codec.clip_s, 6),
            "rate_hz": self.codec.rate_hz,
            "species": species,
            "labels": [asdict(label) for label in clip.labels],
            "sound_type": recording.sound_type or ", ".join(sorted(kinds)),
            "environment": "",
            "snr_db": None,
            "licence": recording.licence,
            "recordist": recording.recordist,
            "environment_source": "",
            "environment_licence": "",
            "environment_recordist": "",
            "split": split,
            "codec": self.codec.fingerprint(),
            "synthetic": any(name.startswith(SYNTHETIC) for name in species),
        }


def sample_key(recording: Recording, start_s: float, data: DataConfig) -> str:
    """A name for a clip that is unique in the set, safe as a file name, and without a dot."""
    path = relative(recording.path, Path(data.recordings or "."))
    mark = hashlib.blake2b(path.encode("utf-8", "backslashreplace"), digest_size=4).hexdigest()
    name = safe_name(recording.recording_id, 40).replace(".", "_")
    return f"{name}-{mark}-{round(start_s * 1000):08d}"


def around_labels(recording: Recording, clip_s: float, min_overlap_s: float) -> list[Segment]:
    """Clips centred on boxes, from left to right; a box that the clip before shows already gets none."""
    latest = max(0.0, recording.duration_s - clip_s)
    chosen: list[Segment] = []
    for label in sorted(
        (x for x in recording.labels if x.start_s is not None), key=lambda x: x.start_s or 0.0
    ):
        start, end = label.start_s or 0.0, label.end_s if label.end_s is not None else label.start_s or 0.0
        if chosen:
            shown = min(end, chosen[-1].start_s + clip_s) - max(start, chosen[-1].start_s)
            if shown >= min(min_overlap_s, end - start):
                continue
        chosen.append(Segment(min(latest, max(0.0, (start + end - clip_s) / 2)), clip_s, 0.0))
    return chosen


def spread(segments: list[Segment], limit: int) -> list[Segment]:
    """At most `limit` segments (0 = all), evenly over the recording."""
    if not limit or len(segments) <= limit:
        return segments
    return [segments[i] for i in np.linspace(0, len(segments) - 1, limit).round().astype(int)]


def _parts(segments: Sequence[Segment], clip_s: float) -> Iterator[list[Segment]]:
    """Neighbouring segments that are read together: at most PART_S, or one clip where that is longer."""
    part: list[Segment] = []
    for segment in sorted(segments, key=lambda s: s.start_s):
        if part and segment.start_s + clip_s - part[0].start_s > PART_S:
            yield part
            part = []
        part.append(segment)
    if part:
        yield part
