"""A species' name as BirdNET labels it: `Scientific name_Common name`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from birdsd.errors import UserError
from birdsd.evaluation.judges import birdnet
from birdsd.evaluation.judges.judge import Judge
from birdsd.sound.species.names import read_names


def birdnet_label() -> Callable[[str], str]:
    """What gives a species its label: BirdNET's own where it is installed and knows the species, else what
    the name itself says of both; a name that says one of them stays as it is."""
    judge = _birdnet()
    return lambda species: label_of(species, judge)


def names_of_one_species(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of `names` that are one species to BirdNET ('Black Phoebe', 'Sayornis nigricans'), each and all
    sorted; none where it is not installed."""
    judge = _birdnet()
    groups: dict[int, list[str]] = {}
    for name in sorted(set(names)):
        number = judge.class_of(name) if judge is not None else None
        if number is not None:
            groups.setdefault(number, []).append(name)
    return sorted(tuple(group) for group in groups.values() if len(group) > 1)


def _birdnet() -> Judge | None:
    try:
        return birdnet.find_judge()
    except UserError:
        return None


def label_of(species: str, judge: Judge | None) -> str:
    """The label of one species, by a judge whose classes are labels."""
    number = judge.class_of(species) if judge is not None else None
    if judge is not None and number is not None:
        return judge.names[number]
    for scientific, common in read_names(species).scientific:
        if common and common != scientific:
            return f"{scientific}_{common}"
    return species
