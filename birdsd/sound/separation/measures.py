"""How well a separation did: SI-SDR against a truth, and what can be said without one."""

from __future__ import annotations

import math

import numpy as np

from birdsd.sound.audio.levels import active_level_db

_FRAME_S = 0.02
_QUIET_PERCENT = 20.0


def si_sdr_db(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019) of [n] samples, in dB.

    -inf for a silent estimate, NaN for a silent truth.
    """
    exact, reference = (
        np.asarray(one, np.float64) - np.mean(one, dtype=np.float64) for one in (estimate, truth)
    )
    energy = float(reference @ reference)
    if energy == 0:
        return math.nan
    target = float(exact @ reference) / energy * reference
    kept, lost = float(target @ target), float(np.square(exact - target).sum())
    if kept == 0:
        return -math.inf
    return 10 * math.log10(kept / lost) if lost > 0 else math.inf


def improvement_db(estimate: np.ndarray, truth: np.ndarray, mixture: np.ndarray) -> float:
    """By how much the SI-SDR of `estimate` is better than that of the mixture, all [n]."""
    return si_sdr_db(estimate, truth) - si_sdr_db(mixture, truth)


def snr_db(waveform: np.ndarray, rate_hz: int) -> float:
    """The active level over that of the quietest fifth of the frames of 20 ms, in dB; 0 for silence.

    waveform: float32 [channels, samples]. It is what can be said of a recording without knowing the song.
    """
    step = max(1, round(_FRAME_S * rate_hz))
    count = waveform.shape[1] // step
    if not count:
        return 0.0
    frames = waveform[:, : count * step].reshape(len(waveform), count, step)
    power = np.square(frames, dtype=np.float64).mean(axis=(0, 2))
    quiet = np.sort(power)[: max(1, int(count * _QUIET_PERCENT / 100))].mean()
    active = active_level_db(waveform)
    if not math.isfinite(active) or active <= -150:
        return 0.0
    return active - 10 * math.log10(quiet + 1e-16)
