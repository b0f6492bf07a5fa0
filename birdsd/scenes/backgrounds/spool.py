"""Sound that waits on disk, so that memory does not grow with the scene."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from birdsd.files import explained_write
from birdsd.sound.audio.levels import FRAME_SAMPLES, active_power_db

BLOCK_S = 8.0


@dataclass(frozen=True)
class Piece:
    """Mono float32 samples in a spool: `first` is where they begin in it."""

    spool: Spool
    first: int
    samples: int

    def read(self, start: int, count: int) -> np.ndarray:
        """float32 [count]: samples from `start` on, zeros where the piece does not reach."""
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

    def read(self, start: int, count: int) -> np.ndarray:
        """float32 [count]."""
        return self.wide.read(start, count) @ self.weights

    def active_db(self) -> float:
        """`levels.active_level_db` of it, read in blocks."""
        size = 256 * FRAME_SAMPLES
        starts = range(0, self.samples, size)
        return _active_db(self.read(at, min(size, self.samples - at)) for at in starts)


def _active_db(blocks: Iterable[np.ndarray]) -> float:
    power = [
        np.square(block[: len(block) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)).mean(
            axis=1
        )
        for block in blocks
    ]
    return active_power_db(np.concatenate(power)) if power else -np.inf


class Spool:
    """One file of float32 samples that only grows."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with explained_write(self.path):
            self._file = open(self.path, "w+b", buffering=0)  # noqa: SIM115 - closed with the spool
        self._samples = 0

    def add(self, parts: Iterable[np.ndarray]) -> Piece:
        """Append mono float [n] arrays, one after the other: one piece."""
        first = self._samples
        with explained_write(self.path):
            for part in parts:
                if not len(part):
                    continue
                # Parts may be made of what the spool holds, which moves its place.
                self._file.seek(0, os.SEEK_END)
                data = np.ascontiguousarray(part, dtype="<f4").view(np.uint8).data
                while data:
                    data = data[self._file.write(data) :]
                self._samples += len(part)
        return Piece(self, first, self._samples - first)

    def add_wide(self, parts: Iterable[np.ndarray], channels: int) -> WidePiece:
        """The same of [n, channels] arrays."""
        return WidePiece(self.add(np.ravel(part) for part in parts), channels)

    def read(self, first: int, count: int) -> np.ndarray:
        """float32 [count]."""
        self._file.seek(4 * first)
        return np.frombuffer(self._file.read(4 * count), dtype="<f4")

    def close(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
