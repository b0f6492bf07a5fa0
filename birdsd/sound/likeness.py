"""Near-identical sound under two names: encoded again, louder or softer, a little later.

Each recording gets words: one of 32 bits per 25 ms (signs of differences between neighbouring bands and
frames: Haitsma and Kalker 2002), and one for each pair of loud peaks that follow each other (Wang 2003). Gain
and compression leave enough of them for pairs of recordings to be found by looking words up. A pair counts
only if the waveforms themselves agree in phase (GCC-PHAT), as no two recordings do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import scipy.fft

from birdsd.sound.audio.levels import SILENCE_DBFS
from birdsd.sound.audio.recordings import blocks, read
from birdsd.sound.audio.source import RecordingError

LOOKED_AT_S = 30.0  # of each recording, from its start
_RATE_HZ = 16000
_WINDOW, _HOP = 2048, 400
_HANN = np.hanning(_WINDOW).astype(np.float32)
_FRAMES_AT_ONCE = 32  # a few stay in the cache; the FFT takes 16 side by side
_LOW_HZ, _HIGH_HZ, _BANDS = 300.0, 7000.0, 33
_PEAKS_PER_S, _FOLLOWERS, _FOLLOWS_FRAMES = 15, 5, 48
_PEAK_BINS = 4  # 31 Hz: a peak's place in frequency
_MOST_ALIKE = 12  # recordings that share a word: more, and the word says nothing (silence, a hum)
# Words at the same distance, for a pair to be looked at, and as a share of the shorter one's. Copies have 7%
# and more, also as a poor MP3; other songs of the same bird 2%, rarely 5%.
_HITS, _HITS_SHARE = 5, 0.025
_MOST_PAIRS = 2000
_IN_PHASE = 0.25  # share of the spectrum: copies have 0.5 and more, other songs up to 0.2, mostly 0.03
_SAME_SHAPE = 0.9  # correlation of the bands over time
# Of whole recordings, in two sets.
_BLOCK_S = 60.0
_MOST_OFTEN = 64  # times that a word of the one set may occur in the other: more, and it says nothing
_SHORTEST_S = 0.5  # of sound in common
_REACH_FRAMES = 20  # half a second on either side of the words that agree


@dataclass(frozen=True)
class Alike:
    """Two recordings by their numbers, and how much later the same sound is in the second, in seconds."""

    first: int
    second: int
    later_s: float


def find_alike(
    paths: Sequence[Path], same: Callable[[int, int], bool] = lambda a, b: False
) -> Iterator[Alike]:
    """Pairs of near-identical recordings among `paths`, the surest first.

    Decodes the first 30 s of each, at 2 ms a second or so. `same(i, j)` says whether a pair is one already
    and need not be looked at. Recordings that cannot be read are like no other.
    """
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        words = list(pool.map(_words_of, paths))
    for first, second in _candidates(words):
        if same(first, second):
            continue
        try:
            later_s = _compared(*(_heard(paths[number]) for number in (first, second)))
        except RecordingError:
            continue
        if later_s is not None:
            yield Alike(first, second, later_s)


def find_alike_across(
    paths: Sequence[Path], others: Sequence[Path], same: Callable[[int, int], bool] = lambda a, b: False
) -> Iterator[Alike]:
    """Pairs of a recording of `paths` and one of `others` that have a stretch of sound in common.

    Unlike `find_alike` it listens to all of each recording, so that a clip from the tenth minute of another
    file is found, and it finds any number of copies of one sound. `Alike.first` counts in `paths`, `second`
    in `others`. `same(i, j)`: this pair need not be looked at. Recordings that cannot be read are like no
    other.
    """
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        looked_up, table = list(pool.map(_all_words_of, paths)), list(pool.map(_all_words_of, others))
    known = _Vocabulary(table)
    for first, sound in enumerate(looked_up):
        for stretch in known.like(sound):
            if same(first, stretch.other):
                continue
            try:
                later_s = _in_common(paths[first], others[stretch.other], stretch)
            except RecordingError:
                continue
            if later_s is not None:
                yield Alike(first, stretch.other, later_s)


def _heard(path: Path) -> np.ndarray:
    samples: np.ndarray = read(path, _RATE_HZ, duration_s=LOOKED_AT_S)[0]
    return samples


@dataclass(frozen=True)
class Words:
    """What a sound looks like: words, uint64 [n], and the frames of 25 ms where they are, int64 [n]."""

    words: np.ndarray
    frames: np.ndarray


def _words_of(path: Path) -> Words:
    try:
        return words(_heard(path))
    except RecordingError:
        return Words(np.zeros(0, np.uint64), np.zeros(0, np.int64))


def _all_words_of(path: Path) -> Words:
    """The words of a whole recording, block by block."""
    found = [Words(np.zeros(0, np.uint64), np.zeros(0, np.int64))]
    try:
        for start_s, block in blocks(path, _RATE_HZ, _BLOCK_S):
            part = words(block[0])
            found.append(Words(part.words, part.frames + round(start_s * _RATE_HZ / _HOP)))
    except RecordingError:
        return found[0]
    return Words(*(np.concatenate([getattr(p, name) for p in found]) for name in ("words", "frames")))


class _Vocabulary:
    """The words of a set of recordings, to look up those of another recording."""

    def __init__(self, sounds: Sequence[Words]) -> None:
        empty = Words(np.zeros(0, np.uint64), np.zeros(0, np.int64))
        self._lengths = [int(sound.frames.max(initial=-1)) + 1 for sound in sounds]
        all_words = np.concatenate([sound.words for sound in (empty, *sounds)])
        order = np.argsort(all_words, kind="stable")
        self._words = all_words[order]
        self._frames = np.concatenate([sound.frames for sound in (empty, *sounds)])[order]
        self._owners = np.repeat(np.arange(len(sounds)), [len(sound.words) for sound in sounds])[order]
        self._longest = max(self._lengths, default=0)

    def like(self, sound: Words) -> list[_Stretch]:
        """Where those recordings are whose words agree with a sound's at one distance, the surest first."""
        if not len(sound.words) or not len(self._words):
            return []
        low = np.searchsorted(self._words, sound.words, "left")
        counts = np.searchsorted(self._words, sound.words, "right") - low
        counts[counts > _MOST_OFTEN] = 0
        at = np.repeat(low - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(counts.sum())
        frames = np.repeat(sound.frames, counts)
        length = int(sound.frames.max()) + 1
        span = length + self._longest + 1
        keys = self._owners[at] * span + (self._frames[at] - frames + length)
        order = np.argsort(keys, kind="stable")
        keys, frames = keys[order], frames[order]
        found, begins, hits = np.unique(keys, return_index=True, return_counts=True)
        near = hits.copy()  # the distance falls between two frames: neighbours count together
        joined = np.flatnonzero(np.diff(found) == 1)
        near[joined] += hits[joined + 1]
        density = len(sound.words) / length
        best: dict[int, _Stretch] = {}
        for place in np.flatnonzero(near >= _HITS)[np.argsort(-near[near >= _HITS], kind="stable")].tolist():
            owner, lag = divmod(int(found[place]), span)
            if owner in best:
                continue
            # Chance agreement is strewn over all of a recording, a copy's is dense where it is one.
            first, last = np.percentile(frames[begins[place] : begins[place] + near[place]], [10, 90])
            if near[place] >= _HITS_SHARE * density * (last - first):
                reach = (last - first) / 8 + _REACH_FRAMES
                best[owner] = _Stretch(owner, lag - length, first - reach, last + reach)
        return list(best.values())


@dataclass(frozen=True)
class _Stretch:
    """Frames of a sound that are the same, `lag` frames later, in the recording `other`."""

    other: int
    lag: int
    first: float
    last: float


def _in_common(path: Path, other: Path, stretch: _Stretch) -> float | None:
    """How much later the other has the sound of a stretch, in seconds; None where it has another sound."""
    later_s = stretch.lag * _HOP / _RATE_HZ
    begin_s = max(0.0, -later_s, stretch.first * _HOP / _RATE_HZ)
    duration_s = min(LOOKED_AT_S, stretch.last * _HOP / _RATE_HZ - begin_s)
    if duration_s < _SHORTEST_S:
        return None
    starts_s = begin_s, begin_s + later_s
    sounds = [
        read(one, _RATE_HZ, start_s=start_s, duration_s=duration_s)[0]
        for one, start_s in zip((path, other), starts_s, strict=True)
    ]
    length = min(map(len, sounds))
    lag_s = _compared(*(sound[:length] for sound in sounds)) if length >= _SHORTEST_S * _RATE_HZ else None
    return None if lag_s is None else lag_s + later_s


def words(samples: np.ndarray) -> Words:
    """The words of a sound at 16 kHz; none where nothing is to be heard."""
    power, begins = _power(samples)
    if len(power) < 2:
        return Words(np.zeros(0, np.uint64), np.zeros(0, np.int64))
    energy = np.add.reduceat(power, begins, axis=1)
    heard = energy.sum(axis=1) > 10 ** (SILENCE_DBFS / 10) * _WINDOW**2 / 4
    bits = np.diff(np.diff(energy, axis=1), axis=0) > 0
    powers = np.left_shift(np.uint64(1), np.arange(_BANDS - 1, dtype=np.uint64))
    signs = (bits * powers).sum(axis=1, dtype=np.uint64)
    kept = np.flatnonzero(heard[1:])
    marks, at = _marks(power, heard)
    return Words(np.concatenate([signs[kept], marks]), np.concatenate([kept, at]))


def _marks(power: np.ndarray, heard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A word for each pair of peaks, and its frame, from power [frames, bins] and which frames are heard."""
    used = power[:, : power.shape[1] // _PEAK_BINS * _PEAK_BINS]
    # numpy's max along so short an axis takes twenty times as long.
    pooled = reduce(np.maximum, (used[:, offset::_PEAK_BINS] for offset in range(_PEAK_BINS)))
    pooled = pooled * heard[:, None]
    frame, place = np.nonzero((pooled == _highest_around(pooled)) & (pooled > 0))
    most = max(_FOLLOWERS, round(len(power) * _HOP / _RATE_HZ * _PEAKS_PER_S))
    if len(frame) > most:
        loud = np.sort(np.argpartition(pooled[frame, place], -most)[-most:])
        frame, place = frame[loud], place[loud]
    found, at = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for step in range(1, _FOLLOWERS + 1):
        later = frame[step:] - frame[:-step]
        near = (later > 0) & (later <= _FOLLOWS_FRAMES)
        word = (place[:-step] << 20 | place[step:] << 8 | later)[near].astype(np.uint64)
        found.append(word | np.uint64(1 << 40))
        at.append(frame[:-step][near])
    return np.concatenate(found), np.concatenate(at)


def _highest_around(values: np.ndarray) -> np.ndarray:
    """The maximum of the 5 x 5 values around each one, of values [n, m] that are not negative."""
    rows = np.pad(values, 2)
    two = np.maximum(rows[:-1], rows[1:])
    columns = np.maximum(np.maximum(two[:-3], two[2:-1]), rows[4:])
    two = np.maximum(columns[:, :-1], columns[:, 1:])
    highest: np.ndarray = np.maximum(np.maximum(two[:, :-3], two[:, 2:-1]), columns[:, 4:])
    return highest


def _power(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power from 300 to 7000 Hz, float32 [frames, bins], and the first bin of each of 33 bands."""
    edges = np.rint(np.geomspace(_LOW_HZ, _HIGH_HZ, _BANDS + 1) * _WINDOW / _RATE_HZ).astype(int)
    if len(samples) < _WINDOW:
        return np.zeros((0, edges[-1] - edges[0]), np.float32), edges[:-1] - edges[0]
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    power = np.empty((len(frames), edges[-1] - edges[0]), np.float32)
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        part = slice(start, start + _FRAMES_AT_ONCE)
        spectrum = scipy.fft.rfft(frames[part] * _HANN, axis=1)[:, edges[0] : edges[-1]]
        squares = np.square(np.ascontiguousarray(spectrum).view(np.float32))
        np.add(squares[:, ::2], squares[:, 1::2], out=power[part])
    return power, edges[:-1] - edges[0]


def _bands(samples: np.ndarray) -> np.ndarray:
    """Energy in each band and frame, float32 [frames, 33]."""
    power, begins = _power(samples)
    energy: np.ndarray = np.add.reduceat(power, begins, axis=1)
    return energy


def _candidates(words: Sequence[Words]) -> list[tuple[int, int]]:
    """Pairs of numbers whose words agree at one distance, most agreement first."""
    all_words = np.concatenate([sound.words for sound in words])
    if not len(all_words):
        return []
    owner = np.repeat(np.arange(len(words)), [len(sound.words) for sound in words])
    frame = np.concatenate([sound.frames for sound in words])
    order = np.argsort(all_words, kind="stable")
    sorted_words = all_words[order]
    begins = np.flatnonzero(np.concatenate([[True], sorted_words[1:] != sorted_words[:-1]]))
    sizes = np.diff(begins, append=len(order))
    longest = int(frame.max()) + 1
    keys = []
    for size in range(2, _MOST_ALIKE + 1):
        rows = order[begins[sizes == size][:, None] + np.arange(size)]
        for i in range(size):
            for j in range(i + 1, size):
                one, other = rows[:, i], rows[:, j]  # sorted by owner, since the sort is stable
                differ = owner[one] != owner[other]
                one, other = one[differ], other[differ]
                pair = owner[one].astype(np.int64) * len(words) + owner[other]
                keys.append(pair * (2 * longest) + (frame[other] - frame[one] + longest))
    found, hits = np.unique(np.concatenate(keys), return_counts=True)
    # The distance falls between two frames: neighbours count together.
    near = hits.copy()
    joined = np.flatnonzero(np.diff(found) == 1)
    near[joined] += hits[joined + 1]
    found, near = found[near >= _HITS], near[near >= _HITS]
    best: dict[int, int] = {}
    for pair, count in zip((found // (2 * longest)).tolist(), near.tolist(), strict=True):
        one, other = divmod(pair, len(words))
        least = max(_HITS, _HITS_SHARE * min(len(words[one].words), len(words[other].words)))
        if count >= least:
            best[pair] = max(best.get(pair, 0), count)
    ranked = sorted(best, key=lambda pair: (-best[pair], pair))[:_MOST_PAIRS]
    return [divmod(pair, len(words)) for pair in ranked]


def _compared(first: np.ndarray, second: np.ndarray) -> float | None:
    """How much later the second has the same sound, in seconds; None where it is another sound."""
    size = scipy.fft.next_fast_len(len(first) + len(second), real=True)
    cross = np.conj(scipy.fft.rfft(first, size)) * scipy.fft.rfft(second, size)
    hz = np.fft.rfftfreq(size, 1 / _RATE_HZ)
    counted = (hz > _LOW_HZ) & (hz < _HIGH_HZ)
    strength = np.abs(cross)
    cross = np.where(counted & (strength > 0), cross / np.maximum(strength, 1e-30), 0)
    response = scipy.fft.irfft(cross, size)
    # Of a signal that is its own mirror image (turned over), the response is negative.
    at = int(np.argmax(np.abs(response)))
    if abs(response[at]) * size / (2 * counted.sum()) < _IN_PHASE:
        return None
    lag = at if at < size // 2 else at - size
    one, other = first[max(0, -lag) :], second[max(0, lag) :]
    length = min(len(one), len(other))
    shapes = [np.sqrt(_bands(part[:length])).ravel() for part in (one, other)]
    if length < _WINDOW or not shapes[0].std() * shapes[1].std() > 0:
        return None
    return lag / _RATE_HZ if float(np.corrcoef(shapes)[0, 1]) >= _SAME_SHAPE else None
