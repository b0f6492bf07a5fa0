"""Which class of a judge a species is, however its name is written.

Names are compared by `species_key` (letters only), scientific names first: those hardly differ between
lists. What could be two species is none: it is named, and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from birdsd.errors import likeness, nearest
from birdsd.evaluation.judges.aliases import ALIASES, CODES, SAME_GENUS
from birdsd.sound.species.names import read_names, species_key, tidy_name

_SPELLINGS = (("grey", "gray"), ("coloured", "colored"))
_CLOSE = 0.75


def code_of(name: str) -> str:
    """The four-letter code of a common name by the banding offices' rule: TOWA, YRWA, EAWP, BCNH.

    >>> code_of("Townsend's Warbler"), code_of("Eastern Wood-Pewee")
    ('TOWA', 'EAWP')
    """
    plain = re.sub(r"['’.]", "", name)
    words = [word for word in re.split(r"[\s-]+", plain) if word]
    if len(words) == 1:
        taken = words[0][:4]
    elif len(words) == 2:
        taken = words[0][:2] + words[1][:2]
    elif len(words) == 3 and re.search(r"\S\s+\S+-\S+$", plain):
        taken = words[0][:2] + words[1][:1] + words[2][:1]
    elif len(words) == 3:
        taken = words[0][:1] + words[1][:1] + words[2][:2]
    else:
        taken = "".join(word[:1] for word in words[:4])
    return taken.upper()


class SpeciesNames:
    """The classes' labels ('Scientific name_Common name'), found by any spelling of a species."""

    def __init__(self, labels: Sequence[str]) -> None:
        halves = [label.partition("_") for label in labels]
        self._common = [common or first for first, _, common in halves]
        self._latin = [first for first, _, _ in halves]
        self._numbers: dict[str, int] = {}
        for number, (first, _, _) in enumerate(halves):
            self._numbers[_key(first)] = number
        for number, common in enumerate(self._common):
            self._numbers.setdefault(_key(common), number)
        for name, latin in ALIASES.items():
            if _key(latin) in self._numbers:
                self._numbers.setdefault(_key(name), self._numbers[_key(latin)])
        self._by_code: dict[str, list[int]] = {}
        for number, common in enumerate(self._common):
            self._by_code.setdefault(code_of(common), []).append(number)
        for code, name in CODES.items():  # the offices' own, where the rule alone would give two
            if _key(name) in self._numbers:
                self._by_code[code] = [self._numbers[_key(name)]]

    def common(self, number: int) -> str:
        """The common name of a class."""
        return self._common[number]

    def find(self, species: str) -> int | None:
        """The class of a species: by its scientific name, its common one, a known other name, or its code."""
        for key in _keys(species):
            if key in self._numbers:
                return self._numbers[key]
        coded = self._of_code(species)
        return coded[0] if len(coded) == 1 else None

    def why_unknown(self, species: str) -> str:
        """What to say of a name without a class: which species its code could be, or the nearest name."""
        coded = self._of_code(species)
        if len(coded) > 1:
            several = " or ".join(self._common[number] for number in coded[:3])
            return f"'{species}': {several}?"
        near = nearest(tidy_name(species), [*self._common, *self._latin], 1)[0]
        close = likeness(tidy_name(species), near) >= _CLOSE
        return f"'{species}': did you mean '{near}'?" if close else f"'{species}'"

    def _of_code(self, species: str) -> list[int]:
        code = species.strip().upper()
        return self._by_code.get(code, []) if re.fullmatch(r"[A-Z]{4}", code) else []


def _key(name: str) -> str:
    key = species_key(name)
    for written, ours in _SPELLINGS:
        key = key.replace(written, ours)
    return key


def _keys(species: str) -> Iterator[str]:
    """The keys that a name may be listed under, the most certain first."""
    latin = [scientific for scientific, _ in read_names(species).scientific]
    plain = " ".join(species.replace("_", " ").split())
    for name in [*latin, plain]:
        yield from _latin_keys(name)
    yield _key(species)


def _latin_keys(name: str) -> Iterator[str]:
    """Of a scientific name: as it is, without its subspecies, and under other names of its genus."""
    words = name.split()
    if len(words) not in (2, 3) or not all(word.isalpha() for word in words):
        return
    genus, epithet = words[0].casefold(), words[1]
    yield _key(name)
    if len(words) == 3:
        yield _key(f"{genus} {epithet}")
    for same in SAME_GENUS:
        if genus in same:
            yield from (_key(f"{other} {epithet}") for other in same if other != genus)


class NamedClasses:
    """A judge's classes by the names of species: what judges with such labels all answer alike.

    A judge sets `_species` before it is asked.
    """

    _species: SpeciesNames

    def class_of(self, species: str) -> int | None:
        """The class of a species, in any spelling; None where it has none or several would fit."""
        return self._species.find(species)

    def why_unknown(self, species: str) -> str:
        """What to say of a species without a class: the name, and what it may stand for."""
        return self._species.why_unknown(species)

    def label_of(self, number: int) -> str:
        """The common name of a class."""
        return self._species.common(number)
