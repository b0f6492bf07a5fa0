"""The experiment's answer: every arm against the one that differs from it in one thing, with intervals.

A draw takes recordings with replacement within their species, and seeds with replacement; the same draw for
both arms of a pair. What could not be trained is named, and the answer is about the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from birdsd.errors import NothingLeft, listed_names
from birdsd.evaluation.resampling import (
    Interval,
    drawn_counts,
    holm,
    numbered,
    percentile_interval,
    two_sided_p,
)
from birdsd.evaluation.sim2real.arms import EVERYTHING, PRIMARY, SCENES, Arm, Cell
from birdsd.evaluation.sim2real.power import ALPHA, Power, could_have_found
from birdsd.evaluation.sim2real.ranking import (
    accuracy_and_macro_f1,
    average_precisions,
    by_recording,
    macro_average_precision,
)

DRAWS = 2_000


@dataclass(frozen=True)
class TestClips:
    """What all arms are tested on: the class of each clip, int [clips], and its recording."""

    __test__ = False  # not a test of ours

    classes: np.ndarray
    recordings: Sequence[str]
    species: Sequence[str]


@dataclass(frozen=True)
class Score:
    """How well an arm did at one amount of data: means over seeds; `spread`: standard deviation over
    seeds."""

    arm: str
    level: str
    filter: str
    seeds: int
    average_precision: Interval  # macro
    accuracy: float
    macro_f1: float
    spread: float
    by_species: dict[str, float] = field(default_factory=dict)  # average precision
    recordings_f1: float = math.nan  # macro F1 of whole recordings


@dataclass(frozen=True)
class Effect:
    """What an arm does beyond the one that it is compared with, in macro average precision (shares of 1)."""

    arm: str
    against: str
    level: str
    filter: str
    seeds: int
    difference: Interval
    p_value: float
    p_adjusted: float  # after Holm, over all comparisons
    spread: float  # standard deviation of the difference over seeds
    findable: float  # true difference that this comparison would find with a probability of 80%

    @property
    def significant(self) -> bool:
        """The interval excludes zero, and still does after the correction for many comparisons."""
        return self.difference.excludes_zero and self.p_adjusted < ALPHA


@dataclass(frozen=True)
class Answer:
    """Everything that the experiment found."""

    arms: list[Arm]
    levels: list[str]
    scores: list[Score]
    effects: list[Effect]
    power: Power
    failed: dict[str, str]  # cell -> why
    missing: list[str]  # cells that nobody has trained yet
    facts: dict[str, Any] = field(default_factory=dict)  # the data, the classifier, the generator

    def score(self, arm: str, level: str, chosen: str = "") -> Score | None:
        """The score of an arm, where there is one."""
        return next((s for s in self.scores if (s.arm, s.level, s.filter) == (arm, level, chosen)), None)

    def arm(self, name: str) -> Arm:
        """An arm by its name."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def primary(self) -> list[Effect]:
        """What the sentence is about, decided before anything ran: all synthetic clips, on top of the best
        that real recordings give where that was run; else scenes, else synthetic sound alone."""
        for name in PRIMARY:
            if any(arm.name == name for arm in self.arms):
                return [e for e in self.effects if e.arm == name and e.filter == EVERYTHING]
        return []

    @property
    def failures(self) -> list[tuple[list[str], str]]:
        """(cells without their seeds, why they failed), reason by reason."""
        found: dict[str, list[str]] = {}
        for cell, why in self.failed.items():
            found.setdefault(why, []).append(re.sub(r"-s\d+$", "", cell))
        return [(list(dict.fromkeys(names)), why) for why, names in found.items()]

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {
            "sentence": self.sentence(),
            "arms": [asdict(arm) for arm in self.arms],
            "levels": self.levels,
            "scores": [asdict(score) for score in self.scores],
            "effects": [{**asdict(one), "significant": one.significant} for one in self.effects],
            "power": self.power.to_json(),
            "failed": self.failed,
            "missing": self.missing,
            **self.facts,
        }

    def sentence(self) -> str:
        """The answer: how much it helps, at which amount of data, and whether the interval excludes zero."""
        if not self.primary:
            asked = any(arm.name in PRIMARY for arm in self.arms)
            why = (
                "No pair of arms with synthetic sound is complete"
                if asked
                else "No synthetic sound was asked about"
            )
            return self._incomplete(f"{why}: there is no answer yet.")
        first = self.primary[0]
        arm = self.arm(first.arm)
        sounds = "synthetic scenes" if arm.synthetic == SCENES else "synthetic clips"
        real = "augmented real recordings" if self.arm(first.against).augmented else "real recordings"
        how = f"added to {real}" if arm.real else f"in place of {real}"
        parts = [
            f"{_points(one.difference)} with {amount(one.level)} ({_verdict(one)})" for one in self.primary
        ]
        helped = [amount(one.level) for one in self.primary if one.significant and one.difference.low > 0]
        hurt = [amount(one.level) for one in self.primary if one.significant and one.difference.high < 0]
        if helped and not hurt:
            begins = f"{sounds.capitalize()} helped with {_listed(helped)}"
        elif hurt and not helped:
            begins = f"{sounds.capitalize()} did harm with {_listed(hurt)}"
        elif helped:
            begins = f"{sounds.capitalize()} helped with {_listed(helped)} and did harm with {_listed(hurt)}"
        else:
            begins = f"No effect of {sounds} was shown"
        return self._incomplete(
            f"{begins}: {how}, they change the macro average precision by {_listed(parts)}."
        )

    def _incomplete(self, sentence: str) -> str:
        if self.failed:
            every = list(dict.fromkeys(name for names, _ in self.failures for name in names))
            sentence += f" Failed, and not in it: {', '.join(every)}."
        if self.missing:
            sentence += f" Not trained yet: {len(self.missing)} of the experiment's cells."
        return sentence


