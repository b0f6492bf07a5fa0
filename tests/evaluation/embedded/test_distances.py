"""KAD, density and coverage, FAD and neighbours against sums written out by hand, and what each cannot
see."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.evaluation.embedded.distances import (
    frechet_distance,
    kernel_distance,
    kernel_width,
    nearest,
    overlap,
    principal,
    spread,
    squared_distances,
)

RNG = np.random.default_rng(0)


def test_kad_is_a_hundred_times_the_unbiased_mmd_with_the_references_width() -> None:
    x, y = RNG.normal(size=(20, 5)), RNG.normal(size=(15, 5)) + 0.5
    sigma = np.median([np.linalg.norm(a - b) for i, a in enumerate(x) for b in x[:i]])
    assert kernel_width(x) == pytest.approx(sigma)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / (2 * sigma**2)))

    within = [np.mean([k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j]) for s in (x, y)]
    between = np.mean([k(a, b) for a in x for b in y])
    found = kernel_distance(x, y, np.arange(20), np.arange(15), resamples=50)
    assert found.interval.estimate == pytest.approx(100 * (sum(within) - 2 * between))
    # The width is the reference's: with a collapsed set in its place it would be another one.
    assert kernel_distance(x, y * 1e-6, np.arange(20), np.arange(15), resamples=50).interval.estimate > 5


def test_kad_of_one_distribution_is_about_zero_and_its_p_value_says_so() -> None:
    p_values = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        places = rng.normal(size=(40, 6)).repeat(4, axis=0)
        both = places + 0.3 * rng.normal(size=places.shape)
        names = np.repeat(np.arange(40), 4)
        found = kernel_distance(both[:80], both[80:], names[:80], names[80:], resamples=100, seed=seed)
        p_values.append(found.p_value)
        assert abs(found.interval.estimate) < 8
        assert found.interval.low < found.interval.estimate < found.interval.high
    assert sum(p < 0.05 for p in p_values) <= 3, "clips of a recording are dealt together"
    moved = kernel_distance(both[:80], both[80:] + 1, names[:80], names[80:], resamples=100)
    assert moved.p_value < 0.01 and moved.interval.low > 0


def test_overlap_sees_copies_as_perfect_and_a_collapse_in_coverage_alone() -> None:
    x = RNG.normal(size=(200, 4))
    same = overlap(x, x.copy())
    assert same.precision == same.recall == same.coverage == 1.0 and same.density > 1
    collapsed = overlap(x, x[:4].repeat(50, axis=0) + 1e-3 * RNG.normal(size=(200, 4)))
    assert collapsed.precision > 0.9 and collapsed.coverage < 0.3
    far = overlap(x, x + 100)
    assert (far.precision, far.coverage, far.density) == (0, 0, 0)
    with pytest.raises(ValueError, match="would not compare"):
        overlap(x, x[:100])


def test_overlap_of_clips_that_are_all_the_same_is_no_zero() -> None:
    same = np.ones((10, 3))
    assert overlap(same, same).coverage == 1.0


def test_fad_is_the_closed_form_and_never_nan_below_full_rank() -> None:
    mean, scale = np.array([1.0, -2.0]), np.array([3.0, 0.5])
    x = RNG.normal(size=(200_000, 2))
    expected = (mean**2).sum() + ((scale - 1) ** 2).sum()
    assert frechet_distance(x, x * scale + mean) == pytest.approx(expected, rel=0.02)
    few = RNG.normal(size=(10, 64))
    assert 0 <= frechet_distance(few, few) < 1e-4
    project = principal(RNG.normal(size=(100, 30)), 5)
    assert project(RNG.normal(size=(7, 30))).shape == (7, 5)


def test_the_nearest_is_looked_for_where_it_may_be() -> None:
    others = np.eye(3)
    places, distances = nearest(np.array([[2.0, 0, 0], [1, 1, 0]]), others)
    assert places.tolist()[0] == 0 and distances[0] < 1e-9 and distances[1] > 0.2
    _, barred = nearest(np.array([[2.0, 0, 0]]), others, np.array([[False, True, False]]))
    assert barred[0] == pytest.approx(1)
    assert np.isinf(nearest(others, others, np.zeros((3, 3), dtype=bool))[1]).all()


def test_spread_is_between_recordings_of_one_species() -> None:
    clips = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    found = spread(clips, np.array(["a", "a", "a", "b"]), np.array(["x", "x", "y", "z"]))
    assert found[:3] == pytest.approx([1, 1, 1]) and np.isnan(found[3])
    assert squared_distances(clips, clips).min() == 0
