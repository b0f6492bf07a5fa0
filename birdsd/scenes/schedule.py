"""From links, counts and gaps to onsets: a scene solved for who sounds when.

Every draw is keyed by (the scene's seed, the event, its voice, its take, what is drawn), so that neither
another event nor a
clip that turned out longer moves it: solving again with measured durations shifts onsets, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise

from birdsd.errors import BadValue, Mismatch, clipped
from birdsd.randomness import generator
from birdsd.scenes.checks import LONGEST_S, MOST_EVENTS, check_duration, checked, remarks
from birdsd.scenes.joins import place_backgrounds
from birdsd.scenes.placed import PlacedBackground, PlacedEvent, PlacedScene
from birdsd.scenes.scene import GAP_S, TAIL_S, TO_THE_END, TOGETHER_S, Event, Scene, Span
from birdsd.sound.captions import captions, prompt_for

TYPICAL_S = 2.0  # an event whose clip nobody has measured
RATE_HZ = 24_000  # where neither the scene nor a codec says
SLACK_S = 0.25  # a repeated song may end so long after its time is over
_VOICES_APART = 0.8  # further individuals begin within this share of the first one's song


@dataclass
class _Solver:
    scene: Scene
    durations: Mapping[str, float]
    typical_s: float
    starts: dict[str, float] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)
    songs: dict[str, list[PlacedEvent]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.events = {event.id: event for event in self.scene.events}

    def draw(self, span: Span, *key: int | str) -> float:
        if span[0] == span[1]:
            return float(span[0])
        return _drawn(self.scene.seed, *span, key)

    def song(self, event: Event, voice: int, take: int, onset_s: float) -> PlacedEvent:
        """One song, its length as measured, else as asked for, else typical."""
        key = event.id + (f".v{voice}" if voice else "") + (f".t{take}" if take else "")
        draws = (event.id, voice, take)
        asked = self.typical_s if event.duration_s is None else event.duration_s
        identity = (event.species, event.sound_type, event.individual + voice)
        return PlacedEvent(
            key, event.id, event.species, event.sound_type, event.prompt or prompt_of(event),
            onset_s, float(self.durations.get(key, asked)), key in self.durations,
            event.snr_db, event.level_db,
            pitch_semitones=self.draw(event.pitch_semitones, *draws, "pitch"),
            rate=self.draw(event.rate, *draws, "rate"),
            distance_m=event.distance_m, bearing_deg=event.bearing_deg,
            bearing_end_deg=event.bearing_end_deg, elevation_deg=event.elevation_deg,
            individual=event.individual + voice, take=take,
            voice_seed=_voice_seed(self.scene.seed, identity),
        )  # fmt: skip

    def start(self, event: Event) -> float:
        """The onset of the first song. Its links' starts (and ends) are known already."""
        if event.onset_s is not None:
            return event.onset_s
        if event.together:
            offset = self.draw(event.gap_s or TOGETHER_S, event.id, "gap")
            partner = self.events[event.together]
            # "Together" holds only while the other one is still to be heard.
            first = self.song(partner, 0, 0, 0.0).duration_s
            return self.starts[event.together] + min(offset, 0.8 * first)
        return max(self.ends[one] for one in event.after) + self.draw(event.gap_s or GAP_S, event.id, "gap")

    def sing(self, event: Event) -> None:
        """All songs of an event, once its start and the end of what it lasts until are known."""
        until = self._until(event)
        songs: list[PlacedEvent] = []
        for voice in range(event.count):
            onset = self.starts[event.id]
            if voice:
                first = self.song(event, 0, 0, 0.0).duration_s
                onset += self.draw((0.0, _VOICES_APART * first), event.id, voice, "offset")
            songs += (
                self._repeated(event, voice, onset)
                if until is None
                else self._filled(event, voice, onset, until)
            )
        heard = [song for song in songs if song.duration_s > 0]
        self.songs[event.id] = songs
        self.ends[event.id] = max((song.end_s for song in heard), default=self.starts[event.id])

    def _until(self, event: Event) -> float | None:
        if event.lasting_s is not None:
            return self.starts[event.id] + event.lasting_s
        if event.until_s is not None:
            return event.until_s
        if event.until == TO_THE_END:
            return (
                self.scene.duration_s
                if self.scene.duration_s is not None
                else max(
                    (end for name, end in self.ends.items() if name != event.id),
                    default=self.starts[event.id],
                )
            )
        return self.ends[event.until] if event.until else None

    def _repeated(self, event: Event, voice: int, onset_s: float) -> list[PlacedEvent]:
        songs = []
        for take in range(event.repeat):
            song = self.song(event, voice, take, onset_s)
            songs.append(song)
            if event.every_s is not None:
                _check_every(event, song)
                onset_s += event.every_s
            else:
                onset_s = song.end_s + self.draw(event.repeat_gap_s, event.id, voice, take, "pause")
        return songs

    def _filled(self, event: Event, voice: int, onset_s: float, until_s: float) -> list[PlacedEvent]:
        """As many whole songs as end within `SLACK_S` of `until_s`; what is left over lengthens the
        pauses."""
        songs = [self.song(event, voice, 0, onset_s)]
        latest = until_s + SLACK_S
        if self.scene.duration_s is not None and not self.scene.loop:
            latest = min(latest, self.scene.duration_s)
        while len(songs) < MOST_EVENTS:
            last, take = songs[-1], len(songs)
            pause = self.draw(event.repeat_gap_s, event.id, voice, take - 1, "pause")
            at = last.onset_s + event.every_s if event.every_s is not None else last.end_s + pause
            _check_every(event, last)
            following = self.song(event, voice, take, at)
            if following.end_s > latest or at <= last.onset_s:
                break
            songs.append(following)
        if event.every_s is not None or len(songs) == 1:
            return songs
        # What is left lengthens the pauses, each by its share of what it lacks to the longest one.
        left = max(0.0, min(until_s, latest) - songs[-1].end_s)
        lacks = [event.repeat_gap_s[1] - (later.onset_s - song.end_s) for song, later in pairwise(songs)]
        share = min(1.0, left / sum(lacks)) if sum(lacks) > 0 else 0.0
        moved, shift = songs[:1], 0.0
        for song, lack in zip(songs[1:], lacks, strict=True):
            shift += share * lack
            moved.append(replace(song, onset_s=song.onset_s + shift))
        return moved


