"""What a judge is: names of classes, and for every window of a sound its logits and an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class WindowScores:
    """What a judge heard in one sound, window by window."""

    starts_s: np.ndarray  # float64 [windows]
    logits: np.ndarray  # float32 [windows, classes]
    embeddings: np.ndarray  # float32 [windows, width]
    # Where a judge says when: the logits of each window's frames, float32 [windows, classes, frames].
    frames: np.ndarray | None = None

    @property
    def scores(self) -> np.ndarray:
        """float32 [windows, classes], 0..1: the sigmoid of the logits. Far from 0 they tie, logits do not."""
        return sigmoid(self.logits)

    @property
    def clip_logits(self) -> np.ndarray:
        """float32 [classes]: the highest logit that each class has in any window."""
        highest: np.ndarray = self.logits.max(axis=0)
        return highest

    @property
    def clip_embedding(self) -> np.ndarray:
        """float32 [width]: the mean over windows."""
        mean: np.ndarray = self.embeddings.mean(axis=0, dtype=np.float32)
        return mean


@dataclass(frozen=True)
class Sound:
    """A sound to be judged: float [samples] or [channels, samples]; `species` is what it should be."""

    name: str
    waveform: np.ndarray
    rate_hz: int
    species: str | None = None


class Judge(Protocol):
    """A trained classifier of sounds. Members are read-only."""

    @property
    def title(self) -> str:
        """What it is called in tables."""

    @property
    def licence(self) -> str:
        """Of the model; shown wherever it speaks."""

    @property
    def fingerprint(self) -> str:
        """The sha256 of the model's file."""

    @property
    def window_s(self) -> float:
        """How much it hears at a time."""

    @property
    def rate_hz(self) -> int:
        """The rate that it hears at."""

    @property
    def names(self) -> Sequence[str]:
        """Its classes, as the model's own labels have them."""

    def hear(self, waveform: np.ndarray, rate_hz: int) -> WindowScores:
        """Listen to float [samples] or [channels, samples]: mixed down, resampled, padded with zeros.

        A short sound is never looped. Raises `UserError` for one that is empty or not finite.
        """

    def class_of(self, species: str) -> int | None:
        """The number of a species' class, whatever spelling it comes in; None where it has none."""

    def why_unknown(self, species: str) -> str:
        """What to say of a species without a class: the quoted name, and what it may stand for."""

    def label_of(self, number: int) -> str:
        """The common name of a class."""


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """float32 scores of logits, with BirdNET's limits of +-15 (its sensitivity is 1: no shift)."""
    limited = np.clip(logits.astype(np.float64), -15.0, 15.0)
    scores: np.ndarray = (1.0 / (1.0 + np.exp(-limited))).astype(np.float32)
    return scores
