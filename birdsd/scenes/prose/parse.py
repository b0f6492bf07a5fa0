"""From a sentence to a scene: clauses, and the words that join them.

    scene    = [length] clause {join clause}
    clause   = {modifier} (bird | environment | "silence") {action | modifier}

Every word is read by a rule or is an error that names it. What was decided for the user is in the scene's
`assumptions`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from birdsd.errors import Mismatch
from birdsd.scenes.checks import check_duration
from birdsd.scenes.prose import words
from birdsd.scenes.prose.birds import clause
from birdsd.scenes.prose.build import Group, build
from birdsd.scenes.prose.clause import LATER_S, SOON_S, Clause
from birdsd.scenes.prose.modifiers import gap
from birdsd.scenes.prose.reader import Reader
from birdsd.scenes.prose.tokens import END, NUMBER, SPECIES, tokenise
from birdsd.scenes.scene import Scene, Span
from birdsd.scenes.vocabulary import Vocabulary

_OPENINGS = (("hear",), ("there", "is"), ("there", "are"))


@dataclass
class Join:
    """How a clause hangs on what came before: SEQ, SIGN (a full stop), REV (it comes first), AND, WHILE,
    ALT, OR."""

    kind: str
    gap_s: Span | None = None
    words: str = ""
    at_once: bool = False  # "at the same time": not at two times that are said


@dataclass
class _Course:
    """Groups of clauses in the order of time; those of a group sound together."""

    groups: list[Group] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def clauses(self) -> list[Clause]:
        return [one for group in self.groups for one in group.clauses]


def understood(text: str, vocabulary: Vocabulary, seed: int = 0) -> Scene:
    """The scene that a sentence describes; `UserError` for the first word that is not understood.

    >>> known = Vocabulary(("American Robin", "Great Tit"), ("rain",))
    >>> [event.species for event in understood("a Great Tit in rain, then a robin", known).events]
    ['Great Tit', 'American Robin']
    """
    sentence = tokenise(text, vocabulary)
    reader = Reader(sentence, vocabulary)
    length_s = _length(reader)
    for opening in _OPENINGS:
        reader.phrase(*opening)
    course = _Course()
    _opening(reader, course)
    while reader.peek().kind != END:
        join = _join(reader, course)
        if join is None:
            break
        _add(course, join, clause(reader, _last(course)))
    return build(course.groups, length_s, vocabulary, seed, [*sentence.readings, *course.said])


def _last(course: _Course) -> Clause | None:
    return course.groups[-1].clauses[-1] if course.groups else None


def _length(reader: Reader) -> float | None:
    """'30 s of', '1:30:', 'a 2 minute soundscape of'."""
    start = reader.at
    article = reader.phrase(("a", "an")) and reader.peek().kind == NUMBER
    if not article:
        reader.at = start
    time = reader.duration()
    if time is None:
        reader.at = start
        opened = reader.phrase(("a", "the"), words.SCENE_NOUNS) and reader.phrase(("of", "with", ":"))
        reader.at = reader.at if opened else start
        return None
    noun = reader.phrase(words.SCENE_NOUNS)
    if not (reader.phrase(("of", ":")) or (noun and reader.phrase(("with", ",")))):
        if noun:
            reader.fail(
                start, "what is in it is expected", "as in 'a 30 second soundscape of ...'", reader.at
            )
        reader.at = start
        return None
    check_duration(time, f"'{reader.typed(start)}'")
    return time


def _opening(reader: Reader, course: _Course) -> None:
    """The first clause; 'after B, A', 'before B, A' and 'at the same time as B, A' begin with the word that
    joins."""
    start = reader.at
    word = reader.low()
    as_another = reader.phrase("at", "the", "same", "time", "as")
    if as_another or (word in ("after", "before") and _before_a_bird(reader)):
        if not as_another:
            reader.take()
        first = clause(reader, None)
        if not reader.phrase(","):
            reader.fail(
                start,
                "a comma and another clause are expected",
                f"as in '{'at the same time as' if as_another else word} a Great Tit, a Little Owl'",
                reader.at,
            )
        course.groups.append(Group([first]))
        kind = "AND" if as_another else "SEQ" if word == "after" else "REV"
        _add(
            course,
            Join(kind, words="at the same time", at_once=as_another and bool(first.species)),
            clause(reader, first),
        )
        return
    course.groups.append(Group([clause(reader, None)]))


def _before_a_bird(reader: Reader) -> bool:
    reader.at += 1
    found = reader.leads_to(SPECIES)
    reader.at -= 1
    return found


def _join(reader: Reader, course: _Course) -> Join | None:
    """The words between two clauses; None at the end of the sentence."""
    start = reader.at
    sign = ""
    while reader.low() in (",", ";", ".", "!", ":"):
        sign = max(sign, reader.take().low, key=",;.!:".find) if sign else reader.take().low
    if reader.peek().kind == END:
        if sign in (",", ";", ":"):
            reader.fail(
                start, "nothing follows, and a clause is expected", "leave it out", len(reader.tokens) - 1
            )
        return None
    conjunction = reader.phrase("and")
    join = _conjunction(reader)
    if join is None:
        if conjunction or sign == ",":
            join = Join("AND")
        elif reader.phrase("or"):
            join = Join("OR")
        elif sign:
            join = Join("SIGN")
        else:
            reader.fail(start, words.KNOWN, reader.nearest_word(start))
    join.words = reader.typed(start)
    reader.phrase(",")
    if reader.peek().kind == END:
        reader.fail(
            start, "nothing follows, and a clause is expected", "say what does", len(reader.tokens) - 1
        )
    return join


def _conjunction(reader: Reader) -> Join | None:
    start = reader.at
    soon = SOON_S if reader.phrase("immediately") else None
    if reader.phrase("followed"):
        between = Clause(0)
        gap(reader, between)
        if not reader.phrase("by"):
            reader.fail(start, "'followed' goes on with 'by'", "as in 'followed by a Great Tit'", reader.at)
        return Join("SEQ", between.gap_s or soon)
    if reader.phrase(("then", "next", "afterwards")) or reader.phrase("after", "that"):
        soon = SOON_S if reader.phrase("immediately") else soon
        return Join(
            "SEQ", LATER_S if reader.phrase("later") or reader.phrase("after", "a", "pause") else soon
        )
    if reader.phrase("later") or reader.phrase("after", "a", "pause"):
        return Join("SEQ", LATER_S)
    if soon:
        if reader.phrase("before"):
            return Join("SEQ", soon)
        if reader.phrase("after"):
            return Join("REV", soon)
        reader.fail(start, "'immediately' goes on with 'followed by' or 'after'", "", reader.at)
    if reader.phrase("before"):
        return Join("SEQ")
    if reader.phrase("preceded", "by"):
        return Join("REV")
    if reader.low() == "after":
        if _before_a_bird(reader):
            reader.take()
            return Join("REV")
        if reader.peek(1).kind == END:
            return None if not reader.take() else Join("REV")
        return Join("SEQ")  # "after 2 s" is read with the clause that it stands before
    if reader.phrase("at", "the", "same", "time"):
        reader.phrase("as")
        return Join("AND", at_once=True)
    if reader.phrase(("while", "as")):
        return Join("WHILE")
    if reader.phrase("together", "with") or reader.phrase(("with", "alongside", "over")):
        return Join("AND")
    if reader.phrase("alternating", "with"):
        return Join("ALT")
    if reader.number() is not None and reader.duration() is not None and reader.phrase("later"):
        reader.at = start
        return Join("SEQ")
    reader.at = start
    return None


def _add(course: _Course, join: Join, found: Clause) -> None:
    """Hang a clause on the course of the scene."""
    last = course.groups[-1]
    if join.at_once and found.species and not found.at_once:
        found.say(join.words.strip(" ,.;"), at_once=True)
        found.front |= {"at_once"}
    if join.kind == "AND" and "gap_s" in found.said and "gap_s" not in found.front:
        course.said.append(
            f"'{found.said['gap_s']}' counts from the end of what comes before the {found.species}"
        )
    _check_waiting(join, found)
    gap_s = found.gap_s or join.gap_s
    if join.kind == "WHILE" and not found.species:
        join = Join("AND")  # a background goes with everything
    if join.kind in ("AND", "WHILE") and found.gap_s is None:
        found.link, found.listed = join.kind, join.words.strip() == ","
        last.clauses.append(found)
        if join.kind == "WHILE":
            _frame(last, found)
        _share(last, course)
    elif join.kind == "OR":
        # "A, B or C": one of three.
        while last.clauses[-1].listed and last.clauses[-1].bare and last.clauses[-2].bare:
            one = last.clauses.pop()
            last.clauses[-1].alternatives = [one, *one.alternatives]
        last.clauses[-1].alternatives.append(found)
    elif join.kind == "ALT":
        times = found.repeat or 2
        if found.repeat is None:
            course.said.append("the two alternate twice; say 'three times' for more")
        found.repeat = None
        found.said.pop("repeat", None)
        first = last.clauses[-1]
        for number in range(times):
            course.groups += [Group([first])] if number else []
            course.groups.append(Group([found]))
    elif join.kind == "REV":
        if found.definite and any(one.species == found.species for one in course.clauses):
            raise Mismatch(
                f"'{join.words} the {found.species}' at word {found.word}: it was named before",
                "a sentence goes on in time, and says nothing more of when earlier birds sang",
                "name the birds in the order in which they sing, with 'then' between them",
            )
        course.groups.insert(len(course.groups) - 1, Group([found]))
        last.gap_s = gap_s or last.gap_s
        if found.gap_s is not None:
            last.gap_s = found.gap_s
    else:
        if join.kind == "SIGN" and found.species and found.gap_s is None:
            course.said.append("sentences that follow each other are heard one after the other")
        course.groups.append(Group([found], gap_s))


def _check_waiting(join: Join, found: Clause) -> None:
    """`UserError` for a bird that waits for the one before it, and has a time of its own."""
    throughout = found.said.get("until") in words.WHOLE_SCENE
    timed = join.gap_s not in (None, LATER_S) and found.onset_s is not None
    if join.kind == "SEQ" and found.species and (throughout or timed):
        said = join.words.strip(" ,;.")
        raise Mismatch(
            f"'{said}' and '{found.said['until' if throughout else 'onset_s']}' are both said of the "
            f"{found.species}",
            "a bird waits for what comes before it, or has a time of its own", "leave one of them out",
        )  # fmt: skip


def _frame(group: Group, found: Clause) -> None:
    if group.frame is not None:
        raise Mismatch(
            f"'while' at word {found.word} is the second one for the same birds",
            "with two of them nobody knows which one goes on until which",
            "use 'and', or 'then' between two clauses",
        )
    group.frame = found


def _share(group: Group, course: _Course) -> None:
    """'A, B and C sing at 5 s': what is said behind the last of a list is said of those before it that are
    bare
    names. Without a verb ('A and B at 5 s') it is said of the last alone."""
    last = group.clauses[-1]
    bare: list[Clause] = []
    for one, following in zip(reversed(group.clauses[:-1]), reversed(group.clauses), strict=False):
        if following.link != "AND" or not one.bare:
            break
        bare.append(one)
    if not bare or not last.species:
        return
    names = ", ".join(one.species for one in [*reversed(bare), last])
    of_all = {
        "places",
        "heard",
        "at_once",
        *(["onset_s"] if any(one.at_once for one in group.clauses) else []),
    }
    behind = [words for name, words in last.said.items() if name not in {*last.front, *of_all}]
    if last.sound_type and not last.once:
        course.said.append(
            f"{names}: all with the sound '{last.sound_type}'"
            + "".join(f", '{one}'" for one in dict.fromkeys(behind))
        )
        for one in bare:
            one.share(last)
    elif behind:
        course.said.append(f"'{behind[0]}' is said of the {last.species} alone")
