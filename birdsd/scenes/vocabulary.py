"""What a model may be asked for: its species and what else they are called, their sounds, its
environments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from birdsd.errors import NotFound, NothingLeft, UnknownName, clipped, listed_names, unknown_name
from birdsd.sound.species.names import read_names, species_key
from birdsd.sound.species.vocabulary import banding_codes


@dataclass(frozen=True)
class Vocabulary:
    """The names that a model knows, as they stand in its captions.

    `sound_types`: species -> the types that it was taught; a species that is missing there was taught
    without, or nobody wrote it down. `scientific`: scientific name -> species. `pool`: environments of which
    there are recordings. `rate_hz` and `clip_s` are its codec's, 0 where it has none.
    """

    species: tuple[str, ...]
    environments: tuple[str, ...] = ()
    sound_types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scientific: Mapping[str, str] = field(default_factory=dict)
    pool: tuple[str, ...] = ()
    rate_hz: int = 0
    clip_s: float = 0.0

    def other_names(self) -> dict[str, str]:
        """Scientific names and banding codes -> species; a code of two species is none."""
        codes: dict[str, set[str]] = {}
        for name in self.species:
            for code in banding_codes(name):
                codes.setdefault(code, set()).add(name)
        only = {code: next(iter(names)) for code, names in codes.items() if len(names) == 1}
        return {**only, **self.scientific}

    def short_names(self) -> dict[str, tuple[str, ...]]:
        """Ends of names in lower case -> the species that end so: 'sparrow' -> (House Sparrow, ...)."""
        found: dict[str, list[str]] = {}
        for name in self.species:
            words = name.split()
            for at in range(1, len(words)):
                found.setdefault(" ".join(words[at:]).lower(), []).append(name)
        return {end: tuple(names) for end, names in found.items()}

    def find_species(self, name: str) -> str | None:
        """The species of a common name in any spelling, a scientific name, a label of BirdNET's, or a
        code."""
        if name in self.species:
            return name
        others = self.other_names()
        if name.strip() in others:
            return others[name.strip()]
        by_key = {species_key(one): one for one in self.species}
        by_key |= {species_key(latin): one for latin, one in self.scientific.items()}
        read = read_names(name)
        for one in (name, *read.species, *(latin for latin, _ in read.scientific)):
            if (found := by_key.get(species_key(one))) is not None:
                return found
        return None

    def the_species(self, name: str, place: str = "") -> str:
        """`find_species`, or a `UserError` that names the nearest; `place` says where the name stands."""
        found = self.find_species(name)
        if found is None:
            raise unknown_name(f"species{f' in {place}' if place else ''}", name, self.species)
        return found

    def the_environment(self, name: str, place: str = "") -> tuple[str, str]:
        """(name, source) of an environment: generated where the model knows it, else from the pool."""
        wanted = _plain(name)
        for known, source in ((self.environments, "generate"), (self.pool, "pool")):
            for one in known:
                if _plain(one) == wanted:
                    return one, source
        kind, from_pool = f"environment{f' in {place}' if place else ''}", "pool=FOLDER with recordings of it"
        if not self.environments and not self.pool:
            raise UnknownName(
                f"unknown {kind} '{clipped(name)}'", "the model was taught none, and there are no recordings",
                f"{from_pool}, or leave it out",
            )  # fmt: skip
        raise unknown_name(kind, name, [*self.environments, *self.pool], f"else {from_pool}")

    def the_type(self, species: str, sound_type: str, place: str = "") -> str:
        """A sound type as the species' captions have it; `UserError` for one that it was never taught."""
        known = self.sound_types.get(species, ())
        wanted = _plain(sound_type)
        if not known or not wanted:
            return sound_type
        for one in known:
            if wanted in (_plain(one), f"{_plain(one)}s") or _plain(one) == f"{wanted}s":
                return one
        if wanted in ("drumming", "drum", "drums"):
            for one in known:
                if _plain(one) in ("drumming", "drum", "drums"):
                    return one
        raise UnknownName(
            f"{f'{place}: ' if place else ''}the model was never taught '{clipped(sound_type)}' of {species}",
            f"it knows {listed_names(sorted(known), sound_type)}",
            "ask for one of these, or leave the type out",
        )

    def with_scientific(self, labels: Iterable[str]) -> Vocabulary:
        """With the scientific names that labels like 'Sayornis nigricans_Black Phoebe' give its species."""
        known = {species_key(name): name for name in self.species}
        pairs = (label.partition("_") for label in labels)
        found = {
            latin: known[species_key(common)] for latin, _, common in pairs if species_key(common) in known
        }
        return replace(self, scientific={**found, **self.scientific})


def vocabulary_of(
    told: Iterable[Mapping[str, Any]], codec: Any = None, pool: Iterable[str] = ()
) -> Vocabulary:
    """From what models say of their training (training.json), the lowest first; additions add to it.

    `codec`: a `Codec`, for rate and length of a clip.
    """
    species: dict[str, None] = {}
    environments: dict[str, None] = {}
    types: dict[str, dict[str, None]] = {}
    scientific: dict[str, str] = {}
    for facts in told:
        species.update(dict.fromkeys(map(str, facts.get("species") or ())))
        environments.update(dict.fromkeys(map(str, facts.get("environments") or ())))
        scientific.update(facts.get("scientific") or {})
        for name, held in (facts.get("sound_types") or {}).items():
            types.setdefault(str(name), {}).update(dict.fromkeys(map(str, held)))
    return Vocabulary(
        tuple(species),
        tuple(environments),
        {name: tuple(held) for name, held in types.items()},
        scientific,
        tuple(name for name in pool if name not in environments),
        int(codec.rate_hz) if codec is not None else 0,
        float(codec.clip_s) if codec is not None else 0.0,
    )


def vocabulary_of_run(folder: Path, base: str | None = None, pool: Iterable[str] = ()) -> Vocabulary:
    """The vocabulary of a finished run or of an exported model, of what it stands on too.

    Nothing is loaded but JSON. `UserError` where the folder holds no model, or one that names no species.
    """
    from birdsd.diffusion.adapters import chain
    from birdsd.diffusion.export import read_codec, read_training
    from birdsd.sound.codec.protocol import Codec

    under, additions = chain(folder, base)
    lowest = [one for one in (Path(under), Path(under) / "export") if (one / "training.json").is_file()]
    if not lowest and not additions:
        raise NotFound(
            f"{folder} holds no model that says what it was taught",
            "expected a finished run, or an exported model with its training.json",
            "finish the run first, or name another model",
        )
    places = [*lowest[:1], *(one.folder for one in additions)]
    with_codec = next((one for one in reversed(places) if (one / "codec.json").is_file()), places[0])
    codec = Codec.from_json(read_codec(with_codec))
    told = [*map(read_training, lowest[:1]), *(one.training for one in additions)]
    found = vocabulary_of(told, codec, pool)
    if not found.species:
        raise NothingLeft(
            f"{folder} names no species that it was taught",
            "a scene asks a model for species by name",
            "train it on labelled recordings, or name another model",
        )
    return found


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[\s_-]+", " ", str(name)).split()).casefold()
