"""Events at their places: each varied as asked, put where its onset is measured, and as loud as asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from birdsd.scenes.backgrounds.render import Layer
from birdsd.scenes.backgrounds.spool import Piece, SeenPiece, Spool, WidePiece
from birdsd.scenes.bank.clip import EventClip, Wanted
from birdsd.scenes.compose.mixdown import total
from birdsd.scenes.compose.record import CameOut
from birdsd.scenes.heard.boundaries import Measured, measure
from birdsd.scenes.heard.in_mix import NOBODY
from birdsd.scenes.heard.ratio import MARGIN_S, Ratio, Strength, around, ratio, strength
from birdsd.scenes.heard.varied import varied
from birdsd.scenes.loudness import EVENT_DB
from birdsd.scenes.placed import PlacedEvent
from birdsd.scenes.space.stage import Heard, Space

QUIETEST_DB = -80.0  # active level: under a background that is silent in its band, an SNR would make an event
# inaudible, and no file of 16 bits would hold it


class Songs(Protocol):
    """Where songs come from: a bank, or a model that makes them."""

    def clips(self, wanted: list[Wanted]) -> dict[str, EventClip]:
        """A song for each, by its key; those that did not come out too."""

    def further(self, wanted: Wanted, clip: EventClip, most: int) -> Wanted | None:
        """What to ask for next, where `clip` is not heard in the mix; None after `most` songs, or all."""

    def shortest_s(self) -> float:
        """About how short a song may be."""


@dataclass(frozen=True)
class Song:
    """A song as it will sound, but for its loudness: in the spool, with where it lies measured there. One
    that comes from somewhere is measured on what its receivers hear together."""

    clip: EventClip
    piece: Piece | SeenPiece
    measured: Measured
    strength: Strength
    heard: Heard | None = None

    @property
    def duration_s(self) -> float:
        return self.measured.duration_s


def wanted_of(event: PlacedEvent, refused: int = 0) -> Wanted:
    """What a placed event asks of a bank or a model, after so many songs that were not heard in the mix."""
    return Wanted(
        event.key, event.species, event.sound_type, event.prompt, event.voice_seed, event.take, refused
    )


def song_of(event: PlacedEvent, clip: EventClip, rate_hz: int, spool: Spool) -> Song | None:
    """A clip at the scene's rate, varied as the event asks; None where nothing of it is left."""
    if not clip.came_out:
        return None
    samples = clip.samples
    if clip.rate_hz != rate_hz:
        import soxr

        samples = soxr.resample(samples, clip.rate_hz, rate_hz, quality="HQ")
    samples = varied(samples, rate_hz, event.pitch_semitones, event.rate)
    untouched = clip.rate_hz == rate_hz and event.pitch_semitones == 0 and event.rate == 1
    found = clip.measured if untouched else measure(samples, rate_hz)
    if found is None:
        return None
    strong = clip.strength if untouched else None
    if strong is None:
        strong = strength(samples, found, rate_hz)
    return Song(replace(clip, samples=np.zeros(0, np.float32)), spool.add([samples]), found, strong)


def spaced(
    event: PlacedEvent, song: Song, space: Space, rate_hz: int, spool: Spool, seed: int
) -> Song | None:
    """The song from its place, as it is heard there; None where nothing of it arrives."""
    sound = song.piece.read(0, song.piece.samples)
    heard = space.heard(event, sound, song.measured, rate_hz, spool, seed)
    seen = SeenPiece(heard.wide, heard.weights)
    arrived = seen.read(0, seen.samples)
    found = measure(arrived, rate_hz)
    if found is None:
        return None
    softer_db = found.active_db - song.measured.active_db
    return replace(
        song, piece=seen, measured=found, strength=strength(arrived, found, rate_hz),
        heard=replace(heard, softer_db=softer_db),
    )  # fmt: skip


