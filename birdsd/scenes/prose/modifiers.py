"""What may be said of a bird or a background: when, how often, how loud, where, in which direction."""

from __future__ import annotations

from birdsd.scenes import loudness
from birdsd.scenes.prose import words
from birdsd.scenes.prose.clause import LATER_S, SOON_S, Clause, Place
from birdsd.scenes.prose.reader import Reader
from birdsd.scenes.prose.tokens import CLOCK, ENVIRONMENT, SPECIES

_SAY_ANGLE = "say the angle at which it is heard, as in '20 degrees up'"


def modifier(reader: Reader, clause: Clause) -> bool:
    """Read one modifier into the clause; False, and nothing taken, where none begins here."""
    return any(rule(reader, clause) for rule in (_place, _at, _when, _how_often, _where, _level, _measure))


def places(reader: Reader) -> tuple[Place, ...]:
    """One environment, or several joined by 'and': 'loud rain and wind'."""
    found = [place(reader)]
    while True:
        start = reader.at
        if not (reader.phrase(",", "and") or reader.phrase("and") or reader.phrase(",")):
            return tuple(found)
        if not reader.leads_to(ENVIRONMENT):
            reader.at = start
            return tuple(found)
        more = place(reader)
        if reader.low() in ("from", "until", "throughout", "between", "for"):
            # A background with a time of its own is a clause of its own.
            reader.at = start
            return tuple(found)
        found.append(more)


def place(reader: Reader) -> Place:
    """[article] [loudness] ENVIRONMENT."""
    start = reader.at
    reader.phrase(words.ARTICLES)
    loud = reader.loudness()
    if reader.peek().kind != ENVIRONMENT:
        name = _unknown_name(reader)
        if not name:
            reader.fail(start, "an environment is expected", _environments(reader))
        reader.vocabulary.the_environment(name)
    name, source = reader.vocabulary.the_environment(reader.take().name)
    return Place(name, source, loudness.loudness(loud) or "" if loud else "")


def _unknown_name(reader: Reader) -> str:
    stop = reader.at
    while reader.tokens[stop].kind == "word" and reader.tokens[stop].low not in words.ALL:
        stop += 1
    return reader.sentence.text[reader.peek().start : reader.tokens[stop - 1].end] if stop > reader.at else ""


def _environments(reader: Reader) -> str:
    known = (*reader.vocabulary.environments, *reader.vocabulary.pool)
    return f"known are {', '.join(known[:8])}" if known else "the model knows no environment"


def _place(reader: Reader, clause: Clause) -> bool:
    start = reader.at
    if reader.phrase("in", "silence") or reader.phrase("without", ("any", "a"), "background"):
        clause.say(reader.typed(start), places=())
    elif reader.phrase("in", "the", "distance") or reader.phrase("far", "away"):
        clause.say(reader.typed(start), loudness=loudness.DISTANT, distance_m=loudness.DISTANT_M)
    elif reader.phrase("in", "the", "middle"):
        clause.say(reader.typed(start), middle=True)
    elif reader.phrase("in", "front"):
        clause.say(reader.typed(start), bearing_deg=0.0)
    elif reader.low() == "without":
        reader.take()
        if not reader.leads_to(ENVIRONMENT):
            reader.fail(start, "only an environment can be taken away", _environments(reader), reader.at + 1)
        places(reader)
        clause.say(reader.typed(start), places=())
    elif reader.low() == "with":
        reader.take()
        if not reader.leads_to(ENVIRONMENT):
            reader.at = start
            return _pauses(reader, clause)
        found = places(reader)
        reader.phrase("in", "the", "background")
        clause.say(reader.typed(start), places=found)
    elif reader.low() in words.PLACE:
        reader.take()
        if reader.low(-1) in ("near", "by", "beside") and not reader.leads_to(ENVIRONMENT):
            reader.at = start
            return False
        found = places(reader)
        reader.phrase("in", "the", "background")
        clause.say(reader.typed(start), places=found)
    else:
        return False
    return True


