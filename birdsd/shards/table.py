"""The index of one shard: where each sample's parts lie, as columns, and how it is kept on disk.

A shard NAME.tar has NAME.index.json beside it. `contents` is a hash over keys, sizes and checksums:
two shards with the same contents hold the same samples, whenever and wherever they were written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.errors import UserError
from birdsd.files import atomic_write, fingerprint
from birdsd.shards.tarwalk import Member, ShardError, walk

FORMAT = "birdsd-index-1"
ABSENT = -1  # the offset of a part that a sample does not have


@dataclass(frozen=True)
class Part:
    """One column: the parts with the same suffix, e.g. every sample's `npy`; arrays of shape [samples]."""

    offset: np.ndarray  # int64, ABSENT where a sample lacks this part
    size: np.ndarray  # int64, bytes
    crc32: np.ndarray | None  # uint32; None where nobody has read the shard through yet


@dataclass(frozen=True)
class ShardTable:
    """What is in one shard; `summary` is what the writer wanted to keep about it."""

    tar: str
    size: int
    mtime_ns: int
    contents: str
    keys: tuple[str, ...]
    parts: dict[str, Part]
    summary: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def span(self, sample: int, suffixes: Sequence[str]) -> tuple[int, int]:
        """The bytes [first, last) that cover the named parts of a sample."""
        held = [p for s in suffixes if (p := self.parts[s]).offset[sample] != ABSENT]
        first = min(int(p.offset[sample]) for p in held)
        return first, max(int(p.offset[sample] + p.size[sample]) for p in held)

    def save(self, path: Path) -> None:
        """Write the table atomically, on one line: it is read far more often than looked at."""
        value = {
            "format": FORMAT, "tar": self.tar, "size": self.size, "mtime_ns": self.mtime_ns,
            "contents": self.contents, "summary": self.summary, "keys": self.keys,
            "parts": {
                suffix: {
                    "offset": part.offset.tolist(), "size": part.size.tolist(),
                    "crc32": None if part.crc32 is None else part.crc32.tolist(),
                }
                for suffix, part in self.parts.items()
            },
        }  # fmt: skip
        with atomic_write(path, "w") as stream:
            json.dump(value, stream, ensure_ascii=False, separators=(",", ":"))


def index_path(tar: Path) -> Path:
    """Where the index of a shard lies."""
    return tar.with_name(tar.name.removesuffix(".tar") + ".index.json")


def load_table(path: Path) -> ShardTable:
    """Read an index; `UserError` where it is missing, damaged or from another version."""
    try:
        value = json.loads(path.read_bytes())
        if value["format"] != FORMAT:
            raise ValueError(f"its format is {value['format']!r}, this birdsd reads {FORMAT!r}")
        parts = {
            suffix: Part(
                np.array(part["offset"], np.int64),
                np.array(part["size"], np.int64),
                None if part["crc32"] is None else np.array(part["crc32"], np.uint32),
            )
            for suffix, part in value["parts"].items()
        }
        keys = tuple(value["keys"])
        if any(len(part.offset) != len(keys) or len(part.size) != len(keys) for part in parts.values()):
            raise ValueError("its columns differ in length")
        return ShardTable(
            value["tar"], value["size"], value["mtime_ns"], value["contents"], keys, parts, value["summary"]
        )
    except FileNotFoundError as error:
        raise UserError(f"the index {path} does not exist") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"the index {path} cannot be read: {error}",
            "it is made from the shard beside it",
            "delete it, and it is made anew",
        ) from error


def split_name(name: str) -> tuple[str, str]:
    """'a/b.c.npy' -> ('a/b', 'c.npy'): webdataset's rule, the key ends at the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def columns(
    tar: Path, members: Sequence[tuple[Member, int | None]]
) -> tuple[tuple[str, ...], dict[str, Part]]:
    """Group consecutive members with the same key into samples; (member, crc32) pairs in, columns out."""
    keys: list[str] = []
    cells: dict[str, list[tuple[int, int, int, int | None]]] = {}
    held: set[str] = set()
    for member, crc in members:
        key, suffix = split_name(member.name)
        if not suffix or key.endswith("/") or not key:
            continue  # as webdataset: a file without key or suffix belongs to no sample
        if not keys or keys[-1] != key:
            keys.append(key)
            held = set()
        if suffix in held:
            raise ShardError(
                f"shard {tar} holds '{member.name}' twice in a row",
                "the parts of a sample need different suffixes",
                "write the shard again with a key of its own for each sample",
            )
        held.add(suffix)
        cells.setdefault(suffix, []).append((len(keys) - 1, member.offset, member.size, crc))
    parts = {}
    for suffix, rows in cells.items():
        offset = np.full(len(keys), ABSENT, np.int64)
        size = np.zeros(len(keys), np.int64)
        where = np.array([row[0] for row in rows])
        offset[where] = [row[1] for row in rows]
        size[where] = [row[2] for row in rows]
        crc32 = None
        if all(row[3] is not None for row in rows):
            crc32 = np.zeros(len(keys), np.uint32)
            crc32[where] = np.array([row[3] for row in rows], np.uint32)
        parts[suffix] = Part(offset, size, crc32)
    return tuple(keys), parts


def make_table(
    tar: Path,
    members: Sequence[tuple[Member, int | None]],
    headers: str = "",
    summary: dict[str, Any] | None = None,
) -> ShardTable:
    """The table of a shard that lies at `tar`; `headers` stands in for checksums that are not known."""
    keys, parts = columns(tar, members)
    state = os.stat(tar)
    told = {
        s: [p.size.tolist(), p.crc32.tolist() if p.crc32 is not None else headers] for s, p in parts.items()
    }
    contents = fingerprint([list(keys), told], 32)
    return ShardTable(tar.name, state.st_size, state.st_mtime_ns, contents, keys, parts, summary or {})


def index_foreign(tar: Path) -> ShardTable:
    """The table of a shard that somebody else wrote, by walking its headers."""
    found = walk(tar)
    return make_table(tar, [(member, None) for member in found.members], found.headers)
