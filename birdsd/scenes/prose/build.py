"""From clauses to a scene: ids and links, places and levels, and a length shared out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from birdsd.errors import BadValue, Mismatch, NotSet, Unsupported
from birdsd.randomness import generator
from birdsd.scenes import loudness
from birdsd.scenes.checks import checked
from birdsd.scenes.prose.clause import Clause, Place
from birdsd.scenes.scene import FIRST_ONSET_S, TO_THE_END, Background, Event, Scene, Span
from birdsd.scenes.vocabulary import Vocabulary

_SHARED_PAUSE_S: Span = (2.0, 8.0)


@dataclass
class Group:
    """Clauses that sound together; `frame`: the one until whose end those before it go on ('while')."""

    clauses: list[Clause]
    gap_s: Span | None = None
    frame: Clause | None = None
    ids: list[str] = field(default_factory=list)

    @property
    def birds(self) -> list[Clause]:
        return [one for one in self.clauses if one.species]


@dataclass
class _Builder:
    length_s: float | None
    seed: int
    vocabulary: Vocabulary
    said: list[str]
    events: list[Event] = field(default_factory=list)
    backgrounds: list[Background] = field(default_factory=list)
    next_voice: dict[str, int] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)  # clauses that take turns come again


def build(
    groups: Sequence[Group], length_s: float | None, vocabulary: Vocabulary, seed: int, said: list[str]
) -> Scene:
    """The scene of these groups, checked; `said` are assumptions that were made before."""
    builder = _Builder(length_s, seed, vocabulary, list(said))
    _choose(builder, groups)
    whole = _of_the_whole(builder, groups)
    sung = [group for group in groups if group.birds]
    if not sung and builder.backgrounds and length_s is None:
        raise NotSet(
            f"how long the {builder.backgrounds[0].environment} is to be heard is not said",
            "without a bird there is nothing else to go by",
            f"begin with a length, as in '30 s of {builder.backgrounds[0].environment}'",
        )
    if not sung and not builder.backgrounds:
        raise BadValue("the sentence names neither a bird nor an environment", "something must be heard")
    where = [_besides(builder, places) for places in _places(builder, sung)]
    shared = builder.length_s is not None and not any(one.timed for group in sung for one in group.birds)
    for number, places in enumerate(where):
        under = [*whole, *(one.level_db for one in _stretches(places or ()))]
        _events(builder, sung, number, under, shared)
    if shared and length_s is not None and any(event.until_s is not None for event in builder.events):
        builder.said.append(
            f"the {len(sung)} clauses share the {length_s:g} s equally"
            if len(sung) > 1
            else f"it goes on for the {length_s:g} s"
        )
    _stretch_places(builder, sung, where)
    _check_times(builder.events)
    lasting = sorted(builder.backgrounds, key=lambda one: one.from_s is not None or one.to_s is not None)
    scene = Scene(tuple(builder.events), tuple(lasting), length_s, seed=seed)
    scene = checked(scene, vocabulary)
    return replace(scene, assumptions=tuple(dict.fromkeys(builder.said)))


def _choose(builder: _Builder, groups: Sequence[Group]) -> None:
    """Of 'A or B' one is drawn."""
    for number, group in enumerate(groups):
        for place, one in enumerate(group.clauses):
            if not one.alternatives:
                continue
            several = [one, *one.alternatives]
            at = int(generator(builder.seed, "scene", "or", number, place).integers(len(several)))
            chosen = several[at]
            if chosen.bare:  # "a Great Tit or a Little Owl in rain": the rain is for both
                chosen.share(several[-1])
            chosen.alternatives = []
            group.clauses[place] = chosen
            names = " or ".join(each.species or "background" for each in several)
            builder.said.append(
                f"of {names} the {chosen.species or 'background'} is drawn, with seed {builder.seed}"
            )


def _of_the_whole(builder: _Builder, groups: Sequence[Group]) -> list[float]:
    """Backgrounds that a clause of their own names; the levels of those that hold for the whole scene."""
    whole: list[float] = []
    birds = any(group.birds for group in groups)
    for group in groups:
        for one in group.clauses:
            if one.species:
                continue
            _only_a_background(one)
            if one.silent and birds:
                raise Mismatch(
                    f"at word {one.word} no bird is asked for, and elsewhere there are birds",
                    "silence is what is left where no bird is named",
                    "leave it out, or say how long until the next bird: 'then after 5 s a Great Tit'",
                )
            timed = one.onset_s is not None or one.until_s is not None or one.lasting_s is not None
            if not timed and one.until is None and birds and len(group.clauses) == 1 and len(groups) > 1:
                names = " and ".join(each.environment for each in one.backgrounds) or "silence"
                raise NotSet(
                    f"'{names}' at word {one.word} stands by itself between birds",
                    "a background by itself needs its times",
                    f"write '{names} from 10 s to 20 s', '{names} throughout', or 'a Great Tit in {names}'",
                )
            end = one.until_s
            if one.lasting_s is not None:
                end = (one.onset_s or 0.0) + one.lasting_s
            for stretch in _stretches(one.backgrounds):
                builder.backgrounds.append(replace(stretch, from_s=one.onset_s, to_s=end))
                whole += [] if timed else [stretch.level_db]
    return whole


def _besides(builder: _Builder, places: tuple[Place, ...] | None) -> tuple[Place, ...] | None:
    """A place without what is heard in the whole scene anyway; nothing sounds twice at once."""
    if places is None:
        return None
    whole = {
        one.environment: one.level_db
        for one in builder.backgrounds
        if one.from_s is None and one.to_s is None
    }
    names = [one.environment for one in places]
    for one in places:
        level_db = loudness.BACKGROUND_DB[one.loudness]
        if names.count(one.environment) > 1 or whole.get(one.environment, level_db) != level_db:
            raise Mismatch(
                f"{one.environment} is said twice for the same time, with two loudnesses",
                "an environment sounds once",
                "say how loud it is once",
            )
    return tuple(one for one in places if one.environment not in whole)


def _only_a_background(one: Clause) -> None:
    allowed = {"onset_s", "until_s", "lasting_s", "until"}
    if one.silent:
        allowed = set()
    wrong = next((words for name, words in one.said.items() if name not in allowed), None)
    if wrong is not None:
        name = one.backgrounds[0].environment if one.backgrounds else "silence"
        raise Unsupported(
            f"'{wrong}' cannot be said of {name}",
            "a background takes a loudness, a beginning and an end",
            "say it of a bird, or leave it out",
        )


def _stretches(places: Sequence[Place]) -> list[Background]:
    return [
        Background(one.environment, loudness.BACKGROUND_DB[one.loudness], source=one.source) for one in places
    ]


def _places(builder: _Builder, groups: Sequence[Group]) -> list[tuple[Place, ...] | None]:
    """The place of each group: its own, else the last one; one that only the last group has is everyone's."""
    own: list[tuple[Place, ...] | None] = []
    for group in groups:
        said = [one.places for one in group.birds if one.places is not None]
        joined = tuple(dict.fromkeys(place for places in said for place in places))
        own.append(joined if said else None)
        if len({*said}) > 1:
            names = " and ".join(place.environment for place in joined)
            builder.said.append(f"birds that sing together hear the same: {names}")
    known = [places for places in own if places is not None]
    if len(groups) > 1 and len(known) == 1 and own[-1]:
        names = " and ".join(place.environment for place in own[-1])
        builder.said.append(f"{names} holds for the whole scene")
        return [own[-1]] * len(groups)
    found: list[tuple[Place, ...] | None] = []
    for places in own:
        found.append(places if places is not None else (found[-1] if found else None))
    return found


