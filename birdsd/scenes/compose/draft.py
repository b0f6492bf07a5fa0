"""A scene sung, placed and listened to before it is written; songs that are not heard in it are swapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from birdsd.errors import UserError
from birdsd.scenes.backgrounds.looped import goes_round
from birdsd.scenes.backgrounds.render import Backgrounds, Layer
from birdsd.scenes.backgrounds.spool import Spool
from birdsd.scenes.bank.clip import EventClip
from birdsd.scenes.checks import checked
from birdsd.scenes.compose.around import folded
from birdsd.scenes.compose.mixdown import Stem, fitting_gain_db, total, true_peak
from birdsd.scenes.compose.place_and_level import EventStem, Song, Songs, place, song_of, spaced, wanted_of
from birdsd.scenes.compose.record import MIX, CameOut, not_heard
from birdsd.scenes.heard.in_mix import MixEar, Span
from birdsd.scenes.placed import PlacedBackground, PlacedEvent, PlacedScene
from birdsd.scenes.scene import Scene
from birdsd.scenes.schedule import solve
from birdsd.scenes.space.stage import Space

_ROUNDS = 50  # of solving again: each round measures what the one before brought in


@dataclass
class Draft:
    """A scene as it would be written. `clips`: every song that was asked for, without its samples;
    `left_out`: why events are, by key."""

    placed: PlacedScene
    clips: dict[str, EventClip]
    songs: dict[str, Song]
    layers: list[Layer]
    stems: list[EventStem] = field(default_factory=list)
    came_out: list[CameOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    from_where: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    gain_db: float = 0.0

    @property
    def samples(self) -> int:
        return round(self.placed.duration_s * self.placed.rate_hz)

    def heard(self) -> list[Stem]:
        """Backgrounds and songs as they are mixed."""
        stems: list[Stem] = [*self.layers, *self.stems]
        return [folded(one, self.samples) for one in stems] if self.placed.loop else stems


@dataclass
class Drafting:
    """Drafts of one scene, until every label of it is heard (`confirm` is MIX), or just one. `tries`: songs
    an event at most."""

    scene: Scene
    rate_hz: int
    songs: Songs
    backgrounds: Backgrounds
    spool: Spool
    space: Space | None = None
    ear: MixEar | None = None
    confirm: str = MIX
    tries: int = 1
    _refused: dict[str, int] = field(default_factory=dict)  # songs, by the event's key
    _swapped: dict[str, int] = field(default_factory=dict)
    _left_out: dict[str, str] = field(default_factory=dict)
    _sung: dict[tuple[str, int], tuple[EventClip, Song | None]] = field(default_factory=dict)
    _layers: dict[tuple[PlacedBackground, ...], list[Layer]] = field(default_factory=dict)
    _known: dict[str, dict[str, float]] = field(default_factory=dict)

    def settled(self) -> Draft:
        """The scene as it is to be written."""
        while True:
            draft = self._draft()
            draft.gain_db = fitting_gain_db(true_peak(draft.heard(), draft.samples))
            if self.ear is not None:
                draft.came_out = self._listened(draft, self.ear)
            unheard = [one for one in draft.came_out if one.mix_heard is False]
            if self.confirm != MIX or not unheard:
                return draft
            events = {event.key: event for event in draft.placed.events}
            for one in unheard:
                self._swap(events[one.key], draft.clips[one.key], one)

    def _swap(self, event: PlacedEvent, clip: EventClip, came_out: CameOut) -> None:
        """The next song for an event, or none: every event gets `tries` songs at most, so that this ends."""
        wanted = wanted_of(event, self._refused.get(event.key, 0))
        further = self.songs.further(wanted, clip, self.tries)
        swapped = self._swapped[event.key] = self._swapped.get(event.key, 0) + 1
        if further is None:
            self._left_out[event.key] = not_heard(came_out, swapped)
        else:
            self._refused[event.key] = further.refused

    def _draft(self) -> Draft:
        placed, songs, clips = self._sing()
        if placed.backgrounds not in self._layers:
            self._layers = {placed.backgrounds: self._rendered(placed)}
        draft = Draft(placed, clips, songs, self._layers[placed.backgrounds], left_out=dict(self._left_out))
        for event in placed.events:
            if event.key not in songs or event.key in self._left_out:
                continue
            song, asked = songs[event.key], event
            if self.space is not None and song.heard is not None:
                asked = self.space.asked(event, song.heard)
                draft.from_where[event.key] = song.heard.to_json(self.space)
            stem, came_out, note = place(asked, song, draft.layers, placed.rate_hz, draft.samples)
            draft.stems.append(stem)
            if asked is not event:
                came_out = replace(came_out, asked_snr_db=event.snr_db)
            draft.came_out.append(came_out)
            draft.notes += [note] if note else []
        draft.came_out = _individuals(draft.came_out, songs)
        return draft

    def _rendered(self, placed: PlacedScene) -> list[Layer]:
        """The backgrounds at their levels; those of a space from everywhere."""
        rate_hz, loop_s = placed.rate_hz, placed.duration_s if placed.loop else 0.0
        layers = []
        for number, told in enumerate(placed.backgrounds):
            layer = self.backgrounds.layer(told, rate_hz, self.spool, loop_s)
            if layer is not None and self.space is not None:
                seamless = bool(loop_s) and goes_round(told, loop_s)
                layer = self.space.around(layer, rate_hz, self.spool, self.scene.seed, number, seamless)
            layers += [layer] if layer is not None else []
        return layers

    def _sing(self) -> tuple[PlacedScene, dict[str, Song], dict[str, EventClip]]:
        """The scene solved with measured songs: those, and every clip that was asked for."""
        lengths: dict[str, float] = {}
        songs: dict[str, Song] = {}
        clips: dict[str, EventClip] = {}
        # Before a song is measured it counts as short: what would fit must not be left out unheard.
        solved = partial(
            solve, checked(self.scene), rate_hz=self.rate_hz, typical_s=self.songs.shortest_s(),
            overrun="leave_out", known=True,
        )  # fmt: skip
        placed = solved()
        for _ in range(_ROUNDS):
            new = [event for event in placed.events if event.key in placed.unmeasured]
            if not new:
                return placed, songs, clips
            self._make(new, placed.rate_hz)
            for event in new:
                clips[event.key], song = self._sung[event.key, self._refused.get(event.key, 0)]
                if song is not None:
                    songs[event.key] = song
                # One that did not come out keeps its place, so that the others keep theirs.
                lengths[event.key] = song.duration_s if song else event.duration_s
            placed = solved(durations=lengths)
        raise UserError(
            f"after {_ROUNDS} rounds the scene still asks for further songs",
            "its repeats do not end",
            "give them a number (repeat) instead of an end",
        )

    def _make(self, events: Sequence[PlacedEvent], rate_hz: int) -> None:
        """The songs of these events that no earlier draft had."""
        tried = {event.key: self._refused.get(event.key, 0) for event in events}
        new = [event for event in events if (event.key, tried[event.key]) not in self._sung]
        made = self.songs.clips([wanted_of(event, tried[event.key]) for event in new]) if new else {}
        for event in new:
            clip = made[event.key]
            song = song_of(event, clip, rate_hz, self.spool)
            if song is not None and self.space is not None:
                song = spaced(event, song, self.space, rate_hz, self.spool, self.scene.seed)
            # Its sound waits in the spool: memory does not grow with the number of events.
            silent = song.clip if song is not None else replace(clip, samples=np.zeros(0, np.float32))
            self._sung[event.key, tried[event.key]] = silent, song

    def _listened(self, draft: Draft, ear: MixEar) -> list[CameOut]:
        """What came out, with what the judge says of every label in the mix."""
        stems, gain = draft.heard(), 10 ** (draft.gain_db / 20)
        species = [""] * len(draft.layers) + [one.species for one in draft.came_out]
        span = Span(draft.samples, draft.placed.rate_hz, draft.placed.loop)
        known = self._known if self.confirm == MIX else None
        found = []
        for one, stem in zip(draft.came_out, draft.stems, strict=True):
            weights = None if stem.song.heard is None else stem.song.heard.weights
            others = [there for there, name in zip(stems, species, strict=True) if name != one.species]
            mix, rest = (partial(_sound, part, span, gain, weights) for part in (stems, others))
            said = ear.hears(one, draft.came_out, mix, rest, span, known)
            found.append(
                replace(
                    one, mix_judge=said.judge, mix_heard=said.heard, mix_score=said.score,
                    mix_named=said.named,
                )
            )  # fmt: skip
        return found


def _sound(
    stems: Sequence[Stem], span: Span, gain: float, weights: np.ndarray | None, first: int, count: int
) -> np.ndarray:
    """float32 [count] of the mix from sample `first` on; what lies beyond a loop's ends goes round."""
    parts = []
    at, left = first % span.samples if span.loop else first, count
    while left > 0:
        size = min(left, span.samples - at)
        parts.append(total(stems, at, size))
        at, left = 0, left - size
    sound = np.concatenate(parts) * np.float32(gain)
    if sound.ndim == 1:
        return sound
    return sound @ weights if weights is not None else sound.mean(axis=1)


def _individuals(came_out: list[CameOut], songs: dict[str, Song]) -> list[CameOut]:
    """A song that was taken from another individual of the bank is nobody's else in the scene."""
    next_one: dict[str, int] = {}
    for one in came_out:
        next_one[one.species] = max(next_one.get(one.species, 0), one.individual + 1)
    others: dict[tuple[str, int, int], int] = {}
    found = []
    for one in came_out:
        another = songs[one.key].clip.another
        if another:
            bird = (one.species, one.individual, another)
            if bird not in others:
                others[bird] = next_one[one.species]
                next_one[one.species] += 1
            one = replace(one, individual=others[bird])
        found.append(one)
    return found
