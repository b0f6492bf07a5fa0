"""Whether a judge hears a song in the mix, in a window around its label.

It is heard where (1) its species ranks best among those of the model or the bank that have no other label in
the window, and (2) ranks higher than in the same window without the songs of its species: a background that
a judge takes for a bird vouches for no song. Songs of one species in one window are heard together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

import numpy as np

from birdsd.evaluation.judges.judge import Judge, sigmoid
from birdsd.evaluation.judges.judgement import NOTHING_HEARD, is_silent

NOBODY = "nobody"
Sound = Callable[[int, int], np.ndarray]  # (first, count) -> float [count] of the scene


class Labelled(Protocol):
    """What a label says."""

    @property
    def species(self) -> str: ...

    @property
    def onset_s(self) -> float: ...

    @property
    def offset_s(self) -> float: ...


@dataclass(frozen=True)
class InMix:
    """What `judge` says of a label. `heard`: None where nobody could tell. `score` of the species, 0..1;
    `named`: which species ranks best in the window."""

    judge: str = NOBODY
    heard: bool | None = None
    score: float | None = None
    named: str = ""


@dataclass(frozen=True)
class Span:
    """A scene's length in samples, its rate, and whether it goes round."""

    samples: int
    rate_hz: int
    loop: bool = False

    def window(self, label: Labelled, window_s: float) -> tuple[int, int]:
        """(first, count): as many whole windows as the label takes, its middle in theirs, inside the scene.
        In a loop `first` may lie before its beginning."""
        windows = max(1, int(np.ceil((label.offset_s - label.onset_s) / window_s - 1e-9)))
        count = min(round(windows * window_s * self.rate_hz), self.samples)
        first = round((label.onset_s + label.offset_s) / 2 * self.rate_hz) - count // 2
        return (first if self.loop else max(0, min(first, self.samples - count))), count

    def within(self, label: Labelled, first: int, count: int) -> bool:
        """Whether a label reaches into the window."""
        from_s, to_s = first / self.rate_hz, (first + count) / self.rate_hz
        around_s = self.samples / self.rate_hz
        turns = (-around_s, 0.0, around_s) if self.loop else (0.0,)
        return any(label.onset_s + turn < to_s and label.offset_s + turn > from_s for turn in turns)


@dataclass
class MixEar:
    """A judge who listens to mixes for `species`, those of the model or the bank."""

    judge: Judge
    species: Sequence[str]
    _classes: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._classes = {
            name: number for name in self.species if (number := self.judge.class_of(name)) is not None
        }

    def knows(self, species: str) -> bool:
        """Whether the judge has a class for it."""
        return species in self._classes

    def hears(
        self, label: Labelled, labels: Iterable[Labelled], mix: Sound, without: Sound, span: Span,
        known: dict[str, dict[str, float]] | None = None,
    ) -> InMix:  # fmt: skip
        """Listen to a label in `mix`, among all `labels` of the scene; `without`: the mix without the songs
        of its species. `known` keeps what was heard, by a checksum of the sound."""
        if not self.knows(label.species):
            return InMix(self.judge.title)
        first, count = span.window(label, self.judge.window_s)
        sound = mix(first, count)
        if is_silent(sound):
            return InMix(self.judge.title, False, 0.0, NOTHING_HEARD)
        others = {one.species for one in labels if span.within(one, first, count)} - {label.species}
        logits = self._logits(sound, span.rate_hz, known)
        own = logits[label.species]
        best = max((name for name in logits if name not in others), key=lambda name: logits[name])
        named = label.species if own >= logits[best] else best
        heard = named == label.species
        if heard and not is_silent(rest := without(first, count)):
            heard = own > self._logits(rest, span.rate_hz, known)[label.species]
        return InMix(self.judge.title, heard, round(float(sigmoid(np.float32(own))), 4), named)

    def _logits(
        self, sound: np.ndarray, rate_hz: int, known: dict[str, dict[str, float]] | None
    ) -> dict[str, float]:
        """Of the species that the judge knows, by name."""
        sound = np.ascontiguousarray(sound, np.float32)
        key = sha256(sound.tobytes()).hexdigest()
        if known is not None and key in known:
            return known[key]
        heard = self.judge.hear(sound, rate_hz).clip_logits
        logits = {name: float(heard[number]) for name, number in self._classes.items()}
        if known is not None:
            known[key] = logits
        return logits
