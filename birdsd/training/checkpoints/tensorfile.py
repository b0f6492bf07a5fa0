"""Tensors in safetensors files: written from one buffer; read back through one mapping, or in one pass into
the memory where they are wanted.

Any safetensors reader reads these files. Their checksums are xxh3 (64 bits) of blocks: computed beside
the write by a second thread, and by a few threads at a restore, they cost less than the memory's traffic.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from birdsd.training.devices.copies import _threads

BLOCK_BYTES = 16 << 20
_PIECE_BYTES = 512 << 10  # still in a core's cache when it is summed


@dataclass(frozen=True)
class FileSum:
    """What a commit records of a file."""

    size: int
    xxh3_64: tuple[str, ...]  # of each block of BLOCK_BYTES, in hex

    def to_json(self) -> dict[str, object]:
        return {"size": self.size, "block_bytes": BLOCK_BYTES, "xxh3_64": list(self.xxh3_64)}


# -- writing --------------------------------------------------------------------------------------------


class TensorBuffer:
    """fp32 tensors side by side in one host buffer, in the layout of a safetensors file."""

    def __init__(self, shapes: Mapping[str, Sequence[int]], pinned: bool = False) -> None:
        self.header, elements = _header(shapes)
        self.body = torch.empty(elements, dtype=torch.float32, pin_memory=pinned)
        self.tensors = _views(self.body, shapes)

    def touch(self) -> None:
        """Have the system find the buffer's memory now, which takes many times as long as filling it."""
        np.frombuffer(_bytes_of(self.body), np.uint8)[:: mmap.PAGESIZE] = 0

    def write(self, path: Path) -> FileSum:
        """Write and fsync the file; a disk that is too small is known before the first byte."""
        parts = (memoryview(self.header), _bytes_of(self.body))
        size = sum(map(len, parts))
        blocks = list(_blocks(parts))
        with ThreadPoolExecutor(1) as beside, open(path, "wb", buffering=0) as stream:
            sums = beside.map(_sum, blocks)
            descriptor, offset = stream.fileno(), 0
            _reserve(descriptor, size)
            for block in blocks:
                start = offset
                for part in block:
                    offset += _write_all(descriptor, part)
                # The disk begins at once: else it would stand idle until the fsync.
                _libc("sync_file_range", descriptor, start, offset - start, _SYNC_FILE_RANGE_WRITE)
            os.fsync(descriptor)
            return FileSum(size, tuple(sums))


class TensorStream:
    """A file like a `TensorBuffer`'s whose tensors are asked for while it is written, some at a time: it
    takes `piece_bytes` of memory, or as much as the largest tensor. `fill` is given those to put values into.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        fill: Callable[[Mapping[str, Tensor]], None],
        piece_bytes: int = 4 * BLOCK_BYTES,
    ) -> None:
        self._shapes, self._fill, self._piece_elements = dict(shapes), fill, piece_bytes // 4
        self.header, self._elements = _header(shapes)

    def write(self, path: Path) -> FileSum:
        """Write and fsync the file; a disk that is too small is known before the first byte."""
        sums, size = [], len(self.header) + 4 * self._elements
        with open(path, "wb", buffering=0) as stream:
            _reserve(stream.fileno(), size)
            for block in _blocks(self._parts()):
                for part in block:
                    _write_all(stream.fileno(), part)
                sums.append(_sum(block))
            os.fsync(stream.fileno())
        return FileSum(size, tuple(sums))

    def _parts(self) -> Iterator[memoryview]:
        yield memoryview(self.header)
        some: dict[str, Sequence[int]] = {}
        for name, shape in self._shapes.items():
            if some and _elements({**some, name: shape}) > self._piece_elements:
                yield self._made(some)
                some = {}
            some[name] = shape
        if some:
            yield self._made(some)

    def _made(self, shapes: Mapping[str, Sequence[int]]) -> memoryview:
        body = torch.empty(_elements(shapes), dtype=torch.float32)
        self._fill(_views(body, shapes))
        return _bytes_of(body)


def _elements(shapes: Mapping[str, Sequence[int]]) -> int:
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())


def _header(shapes: Mapping[str, Sequence[int]]) -> tuple[bytes, int]:
    """The header of a safetensors file of these fp32 tensors, and how many elements follow it."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape, dtype=np.int64))
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header, offset // 4


