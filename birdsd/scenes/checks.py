"""Whether a scene can be: every number in its range, every name known, every link to something that is
there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace

from birdsd.errors import BadValue, Mismatch, NotSet, clipped, unknown_name
from birdsd.scenes.scene import FIRST_ONSET_S, SOURCES, TO_THE_END, Background, Event, Scene, Span
from birdsd.scenes.vocabulary import Vocabulary
from birdsd.sound.species.names import clean_name

LONGEST_S = 6 * 3600.0
SHORTEST_S = 0.1
MOST_EVENTS = 20_000
# Field -> (least, greatest, unit). Beyond these nothing that is heard as the bird would come out.
RANGES = {
    "onset_s": (0.0, LONGEST_S, "s"),
    "until_s": (0.0, LONGEST_S, "s"),
    "lasting_s": (0.05, LONGEST_S, "s"),
    "duration_s": (0.02, LONGEST_S, "s"),
    "every_s": (0.05, LONGEST_S, "s"),
    "gap_s": (0.0, LONGEST_S, "s"),
    "repeat_gap_s": (0.0, LONGEST_S, "s"),
    "snr_db": (-30.0, 60.0, "dB"),
    "level_db": (-90.0, 0.0, "dBFS"),
    "pitch_semitones": (-12.0, 12.0, "semitones"),
    "rate": (0.5, 2.0, ""),
    "distance_m": (0.1, 5000.0, "m"),
    "bearing_deg": (-180.0, 180.0, "degrees"),
    "bearing_end_deg": (-180.0, 180.0, "degrees"),
    "elevation_deg": (-90.0, 90.0, "degrees"),
    "count": (1, 1000, ""),
    "repeat": (1, 10_000, ""),
    "individual": (0, 1_000_000, ""),
}
_ID = re.compile(r"[\w-]{1,60}")
RATES_HZ = (8000, 192_000)


def checked(scene: Scene, vocabulary: Vocabulary | None = None) -> Scene:
    """The scene with its names as the vocabulary has them and every event's time said; or a `UserError`.

    An event that says nothing of when follows the one before it, the first begins at 1 s. Circles of links
    and what does not fit are `schedule.solve`'s to find.
    """
    _check_frame(scene)
    events: list[Event] = []
    for event in scene.events:
        event = _with_a_time(event, events)
        _check_event(event)
        _check_onset(event, scene)
        events.append(event)
    _check_links(scene, events)
    for background in scene.backgrounds:
        _check_background(background, scene)
    scene = replace(scene, events=tuple(events))
    return scene if vocabulary is None else _known(scene, vocabulary)


def in_range(field: str, value: object, place: str) -> None:
    """`UserError` for a number (or a range's two ends) outside of what the field allows, NaN among them."""
    least, most, unit = RANGES[field]
    ends = value if isinstance(value, (tuple, list)) else (value,)
    for end in ends:
        number = isinstance(end, (int, float)) and not isinstance(end, bool)
        if not number or not math.isfinite(float(end)) or not least <= float(end) <= most:
            raise BadValue(
                f"{place}: {field} is {clipped(end)}",
                f"a number from {least:g} to {most:g}{f' {unit}' if unit else ''} is expected",
            )
    if len(ends) > 1 and ends[0] > ends[1]:
        raise BadValue(f"{place}: {field} is {ends[0]:g} to {ends[1]:g}", "a range begins with its lower end")


def check_duration(duration_s: float, place: str = "duration_s") -> None:
    """`UserError` for a scene of no length, or one longer than a file should be."""
    if not math.isfinite(duration_s) or not SHORTEST_S <= duration_s <= LONGEST_S:
        raise BadValue(
            f"{place} is {duration_s:g} s",
            f"a scene lasts from {SHORTEST_S:g} s to {LONGEST_S / 3600:g} hours",
            "make several scenes of a longer time (count=N)" if duration_s > LONGEST_S else "",
        )


def _check_frame(scene: Scene) -> None:
    if scene.duration_s is not None:
        check_duration(scene.duration_s)
    if scene.rate_hz is not None and not RATES_HZ[0] <= scene.rate_hz <= RATES_HZ[1]:
        raise BadValue(f"rate_hz is {scene.rate_hz}", f"{RATES_HZ[0]} to {RATES_HZ[1]} Hz are possible")
    if scene.channels not in (1, 2):
        raise BadValue(f"channels is {scene.channels}", "a scene has 1 or 2 channels")
    if not scene.events and not scene.backgrounds:
        raise NotSet("the scene is empty", "it needs an event or a background")
    if not scene.events and scene.duration_s is None:
        raise NotSet("nobody says how long the scene lasts", "without events it needs duration_s")
    if len(scene.events) > MOST_EVENTS:
        raise BadValue(f"the scene has {len(scene.events)} events", f"at most {MOST_EVENTS} are possible")
    if scene.max_overlap is not None and scene.max_overlap < 1:
        raise BadValue(f"max_overlap is {scene.max_overlap}", "at least one event must be able to sound")
    if scene.name != clean_name(scene.name):
        raise BadValue(
            f"the scene's name is '{clipped(scene.name)}'", "one line of at most 120 characters is expected"
        )
    if not 0 <= scene.seed < 2**63:
        raise BadValue(f"seed is {scene.seed}", "a whole number from 0 to 2^63 - 1 is expected")
    if scene.loop and scene.duration_s is None:
        raise NotSet("a loop has no duration", "where it begins anew must be said", "set duration_s")
    names = [event.id for event in scene.events]
    twice = (
        next((name for name in names if names.count(name) > 1), None)
        if len(set(names)) < len(names)
        else None
    )
    if twice is not None:
        raise BadValue(f"two events are called '{clipped(twice)}'", "links need ids that occur once")


def _check_onset(event: Event, scene: Scene) -> None:
    """Of an onset that was said: what follows from others may still fit once their songs are measured."""
    if event.onset_s is None or scene.duration_s is None or scene.loop:
        return
    if event.onset_s < scene.duration_s:
        return
    raise Mismatch(
        f"event {_named(event)}: onset_s is {event.onset_s:.1f} s", f"the scene lasts {scene.duration_s:g} s",
        "an earlier onset_s, or a longer duration_s",
    )  # fmt: skip


def _with_a_time(event: Event, before: list[Event]) -> Event:
    said = [event.onset_s is not None, bool(event.after), bool(event.together)]
    if sum(said) > 1:
        raise Mismatch(
            f"event {_named(event)} has more than one time",
            "one of onset_s, after and together says when it begins",
            "leave the others out",
        )
    if any(said):
        return event
    if before:
        return replace(event, after=(before[-1].id,))
    return replace(event, onset_s=FIRST_ONSET_S)


def _check_event(event: Event) -> None:
    place = f"event {_named(event)}"
    if event.id == TO_THE_END or not _ID.fullmatch(event.id):
        raise BadValue(
            f"'{clipped(event.id)}' is no id for an event",
            "one word of at most 60 letters, digits, '-' and '_', other than 'end'",
        )
    if not event.species.strip():
        raise NotSet(f"{place} names no species", "every event is a bird's", "give it a species")
    for field in RANGES:
        value = getattr(event, field)
        if value is not None:
            in_range(field, value, place)
    if (event.snr_db is None) == (event.level_db is None):
        raise Mismatch(
            f"{place} has "
            f"{'neither snr_db nor level_db' if event.snr_db is None else 'both snr_db and level_db'}",
            "one of them says how loud it is",
        )
    ends = [event.until_s is not None, bool(event.until), event.lasting_s is not None, event.repeat > 1]
    if sum(ends) > 1:
        raise Mismatch(
            f"{place} says in several ways how often it sings",
            "one of repeat, until_s, until and lasting_s is possible",
        )
    if event.until_s is not None and event.onset_s is not None and event.until_s <= event.onset_s:
        raise BadValue(
            f"{place} would sing from {event.onset_s:g} s to {event.until_s:g} s",
            "an end lies behind its onset",
        )
    if event.every_s is not None and event.repeat == 1 and not any(ends):
        raise NotSet(
            f"{place} sings every {event.every_s:g} s",
            "how often is not said",
            "give repeat, until_s or until: end",
        )
    if event.bearing_end_deg is not None and event.bearing_deg is None:
        raise NotSet(f"{place} moves to {event.bearing_end_deg:g} degrees", "where from is not said")


def _check_links(scene: Scene, events: list[Event]) -> None:
    names = [event.id for event in events]
    known = set(names)
    for event in events:
        links = [*event.after, event.together, event.until if event.until != TO_THE_END else ""]
        for link in filter(None, links):
            if link not in known:
                raise unknown_name(f"event that {_named(event)} is linked to", link, names)
            if link == event.id:
                raise Mismatch(f"event {_named(event)} is linked to itself", "a link needs another event")
        if event.until == TO_THE_END and scene.duration_s is None and len(events) == 1:
            raise NotSet(
                f"event {_named(event)} sings to the scene's end",
                "how long that is nobody says",
                "set duration_s",
            )
    for background in scene.backgrounds:
        for link in filter(None, (background.from_event, background.to_event)):
            if link not in known:
                raise unknown_name(
                    f"event that the background {background.environment} is linked to", link, names
                )


def _check_background(background: Background, scene: Scene) -> None:
    place = f"background {clipped(background.environment)}"
    if background.source not in SOURCES:
        raise unknown_name("source of a background", background.source, SOURCES)
    if not background.environment.strip() and background.source != "none":
        raise NotSet("a background has no environment", "its name is what the model is asked for")
    if (background.source == "file") != bool(background.path):
        raise Mismatch(
            f"{place}: source is {background.source} and path '{clipped(background.path)}'",
            "a path goes with source: file, and with no other",
        )
    in_range("level_db", background.level_db, place)
    if not math.isfinite(background.fade_s) or not 0 <= background.fade_s <= 60:
        raise BadValue(f"{place}: fade_s is {background.fade_s}", "a number from 0 to 60 s is expected")
    for one, other in (("from_s", "from_event"), ("to_s", "to_event")):
        if getattr(background, one) is not None and getattr(background, other):
            raise Mismatch(f"{place} has both {one} and {other}", "one of them says where")
        value = getattr(background, one)
        if value is not None and not (math.isfinite(value) and 0 <= value <= LONGEST_S):
            raise BadValue(f"{place}: {one} is {value}", f"a number from 0 to {LONGEST_S:g} s is expected")
    start, end = background.from_s or 0.0, background.to_s
    if scene.duration_s is not None and end is not None and end > scene.duration_s + 1e-9:
        raise BadValue(f"{place} ends at {end:g} s", f"the scene lasts {scene.duration_s:g} s")
    if (end is not None and end <= start) or (scene.duration_s is not None and start >= scene.duration_s):
        last = scene.duration_s if end is None else end
        raise BadValue(f"{place} runs from {start:g} s to {last:g} s", "an end lies behind its beginning")


def _known(scene: Scene, vocabulary: Vocabulary) -> Scene:
    """With all names as the vocabulary has them."""
    events = []
    for event in scene.events:
        place = f"event {clipped(event.id)}"
        species = vocabulary.the_species(event.species, place)
        sound_type = vocabulary.the_type(species, event.sound_type, place)
        events.append(replace(event, species=species, sound_type=sound_type))
    backgrounds = []
    for background in scene.backgrounds:
        if background.source in ("generate", "pool"):
            name, source = vocabulary.the_environment(background.environment)
            if background.source == "pool" and name in vocabulary.pool:
                source = "pool"
            background = replace(background, environment=name, source=source)
        backgrounds.append(background)
    return replace(scene, events=tuple(events), backgrounds=tuple(backgrounds))


def remarks(scene: Scene) -> list[str]:
    """What is possible, and what a user may not expect of it."""
    under = [event for event in scene.events if event.snr_db is not None and event.snr_db < 0]
    return [
        f"{_named(event)} is asked for {-(event.snr_db or 0):g} dB below its background: it may not be "
        "audible"
        for event in under
    ]


def _named(event: Event) -> str:
    return f"{clipped(event.id)} ({clipped(event.species)})"


def named_events(events: Iterable[Event]) -> str:
    """Events for a message."""
    return ", ".join(map(_named, events))


def same(span: Span) -> bool:
    """Whether a range is one number."""
    return span[0] == span[1]
