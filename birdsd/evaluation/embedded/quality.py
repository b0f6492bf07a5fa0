"""Generated clips measured between a floor of real recordings and a ceiling of wrong species.

Every row has the same number of clips, for no figure compares across sizes. The floor is real clips of
recordings that the model never saw against those that it learnt from; the ceiling is real clips of other
species. What is too small to mean something is refused with a sentence, and the rest is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from birdsd.evaluation.embedded.distances import (
    COMPONENTS,
    frechet_distance,
    kernel_distance,
    kernel_width,
    nearest,
    overlap,
    principal,
    spread,
)
from birdsd.evaluation.resampling import Interval, mean_interval
from birdsd.format import table
from birdsd.randomness import generator

LEAST_KAD, LEAST_OVERLAP, LEAST_SPECIES, LEAST_HELD_OUT = 200, 400, 50, 20
COPY = 0.05  # of held-out clips lie nearer to training than the threshold
MOST_PAIRS_SHOWN = 20
FLOOR, GENERATED, CEILING = "floor", "generated", "ceiling"
_TITLES = {
    FLOOR: "real, other recordings (floor)", GENERATED: "generated", CEILING: "real, wrong species (ceiling)",
}  # fmt: skip


@dataclass(frozen=True)
class Embedded:
    """Clips of one kind: embeddings float32 [clips, width]; species, recording and name of each, str
    [clips]."""

    embeddings: np.ndarray
    species: np.ndarray
    recordings: np.ndarray
    names: np.ndarray

    @classmethod
    def of(
        cls, embeddings: Sequence[np.ndarray], species: Sequence[str], recordings: Sequence[str],
        names: Sequence[str] = (),
    ) -> Embedded:  # fmt: skip
        """From sequences; without names clips are called by their numbers."""
        own = list(names) or [str(number) for number in range(len(species))]
        width = len(embeddings[0]) if len(embeddings) else 1
        table = np.asarray(embeddings, dtype=np.float32).reshape(len(species), width)
        return cls(
            table, np.array(species, dtype=str), np.array(recordings, dtype=str), np.array(own, dtype=str)
        )

    def __len__(self) -> int:
        return len(self.embeddings)

    def at(self, places: np.ndarray) -> Embedded:
        """Some of them."""
        return Embedded(
            self.embeddings[places], self.species[places], self.recordings[places], self.names[places]
        )

    def __add__(self, other: Embedded) -> Embedded:
        return Embedded(
            *(
                np.concatenate([getattr(self, name), getattr(other, name)])
                for name in ("embeddings", "species", "recordings", "names")
            )
        )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One set of clips against the training clips, `clips` of each; None where it was refused."""

    kind: str
    title: str
    clips: int
    kad: Interval | None = None
    kad_p: float | None = None  # of no difference, by dealing recordings anew
    density: Interval | None = None
    coverage: Interval | None = None
    precision: float | None = None
    recall: float | None = None
    fad: float | None = None  # on 64 components
    fad_ratio: float | None = None  # to the floor


@dataclass(frozen=True)
class Copies:
    """How near clips lie to the training clips of their species: cosine distances; 0 is a copy."""

    threshold: float  # 5% of held-out clips are nearer
    held_out: float  # median of their distances
    generated: float
    rate: Interval  # share of generated clips that are nearer than the threshold; 0.05 is expected
    pairs: list[tuple[str, str, float]] = field(default_factory=list)  # (generated, training, distance)

    @property
    def copied(self) -> bool:
        """Clearly more than held-out recordings are."""
        return self.rate.low > COPY


@dataclass(frozen=True)
class Variety:
    """Mean cosine distance between clips of one species, from different recordings."""

    real: Interval
    generated: Interval

    @property
    def ratio(self) -> float:
        """1: as varied as real recordings; 0: all alike."""
        return self.generated.estimate / self.real.estimate if self.real.estimate else float("nan")


@dataclass(frozen=True)
class SpeciesDistance:
    """KAD of one species' clips, beside the floor of the same size where there is one."""

    species: str
    clips: int
    kad: Interval
    floor: Interval | None


