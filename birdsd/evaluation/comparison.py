"""Several ways of teaching, side by side: what each learnt, forgot, copied, and cost.

All arms were asked for the same clips, from the same noise. So two arms are compared clip by clip (McNemar's
exact test), which sees smaller differences than two shares with their intervals do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.evaluation.background import Background
from birdsd.evaluation.measures import Measures
from birdsd.evaluation.staircase import Named, Staircase
from birdsd.evaluation.weak_check import CopyCheck, Score

NEW, KNOWN, IN_ENVIRONMENT = "new", "known", "new in an environment"
CLEAR = 0.05  # adjusted p below which a difference is called one


@dataclass(frozen=True)
class MadeClip:
    """A clip that an arm made: what it was asked for, its files, what the weak check named (`named`)
    and what the judge named (`heard`, with its confidence; empty where there is none), and the distance to
    the nearest training clip (0 = a copy)."""

    kind: str
    species: str
    environment: str
    index: int
    prompt: str
    picture: Path
    sound: Path
    named: str = ""
    distance: float | None = None
    heard: str = ""
    heard_right: bool | None = None  # None: not judged, or a species that the judge has no class for
    confidence: float = 0.0  # of what was heard

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What tells it from the arm's other clips, and is the same for the other arms' clip of that sort."""
        return self.kind, self.species, self.environment, self.index

    @property
    def right(self) -> bool:
        return self.named == self.species


@dataclass(frozen=True)
class Difference:
    """Two arms on the same clips: of `pairs`, `gained` are right in the second alone, `lost` in the first.

    `p_value` is McNemar's exact one, one-sided; `p_adjusted` after Holm for all arms compared.
    """

    pairs: int
    before: int
    after: int
    gained: int
    lost: int
    p_value: float
    p_adjusted: float

    @property
    def clear(self) -> bool:
        """Whether luck is ruled out at the 5% level, all comparisons of the table together."""
        return self.p_adjusted < CLEAR

    def in_words(self) -> str:
        """e.g. '+38 points (11 clips gained, 2 lost), p = 0.01'."""
        points = 100 * (self.after - self.before) / max(1, self.pairs)
        return f"{points:+.0f} points ({self.gained} gained, {self.lost} lost), {p_text(self.p_adjusted)}"


@dataclass(frozen=True)
class Figures:
    """What an arm cost and weighs. Times are of its own training and of its clips, memory of the largest
    process that trained and of the one that made the clips; `share_bytes` is what one would hand on to
    somebody who has the base model (None: it is the base model). `partly`: it was interrupted in a way that
    left some cost unwritten."""

    train_s: float = 0.0
    train_cpu_s: float = 0.0
    generate_s: float = 0.0
    peak_mib: float = 0.0
    gpu_mib: float = 0.0
    generate_mib: float = 0.0
    parameters: int = 0
    samples: int = 0
    share_bytes: int | None = None
    pieces: int = 1
    partly: bool = False


@dataclass(frozen=True)
class Validation:
    """Loss on held-out recordings by samples seen; `samples` of them, the same for every arm."""

    positions: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    samples: int = 0


@dataclass(frozen=True)
class ArmResult:
    """One arm. `missing` says why there is nothing of it; everything else is empty then."""

    name: str
    title: str
    says: str
    control: bool = False
    loss: str = ""  # what its validation loss measures; two arms compare only where it is the same
    knew_others: bool = True
    missing: str = ""
    scores: Mapping[str, Score] = field(default_factory=dict)  # by kind of prompt
    everything: Score | None = None  # all plain prompts together: agreement and confusion
    kappa: float | None = None
    gain: Difference | None = None  # on the new species, against the control
    forgetting: Difference | None = None  # on the known species, against the control
    nearness: CopyCheck | None = None  # of the clips of new species
    background: Background | None = None
    heard: Mapping[str, Named] = field(default_factory=dict)  # what the judge named, by kind of prompt
    measures: Measures | None = None  # beside being named, of the clips of new species
    validation: Validation = Validation()
    figures: Figures = Figures()
    clips: Sequence[MadeClip] = ()

    @property
    def final_loss(self) -> float | None:
        return self.validation.losses[-1] if self.validation.losses else None


