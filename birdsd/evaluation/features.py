"""Log-mel statistics of a clip: what a plain classifier hears.

Everything is measured on the codec's own images, so that a real clip and a generated one come through
exactly the same representation: same rate, same length, same bands, same quantisation. A classifier
of waveforms would recognise the codec's artefacts instead of the birds.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from birdsd.sound.codec.protocol import Codec

BANDS = 32  # at most; rows that share a mel band are averaged
RANGE_DB = 50.0  # below a clip's level; what is quieter counts as silence, so that the floor says nothing
ACTIVE_DB = 20.0  # a frame is active within this of the clip's loudest frames
LAGS_S = (0.005, 0.01, 0.02, 0.04, 0.08)  # time differences over which change is measured
MODULATION_HZ = (1.0, 3.0, 6.0, 12.0, 25.0, 50.0, 100.0)  # edges of the bands of the envelope's spectrum


def mel(frequency_hz: np.ndarray) -> np.ndarray:
    """HTK's mel scale."""
    return 2595.0 * np.log10(1.0 + np.asarray(frequency_hz, dtype=np.float64) / 700.0)


def mean_power(codec: Codec, image: np.ndarray) -> np.ndarray:
    """Power of every band in every frame, float64 [bands, frames], lowest band first, mean of the
    channels."""
    return (np.asarray(codec.dequantise(image), dtype=np.float64) ** 2).mean(axis=0).T


def band_levels_db(codec: Codec, image: np.ndarray) -> np.ndarray:
    """Level of every mel band in every frame, float32 [bands, frames] in dB relative to the clip.

    `image` is the codec's, [C, H, W]. Channels are averaged in power, rows into at most `BANDS` equal
    steps of the mel scale (steps that hold no row are dropped), lowest band first. The level of the
    clip is the mean power of its active frames: turning a recording up or down changes nothing.
    """
    rows = mel(codec.row_hz()[::-1])
    step = np.floor((rows - rows.min()) / (np.ptp(rows) + 1e-9) * BANDS).astype(int)
    _, band, count = np.unique(step, return_inverse=True, return_counts=True)
    pooling = np.zeros((len(count), len(rows)))
    pooling[band, np.arange(len(rows))] = 1 / count[band]
    bands = pooling @ mean_power(codec, image)
    frames = bands.sum(axis=0)
    loud = float(np.quantile(frames, 0.98))
    level = bands[:, frames >= loud * 10 ** (-ACTIVE_DB / 10)].mean() if loud > 0 else 1.0
    return (10 * np.log10(bands / level + 1e-12)).clip(-RANGE_DB, None).astype(np.float32)


def active_frames(levels_db: np.ndarray) -> np.ndarray:
    """Which frames hold sound, bool [frames]: those within `ACTIVE_DB` of the loudest; never none."""
    frames = 10 * np.log10((10 ** (levels_db / 10)).sum(axis=0))
    return frames >= np.quantile(frames, 0.98) - ACTIVE_DB


def _contour(levels_db: np.ndarray, active: np.ndarray, hop_s: float) -> list[float]:
    """How the pitch moves: where the energy's centre lies, how far it wanders, how fast it rises and
    falls."""
    weight = 10 ** (levels_db / 10)
    centre = (weight * np.arange(len(levels_db))[:, None]).sum(axis=0) / weight.sum(axis=0)
    lag = max(1, round(0.02 / hop_s))
    both = active[lag:] & active[:-lag]
    slope = (centre[lag:] - centre[:-lag])[both] / (lag * hop_s) / 100.0
    if not len(slope):
        slope = np.zeros(1)
    heard = centre[active]
    return [
        *(float(v) for v in np.quantile(heard, (0.1, 0.5, 0.9))),
        float(heard.std()),
        *(float(v) for v in np.quantile(slope, (0.1, 0.25, 0.5, 0.75, 0.9))),
        float((slope > 0.05).mean() - (slope < -0.05).mean()),
    ]


def modulation_db(levels_db: np.ndarray, hop_s: float) -> list[float]:
    """The rhythm of band levels [bands, frames]: shares of the envelope's spectrum in `MODULATION_HZ`, dB."""
    envelope = np.sqrt((10 ** (levels_db / 10)).sum(axis=0))
    spectrum = np.abs(np.fft.rfft((envelope - envelope.mean()) * np.hanning(len(envelope)))) ** 2
    rate = np.fft.rfftfreq(len(envelope), hop_s)
    shares = [spectrum[(rate >= low) & (rate < high)].sum() for low, high in pairwise(MODULATION_HZ)]
    return [float(v) for v in 10 * np.log10(np.asarray(shares) / (spectrum.sum() + 1e-20) + 1e-4)]


def statistics(levels_db: np.ndarray, hop_s: float) -> np.ndarray:
    """The statistics of one clip's band levels [bands, frames] with frames `hop_s` apart, float32 [features].

    Over the active frames: mean, standard deviation and 90th percentile of every band; how much all
    bands together change over each of `LAGS_S`; the pitch's contour; the share of active frames. Over
    the whole clip: the envelope's modulation spectrum.
    """
    frames = levels_db.shape[1]
    active = active_frames(levels_db)
    heard = levels_db[:, active]
    change = []
    for lag_s in LAGS_S:
        lag = min(max(1, round(lag_s / hop_s)), frames - 1)
        either = active[lag:] | active[:-lag]
        steps = np.abs(levels_db[:, lag:] - levels_db[:, :-lag])[:, either]
        change.append(float(steps.mean()) if steps.size else 0.0)
    values = [
        *heard.mean(axis=1),
        *heard.std(axis=1),
        *np.quantile(heard, 0.9, axis=1),
        *change,
        *_contour(levels_db, active, hop_s),
        float(active.mean()),
        *modulation_db(levels_db, hop_s),
    ]
    return np.asarray(values, dtype=np.float32)


def thumbnail(levels_db: np.ndarray, most_frames: int = 128) -> np.ndarray:
    """A small picture for comparing clips, float32 [bands, frames], of zero mean and unit length.

    The inner product of two is their correlation: 1 for a copy (at any loudness), about 0 for strangers.
    """
    width = levels_db.shape[1]
    starts = np.unique(np.linspace(0, width, min(most_frames, width), endpoint=False).astype(int))
    picture = np.add.reduceat(levels_db, starts, axis=1) / np.diff([*starts, width])
    picture -= picture.mean()
    return np.asarray(picture / (np.linalg.norm(picture) + 1e-9), dtype=np.float32)


def distances(clips: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The distance of every thumbnail of `clips` to every one of `others`, float32 [clips, others].

    One minus the greatest correlation over all shifts in time (turning round at the clip's end): 0 is
    a copy, moved or not, 1 has nothing in common.
    """
    here = np.fft.rfft(clips, axis=-1).astype(np.complex64).transpose(2, 0, 1)
    there = np.conj(np.fft.rfft(others, axis=-1)).astype(np.complex64).transpose(2, 1, 0)
    return 1.0 - np.fft.irfft(here @ there, n=clips.shape[-1], axis=0).max(axis=0).astype(np.float32)


def nearest(clips: np.ndarray, others: np.ndarray, block: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """For every thumbnail of `clips` the nearest of `others`: (its number, its distance), both [clips]."""
    parts = [distances(clips[start : start + block], others) for start in range(0, len(clips), block)]
    table = np.concatenate(parts)
    return table.argmin(axis=1), table.min(axis=1)
