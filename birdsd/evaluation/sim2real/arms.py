"""The arms of the experiment, as data: what each learns from. All learn for equally many steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from birdsd.errors import unknown_name

EVERYTHING, CONFIRMED = "everything", "confirmed"
FILTERS = (EVERYTHING, CONFIRMED)  # of synthetic clips: all, or those that a judge names right
CLIPS, SCENES = "clips", "scenes"
ALL = "all"  # the level of all training recordings


@dataclass(frozen=True)
class Arm:
    """One way of teaching. `synthetic`: "", clips or scenes; `times`: so many times the level's recordings
    (a control: what recording more would bring)."""

    name: str
    title: str
    says: str
    real: bool = True
    augmented: bool = False
    synthetic: str = ""
    times: int = 1
    against: str = "real"  # the arm that differs from this one in nothing but what is asked about


ARMS = (
    Arm("real", "Real", "Real recordings alone."),
    Arm(
        "repeated", "Real, repeated",
        "The same recordings in another order: what chance alone does, as all arms take as many steps.",
    ),
    Arm("augmented", "Real, augmented", "Real recordings, each also shifted, equalised and in noise.",
        augmented=True),
    Arm("synthetic", "Real and synthetic", "Real recordings and synthetic clips in equal shares.",
        synthetic=CLIPS),
    Arm(
        "both", "Augmented and synthetic",
        "Real and augmented recordings, and synthetic clips in equal shares.",
        augmented=True, synthetic=CLIPS, against="augmented",
    ),
    Arm("synthetic_only", "Synthetic alone", "No real recording: only what the model made of them.",
        real=False, synthetic=CLIPS),
    Arm("scenes", "Real and scenes", "Real recordings, and songs of synthetic soundscapes in equal shares.",
        synthetic=SCENES),
    Arm("scenes_only", "Scenes alone", "No real recording: only songs of synthetic soundscapes.",
        real=False, synthetic=SCENES),
    Arm("more", "Four times the recordings",
        "Four times as many real recordings, where there are: what recording more would bring.", times=4),
)  # fmt: skip
# What the sentence is about: the first that was run.
PRIMARY = ("both", "synthetic", "scenes", "synthetic_only", "scenes_only")
USUAL = ("real", "repeated", "augmented", "synthetic", "both", "synthetic_only")


def chosen_arms(names: Sequence[str], scenes: bool) -> list[Arm]:
    """The arms named, in our order, with those that they are compared with; without names the usual ones, and
    those of scenes where there is a distribution of them."""
    known = {arm.name: arm for arm in ARMS}
    wanted = set(names) or {*USUAL, *(("scenes", "scenes_only") if scenes else ())}
    for name in names:
        if name not in known:
            raise unknown_name("arm", name, known)
    wanted |= {known[name].against for name in wanted}
    return [arm for arm in ARMS if arm.name in wanted]


@dataclass(frozen=True)
class Cell:
    """One training: an arm at an amount of real data, a filter of its synthetic clips, and a seed."""

    arm: Arm
    level: str
    filter: str  # "" for arms without synthetic clips
    seed: int

    @property
    def name(self) -> str:
        """Of its record, and in messages."""
        return "-".join(filter(None, [self.arm.name, self.level, self.filter, f"s{self.seed}"]))


def cells_of(arms: Sequence[Arm], levels: Sequence[str], filters: Sequence[str], seeds: int) -> list[Cell]:
    """All cells, level by level, those that need no synthetic clips first."""
    for name in filters:
        if name not in FILTERS:
            raise unknown_name("filter", name, FILTERS)
    ordered = sorted(arms, key=lambda arm: bool(arm.synthetic))
    return [
        Cell(arm, level, chosen, seed)
        for level in levels
        for arm in ordered
        for chosen in (filters if arm.synthetic else ("",))
        for seed in range(seeds)
    ]
