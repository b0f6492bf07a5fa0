"""Distances between two sets of embeddings: KAD, density and coverage, FAD on a few components, and
neighbours.

Each is blind to something: FAD to how few clips there are, KAD to little, precision to collapse, coverage to
sizes that differ, and all of them to copies of the training set, which only `nearest` sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from birdsd.evaluation.resampling import Interval, bootstrap, numbered, permutation_test

KAD_SCALE = 100.0
NEIGHBOURS = 5
COMPONENTS = 64
_MOST_PAIRS = 2_000  # clips whose pairwise distances give the kernel's width
_PERMUTATIONS = 999


def squared_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, float64 [one, other], never negative."""
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    table = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * a @ b.T
    return np.asarray(table.clip(0.0, None))


def kernel_width(reference: np.ndarray) -> float:
    """The median pairwise distance of the reference: of the real clips, never of what is measured with it."""
    some = reference[:: -(-len(reference) // _MOST_PAIRS)]
    table = np.sqrt(squared_distances(some, some))
    width = float(np.median(table[np.triu_indices(len(some), 1)]))
    return width if width > 0 else 1.0


@dataclass(frozen=True)
class KernelDistance:
    """KAD: 100 times the unbiased MMD^2 with a Gaussian kernel. Around 0, and below it too, for two sets of
    one distribution. `p_value` is that of dealing the recordings anew between the two sets."""

    interval: Interval
    p_value: float


def kernel_distance(
    reference: np.ndarray,
    measured: np.ndarray,
    recordings: np.ndarray,
    measured_recordings: np.ndarray,
    *,
    width: float | None = None,
    resamples: int = 1_000,
    seed: int = 0,
) -> KernelDistance:
    """KAD of two sets of embeddings [clips, width], with an interval and a p-value over their recordings.

    Clips of one recording are drawn, and dealt, together. `width` of the kernel: that of the reference.
    """
    sigma = kernel_width(reference) if width is None else width
    both = np.concatenate([reference, measured])
    kernel = np.exp(-squared_distances(both, both) / (2 * sigma**2))
    np.fill_diagonal(kernel, 0.0)  # of an unbiased estimate: no clip is compared with itself
    names = [*(f"r{one}" for one in recordings), *(f"m{one}" for one in measured_recordings)]
    groups, count = numbered(names)
    of_reference = np.array([name[0] == "r" for name in np.unique(names)])
    members = np.zeros((count, len(both)))
    members[groups, np.arange(len(both))] = 1.0
    summed = members @ kernel @ members.T  # kernel sums of pairs of recordings
    sizes = members.sum(axis=1)

    def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Of weights of recordings in the two sets, each [rows, recordings]."""
        return KAD_SCALE * (
            _within(one, summed, sizes)
            + _within(other, summed, sizes)
            - 2 * ((one @ summed) * other).sum(axis=1) / ((one @ sizes) * (other @ sizes))
        )

    interval, _ = bootstrap(
        lambda weights: distance(weights * of_reference, weights * ~of_reference), count,
        resamples=resamples, seed=seed, strata=of_reference.tolist(),
    )  # fmt: skip
    _, p_value = permutation_test(
        lambda dealt: distance(dealt, 1 - dealt), of_reference, permutations=_PERMUTATIONS, seed=seed
    )
    return KernelDistance(interval, p_value)


def _within(weights: np.ndarray, summed: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The mean of the kernel over pairs of different clips of one set.

    A recording that was drawn twice is not compared with its copy: they are far too alike, and would lift the
    whole interval above the estimate.
    """
    own, twice = np.diag(summed), weights**2
    total = ((weights @ summed) * weights).sum(axis=1) - twice @ own + weights @ own
    pairs = (weights @ sizes) ** 2 - twice @ sizes**2 + weights @ (sizes**2 - sizes)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / pairs)


@dataclass(frozen=True)
class Overlap:
    """Precision, recall, density and coverage (k = 5), each by the clip that it is a mean of."""

    precise: np.ndarray  # bool [measured]: inside any real ball
    recalled: np.ndarray  # bool [reference]: inside any ball of what is measured
    dense: np.ndarray  # float [measured]: real balls that hold it, / k
    covered: np.ndarray  # bool [reference]: its ball holds something measured

    @property
    def precision(self) -> float:
        return float(self.precise.mean())

    @property
    def recall(self) -> float:
        return float(self.recalled.mean())

    @property
    def density(self) -> float:
        return float(self.dense.mean())

    @property
    def coverage(self) -> float:
        return float(self.covered.mean())


def overlap(reference: np.ndarray, measured: np.ndarray, neighbours: int = NEIGHBOURS) -> Overlap:
    """Balls reach to each clip's k-th neighbour in its own set (Naeem et al. 2020). Sets of equal size only:
    coverage grows with what is measured, density falls with the reference."""
    if len(reference) != len(measured):
        raise ValueError(f"{len(reference)} and {len(measured)} clips: their figures would not compare")
    between = squared_distances(reference, measured)
    real, other = (_radii(one, neighbours) for one in (reference, measured))
    # With the border: of identical clips the radius is 0.
    inside, other_way = np.asarray(between <= real[:, None]), np.asarray(between <= other[None])
    touched = np.asarray(inside.any(axis=1))
    return Overlap(
        np.asarray(inside.any(axis=0)), np.asarray(other_way.any(axis=1)),
        inside.sum(axis=0) / neighbours, touched,
    )  # fmt: skip


def _radii(clips: np.ndarray, neighbours: int) -> np.ndarray:
    """Squared distance of each clip to its k-th neighbour in the same set."""
    table = squared_distances(clips, clips)
    np.fill_diagonal(table, np.inf)
    return np.asarray(np.partition(table, neighbours - 1, axis=1)[:, neighbours - 1])


def principal(reference: np.ndarray, components: int = COMPONENTS) -> Callable[[np.ndarray], np.ndarray]:
    """The projection on the first principal components of the reference."""
    mean = np.asarray(reference, dtype=np.float64).mean(axis=0)
    _, _, axes = np.linalg.svd(np.asarray(reference, dtype=np.float64) - mean, full_matrices=False)
    return lambda clips: (np.asarray(clips, dtype=np.float64) - mean) @ axes[:components].T


def frechet_distance(reference: np.ndarray, measured: np.ndarray) -> float:
    """FAD of two sets [clips, dimensions]: by two symmetric eigenproblems in float64, never NaN or negative
    under the root. Biased by the number of clips: only its ratio to a floor of the same size says
    something."""
    one, other = (np.asarray(clips, dtype=np.float64) for clips in (reference, measured))
    first, second = (np.atleast_2d(np.cov(clips, rowvar=False)) for clips in (one, other))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0.0))) @ vectors.T
    mixed = np.linalg.eigvalsh(root @ second @ root).clip(0.0)
    moved = one.mean(axis=0) - other.mean(axis=0)
    found = moved @ moved + np.trace(first) + np.trace(second) - 2 * np.sqrt(mixed).sum()
    return max(0.0, float(found))  # of equal sets rounding leaves a little below


def nearest(
    clips: np.ndarray, others: np.ndarray, same: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(number, cosine distance) of each clip's nearest among `others`. `same`, bool [clips, others]: where
    they may be looked for; of a clip without any the distance is infinite."""
    table = cosine_distances(clips, others)
    if same is not None:
        table = np.where(same, table, np.inf)
    return table.argmin(axis=1), table.min(axis=1)


def cosine_distances(clips: np.ndarray, others: np.ndarray) -> np.ndarray:
    """One minus the cosine, float64 [clips, others]: 0 is a copy."""
    return np.asarray(1.0 - unit(clips) @ unit(others).T)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, float64."""
    values = np.asarray(vectors, dtype=np.float64)
    return np.asarray(values / (np.linalg.norm(values, axis=-1, keepdims=True) + 1e-12))


def spread(clips: np.ndarray, species: np.ndarray, recordings: np.ndarray) -> np.ndarray:
    """How far apart clips of one species are, float64 [clips]: each clip's mean cosine distance to those of
    its species from other recordings; NaN for one that is alone."""
    table = cosine_distances(clips, clips)
    pairs = (species[:, None] == species[None]) & (recordings[:, None] != recordings[None])
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(pairs, table, 0.0).sum(axis=1) / pairs.sum(axis=1))
