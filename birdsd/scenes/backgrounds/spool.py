"""Sound that waits: a little in memory, the rest on disk, so that memory does not grow with the scene."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from birdsd.files import explained_write
from birdsd.sound.audio.levels import FRAME_SAMPLES, active_power_db

BLOCK_S = 8.0
HELD_SAMPLES = 1 << 22  # in memory: 16 MB, two minutes at 32 kHz


@dataclass(frozen=True)
class Piece:
    """Mono float32 samples in a spool: `first` is where they begin in it, `peak` the largest magnitude."""

    spool: Spool
    first: int
    samples: int
    peak: float = math.inf

    def read(self, start: int, count: int) -> np.ndarray:
        """float32 [count], not to be written to: samples from `start` on, zeros where the piece does not
        reach."""
        if start >= 0 and start + count <= self.samples:
            return self.spool.read(self.first + start, count)
        out = np.zeros(count, np.float32)
        low, high = max(0, start), min(self.samples, start + count)
        if high > low:
            out[low - start : high - start] = self.spool.read(self.first + low, high - low)
        return out

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """All samples, `size` at a time."""
        for start in range(0, self.samples, size):
            yield self.spool.read(self.first + start, min(size, self.samples - start))

    def active_db(self) -> float:
        """`levels.active_level_db` of the whole piece, read in blocks."""
        return _active_db(self.blocks(256 * FRAME_SAMPLES))


@dataclass(frozen=True)
class WidePiece:
    """float32 samples of several channels in a spool, frame after frame."""

    piece: Piece
    channels: int

    @property
    def samples(self) -> int:
        return self.piece.samples // self.channels

    @property
    def peak(self) -> float:
        return self.piece.peak

    def read(self, start: int, count: int) -> np.ndarray:
        """float32 [count, channels]: samples from `start` on, zeros where the piece does not reach."""
        return self.piece.read(start * self.channels, count * self.channels).reshape(-1, self.channels)


@dataclass(frozen=True)
class SeenPiece:
    """A wide piece as one channel: the sum of its channels by `weights`."""

    wide: WidePiece
    weights: np.ndarray

    @property
    def samples(self) -> int:
        return self.wide.samples

    @property
    def peak(self) -> float:
        """That it does not exceed."""
        return self.wide.peak * float(np.abs(self.weights).sum())

    def read(self, start: int, count: int) -> np.ndarray:
        """float32 [count]."""
        return self.wide.read(start, count) @ self.weights

    def active_db(self) -> float:
        """`levels.active_level_db` of it, read in blocks."""
        size = 256 * FRAME_SAMPLES
        starts = range(0, self.samples, size)
        return _active_db(self.read(at, min(size, self.samples - at)) for at in starts)


def frame_power(sound: np.ndarray) -> np.ndarray:
    """float32 [samples // FRAME_SAMPLES]: the mean power of every whole frame."""
    frames = sound[: len(sound) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    power: np.ndarray = np.square(frames).mean(axis=1)
    return power


def _active_db(blocks: Iterable[np.ndarray]) -> float:
    power = [frame_power(block) for block in blocks]
    return active_power_db(np.concatenate(power)) if power else -np.inf


class Spool:
    """float32 samples that only become more: the first `HELD_SAMPLES` in memory, the rest in a file."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._held = np.empty(min(1 << 20, HELD_SAMPLES), np.float32)
        self._file: BinaryIO | None = None
        self._samples = 0

    def add(self, parts: Iterable[np.ndarray]) -> Piece:
        """Append mono float [n] arrays, one after the other: one piece."""
        first, peak = self._samples, 0.0
        for part in parts:
            if len(part):
                peak = max(peak, float(part.max()), -float(part.min()))
            held = max(0, min(len(part), HELD_SAMPLES - self._samples))
            if held:
                self._hold(part[:held])
            if held < len(part):
                self._put_off(part[held:])
        return Piece(self, first, self._samples - first, peak)

    def add_wide(self, parts: Iterable[np.ndarray], channels: int) -> WidePiece:
        """The same of [n, channels] arrays."""
        return WidePiece(self.add(np.ravel(part) for part in parts), channels)

    def read(self, first: int, count: int) -> np.ndarray:
        """float32 [count], not to be written to."""
        in_memory = min(self._samples, HELD_SAMPLES)
        held = self._held[min(first, in_memory) : min(first + count, in_memory)]
        held.flags.writeable = False
        if len(held) == count or self._file is None:
            return held
        self._file.seek(4 * max(0, first - HELD_SAMPLES))
        rest = np.frombuffer(self._file.read(4 * (count - len(held))), dtype="<f4")
        return np.concatenate([held, rest]) if len(held) else rest

    def _hold(self, part: np.ndarray) -> None:
        end = self._samples + len(part)
        if end > len(self._held):
            # What was read before stays as it is: the old memory lives as long as somebody holds it.
            longer = np.empty(min(HELD_SAMPLES, max(end, 2 * len(self._held))), np.float32)
            longer[: self._samples] = self._held[: self._samples]
            self._held = longer
        self._held[self._samples : end] = part
        self._samples = end

    def _put_off(self, part: np.ndarray) -> None:
        with explained_write(self.path):
            if self._file is None:
                self._file = open(self.path, "w+b", buffering=0)  # noqa: SIM115 - closed with the spool
            # Parts may be made of what the spool holds, which moves its place.
            self._file.seek(0, os.SEEK_END)
            data = np.ascontiguousarray(part, dtype="<f4").view(np.uint8).data
            while data:
                data = data[self._file.write(data) :]
        self._samples += len(part)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
