"""Layers to integers: stems are rounded first, and the mix is their sum, so that the sum is exact.

Everything is read, added and written in blocks: memory does not grow with the scene.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile

from birdsd.errors import DiskFull
from birdsd.files import explained_write
from birdsd.sound.audio.wav24 import Wav24

BITS = 24
FULL = 2 ** (BITS - 1)
CEILING_DB = -1.0  # of the true peak, as in EBU R 128
BLOCK = 1 << 18  # samples
_OVER = 4  # times oversampled for the true peak (ITU-R BS.1770 Annex 2)
_SAFE = 0.4  # sample peaks below it hide no true peak near the ceiling
_BESIDE = 64
_WAV_LIMIT = 0xFFFF0000 // 3
FORMATS = ("flac", "wav")


class Stem(Protocol):
    """A part of the mix."""

    @property
    def start(self) -> int: ...

    @property
    def samples(self) -> int: ...

    def read(self, first: int, count: int) -> np.ndarray:
        """float32 [count], or [count, channels], of the scene's samples from `first` on, zeros beyond the
        stem."""


@dataclass(frozen=True)
class Written:
    """A stem with its file; None: it is not kept by itself."""

    stem: Stem
    path: Path | None


def spans(samples: int, size: int = BLOCK) -> Iterator[tuple[int, int]]:
    """(first, count) of every block."""
    for first in range(0, samples, size):
        yield first, min(size, samples - first)


def silence(stem: Stem, count: int) -> np.ndarray:
    """float32 zeros [count] or [count, channels], as the stem has them."""
    return np.zeros((count, *stem.read(stem.start, 0).shape[1:]), np.float32)


def total(stems: Sequence[Stem], first: int, count: int) -> np.ndarray:
    """float32 [count] or [count, channels]: the sum of those stems that sound there."""
    reach = [(one, max(first, one.start), min(first + count, one.start + one.samples)) for one in stems]
    heard = [(stem, low, high) for stem, low, high in reach if high > low]
    if len(heard) == 1 and heard[0][1:] == (first, first + count):
        return heard[0][0].read(first, count)
    out = silence(stems[0], count) if stems else np.zeros(count, np.float32)
    for stem, low, high in heard:
        out[low - first : high - first] += stem.read(low, high - low)
    return out


def peak_of(stem: Stem) -> float:
    """What no sample of a stem exceeds; inf where it does not know."""
    return float(getattr(stem, "peak", math.inf))


def true_peak(stems: Sequence[Stem], samples: int) -> float:
    """The peak of the mix between its samples too (4 times oversampled where it is loud), or what it cannot
    exceed where that is far from full scale."""
    from scipy.signal import resample_poly

    peak = 0.0
    for first, count in spans(samples):
        low, high = max(0, first - _BESIDE), min(samples, first + count + _BESIDE)
        at_most = sum(peak_of(one) for one in stems if one.start < high and one.start + one.samples > low)
        if at_most <= _SAFE:
            peak = max(peak, at_most)
            continue
        mix = total(stems, low, high - low)
        highest = max(0.0, float(mix.max(initial=0.0)), -float(mix.min(initial=0.0)))
        if highest > _SAFE:
            highest = max(highest, float(np.abs(resample_poly(mix, _OVER, 1, axis=0)).max()))
        peak = max(peak, highest)
    return peak


def fitting_gain_db(peak: float) -> float:
    """The gain in dB (a multiple of 0.0001) that brings a true peak under the ceiling; 0.0 where it is."""
    if peak <= 10 ** (CEILING_DB / 20):
        return 0.0
    return math.floor(10000 * (CEILING_DB - 20 * math.log10(peak))) / 10000


def quantised(samples: np.ndarray, gain: float) -> np.ndarray:
    """int32 [n]: in steps of the file's 24 bits."""
    steps = samples * np.float32(gain * FULL)
    return np.rint(steps, out=steps).astype(np.int32)


