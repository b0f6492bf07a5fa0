"""The words by which near-identical sounds are found: the quick way gives those of the plain one."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
from scipy import ndimage

from birdsd.sound import likeness as room

RATE = 16000


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Chirps in noise, float32 [samples], with a stretch of silence."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    chirps = 0.2 * np.sin(2 * np.pi * (2000 + 900 * np.sin(2 * np.pi * 3 * time)) * time)
    samples = chirps + 0.02 * draw.standard_normal(len(time))
    samples[len(samples) // 3 : len(samples) // 2] = 0
    return samples.astype(np.float32)


def plain_peaks(power: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """bool [frames, places]: the highest of the 5 x 5 around it, of the loudest of four bins each."""
    power = power * heard[:, None]
    count = power.shape[1] // 4
    pooled = power[:, : 4 * count].reshape(len(power), count, 4).max(axis=2)
    return (pooled == ndimage.maximum_filter(pooled, 5, mode="constant")) & (pooled > 0)


@pytest.mark.parametrize("seconds", [0.128, 0.129, 0.5, 3.0])
def test_the_power_is_that_of_one_transform_to_the_bit(seconds):
    samples = sound(seconds)
    power, begins = room._power(samples)
    frames = np.lib.stride_tricks.sliding_window_view(samples, 2048)[::400]
    low, high = round(300 * 2048 / RATE), round(7000 * 2048 / RATE)
    spectrum = scipy.fft.rfft(frames * np.hanning(2048).astype(np.float32), axis=1)[:, low:high]
    assert np.array_equal(power, spectrum.real**2 + spectrum.imag**2) and len(begins) == 33


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (5, 5), (40, 31)])
def test_the_highest_around_is_scipys(shape):
    values = np.random.default_rng(0).random(shape).astype(np.float32).round(1)  # with ties
    assert np.array_equal(room._highest_around(values), ndimage.maximum_filter(values, 5, mode="constant"))


def test_marks_are_pairs_of_the_plain_peaks(monkeypatch):
    samples = sound(3.0)
    power, begins = room._power(samples)
    heard = np.add.reduceat(power, begins, axis=1).sum(axis=1) > 1e-3
    assert not heard.all() and heard.any()
    monkeypatch.setattr(room, "_PEAKS_PER_S", 10**6)  # all of them
    places = np.argwhere(plain_peaks(power, heard)).tolist()
    expected = [
        (1 << 40 | place << 20 | other << 8 | later - frame, frame)
        for number, (frame, place) in enumerate(places)
        for later, other in places[number + 1 : number + 6]
        if 0 < later - frame <= 48
    ]
    words, at = room._marks(power, heard)
    assert len(expected) > 500 and sorted(zip(words.tolist(), at.tolist(), strict=True)) == sorted(expected)


def test_what_is_shorter_than_a_window_or_silent_has_no_words():
    for samples in (np.zeros(0, np.float32), sound(0.1), np.zeros(RATE, np.float32)):
        assert not len(room.words(samples).words)