def _pauses(reader: Reader, clause: Clause) -> bool:
    start = reader.at
    if not reader.phrase("with", ("pause", "pauses"), "of"):
        return False
    low = reader.duration()
    if low is None and reader.number() is not None and reader.low(1) == "to":
        low, _ = reader.number(), reader.take()
    high = reader.duration() if reader.phrase("to") else low
    if low is None or high is None:
        reader.fail(
            start, "a pause is a time with its unit, as in 'with pauses of 2 s to 8 s'", "", reader.at + 1
        )
    clause.say(reader.typed(start), pauses_s=(low, high))
    return True


def _at(reader: Reader, clause: Clause) -> bool:
    start = reader.at
    if reader.low() != "at" or (reader.low(1), reader.low(2)) == ("the", "same"):
        return False
    reader.take()
    if reader.phrase("the", ("start", "beginning")):
        clause.say(reader.typed(start), onset_s=0.0)
    elif reader.phrase("the", "end"):
        reader.fail(
            start,
            "how long the song will be is not known yet",
            "say when it begins, as in 'at 25 s'",
            reader.at,
        )
    elif (reader.phrase(("a", "an"), "elevation", "of")) and (
        up := reader.measure(words.DEGREES)
    ) is not None:
        clause.say(reader.typed(start), elevation_deg=angle(reader, start, up, 90.0))
    elif (time := reader.duration()) is not None:
        clause.say(reader.typed(start), onset_s=_later_than_zero(reader, start, time))
    elif not _measure(reader, clause):
        value = reader.number()
        if value is None:
            reader.fail(
                start, "'at' needs a time, a level, a direction or a distance",
                "as in 'at 12 s', 'at 0:12', 'at 6 dB', 'at 30 degrees', 'at 20 metres'", reader.at + 1,
            )  # fmt: skip
        typed = reader.peek().text
        reader.fail(
            start, "a number needs its unit", f"write 'at {typed} s' or 'at {typed} minutes'", reader.at + 1
        )
    return True


def _later_than_zero(reader: Reader, start: int, time_s: float) -> float:
    if time_s < 0:
        reader.fail(start, "a scene begins at 0 s", "", reader.at)
    return time_s


def _from_to(reader: Reader, start: int, between: bool) -> tuple[float, float | None]:
    """'5 s to 20 s', '5 to 20 s', '0:05 to 0:20', behind 'from' or 'between'; the end may be missing."""
    lone = reader.number() if reader.low(1) in ("to", "until", "till", "and") else None
    first = reader.duration()
    if first is None and lone is not None:
        reader.take()
    if first is None and lone is None:
        reader.fail(start, "a time with its unit is expected", "as in 'from 5 s to 20 s'", reader.at + 1)
    if not reader.phrase(("to", "until", "till") if not between else ("and",)):
        return first if first is not None else 0.0, None
    unit_at = reader.at
    second = reader.duration()
    if second is None:
        reader.fail(start, "the end needs a time with its unit", "as in 'from 5 s to 20 s'", reader.at + 1)
    if first is None:
        # '5 to 20 s': the unit of the end holds for both.
        value = reader.number(unit_at - reader.at)
        first = (lone or 0.0) * (second / value if value else 1.0)
    if second <= first:
        reader.fail(
            start,
            f"an end lies behind its beginning, and {second:g} s does not lie behind {first:g} s",
            "",
            reader.at,
        )
    return _later_than_zero(reader, start, first), second


