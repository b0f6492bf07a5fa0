"""A sentence as tokens: names first, the longest before the shorter, then numbers, words and signs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from birdsd.diffusion.generation.words import folded, species_pattern
from birdsd.errors import BadValue, NotSet, clipped
from birdsd.scenes.vocabulary import Vocabulary

LONGEST_TEXT = 20_000
SPECIES, ENVIRONMENT, NUMBER, CLOCK, WORD, SIGN, END = (
    "species",
    "environment",
    "number",
    "clock",
    "word",
    "sign",
    "end",
)
_PIECES = re.compile(
    r"(?P<clock>(?<![\w.:])\d{1,3}:\d{2}(?::\d{2})?(?:\.\d+)?(?!\w|:\d))"
    r"|(?P<number>(?<![\w.])(?:(?<!\S)[-+])?(?:\d+\.\d+|\d+)(?![\d]))"
    r"|(?P<word>[^\W\d_](?:[\w']*\w)?|_\w*)"
    r"|(?P<sign>\S)"
)


@dataclass(frozen=True)
class Token:
    """A piece of a sentence: `text` as typed, `low` in lower case without accents, `start` and `end` in the
    text, `number` counts words from 1."""

    kind: str
    text: str
    low: str
    start: int
    end: int
    number: int
    name: str = ""  # of a species or an environment, as the vocabulary has it
    value: float = 0.0  # of a number, or of a clock's time in seconds
    plural: bool = False  # of a species' name


@dataclass
class Sentence:
    """The tokens, the text that they point into, and how names were read."""

    text: str
    tokens: list[Token]
    readings: list[str] = field(default_factory=list)


def tokenise(text: str, vocabulary: Vocabulary) -> Sentence:
    """The tokens of a text; `UserError` where it is empty, or longer than any scene's."""
    text = unicodedata.normalize("NFC", text)
    if not text.strip():
        raise NotSet(
            "the sentence is empty", "it says what is to be heard", "e.g. 'an American Robin in rain'"
        )
    if len(text) > LONGEST_TEXT:
        raise BadValue(f"the sentence has {len(text)} characters", f"at most {LONGEST_TEXT} are read")
    plain = folded("".join(c if c.isprintable() else " " for c in text))
    found = _names(plain, vocabulary)
    sentence = Sentence(text, [])
    at = 0
    for start, end, kind, name, reading, plural in sorted(found):
        sentence.tokens += _words(text, plain, at, start)
        sentence.tokens.append(
            Token(
                kind, text[start:end], plain[start:end], start, end, _number(text, start), name, plural=plural
            )
        )  # fmt: skip
        sentence.readings += [reading] if reading and reading not in sentence.readings else []
        at = end
    sentence.tokens += _words(text, plain, at, len(text))
    sentence.tokens.append(Token(END, "", "", len(text), len(text), _number(text, len(text)) + 1))
    return sentence


def _names(plain: str, vocabulary: Vocabulary) -> list[tuple[int, int, str, str, str, bool]]:
    """(start, end, kind, name, how it was read, whether it is plural) of all names; a longer one wins where
    two
    overlap."""
    found: list[tuple[int, int, str, str, str, bool]] = []
    rest = plain

    def take(names: Iterable[tuple[str, str, str, str]]) -> None:
        nonlocal rest
        for written, kind, name, reading in sorted(names, key=lambda one: (-len(one[0]), one)):
            if re.split(r"[\s_-]+", folded(written))[0].partition("'")[0] not in rest:
                continue  # a pattern for each of thousands of names would take seconds
            for match in list(re.finditer(species_pattern(written), rest)):
                plural = match.group().endswith("s") and not folded(written).endswith("s")
                found.append((match.start(), match.end(), kind, name, reading, plural))
                rest = rest[: match.start()] + "\0" * (match.end() - match.start()) + rest[match.end() :]

    whole = [(name, SPECIES, name, "") for name in vocabulary.species]
    whole += [
        (other, SPECIES, name, f"'{other}' is the {name}")
        for other, name in vocabulary.other_names().items()
        if _may_stand(other)
    ]
    whole += [
        (name.replace("_", " "), ENVIRONMENT, name, "")
        for name in (*vocabulary.environments, *vocabulary.pool)
    ]
    take(whole)
    take(_short(vocabulary))
    return found


def _may_stand(other: str) -> bool:
    """Whether another name is not also a common word: codes of one syllable may be."""
    return len(other) > 3 and other.lower() not in {"song", "call", "then", "with", "from", "loud"}


def _short(vocabulary: Vocabulary) -> Iterable[tuple[str, str, str, str]]:
    for short, names in vocabulary.short_names().items():
        several = (
            f", the first of {_listed(names)}" if len(names) > 1 else ", the only one that the model knows"
        )
        yield short, SPECIES, names[0], f"'{short}' is read as {names[0]}{several}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _words(text: str, plain: str, start: int, end: int) -> list[Token]:
    tokens = []
    for match in _PIECES.finditer(plain, start, end):
        kind = str(match.lastgroup)
        typed = text[match.start() : match.end()]
        value = 0.0
        if kind == NUMBER:
            value = float(match.group())
        elif kind == CLOCK:
            parts = [float(part) for part in match.group().split(":")]
            if any(part >= 60 for part in parts[1:]):
                raise BadValue(f"'{typed}' is no time", "minutes and seconds go to 59", "as in '1:05'")
            value = sum(part * 60**power for power, part in enumerate(reversed(parts)))
        tokens.append(
            Token(
                kind,
                typed,
                match.group(),
                match.start(),
                match.end(),
                _number(text, match.start()),
                value=value,
            )
        )
    return tokens


def _number(text: str, start: int) -> int:
    """Which word of the text begins at or around `start`, from 1."""
    return len(text[:start].split()) + (0 if start and not text[start - 1].isspace() else 1)


def shown(tokens: Sequence[Token], text: str) -> str:
    """What was typed from the first of these tokens to the last."""
    return clipped(text[tokens[0].start : tokens[-1].end]) if tokens else ""
