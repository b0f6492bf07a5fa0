"""Birds told apart by where they sing: masks by direction on a cardioid that looks at each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.fft

from birdsd.errors import BadValue
from birdsd.sound.space.intensity import spectra, window_and_hop

_SHARPNESS = 20.0
_ELSEWHERE_DEG = 60.0  # what points further away from every bird is nobody's


def apart(foa: np.ndarray, rate_hz: int, azimuths_deg: Sequence[float]) -> np.ndarray:
    """float32 [1 + birds, n] of FOA [4, n] (ACN/SN3D): a sound for each azimuth, and first what is left of W:
    all of them sum to W."""
    azimuths = np.radians(np.asarray(azimuths_deg, np.float64))
    if not len(azimuths) or not np.isfinite(azimuths).all():
        raise BadValue(f"azimuths {list(azimuths_deg)}", "one or more numbers in degrees are expected")
    found = spectra(foa, rate_hz)
    w, y, _, x = found
    heading = np.arctan2((np.conj(w) * y).real, (np.conj(w) * x).real)
    scores = _SHARPNESS * np.cos(heading[None] - azimuths[:, None, None])
    away = np.full((1, *heading.shape), _SHARPNESS * np.cos(np.radians(_ELSEWHERE_DEG)))
    weights = np.exp(np.concatenate([away, scores]) - scores.max(axis=0).clip(min=away[0]))
    masks = (weights[1:] / weights.sum(axis=0)).astype(np.float32)
    looking = np.stack([0.5 * (w + np.cos(a) * x + np.sin(a) * y) for a in azimuths])
    birds = sound_of(masks * looking, rate_hz, foa.shape[1])
    return np.concatenate([(foa[0] - birds.sum(axis=0))[None], birds]).astype(np.float32)


def sound_of(found: np.ndarray, rate_hz: int, samples: int) -> np.ndarray:
    """float32 [channels, samples] of spectra as `intensity.spectra` makes them."""
    window, hop = window_and_hop(rate_hz)
    taper = np.hanning(window + 1)[:-1].astype(np.float32)
    frames = scipy.fft.irfft(found, window, axis=2) * taper
    count = frames.shape[1]
    out = np.zeros((len(found), (count + 3) * hop), np.float32)
    weight = np.zeros((count + 3) * hop, np.float32)
    for quarter in range(4):
        part = frames[:, :, quarter * hop : (quarter + 1) * hop].reshape(len(found), -1)
        out[:, quarter * hop : quarter * hop + count * hop] += part
        weight[quarter * hop : quarter * hop + count * hop] += np.tile(
            np.square(taper[quarter * hop : (quarter + 1) * hop]), count
        )
    out /= np.maximum(weight, 1e-3)
    first = window // 2
    short = max(0, first + samples - out.shape[1])
    return np.pad(out, ((0, 0), (0, short)))[:, first : first + samples]


def apart_in_blocks(
    read: Iterator[np.ndarray], rate_hz: int, azimuths_deg: Sequence[float], block: int
) -> Iterator[np.ndarray]:
    """`apart` of a long sound that comes in parts [4, n]: memory does not grow with it, and what comes out is
    the same."""
    window, hop = window_and_hop(rate_hz)
    size, beside = max(1, block // hop) * hop, window
    held = np.zeros((4, 0), np.float32)
    before = 0
    for part in read:
        held = np.concatenate([held, part], axis=1)
        while held.shape[1] >= before + size + beside:
            done = apart(held[:, : before + size + beside], rate_hz, azimuths_deg)
            yield done[:, before : before + size]
            held, before = held[:, before + size - beside :] if before + size > beside else held, beside
    if held.shape[1] > before:
        yield apart(held, rate_hz, azimuths_deg)[:, before:]