def _when(reader: Reader, clause: Clause) -> bool:
    start = reader.at
    low = reader.low()
    if low == "from" and (
        reader.peek(1).kind == CLOCK or reader.number(1) is not None or reader.low(1) in ("a", "half")
    ):
        reader.take()
        if (turned := reader.measure(words.DEGREES)) is not None:
            _passing(reader, clause, start, angle(reader, start, turned, 180.0))
            return True
        if (metres := reader.metres()) is not None:
            reader.phrase("away")
            clause.say(reader.typed(start), distance_m=metres)
            return True
        first, second = _from_to(reader, start, between=False)
        if second is None and clause.species:
            reader.fail(start, "an end is missing", "write 'from 5 s to 20 s', or 'at 5 s'", reader.at)
        clause.say(reader.typed(start), onset_s=first)
        if second is not None:
            clause.say(reader.typed(start), until_s=second)
    elif reader.phrase("between"):
        first, second = _from_to(reader, start, between=True)
        clause.say(reader.typed(start), onset_s=first, until_s=second)
    elif reader.phrase("for"):
        time = reader.duration()
        if not time:
            reader.fail(start, "'for' needs a time with its unit", "as in 'for 10 s'", reader.at + 1)
        clause.say(reader.typed(start), lasting_s=time)
    elif reader.phrase(("until", "till"), "the", "end"):
        clause.say(reader.typed(start), until="end")
    elif reader.phrase(("until", "till")):
        time = reader.duration()
        if time is None:
            reader.fail(start, "'until' needs a time with its unit", "as in 'until 20 s'", reader.at + 1)
        clause.say(reader.typed(start), until_s=time)
    elif reader.phrase(words.WHOLE_SCENE):
        clause.say(reader.typed(start), until="end")
    elif low == "after":
        return gap(reader, clause)
    elif (time := reader.duration()) is not None:
        if not reader.phrase("later"):
            reader.at = start
            return False
        clause.say(reader.typed(start), gap_s=(time, time))
    else:
        return False
    return True


def _passing(reader: Reader, clause: Clause, start: int, first: float) -> None:
    """'30 degrees to -60 degrees', behind 'from'; the end may be missing."""
    if not reader.phrase("to"):
        clause.say(reader.typed(start), bearing_deg=first)
        return
    last = reader.measure(words.DEGREES)
    if last is None:
        reader.fail(
            start, "a movement ends at an angle", "as in 'from 60 degrees to -60 degrees'", reader.at + 1
        )
    if last == first:
        reader.fail(start, "a movement ends at another angle", "", reader.at)
    clause.say(reader.typed(start), bearing_deg=first, bearing_end_deg=angle(reader, start, last, 180.0))


def gap(reader: Reader, clause: Clause) -> bool:
    """'after 5 s', '5 s later', 'after a pause', 'immediately': how long after what came before."""
    start = reader.at
    if reader.phrase("after", "a", "pause"):
        clause.say(reader.typed(start), gap_s=LATER_S)
        return True
    if reader.phrase("immediately"):
        clause.say(reader.typed(start), gap_s=SOON_S)
        return True
    behind = reader.phrase("after")
    time = reader.duration()
    if time is None or not (behind or reader.phrase("later")):
        reader.at = start
        return False
    if behind:
        reader.phrase("of", "silence")
    clause.say(reader.typed(start), gap_s=(time, time))
    return True


def _how_often(reader: Reader, clause: Clause) -> bool:
    start = reader.at
    if reader.low() in words.TIMES:
        clause.say(reader.low(), repeat=words.TIMES[reader.take().low])
    elif reader.number() is not None and reader.low(1) in ("times", "time"):
        value = reader.number() or 0.0
        reader.at += 2
        if value < 1 or value != int(value):
            reader.fail(start, "a whole number of times is expected", "the least is 'once'", reader.at)
        clause.say(reader.typed(start), repeat=int(value))
    elif reader.phrase("every"):
        time = reader.duration()
        if time is None and reader.low() in words.UNITS_S:
            time = words.UNITS_S[reader.take().low]
        if not time:
            reader.fail(start, "'every' needs a time with its unit", "as in 'every 5 s'", reader.at + 1)
        clause.say(reader.typed(start), every_s=time)
    elif reader.phrase("again"):
        clause.individual = clause.individual or "same"
    else:
        return False
    return True


