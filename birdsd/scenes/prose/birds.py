"""The subject of a clause: which bird, how many, what it does; or a background; or that there is no bird."""

from __future__ import annotations

from birdsd.errors import listed_names, unknown_name
from birdsd.scenes import loudness
from birdsd.scenes.prose import words
from birdsd.scenes.prose.clause import Clause
from birdsd.scenes.prose.modifiers import at_a_name, modifier, place, places
from birdsd.scenes.prose.reader import Reader
from birdsd.scenes.prose.tokens import END, ENVIRONMENT, SPECIES, WORD

# What may be said of a background, too.
_STRETCHES = {"until_s", "until", "lasting_s"}
_NO_BIRD = (("silence",), ("no", "bird"), ("no", "birds"), ("without", "birds"))


def clause(reader: Reader, before: Clause | None) -> Clause:
    """One clause, what stands before its name included. `before` is the bird that 'another' refers to."""
    found = Clause(reader.peek().number)
    start = reader.at
    if at_once(reader):
        found.say(reader.typed(start), at_once=True)
        reader.phrase(",")
    while not at_a_name(reader) and reader.low() not in ("again", "another") and modifier(reader, found):
        reader.phrase(",")
    if reader.leads_to(ENVIRONMENT) and not _silent(reader, found):
        found.backgrounds = places(reader)
    elif not _silent(reader, found):
        _bird(reader, found, before)
    found.front = frozenset(found.said)
    while _more(reader, found):
        pass
    return found


def _silent(reader: Reader, found: Clause) -> bool:
    if any(reader.phrase(*one) for one in _NO_BIRD):
        found.silent = True
        if reader.low() == "in":
            reader.take()
            found.backgrounds = (place(reader),)
        return True
    return False


def _more(reader: Reader, found: Clause) -> bool:
    """One more thing that is said of the clause; behind a comma or 'and' too, where no clause begins
    there."""
    start = reader.at
    if found.species and _action(reader, found):
        return True
    said = set(found.said)
    if modifier(reader, found):
        behind = reader.tokens[start - 1]
        if behind.kind == ENVIRONMENT and found.species and (new := (set(found.said) - said) & _STRETCHES):
            reader.say(f"'{found.said[new.pop()]}' is said of the {found.species}, not of the {behind.name}")
        return True
    if at_once(reader):
        if not at_a_name(reader):
            found.say(reader.typed(start), at_once=True)
            return True
        reader.at = start
    if not (reader.phrase(",", "and") or reader.phrase(",") or reader.phrase("and")):
        return False
    if not at_a_name(reader) and reader.low() != "after":
        trial = Clause(found.word, found.species)
        inside = reader.at
        while modifier(reader, trial) or (found.species and _action(reader, trial)):
            pass
        if reader.at > inside and not at_a_name(reader) and trial.gap_s is None:
            if trial.said and reader.phrase(",") and at_a_name(reader):
                reader.at -= 1
                reader.say(
                    f"'{reader.typed(inside)}' is said of the {found.species or 'background'} before it"
                )
            reader.at = inside
            return modifier(reader, found) or _action(reader, found)
    reader.at = start
    return False


def at_once(reader: Reader) -> bool:
    """'at the same time', of birds before or behind it; not 'at the same time as'."""
    start = reader.at
    if reader.phrase("at", "the", "same", "time") or reader.phrase(("simultaneously", "together")):
        if reader.low() not in ("as", "with"):
            return True
        reader.at = start
    return False


def _bird(reader: Reader, found: Clause, before: Clause | None) -> None:
    start = reader.at
    if reader.low() == "no":
        reader.at += 1
        while reader.peek().kind != SPECIES and reader.leads_to(SPECIES):
            reader.at += 1
        stop = reader.at + (reader.peek().kind == SPECIES)
        reader.fail(start, "only what is to be heard is said", "leave it out", max(stop, start + 1))
    for noun in ("recording", "sound"):
        reader.phrase(words.ARTICLES, noun, "of") or reader.phrase("field", noun, "of")
    _type_of(reader, found)
    article = _determiners(reader, found, start)
    token = reader.peek()
    if token.kind == SPECIES:
        reader.take()
        found.species = token.name
        if token.plural and found.count == 1:
            reader.fail(start, "say how many", f"as in 'three {token.text}'", reader.at)
    elif (
        before is not None
        and before.species
        and (found.individual or reader.at == start)
        and _ends(reader, found)
    ):
        found.species = before.species
        found.sound_type = found.sound_type or before.sound_type
    else:
        _unknown_bird(reader, start, article)
    if found.sound_type:
        _set_type(reader, found, found.sound_type, start)
    if reader.phrase("'"):
        reader.phrase("s")
        _noun(reader, found, start, needed=True)
    else:
        _noun(reader, found, start, needed=False)


def _ends(reader: Reader, found: Clause) -> bool:
    return found.individual != "" or reader.phrase("again")


def _type_of(reader: Reader, found: Clause) -> None:
    """'the song of', 'the alarm call of'."""
    start = reader.at
    reader.phrase(words.ARTICLES)
    kind = reader.sound_type()
    if kind is None or not reader.phrase("of"):
        reader.at = start
        return
    found.sound_type, found.once = kind, True  # checked when the species is known


