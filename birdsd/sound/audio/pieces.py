"""A file read as if it were another: parts of it, and bytes of our own between them."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

# Bytes that are put in, or (offset, length) of what the file itself has.
Piece = bytes | tuple[int, int]


def as_file(path: Path, pieces: Sequence[Piece]) -> io.BufferedReader:
    """The pieces one after the other, to read and to seek in; nothing is copied."""
    return io.BufferedReader(_Pieces(path, pieces), 1 << 16)


class _Pieces(io.RawIOBase):
    def __init__(self, path: Path, pieces: Sequence[Piece]) -> None:
        self._stream = open(path, "rb")  # noqa: SIM115 - closed in `close`
        self._pieces = list(pieces)
        sizes = [len(piece) if isinstance(piece, bytes) else piece[1] for piece in pieces]
        self._ends = list(accumulate(sizes))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = self._ends[-1] if self._ends else 0
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        number = bisect_right(self._ends, self._at)
        if number == len(self._pieces):
            return 0
        piece = self._pieces[number]
        count = min(len(buffer), self._ends[number] - self._at)
        inside = self._at - (self._ends[number - 1] if number else 0)
        if isinstance(piece, bytes):
            data = piece[inside : inside + count]
        else:
            self._stream.seek(piece[0] + inside)
            data = self._stream.read(count)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
