"""What a set's recordings hold beside their songs: how loud each species is recorded, and what is to be heard
between songs.

Both need all recordings before the first sample is made. They are listened to once, by whichever task comes
first, and what was found is kept in the folder of the shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.errors import UserError
from birdsd.files import read_json
from birdsd.remarks import Remark
from birdsd.schema import DataConfig
from birdsd.shards.prepare.further import Stretch
from birdsd.sound.audio.levels import active_level_db, in_band, level_db, sounding
from birdsd.sound.audio.recordings import read
from birdsd.sound.codec.protocol import Codec
from birdsd.sound.labels.annotation import Problem, Recording
from birdsd.sound.mixing import looped

SURVEY_FILE = ".survey.json"
_LEAST_S, _LEAST_OF_A_CLIP = 0.5, 0.5  # of a stretch without a song: less would be heard to repeat
_BELOW_SONG_DB = 10.0  # what lies between songs is softer than the songs by this, or it may be one
_FAINTEST_DBFS = -80.0  # what is softer is an encoder's and converter's noise, once it is turned up


@dataclass(frozen=True)
class SurveyedRecording:
    """A recording: stretches without a song, in seconds, and the species of its clips with their levels.

    `group`: the same for recordings that may be one (see `birdsd.sound.identity`).
    """

    path: str
    recording_id: str
    group: str
    split: str
    licence: str = ""
    recordist: str = ""
    quiet: tuple[tuple[float, float], ...] = ()
    levels: tuple[tuple[tuple[str, ...], float], ...] = ()


@dataclass(frozen=True)
class BackgroundPiece:
    """A piece from between the songs of a recording, float32 [channels, samples] from `start_s` on."""

    waveform: np.ndarray
    source: SurveyedRecording
    start_s: float


def wants_survey(data: DataConfig) -> bool:
    """Whether the samples depend on more than their own recording."""
    return bool(data.cut_gain_db or data.background_mixtures)


def least_background_s(clip_s: float) -> float:
    """How long a stretch without a song must be to serve as a background; it is repeated to fill a clip."""
    return max(_LEAST_S, _LEAST_OF_A_CLIP * clip_s)


class Survey:
    """What was heard in the recordings of a set."""

    def __init__(self, recordings: Iterable[SurveyedRecording]) -> None:
        self.recordings = sorted(recordings, key=lambda recording: (recording.recording_id, recording.path))
        self._group_of = {recording.recording_id: recording.group for recording in self.recordings}

    @cached_property
    def _loudness(self) -> dict[str, tuple[float, float]]:
        """{species, or '' for no bird: (lowest, highest level in dBFS)} of the training clips."""
        levels_of: dict[str, list[float]] = {}
        for recording in self.recordings:
            for species, level in recording.levels if recording.split == "train" else ():
                for name in species or ("",):
                    levels_of.setdefault(name, []).append(level)
        return {name: (min(levels), max(levels)) for name, levels in levels_of.items()}

    def loudness(self, species: Sequence[str]) -> tuple[float, float] | None:
        """Levels in dBFS between which the training recordings of all these species lie; None: unknown."""
        ranges = [self._loudness.get(name) for name in species or ("",)]
        known = [limits for limits in ranges if limits is not None]
        if len(known) < len(ranges):
            return None
        low, high = max(low for low, _ in known), min(high for _, high in known)
        return (low, high) if low <= high else None

    def backgrounds(self, split: str, recording_id: str) -> list[SurveyedRecording]:
        """Other recordings of a split that have a stretch without a song."""
        group = self._group_of.get(recording_id, recording_id)
        return [
            recording
            for recording in self.recordings
            if recording.split == split
            and recording.quiet
            and recording.recording_id != recording_id
            and recording.group != group
        ]

    def draw(
        self, draw: np.random.Generator, split: str, recording_id: str, codec: Codec
    ) -> BackgroundPiece | None:
        """A clip's length from between songs: a recording, uniformly, then a place in it; None: nowhere.

        A shorter stretch is repeated with a cross-fade. Raises `RecordingError` for a file damaged inside.
        """
        there = self.backgrounds(split, recording_id)
        if not there:
            return None
        source = there[int(draw.integers(len(there)))]
        lengths = np.array([end_s - start_s for start_s, end_s in source.quiet])
        start_s, end_s = source.quiet[int(draw.choice(len(lengths), p=lengths / lengths.sum()))]
        start_s += float(draw.uniform(0.0, max(0.0, end_s - start_s - codec.clip_s)))
        length_s = min(end_s - start_s, codec.clip_s + 0.01)
        piece = read(
            Path(source.path), codec.rate_hz, start_s=start_s, duration_s=length_s, channels=codec.channels
        )
        return BackgroundPiece(looped(piece, codec.samples_per_clip, codec.rate_hz), source, start_s)

    def problems(self, data: DataConfig, clip_s: float) -> list[Problem]:
        """What to say of recordings to which no background can be mixed."""
        if not data.background_mixtures:
            return []
        lacking: dict[str, int] = {}
        for recording in self.recordings:
            if not self.backgrounds(recording.split, recording.recording_id):
                lacking[recording.split] = lacking.get(recording.split, 0) + 1
        return [
            Problem(
                Path(data.recordings or "."),
                Remark(
                    f"data.background_mixtures: no mixture was made for {count} "
                    f"recording{'s' * (count > 1)} of the {split} split, since no other recording there has "
                    f"{least_background_s(clip_s):.2g} s between songs",
                    "no-background",
                    split=split,
                    recordings=count,
                ),
            )
            for split, count in lacking.items()
        ]

    def to_json(self, plan: str) -> dict[str, Any]:
        return {"plan": plan, "recordings": [asdict(recording) for recording in self.recordings]}


def between_songs(recording: Recording, stretch: Stretch, codec: Codec) -> list[tuple[float, float]]:
    """Where in a part of a recording no song is found and no box lies, and something else sounds; seconds."""
    least_s = least_background_s(codec.clip_s)
    in_the_band = in_band(stretch.sound, codec.rate_hz, *codec.band_hz)
    song_db = active_level_db(in_the_band)
    found = []
    for quiet_start_s, quiet_end_s in stretch.quiet(least_s):
        for start_s, end_s in _without_boxes(recording, quiet_start_s, quiet_end_s):
            if end_s - start_s < least_s:
                continue
            first, last = (round((at_s - stretch.begin_s) * codec.rate_hz) for at_s in (start_s, end_s))
            piece = in_the_band[:, first:last]
            # Of a bird that never pauses nothing stands out: what is not much softer may be its song.
            softer = _FAINTEST_DBFS <= level_db(piece) <= song_db - _BELOW_SONG_DB
            if softer and sounding(piece).all():
                found.append((round(start_s, 6), round(end_s, 6)))
    return found


def _without_boxes(recording: Recording, start_s: float, end_s: float) -> Iterator[tuple[float, float]]:
    """What remains of a stretch beside the boxes of birds, known or not."""
    if any(label.start_s is None for label in recording.unknown):
        return
    boxes = sorted(
        (label.start_s, label.end_s)
        for label in (*recording.labels, *recording.unknown)
        if label.start_s is not None and label.end_s is not None
    )
    for box_start_s, box_end_s in boxes:
        if box_end_s > start_s and box_start_s < end_s:
            if box_start_s > start_s:
                yield start_s, box_start_s
            start_s = box_end_s
    if start_s < end_s:
        yield start_s, end_s


def load_survey(folder: Path, plan: str) -> Survey | None:
    """The survey that was made for a plan; None where there is none, or that of another one."""
    try:
        stored = read_json(folder / SURVEY_FILE)
    except UserError:
        return None
    if not isinstance(stored, dict) or stored.get("plan") != plan:
        return None
    return Survey(
        SurveyedRecording(
            **{
                **facts,
                "quiet": tuple((start_s, end_s) for start_s, end_s in facts["quiet"]),
                "levels": tuple((tuple(species), level) for species, level in facts["levels"]),
            }
        )
        for facts in stored["recordings"]
    )
