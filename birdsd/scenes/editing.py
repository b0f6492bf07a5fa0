"""A scene as rows that somebody edits: only the cells that were changed change the scene."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from birdsd import yamltext
from birdsd.errors import BadValue, UserError, clipped
from birdsd.scenes import loudness
from birdsd.scenes.checks import checked
from birdsd.scenes.placed import PlacedScene
from birdsd.scenes.scene import DEFAULT_BACKGROUND_DB, DEFAULT_SNR_DB, TO_THE_END, Background, Event, Scene
from birdsd.scenes.schedule import TYPICAL_S, as_loop, solve
from birdsd.scenes.store import number
from birdsd.scenes.vocabulary import Vocabulary

EVENT_COLUMNS = ("event", "onset, s", "begins", "species", "sound", "birds", "times", "loudness")
ID, ONSET, BEGINS, SPECIES, SOUND, BIRDS, TIMES, LOUDNESS = range(len(EVENT_COLUMNS))
BACKGROUND_COLUMNS = ("background", "from, s", "to, s", "environment", "level, dBFS")
_NUMBER, FROM, TO, ENVIRONMENT, LEVEL = range(len(BACKGROUND_COLUMNS))
# Before an onset that follows from others: it says nothing of its own, however the others have moved since.
ESTIMATED = "~"
SHORT_S = 0.5  # as a composer has it: what may still fit must not be refused before it is measured
_LOUDNESS = re.compile(r"([+-]?\d+(?:\.\d+)?) *(dB SNR|SNR|dB|dBFS)?", re.IGNORECASE)
_UNTIL = re.compile(r"until +(?:the +)?(.+?)(?: +ends| +s)?", re.IGNORECASE)
_LASTING = re.compile(r"for +(.+?)(?: +s)?", re.IGNORECASE)
_BEFORE = re.compile(r"before +(.+)", re.IGNORECASE)

Cells = Sequence[Any]


@dataclass(frozen=True)
class Rows:
    """A scene as texts, cells for each event and background; the first of them says whose row it is."""

    events: tuple[tuple[str, ...], ...]
    backgrounds: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Edited:
    """What became of the rows: the scene that they mean, or what is wrong with them."""

    scene: Scene | None
    problems: tuple[UserError, ...] = ()


def rows_of(scene: Scene, vocabulary: Vocabulary) -> Rows:
    """The rows of a scene, onsets as they would be with songs of the usual length."""
    onsets = {}
    for song in reversed(usual(scene, vocabulary).events):
        onsets[song.event] = song.onset_s
    events = tuple(_event_row(one, onsets.get(one.id)) for one in scene.events)
    return Rows(events, tuple(_background_row(n, one) for n, one in enumerate(scene.backgrounds)))


def usual(scene: Scene, vocabulary: Vocabulary) -> PlacedScene:
    """The scene solved for songs as long as they usually are; what would end behind it is a note."""
    typical_s = min(TYPICAL_S, vocabulary.clip_s or TYPICAL_S)
    return solve(scene, rate_hz=vocabulary.rate_hz or None, typical_s=typical_s, overrun="leave_out")


def possible(scene: Scene, vocabulary: Vocabulary, loop: bool = False) -> Scene:
    """The scene with names as the vocabulary has them, and where it is asked for as a loop; `UserError` where
    even short songs would not fit."""
    scene = checked(scene, vocabulary)
    scene = as_loop(scene) if loop else scene
    solve(scene, typical_s=min(SHORT_S, (vocabulary.clip_s or TYPICAL_S) / 2))
    usual(scene, vocabulary)
    return scene


def edited(
    scene: Scene, vocabulary: Vocabulary, events: Sequence[Cells], backgrounds: Sequence[Cells],
    duration: Any = None, seed: Any = None, loop: bool | None = None,
) -> Edited:  # fmt: skip
    """The scene that edited rows mean; `loop`: whether its end goes on with its beginning, None: as it was.

    A cell that says what it said leaves everything behind it as it is, so that an event that follows another
    goes on following it. A row without an event's id is a new event, and a row that is gone takes its event
    with it. Every row that cannot be read is a problem of its own.
    """
    before, problems = rows_of(scene, vocabulary), []
    made: dict[str, list[Any]] = {"events": [], "backgrounds": []}
    places = [_cells(row, BACKGROUND_COLUMNS) for row in backgrounds]
    grounded = any(any(cells[FROM:]) for cells in places)
    known = {cells[ID]: cells for cells in before.events}
    taken = {*known, *(str(row[ID] or "").strip() for row in events)}
    for row in events:
        cells = _cells(row, EVENT_COLUMNS)
        if not any(cells):
            continue
        try:
            made["events"].append(_event(scene, cells, known.get(cells[ID]), grounded, taken))
        except UserError as error:
            problems.append(error)
    for cells in places:
        if not any(cells):
            continue
        try:
            made["backgrounds"].append(_background(scene, cells, before.backgrounds))
        except UserError as error:
            problems.append(error)
    frame: dict[str, Any] = {}
    try:
        frame = _frame(duration, seed)
    except UserError as error:
        problems.append(error)
    if problems:
        return Edited(None, tuple(problems))
    try:
        frame |= {name: tuple(held) for name, held in made.items()}
        looped = scene.loop if loop is None else loop
        return Edited(possible(replace(scene, **frame, loop=False), vocabulary, looped))
    except UserError as error:
        return Edited(None, (error,))


def _cells(row: Cells, columns: Sequence[str]) -> tuple[str, ...]:
    """The texts of a row; one that is cut short goes on with empty cells."""
    texts = tuple("" if one is None or one != one else str(one).strip() for one in row)
    return (*texts, *[""] * len(columns))[: len(columns)]


def read_seed(given: Any) -> int:
    """The seed that a field holds, 0 where it is empty."""
    (text,) = _cells([given], ("seed",))
    if not re.fullmatch(r"\d{0,18}(\.0)?", text):
        raise BadValue(f"seed is '{clipped(text)}'", "a whole number from 0 on is expected")
    return int(text.partition(".")[0] or 0)


def _frame(duration: Any, seed: Any) -> dict[str, Any]:
    (text,) = _cells([duration], ("duration_s",))
    return {
        "duration_s": cell_number(text, "duration_s", "the scene") if text else None,
        "seed": read_seed(seed),
    }


# ------------------------------------------------------------------------------------------ events


def _event_row(event: Event, onset_s: float | None) -> tuple[str, ...]:
    begins = f"after {', '.join(event.after)}" if event.after else ""
    begins = f"with {event.together}" if event.together else begins
    onset = "" if onset_s is None else f"{ESTIMATED}{onset_s:.2f}"
    if event.onset_s is not None:
        onset = f"{event.onset_s:.10g}"
    return (
        event.id, onset, begins, event.species, event.sound_type,
        str(event.count), _times(event),
        f"{event.level_db:g} dBFS" if event.snr_db is None else f"{event.snr_db:g} dB SNR",
    )  # fmt: skip


def _times(event: Event) -> str:
    if event.lasting_s is not None:
        return f"for {event.lasting_s:g} s"
    if event.until_s is not None:
        return f"until {event.until_s:g} s"
    if event.until:
        return "until the end" if event.until == TO_THE_END else f"until {event.until} ends"
    return str(event.repeat)


def _event(
    scene: Scene, cells: tuple[str, ...], before: tuple[str, ...] | None, grounded: bool, taken: set[str]
) -> Event:
    """The event of a row: the one that it was made of with what was changed, or a new one."""
    if before is not None:
        event = scene.event(cells[ID])
    else:
        name = cells[ID] or _free(taken)
        loud: dict[str, Any] = {"snr_db": DEFAULT_SNR_DB} if grounded else {"level_db": loudness.EVENT_DB[""]}
        event, before = Event(name, "", **loud), ("",) * len(EVENT_COLUMNS)
    changed = [at for at in range(len(cells)) if cells[at] != before[at] and at not in (ID, BEGINS)]
    if cells[ONSET].startswith(ESTIMATED) and ONSET in changed:
        changed.remove(ONSET)
    place = f"event {clipped(event.id)}" + (f" ({clipped(cells[SPECIES])})" if cells[SPECIES] else "")
    for at in changed:
        if cells[at] or at in (ONSET, SPECIES, SOUND):
            event = replace(event, **_changes(at, cells[at], event, place))
    return event


def _changes(at: int, text: str, event: Event, place: str) -> dict[str, Any]:
    """The fields that a changed cell sets."""
    if at == ONSET:
        onset_s = cell_number(text, "onset_s", place) if text else None
        return {"onset_s": onset_s, "after": (), "together": "", "gap_s": None}
    if at == SPECIES:
        return {"species": text}
    if at == SOUND:
        return {"sound_type": text}
    if at == BIRDS:
        return {"count": _whole(text, "birds", place)}
    if at == TIMES:
        return _how_often(text, place)
    return _loudness(text, event, place)


def _how_often(text: str, place: str) -> dict[str, Any]:
    none: dict[str, Any] = {"repeat": 1, "until_s": None, "until": "", "lasting_s": None}
    if match := _LASTING.fullmatch(text):
        return none | {"lasting_s": cell_number(match[1], "lasting_s", place)}
    if match := _UNTIL.fullmatch(text):
        if match[1][0].isdigit():
            return none | {"until_s": cell_number(match[1], "until_s", place)}
        return none | {"until": match[1]}
    return none | {"repeat": _whole(text, "times", place)}


def _loudness(text: str, event: Event, place: str) -> dict[str, Any]:
    match = _LOUDNESS.fullmatch(text.replace("\N{MINUS SIGN}", "-"))
    if match is None:
        raise BadValue(
            f"{place}: loudness is '{clipped(text)}'",
            "a number with its unit is expected, against the background or by itself",
            "e.g. 12 dB SNR, or -27 dBFS",
        )
    absolute = match[2].lower() == "dbfs" if match[2] else event.snr_db is None
    value = float(match[1])
    return {"snr_db": None, "level_db": value} if absolute else {"snr_db": value, "level_db": None}


def _free(taken: set[str]) -> str:
    name = next(f"e{at}" for at in range(len(taken) + 1) if f"e{at}" not in taken)
    taken.add(name)
    return name


# ------------------------------------------------------------------------------------ backgrounds


def _background_row(place: int, one: Background) -> tuple[str, ...]:
    def edge(event: str, time_s: float | None) -> str:
        return f"before {event}" if event else "" if time_s is None else f"{time_s:g}"

    return (
        f"b{place}", edge(one.from_event, one.from_s), edge(one.to_event, one.to_s), one.environment,
        f"{one.level_db:g}",
    )  # fmt: skip


def _background(scene: Scene, cells: tuple[str, ...], known: Sequence[tuple[str, ...]]) -> Background:
    before: Mapping[str, tuple[str, ...]] = {one[_NUMBER]: one for one in known}
    shown = before.get(cells[_NUMBER])
    if shown is not None:
        one = scene.backgrounds[[row[_NUMBER] for row in known].index(cells[_NUMBER])]
    else:
        one, shown = Background("", DEFAULT_BACKGROUND_DB), ("",) * len(BACKGROUND_COLUMNS)
    place = f"background {clipped(cells[ENVIRONMENT] or cells[_NUMBER])}"
    if cells[ENVIRONMENT] != shown[ENVIRONMENT]:
        one = replace(one, environment=cells[ENVIRONMENT], source="generate", path="")
    if cells[LEVEL] and cells[LEVEL] != shown[LEVEL]:
        one = replace(one, level_db=cell_number(cells[LEVEL].removesuffix("dBFS"), "level_db", place))
    for at, name in ((FROM, "from"), (TO, "to")):
        if cells[at] == shown[at]:
            continue
        match = _BEFORE.fullmatch(cells[at])
        time_s = None if match or not cells[at] else cell_number(cells[at], f"{name}_s", place)
        edge: dict[str, Any] = {f"{name}_event": match[1] if match else "", f"{name}_s": time_s}
        one = replace(one, **edge)
    return one


# ----------------------------------------------------------------------------------------- numbers


def cell_number(text: str, name: str, place: str) -> float:
    """A number of a cell; of seconds also as a clock shows them."""
    plain = text.strip()
    plain = plain.removesuffix("s").strip() if name.endswith("_s") else plain
    return number(yamltext.typed(yamltext.Plain(plain)), name, place)


def _whole(text: str, name: str, place: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,9}", text):
        more = ", or 'until 20 s', 'until e1 ends', 'for 9 s'" if name == "times" else ""
        raise BadValue(f"{place}: {name} is '{clipped(text)}'", f"a whole number is expected{more}")
    return int(text)
