"""Which class of a judge a species is, however its name is written."""

from __future__ import annotations

from collections.abc import Sequence

from birdsd.sound.names import read_names, species_key

# Forms that were split off or lumped since, and names that other lists give: all of them one class there.
_ALIASES = {
    "Myrtle Warbler": "Setophaga coronata",
    "Audubon's Warbler": "Setophaga coronata",
}


class SpeciesNames:
    """The classes' labels ('Scientific name_Common name'), found by any spelling of a species."""

    def __init__(self, labels: Sequence[str]) -> None:
        halves = [label.partition("_") for label in labels]
        self._common = [common or first for first, _, common in halves]
        self._scientific = {species_key(first): number for number, (first, _, _) in enumerate(halves)}
        self._by_common = {species_key(name): number for number, name in enumerate(self._common)}
        self._aliases = {species_key(name): species_key(latin) for name, latin in _ALIASES.items()}

    def common(self, number: int) -> str:
        """The common name of a class."""
        return self._common[number]

    def find(self, species: str) -> int | None:
        """The class of a species, by its scientific name first; None where it has none."""
        latin = [species_key(scientific) for scientific, _ in read_names(species).scientific]
        keys = [*latin, species_key(species)]
        for key in [*keys, *(self._aliases[key] for key in keys if key in self._aliases)]:
            for table in (self._scientific, self._by_common):
                if key in table:
                    return table[key]
        return None