def _stretch_places(
    builder: _Builder, groups: Sequence[Group], where: Sequence[tuple[Place, ...] | None]
) -> None:
    """Backgrounds from the places of the groups: one stretch as long as the place stays."""
    starts = [at for at in range(len(groups)) if at == 0 or where[at] != where[at - 1]]
    for number, at in enumerate(starts):
        following = starts[number + 1] if number + 1 < len(starts) else None
        for stretch in _stretches(where[at] or ()):
            builder.backgrounds.append(
                replace(
                    stretch,
                    from_event=groups[at].ids[0] if at else "",
                    to_event=groups[following].ids[0] if following is not None else "",
                )
            )
    if len(starts) > 1:
        builder.said.append("the background changes in the middle between two birds")


def _at_once(builder: _Builder, birds: Sequence[Clause]) -> None:
    """Birds that sound at the same time have one time, whoever it is said of; `UserError` where they
    cannot."""
    words = next((one.said["at_once"] for one in birds if one.at_once), None)
    if words is None:
        return
    if len(birds) == 1 and birds[0].count == 1:
        raise Mismatch(
            f"'{words}' is said of the {birds[0].species} alone",
            "it takes two birds, joined by 'and'", "leave it out, or name the other bird",
        )  # fmt: skip
    onsets = {one.onset_s: one for one in birds if one.onset_s is not None}
    if len(onsets) > 1:
        times = " and ".join(f"the {one.species} at {at:g} s" for at, one in sorted(onsets.items()))
        raise Mismatch(
            f"'{words}' is said of {times}", "birds that sound at the same time have one time",
            "leave it out, or give both the same time",
        )  # fmt: skip
    if onsets and birds[0].onset_s is None:
        (at, one), *_ = onsets.items()
        birds[0].onset_s, one.onset_s = at, None
        builder.said.append(f"'{one.said['onset_s']}' is said of all that sound '{words}'")