def _where(reader: Reader, clause: Clause) -> bool:
    start = reader.at
    if reader.phrase(words.MOVING):
        # What moves says where from: the words behind it are read as ever.
        if reader.low() == "from" and (_where(reader, clause) or _when(reader, clause)):
            return True
        reader.fail(
            start, "a bird that flies flies from somewhere", "as in 'flying from left to right'", reader.at
        )
    if reader.phrase("from", ("the",), words.SIDES) or reader.phrase("from", words.SIDES):
        first = words.SIDES[reader.low(-1)]
        if reader.phrase("to", "the", words.SIDES) or reader.phrase("to", words.SIDES):
            last = words.SIDES[reader.low(-1)]
            if last == first:
                reader.fail(start, "a movement ends on the other side", "", reader.at)
            clause.say(reader.typed(start), bearing_deg=first, bearing_end_deg=last)
        else:
            clause.say(reader.typed(start), bearing_deg=first)
    elif reader.phrase(("on", "to"), "the", words.SIDES):
        clause.say(reader.typed(start), bearing_deg=words.SIDES[reader.low(-1)])
    elif reader.phrase("on"):
        reader.fail(start, "'on' goes with a side", "known are 'on the left' and 'on the right'", reader.at)
    elif reader.phrase("straight", "ahead") or reader.phrase("ahead"):
        clause.say(reader.typed(start), bearing_deg=0.0)
    elif reader.phrase("behind"):
        clause.say(reader.typed(start), bearing_deg=180.0)
    elif reader.phrase("overhead"):
        clause.say(reader.typed(start), elevation_deg=90.0)
    elif reader.phrase("bearing"):
        value = reader.measure(words.DEGREES)
        if value is None:
            value = reader.number()
            reader.at += value is not None
        if value is None or not 0 <= value <= 360:
            reader.fail(
                start, "a compass bearing is a number from 0 to 360", "as in 'bearing 30'", reader.at + 1
            )
        turned = -value if value <= 180 else 360 - value
        clause.say(reader.typed(start), bearing_deg=turned + 0.0)
    elif reader.phrase("nearby") or reader.phrase("close", "by") or reader.phrase("close"):
        clause.say(reader.typed(start), distance_m=loudness.NEAR_M)
    else:
        return False
    return True


def _level(reader: Reader, clause: Clause) -> bool:
    start = reader.at
    for word in (f"{reader.low()} {reader.low(1)}", reader.low()):
        if word in loudness.ADVERBS:
            reader.at += len(word.split())
            clause.say(reader.typed(start), loudness=loudness.ADVERBS[word])
            return True
    return False


def _measure(reader: Reader, clause: Clause) -> bool:
    """A number with a unit that says what it is about: dB, dBFS, degrees, metres."""
    start = reader.at
    if (value := reader.measure(("dbfs",))) is not None:
        clause.say(reader.typed(start), level_db=value)
    elif (value := reader.measure(words.DECIBELS)) is not None:
        below = reader.phrase("below", "the", "background")
        reader.phrase("above", "the", "background") or reader.phrase("snr")
        clause.say(reader.typed(start), snr_db=-value if below else value)
    elif (value := reader.measure(words.DEGREES)) is not None:
        if reader.phrase(("up", "above")):
            clause.say(reader.typed(start), elevation_deg=angle(reader, start, value, 90.0))
        elif reader.phrase(("down", "below")):
            clause.say(reader.typed(start), elevation_deg=-angle(reader, start, value, 90.0))
        elif reader.phrase(("to", "on"), "the", words.SIDES):
            sign = 1.0 if words.SIDES[reader.low(-1)] > 0 else -1.0
            clause.say(reader.typed(start), bearing_deg=sign * angle(reader, start, value, 180.0))
        else:
            clause.say(reader.typed(start), bearing_deg=angle(reader, start, value, 180.0))
    elif (metres := reader.metres()) is not None:
        if reader.low() in ("up", "down", "high", "above"):
            reader.fail(start, "a height is not known to any scene", _SAY_ANGLE, reader.at + 1)
        reader.phrase("away") or reader.phrase("off")
        if not 0 < metres <= 5000:
            reader.fail(start, "a bird is more than 0 m away, and heard from at most 5000 m", "", reader.at)
        clause.say(reader.typed(start), distance_m=metres)
    else:
        return False
    return True


def angle(reader: Reader, start: int, value: float, most: float) -> float:
    """An angle in degrees, -`most` to `most`."""
    if not -most <= value <= most:
        reader.fail(start, f"an angle is a number from -{most:g} to {most:g} degrees", "", reader.at)
    return value


def at_a_name(reader: Reader) -> bool:
    """Whether a bird's or an environment's name comes next."""
    return reader.leads_to(SPECIES) or reader.leads_to(ENVIRONMENT)
