"""From a scene to the sentence that says it, in the words of the grammar: `understood(sentence(scene))` is
the
scene again, where words suffice."""

from __future__ import annotations

from collections.abc import Sequence

from birdsd.errors import UserError
from birdsd.scenes import loudness
from birdsd.scenes.prose import words
from birdsd.scenes.prose.modifiers import LATER_S, SOON_S
from birdsd.scenes.prose.parse import understood
from birdsd.scenes.scene import FIRST_ONSET_S, REPEAT_GAP_S, TO_THE_END, Background, Event, Scene
from birdsd.scenes.vocabulary import Vocabulary
from birdsd.sound.captions import action_words, with_article

MORE = "(the table says more than this sentence)"
_NUMBER_WORDS = {value: word for word, value in words.NUMBERS.items()}


def told(scene: Scene, vocabulary: Vocabulary) -> str:
    """`sentence`, which says so where it does not say everything."""
    text = sentence(scene)
    try:
        whole = understood(text, vocabulary, scene.seed) == scene
    except UserError:
        whole = False
    return text if whole else f"{text} {MORE}"


def sentence(scene: Scene) -> str:
    """A scene in canonical words."""
    groups = _groups(scene.events)
    always = _always(scene)
    where = [_where(scene, groups, number, always) for number in range(len(groups))]
    voices: dict[str, int] = {}
    pieces: list[str] = []
    for number, group in enumerate(groups):
        changes = where[number] != where[number - 1] if number else any(where)
        under = [one.level_db for one in (*where[number], *always)]
        for at, event in enumerate(group):
            heard = "heard" if not event.sound_type and any(one.sound_type for one in group[at:]) else ""
            usual = scene.duration_s is None and not number and not at
            clause = (
                _bird(event, group[:at], voices, under, heard),
                _times(event, usual),
                _space(event),
                _place(where[number]) if changes and not at else "",
            )
            pieces.append(_join(groups, number, at) + " ".join(filter(None, clause)))
    timed = [
        one for one in scene.backgrounds if one in always or one.from_s is not None or one.to_s is not None
    ]
    clauses = [*filter(None, ("".join(pieces),)), *map(_alone, timed)]
    length = f"{number_words(scene.duration_s)} s: " if scene.duration_s is not None else ""
    return length + "; ".join(clauses)


