"""WAV files of 24 bits, byte for byte as libsndfile writes them, in a third of its time: it hands the system
8 KiB at a time."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import numpy as np

from birdsd.files import put_bytes

_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_BYTES = 3  # a sample


class Wav24:
    """A file that is written block by block; `close` says in its header how long it became."""

    def __init__(self, path: Path, rate_hz: int, channels: int) -> None:
        self.name, self._rate_hz, self._channels = str(path), rate_hz, channels
        self._samples = 0  # of all channels
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed with this
        self._put(self._header())

    def write(self, samples: np.ndarray) -> None:
        """int32 [n] or [n, channels] in steps of 24 bits. Raises `OSError` where they do not fit."""
        flat = samples.reshape(-1)
        self._samples += len(flat)
        self._put(_packed(flat))

    def close(self) -> None:
        """Write what is left, and the header again. Closed twice is closed once."""
        if self._file.closed:
            return
        try:
            if self._samples * _BYTES % 2:
                self._put(b"\0")
            self._file.seek(0)
            self._put(self._header())
        finally:
            self._file.close()

    def __enter__(self) -> Wav24:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _header(self) -> bytes:
        size, frame = self._samples * _BYTES, self._channels * _BYTES
        return _HEADER.pack(
            b"RIFF", _HEADER.size - 8 + size + size % 2, b"WAVE", b"fmt ", 16, 1, self._channels,
            self._rate_hz, self._rate_hz * frame, frame, 8 * _BYTES, b"data", size,
        )  # fmt: skip

    def _put(self, data: bytes | memoryview) -> None:
        try:
            put_bytes(self._file.fileno(), data)
        except OSError as error:
            self._file.close()  # closing it again writes no more
            if error.errno == errno.EFBIG:  # a limit on the size of files: for this one the disk is full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name) from error
            raise


def _packed(samples: np.ndarray) -> memoryview:
    """The lower three bytes of each sample, int32 [n]: all four are written, three bytes apart, and the next
    sample lies over the highest."""
    data = np.empty(_BYTES * len(samples) + 1, np.uint8)
    np.ndarray(len(samples), "<i4", data, strides=(_BYTES,))[:] = samples
    return data[:-1].data
