"""A classifier on frozen embeddings: what users of BirdNET train, and the strongest baseline of few
recordings.

Multinomial logistic regression by AdamW for a given number of steps, so that arms of an experiment that see
different sounds still learn for equally long. Every draw is a function of (seed, step): the same on any
machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from birdsd.errors import BadValue, NothingLeft
from birdsd.evaluation.resampling import numbered
from birdsd.randomness import generator

STEPS = 1_000
BATCH = 64
LEARNING_RATE = 5e-4
WEIGHT_DECAY = 0.05
_VALIDATIONS = 20
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Examples:
    """Embeddings float32 [clips, width], the class of each, int [clips], and the recording that it is of."""

    embeddings: np.ndarray
    classes: np.ndarray
    recordings: Sequence[Any]

    def __len__(self) -> int:
        return len(self.embeddings)


@dataclass(frozen=True)
class Head:
    """scores = softmax((embeddings - mean) / scale @ weights + bias)."""

    mean: np.ndarray  # [width]
    scale: float
    weights: np.ndarray  # [width, classes]
    bias: np.ndarray  # [classes]
    best_step: int
    validation_loss: float | None

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Probabilities, float64 [clips, classes]."""
        logits = (
            np.asarray(embeddings, dtype=np.float64) - self.mean
        ) / self.scale @ self.weights + self.bias
        return _softmax(logits)


def fit_head(
    pools: Sequence[Examples],
    validation: Examples | None,
    classes: int,
    *,
    seed: int = 0,
    steps: int = STEPS,
) -> Head:
    """Learn from pools of examples, of which each gives an equal share of every batch.

    Within a pool species are drawn equally often, recordings within a species, and clips within a recording,
    so that long recordings do not rule. The mean and the scale are those of the first pool (the real one,
    where there is one). The step with the lowest loss on `validation` is kept; without it, the last.
    """
    pools = [pool for pool in pools if len(pool)]
    _check(pools, validation, classes)
    mean = np.asarray(pools[0].embeddings, dtype=np.float64).mean(axis=0)
    scale = float(np.asarray(pools[0].embeddings, dtype=np.float64).std(axis=0).mean()) or 1.0
    inputs = [(np.asarray(pool.embeddings, dtype=np.float64) - mean) / scale for pool in pools]
    shares = [BATCH // len(pools) + (place < BATCH % len(pools)) for place in range(len(pools))]
    draws = [
        drawn_clips(pool, (steps, share), seed, place)
        for place, (pool, share) in enumerate(zip(pools, shares, strict=True))
    ]
    held = (np.asarray(validation.embeddings, dtype=np.float64) - mean) / scale if validation else None
    values = _Adam(np.zeros((inputs[0].shape[1], classes)), np.zeros(classes))
    best: tuple[float, int, np.ndarray, np.ndarray] | None = None
    marks = {max(1, round(steps * (place + 1) / _VALIDATIONS)) for place in range(_VALIDATIONS)}
    for step in range(1, steps + 1):
        x = np.concatenate([one[drawn[step - 1]] for one, drawn in zip(inputs, draws, strict=True)])
        y = np.concatenate([p.classes[drawn[step - 1]] for p, drawn in zip(pools, draws, strict=True)])
        error = _softmax(x @ values.weights + values.bias)
        error[np.arange(len(y)), y] -= 1.0
        values.step(x.T @ error / len(y), error.mean(axis=0), _rate(step, steps))
        if held is not None and validation is not None and step in marks:
            loss = _loss(_softmax(held @ values.weights + values.bias), validation.classes)
            if best is None or loss < best[0]:
                best = loss, step, values.weights.copy(), values.bias.copy()
    if best is None:
        return Head(mean, scale, values.weights, values.bias, steps, None)
    return Head(mean, scale, best[2], best[3], best[1], best[0])


def _check(pools: Sequence[Examples], validation: Examples | None, classes: int) -> None:
    if classes < 2:
        raise NothingLeft(
            f"{classes} species", "a classifier tells at least two apart", "add another species"
        )
    if not pools:
        raise NothingLeft("there is nothing to learn from", "", "every pool of examples is empty")
    for one in [*pools, *([validation] if validation else [])]:
        if not np.isfinite(one.embeddings).all():
            raise BadValue("an embedding is NaN or infinite", "the judge gave no number for a sound", "")
        if len(one) and not 0 <= int(one.classes.min()) <= int(one.classes.max()) < classes:
            raise BadValue(
                f"class {int(one.classes.max())} is outside the list", f"there are {classes} classes", ""
            )


def drawn_clips(pool: Examples, shape: tuple[int, int], seed: int, place: int) -> np.ndarray:
    """The clips of every step's share of a batch, int [steps, share]: species, then recordings, then clips
    are drawn equally often."""
    recordings, _ = numbered([str(one) for one in pool.recordings])
    pairs, clip_of = np.unique(np.stack([pool.classes, recordings]), axis=1, return_inverse=True)
    clip_of = clip_of.reshape(-1)
    species, first, count = np.unique(pairs[0], return_index=True, return_counts=True)
    order = np.argsort(clip_of, kind="stable")
    clips = np.bincount(clip_of, minlength=pairs.shape[1])
    start = np.concatenate([[0], np.cumsum(clips)[:-1]])
    uniform = generator(seed, "head", place).random((3, *shape))
    kind = (uniform[0] * len(species)).astype(int)
    recording = first[kind] + (uniform[1] * count[kind]).astype(int)
    return np.asarray(order[start[recording] + (uniform[2] * clips[recording]).astype(int)])


class _Adam:
    """AdamW over the weights; the bias does not decay."""

    def __init__(self, weights: np.ndarray, bias: np.ndarray) -> None:
        self.weights, self.bias = weights, bias
        self._moments = [np.zeros_like(each) for each in (weights, weights, bias, bias)]
        self._count = 0

    def step(self, weights: np.ndarray, bias: np.ndarray, rate: float) -> None:
        self._count += 1
        self.weights *= 1 - rate * WEIGHT_DECAY
        for values, slope, place in ((self.weights, weights, 0), (self.bias, bias, 2)):
            for moment, beta, power in ((place, _BETAS[0], 1), (place + 1, _BETAS[1], 2)):
                self._moments[moment] *= beta
                self._moments[moment] += (1 - beta) * slope**power
            first = self._moments[place] / (1 - _BETAS[0] ** self._count)
            second = self._moments[place + 1] / (1 - _BETAS[1] ** self._count)
            values -= rate * first / (np.sqrt(second) + _EPSILON)


def _rate(step: int, steps: int) -> float:
    """Warm-up over the first twentieth, then a cosine to zero."""
    warm = max(1, steps // 20)
    if step <= warm:
        return LEARNING_RATE * step / warm
    return LEARNING_RATE * 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _loss(scores: np.ndarray, classes: np.ndarray) -> float:
    return float(-np.log(scores[np.arange(len(classes)), classes].clip(1e-12)).mean())