def _views(body: Tensor, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The tensors that lie one after the other in `body`."""
    found, start = {}, 0
    for name, shape in shapes.items():
        count = int(np.prod(shape, dtype=np.int64))
        found[name] = body[start : start + count].view(tuple(shape))
        start += count
    return found


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a CPU tensor, without a copy."""
    whole: Any = tensor.view(torch.uint8).numpy()
    return memoryview(whole)


def _blocks(parts: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    """The blocks of a file that is these parts one after the other, each as slices of them.

    The blocks are the file's, so that who checks it need not know where the header ends.
    """
    block: list[memoryview] = []
    room = BLOCK_BYTES
    for part in parts:
        while part:
            block.append(part[:room])
            part = part[room:]
            room -= len(block[-1])
            if not room:
                yield block
                block, room = [], BLOCK_BYTES
    if block:
        yield block


def _sum(block: Sequence[memoryview]) -> str:
    digest = xxhash.xxh3_64()
    for part in block:
        digest.update(part)
    return digest.hexdigest()


def _read_all(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        if hasattr(os, "preadv"):
            count = os.preadv(descriptor, [view], offset)
        else:  # macOS
            data = os.pread(descriptor, len(view), offset)
            count = len(data)
            view[:count] = data
        if not count:
            raise OSError(errno.EIO, "the file ends too early")
        offset, view = offset + count, view[count:]


def _write_all(descriptor: int, view: memoryview) -> int:
    size = len(view)
    while view:
        view = view[os.write(descriptor, view) :]
    return size


def _reserve(descriptor: int, size: int) -> None:
    # The call itself, not os.posix_fallocate: where a file system cannot reserve, that writes zeros.
    problem = _libc("fallocate", descriptor, 0, 0, size) if size else 0
    if problem in (errno.ENOSPC, errno.EDQUOT):
        raise OSError(problem, os.strerror(problem))


# -- reading --------------------------------------------------------------------------------------------


class _Unreadable(Exception):
    """What should be the header of a file is none."""


class TensorFile:
    """A file of a checkpoint, mapped: the check reads it once, the tensors are views of the same pages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as stream:
            self.size = os.fstat(stream.fileno()).st_size
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._entries: dict[str, Any] | None = None

    def sum(self) -> FileSum:
        """The checksums of the file as it is on disk."""
        starts = range(0, self.size, BLOCK_BYTES)
        with ThreadPoolExecutor(_threads()) as readers:
            return FileSum(self.size, tuple(readers.map(self._sum_block, starts)))

    def _sum_block(self, start: int) -> str:
        end = min(self.size, start + BLOCK_BYTES)
        address, aligned = self._bytes.ctypes.data + start, start % mmap.PAGESIZE
        # A page that cannot be read is an error here; touching it below would end the process (SIGBUS).
        problem = _libc("madvise", address - aligned, end - start + aligned, _MADV_POPULATE_READ)
        if problem in (errno.EFAULT, errno.EIO):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self.path))
        return _sum([memoryview(self._map)[start:end]])

    def difference(
        self, recorded: Mapping[str, object], sums: Callable[[], FileSum] | None = None
    ) -> str | None:
        """How the file differs from what a commit recorded, as a phrase; None where it does not. `sums` reads
        it in another way than `sum`."""
        name = self.path.name
        try:
            if self.size != recorded["size"]:
                return f"{name} has {self.size} bytes instead of {recorded['size']}"
            if recorded["block_bytes"] != BLOCK_BYTES:
                return f"{name} was summed in blocks of {recorded['block_bytes']} bytes, not {BLOCK_BYTES}"
            written = recorded["xxh3_64"]
        except (KeyError, TypeError):
            return f"the record of {name} is damaged"
        try:
            whole = list((sums or self.sum)().xxh3_64) == written
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        except _Unreadable:
            whole = False
        return None if whole else f"the bytes of {name} are not those that were written"

    def read_into(self, places: Mapping[str, Tensor]) -> FileSum:
        """Read the whole file once: tensors that `places` names into these (fp32, contiguous, in host memory;
        those of another size are passed over). Returns the checksums of what was read.

        Each piece is summed while a core's cache still holds it, so that memory is passed over once.
        """
        parts = self._parts(places)
        blocks = list(_blocks(parts))
        with open(self.path, "rb", buffering=0) as stream, ThreadPoolExecutor(_threads()) as readers:
            descriptor = stream.fileno()

            def read(number: int) -> str:
                digest, offset = xxhash.xxh3_64(), number * BLOCK_BYTES
                for part in blocks[number]:
                    for begin in range(0, len(part), _PIECE_BYTES):
                        piece = part[begin : begin + _PIECE_BYTES]
                        _read_all(descriptor, piece, offset)
                        digest.update(piece)
                        offset += len(piece)
                return digest.hexdigest()

            return FileSum(self.size, tuple(readers.map(read, range(len(blocks)))))

    def _parts(self, places: Mapping[str, Tensor]) -> list[memoryview]:
        """Where the bytes of the file are to go, in its order. Nothing is known of them yet: a header that is
        not one is `_Unreadable`."""
        try:
            entries, length = self._header()
            spans = sorted((*entry["data_offsets"], name) for name, entry in entries.items())
            starts, ends = [start for start, _, _ in spans], [end for _, end, _ in spans]
            if [*starts, self.size - length] != [0, *ends]:
                raise ValueError("the tensors do not fill the file")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _Unreadable(str(error)) from error
        parts = [memoryview(bytearray(length))]
        for start, end, name in spans:
            place = places.get(name)
            if place is None or place.nbytes != end - start:
                parts.append(memoryview(bytearray(end - start)))
            else:
                parts.append(_bytes_of(place.view(-1)))
        return parts

    def shape(self, name: str) -> list[int]:
        """That of a tensor of the file, which is known to be whole."""
        shape: list[int] = self._known()[name]["shape"]
        return shape

    def _header(self) -> tuple[dict[str, Any], int]:
        """The entries of the file's tensors, and how many bytes stand before the tensors."""
        with open(self.path, "rb") as stream:
            length = 8 + int.from_bytes(stream.read(8), "little")
            if length > self.size:
                raise ValueError("the header is longer than the file")
            entries: dict[str, Any] = json.loads(stream.read(length - 8))
        entries.pop("__metadata__", None)
        return entries, length

    def tensor(self, name: str) -> Tensor:
        """An fp32 tensor of the file: a view of the mapping, so it must not be written to."""
        entry = self._known()[name]
        start, end = entry["data_offsets"]
        return self._body[start // 4 : end // 4].view(entry["shape"])

    def _known(self) -> dict[str, Any]:
        """The entries of a file that is known to be whole."""
        if self._entries is None:
            self._entries, length = self._header()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given NumPy array is not writable")
                self._body = torch.from_numpy(self._bytes[length:].view(np.float32))
        return self._entries


# -- memory and system calls ----------------------------------------------------------------------------


_SYNC_FILE_RANGE_WRITE = 2
_MADV_POPULATE_READ = 22
_C: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" and sys.maxsize > 2**32 else None


def _libc(name: str, *arguments: int) -> int:
    """A system call that Python does not have: 0, or its errno. ENOSYS where there is none: each is a help
    that the files are as good without."""
    function = getattr(_C, name, None)
    if function is None:
        return errno.ENOSYS
    ctypes.set_errno(0)
    return ctypes.get_errno() if function(*map(ctypes.c_long, arguments)) else 0