def number_words(value: float) -> str:
    """A number without zeros at its end: 2.5, 60."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _groups(events: Sequence[Event]) -> list[list[Event]]:
    """Events that are said together: those linked by `together`, and those that others follow together."""
    followed = [set(event.after) for event in events if len(event.after) > 1]
    groups: list[list[Event]] = []
    for at, event in enumerate(events):
        first = groups[-1][0].id if groups else ""
        if groups and (
            any(one.together == first for one in events[at:])
            or any({first, event.id} <= ids for ids in followed)
            or any(one.until == event.id for one in groups[-1])
        ):
            groups[-1].append(event)
        else:
            groups.append([event])
    return groups


def _always(scene: Scene) -> list[Background]:
    """Backgrounds of the whole scene, where others come and go, or where there is no bird."""
    untimed = [one for one in scene.backgrounds if one.from_s is None and one.to_s is None]
    whole = [one for one in untimed if not one.from_event and not one.to_event]
    return whole if len(untimed) > len(whole) or not scene.events else []


def _where(
    scene: Scene, groups: Sequence[Sequence[Event]], number: int, always: Sequence[Background]
) -> list[Background]:
    """The places of a group: the stretches that begin at it or before and end behind it."""
    first = {group[0].id: at for at, group in enumerate(groups)}
    return [
        one
        for one in scene.backgrounds
        if one.from_s is None and one.to_s is None and one not in always
        and first.get(one.from_event, 0) <= number < first.get(one.to_event, len(groups))
    ]  # fmt: skip


def _place(stretches: Sequence[Background]) -> str:
    if not stretches:
        return "in silence"
    return "in " + " and ".join(map(_environment, stretches))


def _environment(one: Background) -> str:
    word = loudness.background_word(one.level_db)
    return f"{word} {one.environment}".strip() if word is not None else one.environment


def _alone(one: Background) -> str:
    text = _environment(one)
    if one.from_s is not None and one.to_s is not None:
        return f"{text} from {number_words(one.from_s)} s to {number_words(one.to_s)} s"
    if one.from_s is not None:
        return f"{text} from {number_words(one.from_s)} s"
    return f"{text} until {number_words(one.to_s)} s" if one.to_s is not None else f"{text} throughout"


def _join(groups: Sequence[Sequence[Event]], number: int, at: int) -> str:
    event = groups[number][at]
    if at:
        return " while " if any(one.until == event.id for one in groups[number][:at]) else " and "
    if not number:
        return ""
    gap = event.gap_s
    if gap == LATER_S:
        return ", then later "
    if gap == SOON_S:
        return ", then immediately "
    if gap is not None:
        return f", then after {number_words(gap[0])} s "
    return ", then "


def _bird(
    event: Event, beside: Sequence[Event], voices: dict[str, int], under_db: Sequence[float], heard: str
) -> str:
    """Who and how many, how loud, and what it does."""
    following = voices.get(event.species, 0)
    voices[event.species] = max(following, event.individual + event.count)
    adjective, level = _loudness(event, under_db)
    name = f"{adjective} {event.species}".strip()
    if event.count > 1:
        ending = "es" if event.species.lower().endswith(("s", "x", "z", "ch", "sh")) else "s"
        who = f"{_NUMBER_WORDS.get(event.count, str(event.count))} {name}{ending}"
    elif event.individual and event.individual == following:
        who = f"another {name}"
    elif following and not any(one.species == event.species for one in beside):
        who = f"the same {name}"
    else:
        who = with_article(name)
    return " ".join(
        filter(
            None, (who, action_words(event.sound_type, event.count > 1) if event.sound_type else heard, level)
        )
    )


def _loudness(event: Event, under_db: Sequence[float]) -> tuple[str, str]:
    """(adjective, level in numbers): a word where it means just this level over this background."""
    for word, level_db in loudness.EVENT_DB.items():
        meant = loudness.relative(level_db, under_db)
        if meant == {"snr_db": event.snr_db} or meant == {"level_db": event.level_db}:
            return word, ""
    if event.snr_db is not None:
        return "", f"at {number_words(event.snr_db)} dB"
    return "", f"at {number_words(event.level_db or 0.0)} dBFS"


def _times(event: Event, usual: bool) -> str:
    """When and how often; `usual`: an onset at 1 s goes without saying."""
    found = []
    if event.onset_s is not None and event.until_s is not None:
        found.append(f"from {number_words(event.onset_s)} s to {number_words(event.until_s)} s")
    else:
        if event.onset_s is not None and not (usual and event.onset_s == FIRST_ONSET_S):
            found.append(f"at {number_words(event.onset_s)} s")
        if event.until_s is not None:
            found.append(f"until {number_words(event.until_s)} s")
    if event.lasting_s is not None:
        found.append(f"for {number_words(event.lasting_s)} s")
    if event.repeat > 1:
        found.append(
            "twice" if event.repeat == 2 else f"{_NUMBER_WORDS.get(event.repeat, event.repeat)} times"
        )
    if event.every_s is not None:
        found.append(f"every {number_words(event.every_s)} s")
    if event.until == TO_THE_END:
        found.append("until the end")
    if event.repeat_gap_s != REPEAT_GAP_S:
        low, high = map(number_words, event.repeat_gap_s)
        found.append(f"with pauses of {low} s to {high} s")
    return " ".join(found)


def _space(event: Event) -> str:
    """Direction and distance."""
    found = []
    bearing = event.bearing_deg
    end = event.bearing_end_deg
    if bearing is not None and end is not None:
        sides = {angle: side for side, angle in words.SIDES.items()}
        if bearing in sides and end in sides:
            found.append(f"from the {sides[bearing]} to the {sides[end]}")
        else:
            found.append(f"from {number_words(bearing)} degrees to {number_words(end)} degrees")
    elif bearing is not None and bearing in (0.0, 180.0):
        found.append("behind" if bearing else "ahead")
    elif bearing is not None:
        found.append(f"{number_words(abs(bearing))} degrees to the {'left' if bearing > 0 else 'right'}")
    if event.distance_m is not None:
        found.append(f"{number_words(event.distance_m)} metres away")
    if event.elevation_deg is not None:
        found.append(
            f"{number_words(abs(event.elevation_deg))} degrees {'up' if event.elevation_deg >= 0 else 'down'}"
        )
    return " ".join(found)
