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

from birdsd.errors import Damaged, NotFound
from birdsd.files import atomic_write, fingerprint, sha256_file
from birdsd.shards.storage.decode import IMAGE_SUFFIXES, LATENT_SUFFIXES, METADATA_SUFFIXES
from birdsd.shards.storage.tarwalk import Member, ShardError, walk

FORMAT = "birdsd-index-1"
# Who indexed a shard of others; an index by an earlier one, which grouped members otherwise, is made anew.
INDEXED_BY = {"indexed_by": 3}
ABSENT = -1  # the offset of a part that a sample does not have
PICTURES = (*IMAGE_SUFFIXES, *LATENT_SUFFIXES)


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

    @property
    def has_checksums(self) -> bool:
        """Whether whoever wrote the shard summed every part, as birdsd does."""
        return all(part.crc32 is not None for part in self.parts.values())

    def lacks(self, suffixes: Sequence[str]) -> np.ndarray:
        """The numbers of the samples that have no part with one of these suffixes."""
        there = np.zeros(len(self), bool)
        for suffix in suffixes:
            if suffix in self.parts:
                there |= self.parts[suffix].offset != ABSENT
        return np.flatnonzero(~there)

    def suffixes_of(self, sample: int) -> list[str]:
        """The suffixes of a sample's parts."""
        return [suffix for suffix, part in self.parts.items() if part.offset[sample] != ABSENT]

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
        raise NotFound(f"the index {path} does not exist") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Damaged(
            f"the index {path} cannot be read: {error}",
            "it is derived from the shard next to it",
            "delete it, and it is recreated",
        ) from error


def split_name(name: str) -> tuple[str, str]:
    """'a/b.c.npy' -> ('a/b', 'c.npy'): webdataset's rule, the key ends at the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


@dataclass
class _Run:
    """Members that follow one another and have one key: suffix -> offset, size, checksum."""

    key: str
    parts: dict[str, tuple[int, int, int | None]] = field(default_factory=dict)


def columns(
    tar: Path, members: Sequence[tuple[Member, int | None]]
) -> tuple[tuple[str, ...], dict[str, Part]]:
    """Group members with the same key into samples; (member, crc32) pairs in, columns out.

    As webdataset does, a sample is what stands together. Where the parts of a key stand apart (all pictures
    first, then all captions), they are brought together; a key that comes again with a whole sample of its
    own is another sample. What can be read both ways is a `ShardError`.
    """
    runs: list[_Run] = []
    for member, crc in members:
        key, suffix = split_name(member.name)
        if not suffix or key.endswith("/") or not key:
            continue  # as webdataset: a file without key or suffix belongs to no sample
        if not runs or runs[-1].key != key:
            runs.append(_Run(key))
        if suffix in runs[-1].parts:
            raise ShardError(
                f"shard {tar} holds '{member.name}' twice in a row",
                "the parts of a sample need different suffixes",
                "write the shard again with a unique key for each sample",
            )
        runs[-1].parts[suffix] = member.offset, member.size, crc
    return _as_columns(_samples(tar, runs))


def _samples(tar: Path, runs: list[_Run]) -> list[_Run]:
    """Runs with the same key put together, where they are one sample; in the order of their first parts."""
    by_key: dict[str, list[_Run]] = {}
    for run in runs:
        by_key.setdefault(run.key, []).append(run)
    if len(by_key) == len(runs):
        return runs
    gone: set[int] = set()
    for key, same in by_key.items():
        pictures = [any(suffix in PICTURES for suffix in run.parts) for run in same]
        whole = [
            p and any(s in METADATA_SUFFIXES for s in run.parts)
            for p, run in zip(pictures, same, strict=True)
        ]
        suffixes = [suffix for run in same for suffix in run.parts]
        if sum(whole) < 2 and len(set(suffixes)) == len(suffixes):
            for run in same[1:]:
                same[0].parts |= run.parts
                gone.add(id(run))
        elif any(pictures) and not all(pictures):
            twice = next((s for s in suffixes if suffixes.count(s) > 1), suffixes[0])
            raise ShardError(
                f"shard {tar} holds parts of '{key}' in {len(same)} places, '{key}.{twice}' in more than one",
                "it is unclear which of them belong together",
                "sort the tar by name, with a unique key for each sample",
            )
    return [run for run in runs if id(run) not in gone]


def _as_columns(samples: list[_Run]) -> tuple[tuple[str, ...], dict[str, Part]]:
    cells: dict[str, list[tuple[int, int, int, int | None]]] = {}
    for number, sample in enumerate(samples):
        for suffix, place in sample.parts.items():
            cells.setdefault(suffix, []).append((number, *place))
    parts = {}
    for suffix, rows in cells.items():
        offset = np.full(len(samples), ABSENT, np.int64)
        size = np.zeros(len(samples), np.int64)
        where = np.array([row[0] for row in rows])
        offset[where] = [row[1] for row in rows]
        size[where] = [row[2] for row in rows]
        crc32 = None
        if all(row[3] is not None for row in rows):
            crc32 = np.zeros(len(samples), np.uint32)
            crc32[where] = np.array([row[3] for row in rows], np.uint32)
        parts[suffix] = Part(offset, size, crc32)
    return tuple(sample.key for sample in samples), parts


def make_table(
    tar: Path,
    members: Sequence[tuple[Member, int | None]],
    headers: str = "",
    summary: dict[str, Any] | None = None,
) -> ShardTable:
    """The table of a shard that lies at `tar`; `headers` stands in for checksums that are not known."""
    keys, parts = columns(tar, members)
    state = os.stat(tar)
    sizes = {
        s: [p.size.tolist(), p.crc32.tolist() if p.crc32 is not None else headers] for s, p in parts.items()
    }
    contents = fingerprint([list(keys), sizes], 32)
    return ShardTable(tar.name, state.st_size, state.st_mtime_ns, contents, keys, parts, summary or {})


def index_foreign(tar: Path) -> ShardTable:
    """The table of a shard that somebody else wrote, by walking its headers.

    It is read through once, for its contents: other pictures under the same names are another set.
    """
    found = walk(tar)
    known = f"{found.headers} {sha256_file(tar)}"
    return make_table(tar, [(member, None) for member in found.members], known, dict(INDEXED_BY))


@dataclass(frozen=True)
class Shard:
    """One tar of the set. `name` is its path inside the folder."""

    name: str
    split: str
    count: int
    size: int
    contents: str
