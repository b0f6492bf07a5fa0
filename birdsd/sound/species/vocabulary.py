"""One name for each species of a set, whatever it was called in which file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from birdsd.remarks import Remark
from birdsd.sound.species.names import species_key


@dataclass
class Vocabulary:
    """All names of a set; it gives each species one spelling, and says which names it took for one."""

    _spellings: dict[str, dict[str, int]] = field(default_factory=dict)
    _synonyms: dict[str, set[str]] = field(default_factory=dict)

    def add(self, name: str) -> None:
        """Count a species' name as it was written."""
        counts = self._spellings.setdefault(species_key(name), {})
        counts[name] = counts.get(name, 0) + 1

    def equate(self, scientific: str, common: str) -> None:
        """A source that gives a species both names."""
        a, b = species_key(scientific), species_key(common)
        if a and b and a != b:
            self._synonyms.setdefault(a, set()).add(b)

    def names(self) -> dict[str, str]:
        """Spelling as written -> the name of its species in this set."""
        chosen = {
            key: min(counts, key=lambda name: _rank(name, counts)) for key, counts in self._spellings.items()
        }
        found: dict[str, str] = {}
        for key, counts in self._spellings.items():
            common = [one for one in self._synonyms.get(key, ()) if one in chosen]
            one = common[0] if len(self._synonyms.get(key, ())) == 1 and common else key
            found |= dict.fromkeys(counts, chosen[one])
        return found

    def findings(self) -> list[str]:
        """What a person should know: names taken for one species, and others that are nearly equal."""
        merged: dict[str, list[str]] = {}
        for written, name in self.names().items():
            merged.setdefault(name, []).append(written)
        findings: list[str] = [
            Remark(f"'{name}' is also written {_quoted(set(written) - {name})}: one species", "one-species")
            for name, written in sorted(merged.items())
            if len(set(written)) > 1
        ]
        names = sorted(merged)
        findings += [
            Remark(
                f"'{a}' and '{b}' are nearly equal and counted as two species: "
                "rename one if they are the same",
                "nearly-equal-names",
                names=[a, b],
            )
            for a, b in near_equal(names)
        ]
        codes = {code: name for name in names for code in banding_codes(name)}
        findings += [
            Remark(
                f"'{name}' may be the code of '{codes[name.upper()]}': they are counted as two species",
                "name-or-code",
                names=[name, codes[name.upper()]],
            )
            for name in names
            if name.upper() in codes and codes[name.upper()] != name
        ]
        return findings


def _quoted(names: set[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)[:5]) + (", ..." if len(names) > 5 else "")


def _rank(name: str, counts: dict[str, int]) -> tuple[bool, bool, bool, int, int, str]:
    """The spelling to show: no odd signs, not all capitals, with apostrophe and hyphen, the most frequent."""
    words = [word for word in name.split() if word[:1].isalpha()]
    proper = sum(word[:1].isupper() for word in words)
    odd = any(not (c.isalnum() or c in " '-.()") for c in name)
    return odd, name.isupper(), "'" not in name and "-" not in name, -proper, -counts[name], name


def near_equal(names: list[str]) -> list[tuple[str, str]]:
    """Pairs of names that one slip of the finger makes equal (a letter changed, lost, added or swapped)."""
    keys = {name: species_key(name) for name in names}
    neighbours: dict[str, list[str]] = {}
    for name, key in keys.items():
        if len(key) >= 8:
            # Two keys within one slip share the key with one letter deleted (swaps: two deletions in a row).
            for at in range(len(key) + 1):
                neighbours.setdefault(key[:at] + key[at + 1 :], []).append(name)
    pairs = {
        (a, b)
        for group in neighbours.values()
        for i, a in enumerate(sorted(set(group)))
        for b in sorted(set(group))[i + 1 :]
        if keys[a] != keys[b] and _one_slip(keys[a], keys[b])
    }
    return sorted(pairs)


def _one_slip(a: str, b: str) -> bool:
    if len(a) == len(b):
        differs = [at for at in range(len(a)) if a[at] != b[at]]
        if len(differs) == 1:
            return not (a[differs[0]].isdigit() and b[differs[0]].isdigit())  # 'Song 1' and 'Song 2'
        return len(differs) == 2 and a[differs[0]] == b[differs[1]] and a[differs[1]] == b[differs[0]]
    shorter, longer = sorted((a, b), key=len)
    return len(longer) - len(shorter) == 1 and any(
        longer[:at] + longer[at + 1 :] == shorter for at in range(len(longer))
    )


def banding_codes(name: str) -> set[str]:
    """The four-letter (AMRO) and six-letter (AMEROB) codes that a common name gets by the usual rules."""
    words = [word for word in re.split(r"[^A-Za-z]+", name.replace("'", "")) if word]
    if len(words) < 2:
        return {words[0][:4].upper()} if words and len(words[0]) > 4 else set()
    codes = {words[0][:2] + words[-1][:2], words[0][:3] + words[-1][:3]}
    if len(words) == 3:
        codes.add(words[0][:1] + words[1][:1] + words[2][:2])
    if len(words) == 4:
        codes.add("".join(word[:1] for word in words))
    return {code.upper() for code in codes}
