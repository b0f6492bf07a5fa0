"""Float WAV files written as the sound comes; what is longer than 4 GiB becomes RF64.

libsndfile puts the time of day into the header of a float file: the same stems would not be the same bytes.
"""

from __future__ import annotations

import struct
from pathlib import Path
from types import TracebackType

import numpy as np

_FLOAT, _BYTES = 3, 4
_LONGEST = 0xFFFFFFFF
_DS64_BYTES = 28
_BEFORE_DATA = 12 + 8 + _DS64_BYTES + 8 + 18 + 12 + 8  # RIFF, room for ds64, fmt, fact, head of data


class FloatWav:
    """A file of float32 samples [channels, n] at a rate, opened for writing; use it in a `with`."""

    def __init__(self, path: Path, rate_hz: int, channels: int) -> None:
        self.rate_hz, self.channels, self.samples = rate_hz, channels, 0
        self._stream = open(path, "wb")  # noqa: SIM115 - closed by the with
        self._stream.write(self._header())

    def write(self, sound: np.ndarray) -> None:
        """Add a block, float32 [channels, n]."""
        self._stream.write(np.ascontiguousarray(sound.T, "<f4").tobytes())
        self.samples += sound.shape[1]

    def _header(self) -> bytes:
        frame = self.channels * _BYTES
        size = self.samples * frame
        total = size + _BEFORE_DATA - 8
        large = total > _LONGEST
        sizes = struct.pack("<QQQI", total, size, self.samples, 0)
        return b"".join(
            [
                struct.pack("<4sI4s", b"RF64" if large else b"RIFF", _LONGEST if large else total, b"WAVE"),
                struct.pack("<4sI", b"ds64" if large else b"JUNK", _DS64_BYTES),
                sizes if large else bytes(_DS64_BYTES),
                struct.pack("<4sIHHIIHHH", b"fmt ", 18, _FLOAT, self.channels, self.rate_hz,
                            self.rate_hz * frame, frame, 8 * _BYTES, 0),
                struct.pack("<4sII", b"fact", 4, _LONGEST if large else self.samples),
                struct.pack("<4sI", b"data", _LONGEST if large else size),
            ]
        )  # fmt: skip

    def __enter__(self) -> FloatWav:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stream:
            if error is None:
                self._stream.seek(0)
                self._stream.write(self._header())
