"""Whether a clip is what was asked for: BirdNET where it has the species, else the weak check, else nobody.

Who judged stands in every verdict. The judge of the gate is no judge of the result: what it lets through, it
believes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from birdsd.evaluation.judges.judge import Judge, sigmoid
from birdsd.evaluation.judges.judgement import CONFIDENT, is_silent

if TYPE_CHECKING:
    from birdsd.evaluation.weak_check import WeakCheck

NOBODY = "nobody"
WEAK = "weak check"
ENERGY = "energy alone"
PEOPLE = "the recording's labels"


@dataclass(frozen=True)
class EventVerdict:
    """`confirmed`: None where no judge knows the species. `score` 0..1; `named`: what was heard instead."""

    judge: str
    confirmed: bool | None
    score: float | None = None
    named: str = ""

    @property
    def passes(self) -> bool:
        """Whether the clip may stand for its species in a scene."""
        return self.confirmed is not False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Gate(Protocol):
    """Says whether a sound is of a species."""

    @property
    def title(self) -> str: ...

    def verdict(self, species: str, samples: np.ndarray, rate_hz: int) -> EventVerdict:
        """Of float [samples]."""


class OpenGate:
    """Lets everything through that sounds, and says that nobody judged it."""

    title = ENERGY

    def verdict(self, species: str, samples: np.ndarray, rate_hz: int) -> EventVerdict:
        return EventVerdict(ENERGY, False if is_silent(samples) else None)


class JudgeGate:
    """A judge: the species scores at least 0.25, and no other of the model's own species scores higher."""

    def __init__(self, judge: Judge, among: Sequence[str], otherwise: Gate | None = None) -> None:
        self._judge, self._otherwise = judge, otherwise or OpenGate()
        self._among = {name: number for name in among if (number := judge.class_of(name)) is not None}
        self.title = judge.title

    def verdict(self, species: str, samples: np.ndarray, rate_hz: int) -> EventVerdict:
        number = self._judge.class_of(species)
        if number is None:
            return self._otherwise.verdict(species, samples, rate_hz)
        if is_silent(samples):
            return EventVerdict(self.title, False, 0.0, "nothing heard")
        logits = self._judge.hear(samples, rate_hz).clip_logits
        score = float(sigmoid(logits[number]))
        best = max(self._among, key=lambda name: logits[self._among[name]], default=species)
        first = logits[number] >= max((logits[n] for n in self._among.values()), default=logits[number])
        named = species if first else best
        return EventVerdict(self.title, bool(first and score >= CONFIDENT), round(score, 4), named)


class WeakGate:
    """The weak check's classifier: the species is the likeliest of those that it learnt."""

    title = WEAK

    def __init__(self, weak: WeakCheck, otherwise: Gate | None = None) -> None:
        self._weak, self._otherwise = weak, otherwise or OpenGate()

    def verdict(self, species: str, samples: np.ndarray, rate_hz: int) -> EventVerdict:
        from birdsd.evaluation.weak_check import GeneratedClip

        names = self._weak.classifier.species
        if species not in names:
            return self._otherwise.verdict(species, samples, rate_hz)
        if is_silent(samples):
            return EventVerdict(WEAK, False, 0.0, "nothing heard")
        heard = self._weak.heard([GeneratedClip(species, waveform=samples, rate_hz=rate_hz)])
        likely = self._weak.classifier.probabilities(heard)[0]
        named = names[int(likely.argmax())]
        score = round(float(likely[names.index(species)]), 4)
        return EventVerdict(WEAK, named == species, score, named)