@dataclass(frozen=True)
class Comparison:
    """All arms and what they have in common."""

    name: str
    new: Sequence[str]
    known: Sequence[str]
    arms: Sequence[ArmResult]
    held_out: Score | None  # what the weak check itself is worth
    training_clips: int
    training_recordings: int
    environments: Sequence[str]
    background_held_out: Mapping[str, float]  # what the classifier of backgrounds is worth
    settings: Mapping[str, Any]  # samples, clips_per_species, steps, guidance, seed, model, codec
    foundations: Sequence[tuple[str, float]] = ()  # what was trained for all: (name, seconds)
    stages: Staircase | None = None  # what the judge says of real clips, stage by stage; None without one
    no_judge: str = ""  # why there is none, in one line

    @property
    def chance(self) -> float:
        """Of a classifier that guesses among all species."""
        return 1 / max(1, len(self.new) + len(self.known))

    @property
    def always(self) -> float:
        """Of a model that sings the same one of the new species whatever it is asked for."""
        return max(self.chance, 1 / max(1, len(self.new)))

    @property
    def judge(self) -> str:
        """The judge with its model's licence; "" where there is none, or it knows none of the species."""
        return self.stages.credit if self.stages is not None and self.stages.known else ""

    @property
    def shown(self) -> list[ArmResult]:
        """The arms of which there is something."""
        return [arm for arm in self.arms if not arm.missing]

    @property
    def missing(self) -> list[ArmResult]:
        return [arm for arm in self.arms if arm.missing]

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        values = asdict(replace(self, stages=None))
        values["stages"] = self.stages.to_json() if self.stages else None
        values |= {"chance": self.chance, "always_the_same": self.always}
        for arm in values["arms"]:
            for clip in arm["clips"]:
                clip["picture"], clip["sound"] = str(clip["picture"]), str(clip["sound"])
        return values


def p_text(p: float) -> str:
    """e.g. 'p < 0.001' or 'p = 0.03'."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def kappa(confusion: Sequence[Sequence[int]]) -> float | None:
    """Cohen's kappa of what was asked for and what was named: 0 by luck, 1 always the same; None where it
    is not defined."""
    counts = np.asarray(confusion, dtype=np.float64)
    total = counts.sum()
    if not total:
        return None
    agreed = np.trace(counts) / total
    by_luck = float(counts.sum(axis=1) @ counts.sum(axis=0)) / total**2
    return None if by_luck >= 1 else float((agreed - by_luck) / (1 - by_luck))


def differences(
    arms: Mapping[str, Sequence[MadeClip]], control: str, kind: str, *, better: bool
) -> dict[str, Difference]:
    """Every arm against the control on the clips of one kind, by name; only clips that both have count.

    The alternative is that the arm names more (`better`) or fewer right than the control does.
    """
    if control not in arms:
        return {}
    before = {clip.key: clip.right for clip in arms[control] if clip.kind == kind}
    found: dict[str, tuple[int, int, int, int, int]] = {}
    for name, clips in arms.items():
        after = {clip.key: clip.right for clip in clips if clip.kind == kind and clip.key in before}
        if name != control and after:
            pairs = [(before[key], right) for key, right in after.items()]
            gained, lost = pairs.count((False, True)), pairs.count((True, False))
            found[name] = (len(pairs), sum(a for a, _ in pairs), sum(b for _, b in pairs), gained, lost)
    p_values = {name: mcnemar(gained, lost, better) for name, (_, _, _, gained, lost) in found.items()}
    adjusted = holm(p_values)
    return {name: Difference(*counts, p_values[name], adjusted[name]) for name, counts in found.items()}


def mcnemar(gained: int, lost: int, better: bool) -> float:
    """The exact one-sided p-value of McNemar's test: only clips that changed sides count."""
    from scipy.stats import binomtest

    if gained + lost == 0:
        return 1.0
    alternative = "greater" if better else "less"
    return float(binomtest(gained, gained + lost, 0.5, alternative=alternative).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjustment (1979): so many comparisons at once, and still one error in twenty at most."""
    adjusted, least = {}, 0.0
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    for place, (name, p) in enumerate(ordered):
        least = max(least, min(1.0, (len(ordered) - place) * p))
        adjusted[name] = least
    return adjusted
