"""Scene k of a distribution: a pure function of (seed, k), so that an array job can be stopped, retried,
extended.

Each field of each event has a stream of its own, keyed (seed, k, event, field): one field or event more
moves no
other draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from birdsd.errors import BadValue, Mismatch, UserError
from birdsd.randomness import generator
from birdsd.scenes.checks import MOST_EVENTS, checked
from birdsd.scenes.drawn.distribution import NONE, TRIES, Distribution
from birdsd.scenes.drawn.draws import Draw
from birdsd.scenes.scene import Background, Event, Scene
from birdsd.scenes.vocabulary import Vocabulary

# (species, sound type, individual) -> the length in seconds of the clip that will be heard; None where it is
# not known.
LengthOf = Callable[[str, str, int], "float | None"]


def draw_scene(
    made: Distribution, number: int, vocabulary: Vocabulary | None = None, length_of: LengthOf | None = None
) -> Scene:
    """Scene `number` (from 0) of a distribution, every onset a number.

    `length_of`: lengths of clips that are there already, as in a bank; else songs are as long as `event_s`
    has
    it. `UserError` where the draws of this scene cannot be placed.
    """
    if number < 0:
        raise BadValue(f"there is no scene {number}", "scenes are counted from 0")
    key = (made.seed, number)
    duration_s = round(made.duration_s.draw(*key, "duration_s"), 3)
    last: UserError | None = None
    for attempt in range(TRIES):
        # What does not fit is drawn again as a whole: fewer events alone would favour the short ones.
        events = _events(made, key, attempt, duration_s, length_of)
        try:
            onsets = _placed(made, key, attempt, duration_s, events)
            break
        except UserError as error:
            last = error
    else:
        raise Mismatch(
            f"scene {number} does not fit in {TRIES} draws: {last.problem if last else ''}",
            last.expected if last else "",
            "take fewer or shorter songs, a longer scene, or a higher max_overlap",
        )
    backgrounds = _backgrounds(made, key, duration_s, vocabulary)
    order = sorted(range(len(events)), key=lambda at: (onsets[at], at))
    numbered = [
        _event(made, key, events[at], at, place, onsets[at], backgrounds) for place, at in enumerate(order)
    ]
    scene = Scene(
        tuple(numbered), backgrounds or (() if numbered else (Background("", source="none"),)), duration_s,
        made.rate_hz,
        int(generator("scene", *key).integers(2**31)), f"{made.name}{number:06d}",
        max_overlap=made.max_overlap,
    )  # fmt: skip
    return checked(scene, vocabulary)


class _Song(tuple[str, str, int, float]):
    """(species, sound type, individual, seconds) of a song to be placed."""


def _events(
    made: Distribution, key: tuple[int, int], attempt: int, duration_s: float, length_of: LengthOf | None
) -> list[_Song]:
    again = (*key, attempt) if attempt else key
    if made.events is not None:
        count = made.events.draw(*again, "events")
    elif made.events_per_minute is not None and made.events_per_minute.kind == "poisson":
        # A rate over a time: the count of a Poisson process.
        count = Draw("poisson", (made.events_per_minute.values[0] * duration_s / 60,)).draw(*again, "events")
    else:
        count = (
            made.events_per_minute.draw(*again, "events") * duration_s / 60 if made.events_per_minute else 0.0
        )
    if count > MOST_EVENTS:
        raise BadValue(f"a scene would have {count:g} events", f"at most {MOST_EVENTS} are possible")
    songs = []
    for at in range(round(count)):
        own = (*again, "event", at)
        species = weighted(made.species, *own, "species")
        types = made.sound_types.get(species)
        sound_type = weighted(types, *own, "sound_type") if types else ""
        voices = max(1, round(made.individuals.draw(*own, "individuals")))
        individual = int(generator("scene draw", *own, "individual").integers(voices))
        known = length_of(species, sound_type, individual) if length_of else None
        length = made.event_s.draw(*own, "event_s") if known is None else known
        songs.append(_Song((species, sound_type, individual, round(length, 3))))
    return songs


def weighted(weights: Mapping[str, float], *key: int | str) -> str:
    """One of the names, by their weights. A pure function of weights and key."""
    names = list(weights)
    shares = np.array([weights[name] for name in names], dtype=float)
    return names[int(generator("scene draw", *key).choice(len(names), p=shares / shares.sum()))]


# --------------------------------------------------------------------------------------- placing


def _placed(
    made: Distribution, key: tuple[int, int], attempt: int, duration_s: float, songs: list[_Song]
) -> list[float]:
    """Onsets in seconds of the songs, in their order."""
    lengths = [song[3] for song in songs]
    if made.gap_s is not None:
        return _one_after_the_other(made.gap_s, (*key, attempt), duration_s, lengths)
    if made.max_overlap == 1:
        return _apart((*key, attempt), duration_s, lengths, songs, made.same_species_gap_s)
    return _anywhere(made, (*key, attempt), duration_s, songs)


def _one_after_the_other(
    gap_s: Draw, key: tuple[int, ...], duration_s: float, lengths: list[float]
) -> list[float]:
    onsets, at = [], 0.0
    for number, length in enumerate(lengths):
        at += max(0.0, gap_s.draw(*key, "gap", number))
        onsets.append(round(at, 3))
        at += length
    if at > duration_s:
        raise Mismatch(
            f"{len(lengths)} songs with their gaps take {at:.1f} s", f"the scene lasts {duration_s:g} s"
        )
    return onsets


def _apart(
    key: tuple[int, ...], duration_s: float, lengths: list[float], songs: list[_Song], same_gap_s: float
) -> list[float]:
    """Onsets of songs that do not overlap, every such placement equally likely: sorted uniforms in the room
    that
    is left over, shifted by what lies before. Nothing is rejected, and nothing piles up at the end."""
    count = len(lengths)
    order = [int(at) for at in generator("scene draw", *key, "order").permutation(count)]
    spaces = [
        same_gap_s if songs[before][:1] == songs[after][:1] else 0.0 for before, after in pairwise(order)
    ]
    room = duration_s - sum(lengths) - sum(spaces)
    if room < 0:
        raise Mismatch(
            f"{count} songs of {sum(lengths):.1f} s together, and {sum(spaces):.1f} s between those of one "
            "species, do not "
            "fit one after the other",
            f"the scene lasts {duration_s:g} s",
        )
    points = np.sort(generator("scene draw", *key, "onsets").uniform(0.0, room, count))
    onsets, before = [0.0] * count, 0.0
    for place, at in enumerate(order):
        # Floored, so that rounding never pushes the last one over the end.
        onsets[at] = math.floor((float(points[place]) + before) * 1000) / 1000
        before += lengths[at] + (spaces[place] if place < len(spaces) else 0.0)
    return onsets


def _anywhere(made: Distribution, key: tuple[int, ...], duration_s: float, songs: list[_Song]) -> list[float]:
    """Onsets anywhere, where fewer than `max_overlap` sound and the same individual is silent: each is
    drawn up to
    `TRIES` times, and then put into the first place that is free."""
    onsets: list[float] = []
    for number, song in enumerate(songs):
        latest = duration_s - song[3]
        if latest < 0:
            raise Mismatch(f"a song of {song[3]:g} s does not fit", f"the scene lasts {duration_s:g} s")
        source = generator("scene draw", *key, "onset", number)
        for _ in range(TRIES):
            at = math.floor(float(source.uniform(0.0, latest)) * 1000) / 1000
            if _free(made, at, song, songs, onsets):
                break
        else:
            ends = sorted(
                {
                    0.0,
                    *(
                        math.ceil((start + songs[n][3] + made.same_species_gap_s) * 1000) / 1000
                        for n, start in enumerate(onsets)
                    ),
                }
            )
            found = next(
                (end for end in ends if end <= latest and _free(made, end, song, songs, onsets)), None
            )
            if found is None:
                raise Mismatch(
                    f"song {number + 1} of {len(songs)}, {song[3]:g} s of {song[0]}, finds no place beside "
                    "the others",
                    f"max_overlap allows {made.max_overlap}",
                )
            at = found
        onsets.append(at)
    return onsets


def _free(made: Distribution, at: float, song: _Song, songs: list[_Song], onsets: list[float]) -> bool:
    end = at + song[3]
    beside = [(start, start + songs[n][3], songs[n]) for n, start in enumerate(onsets)]
    apart = made.same_species_gap_s
    if any(
        (other[0], other[2]) == (song[0], song[2]) and start < end + apart and stop > at - apart
        for start, stop, other in beside
    ):
        return False  # one bird does not sing two songs at once
    if made.max_overlap is None:
        return True
    overlapping = [(start, stop) for start, stop, _ in beside if start < end and stop > at]
    # The most at once within this song is reached where one of them begins, or at its own onset.
    moments = [at, *(start for start, _ in overlapping if start > at)]
    return all(
        sum(start <= moment < stop for start, stop in overlapping) < made.max_overlap for moment in moments
    )


# ------------------------------------------------------------------------------------ the rest


def _backgrounds(
    made: Distribution, key: tuple[int, int], duration_s: float, vocabulary: Vocabulary | None
) -> tuple[Background, ...]:
    """The environments of a scene, one after the other, changing at random times."""
    count = max(1, round(made.environments_per_scene.draw(*key, "environments")))
    cuts = sorted(generator("scene draw", *key, "cuts").uniform(0.0, duration_s, count - 1).tolist())
    edges = [0.0, *(round(cut, 3) for cut in cuts), duration_s]
    found: list[Background] = []
    for number in range(count):
        name = weighted(made.environments, *key, "environment", number)
        start, end = edges[number], edges[number + 1]
        if end - start < 0.05:
            continue
        if name == NONE:
            continue
        level = made.background_db.draw(*key, "background_db", number)
        source = vocabulary.the_environment(name)[1] if vocabulary is not None else "generate"
        found.append(
            Background(
                name,
                round(level, 1),
                start or None,
                end if end < duration_s else None,
                fade_s=made.fade_s,
                source=source,
            )
        )
    return tuple(found)


def _event(
    made: Distribution,
    key: tuple[int, int],
    song: _Song,
    at: int,
    place: int,
    onset_s: float,
    backgrounds: tuple[Background, ...],
) -> Event:
    species, sound_type, individual, length = song
    own = (*key, "event", at)
    under = any(
        (one.from_s or 0.0) < onset_s + length and (one.to_s or math.inf) > onset_s for one in backgrounds
    )

    def drawn(name: str, digits: int) -> float | None:
        draw = getattr(made, name)
        return None if draw is None else round(draw.draw(*own, name), digits) + 0.0

    pitch, rate = drawn("pitch_semitones", 3), drawn("rate", 4)
    return Event(
        f"e{place}", species, sound_type, onset_s, duration_s=length, individual=individual,
        snr_db=drawn("snr_db", 1) if under else None, level_db=None if under else drawn("level_db", 1),
        pitch_semitones=(0.0, 0.0) if pitch is None else (pitch, pitch),
        rate=(1.0, 1.0) if rate is None else (rate, rate),
        distance_m=drawn("distance_m", 2), bearing_deg=drawn("bearing_deg", 1),
        elevation_deg=drawn("elevation_deg", 1),
    )  # fmt: skip
