"""A safetensors file whose body is one buffer in memory: filled in place, written at the disk's speed.

Any safetensors reader reads these files. Checksums are CRC-32 of blocks, computed beside the write.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class FileSum:
    """What a commit records of a file."""

    size: int
    crc32: tuple[int, ...]  # of each block of BLOCK_BYTES

    def to_json(self) -> dict[str, object]:
        return {"size": self.size, "block_bytes": BLOCK_BYTES, "crc32": list(self.crc32)}


class TensorBuffer:
    """fp32 tensors side by side in one host buffer, in the layout of a safetensors file."""

    def __init__(self, shapes: Mapping[str, Sequence[int]], pinned: bool = False) -> None:
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, shape in shapes.items():
            size = 4 * int(np.prod(shape, dtype=np.int64))
            entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
            offset += size
        header = json.dumps(entries, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        self.header = len(header).to_bytes(8, "little") + header
        self.body = torch.empty(offset // 4, dtype=torch.float32, pin_memory=pinned)
        self.tensors: dict[str, Tensor] = {}
        start = 0
        for name, shape in shapes.items():
            count = int(np.prod(shape, dtype=np.int64))
            self.tensors[name] = self.body[start : start + count].view(tuple(shape))
            start += count

    def write(self, path: Path) -> FileSum:
        """Write and fsync the file. The checksums are computed by a second thread meanwhile."""
        body = memoryview(_bytes_of(self.body))
        # The blocks are those of the file, so that a reader need not know where the header ends.
        head = BLOCK_BYTES - len(self.header) % BLOCK_BYTES
        first = self.header[len(self.header) // BLOCK_BYTES * BLOCK_BYTES :]
        whole = [
            self.header[i : i + BLOCK_BYTES] for i in range(0, len(self.header) - len(first), BLOCK_BYTES)
        ]
        pieces = [body[i : i + BLOCK_BYTES] for i in range(head, len(body), BLOCK_BYTES)]
        with ThreadPoolExecutor(1) as beside, open(path, "wb", buffering=0) as stream:
            sums = beside.map(zlib.crc32, pieces)
            _write_all(stream.fileno(), memoryview(self.header))
            _write_all(stream.fileno(), body)
            os.fsync(stream.fileno())
            crc = [*map(zlib.crc32, whole), zlib.crc32(body[:head], zlib.crc32(first)), *sums]
        return FileSum(len(self.header) + len(body), tuple(crc))


def _bytes_of(tensor: Tensor) -> Any:
    """The memory of a CPU tensor, without a copy: uint8 [bytes]."""
    return tensor.view(torch.uint8).numpy()


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view[: 4 * BLOCK_BYTES]) :]


def sum_file(path: Path) -> FileSum:
    """The checksums of a file as it is on disk."""
    crc, size = [], 0
    with open(path, "rb", buffering=0) as stream:
        block = memoryview(bytearray(BLOCK_BYTES))
        while read := _fill(stream.fileno(), block):
            crc.append(zlib.crc32(block[:read]))
            size += read
    return FileSum(size, tuple(crc))


def _fill(descriptor: int, block: memoryview) -> int:
    filled = 0
    while filled < len(block) and (read := os.readv(descriptor, [block[filled:]])):
        filled += read
    return filled


def difference(path: Path, recorded: Mapping[str, object]) -> str | None:
    """How a file differs from what a commit recorded, as a phrase; None where it does not."""
    try:
        size = path.stat().st_size
        if size != recorded["size"]:
            return f"{path.name} has {size} bytes instead of {recorded['size']}"
        if recorded["block_bytes"] != BLOCK_BYTES:
            return f"{path.name} was summed in blocks of {recorded['block_bytes']} bytes, not {BLOCK_BYTES}"
        if list(sum_file(path).crc32) != recorded["crc32"]:
            return f"the bytes of {path.name} are not those that were written"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    except (KeyError, TypeError):
        return f"the record of {path.name} is damaged"
    return None
