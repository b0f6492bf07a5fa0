"""Birds in a background: a judge hears it, since a song that no label names would make the labels untrue.

Only the species that scenes are asked for count. Recordings are heard once, whole; a generated background as
it is. What is heard is told in the notes of the scene; nothing is left out, so that a scene sounds the same
whether or not there is a judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from birdsd.errors import UserError
from birdsd.evaluation.judges.judge import Judge, sigmoid
from birdsd.evaluation.judges.judgement import CONFIDENT
from birdsd.evaluation.judges.sounds import hear_file
from birdsd.scenes.backgrounds.render import Layer
from birdsd.sound.audio.recordings import resampled


@dataclass(frozen=True)
class HeardBird:
    """A species in a background: its highest score, 0..1, and where the window of it begins, in seconds."""

    species: str
    score: float
    at_s: float


@dataclass
class BirdCheck:
    """Hears backgrounds for `species`, those of the model or of the bank."""

    judge: Judge
    species: Sequence[str]
    _known: dict[Path, list[HeardBird]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._classes = {
            name: number for name in self.species if (number := self.judge.class_of(name)) is not None
        }

    def notes(self, part: str, layer: Layer, rate_hz: int) -> list[str]:
        """A sentence for every bird that the judge hears in a background called `part` of a scene at
        `rate_hz`."""
        if layer.files:
            found = [(f" in {file.path.name}", self.in_file(file.path)) for file in layer.files]
        else:
            found = [("", _best(list(self._windows(layer, rate_hz))))]
        heard = f"{part} ({layer.told.environment}): {self.judge.title} hears"
        return [
            f"{heard} {one.species}, score {one.score:.2f}, at {one.at_s:.0f} s{where}; no label names it"
            for where, birds in found
            for one in birds
        ]

    def in_file(self, path: Path) -> list[HeardBird]:
        """In a recording, the best of every species; of a file that cannot be read to its end, nothing."""
        if path not in self._known:
            labels = {self.judge.label_of(number): name for name, number in self._classes.items()}
            try:
                heard = hear_file(self.judge, path, CONFIDENT).detections
            except UserError:
                heard = []
            own = [one for one in heard if one.species in labels]
            self._known[path] = _best([HeardBird(labels[one.species], one.score, one.start_s) for one in own])
        return self._known[path]

    def _windows(self, layer: Layer, rate_hz: int) -> Iterator[HeardBird]:
        size = round(8 * self.judge.window_s * rate_hz)
        for start in range(0, layer.samples, size):
            sound = np.array(layer.piece.read(start, min(size, layer.samples - start)))
            sound = sound if sound.ndim == 1 else sound[:, 0]  # of a space: one of its microphones
            sound = resampled(sound[None], rate_hz, self.judge.rate_hz)[0]
            heard = self.judge.hear(sound, self.judge.rate_hz)
            for begin_s, scores in zip(heard.starts_s, sigmoid(heard.logits), strict=True):
                at_s = start / rate_hz + float(begin_s)
                for name, column in self._classes.items():
                    if scores[column] >= CONFIDENT:
                        yield HeardBird(name, float(scores[column]), at_s)


def _best(birds: list[HeardBird]) -> list[HeardBird]:
    """The highest score of every species, the highest first."""
    best: dict[str, HeardBird] = {}
    for one in birds:
        if one.species not in best or one.score > best[one.species].score:
            best[one.species] = one
    return sorted(best.values(), key=lambda one: -one.score)