def _under(song: Song, layers: Sequence[Layer]) -> list[Layer]:
    """The backgrounds where the song is measured."""
    heard = song.heard
    if heard is None:
        return list(layers)
    return [
        replace(one, piece=SeenPiece(one.piece, heard.weights)) if isinstance(one.piece, WidePiece) else one
        for one in layers
    ]


@dataclass(frozen=True)
class EventStem:
    """A song in the scene: from sample `start` on, with its gain."""

    song: Song
    start: int
    gain: float

    @property
    def samples(self) -> int:
        return self.song.piece.samples

    @property
    def peak(self) -> float:
        sound = self.song.piece if self.song.heard is None else self.song.heard.wide
        return sound.peak * self.gain

    def read(self, first: int, count: int) -> np.ndarray:
        sound = self.song.piece if self.song.heard is None else self.song.heard.wide
        return sound.read(first - self.start, count) * np.float32(self.gain)


def place(
    event: PlacedEvent, song: Song, layers: Sequence[Layer], rate_hz: int, samples: int
) -> tuple[EventStem, CameOut, str]:
    """Put a song where its measured onset is asked for, as loud as asked: the stem, what came out, and a note
    ('' for none)."""
    start = round((event.onset_s - song.measured.onset_s) * rate_hz)
    first, last = around(song.measured, start, rate_hz, samples)
    margin = round(MARGIN_S * rate_hz)
    under = total(_under(song, layers), first - margin, last - first + 2 * margin)
    as_it_is = ratio(song.strength, song.measured, under, rate_hz, margin)
    note = ""
    if event.snr_db is None:
        change_db = (event.level_db if event.level_db is not None else EVENT_DB[""]) - song.measured.active_db
    elif not math.isfinite(as_it_is.snr_db):
        change_db = EVENT_DB[""] - song.measured.active_db
        note = f"{event.key} ({event.species}): nothing lies under it in its band, so it is as loud as usual"
    else:
        change_db = event.snr_db - as_it_is.snr_db
        quietest = QUIETEST_DB - song.measured.active_db
        if change_db < quietest:
            change_db = quietest
            note = (
                f"{event.key} ({event.species}): its band is nearly silent in the background; it is held at "
                f"{QUIETEST_DB:.0f} dBFS, {as_it_is.snr_db + quietest:.1f} dB "
                f"above it instead of {event.snr_db:g}"
            )
    # In steps of 0.0001 dB: another machine's last bit in a sum must not reach the file.
    change_db = round(change_db, 4)
    stem = EventStem(song, start, 10 ** (change_db / 20))
    return stem, _came_out(event, song, stem, as_it_is.after(change_db), rate_hz, samples), note


def _came_out(
    event: PlacedEvent, song: Song, stem: EventStem, heard: Ratio, rate_hz: int, samples: int
) -> CameOut:
    first = max(0, stem.start)
    at, found, verdict = stem.start / rate_hz, song.measured, song.clip.verdict
    return CameOut(
        event.key,
        event.event,
        event.species,
        event.sound_type or song.clip.sound_type,
        round(at + found.onset_s, 6),
        round(at + found.offset_s, 6),
        round(found.low_hz, 2),
        round(found.high_hz, 2),
        _finite(heard.snr_db),
        event.snr_db,
        _finite(heard.broadband_db),
        round(found.active_db + 20 * math.log10(stem.gain), 3),
        round(heard.audible, 4),
        verdict.judge,
        verdict.confirmed,
        verdict.score,
        verdict.named,
        song.clip.id,
        song.clip.origin.kind,
        song.clip.origin.tries,
        event.individual,
        event.take,
        first,
        min(stem.start + stem.samples, samples) - first,
        mix_judge=NOBODY,
    )


def louder(event: CameOut, gain_db: float) -> CameOut:
    """After a gain on everything: ratios stay."""
    return replace(event, level_db=round(event.level_db + gain_db, 3)) if gain_db else event


def _finite(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None