@lru_cache(maxsize=4096)  # a scene is solved at least twice, with the same draws
def _drawn(seed: int, least: float, most: float, key: tuple[int | str, ...]) -> float:
    return float(generator(seed, "scene", *key).uniform(least, most))


@lru_cache(maxsize=4096)
def _voice_seed(seed: int, identity: tuple[int | str, ...]) -> int:
    return int(generator(seed, "voice", *identity).integers(2**31))


def prompt_of(event: Event) -> str:
    """What the model is asked for: species and type in the words of its captions, and no place."""
    if not event.sound_type:
        return prompt_for(event.species)
    return captions([event.species], sound_type=event.sound_type, count=2)[-1]


def solve(
    scene: Scene,
    *,
    rate_hz: int | None = None,
    durations: Mapping[str, float] | None = None,
    typical_s: float = TYPICAL_S,
    overrun: str = "refuse",
    known: bool = False,
) -> PlacedScene:
    """Onsets in seconds for every song of a scene; a pure function.

    `durations`: key of a song -> its measured length in seconds; 0 for one that did not come out, which is
    left out. `rate_hz`: the codec's, where the scene has none. `overrun`: "refuse" a song that ends behind
    the scene, or "leave_out" with a note. `known`: it went through `checked`. Raises `UserError` for circles
    of links and for what does not fit.
    """
    scene = scene if known else checked(scene)
    solver = _Solver(scene, durations or {}, typical_s)
    for name, what in _order(scene):
        if what == "start":
            solver.starts[name] = solver.start(solver.events[name])
        else:
            solver.sing(solver.events[name])
    songs = [song for event in scene.events for song in solver.songs[event.id] if song.duration_s > 0]
    if len(songs) > MOST_EVENTS:
        raise BadValue(f"the scene has {len(songs)} songs", f"at most {MOST_EVENTS} are possible")
    _check_order(scene, solver)
    notes = [*scene.assumptions, *remarks(scene)]
    if scene.duration_s is None:
        last = max((song.end_s for song in songs), default=0.0) + TAIL_S
        # A background with an end of its own is heard to it.
        told = [time for one in scene.backgrounds for time in (one.to_s, one.from_s and one.from_s + TAIL_S)]
        duration_s = round(max([last, *(time for time in told if time is not None)]), 6)
        check_duration(duration_s, "with all its songs the scene's duration")
    else:
        duration_s = scene.duration_s
        if not scene.loop:
            songs = _within(songs, duration_s, overrun, notes)
    songs.sort(key=lambda song: (song.onset_s, song.key))
    check_overlap(songs, scene.max_overlap)
    backgrounds = place_backgrounds(scene, songs, duration_s)
    _check_snr(songs, backgrounds)
    return PlacedScene(
        scene.name, scene.seed, duration_s, scene.rate_hz or rate_hz or RATE_HZ, tuple(songs),
        backgrounds, scene.channels, scene.loop, tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def as_loop(scene: Scene) -> Scene:
    """The scene as a loop, as long as it would have been, to a hundredth of a second."""
    duration_s = scene.duration_s
    if duration_s is None:
        duration_s = math.ceil(100 * solve(scene).duration_s - 1e-6) / 100
    return replace(scene, loop=True, duration_s=duration_s)


def _order(scene: Scene) -> list[tuple[str, str]]:
    """Starts and ends in an order in which each is known when it is needed; `UserError` for a circle."""
    needs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    open_end = [event.id for event in scene.events if event.until == TO_THE_END]
    for event in scene.events:
        needs[event.id, "start"] = [(one, "end") for one in event.after]
        if event.together:
            needs[event.id, "start"].append((event.together, "start"))
        needs[event.id, "end"] = [(event.id, "start")]
        if event.until == TO_THE_END and scene.duration_s is None:
            needs[event.id, "end"] += [(one.id, "end") for one in scene.events if one.id not in open_end]
        elif event.until and event.until != TO_THE_END:
            needs[event.id, "end"].append((event.until, "end"))
    done: dict[tuple[str, str], None] = {}
    for node in needs:
        _visit(node, needs, done, [])
    return list(done)


def _visit(
    node: tuple[str, str],
    needs: Mapping[tuple[str, str], list[tuple[str, str]]],
    done: dict[tuple[str, str], None],
    path: list[tuple[str, str]],
) -> None:
    # Without recursion: a chain of ten thousand events is a scene like any other.
    stack = [(node, iter(needs[node]))] if node not in done else []
    path, on_path = [node], {node}
    while stack:
        here, waiting = stack[-1]
        following = next((one for one in waiting if one not in done), None)
        if following is None:
            done[here] = None
            stack.pop()
            path.pop()
            on_path.discard(here)
        elif following in on_path:
            circle = [name for name, _ in path[path.index(following) :]]
            names = " -> ".join(dict.fromkeys([*circle]))
            raise Mismatch(
                f"the events {names} wait for each other in a circle",
                "one of them must begin by itself",
                "give one an onset_s, or take one of the links away",
            )
        else:
            stack.append((following, iter(needs[following])))
            path.append(following)
            on_path.add(following)


def _check_every(event: Event, song: PlacedEvent) -> None:
    if event.every_s is not None and song.duration_s > event.every_s:
        raise Mismatch(
            f"{event.id} ({event.species}) sings every {event.every_s:g} s, and a song of its lasts "
            f"{song.duration_s:g} s",
            "one bird does not sing two songs at once",
            "lengthen every_s, or ask for another individual",
        )


def _check_order(scene: Scene, solver: _Solver) -> None:
    for event in scene.events:
        if event.until and event.until != TO_THE_END and solver.ends[event.until] <= solver.starts[event.id]:
            raise Mismatch(
                f"{event.id} ({event.species}) sings until {event.until} ends, at "
                f"{solver.ends[event.until]:.1f} s, and "
                f"begins at {solver.starts[event.id]:.1f} s",
                "an end lies behind its onset",
            )
        if event.until_s is not None and event.until_s <= solver.starts[event.id]:
            raise Mismatch(
                f"{event.id} ({event.species}) sings until {event.until_s:g} s, and begins at "
                f"{solver.starts[event.id]:.1f} s",
                "an end lies behind its onset",
            )


def _within(songs: list[PlacedEvent], duration_s: float, overrun: str, notes: list[str]) -> list[PlacedEvent]:
    """The songs that end in the scene; the others are refused, or left out and named."""
    beyond = [song for song in songs if song.end_s > duration_s + 1e-6]
    if beyond and overrun != "leave_out":
        song = max(beyond, key=lambda one: one.end_s)
        length = "its song" if song.measured else f"a song of {song.duration_s:g} s"
        raise Mismatch(
            f"{song.key} ({clipped(song.species)}) begins at {song.onset_s:.1f} s, and {length} ends at "
            f"{song.end_s:.1f} s",
            f"the scene lasts {duration_s:g} s",
            f"begin earlier, or make the scene {min(song.end_s + TAIL_S, LONGEST_S):.0f} s long",
        )
    notes += [
        f"{song.key} ({song.species}) is left out: it would end at {song.end_s:.1f} s, behind the scene"
        for song in beyond
    ]
    gone = {song.key for song in beyond}
    return [song for song in songs if song.key not in gone]


def check_overlap(songs: list[PlacedEvent], most: int | None) -> None:
    """`UserError` where more than `most` songs (sorted by onset) sound at once."""
    if most is None:
        return
    sounding: list[PlacedEvent] = []
    for song in songs:
        sounding = [one for one in sounding if one.end_s > song.onset_s + 1e-9] + [song]
        if len(sounding) > most:
            names = ", ".join(f"{one.key} ({one.species})" for one in sounding[:6])
            raise Mismatch(
                f"{len(sounding)} songs sound at once at {song.onset_s:.1f} s: {names}",
                f"max_overlap allows {most}",
                "raise it, or put them further apart",
            )


def _check_snr(songs: list[PlacedEvent], backgrounds: Sequence[PlacedBackground]) -> None:
    sounding = [one for one in backgrounds if one.source != "none"]
    for song in songs:
        if song.snr_db is None:
            continue
        if not any(one.from_s < song.end_s and one.to_s > song.onset_s for one in sounding):
            raise Mismatch(
                f"{song.key} ({song.species}) at {song.onset_s:.1f} s has an SNR of {song.snr_db:g} dB and "
                "no "
                "background under it",
                "against silence there is none",
                "give it level_db, or put a background there",
            )