@dataclass(frozen=True)
class Quality:
    """What was measured in the embedding; `refused`: figure -> why it is not told."""

    rows: list[Row]
    copies: Copies | None
    variety: Variety | None
    by_species: list[SpeciesDistance]
    refused: dict[str, str]
    counts: dict[str, int]

    def row(self, kind: str) -> Row | None:
        """The row of a kind of clips."""
        return next((row for row in self.rows if row.kind == kind), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        values = asdict(self)
        if self.variety:
            values["variety"]["ratio"] = self.variety.ratio
        if self.copies:
            values["copies"]["copied"] = self.copies.copied
        return values

    def sentences(self) -> list[str]:
        """What it comes to, one statement each."""
        found = []
        made, floor, ceiling = (self.row(kind) for kind in (GENERATED, FLOOR, CEILING))
        if made and made.kad and floor and floor.kad:
            place = f"KAD {made.kad.estimate:.2f}, where other real recordings have {floor.kad.estimate:.2f}"
            place += f" and wrong species {ceiling.kad.estimate:.2f}" if ceiling and ceiling.kad else ""
            told = made.kad_p is not None and made.kad_p < 0.05
            found.append(
                f"{place}: {'told apart from' if told else 'not distinguishable from'} the training clips."
            )
        if self.copies:
            found.append(
                f"{self.copies.rate.estimate:.0%} of generated clips lie nearer to a training clip than 95% "
                "of held-out clips do (5% is expected)"
                + (": training clips were copied, and no other figure counts." if self.copies.copied else ".")
            )
        if made and made.coverage and floor and floor.coverage:
            found.append(
                f"Coverage {made.coverage.estimate:.2f}, where other real recordings have "
                f"{floor.coverage.estimate:.2f}."
            )
        if self.variety:
            found.append(f"Within a species they are {self.variety.ratio:.0%} as varied as real recordings.")
        return found

    def text(self) -> str:
        """For a terminal."""
        head = ["against training clips", "clips", "KAD", "p", "density", "coverage", "FAD / floor"]
        lines = table([head, *([
            row.title, str(row.clips), _shown(row.kad), "-" if row.kad_p is None else f"{row.kad_p:.3f}",
            _shown(row.density), _shown(row.coverage),
            "-" if row.fad_ratio is None else f"{row.fad_ratio:.2f}",
        ] for row in self.rows)])  # fmt: skip
        lines += [*(f"refused: {what}: {why}" for what, why in self.refused.items()), *self.sentences()]
        return "\n".join(lines)


def _shown(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{interval.estimate:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def quality_of(
    training: Embedded, held_out: Embedded, generated: Embedded, *, resamples: int = 1_000, seed: int = 0
) -> Quality:
    """Measure generated clips. `training`: real clips that the model learnt from; `held_out`: of recordings
    that it never saw. Intervals are over recordings (a generated clip is one of its own)."""
    refused: dict[str, str] = {}
    sets = _equal_sets(training, held_out, generated, seed)
    clips = len(sets[GENERATED][1])
    rows = _rows(sets, clips, resamples, seed, refused)
    return Quality(
        rows, _copies(training, held_out, generated, resamples, seed, refused),
        _variety(training + held_out, generated, resamples, seed, refused),
        _by_species(training, held_out, generated, resamples, seed, refused), refused,
        {"training": len(training), "held_out": len(held_out), "generated": len(generated), "each": clips},
    )  # fmt: skip


def _equal_sets(
    training: Embedded, held_out: Embedded, generated: Embedded, seed: int
) -> dict[str, tuple[Embedded, Embedded]]:
    """kind -> (reference, what is measured), all of one size, species as evenly as they come."""
    names = sorted(set(training.species.tolist()))
    first, second = (np.isin(training.species, names[place::2]) for place in (0, 1))
    real = training + held_out
    others = real.at(np.flatnonzero(np.isin(real.species, names[1::2])))
    pairs = {FLOOR: (training, held_out), GENERATED: (training, generated)}
    if len(names) > 1 and second.any():
        pairs[CEILING] = training.at(np.flatnonzero(first)), others
    sizes = {kind: min(map(len, pair)) for kind, pair in pairs.items()}
    # A set that is too small for anything must not drag the others down with it.
    clips = min([sizes[GENERATED], *(n for kind, n in sizes.items() if n >= LEAST_KAD and kind != GENERATED)])
    return {
        kind: tuple(_chosen(one, clips, seed) for one in pair)  # type: ignore[misc]
        for kind, pair in pairs.items()
        if sizes[kind] >= clips
    }


def _chosen(clips: Embedded, count: int, seed: int) -> Embedded:
    """`count` of them: species in turn, within a species in a drawn order."""
    order = generator(seed, "chosen").permutation(len(clips))
    turn = np.zeros(len(clips), dtype=int)
    for name in set(clips.species.tolist()):
        own = order[clips.species[order] == name]
        turn[own] = np.arange(len(own))
    places = np.lexsort((np.argsort(order), turn))[:count]
    return clips.at(np.sort(places))


def _rows(
    sets: dict[str, tuple[Embedded, Embedded]], clips: int, resamples: int, seed: int, refused: dict[str, str]
) -> list[Row]:
    for least, what in ((LEAST_KAD, "KAD and FAD"), (LEAST_OVERLAP, "density and coverage")):
        if clips < least:
            refused[what] = f"{clips} clips in each set; below {least} they say nothing"
    if FLOOR not in sets:
        refused["floor"] = f"fewer than {clips} held-out clips: there is no floor to compare with"
    if CEILING not in sets:
        refused["ceiling"] = f"fewer than {clips} clips in each half of the species: there is no ceiling"
    width = kernel_width(sets[GENERATED][0].embeddings) if clips > 1 else 1.0
    project = principal(sets[GENERATED][0].embeddings) if clips >= max(LEAST_KAD, COMPONENTS) else None
    rows, floor = list[Row](), None
    for kind in (FLOOR, GENERATED, CEILING):
        if kind not in sets:
            continue
        reference, measured = sets[kind]
        values: dict[str, Any] = {}
        if project is not None:
            found = kernel_distance(
                reference.embeddings, measured.embeddings, reference.recordings, measured.recordings,
                width=width, resamples=resamples, seed=seed,
            )  # fmt: skip
            fad = frechet_distance(project(reference.embeddings), project(measured.embeddings))
            floor = fad if kind == FLOOR else floor
            values |= {"kad": found.interval, "kad_p": found.p_value, "fad": fad}
            values["fad_ratio"] = fad / floor if floor else None
        if clips >= LEAST_OVERLAP:
            both = overlap(reference.embeddings, measured.embeddings)
            options = {"resamples": resamples, "seed": seed}
            values |= {
                "precision": both.precision, "recall": both.recall,
                "density": mean_interval(both.dense, measured.recordings, **options),
                "coverage": mean_interval(both.covered, reference.recordings, **options),
            }  # fmt: skip
        rows.append(Row(kind, _TITLES[kind], clips, **values))
    return rows


def _copies(
    training: Embedded, held_out: Embedded, generated: Embedded, resamples: int, seed: int,
    refused: dict[str, str],
) -> Copies | None:  # fmt: skip
    def to_training(clips: Embedded) -> tuple[np.ndarray, np.ndarray]:
        return nearest(
            clips.embeddings, training.embeddings, clips.species[:, None] == training.species[None]
        )

    _, real = to_training(held_out) if len(held_out) and len(training) else (None, np.zeros(0))
    real = real[np.isfinite(real)]
    if len(real) < LEAST_HELD_OUT:
        refused["copies"] = (
            f"{len(real)} held-out clips of species in training; what is too near is known from "
            f"{LEAST_HELD_OUT} on"
        )
        return None
    places, made = to_training(generated)
    known = np.flatnonzero(np.isfinite(made))
    if not len(known):
        refused["copies"] = "no generated clip is of a species in training"
        return None
    threshold = float(np.quantile(real, COPY))
    rate = mean_interval(made[known] < threshold, generated.recordings[known], resamples=resamples, seed=seed)
    order = known[np.argsort(made[known], kind="stable")][:MOST_PAIRS_SHOWN]
    pairs = [(str(generated.names[n]), str(training.names[places[n]]), float(made[n])) for n in order]
    return Copies(threshold, float(np.median(real)), float(np.median(made[known])), rate, pairs)


def _variety(
    real: Embedded, generated: Embedded, resamples: int, seed: int, refused: dict[str, str]
) -> Variety | None:
    shared = sorted(set(real.species.tolist()) & set(generated.species.tolist()))
    intervals = []
    for clips in (real, generated):
        own = clips.at(np.flatnonzero(np.isin(clips.species, shared)))
        values = spread(own.embeddings, own.species, own.recordings) if len(own) else np.zeros(0)
        some = np.flatnonzero(np.isfinite(values))
        if not len(some):
            refused["variety"] = "no species has two clips of different recordings, real and generated"
            return None
        intervals.append(mean_interval(values[some], own.recordings[some], resamples=resamples, seed=seed))
    return Variety(*intervals)


def _by_species(
    training: Embedded, held_out: Embedded, generated: Embedded, resamples: int, seed: int,
    refused: dict[str, str],
) -> list[SpeciesDistance]:  # fmt: skip
    found, small = [], []
    for name in sorted(set(generated.species.tolist())):
        own, real, other = (
            clips.at(np.flatnonzero(clips.species == name)) for clips in (generated, training, held_out)
        )
        clips = (
            min(len(own), len(real), len(other)) if len(other) >= LEAST_SPECIES else min(len(own), len(real))
        )
        if clips < LEAST_SPECIES:
            small.append(name)
            continue

        def distance(measured: Embedded, count: int = clips, reference: Embedded = real) -> Interval:
            one, two = (_chosen(each, count, seed) for each in (reference, measured))
            return kernel_distance(
                one.embeddings, two.embeddings, one.recordings, two.recordings, resamples=resamples, seed=seed
            ).interval

        found.append(
            SpeciesDistance(name, clips, distance(own), distance(other) if len(other) >= clips else None)
        )
    if small:
        refused["KAD by species"] = (
            f"{len(small)} species have fewer than {LEAST_SPECIES} generated or training clips"
        )
    return found