def _determiners(reader: Reader, found: Clause, start: int) -> bool:
    """Articles, numbers and adjectives before a name; whether there was an article."""
    article = False
    while reader.peek().kind != SPECIES:
        here = reader.at
        if reader.phrase("a", "few") or reader.phrase(words.VAGUE):
            reader.fail(here, "say how many", "as in 'three House Sparrows'", reader.at)
        if reader.phrase("a", "pair", "of"):
            found.count = 2
        elif reader.phrase("another"):
            found.individual = "another"
        elif reader.phrase("the", "same") or reader.phrase("same"):
            found.individual = "same"
        elif reader.phrase(words.ARTICLES):
            article, found.definite = True, reader.tokens[here].low == "the"
        elif reader.phrase(words.FAR):
            found.say(reader.typed(here), loudness=loudness.DISTANT, distance_m=loudness.DISTANT_M)
        elif reader.phrase("nearby"):
            found.say(reader.typed(here), distance_m=loudness.NEAR_M)
        elif (loud := reader.loudness()) is not None:
            found.say(reader.typed(here), loudness=loudness.loudness(loud))
        elif (value := reader.number()) is not None and reader.leads_to(SPECIES):
            reader.at += 1
            if value < 1 or value != int(value):
                reader.fail(start, "a whole number of birds is expected", "the least is one", reader.at + 1)
            found.count = int(value)
        else:
            break
    return article


def _unknown_bird(reader: Reader, start: int, article: bool) -> None:
    token = reader.peek()
    if token.kind == END:
        tail = reader.sentence.text[reader.tokens[max(start - 2, 0)].start :].strip()
        reader.fail(
            max(start - 2, 0), "nothing follows, and a bird is expected",
            f"name one that the model knows: {listed_names(reader.vocabulary.species)}",
            len(reader.tokens) - 1,
        ) if tail else reader.fail(start, "a bird is expected")  # fmt: skip
    if token.kind == WORD and token.low in ("bird", "birds", "birdsong"):
        reader.fail(
            start, "the species of a bird is needed",
            f"the model knows {listed_names(reader.vocabulary.species)}", reader.at + 1,
        )  # fmt: skip
    if token.kind == WORD and (article or token.low not in words.ALL):
        stop = reader.at + 1
        while reader.tokens[stop].kind == SPECIES or (
            reader.tokens[stop].kind == WORD and reader.tokens[stop].low not in words.ALL
        ):
            stop += 1
        name = reader.sentence.text[token.start : reader.tokens[stop - 1].end]
        vocabulary = reader.vocabulary
        if article or token.text[:1].isupper():
            raise unknown_name("species", name, vocabulary.species, "name one of these birds")
        known = [*vocabulary.species, *vocabulary.environments, *vocabulary.pool]
        raise unknown_name("bird or environment", name, known, f"it is word {token.number} of the sentence")
    reader.fail(
        reader.at, "a bird or an environment is expected",
        f"the model knows {listed_names(reader.vocabulary.species)}",
    )  # fmt: skip


def _noun(reader: Reader, found: Clause, start: int, needed: bool) -> None:
    """The type of a sound behind a name: "an American Robin's song", 'an American Robin alarm call'."""
    here = reader.at
    if not needed and reader.low() in words.ACTIONS:
        return  # "sparrows call" is what they do
    kind = reader.sound_type()
    if kind is None:
        if needed:
            reader.fail(
                start, "a sound is expected behind it", 'as in "an American Robin\'s song"', reader.at
            )
        return
    _set_type(reader, found, kind, here)
    found.once = not kind.endswith("ing")


def _action(reader: Reader, found: Clause) -> bool:
    start = reader.at
    reader.phrase(("is", "are"))
    if reader.phrase("heard"):
        found.say("heard", heard=True)
        return True
    if reader.low() in words.GIVING:
        here = reader.at
        reader.take()
        single = reader.low() in ("a", "an", "one")
        reader.phrase(("a", "an", "its", "their", "the", "one"))
        kind = reader.sound_type()
        if kind is not None:
            _set_type(reader, found, kind, start)
            found.once = single
            return True
        reader.at = here
    if reader.low() in words.ACTIONS:
        _set_type(reader, found, words.ACTIONS[reader.take().low], start)
        return True
    kind = reader.sound_type()
    if kind is not None and kind.endswith("ing"):
        _set_type(reader, found, kind, start)
        return True
    reader.at = start
    return False


def _set_type(reader: Reader, found: Clause, kind: str, start: int) -> None:
    if found.sound_type and found.sound_type != kind and not _same_sound(reader, found, kind):
        reader.fail(
            start, f"the {found.species} sounds in one way at a time, and '{found.sound_type}' came before",
            "use two clauses with 'then' between them", reader.at,
        )  # fmt: skip
    found.sound_type = reader.vocabulary.the_type(found.species, kind, f"word {reader.tokens[start].number}")


def _same_sound(reader: Reader, found: Clause, kind: str) -> bool:
    return reader.vocabulary.the_type(found.species, kind) == found.sound_type
