"""One recording -> its samples. The sound is decoded once, however many clips come from it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.files import safe_name
from birdsd.randomness import generator
from birdsd.remarks import Remark
from birdsd.schema import DataConfig
from birdsd.shards.prepare.cuts import Band, Cuts, cut, parts, songs_in
from birdsd.shards.prepare.further import FurtherCuts, Stretch
from birdsd.shards.prepare.plan import Item, relative
from birdsd.shards.prepare.survey import Survey, SurveyedRecording, between_songs
from birdsd.sound.audio.levels import SILENCE_DBFS
from birdsd.sound.audio.recordings import RecordingError, read
from birdsd.sound.captions import captions, environment_phrase
from birdsd.sound.codec.protocol import Codec
from birdsd.sound.labels.annotation import (
    LIMIT,
    NOT_SHOWN,
    SILENT,
    UNKNOWN_BIRD,
    Label,
    Recording,
    overlaps,
    shown_labels,
    species_of,
)
from birdsd.sound.mixing import EnvironmentPool, Mixture, mix_at_snr
from birdsd.sound.separation.clean import OFF, Cleaner, cleaner_of
from birdsd.sound.separation.grid import Grid
from birdsd.sound.separation.sample import sample_of
from birdsd.sound.song_finder import Segment, find_songs

# A recording is held in memory in parts of at most this length, so that a night costs no more than a song.
PART_S = 120.0
_AROUND_SONG_S = 4.0  # beside the songs of a long recording, to know where they begin and end
_LOUDEST = 0.99  # of full scale, for a cut that is turned up
_AUDIBLE_S = 0.02  # a clip with more than this of a bird in it is not one without birds
SYNTHETIC = "Synthetic"  # every species of the synthetic aviary begins with this word


@dataclass(frozen=True)
class PreparedClip:
    """A stretch of a recording: its sound, float32 [channels, samples] at the codec's rate, and labels.

    `rows`: which of the recording's labels they are. `unknown`: names that stand there for birds that nobody
    identified.
    """

    start_s: float
    waveform: np.ndarray
    labels: tuple[Label, ...]
    rows: tuple[int, ...] = ()
    unknown: tuple[str, ...] = ()
    partly: tuple[str, ...] = ()  # birds of which it holds less than a label takes, where it has no label
    channel: int | None = None
    song: int = 0  # its number in the recording, from 1; 0 where songs are not cut more than once
    cut: int = 1  # 1: the song's first
    gain_db: float = 0.0  # that it was turned up by
    cleaned: dict[str, Any] | None = None  # what was done about its noise


@dataclass(frozen=True)
class Encoded:
    """A finished sample: uint8 [C, H, W], and what is known about it.

    `image` is None for a clip that was skipped: why is in `skipped`, and in short in `code`. `rows`: which of
    the recording's labels are in it.
    """

    key: str
    image: np.ndarray | None
    metadata: dict[str, Any]
    skipped: str = ""
    code: str = ""
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class SampleMaker:
    """Makes the samples of recordings; one in each process. `pool` is None where nothing is mixed in, and
    `survey` where a sample depends on its own recording alone."""

    codec: Codec
    data: DataConfig
    pool: EnvironmentPool | None = None
    survey: Survey | None = None

    _cleaners: dict[tuple[str, int | None], Cleaner] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        _place_of.cache_clear()  # what another set's recordings were, links and all

    @cached_property
    def _codec_fingerprint(self) -> str:
        return self.codec.fingerprint()

    def samples(self, item: Item, split: str) -> Iterator[Encoded]:
        """The samples of some segments of a recording; `RecordingError` when it cannot be read."""
        recording = item.recording
        whole = self._read(recording, 0.0, None) if recording.duration_s <= PART_S else None
        cuts = self.cuts(recording, whole)
        if cuts.beyond_limit and not item.first:
            yield Encoded("", None, {}, code=LIMIT, rows=tuple(sorted(cuts.beyond_limit)))
        if not cuts.segments:
            unsure = recording.unknown and not recording.labels
            if unsure and not recording.silences:
                yield Encoded("", None, {}, "its birds are unidentified", UNKNOWN_BIRD)
            elif recording.silences and not recording.labels:
                reason = "its boxes without birds are shorter than a clip"
                yield Encoded("", None, {}, reason, NOT_SHOWN)
            else:
                yield Encoded("", None, {}, "nothing is to be heard in it", SILENT)
        for clip in self._clips(recording, cuts, whole, slice(item.first, item.last)):
            yield from self._encode(recording, clip, split)

    def clips(self, recording: Recording) -> Iterator[PreparedClip]:
        """The clips that a recording is cut into, as sound: without those of which nobody knows what they
        hold, and those in which nothing is to be heard. `RecordingError` when it cannot be read."""
        whole = self._read(recording, 0.0, None) if recording.duration_s <= PART_S else None
        for clip in self._clips(recording, self.cuts(recording, whole), whole):
            doubtful = _doubtful(recording, clip.labels, clip.unknown, clip.partly)
            if not doubtful and self.codec.level_db(clip.waveform) >= SILENCE_DBFS:
                yield clip

    def survey_of(self, recording: Recording, split: str, group: str) -> SurveyedRecording:
        """What the survey of a set keeps of a recording; `RecordingError` when it cannot be read."""
        whole = self._read(recording, 0.0, None) if recording.duration_s <= PART_S else None
        levels = []
        once = replace(self, data=replace(self.data, cuts_per_song=1, cut_gain_db=0.0))
        for clip in once._clips(recording, once.cuts(recording, whole), whole):
            level = self.codec.level_db(clip.waveform)
            if level >= SILENCE_DBFS and not _doubtful(recording, clip.labels, clip.unknown, clip.partly):
                levels.append((species_of(clip.labels), round(level, 4)))
        quiet: list[tuple[float, float]] = []
        # Where nobody sings, or the surroundings have a name, a caption that does not say so would be untrue.
        if self.data.background_mixtures and recording.labels and not recording.environment:
            for begin_s in np.arange(0.0, max(recording.duration_s, 0.01), PART_S).tolist():
                sound = self._read(recording, begin_s, PART_S) if whole is None else whole
                quiet += between_songs(recording, Stretch(sound, begin_s, self.codec.rate_hz), self.codec)
        return SurveyedRecording(
            str(recording.path), recording.recording_id, group, split, recording.licence,
            recording.recordist, tuple(quiet), tuple(levels),
        )  # fmt: skip

    def cuts(self, recording: Recording, whole: np.ndarray | None = None) -> Cuts:
        """Where the recording is cut; `whole` is its sound where it is in memory."""
        clip_s, rate_hz = self.codec.clip_s, self.codec.rate_hz

        def listen(start_s: float, end_s: float, most: int, channel: int | None, band: Band) -> list[Segment]:
            if whole is not None and channel is None:
                sound = whole[:, round(start_s * rate_hz) : round(end_s * rate_hz)]
                return songs_in(sound, start_s, rate_hz, clip_s, most, band)
            if channel is None and start_s == 0.0 and end_s == recording.duration_s:
                return find_songs(recording.path, clip_s, most)
            found: list[Segment] = []
            for begin_s in np.arange(start_s, end_s, PART_S).tolist():
                length_s = min(PART_S, end_s - begin_s)
                sound = self._read(recording, begin_s, length_s, channel)
                found += songs_in(sound, begin_s, rate_hz, min(clip_s, length_s), most, band)
            return sorted(sorted(found, key=lambda s: -s.score)[:most], key=lambda s: s.start_s)

        return cut(recording, clip_s, self.data, listen)

    def _read(
        self, recording: Recording, start_s: float, duration_s: float | None, channel: int | None = None
    ) -> np.ndarray:
        codec = self.codec
        return read(
            recording.path,
            codec.rate_hz,
            start_s=start_s,
            duration_s=duration_s,
            channels=codec.channels,
            channel=channel,
        )

    def _clips(
        self, recording: Recording, cuts: Cuts, whole: np.ndarray | None, which: slice = slice(None)
    ) -> Iterator[PreparedClip]:
        codec = self.codec
        numbers = {segment: number for number, segment in enumerate(cuts.segments, 1)}
        followers = list(enumerate(cuts.followers, 1 + len(numbers)))
        many = self.data.cuts_per_song > 1
        further = FurtherCuts(
            recording, cuts.segments, codec.clip_s, self.data,
            lambda start_s, channel: not _doubtful(recording, *self._shown(recording, start_s, channel)[1:]),
        )  # fmt: skip
        for part in parts(cuts.segments[which], codec.clip_s, PART_S):
            channel = part[0].channel
            sound, begin = whole, 0.0
            if sound is None or channel is not None:
                # What is around a song says where it begins and ends.
                around_s = _AROUND_SONG_S + codec.clip_s if many else 0.0
                begin = max(0.0, part[0].start_s - around_s)
                sound = self._read(
                    recording, begin, part[-1].start_s + codec.clip_s + around_s - begin, channel
                )
            stretch = Stretch(sound, begin, codec.rate_hz)
            for segment in part:
                number = numbers[segment]
                yield self._clip(recording, segment, segment.start_s, stretch, number, 1)
                songs = [(number, segment), *(follower for follower in followers if follower[1] == segment)]
                for number, song in songs if many else ():
                    for cut_number, start_s in enumerate(further.of(song, number, stretch), 2):
                        yield self._clip(recording, segment, start_s, stretch, number, cut_number)

    def _clip(
        self, recording: Recording, segment: Segment, start_s: float, stretch: Stretch, song: int, cut: int
    ) -> PreparedClip:
        first = round((start_s - stretch.begin_s) * self.codec.rate_hz)
        waveform = stretch.sound[:, first : first + self.codec.samples_per_clip]
        rows, labels, unknown, partly = self._shown(recording, start_s, segment.channel)
        cleaned = None
        if self.data.clean != OFF:
            waveform, cleaned = self._cleaner(recording, segment.channel).clean(waveform)
        clip = PreparedClip(
            start_s, waveform, labels, rows, unknown, partly, segment.channel, song, cut, cleaned=cleaned
        )
        gain_db = self._gain_db(recording, clip) if cut > 1 else 0.0
        if gain_db:
            waveform = (waveform * np.float32(10 ** (gain_db / 20))).astype(np.float32)
        return replace(clip, waveform=waveform, gain_db=gain_db)

    def _cleaner(self, recording: Recording, channel: int | None) -> Cleaner:
        """What takes the recording's own noise down, kept for all of its clips: it depends on the whole
        recording, so that its clips are the same in whichever part of it they are made."""
        key = str(recording.path), channel
        if key not in self._cleaners:
            self._cleaners.clear()
            sample = sample_of(recording.path, Grid.of(self.codec.rate_hz), channel=channel)
            data = self.data
            self._cleaners[key] = cleaner_of(sample, data.clean, data.clean_db, data.seed)
        return self._cleaners[key]

    def _gain_db(self, recording: Recording, clip: PreparedClip) -> float:
        """Within data.cut_gain_db and what the species' recordings show; a cut outside of that goes no
        further away from it. Nothing is turned up beyond full scale."""
        most_db = self.data.cut_gain_db
        levels = self.survey.loudness(species_of(clip.labels)) if most_db and self.survey else None
        peak = float(np.abs(clip.waveform).max(initial=0.0))
        if levels is None or peak == 0.0:
            return 0.0
        level = self.codec.level_db(clip.waveform)
        low = min(0.0, max(-most_db, levels[0] - level))
        high = max(0.0, min(most_db, levels[1] - level, 20 * math.log10(_LOUDEST / peak)))
        draw = generator(self.data.seed, "gain", recording.recording_id, clip.song, clip.cut)
        return math.trunc(10000 * draw.uniform(low, high)) / 10000  # what is written down is what was done

    def _shown(
        self, recording: Recording, start_s: float, channel: int | None
    ) -> tuple[tuple[int, ...], tuple[Label, ...], tuple[str, ...], tuple[str, ...]]:
        """What a clip shows: rows of labels, the labels, names of unidentified birds, and, where it has no
        label, of birds of which it has too little."""
        clip_s = self.codec.clip_s
        shown = [
            (row, label)
            for row, label in shown_labels(recording, start_s, clip_s, self.data.min_label_overlap_s)
            if channel is None or label.channel in (None, channel)
        ]
        unknown = [
            label.label
            for label in recording.unknown
            # Of a whole file that two birds are in, one of them not identified, the other is named.
            if not (recording.weak and label.start_s is None and shown)
            and overlaps(label, start_s, clip_s, _AUDIBLE_S)
        ]
        partly = [
            label.label
            for label in recording.labels
            if not shown and overlaps(label, start_s, clip_s, _AUDIBLE_S)
        ]
        rows = tuple(row for row, _ in shown)
        return rows, tuple(label for _, label in shown), tuple(unknown), tuple(partly)

    def _encode(self, recording: Recording, clip: PreparedClip, split: str) -> Iterator[Encoded]:
        key = sample_key(recording, clip.start_s, self.data, clip.channel)
        key += f"-cut{clip.cut}" if clip.cut > 1 else ""
        facts = self._facts(recording, clip, split)
        where = f"the clip at {clip.start_s:.2f} s"
        if clip.unknown and (recording.weak or not clip.labels):
            text = f"{where} may hold an unidentified bird ('{clip.unknown[0]}')"
            yield Encoded(key, None, facts, Remark(text, "may-hold-a-bird"), UNKNOWN_BIRD)
            return
        if clip.partly and not clip.labels:
            # Neither a clip of that bird nor one without birds.
            yield Encoded(
                key, None, facts, Remark(f"{where} has only the edge of '{clip.partly[0]}'", "edge-of-a-bird")
            )
            return
        level = self.codec.level_db(clip.waveform)
        if level < SILENCE_DBFS:
            yield Encoded(key, None, facts, Remark(f"{where} is silent", "silent-clip"), SILENT, clip.rows)
            return
        facts["environment"] = recording.environment
        if self.data.keep_clean:
            sample = self._sample(key, clip.waveform, facts, recording.environment, level, level)
            yield replace(sample, rows=clip.rows)
        names = [f"{key}-mix{number}" for number in range(self.data.mixtures_per_clip if self.pool else 0)]
        between = self.data.background_mixtures if self.survey else 0
        names += [f"{key}-bg{number}" for number in range(between)]
        for number, name in enumerate(names):
            make = self._mixture if number < len(names) - between else self._over_background
            try:
                mixture = make(name, clip, facts, level)
            except RecordingError as error:  # damage inside another file: the bird is not to blame
                yield Encoded(key, None, facts, Remark(f"{where} was not mixed: {error}", "not-mixed"))
                continue
            if mixture is not None:
                yield replace(mixture, rows=clip.rows)

    def _mixed(self, clip: PreparedClip, background: np.ndarray, snr_db: float) -> Mixture:
        codec = self.codec
        foreground = np.zeros((codec.channels, codec.samples_per_clip), np.float32)
        foreground[:, : clip.waveform.shape[1]] = clip.waveform
        return mix_at_snr(
            foreground, background[:, : codec.samples_per_clip], snr_db, codec.rate_hz, codec.band_hz
        )

    def _over_background(
        self, key: str, clip: PreparedClip, facts: dict[str, Any], level: float
    ) -> Encoded | None:
        """The clip with what lies between the songs of another recording; None where none has anything."""
        assert self.survey is not None
        draw = generator(self.data.seed, "background", key)
        snr_db = float(draw.uniform(self.data.snr_db_low, self.data.snr_db_high))
        between = self.survey.draw(draw, facts["split"], facts["recording_id"], self.codec)
        if between is None:
            return None
        mixture, gain = self._mixed(clip, between.waveform, snr_db)
        source = between.source
        facts = {
            **facts,
            "snr_db": round(snr_db, 2),
            "mixture_gain": round(gain, 6),
            "background_id": source.recording_id,
            "background_path": relative(Path(source.path), Path(self.data.recordings or ".")),
            "background_start_s": round(between.start_s, 6),
            "background_licence": source.licence,
            "background_recordist": source.recordist,
        }
        bird_db = level + 20 * math.log10(gain)
        loudness_db = self.codec.level_db(mixture)
        return self._sample(key, mixture, facts, facts["environment"], loudness_db, bird_db)

    def _mixture(self, key: str, clip: PreparedClip, facts: dict[str, Any], level: float) -> Encoded:
        assert self.pool is not None
        draw = generator(self.data.seed, "mixture", key)
        snr_db = float(draw.uniform(self.data.snr_db_low, self.data.snr_db_high))
        codec = self.codec
        background = self.pool.draw(draw, codec.clip_s, codec.rate_hz, codec.channels)
        mixture, gain = self._mixed(clip, background.waveform, snr_db)
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
        return self._sample(key, mixture, facts, worded, codec.level_db(mixture), bird_db)

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

    def _facts(self, recording: Recording, clip: PreparedClip, split: str) -> dict[str, Any]:
        species = list(species_of(clip.labels))
        more: dict[str, Any] = {"unidentified": list(clip.unknown)} if clip.unknown else {}
        if self.data.cuts_per_song > 1 or self.data.background_mixtures:
            more |= {"song": clip.song, "cut": clip.cut}
        if self.data.cut_gain_db:
            more["cut_gain_db"] = clip.gain_db
        if clip.cleaned is not None:
            more["cleaned"] = clip.cleaned
        kinds = {label.sound_type for label in clip.labels if label.sound_type}
        return {
            "recording_id": recording.recording_id,
            "path": _place_of(recording.path, self.data.recordings),
            "start_s": round(clip.start_s, 6),
            "duration_s": round(self.codec.clip_s, 6),
            "rate_hz": self.codec.rate_hz,
            "species": species,
            "labels": [dict(vars(label)) for label in clip.labels],  # no more than numbers and words
            **more,
            "sound_type": recording.sound_type or ", ".join(sorted(kinds)),
            "environment": "",
            "snr_db": None,
            "licence": recording.licence,
            "recordist": recording.recordist,
            "environment_source": "",
            "environment_licence": "",
            "environment_recordist": "",
            "split": split,
            "codec": self._codec_fingerprint,
            "synthetic": any(name.startswith(SYNTHETIC) for name in species),
        }


def _doubtful(
    recording: Recording, labels: Sequence[Label], unknown: Sequence[str], partly: Sequence[str]
) -> bool:
    """Whether a clip that shows this cannot be captioned: which birds are in it, nobody knows."""
    return bool((unknown and (recording.weak or not labels)) or (partly and not labels))


@lru_cache(maxsize=64)
def _place_of(path: Path, root: str | None) -> str:
    """`relative`, which asks the file system of each folder above, once for all clips of a recording."""
    return relative(path, Path(root or "."))


def sample_key(recording: Recording, start_s: float, data: DataConfig, channel: int | None = None) -> str:
    """A name for a clip that is unique in the set, safe as a file name, and without a dot."""
    path = _place_of(recording.path, data.recordings)
    mark = hashlib.blake2b(path.encode("utf-8", "backslashreplace"), digest_size=4).hexdigest()
    name = safe_name(recording.recording_id, 40).replace(".", "_")
    side = f"-ch{channel}" if channel is not None and recording.channels > 1 else ""
    return f"{name}-{mark}-{round(start_s * 1000):08d}{side}"