def _points(interval: Interval) -> str:
    """In points, with the interval."""
    return (
        f"{100 * interval.estimate:+.1f} points (95% interval {100 * interval.low:+.1f} to "
        f"{100 * interval.high:+.1f})"
    )


def _verdict(effect: Effect) -> str:
    if not effect.difference.excludes_zero:
        return "the interval includes zero"
    if not effect.significant:
        return f"the interval excludes zero, but not after correction: p = {effect.p_adjusted:.2g}"
    return f"the interval excludes zero; p = {effect.p_adjusted:.2g} after correction"


def amount(level: str) -> str:
    """A level in words: "2 recordings a species"."""
    return "all recordings" if level == "all" else f"{level} recordings a species"


def _listed(parts: Sequence[str]) -> str:
    return ", and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def answer(
    test: TestClips,
    arms: Sequence[Arm],
    levels: Sequence[str],
    results: Mapping[Cell, np.ndarray],
    power: Power,
    *,
    failed: Mapping[str, str] | None = None,
    missing: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Answer:
    """The answer of the cells that were trained: `results` holds scores [clips, classes] of the test
    clips."""
    judged = _Judged(test, results, draws, seed)
    scores = [judged.score(*key) for key in judged.keys]
    effects = []
    for name, level, chosen in judged.keys:
        arm = next(one for one in arms if one.name == name)
        if arm.name == arm.against:
            continue
        # An arm with a filter is compared with the one without synthetic clips, which has none; but with
        # itself of another classifier where it stands beside one.
        other = (arm.against, level, "")
        if (arm.against, level, chosen) in judged.keys:
            other = (arm.against, level, chosen)
        seeds = [one for one in judged.seeds(name, level, chosen) if one in judged.seeds(*other)]
        if seeds:
            effects.append(judged.effect((name, level, chosen), other, seeds))
    adjusted = holm([one.p_value for one in effects])
    alpha = ALPHA / max(1, len(effects))
    effects = [
        Effect(**{**vars(one), "p_adjusted": p, "findable": could_have_found(one.difference, alpha)})
        for one, p in zip(effects, adjusted, strict=True)
    ]
    return Answer(
        list(arms), list(levels), scores, effects, power, dict(failed or {}), list(missing), dict(facts or {})
    )


Key = tuple[str, str, str]  # arm, level, filter


