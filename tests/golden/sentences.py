"""Sentences that say what was found or assumed: the words are what is asked for, and are pinned whole."""

from __future__ import annotations

from typing import Any

from birdsd.evaluation.resampling import Interval
from birdsd.evaluation.sim2real.answer import Answer, Effect
from birdsd.evaluation.sim2real.arms import ARMS, EVERYTHING
from birdsd.scenes.prose.parse import understood
from tests.scenes.sentences import DECIDED, VOCABULARY

_UP, _DOWN, _OPEN = (0.02, 0.06), (-0.06, -0.02), (-0.02, 0.02)
# Which arm against which, at which amounts and with which intervals; then what failed and what is missing.
_ANSWERS: dict[str, tuple[str, dict[str, tuple[float, float]], dict[str, str], list[str]]] = {
    "helped": ("both", {"2": _UP, "all": _OPEN}, {}, []),
    "harmed": ("both", {"2": _DOWN}, {}, []),
    "both": ("both", {"2": _UP, "all": _DOWN}, {}, []),
    "unshown": ("both", {"2": _OPEN}, {}, []),
    "real alone": ("synthetic", {"2": _OPEN}, {}, []),
    "in place": ("synthetic_only", {"2": _OPEN}, {}, []),
    "scenes": ("scenes", {"2": _UP}, {}, []),
    "incomplete": ("both", {"2": _UP}, {"real-2-s9": "none"}, ["real-2-s0"]),
    "none": ("synthetic", {}, {}, []),
    "unasked": ("real", {}, {}, []),
}


def answers() -> dict[str, str]:
    """What `birdsd run sim2real` answers, by what came out."""
    arms = {arm.name: arm for arm in ARMS}
    told = {}
    for name, (arm, levels, failed, missing) in _ANSWERS.items():
        effects = [
            Effect(arm, arms[arm].against, level, EVERYTHING, 3, Interval(low, high, (low + high) / 2),
                   0.01, 0.02, 0.01, 0.03)
            for level, (low, high) in levels.items()
        ]  # fmt: skip
        asked = [one for one in ARMS if one.name in (arm, arms[arm].against)]
        power: Any = None  # no sentence tells of it
        found = Answer(asked, [*levels], [], effects, power, failed, missing)
        told[f"sim2real: {name}"] = found.sentence()
    return told


def assumptions() -> dict[str, list[str]]:
    """What is assumed of sentences that leave something open."""
    return {f"understood: {text}": list(understood(text, VOCABULARY).assumptions) for text, _ in DECIDED}
