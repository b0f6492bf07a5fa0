"""Intervals over recordings, paired tests, Holm's correction and power, on numbers whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.errors import NothingLeft
from birdsd.evaluation.resampling import (
    Interval,
    bootstrap,
    detectable_effect,
    drawn_counts,
    holm,
    mean_interval,
    numbered,
    paired_difference,
    paired_power,
    permutation_p,
    permutation_test,
    sign_flip_test,
)
from tests.support.errors import refuses


def clustered(rng: np.random.Generator, recordings: int, windows: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of which most of the variance lies between recordings, and their recordings."""
    each = rng.normal(size=(recordings, 1)) + 0.3 * rng.normal(size=(recordings, windows))
    return each.reshape(-1), np.repeat(np.arange(recordings), windows)


def test_every_draw_holds_as_many_recordings_as_the_data_do_and_strata_keep_theirs() -> None:
    counts = drawn_counts(40, 2_500, seed=3)
    assert counts.shape == (2_500, 40) and (counts.sum(axis=1) == 40).all()
    assert counts.mean() == pytest.approx(1) and counts.var() == pytest.approx(1 - 1 / 40, rel=0.05)
    species = ["a"] * 30 + ["b"] * 10
    drawn = drawn_counts(40, 500, seed=3, strata=species)
    assert (drawn[:, :30].sum(axis=1) == 30).all() and (drawn[:, 30:].sum(axis=1) == 10).all()
    assert (drawn_counts(40, 50, seed=3) == drawn_counts(40, 50, seed=3)).all()
    assert (drawn_counts(40, 50, seed=3) != drawn_counts(40, 50, seed=4)).any()
    fewer = drawn_counts(40, 500, seed=3, strata=species, few=True)
    assert np.allclose(fewer[:, :30].sum(axis=1), 30) and np.allclose(fewer[:, 30:].sum(axis=1), 10)
    with pytest.raises(ValueError, match="one group"):
        drawn_counts(2, 5, strata=["a", "b"], few=True)
    with pytest.raises(ValueError, match="strata"):
        drawn_counts(40, strata=["a"])
    with pytest.raises(ValueError, match="nothing to draw"):
        drawn_counts(0)


def test_strata_of_three_keep_their_spread() -> None:
    """The variance of a mean of strata is s^2 / n with the sample's s^2, which plain draws make too small."""
    values = np.random.default_rng(9).normal(size=(10, 3))
    expected = (values.var(axis=1, ddof=1) / 3).mean() / 10
    strata = np.repeat(np.arange(10), 3).tolist()
    plain, fewer = (
        (drawn_counts(30, 20_000, strata=strata, few=few) @ values.reshape(-1) / 30).var()
        for few in (False, True)
    )
    assert fewer == pytest.approx(expected, rel=0.05)
    assert plain == pytest.approx(expected * 2 / 3, rel=0.05)


def test_the_interval_is_over_recordings_and_not_over_windows() -> None:
    """Its width is that of the mean's true standard error; over windows it would be far too narrow."""
    rng = np.random.default_rng(0)
    values, recordings = clustered(rng, 60, 10)
    over_recordings = mean_interval(values, recordings, resamples=4_000)
    over_windows = mean_interval(values, np.arange(len(values)), resamples=2_000)
    means = values.reshape(60, 10).mean(axis=1)
    expected = 2 * 1.96 * means.std() / np.sqrt(60)
    assert over_recordings.width == pytest.approx(expected, rel=0.08)
    assert over_windows.width < 0.5 * over_recordings.width
    assert over_recordings.estimate == pytest.approx(values.mean())
    assert over_recordings.low < over_recordings.estimate < over_recordings.high
    assert (over_recordings.groups, over_recordings.resamples) == (60, 4_000)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        found = mean_interval(*clustered(rng, 40, 4), resamples=600, seed=trial)
        covered += found.low <= 0 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_recordings_of_many_windows_count_by_their_windows() -> None:
    found = mean_interval([1.0, 1.0, 1.0, 0.0], ["x", "x", "x", "y"], resamples=500)
    assert found.estimate == 0.75 and (found.low, found.high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="values of"):
        mean_interval([1.0, 2.0], ["x"])