class _Judged:
    """All cells' scores under one set of draws."""

    def __init__(self, test: TestClips, results: Mapping[Cell, np.ndarray], draws: int, seed: int) -> None:
        self.test, self.results, self.draws = test, results, draws
        self.numbers, count = numbered(list(test.recordings))
        strata = [""] * count
        for number, kind in zip(self.numbers, test.classes, strict=True):
            strata[number] = str(kind)
        self.groups = count
        alone = sorted({test.species[int(kind)] for kind in set(strata) if strata.count(kind) < 2})
        if alone:
            raise NothingLeft(
                f"one test recording of {listed_names(alone)}",
                "without a second one nothing says how far recordings of a species differ",
                "raise test_fraction, or add recordings",
            )
        self.weights = drawn_counts(count, draws, seed=seed, strata=strata, few=True)
        self.keys: list[Key] = list(
            dict.fromkeys((cell.arm.name, cell.level, cell.filter) for cell in results)
        )
        self._random = seed
        self._values: dict[Cell, tuple[float, np.ndarray]] = {}

    def seeds(self, name: str, level: str, chosen: str) -> list[int]:
        """The seeds of an arm that were trained."""
        key = (name, level, chosen)
        return sorted(c.seed for c in self.results if (c.arm.name, c.level, c.filter) == key)

    def value(self, key: Key, seed: int) -> tuple[float, np.ndarray]:
        """(macro average precision, the same of every draw of recordings) of one cell."""
        cell = next(c for c in self.results if (c.arm.name, c.level, c.filter) == key and c.seed == seed)
        if cell not in self._values:
            statistic = macro_average_precision(self.results[cell], self.test.classes, self.numbers)
            once = statistic(np.ones((1, self.groups)))
            self._values[cell] = float(once[0]), statistic(self.weights)
        return self._values[cell]

    def over_seeds(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """The mean over seeds [seeds, draws], which are drawn with replacement too."""
        table = np.stack(values)
        if len(table) == 1:
            return np.asarray(table[0])
        counts = drawn_counts(len(table), self.draws, seed=self._random + 1, few=True)
        return np.asarray((table * counts.T).sum(axis=0) / len(table))

    def score(self, name: str, level: str, chosen: str) -> Score:
        """The score of an arm."""
        key, seeds = (name, level, chosen), self.seeds(name, level, chosen)
        each = [self.value(key, seed) for seed in seeds]
        interval = percentile_interval(
            self.over_seeds([draws for _, draws in each]), float(np.mean([one for one, _ in each])),
            groups=self.groups,
        )  # fmt: skip
        cells = [c for c in self.results if (c.arm.name, c.level, c.filter) == key]
        plain = [accuracy_and_macro_f1(self.results[c], self.test.classes) for c in cells]
        species = [average_precisions(self.results[c], self.test.classes) for c in cells]
        by_species = {
            str(self.test.species[kind]): float(np.mean([one[kind] for one in species]))
            for kind in species[0]
        }
        return Score(
            name, level, chosen, len(seeds), interval, float(np.mean([a for a, _ in plain])),
            float(np.mean([f for _, f in plain])), _deviation([one for one, _ in each]), by_species,
            float(np.mean([self._of_recordings(self.results[c]) for c in cells])),
        )  # fmt: skip

    def _of_recordings(self, scores: np.ndarray) -> float:
        """Macro F1 of recordings, by the mean log score of their clips."""
        return accuracy_and_macro_f1(*by_recording(scores, self.test.classes, self.numbers))[1]

    def effect(self, key: Key, other: Key, seeds: Sequence[int]) -> Effect:
        """A paired difference; the correction follows once all are known."""
        pairs = [(self.value(key, seed), self.value(other, seed)) for seed in seeds]
        each = [mine[0] - theirs[0] for mine, theirs in pairs]
        draws = self.over_seeds([mine[1] - theirs[1] for mine, theirs in pairs])
        interval = percentile_interval(draws, float(np.mean(each)), groups=self.groups)
        name, level, chosen = key
        return Effect(
            name,
            other[0],
            level,
            chosen,
            len(seeds),
            interval,
            two_sided_p(draws),
            1.0,
            _deviation(each),
            0.0,
        )


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
