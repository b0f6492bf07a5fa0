"""What the experiment can find at all, computed before it runs: from how many recordings it is tested on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from birdsd.evaluation.resampling import Interval, detectable_effect, paired_power

# What is assumed before anything is known. With a head on BirdNET's embedding and one to four recordings of
# ten species, shares right were 0.75 to 0.85, and correlated by 0.7 to 0.9 between arms, by recording.
ACCURACY = 0.8
WITHIN_RECORDING = 0.6  # correlation of right and wrong between clips of one recording
BETWEEN_ARMS = 0.85  # correlation of a recording's share right between two arms
POWER = 0.8
ALPHA = 0.05
EFFECTS = (0.02, 0.05, 0.10, 0.20)


@dataclass(frozen=True)
class Power:
    """Of one paired comparison. Shares of 1; `deviation`: of the difference of one recording."""

    recordings: int
    clips: int
    comparisons: int
    alpha: float  # of the hardest step of Holm's correction
    deviation: float
    detectable: float  # true difference that is found with a probability of 80%
    chances: dict[str, float]  # true difference -> probability that it is found

    def to_json(self) -> dict[str, Any]:
        """Plain values only, with what was assumed."""
        assumed = {
            "accuracy": ACCURACY, "correlation_within_recording": WITHIN_RECORDING,
            "correlation_between_arms": BETWEEN_ARMS,
        }  # fmt: skip
        return {**asdict(self), "assumed": assumed}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Power:
        """As `to_json` wrote it."""
        return cls(**{one.name: values[one.name] for one in fields(cls)})

    def text(self) -> str:
        """In a sentence or two."""
        chances = ", ".join(
            f"{float(one):.0%} of one of {100 * float(e):g} points" for e, one in self.chances.items()
        )
        return (
            f"With {self.recordings} test recordings ({self.clips} clips) and {self.comparisons} comparisons "
            f"a true difference of {100 * self.detectable:.0f} points would be found with a probability of "
            f"{POWER:.0%}. The probability to find it is {chances}."
        )


def power_of(recordings: Sequence[Any] | np.ndarray, comparisons: int) -> Power:
    """The power of a paired comparison on test clips of these recordings [clips], before any is known."""
    _, sizes = np.unique(np.asarray([str(one) for one in recordings]), return_counts=True)
    count = len(sizes)
    alpha = ALPHA / max(1, comparisons)
    # Of a recording's share of right clips: clips of one recording are right or wrong together.
    each = ACCURACY * (1 - ACCURACY) * (WITHIN_RECORDING + (1 - WITHIN_RECORDING) / sizes)
    deviation = math.sqrt(2 * (1 - BETWEEN_ARMS) * float(each.mean()))
    chances = {f"{effect:g}": paired_power(effect, deviation, count, alpha=alpha) for effect in EFFECTS}
    detectable = detectable_effect(deviation, count, power=POWER, alpha=alpha)
    return Power(count, int(sizes.sum()), comparisons, alpha, deviation, min(1.0, detectable), chances)


def could_have_found(interval: Interval, alpha: float) -> float:
    """The true difference that a comparison with an interval of this width finds with a probability of
    80%."""
    from scipy import stats

    error = interval.width / (2 * stats.norm.ppf((1 + interval.confidence) / 2))
    return float(error * (stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(POWER)))
