"""Periodicity-coded NMF (Lin, Fang and Tsao 2017): two sources told apart by when they sound, without a
label.

Bases are learnt first; then the spectra of their activations over time are factorised into two, and each
basis belongs to the one that it has more of. Which of the two is the bird is a guess, and is reported as one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from birdsd.sound.separation import nmf

RESTARTS = 8
_ITERATIONS = 200
_LOWEST_BIN = 8
# How much bursts count beside few bands: between 1.5 and 2 it tells all of 40 mixtures of ten species with
# sea and crickets right; surf has bursts, and crickets have few bands.
_BURSTS = 1.75


def periodicities(activations: np.ndarray) -> np.ndarray:
    """Float32 [bases, frequencies]: magnitudes of the spectrum of each activation over time, its mean left
    out; each basis on the same scale."""
    from scipy.fft import rfft

    centred = activations - activations.mean(axis=1, keepdims=True)
    spectrum = np.abs(rfft(centred, axis=1))[:, 1:].astype(np.float32)
    scaled: np.ndarray = spectrum / (spectrum.mean(axis=1, keepdims=True) + np.float32(1e-9))
    return scaled


def two_groups(activations: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The group, 0 or 1, of each basis of activations [bases, frames]; the best of several random starts."""
    if len(activations) < 2:
        return np.zeros(len(activations), np.int64)
    target = np.ascontiguousarray(periodicities(activations).T)
    best: tuple[float, np.ndarray] | None = None
    for _ in range(RESTARTS):
        weights, loads = nmf.learn(target, 2, draw, iterations=_ITERATIONS, what="periodicity")
        error = nmf.divergence(target, weights, loads)
        if best is None or error < best[0]:
            best = error, np.argmax(loads, axis=0).astype(np.int64)
    assert best is not None
    groups = best[1]
    if len(np.unique(groups)) < 2:  # all alike: the one that differs most is a source of its own
        groups = groups.copy()
        groups[int(np.argmax(_kurtosis(activations)))] = 1 - groups[0]
    return groups


class BirdGuess(NamedTuple):
    """Which group is taken for the bird, and the evidence for each of the two.

    `agree`: whether the song finder, which is easily misled at an SNR of 0 dB, says the same.
    """

    group: int
    kurtosis: tuple[float, float]
    flatness: tuple[float, float]
    outside: tuple[float, float]  # share of its energy where no song was found
    agree: bool


def which_is_the_bird(
    weights: np.ndarray,
    activations: np.ndarray,
    groups: np.ndarray,
    depth: int,
    song: np.ndarray | None = None,
) -> BirdGuess:
    """The group that sounds in bursts (kurtosis of its summed activation) and in few bands (flatness of its
    mean spectrum): which has more of both.

    weights: [depth * bins, bases]; activations: [bases, frames]; song: bool [frames], where the song finder
    hears one, None where it is not known.
    """
    sums = [activations[groups == group].sum(axis=0) for group in (0, 1)]
    kurtosis = tuple(float(_kurtosis(one[None])[0]) for one in sums)
    flatness = tuple(
        _flatness(
            nmf.unstacked(weights[:, groups == group], activations[groups == group], depth).mean(axis=0)
        )
        for group in (0, 1)
    )
    score = [kurtosis[group] ** _BURSTS / max(flatness[group], 1e-6) for group in (0, 1)]
    group = int(score[1] > score[0])
    outside = (0.5, 0.5)
    if song is not None and song.any() and not song.all():
        first, second = (float(one[~song].sum() / (one.sum() + 1e-9)) for one in sums)
        outside = first, second
    agree = outside[group] <= outside[1 - group]
    return BirdGuess(group, (kurtosis[0], kurtosis[1]), (flatness[0], flatness[1]), outside, agree)


def _flatness(spectrum: np.ndarray) -> float:
    """The geometric over the arithmetic mean: 1 for white noise. The lowest 250 Hz are every recorder's."""
    level = spectrum[_LOWEST_BIN:].astype(np.float64) + 1e-9
    return float(np.exp(np.log(level).mean()) / level.mean())


def _kurtosis(values: np.ndarray) -> np.ndarray:
    """Of each row: 3 for a Gaussian, more for bursts."""
    centred = values - values.mean(axis=1, keepdims=True)
    variance = np.square(centred).mean(axis=1)
    found: np.ndarray = (centred**4).mean(axis=1) / np.maximum(variance**2, 1e-20)
    return found
