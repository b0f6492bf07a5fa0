"""The bytes of a shard, read at any place.

On a local file system the shard is mapped: copying from the page cache costs half of what a system call
does. On a network file system (or one we do not know) it is read with `pread`, where an I/O error is an
exception and not a bus error, and a sample is one request and not one per page.
"""

from __future__ import annotations

import mmap
import os
from functools import lru_cache
from pathlib import Path

import numpy as np

_LOCAL = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "zfs", "overlay", "f2fs", "ramfs", "bcachefs"}
)


class ShardBytes:
    """An open shard; the descriptor closes when the last user lets go, so eviction needs no lock."""

    def __init__(self, path: Path, mapped: bool | None = None) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        state = os.fstat(self._descriptor)
        self.mtime_ns = state.st_mtime_ns
        mapped = is_local(path.parent) if mapped is None else mapped
        self._map: np.ndarray | None = None
        if mapped and state.st_size:
            data = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
            if hasattr(data, "madvise"):
                data.madvise(mmap.MADV_RANDOM)
            self._map, self._mmap = np.frombuffer(data, np.uint8), data

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read(self, first: int, last: int) -> np.ndarray:
        """The bytes [first, last), writable uint8; `EOFError` where the file has become shorter."""
        buffer = np.empty(last - first, np.uint8)
        if self._map is None:
            if os.preadv(self._descriptor, [buffer.data], first) != last - first:
                raise EOFError
            return buffer
        # Touching a map beyond the file's end kills the process: a cheap look at the size comes first.
        if os.lseek(self._descriptor, 0, os.SEEK_END) < last:
            raise EOFError
        if last - first >= 1 << 16:  # one request for all pages, should they not be in memory yet
            start = first & -mmap.PAGESIZE
            self._mmap.madvise(mmap.MADV_WILLNEED, start, last - start)
        buffer[:] = self._map[first:last]
        return buffer


@lru_cache(maxsize=256)
def is_local(folder: Path) -> bool:
    """Whether the folder lies on a file system known to be local (Linux; elsewhere: False)."""
    try:
        device = os.stat(folder).st_dev
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1] in _LOCAL
    return False