def write_mix(
    path: Path,
    stems: Sequence[Written],
    samples: int,
    rate_hz: int,
    *,
    channels: int = 1,
    gain_db: float = 0.0,
    apart: Sequence[Path] = (),
) -> None:
    """Write the mix and every stem that has a path, cropped to where it sounds. Mono stems are the same in
    all channels; `apart` names a file for each channel, and `path` is not written then."""
    gain = 10 ** (gain_db / 20)
    with ExitStack() as stack, explained_write(path):
        mixes = [
            stack.enter_context(opened(one, rate_hz, 1 if apart else channels, samples))
            for one in apart or (path,)
        ]
        files: dict[int, soundfile.SoundFile | Wav24] = {}
        wide = _wide(stems)
        for first, count in spans(samples):
            mix: np.ndarray | None = None
            for number, written in enumerate(stems):
                stem = written.stem
                low = max(first, stem.start)
                high = min(first + count, stem.start + stem.samples, samples)
                if high <= low:
                    continue
                part = quantised(stem.read(low, high - low), gain)
                if written.path is not None:
                    if number not in files:
                        files[number] = opened(written.path, rate_hz, wide[0] if wide else 1, stem.samples)
                        stack.callback(files[number].close)
                    _put(files[number], part)
                    if high >= min(stem.start + stem.samples, samples):
                        files.pop(number).close()
                if mix is None and high - low == count:
                    mix = part
                    continue
                if mix is None:
                    mix = np.zeros((count, *wide), np.int32)
                mix[low - first : high - first] += part
            if mix is None:
                mix = np.zeros((count, *wide), np.int32)
            if mix.ndim == 1 and (channels > 1 or apart):
                mix = np.repeat(mix[:, None], channels, axis=1)
            for channel, file in enumerate(mixes):
                _put(file, np.ascontiguousarray(mix[:, channel]) if apart else mix)
    made = [(one, samples, samples) for one in apart or (path,)]
    made += [(w.path, _kept(w.stem, samples), w.stem.samples) for w in stems if w.path]
    for one, length, size in made:
        if not _is_ours(one, size, channels):  # ours raises when a write fails
            check_whole(one, length)


def _wide(stems: Sequence[Written]) -> tuple[int, ...]:
    """() of mono stems, else (channels,)."""
    return silence(stems[0].stem, 0).shape[1:] if stems else ()


class _Unsynced(soundfile.SoundFile):
    """One that does not wait for the disk when it is closed: libsndfile's flush is an fsync. A scene's files
    are synced together before it is published."""

    def flush(self) -> None:
        """Nothing: every write has reached the system."""


def opened(path: Path, rate_hz: int, channels: int, samples: int) -> soundfile.SoundFile | Wav24:
    """A file of 24 bits for writing; WAV beyond 4 GiB is RF64."""
    if _is_ours(path, samples, channels):
        return Wav24(path, rate_hz, channels)
    kind = "FLAC" if path.suffix == ".flac" else "RF64"
    return _Unsynced(path, "w", rate_hz, channels, format=kind, subtype="PCM_24")


def _is_ours(path: Path, samples: int, channels: int) -> bool:
    return path.suffix != ".flac" and samples * channels <= _WAV_LIMIT


def _put(file: soundfile.SoundFile | Wav24, samples: np.ndarray) -> None:
    try:
        file.write(samples if isinstance(file, Wav24) else samples << (32 - BITS))
    except (soundfile.LibsndfileError, AssertionError) as error:  # fewer samples went out than came in
        raise _cut_short(Path(file.name)) from error


def check_whole(path: Path, samples: int) -> None:
    """Refuse a file that is shorter than what was written: its end fell to a full disk."""
    try:
        with soundfile.SoundFile(path) as sound:
            there = sound.frames
            sound.seek(max(0, there - 4096))
            there = there - 4096 + len(sound.read(4096)) if there >= 4096 else len(sound.read())
    except (soundfile.LibsndfileError, OSError) as error:
        raise _cut_short(path) from error
    if there != samples:
        raise _cut_short(path)


def read_stem(path: Path, first: int = 0, count: int = -1, channel: int = 0) -> np.ndarray:
    """int32 [n] in steps of 24 bits, of one channel."""
    with soundfile.SoundFile(path) as sound:
        sound.seek(first)
        return sound.read(count, dtype="int32", always_2d=True)[:, channel] >> (32 - BITS)


def largest_error(
    path: Path, stems: Sequence[tuple[Path, int]], samples: int, channel: int = 0, of_mix: int | None = None
) -> int:
    """The largest difference between a written mix and the sum of its written stems (path, start), in LSB, of
    one channel (`of_mix`: of the mix, where it is another)."""
    worst = 0
    for first, count in spans(samples):
        mix = read_stem(path, first, count, channel if of_mix is None else of_mix).astype(np.int64)
        for stem, start in stems:
            with soundfile.SoundFile(stem) as sound:
                length = sound.frames
            low, high = max(first, start), min(first + count, start + length)
            if high > low:
                mix[low - first : high - first] -= read_stem(stem, low - start, high - low, channel)
        worst = max(worst, int(np.abs(mix).max(initial=0)))
    return worst


def _kept(stem: Stem, samples: int) -> int:
    return min(stem.start + stem.samples, samples) - max(0, stem.start)


def _cut_short(path: Path) -> DiskFull:
    return DiskFull(
        f"the disk is full while writing {path}",
        "nothing that was already complete is lost, and the unfinished scene was removed",
        "free some space (or choose another folder) and run the same command again",
    )
