"""Finds songs: the stretches of a focal recording that hold one, or windows over a soundscape.

The song finder follows Perch (google-research/perch, audio_utils): log spectrum in bands, a two-pass denoise
per band, the sum over bands, peaks as wide as a song, kept when they stand out. It works through a recording
in chunks, so that neither memory nor the noise estimate depends on its length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.fft
from scipy import ndimage

from birdsd.errors import BadValue
from birdsd.sound.audio.channels import mix_down
from birdsd.sound.audio.recordings import blocks
from birdsd.sound.labels.annotation import Label

_ANALYSIS_RATE_HZ = 24000  # enough for bands up to 10 kHz
_CHUNK_S = 60.0
_WINDOW_S, _HOP_S = 0.04, 0.02
_LOW_HZ, _HIGH_HZ, _BANDS = 250.0, 10000.0, 64
_NOISE_DEVIATIONS = 0.75  # a cell is signal from this many standard deviations above the noise on
_PEAK_TO_MEAN = 1.5
_SONG_WIDTHS_S = (0.5, 1.0, 2.0)
_SILENCE = 2.0**-16  # below half a step of 16 bits nothing is there
_PAUSE_S = 0.4  # notes no further apart than this are one song
_NOTE_S = 0.3  # a peak of the smoothed energy may lie between two notes: one is no further away
# Of the way from the noise to the loudest note: what is below, such as an echo, is not the song's any more.
_FAINTEST_NOTE = 0.3
_QUIETEST_SHARE = 20  # percent of a recording that hold no song, for what lies between songs to be known
_ABOVE_QUIET = 1.4  # white and pink noise stay within 1.3 of that percentile, over 6 s and 30 s
_APART_S = 0.1  # from a song, before a stretch counts as without one


@dataclass(frozen=True)
class Segment:
    """A part of a recording; `score` is higher the more there is to hear (0 for plain windows).

    Two of the same place are equal, whatever they were cut around.
    """

    start_s: float
    duration_s: float
    score: float = 0.0
    channel: int | None = None  # of the file, from 1; None: all of them
    peak_s: float | None = field(default=None, compare=False)  # where the song that was found is loudest
    label: Label | None = field(default=None, compare=False)  # whose box it was cut around


def windows(duration_s: float, clip_s: float, overlap: float = 0.0) -> Iterator[Segment]:
    """Windows of `clip_s` with `overlap` (0 to below 1) of their length in common.

    A rest of a quarter of a window or more gets a last one that ends with the recording; a recording shorter
    than a window is one segment as it is.
    """
    if not 0.0 <= overlap < 1.0:
        raise BadValue(
            f"overlap {overlap} is not possible", "it must be 0 or more and below 1", "try overlap=0.5"
        )
    if duration_s <= clip_s:
        yield Segment(0.0, duration_s)
        return
    step = clip_s * (1.0 - overlap)
    count = int((duration_s - clip_s) / step + 1e-9) + 1
    for number in range(count):
        yield Segment(number * step, clip_s)
    if duration_s - ((count - 1) * step + clip_s) >= 0.25 * clip_s:
        yield Segment(duration_s - clip_s, clip_s)


Blocks = Iterable[tuple[float, np.ndarray]]


def find_songs(
    source: Path | Blocks,
    clip_s: float,
    limit: int,
    rate_hz: int = _ANALYSIS_RATE_HZ,
    band_hz: tuple[float | None, float | None] = (None, None),
) -> list[Segment]:
    """The best `limit` clips of `clip_s` seconds around songs, in order of time; [] for silence.

    `source` is a file (streamed, in bounded memory), or blocks as `recordings.blocks` gives them, at
    `rate_hz`: (start_s, [channels, samples]), of a minute each or the whole at once. Clips share at most half
    of their length. Where nothing stands out, the clip with most energy is given. `band_hz`: listen only to
    what lies between these frequencies (None: no limit).
    """
    parts: Blocks
    if isinstance(source, (str, Path)):
        rate_hz = _ANALYSIS_RATE_HZ
        parts = blocks(Path(source), rate_hz, _CHUNK_S)
    else:
        parts = source
    best: list[Segment] = []
    loudest: Segment | None = None
    end_s = 0.0
    for start_s, waveform in _joined_tail(parts, rate_hz):
        end_s = start_s + waveform.shape[1] / rate_hz
        energy = song_energy(mix_down(waveform, rate_hz), rate_hz, band_hz)
        if energy is None:
            continue
        peaks, smooth = _peaks(energy)
        top = int(np.argmax(smooth))
        for at in [*peaks.tolist(), top]:
            peak_s = start_s + at * _HOP_S
            segment = Segment(max(0.0, peak_s - clip_s / 2), clip_s, float(smooth[at]), peak_s=peak_s)
            if at == top and (loudest is None or segment.score > loudest.score):
                loudest = segment
            if at != top or top in peaks:
                best.append(segment)
        best = _strongest(best, clip_s, limit)
    if not best and loudest is not None:
        best = [loudest]
    latest = max(0.0, end_s - clip_s)
    fitted = [replace(s, start_s=min(s.start_s, latest), duration_s=min(clip_s, end_s)) for s in best]
    return sorted(_strongest(fitted, clip_s, limit), key=lambda segment: segment.start_s)


def song_energy(
    samples: np.ndarray, rate_hz: int, band_hz: tuple[float | None, float | None] = (None, None)
) -> np.ndarray | None:
    """How much stands above the noise in each frame of 20 ms: float32 [frames]; None for silence.

    samples: float32 [n]. The noise is estimated per band over all frames given. Bands outside of `band_hz`
    are not counted, unless there would be none.
    """
    samples = samples - samples.mean()
    if float(np.abs(samples).max()) < _SILENCE:
        return None
    window, edges = _bank(rate_hz)
    hop = round(_HOP_S * rate_hz)
    if len(samples) < len(window):
        samples = np.pad(samples, (0, len(window) - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, len(window))[::hop]
    spectrum = scipy.fft.rfft(frames * window, axis=1)[:, edges[0] : edges[-1]]
    power = spectrum.real**2 + spectrum.imag**2
    bands = np.log(np.add.reduceat(power, edges[:-1] - edges[0], axis=1) + 1e-12)
    noise_mean, noise_deviation = bands.mean(axis=0), bands.std(axis=0)
    is_noise = bands < noise_mean + _NOISE_DEVIATIONS * noise_deviation
    count = np.maximum(is_noise.sum(axis=0), 1)
    noise_mean = np.where(is_noise, bands, 0.0).sum(axis=0) / count
    noise_deviation = np.sqrt(np.where(is_noise, (bands - noise_mean) ** 2, 0.0).sum(axis=0) / count)
    above = bands - noise_mean
    above[above < _NOISE_DEVIATIONS * noise_deviation] = 0.0
    energy: np.ndarray = above[:, _within(edges, rate_hz, band_hz)].sum(axis=1, dtype=np.float32)
    return energy


def sounding_around(energy: np.ndarray, peak_s: float) -> tuple[float, float]:
    """Where the song around a peak begins and ends, in seconds from the first frame of its `song_energy`.

    energy: float32 [frames]. Pauses of up to 0.4 s belong to the song.
    """
    calm = ndimage.gaussian_filter1d(energy, 0.06 / _HOP_S)
    at = min(len(calm) - 1, max(0, round(peak_s / _HOP_S)))
    reach = round(_NOTE_S / _HOP_S)
    loudest = float(calm[max(0, at - reach) : at + reach + 1].max())
    base = float(np.percentile(calm, _QUIETEST_SHARE))
    heard = np.flatnonzero(calm >= min(loudest, base + _FAINTEST_NOTE * (loudest - base)))
    song = np.cumsum(np.diff(heard, prepend=heard[0]) > _PAUSE_S / _HOP_S)
    frames = heard[song == song[np.argmin(np.abs(heard - at))]]
    return float(frames[0]) * _HOP_S, float(frames[-1]) * _HOP_S + _WINDOW_S


def quiet_stretches(energy: np.ndarray, least_s: float) -> list[tuple[float, float]]:
    """Stretches (start_s, end_s) of at least `least_s` in which `song_energy` finds nothing, in seconds from
    its first frame.

    energy: float32 [frames]. They keep some distance from what does sound.
    """
    calm = ndimage.gaussian_filter1d(energy, 0.06 / _HOP_S)
    quiet = calm < _ABOVE_QUIET * float(np.percentile(calm, _QUIETEST_SHARE))
    edges = np.flatnonzero(np.diff(quiet, prepend=False, append=False)).reshape(-1, 2)
    stretches = []
    for first, end in edges.tolist():
        start_s = first * _HOP_S + (_APART_S if first else 0.0)
        end_s = end * _HOP_S - (_APART_S if end < len(calm) else 0.0)
        if end_s - start_s >= least_s:
            stretches.append((start_s, end_s))
    return stretches


def _within(
    edges: np.ndarray, rate_hz: int, band_hz: tuple[float | None, float | None]
) -> np.ndarray | slice:
    """Which bands lie at least partly inside `band_hz`; all where none does."""
    low, high = band_hz
    if low is None and high is None:
        return slice(None)
    edges_hz = edges * rate_hz / scipy.fft.next_fast_len(round(_WINDOW_S * rate_hz), real=True)
    inside = (edges_hz[1:] > (low or 0.0)) & (edges_hz[:-1] < (high if high is not None else np.inf))
    return inside if inside.any() else slice(None)


@lru_cache(maxsize=8)
def _bank(rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """The window, and the first FFT bin of each log-spaced band (and the end of the last)."""
    size = scipy.fft.next_fast_len(round(_WINDOW_S * rate_hz), real=True)
    high_hz = min(_HIGH_HZ, 0.5 * rate_hz)
    edges_hz = np.geomspace(min(_LOW_HZ, 0.5 * high_hz), high_hz, _BANDS + 1)
    edges = np.unique(np.rint(edges_hz * size / rate_hz).astype(int))
    return np.hanning(size + 1)[:size].astype(np.float32), edges


def _peaks(energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames in the middle of something as wide as a song that stands out; and the smoothed energy."""
    calm = ndimage.gaussian_filter1d(energy, 0.06 / _HOP_S)  # noise alone must not reach the threshold
    smooth = ndimage.gaussian_filter1d(energy, 0.25 / _HOP_S)
    # The Mexican hat of Perch's wavelet search; the best of three widths.
    response = np.max(
        [
            -ndimage.gaussian_laplace(energy, sigma) * sigma**1.5
            for sigma in (0.25 * width_s / _HOP_S for width_s in _SONG_WIDTHS_S)
        ],
        axis=0,
    )
    rises = np.diff(response, prepend=-np.inf, append=-np.inf) > 0
    found = np.flatnonzero(rises[:-1] & ~rises[1:])  # local maxima, also at the ends
    reach = ndimage.maximum_filter1d(calm, 2 * round(0.3 / _HOP_S) + 1)
    keep = (response[found] > 0) & (reach[found] >= _PEAK_TO_MEAN * energy.mean()) & (energy.mean() > 0)
    return found[keep], smooth


def _strongest(candidates: list[Segment], clip_s: float, limit: int) -> list[Segment]:
    """The highest scores whose clips share at most half of their length."""
    chosen: list[Segment] = []
    for candidate in sorted(candidates, key=lambda segment: (-segment.score, segment.start_s)):
        if len(chosen) >= limit:
            break
        if all(abs(candidate.start_s - other.start_s) >= 0.5 * clip_s for other in chosen):
            chosen.append(candidate)
    return chosen


def _joined_tail(parts: Blocks, rate_hz: int) -> Iterator[tuple[float, np.ndarray]]:
    """The chunks, with a last one that is too short for a noise estimate joined to the one before."""
    before: tuple[float, np.ndarray] | None = None
    for start_s, waveform in parts:
        if before is not None and waveform.shape[1] < 0.5 * _CHUNK_S * rate_hz:
            before = before[0], np.concatenate([before[1], waveform], axis=1)
            continue
        if before is not None:
            yield before
        before = start_s, waveform
    if before is not None:
        yield before
