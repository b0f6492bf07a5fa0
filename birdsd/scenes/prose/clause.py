"""One clause of a sentence: a bird or a background, and everything that is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from birdsd.errors import Mismatch
from birdsd.scenes.scene import Span


@dataclass(frozen=True)
class Place:
    """An environment with its loudness word, '' where none is said."""

    environment: str
    source: str
    loudness: str = ""


@dataclass
class Clause:
    """What was said of one bird, or of a background where `species` is ''. None: nothing was said."""

    word: int  # where it begins
    species: str = ""
    count: int = 1
    individual: str = ""  # "another", "same"
    definite: bool = False  # "the House Sparrow"
    sound_type: str = ""
    once: bool = False  # "a song", not "singing"
    backgrounds: tuple[Place, ...] = ()
    silent: bool = False  # a clause that says that there is no bird
    places: tuple[Place, ...] | None = None  # () where a place was taken away
    loudness: str | None = None
    snr_db: float | None = None
    level_db: float | None = None
    onset_s: float | None = None
    until_s: float | None = None
    until: str | None = None
    lasting_s: float | None = None
    gap_s: Span | None = None
    middle: bool | None = None
    repeat: int | None = None
    every_s: float | None = None
    pauses_s: Span | None = None
    distance_m: float | None = None
    bearing_deg: float | None = None
    bearing_end_deg: float | None = None
    elevation_deg: float | None = None
    at_once: bool | None = None  # "at the same time" behind the birds of which it is said
    heard: bool | None = None  # "heard": with no sound of its own, also at the end of a list
    link: str = ""  # what joins it to the clause before it: AND, WHILE
    listed: bool = False  # joined by a comma alone
    front: frozenset[str] = frozenset()  # what was said before its name
    alternatives: list[Clause] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)  # field -> the words that said it

    def say(self, words: str, **values: Any) -> None:
        """Note what `words` say; `UserError` where other words said something of the same kind before."""
        for name, value in values.items():
            if (before := self.said.get(name)) is not None:
                raise Mismatch(
                    f"'{before}' and '{words}' say two things about {self.species or 'what follows'}",
                    f"one {_CALLED.get(name, name.partition('_')[0])} is possible",
                    "leave one of them out, or use two clauses with 'then' between them",
                )
            setattr(self, name, value)
            self.said[name] = words

    def check(self) -> None:
        """`UserError` where two things are said of which only one could act."""
        for one, other in _CONTRARY:
            if one not in self.said or other not in self.said or self.said[one] == self.said[other]:
                continue
            if one == "loudness" and self.said[one] == self.said.get("distance_m"):
                continue  # "in the distance": the number says how loud, and the words how far
            if one == "gap_s" and self.gap_s == LATER_S:
                continue  # "later, at 20 s"
            raise Mismatch(
                f"'{self.said[one]}' and '{self.said[other]}' are both said of the {self.species}",
                f"only one of them can decide its {_CALLED.get(other, other)}", "leave one of them out",
            )  # fmt: skip

    @property
    def timed(self) -> bool:
        """Whether it says when it sounds, or how often."""
        times = ("onset_s", "until_s", "until", "lasting_s", "middle", "every_s", "gap_s")
        return any(getattr(self, name) is not None for name in times)

    @property
    def bare(self) -> bool:
        """Whether it is a name and nothing more, which may share what is said of the next."""
        said = set(self.said) - {"loudness", "distance_m"} - (self.front & {"at_once"})
        return bool(self.species) and not said and not self.sound_type

    def share(self, other: Clause) -> None:
        """Take over what was said behind the name of another clause, and not of this one."""
        for item in fields(other):
            if item.name in other.said and item.name not in {*self.said, *other.front, "gap_s"}:
                self.say(other.said[item.name], **{item.name: getattr(other, item.name)})
        self.sound_type = self.sound_type or other.sound_type


LATER_S, SOON_S = (2.0, 5.0), (0.05, 0.05)
# Of what is said of a bird, what would say the same in another way.
_CONTRARY = (
    ("loudness", "snr_db"), ("loudness", "level_db"), ("snr_db", "level_db"), ("middle", "onset_s"),
    ("gap_s", "onset_s"), ("gap_s", "middle"), ("pauses_s", "every_s"),
)  # fmt: skip
_CALLED = {
    "onset_s": "onset", "until_s": "end", "gap_s": "gap", "snr_db": "level", "level_db": "level",
    "places": "place",
    "bearing_deg": "direction", "lasting_s": "length", "pauses_s": "pause", "every_s": "pause",
    "middle": "onset",
}  # fmt: skip