def _events(
    builder: _Builder, groups: Sequence[Group], number: int, under_db: Sequence[float], shared: bool
) -> None:
    """The events of one group, linked to the groups before it."""
    group = groups[number]
    birds = group.birds
    group.ids = [f"e{len(builder.events) + at}" for at in range(len(birds))]
    _at_once(builder, birds)
    for at, one in enumerate(birds):
        one.check()
        fields = _common(builder, one, group, at)
        if one.snr_db is None and one.level_db is None:
            fields |= loudness.relative(loudness.EVENT_DB[one.loudness or ""], under_db)
        elif one.snr_db is not None and not under_db:
            raise Mismatch(
                f"'{one.said['snr_db']}' says how far the {one.species} stands above a background, and "
                "there is none",
                "against silence there is no SNR",
                "name an environment, or say the level as in 'at -20 dBFS'",
            )
        fields |= {"snr_db": one.snr_db} if one.snr_db is not None else {}
        fields |= {"level_db": one.level_db} if one.level_db is not None else {}
        fields |= _when(builder, groups, number, at)
        fields |= _how_often(builder, group, at, one)
        if (
            one.pauses_s is not None
            and not shared
            and not {"repeat", "until_s", "lasting_s", "until"} & set(one.said)
        ):
            raise Mismatch(
                f"'{one.said['pauses_s']}' needs several songs, and the {one.species} sings once",
                "a pause lies between two songs",
                "say how often, as in 'three times' or 'for 20 s'",
            )
        if shared:
            fields |= _slot(builder, groups, number, at, one)
        builder.events.append(Event(group.ids[at], one.species, one.sound_type, **fields))


def _common(builder: _Builder, one: Clause, group: Group, at: int) -> dict[str, Any]:
    """How many, which individual, and its direction."""
    beside = any(other.species == one.species for other in group.birds[:at])
    first = builder.next_voice.get(one.species, 0)
    individual = first if one.individual == "another" or (beside and not one.individual) else 0
    if one.individual == "another" and not first:
        raise Mismatch(
            f"'another {one.species}' at word {one.word} is the first one",
            "another one follows one that was named before",
            f"write 'a {one.species}'",
        )
    if one.individual == "same" and not first:
        raise Mismatch(
            f"'the same {one.species}', or 'again', at word {one.word}: no {one.species} was named before",
            "the same one follows one that was named before",
            f"write 'a {one.species}'",
        )
    if (one.individual == "same" or one.definite) and beside and one.onset_s is None:
        raise Mismatch(
            f"the {one.individual} {one.species}".replace("  ", " ")
            + f" at word {one.word} would sing together with itself",
            "one bird sings one song at a time",
            f"write 'then' before it, or 'another {one.species}'",
        )
    if first and not one.individual and not beside and id(one) not in builder.seen:
        builder.said.append(f"both times it is the same {one.species}; say 'another' for a second one")
    builder.seen.add(id(one))
    builder.next_voice[one.species] = max(first, individual + one.count)
    names = ("distance_m", "bearing_deg", "bearing_end_deg", "elevation_deg")
    found: dict[str, Any] = {name: getattr(one, name) for name in names}
    return {**found, "count": one.count, "individual": individual}


