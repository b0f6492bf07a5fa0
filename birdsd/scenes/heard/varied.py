"""A song higher or lower, faster or slower, within what an individual does."""

from __future__ import annotations

import numpy as np

from birdsd.errors import BadValue

_MOST_SEMITONES, _FASTEST = 12.0, 4.0


def varied(samples: np.ndarray, rate_hz: int, semitones: float = 0.0, rate: float = 1.0) -> np.ndarray:
    """float32 [samples / rate]: shifted by `semitones`, and played `rate` times as fast at its own pitch.

    A phase vocoder changes the length, and resampling the pitch; 0 and 1 give back the waveform itself.
    """
    if not abs(semitones) <= _MOST_SEMITONES or not 1 / _FASTEST <= rate <= _FASTEST:
        raise BadValue(
            f"a song changed by {semitones:g} semitones and a rate of {rate:g}",
            f"within {_MOST_SEMITONES:g} semitones and {1 / _FASTEST:g} to {_FASTEST:g} it may be that bird",
        )
    if semitones == 0 and rate == 1:
        return samples
    import soxr
    from librosa.effects import time_stretch

    higher = 2.0 ** (semitones / 12)
    length = max(1, round(len(samples) / rate))
    changed = np.asarray(samples, np.float32)
    if rate != higher:
        changed = time_stretch(changed, rate=rate / higher, n_fft=512 if rate_hz < 50000 else 1024)
    if higher != 1:
        changed = soxr.resample(changed, rate_hz * higher, rate_hz, quality="HQ")
    out = np.zeros(length, np.float32)
    out[: min(length, len(changed))] = changed[:length]
    return out
