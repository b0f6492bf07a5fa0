"""The classifiers that the arms train: anything that learns from samples for so many steps, and then scores.

`classifier=head` learns on BirdNET's frozen embeddings in a second, `cnn` and `regression` from a codec's
pictures. Another one needs the three members of `Classifier` and a line in `CLASSIFIERS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from birdsd.errors import UnknownName, unknown_name
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
        learnt = [
            self._examples(with_copies(pool, self.copies) if augment else pool, species) for pool in pools
        ]
        held = self._examples(validation, species)
        head = fit_head(learnt, held, len(species), seed=seed, steps=steps)
        told = {"best_step": head.best_step, "validation_loss": head.validation_loss}
        return lambda samples: head.scores(self._embeddings(samples)), told

    def _examples(self, samples: Sequence[Sample], species: Sequence[str]) -> Examples:
        classes, recordings = classes_of(samples, species), [one.recording for one in samples]
        return Examples(self._embeddings(samples), classes, recordings)

    def _embeddings(self, samples: Sequence[Sample]) -> np.ndarray:
        return np.stack([self._heard(one) for one in samples])

    def _heard(self, sample: Sample) -> np.ndarray:
        variant = sample.variant
        if not variant:
            return self.cache.of_file(sample.path, sample.start_s, sample.duration_s).embedding
        name = sample.stretch
        return self.cache.of_file(
            sample.path, sample.start_s, sample.duration_s, [RECIPE, name, variant],
            lambda waveform, rate_hz: augmented(waveform, rate_hz, name, variant),
        ).embedding  # fmt: skip


def with_copies(pool: Sequence[Sample], copies: int) -> list[Sample]:
    """A pool with so many augmented copies of each of its real windows."""
    copied = [one for one in pool if one.origin == "real"]
    return [*pool, *(replace(one, variant=k) for one in copied for k in range(1, copies + 1))]


def classes_of(samples: Sequence[Sample], species: Sequence[str]) -> np.ndarray:
    """int64 [samples]: the number of each one's species; `UserError` for one that is not in the list."""
    number = {name: place for place, name in enumerate(species)}
    for one in samples:
        if one.species not in number:
            raise UnknownName(f"{one.path.name} is labelled {one.species}", "which is not in the list", "")
    return np.array([number[one.species] for one in samples], dtype=np.int64)


def named_right(cache: EmbeddingCache) -> Callable[[Sample], bool]:
    """Whether a judge, of all the classes that it has, names the species of a sample."""
    judge = cache.judge

    def right(sample: Sample) -> bool:
        heard = cache.of_file(sample.path, sample.start_s, sample.duration_s)
        number = judge.class_of(sample.species)
        return number is not None and not heard.silent and int(heard.logits.argmax()) == number

    return right


def _head(judge: Callable[[], Judge], folder: Path, pictures: Callable[[], Any]) -> Classifier:
    return HeadClassifier(EmbeddingCache(judge(), folder))


def _of_pictures(place: str) -> Callable[..., Classifier]:
    """By name: those build on this module, and torch is not for everyone."""

    def build(judge: Callable[[], Judge], folder: Path, pictures: Callable[[], Any]) -> Classifier:
        module, _, name = place.partition(":")
        made: Classifier = getattr(importlib.import_module(module), name)(pictures())
        return made

    return build


CLASSIFIERS: dict[str, Callable[..., Classifier]] = {
    "head": _head,
    "cnn": _of_pictures("birdsd.studies.sim2real.from_scratch:CnnClassifier"),
    "regression": _of_pictures("birdsd.studies.sim2real.regression:RegressionClassifier"),
}


def find_classifier(
    name: str, judge: Callable[[], Judge], folder: Path, pictures: Callable[[], Any] = lambda: None
) -> Classifier:
    """The classifier of that name, of what it needs: a judge with a `folder` for what it heard, or pictures
    (`pictures.Pictures`)."""
    (known,) = check_classifiers(name)
    return CLASSIFIERS[known](judge, folder, pictures)


def check_classifiers(named: str) -> list[str]:
    """The names in `named`, which commas separate; `UserError` for one that there is not."""
    names = list(dict.fromkeys(one.strip() for one in named.split(",") if one.strip()))
    for name in names or [named]:
        if name not in CLASSIFIERS:
            raise unknown_name("classifier", name, CLASSIFIERS)
    return names
