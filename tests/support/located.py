"""A bird found from an array's recordings as OpenSoundscape documents it: time differences of arrival by
generalised cross-correlation (PHAT) within the event's band, then least squares over position."""

from __future__ import annotations

import numpy as np
import scipy.fft
from scipy.optimize import least_squares


def delay_s(
    reference: np.ndarray, other: np.ndarray, rate_hz: int, band_hz: tuple[float, float], most_s: float
) -> float:
    """How much later `other` hears what `reference` hears: the peak of the PHAT-weighted cross-correlation,
    refined by a parabola."""
    size = scipy.fft.next_fast_len(2 * len(reference), real=True)
    cross = scipy.fft.rfft(other, size) * np.conj(scipy.fft.rfft(reference, size))
    hz = scipy.fft.rfftfreq(size, 1 / rate_hz)
    inside = (hz >= band_hz[0]) & (hz <= band_hz[1])
    cross = np.where(inside, cross / np.maximum(np.abs(cross), 1e-12), 0)
    found = scipy.fft.irfft(cross, size)
    most = min(round(most_s * rate_hz), size // 2 - 1)
    lags = np.arange(-most, most + 1)
    values = found[lags]
    at = int(np.argmax(values))
    if 0 < at < len(values) - 1:
        a, b, c = values[at - 1 : at + 2]
        return float(lags[at] + 0.5 * (a - c) / (a - 2 * b + c)) / rate_hz
    return float(lags[at]) / rate_hz


def located(
    sounds: np.ndarray, rate_hz: int, places: np.ndarray, band_hz: tuple[float, float], speed_m_s: float
) -> tuple[np.ndarray, float]:
    """Position in metres [dimensions], and the root mean square of what is left, of sounds [recorders, n]
    heard at `places` [recorders, dimensions]."""
    widest = max(float(np.linalg.norm(one - other)) for one in places for other in places)
    delays = [delay_s(sounds[0], one, rate_hz, band_hz, widest / speed_m_s) for one in sounds]

    def off(at: np.ndarray) -> np.ndarray:
        far = np.linalg.norm(places - at[:-1], axis=1)
        return far - speed_m_s * np.array(delays) - at[-1]

    start = np.append(places.mean(axis=0), widest / 2)
    best = least_squares(off, start, x_scale=10.0)
    return best.x[:-1], float(np.sqrt(np.square(best.fun).mean()))
