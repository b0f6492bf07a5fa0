"""Intervals, tests and power where the unit is the recording: several windows of one recording are no
independent observations, and intervals over windows come out far too narrow.

A draw of recordings is a row of counts (how often each recording was drawn), so that ten thousand draws are
one matrix, and a statistic that is a ratio of sums is two matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from birdsd.errors import NothingLeft

RESAMPLES = 10_000
CONFIDENCE = 0.95
_BLOCK = 1_000  # draws at a time: 500 recordings are 4 MB
_EXACT = 14  # so many groups or fewer have few enough signs to try them all


@dataclass(frozen=True)
class Interval:
    """A percentile interval of a bootstrap, with the estimate that the undrawn data give."""

    low: float
    high: float
    estimate: float
    confidence: float = CONFIDENCE
    groups: int = 0  # recordings that it rests on
    resamples: int = 0

    @property
    def width(self) -> float:
        """high - low."""
        return self.high - self.low

    @property
    def excludes_zero(self) -> bool:
        """Both ends lie on one side of zero."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """A paired difference: its interval, and a two-sided p-value from the same draws."""

    interval: Interval
    p_value: float

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {"interval": self.interval.to_json(), "p_value": self.p_value}


def numbered(names: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, int]:
    """(the number of each item's group, int64 [items]; how many groups there are), from their names."""
    found, numbers = np.unique(np.asarray(names), return_inverse=True)
    return numbers.reshape(-1), len(found)


def drawn_counts(
    groups: int,
    resamples: int = RESAMPLES,
    *,
    seed: int = 0,
    strata: Sequence[Any] | None = None,
    few: bool = False,
) -> np.ndarray:
    """How often each group is in each draw with replacement, float32 [resamples, groups].

    `strata` [groups]: groups are drawn within their stratum (their species, say), so that every draw holds
    as many of each as the data do.

    `few`: of a stratum of n one fewer is drawn, and each counts n / (n - 1) (Rao and Wu 1988). Without it an
    interval from strata of three is a fifth too narrow. A stratum of one has no spread that could be drawn.
    """
    if groups < 1 or resamples < 1:
        raise ValueError("there is nothing to draw from, or no draw")
    generator = np.random.default_rng(seed)
    counts = np.zeros((resamples, groups), dtype=np.float32)
    kinds, number = numbered(strata if strata is not None else np.zeros(groups))
    if len(kinds) != groups:
        raise ValueError(f"{len(kinds)} strata for {groups} groups")
    for kind in range(number):
        members = np.flatnonzero(kinds == kind)
        size = len(members)
        take = size - 1 if few else size
        if not take:
            raise ValueError("a stratum with one group tells nothing of its spread")
        for start in range(0, resamples, _BLOCK):
            rows = min(_BLOCK, resamples - start)
            drawn = generator.integers(0, size, (rows, take), dtype=np.int64)
            drawn += np.arange(rows)[:, None] * size
            counts[start : start + rows, members] = np.bincount(
                drawn.reshape(-1), minlength=rows * size
            ).reshape(rows, size) * (size / take)
    return counts


def percentile_interval(
    draws: np.ndarray, estimate: float, *, confidence: float = CONFIDENCE, groups: int = 0
) -> Interval:
    """The percentile interval of a statistic's values over draws [resamples]; draws without a value (NaN) are
    left out."""
    finite = np.asarray(draws, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return Interval(math.nan, math.nan, float(estimate), confidence, groups, 0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(finite, (tail, 1 - tail))
    return Interval(float(low), float(high), float(estimate), confidence, groups, len(finite))


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    groups: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    strata: Sequence[Any] | None = None,
    confidence: float = CONFIDENCE,
) -> tuple[Interval, np.ndarray]:
    """(interval, draws) of any statistic that takes weights of groups [draws, groups] and returns [draws].

    Weights are counts: the data themselves are a row of ones.
    """
    counts = drawn_counts(groups, resamples, seed=seed, strata=strata)
    draws = np.concatenate(
        [np.asarray(statistic(counts[at : at + _BLOCK])) for at in range(0, resamples, _BLOCK)]
    )
    estimate = float(np.asarray(statistic(np.ones((1, groups), dtype=np.float32)))[0])
    return percentile_interval(draws, estimate, confidence=confidence, groups=groups), draws


def mean_interval(
    values: Sequence[float] | np.ndarray, recordings: Sequence[Any] | np.ndarray, **options: Any
) -> Interval:
    """The mean of values [items], with an interval over draws of the recordings that they are of [items].

    `options` as for `bootstrap`; `strata`, where given, is by recording in the order of their sorted names.
    """
    ratio, groups = _ratio_of_sums(values, recordings)
    return bootstrap(ratio, groups, **options)[0]


def paired_difference(
    one: Sequence[float] | np.ndarray,
    other: Sequence[float] | np.ndarray,
    recordings: Sequence[Any] | np.ndarray,
    **options: Any,
) -> Difference:
    """mean(one - other), both measured on the same items of the same recordings [items].

    Every draw of recordings is taken for both, so that what makes an item hard for both cancels out.
    """
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{first.shape} and {second.shape} are no pairs")
    ratio, groups = _ratio_of_sums(first - second, recordings)
    interval, draws = bootstrap(ratio, groups, **options)
    return Difference(interval, two_sided_p(draws))


def _ratio_of_sums(
    values: Sequence[float] | np.ndarray, recordings: Sequence[Any] | np.ndarray
) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    numbers, groups = numbered(recordings)
    each = np.asarray(values, dtype=np.float64)
    if each.shape != numbers.shape:
        raise ValueError(f"{each.shape} values of {numbers.shape} recordings")
    sums = np.bincount(numbers, weights=each, minlength=groups)
    sizes = np.bincount(numbers, minlength=groups).astype(np.float64)
    return lambda weights: (weights @ sums) / (weights @ sizes), groups


def two_sided_p(draws: np.ndarray) -> float:
    """A p-value against zero from a bootstrap's draws of a difference: twice the share on the rarer side, and
    never 0, which no number of draws can show."""
    finite = np.asarray(draws)[np.isfinite(draws)]
    rarer = min(int((finite <= 0).sum()), int((finite >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(finite) + 1))


def permutation_p(observed: float, permuted: np.ndarray, greater: bool = False) -> float:
    """How often a permuted statistic is at least as extreme as the observed one, (b + 1) / (B + 1).

    Two-sided by the absolute value; `greater`: one-sided, for a distance that only grows.
    """
    values = np.asarray(permuted, dtype=np.float64)
    slack = 1e-12 * max(1.0, abs(observed))  # ties that differ in the last bit are ties
    extreme = values >= observed - slack if greater else np.abs(values) >= abs(observed) - slack
    return float((extreme.sum() + 1) / (len(values) + 1))


def sign_flip_test(differences: Sequence[float] | np.ndarray, *, flips: int = 9_999, seed: int = 0) -> float:
    """The two-sided p-value of paired differences by group [groups] under the hypothesis that either sign is
    as likely: all signs are tried where there are few groups, else `flips` draws."""
    each = np.asarray(differences, dtype=np.float64)
    each = each[np.isfinite(each)]
    count = len(each)
    if not count:
        return 1.0
    observed = float(each.mean())
    if count <= _EXACT:
        bits = np.arange(2**count)[:, None] >> np.arange(count) & 1
        means = (1.0 - 2.0 * bits) @ each / count
        return float((np.abs(means) >= abs(observed) - 1e-12 * max(1.0, abs(observed))).mean())
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(flips, count))
    return permutation_p(observed, signs @ each / count)


def permutation_test(
    statistic: Callable[[np.ndarray], np.ndarray],
    labels: Sequence[bool] | np.ndarray,
    *,
    permutations: int = 1_999,
    seed: int = 0,
    greater: bool = True,
) -> tuple[float, float]:
    """(observed, p-value) of a statistic of two sets of groups, whose labels [groups] are dealt anew.

    `statistic` takes float [dealings, groups], 1 for a group of the first set, and returns [dealings].
    """
    own = np.asarray(labels, dtype=np.float64)
    generator = np.random.default_rng(seed)
    dealt = np.stack([generator.permutation(own) for _ in range(permutations)])
    observed = float(np.asarray(statistic(own[None]))[0])
    return observed, permutation_p(observed, np.asarray(statistic(dealt)), greater)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the chance of any false alarm among all of them stays
    below the level that they are compared with."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def paired_power(effect: float, deviation: float, groups: int, *, alpha: float = 0.05) -> float:
    """The chance that a paired comparison of `groups` recordings finds a true mean difference `effect`.

    `deviation`: standard deviation of the difference of one recording; two-sided paired t-test at `alpha`.
    """
    from scipy import stats

    if groups < 2:
        raise NothingLeft(f"{groups} test recordings", "a comparison needs at least two", "record more")
    if deviation <= 0:
        return 1.0 if effect else alpha
    shift = abs(effect) * math.sqrt(groups) / deviation
    critical = stats.t.ppf(1 - alpha / 2, groups - 1)
    upper = stats.nct.sf(critical, groups - 1, shift)
    lower = stats.nct.cdf(-critical, groups - 1, shift)
    # Far out scipy's non-central t loses its digits; there the answer is 1.
    return 1.0 if not math.isfinite(upper) else float(min(1.0, upper + (lower if lower > 0 else 0.0)))


def detectable_effect(deviation: float, groups: int, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true mean difference that `paired_power` finds with the chance `power`."""
    low, high = 0.0, max(deviation, 1e-12)
    while paired_power(high, deviation, groups, alpha=alpha) < power:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if paired_power(middle, deviation, groups, alpha=alpha) < power else (low, middle)
        )
    return high
