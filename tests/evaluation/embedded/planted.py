"""Synthetic embeddings whose truth is known: species, recordings within them, clips within those."""

from __future__ import annotations

import numpy as np

from birdsd.evaluation.embedded.quality import Embedded

WIDTH = 24


def clips(
    species: range, recordings: range, each: int, seed: int, between: float = 0.5, within: float = 0.25
) -> Embedded:
    """`each` clips of every recording of every species. A species' place depends on its number alone, a
    recording's on (species, recording); what `seed` draws is the clips'."""
    rows, names, of = [], [], []
    draw = np.random.default_rng([7, seed])
    for kind in species:
        centre = np.abs(np.random.default_rng([1, kind]).normal(size=WIDTH)) * 2
        for number in recordings:
            place = centre + between * np.random.default_rng([2, kind, number]).normal(size=WIDTH)
            for _ in range(each):
                rows.append(place + within * draw.normal(size=WIDTH))
                names.append(f"species {kind}")
                of.append(f"XC{kind}-{number}")
    return Embedded.of(rows, names, of)


def alone(found: Embedded) -> Embedded:
    """The same as generated clips: each one of its own."""
    own = np.array([f"made {number}" for number in range(len(found))])
    return Embedded(found.embeddings, found.species, own, own)
