"""Writing one shard: a plain tar that any WebDataset reader understands, with its index beside it.

Names, sizes and order are all that decides the bytes (no times, no owners): the same samples give the
same file. The tar appears under its name only when it is complete and on the disk, and the index after
it, so that a shard with an index is a finished shard.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from birdsd.files import atomic_write
from birdsd.shards.storage.table import ShardTable, index_path, make_table
from birdsd.shards.storage.tarwalk import BLOCK, Member

_RECORD = 20 * BLOCK  # tar files are filled up to whole records


class ShardWriter:
    """A context manager; leaving it without an exception finishes the shard, otherwise nothing is left.

    `summary` is kept in the index: what the writer wants to know about the shard later.
    """

    def __init__(self, path: Path, summary: dict[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.summary = summary if summary is not None else {}
        self.table: ShardTable | None = None
        self._members: list[tuple[Member, int | None]] = []
        self._keys: set[str] = set()
        self._position = 0
        self._stack = ExitStack()
        self._stream: IO[bytes]

    def __enter__(self) -> ShardWriter:
        index_path(self.path).unlink(missing_ok=True)  # an old index must not vouch for the new shard
        self._stream = self._stack.enter_context(atomic_write(self.path))
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        try:
            if kind is None:
                end = self._position + 2 * BLOCK
                self._stream.write(bytes(-(-end // _RECORD) * _RECORD - self._position))
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        self._stack.__exit__(kind, value, trace)
        if kind is None:
            self.table = make_table(self.path, self._members, summary=self.summary)
            self.table.save(index_path(self.path))

    def __len__(self) -> int:
        return len(self._keys)

    def write(self, key: str, parts: Mapping[str, np.ndarray | bytes | dict[str, Any]]) -> None:
        """Add a sample; `parts` maps suffixes to arrays (.npy), objects (.json) or bytes as they are.

        A key holds no dot (the suffix begins at the first one) and stands once in a shard.
        """
        if not key or "." in key or key.endswith("/") or "\0" in key:
            raise ValueError(f"{key!r} cannot be the key of a sample")
        if key in self._keys:
            raise ValueError(f"the key {key!r} stands twice in {self.path}")
        self._keys.add(key)
        for suffix, part in parts.items():
            self._add(f"{key}.{suffix}", _encode(part))

    def _add(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
        self._stream.write(header)
        self._stream.write(data)
        self._stream.write(bytes(-len(data) % BLOCK))
        start = self._position + len(header)
        self._members.append((Member(name, start, len(data)), zlib.crc32(data)))
        self._position = start + -(-len(data) // BLOCK) * BLOCK


def _encode(part: np.ndarray | bytes | dict[str, Any]) -> bytes:
    if isinstance(part, np.ndarray):
        stream = io.BytesIO()
        np.lib.format.write_array(stream, np.ascontiguousarray(part), version=(1, 0), allow_pickle=False)
        return stream.getvalue()
    if isinstance(part, dict):
        return json.dumps(part, ensure_ascii=False, allow_nan=False, sort_keys=True).encode("utf-8")
    return bytes(part)
