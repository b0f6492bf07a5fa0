"""soundscape_IR's way (July 2024), from its documentation and its papers, for the sounds of a bench.

It cannot be installed as it is: it is on no package index, and it calls scikit-learn's NMF with arguments
that are gone since 1.2. Here its steps are done one by one: levels 10 log10 of the spectrum, prewhitened by
their 10th percentile and cut at 0; NMF with the Frobenius norm by coordinate descent from a random start;
PC-NMF's second factorisation of the spectra of the activations; each source the levels times its share; and
back to sound with the phase of the mixture. Its random starts have no seed; ours have, so that the bench
repeats.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.signal

FFT_SIZE, PERCENT = 512, 10


def pcnmf_sounds(
    mixed: np.ndarray, rate_hz: int, bases: int = 10, depth: int = 1, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The two sources of a mixture [n] as sound: as published, and, which is kinder to it, its masks on the
    complex spectrum."""
    levels, phase, spectrum = prewhitened(mixed, rate_hz)
    stacked = _stacked(levels, depth)
    weights, activations = _nmf(stacked, bases, seed, 0.0)
    centred = activations - activations.mean(axis=1, keepdims=True)
    periodicity = np.abs(np.fft.fft(centred))
    periodicity -= periodicity.min()
    _, loads = _nmf(periodicity.T, 2, seed, 0.0)
    cluster = np.argmax(loads, axis=0)
    published, masked = [], []
    for source in (0, 1):
        share = _share(weights, activations, cluster == source, depth, levels.shape)
        published.append(_sound(10 ** (levels * share / 10) * np.exp(1j * phase), rate_hz, len(mixed)))
        masked.append(_sound(spectrum * share, rate_hz, len(mixed)))
    return published, masked


def prewhitened(sound: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels [bins, frames], phases and the spectrum of a sound, as audio_visualization makes them."""
    _, _, spectrum = scipy.signal.stft(sound, rate_hz, "hann", FFT_SIZE, FFT_SIZE // 2)
    levels = 10 * np.log10(np.abs(spectrum) + 1e-12)
    levels -= np.percentile(levels, PERCENT, axis=1, keepdims=True)
    return np.maximum(levels, 0), np.angle(spectrum), spectrum


def update_loop(target: np.ndarray, weights: np.ndarray, iterations: int, seed: int = 0) -> np.ndarray:
    """The loop of its `prediction` with a model's bases: activations, then bases, which are put back."""
    from sklearn.decomposition._nmf import _update_coordinate_descent as update

    draw = np.random.default_rng(seed)
    exact = np.ascontiguousarray(target, np.float64)
    turned = np.ascontiguousarray(exact.T)
    known = np.ascontiguousarray(weights, np.float64)
    bases, loads = known.copy(), draw.random((target.shape[1], weights.shape[1]))
    for _ in range(iterations):
        update(turned, loads, bases, 0.0, 0.0, False, None)
        update(exact, bases, loads, 0.0, 0.0, False, None)
        bases[:] = known
    return loads.T


def _nmf(target: np.ndarray, count: int, seed: int, sparseness: float) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.decomposition import NMF

    model = NMF(count, init="random", random_state=seed, max_iter=200, l1_ratio=sparseness)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it seldom converges in 200 iterations
        weights = model.fit_transform(np.maximum(target, 0))
    return weights, model.components_


def _stacked(levels: np.ndarray, depth: int) -> np.ndarray:
    bins, frames = levels.shape
    out = np.zeros((depth, bins, frames + depth - 1))
    for k in range(depth):
        out[depth - 1 - k, :, k : k + frames] = levels
    return out.reshape(depth * bins, -1)


def _share(
    weights: np.ndarray, activations: np.ndarray, mine: np.ndarray, depth: int, shape: tuple[int, ...]
) -> np.ndarray:
    """The mean over the delays of what a source has of all."""
    bins, frames = shape
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num((weights[:, mine] @ activations[mine]) / (weights @ activations))
    pieces = share.reshape(depth, bins, -1)
    return sum(pieces[depth - 1 - k, :, k : k + frames] for k in range(depth)) / depth


def _sound(spectrum: np.ndarray, rate_hz: int, samples: int) -> np.ndarray:
    _, sound = scipy.signal.istft(spectrum, rate_hz, "hann", FFT_SIZE, FFT_SIZE // 2)
    out = np.zeros(samples)
    out[: min(samples, len(sound))] = sound[:samples]
    return out
