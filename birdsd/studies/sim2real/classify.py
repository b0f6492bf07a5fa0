"""The classifiers that the arms train: anything that learns from samples for so many steps, and then scores.

`classifier=head` learns on BirdNET's frozen embeddings in a second. Another one needs the three members of
`Classifier` and a line in `CLASSIFIERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from birdsd.errors import UserError, unknown_name
from birdsd.evaluation.embedded.cache import EmbeddingCache
from birdsd.evaluation.embedded.heads import Examples, fit_head
from birdsd.evaluation.judges import Judge
from birdsd.studies.sim2real.augment import RECIPE, augmented
from birdsd.studies.sim2real.sounds import Sample

Predict = Callable[[Sequence[Sample]], np.ndarray]  # samples -> scores, float64 [samples, species]


class Classifier(Protocol):
    """What an arm trains. Equal calls give equal scores on one machine."""

    @property
    def title(self) -> str:
        """What it is called on the page."""

    @property
    def identity(self) -> str:
        """A hash of what decides its scores besides what `fit` is given."""

    def fit(
        self,
        pools: Sequence[Sequence[Sample]],
        validation: Sequence[Sample],
        species: Sequence[str],
        *,
        augment: bool,
        seed: int,
        steps: int,
    ) -> tuple[Predict, dict[str, float | int | None]]:
        """Learn for `steps` steps; every pool gives an equal share of each batch. `augment`: real samples
        also come augmented. The step that is kept is chosen on `validation`. Returns how to score, and what
        is worth recording (the step that was kept, the loss on validation)."""


class HeadClassifier:
    """Logistic regression on a judge's frozen embeddings."""

    def __init__(self, cache: EmbeddingCache, copies: int = 4) -> None:
        self.cache, self.copies = cache, copies
        self.title = f"logistic regression on the embedding of {cache.judge.title}"
        self.identity = f"head-{cache.judge.fingerprint[:12]}-{copies}"

    def fit(
        self,
        pools: Sequence[Sequence[Sample]],
        validation: Sequence[Sample],
        species: Sequence[str],
        *,
        augment: bool,
        seed: int,
        steps: int,
    ) -> tuple[Predict, dict[str, float | int | None]]:
        """See `Classifier.fit`."""
        learnt = [self._examples(self._with_copies(pool) if augment else pool, species) for pool in pools]
        held = self._examples(validation, species)
        head = fit_head(learnt, held, len(species), seed=seed, steps=steps)
        told = {"best_step": head.best_step, "validation_loss": head.validation_loss}
        return lambda samples: head.scores(self._embeddings(samples)), told

    def _with_copies(self, pool: Sequence[Sample]) -> list[Sample]:
        copied = [one for one in pool if one.origin == "real"]
        return [*pool, *(replace(one, variant=k) for one in copied for k in range(1, self.copies + 1))]

    def _examples(self, samples: Sequence[Sample], species: Sequence[str]) -> Examples:
        number = {name: place for place, name in enumerate(species)}
        for one in samples:
            if one.species not in number:
                raise UserError(f"{one.path.name} is labelled {one.species}", "which is not in the list", "")
        classes = np.array([number[one.species] for one in samples], dtype=np.int64)
        return Examples(self._embeddings(samples), classes, [one.recording for one in samples])

    def _embeddings(self, samples: Sequence[Sample]) -> np.ndarray:
        return np.stack([self._heard(one) for one in samples])

    def _heard(self, sample: Sample) -> np.ndarray:
        variant = sample.variant
        if not variant:
            return self.cache.of_file(sample.path, sample.start_s, sample.duration_s).embedding
        name = f"{sample.recording}@{sample.start_s:.3f}"
        return self.cache.of_file(
            sample.path, sample.start_s, sample.duration_s, [RECIPE, name, variant],
            lambda waveform, rate_hz: augmented(waveform, rate_hz, name, variant),
        ).embedding  # fmt: skip


def named_right(cache: EmbeddingCache) -> Callable[[Sample], bool]:
    """Whether a judge, of all the classes that it has, names the species of a sample."""
    judge = cache.judge

    def right(sample: Sample) -> bool:
        heard = cache.of_file(sample.path, sample.start_s, sample.duration_s)
        number = judge.class_of(sample.species)
        return number is not None and not heard.silent and int(heard.logits.argmax()) == number

    return right


def _head(judge: Judge, folder: Path) -> Classifier:
    return HeadClassifier(EmbeddingCache(judge, folder))


CLASSIFIERS: dict[str, Callable[[Judge, Path], Classifier]] = {"head": _head}


def find_classifier(name: str, judge: Judge, folder: Path) -> Classifier:
    """The classifier of that name; `folder` keeps what it works out ahead."""
    if name not in CLASSIFIERS:
        raise unknown_name("classifier", name, CLASSIFIERS)
    return CLASSIFIERS[name](judge, folder)
