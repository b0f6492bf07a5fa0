"""A number, or a name, that is drawn: constant, uniform, normal, truncated normal, log-uniform, Poisson,
chosen.

In a file each is a number, or one word with its parameters: `{uniform: [3, 20]}`, `{normal: [12, 4]}`,
`{truncnormal: [12, 4, 0, 24]}` (mean, standard deviation, least, greatest), `{loguniform: [5, 80]}`,
`{poisson: 6}`, `{choose: [1, 2, 4]}`, `{weights: {1: 3, 2: 1}}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from birdsd.errors import BadValue, clipped, unknown_name
from birdsd.randomness import generator

# Kind -> how many parameters.
_PARAMETERS = {"const": 1, "uniform": 2, "normal": 2, "truncnormal": 4, "loguniform": 2, "poisson": 1}
_KINDS = (*_PARAMETERS, "choose", "weights")
# A truncated normal is drawn by rejection: beyond this many standard deviations nothing would come.
_FARTHEST_SD = 4.0


@dataclass(frozen=True)
class Draw:
    """A distribution of a number. `values` are its parameters, or what is chosen from, with `weights`."""

    kind: str
    values: tuple[float, ...]
    weights: tuple[float, ...] = ()

    @classmethod
    def of(cls, value: float) -> Draw:
        """Always this number."""
        return cls("const", (float(value),))

    @property
    def least(self) -> float:
        """The smallest number that can come; minus infinity for a normal."""
        return self._ends()[0]

    @property
    def greatest(self) -> float:
        """The largest number that can come; infinity for a normal and for Poisson."""
        return self._ends()[1]

    def _ends(self) -> tuple[float, float]:
        if self.kind == "normal" and self.values[1] > 0:
            return -math.inf, math.inf
        if self.kind == "normal":
            return self.values[0], self.values[0]
        if self.kind == "poisson":
            return 0.0, math.inf if self.values[0] else 0.0
        if self.kind == "truncnormal":
            return self.values[2], self.values[3]
        there = [
            one
            for one, weight in zip(self.values, self.weights or self.values, strict=True)
            if weight or not self.weights
        ]
        return min(there), max(there)

    @property
    def mean(self) -> float:
        """The mean; of a truncated normal its centre, kept within its ends."""
        if self.kind == "loguniform":
            low, high = self.values
            return low if low == high else (high - low) / math.log(high / low)
        if self.kind == "truncnormal":
            return min(max(self.values[0], self.values[2]), self.values[3])
        if self.kind in ("normal", "poisson"):
            return self.values[0]
        weights = self.weights or (1.0,) * len(self.values)
        return sum(one * weight for one, weight in zip(self.values, weights, strict=True)) / sum(weights)

    def draw(self, *key: int | str) -> float:
        """The number for a key; the same key, the same number."""
        if self.kind == "const":
            return self.values[0]
        source = generator("scene draw", *key)
        if self.kind == "uniform":
            return float(source.uniform(self.values[0], self.values[1]))
        if self.kind == "loguniform":
            return math.exp(float(source.uniform(math.log(self.values[0]), math.log(self.values[1]))))
        if self.kind == "normal":
            return float(source.normal(self.values[0], self.values[1]))
        if self.kind == "poisson":
            return float(source.poisson(self.values[0]))
        if self.kind == "truncnormal":
            return self._truncated(source)
        shares = np.array(self.weights or (1.0,) * len(self.values))
        return float(self.values[int(source.choice(len(self.values), p=shares / shares.sum()))])

    def _truncated(self, source: np.random.Generator) -> float:
        mean, deviation, low, high = self.values
        if deviation == 0 or low == high:
            return min(max(mean, low), high)
        while True:
            value = float(source.normal(mean, deviation))
            if low <= value <= high:
                return value


def read_draw(value: Any, place: str) -> Draw:
    """A distribution from a file's value; `UserError` for one that cannot be, NaN among its numbers too."""
    if not isinstance(value, Mapping):
        return Draw.of(_number(value, place))
    if len(value) != 1:
        raise BadValue(
            f"{place} is {clipped(dict(value))}",
            f"one of {', '.join(_KINDS)} with its parameters is expected",
        )
    kind, given = next(iter(value.items()))
    if kind not in _KINDS:
        raise unknown_name(f"distribution of {place}", str(kind), _KINDS)
    if kind == "weights":
        return _weighted(given, place)
    items = given if isinstance(given, list) else [given]
    numbers = tuple(_number(one, place) for one in items)
    if kind == "choose":
        if not numbers:
            raise BadValue(f"{place}: there is nothing to choose from", "give a list of numbers")
        return Draw("choose", numbers)
    if len(numbers) != _PARAMETERS[kind]:
        raise BadValue(f"{place}: {kind} has {len(numbers)} parameters", f"it takes {_PARAMETERS[kind]}")
    _check(kind, numbers, place)
    return Draw(kind, numbers)


def _check(kind: str, numbers: Sequence[float], place: str) -> None:
    shown = ", ".join(f"{one:g}" for one in numbers)
    if kind in ("uniform", "loguniform") and numbers[0] > numbers[1]:
        raise BadValue(f"{place}: {kind} from {shown}", "the lower end stands first")
    if kind == "loguniform" and numbers[0] <= 0:
        raise BadValue(f"{place}: loguniform from {shown}", "both ends are greater than 0")
    if kind in ("normal", "truncnormal") and numbers[1] < 0:
        raise BadValue(f"{place}: {kind} of {shown}", "a standard deviation is not negative")
    if kind == "poisson" and numbers[0] < 0:
        raise BadValue(f"{place}: poisson of {shown}", "a rate is not negative")
    if kind == "truncnormal":
        mean, deviation, low, high = numbers
        if low > high:
            raise BadValue(
                f"{place}: truncnormal of {shown}", "its third number, the least, is not above its fourth"
            )
        outside = max(low - mean, mean - high, 0.0)
        if outside > _FARTHEST_SD * deviation and low < high:
            raise BadValue(
                f"{place}: truncnormal of {shown} lies {outside / deviation if deviation else math.inf:.1f} "
                "standard "
                "deviations away from its mean",
                f"at most {_FARTHEST_SD:g} are possible",
                "use uniform, or move the mean",
            )


def _weighted(given: Any, place: str) -> Draw:
    if not isinstance(given, Mapping) or not given:
        raise BadValue(f"{place}: weights holds {clipped(given)}", "it is a list of value: weight")
    from birdsd import yamltext

    values = tuple(_number(yamltext.typed(yamltext.Plain(str(one))), place) for one in given)
    return Draw("weights", values, read_weights(given, place))


def read_weights(given: Mapping[Any, Any], place: str) -> tuple[float, ...]:
    """Weights, none negative, not all 0."""
    weights = tuple(_number(one, f"{place}, weight of {clipped(name)}") for name, one in given.items())
    if any(one < 0 for one in weights) or not sum(weights) > 0:
        shown = ", ".join(f"{one:g}" for one in weights[:8])
        raise BadValue(
            f"{place}: the weights are {shown or '(none)'}", "none is negative, and one is above 0"
        )
    return weights


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadValue(f"{place} is {clipped(value)}", "a finite number is expected")
    return float(value)
