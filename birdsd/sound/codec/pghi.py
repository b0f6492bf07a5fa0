"""Phases that follow from magnitudes: phase gradient heap integration (Prusa, Balazs and Sondergaard 2017).

With a Gaussian window the phase of a short-time Fourier transform turns, from one cell to the next, by what
the logarithm of the magnitudes says: along time by its slope along frequency, and the reverse. A Hann window
is close to a Gaussian one. The slopes are summed up from the loudest cell on, always through the loudest of
the cells that were reached, so that errors stay where it is quiet.

The summing is a loop over cells that depend on each other, hence compiled. numba is imported, and the loop
compiled or read from numba's cache, when the first phases are asked for, and not before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from birdsd.sound.codec.transform import Stft

# A Hann window of W samples is closest to the Gaussian exp(-pi t^2 / gamma) with gamma = 0.25645 W^2.
_GAMMA_OF_HANN = 0.25645
_LEAST = 1e-6  # of the loudest magnitude: below, slopes are noise, and the phase stays as it was drawn
_NOT_KEPT: set[Callable[..., Any]] = (
    set()
)  # loops that numba's cache has failed for: compiled for this process
_LEVELS = 512  # steps of loudness, 0.23 dB apart: cells within one step are taken as equally loud


def integrated_phase(magnitude: np.ndarray, drawn: np.ndarray, stft: Stft) -> np.ndarray:
    """Phases in radians, float32 [frames, bins], of `magnitude` [frames, bins], counted as `stft` does.

    drawn: float32 [frames, bins], in 0..2 pi: the phase where a sum begins, and of all that is too quiet.
    """
    magnitude = np.ascontiguousarray(magnitude, np.float32)
    phase = np.array(drawn, np.float32, order="C")
    peak = float(magnitude.max(initial=0.0))
    if not np.isfinite(peak) or peak <= 0:
        return phase
    # Divided first: of a loudest magnitude near the smallest float the threshold would be 0.
    level = np.log(np.maximum(magnitude / np.float32(peak), np.float32(_LEAST)))
    gamma = _GAMMA_OF_HANN * stft.window**2
    stretch = stft.hop * stft.n_fft / gamma
    turn = 2 * np.pi * stft.hop / stft.n_fft  # of bin 1, from one frame to the next
    steps = _run(_slopes, level, turn, stretch, float(np.log(_LEAST)), stft.circular)
    loudness = (np.float32(_LEVELS) - level * np.float32(_LEVELS / np.log(_LEAST))).astype(np.int32) - 1
    _run(_integrate, loudness, _run(_loudest_first, loudness.ravel()), *steps, phase, stft.circular)
    # What is integrated counts from the window's centre; frames of an Stft begin at its first sample.
    return phase - np.float32(np.pi * stft.window / stft.n_fft) * np.arange(stft.bins, dtype=np.float32)


def _run(loop: Callable[..., Any], *arguments: object) -> Any:
    """`loop` of `arguments`, compiled; numba keeps it beside this file or in the user's cache folder."""
    if loop not in _NOT_KEPT:
        try:
            return _compiled(loop, True)(*arguments)
        # Where neither folder can be written, numba refuses to cache at all; a full disk shows while it
        # compiles, a torn file of its cache as whatever pickle makes of it: all of that before the loop
        # begins, which raises nothing itself.
        except Exception:
            _NOT_KEPT.add(loop)
    return _compiled(loop, False)(*arguments)


@lru_cache
def _compiled(loop: Callable[..., Any], cached: bool) -> Callable[..., Any]:
    from numba import njit

    compiled: Callable[..., Any] = njit(cache=cached, nogil=True)(loop)
    return compiled


def _slopes(
    level: np.ndarray, turn: float, stretch: float, least: float, circular: bool
) -> tuple[np.ndarray, np.ndarray]:
    """How far the phase turns at every cell of `level` (natural logarithms, [frames, bins], `least` to 0):
    per frame and per bin, float32 [frames, bins]. Where a neighbour is too quiet to be known, the slope is
    that of the other side."""
    frames, bins = level.shape
    per_frame, per_bin = np.empty_like(level), np.empty_like(level)
    for n in range(frames):
        before = n - 1 if n > 0 else (frames - 1 if circular else n)
        after = n + 1 if n + 1 < frames else (0 if circular else n)
        for k in range(bins):
            low = k - 1 if k > 0 and level[n, k - 1] > least else k
            high = k + 1 if k + 1 < bins and level[n, k + 1] > least else k
            old = before if level[before, k] > least else n
            new = after if level[after, k] > least else n
            per_frame[n, k] = turn * k + stretch * (level[n, high] - level[n, low]) / max(high - low, 1)
            sides = max((old != n) + (new != n), 1)
            per_bin[n, k] = -(level[new, k] - level[old, k]) / (stretch * sides)
    return per_frame, per_bin


def _loudest_first(loudness: np.ndarray) -> np.ndarray:
    """The cells, int32, from the loudest step of `loudness` [cells] down to step 0; by counting."""
    size = np.zeros(_LEVELS + 1, np.int32)
    for step in loudness:
        if step >= 0:
            size[step] += 1
    place = np.zeros(_LEVELS + 1, np.int32)
    for step in range(_LEVELS - 1, -1, -1):
        place[step] = place[step + 1] + size[step + 1]
    order = np.empty(size.sum(), np.int32)
    for cell, step in enumerate(loudness):
        if step >= 0:
            order[place[step]] = cell
            place[step] += 1
    return order


def _integrate(
    loudness: np.ndarray,
    order: np.ndarray,
    per_frame: np.ndarray,
    per_bin: np.ndarray,
    phase: np.ndarray,
    circular: bool,
) -> None:
    """Sum up `phase` in place, from the cells of `order` over all that are connected; arrays are [frames,
    bins], `order` [cells].

    loudness: int32 steps, below 0 where nothing is summed; it is used up. The cells that were reached wait in
    lists, one a step, rather than in a heap: each enters once, so that the lists are one array of links, and
    the time is proportional to the cells.
    """
    frames, bins = loudness.shape
    first = np.full(_LEVELS, -1, np.int32)
    link = np.empty(frames * bins, np.int32)
    for begin in order:
        top = loudness[begin // bins, begin % bins]
        if top < 0:
            continue  # reached from a louder one
        first[top], link[begin] = begin, -1
        loudness[begin // bins, begin % bins] = -1
        while top >= 0:
            cell = first[top]
            if cell < 0:
                top -= 1
                continue
            first[top] = link[cell]
            n, k = cell // bins, cell % bins
            for side in range(4):
                sign = 1 - 2 * (side % 2)
                row, column = (n + sign, k) if side < 2 else (n, k + sign)
                if circular:
                    row = row % frames
                if row < 0 or row >= frames or column < 0 or column >= bins:
                    continue
                step = loudness[row, column]
                if step < 0:
                    continue
                slopes = per_frame if side < 2 else per_bin
                angle = phase[n, k] + sign * 0.5 * (slopes[n, k] + slopes[row, column])
                phase[row, column] = angle - 2 * np.pi * np.floor(angle / (2 * np.pi))
                loudness[row, column] = -1
                near = row * bins + column
                first[step], link[near] = near, first[step]
                top = max(top, step)
