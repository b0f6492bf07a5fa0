"""A cursor over tokens, and what every rule of the grammar reads with it: times, numbers, phrases."""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn

from birdsd.errors import BadValue, likeness, nearest
from birdsd.scenes.prose import words
from birdsd.scenes.prose.tokens import CLOCK, END, ENVIRONMENT, NUMBER, SPECIES, WORD, Sentence, Token, shown
from birdsd.scenes.vocabulary import Vocabulary
from birdsd.sound.species.wordlists import SOUND_TYPES

_CLOSE = 0.7


class Reader:
    """Where the grammar stands in a sentence. Rules that find nothing leave it where it was."""

    def __init__(self, sentence: Sentence, vocabulary: Vocabulary) -> None:
        self.sentence, self.vocabulary = sentence, vocabulary
        self.tokens = sentence.tokens
        self.at = 0
        types = {one.lower() for held in vocabulary.sound_types.values() for one in held} | SOUND_TYPES
        self._types = sorted((tuple(one.split()) for one in types if one), key=len, reverse=True)

    def peek(self, ahead: int = 0) -> Token:
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def low(self, ahead: int = 0) -> str:
        """The word that stands here; '' for a name, which is never a word of the grammar."""
        token = self.peek(ahead)
        return "" if token.kind in (SPECIES, ENVIRONMENT, END) else token.low

    def take(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def phrase(self, *lows: str | Collection[str]) -> bool:
        """Take these words, each given as itself or as several that may stand there; or none of them."""
        for ahead, wanted in enumerate(lows):
            low = self.low(ahead)
            if not low or not (low == wanted if isinstance(wanted, str) else low in wanted):
                return False
        self.at += len(lows)
        return True

    def typed(self, start: int) -> str:
        """What was typed from token `start` to here."""
        return shown(self.tokens[start : self.at], self.sentence.text)

    def say(self, reading: str) -> None:
        """Note how something was read that has two readings."""
        if reading not in self.sentence.readings:
            self.sentence.readings.append(reading)

    # ------------------------------------------------------------------------------------- errors

    def fail(self, start: int, rule: str, way_out: str = "", stop: int | None = None) -> NoReturn:
        """The error for tokens from `start` to `stop`, or to the end of the words that nobody knows."""
        known = stop is not None  # as words; it is what they say together that cannot be
        tokens = self.tokens[start : self._unknown_run(start) if stop is None else stop]
        if not tokens or tokens[0].kind == END:
            raise BadValue("the sentence ends too early", rule, way_out)
        raise BadValue(
            f"'{shown(tokens, self.sentence.text)}' at word {tokens[0].number} "
            f"{'is refused' if known else 'is not understood'}",
            rule,
            way_out,
        )

    def _unknown_run(self, start: int) -> int:
        stop = start + 1
        known = set(words.ALL)
        while stop < len(self.tokens) - 1 and stop - start < 8:
            token = self.tokens[stop]
            if token.kind in (SPECIES, ENVIRONMENT) or token.low in known or token.low in ",;.:":
                break
            stop += 1
        return min(stop, len(self.tokens))

    def nearest_word(self, start: int) -> str:
        """A hint at the word of the grammar that is most like the one at `start`, '' where none is."""
        word = self.tokens[start].low
        if word in words.ALL:
            return ""
        near = nearest(word, words.ALL, 1)[0] if word else ""
        return f"Did you mean '{near}'?" if near and likeness(word, near) >= _CLOSE else ""

    # ------------------------------------------------------------------------------- small things

    def number(self, ahead: int = 0) -> float | None:
        """The number that stands here, in digits or as a word; nothing is taken."""
        token = self.peek(ahead)
        if token.kind == NUMBER:
            return token.value
        return float(words.NUMBERS[token.low]) if token.kind == WORD and token.low in words.NUMBERS else None

    def clock(self) -> float | None:
        """A time of day of the scene, 0:12, in seconds; taken."""
        return self.take().value if self.peek().kind == CLOCK else None

    def duration(self) -> float | None:
        """A time with its unit, in seconds: '12 s', '2 min 5 s', 'half a minute', '1:30'; or None, and
        nothing
        is taken."""
        if (value := self.clock()) is not None:
            return value
        start, total, finest = self.at, 0.0, float("inf")
        while True:
            before = self.at
            if total:
                self.phrase("and")
            part = self._with_unit(first=not total)
            if part is None or part[1] >= finest:
                self.at = before
                break
            total += part[0] * part[1]
            finest = part[1]
            if part[0] == 0:
                return total
        if not total:
            self.at = start
            return None
        return total

    def _with_unit(self, first: bool) -> tuple[float, float] | None:
        start = self.at
        value: float | None = None
        if first and self.phrase("half", ("a", "an")):
            value = 0.5
        elif first and self.low() in ("a", "an"):
            self.take()
            value = 1.0
        else:
            value = self.number()
            self.at += value is not None
        self.phrase("-")
        unit = words.UNITS_S.get(self.low())
        if value is None or unit is None:
            self.at = start
            return None
        self.take()
        if self.phrase("and", "a", "half"):
            value += 0.5
        return value, unit

    def measure(self, units: Collection[str]) -> float | None:
        """A number with one of these units; taken, or nothing."""
        start = self.at
        value = self.number()
        if value is not None:
            self.at += 1
            self.phrase("-")
            if self.low() in units:
                self.take()
                return value
        self.at = start
        return None

    def metres(self) -> float | None:
        """A distance in metres; taken, or None."""
        value = self.measure(words.METRES)
        return None if value is None else value * words.METRES[self.low(-1)]

    def sound_type(self) -> str | None:
        """A type of sound by its name, the longest that stands here: 'alarm call'; taken, or None."""
        for one in self._types:
            lows = [self.low(ahead) for ahead in range(len(one))]
            if tuple(lows) == one or (lows[:-1] == list(one[:-1]) and lows[-1] == f"{one[-1]}s"):
                self.at += len(one)
                return " ".join(one)
        return None

    def loudness(self) -> str | None:
        """A loudness word, with 'very' before it; taken, or None."""
        both = f"{self.low()} {self.low(1)}"
        if both in words.LOUDNESS:
            self.at += 2
            return both
        if self.low() in words.LOUDNESS:
            return self.take().low
        return None

    def leads_to(self, kind: str) -> bool:
        """Whether a name of this kind comes next, after articles, numbers and adjectives alone."""
        before = {"very", "of", "pair", "same", "another", "recording", "sound", "hear", *words.ARTICLES}
        before |= words.LOUDNESS | words.FAR | words.VAGUE | {"nearby", "no"}
        start = self.at
        try:
            while self.peek().kind not in (SPECIES, ENVIRONMENT, END):
                if self.low() in before or (kind == SPECIES and self.number() is not None):
                    self.at += 1
                elif kind != SPECIES or self.sound_type() is None or not self.phrase("of"):
                    return False
            return self.peek().kind == kind
        finally:
            self.at = start