def test_a_statistic_without_a_value_in_some_draws_goes_without_them() -> None:
    def ratio(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return weights[:, 0] / weights[:, 0]

    found, draws = bootstrap(ratio, 2, resamples=400)
    assert np.isnan(draws).any() and found.resamples == np.isfinite(draws).sum()
    assert (found.low, found.high) == (1.0, 1.0)
    assert Interval(0.1, 0.2, 0.15).excludes_zero and not Interval(-0.1, 0.2, 0.1).excludes_zero


def test_a_pair_sees_what_two_single_intervals_do_not() -> None:
    """Recordings differ by far more than the arms do; the difference of each is nearly the same."""
    rng = np.random.default_rng(2)
    values, recordings = clustered(rng, 40, 4)
    better = values + 0.1 + 0.1 * rng.normal(size=len(values))
    found = paired_difference(better, values, recordings, resamples=4_000)
    assert found.interval.excludes_zero and found.p_value < 0.01
    one, other = (mean_interval(each, recordings, resamples=2_000) for each in (better, values))
    assert one.low < other.high, "the single intervals overlap"
    back = paired_difference(values, better, recordings, resamples=4_000)
    assert back.interval.estimate == pytest.approx(-found.interval.estimate)
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference([1.0], [1.0, 2.0], ["x"])


def test_equal_arms_are_rarely_told_apart() -> None:
    rng = np.random.default_rng(3)
    false_alarms = 0
    for trial in range(200):
        noise = rng.normal(size=(30, 3)) + rng.normal(size=(30, 1))
        found = paired_difference(
            noise.reshape(-1), np.zeros(90), np.repeat(np.arange(30), 3), resamples=500, seed=trial
        )
        false_alarms += found.p_value < 0.05
    assert 1 <= false_alarms <= 24, "about 10 of 200 are expected"


def test_a_difference_of_nothing_has_no_p_value_below_one() -> None:
    found = paired_difference(np.ones(8), np.ones(8), np.arange(8), resamples=200)
    assert found.p_value == 1.0 and not found.interval.excludes_zero
    assert sign_flip_test(np.zeros(5)) == 1.0
    assert sign_flip_test([]) == 1.0


def test_signs_are_flipped_exactly_where_they_are_few() -> None:
    assert sign_flip_test([1.0, 2.0, 3.0, 4.0]) == 2 / 16, "only all plus and all minus are as extreme"
    rng = np.random.default_rng(4)
    many = rng.normal(0.8, 1, size=40)
    assert sign_flip_test(many) < 0.01 < sign_flip_test(many - many.mean() + 0.05)


def test_dealing_labels_anew_finds_two_sets_that_differ_and_no_others() -> None:
    rng = np.random.default_rng(5)
    labels = np.arange(40) < 20

    def apart(values: np.ndarray) -> float:
        def statistic(dealt: np.ndarray) -> np.ndarray:
            return np.abs(dealt @ values / 20 - (1 - dealt) @ values / 20)

        return permutation_test(statistic, labels, permutations=999)[1]

    same = rng.normal(size=40)
    assert apart(same + 1.5 * labels) < 0.01
    assert apart(same) > 0.05
    assert permutation_p(3.0, np.zeros(99)) == 0.01
    assert (
        permutation_p(-3.0, np.full(99, 3.0)) == 1.0 and permutation_p(-3.0, np.zeros(99), greater=True) == 1
    )


def test_holm_multiplies_the_smallest_by_how_many_there_are_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
    rng = np.random.default_rng(6)
    alarms = [min(holm(list(rng.random(10)))) < 0.05 for _ in range(2_000)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.015)


def test_power_is_what_simulation_finds_and_the_detectable_effect_has_it() -> None:
    from scipy import stats

    rng = np.random.default_rng(7)
    trials = rng.normal(0.05, 0.15, size=(4_000, 40))
    found = (stats.ttest_1samp(trials, 0.0, axis=1).pvalue < 0.05).mean()
    assert paired_power(0.05, 0.15, 40) == pytest.approx(found, abs=0.03)
    effect = detectable_effect(0.15, 40)
    assert paired_power(effect, 0.15, 40) == pytest.approx(0.8, abs=1e-3)
    assert detectable_effect(0.15, 160) == pytest.approx(effect / 2, rel=0.05)
    assert paired_power(0.0, 0.15, 40) == pytest.approx(0.05, abs=1e-6)
    assert paired_power(50.0, 0.15, 40) == 1.0 and paired_power(0.1, 0.0, 4) == 1.0
    with refuses("1 test recordings", kind=NothingLeft):
        paired_power(0.1, 0.1, 1)


def test_ten_thousand_draws_of_five_hundred_recordings_need_no_loop_over_draws() -> None:
    """Counted, not timed: the statistic is called once a block of a thousand draws, and once for the data."""
    calls = []

    def statistic(weights: np.ndarray) -> np.ndarray:
        calls.append(weights.shape)
        return weights.mean(axis=1)

    numbers, count = numbered([f"XC{place % 500}" for place in range(2_000)])
    assert count == 500 and len(numbers) == 2_000
    bootstrap(statistic, count)
    assert calls == [(1_000, 500)] * 10 + [(1, 500)]