def _when(builder: _Builder, groups: Sequence[Group], number: int, at: int) -> dict[str, Any]:
    one, group = groups[number].birds[at], groups[number]
    if one.middle:
        if builder.length_s is None:
            raise NotSet(
                f"'{one.said['middle']}' needs to know how long the scene is",
                "nothing says so",
                "begin with it, as in '30 s: ...'",
            )
        return {"onset_s": builder.length_s / 2}
    if one.onset_s is not None:
        if builder.length_s is not None and one.onset_s >= builder.length_s:
            raise Mismatch(
                f"'{one.said['onset_s']}' of the {one.species} lies behind the scene",
                f"it lasts {builder.length_s:g} s",
                "begin earlier, or make the scene longer",
            )
        return {"onset_s": one.onset_s}
    if one.until == TO_THE_END and one.said["until"] == "throughout":
        return {"onset_s": FIRST_ONSET_S}
    if at:
        return {"together": group.ids[0]}
    gap_s = one.gap_s or group.gap_s
    if not number:
        # "after 5 s, B" with nothing before it counts from the scene's start.
        return {"onset_s": gap_s[0] if gap_s else FIRST_ONSET_S}
    return {"after": tuple(groups[number - 1].ids), "gap_s": gap_s}


def _how_often(builder: _Builder, group: Group, at: int, one: Clause) -> dict[str, Any]:
    found: dict[str, Any] = {"until_s": one.until_s, "lasting_s": one.lasting_s, "every_s": one.every_s}
    if one.repeat is not None:
        found["repeat"] = one.repeat
    if one.pauses_s is not None:
        found["repeat_gap_s"] = one.pauses_s
    if one.until is not None:
        found["until"] = TO_THE_END
        if builder.length_s is None and len(group.ids) < 2 and one.said["until"] == "throughout":
            builder.said.append(f"the {one.species} is heard until the last of the others ends")
    several = any(value is not None for value in (one.until_s, one.lasting_s, one.until, one.repeat))
    if one.every_s is not None and not several:
        if builder.length_s is None:
            raise NotSet(
                f"'{one.said['every_s']}' of the {one.species} needs to know how long",
                "neither a length of the scene nor a number of times is said",
                "begin with a length, as in '30 s: ...', or add 'three times'",
            )
        found["until"] = TO_THE_END
    framed = next((number for number, bird in enumerate(group.birds) if bird is group.frame), 0)
    if at < framed and not several:
        found["until"] = group.ids[framed]
    return found


def _slot(builder: _Builder, groups: Sequence[Group], number: int, at: int, one: Clause) -> dict[str, Any]:
    """The part of the scene's length that a group gets, where no clause says a time."""
    share = (builder.length_s or 0.0) / len(groups)
    margin = min(FIRST_ONSET_S, share / 10)
    found: dict[str, Any] = {}
    if not at:
        found |= {"onset_s": round(number * share + margin, 6), "after": (), "gap_s": None}
    if one.repeat is None and not one.once:
        found |= {
            "until_s": round((number + 1) * share - margin, 6),
            "until": "",
            "repeat_gap_s": one.pauses_s or _SHARED_PAUSE_S,
        }
    return found


def _check_times(events: Sequence[Event]) -> None:
    """Clauses that follow each other and say times must say them in that order."""
    onset: Event | None = None
    for event in events:
        if event.onset_s is None:
            continue
        if (
            onset is not None
            and onset.onset_s is not None
            and event.onset_s < onset.onset_s
            and not event.together
        ):
            raise Mismatch(
                f"the {event.species} is to begin at {event.onset_s:g} s, and the {onset.species}, named "
                "before it, at "
                f"{onset.onset_s:g} s",
                "what is said first comes before what follows it",
                "name them in the order of their times",
            )
        onset = event
