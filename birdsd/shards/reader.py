"""Samples by number, at random, from plain tars: one read for all parts of a sample."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np

from birdsd.errors import Damaged, NotFound, NothingLeft
from birdsd.shards.storage import decode
from birdsd.shards.storage.bytes import ShardBytes
from birdsd.shards.storage.pixels import Pixels
from birdsd.shards.storage.staging import staged
from birdsd.shards.storage.table import ABSENT, Shard, ShardTable

_OPEN_FILES = 64
_GAP = 1 << 18  # bytes between the parts of a sample that are still worth reading along with them
_KINDS = {
    "image": decode.IMAGE_SUFFIXES,
    "latent": decode.LATENT_SUFFIXES,
    "metadata": decode.METADATA_SUFFIXES,
}


class Sample:
    """One sample. A weight of 0 means that it could not be decoded, and `problem` says why.

    `image`: uint8 [C, H, W] as the codec made it (row 0 = highest frequency), or None; `latent`: as
    stored, or None; `metadata` is parsed when first asked for.
    """

    __slots__ = ("_metadata", "_raw", "image", "key", "latent", "problem", "weight")

    def __init__(
        self, key: str, image: np.ndarray | None = None, latent: np.ndarray | None = None,
        raw_metadata: Sequence[tuple[str, np.ndarray]] = (), weight: float = 1.0, problem: str = "",
    ) -> None:  # fmt: skip
        self.key, self.image, self.latent, self.weight, self.problem = key, image, latent, weight, problem
        self._raw = raw_metadata
        self._metadata: dict[str, Any] | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """The sample's metadata; always with the lists `captions` and `species`."""
        if self._metadata is None:
            try:
                self._metadata = decode.metadata({suffix: data.tobytes() for suffix, data in self._raw})
            except decode.Undecodable as error:
                self.image = self.latent = None
                self.weight, self.problem = 0.0, f"{self.key}: {error}"
                self._metadata = decode.metadata({})
        return self._metadata


class _Source:
    """An open shard: its bytes, and per wanted column its kind, suffix, offsets and sizes."""

    __slots__ = ("bytes", "check", "columns", "keys", "table")

    def __init__(self, table: ShardTable, data: ShardBytes, want: frozenset[str]) -> None:
        self.table, self.bytes, self.keys = table, data, table.keys
        self.check = data.mtime_ns != table.mtime_ns
        # A memoryview hands out plain ints, several times faster than an array does.
        self.columns = [
            (kind, suffix, table.parts[suffix].offset.data, table.parts[suffix].size.data)
            for kind, suffixes in _KINDS.items()
            if kind in want
            for suffix in suffixes
            if suffix in table.parts
        ]


class ShardSet(Protocol):
    """What reading asks of a set of shards; `ShardIndex` is one."""

    folder: Path

    @property
    def pixels(self) -> Pixels:
        """How pictures are stored."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        ...

    def shards(self, split: str) -> tuple[Shard, ...]:
        """The shards of a split, in order."""
        ...

    def path(self, shard: Shard) -> Path:
        """Where a shard lies."""
        ...

    def table(self, shard: Shard) -> ShardTable:
        """Where the parts of a shard's samples lie."""
        ...


class ShardReader:
    """Reads the samples of a split by number. Safe to use from several threads.

    `want` leaves parts out ("image", "latent", "metadata"), which saves reading them. With `io_errors` a file
    system that fails is a `UserError`, and not a sample that cannot be decoded. `pixels`: how pictures are
    stored, the index's own by default. Checksums are compared where the shard's time is not the one that its
    index recorded (it was copied, or touched).
    """

    def __init__(
        self,
        index: ShardSet,
        split: str,
        want: Sequence[str] = ("image", "latent", "metadata"),
        io_errors: bool = False,
        pixels: Pixels | None = None,
    ) -> None:
        self.index, self.split, self.want, self.io_errors = index, split, frozenset(want), io_errors
        self.pixels = pixels or index.pixels
        if unknown := self.want - set(_KINDS):
            raise ValueError(f"unknown parts {sorted(unknown)}; there are {sorted(_KINDS)}")
        self._shards = index.shards(split)  # an unknown split is named here, not in a reader thread
        self._ends = np.cumsum([shard.count for shard in self._shards]).tolist()
        self._sources: OrderedDict[int, _Source] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of the first image that can be read; `UserError` where there is none, with the first
        reason."""
        reason = ""
        for number in range(min(len(self), 100)):
            sample = self.read(number)
            if sample.image is not None:
                return sample.image.shape
            reason = reason or sample.problem
        raise NothingLeft(
            f"no image can be read from split '{self.split}' of {self.index.folder}: {reason}",
            f"a sample needs a part named {', '.join(decode.IMAGE_SUFFIXES[:4])}, ...",
            "look at the shards with `birdsd inspect SHARDS --verify`",
        )

    def read(self, number: int) -> Sample:
        """The sample with this number (0 <= number < len(self)).

        One that cannot be decoded comes back with weight 0 and its problem. A shard that is gone or
        was replaced by other samples raises a `UserError`: that is no longer one bad sample.
        """
        place = bisect_right(self._ends, number)
        if number < 0 or place == len(self._ends):
            raise IndexError(f"sample {number} of {len(self)} in split '{self.split}'")
        source = self._sources.get(place) or self._open(place)
        row = number - self._ends[place] + self._shards[place].count
        try:
            return self._decode(source, row)
        except (decode.Undecodable, OSError, EOFError) as error:
            if self.io_errors and not isinstance(error, decode.Undecodable):
                raise Damaged(
                    f"sample {source.keys[row]} of {self._shards[place].name} cannot be read: "
                    f"{error or 'the shard ends before it'}",
                    "the problem may be temporary, but the result would be permanent",
                    "check the file system, and run the same command again",
                ) from error
            reason = "the shard ends before this sample does" if isinstance(error, EOFError) else error
            key = source.keys[row]
            return Sample(key, weight=0.0, problem=f"{self._shards[place].name}: {key}: {reason}")

    def read_many(self, numbers: Iterable[int]) -> list[Sample]:
        """`read` for each number."""
        return [self.read(int(number)) for number in numbers]

    def _decode(self, source: _Source, row: int) -> Sample:
        first, last, wanted, parts = -1, 0, 0, []
        for kind, suffix, offsets, sizes in source.columns:
            start = offsets[row]
            if start != ABSENT:
                end = start + sizes[row]
                first = start if first < 0 or start < first else first
                last = end if end > last else last
                wanted += end - start
                parts.append((kind, suffix, start, end))
        if not parts:
            if self.want == {"metadata"}:
                return Sample(source.keys[row])  # it has no captions, and is a sample all the same
            raise decode.Undecodable(_no_part(source.keys[row], source.table.suffixes_of(row)))
        if last - first - wanted > _GAP:  # parts that stand apart, as where all captions follow all pictures
            buffer, parts = _gathered(source.bytes, parts)
            first = 0
        else:
            buffer = source.bytes.read(first, last)
        if source.check:
            _check(source.table, row, buffer, first, parts)
        image = latent = None
        metadata = []
        for kind, suffix, start, end in parts:
            if kind == "metadata":
                metadata.append((suffix, buffer[start - first : end - first]))
            elif kind == "image" and image is None:
                image = decode.image(suffix, buffer, start - first, end - start, self.pixels)
            elif kind == "latent" and latent is None:
                latent = decode.latent(buffer, start - first, end - start)
        if image is None and latent is None and "image" in self.want:
            raise decode.Undecodable(_no_part(source.keys[row], source.table.suffixes_of(row), "image"))
        return Sample(source.keys[row], image, latent, metadata)

    def _open(self, place: int) -> _Source:
        shard = self._shards[place]
        table, path = self.index.table(shard), self.index.path(shard)
        try:
            data = ShardBytes(staged(path, shard.contents))
        except OSError as error:
            raise NotFound(
                f"shard {path} cannot be opened: {error.strerror}",
                "it existed when the run started",
                "restore it and run the same command again",
            ) from error
        source = _Source(table, data, self.want)
        with self._lock:
            self._sources[place] = source
            while len(self._sources) > _OPEN_FILES:
                self._sources.popitem(last=False)
        return source


_Parts = list[tuple[str, str, int, int]]  # kind, suffix, first and last byte


def _gathered(data: ShardBytes, parts: _Parts) -> tuple[np.ndarray, _Parts]:
    """The parts read one by one into one buffer, and where each lies in it."""
    pieces, moved, position = [], [], 0
    for kind, suffix, start, end in parts:
        pieces.append(data.read(start, end))
        moved.append((kind, suffix, position, position + end - start))
        position += end - start
    return np.concatenate(pieces), moved


def _no_part(key: str, suffixes: Sequence[str], what: str = "") -> str:
    """Why a sample without a part that is read has none, with a hint where its name is the reason."""
    known = [suffix for kind in _KINDS.values() for suffix in kind]
    lack = "it has no image" if what else "it has none of the parts that are read"
    dotted = next((s for s in suffixes if s not in known and s.rpartition(".")[2] in known), None)
    if dotted is not None:
        stem, _, end = dotted.rpartition(".")
        better = f"{key}_{stem.replace('.', '_')}.{end}"
        return (
            f"{lack}: the key of a sample ends at the first dot of its file's name, and '{dotted}' is no "
            f"known part. Rename the files so that the suffix has the only dot, e.g. '{better}'"
        )
    return f"{lack}, only {', '.join('.' + suffix for suffix in suffixes) or 'nothing'}"


def _check(
    table: ShardTable, row: int, buffer: np.ndarray, first: int, parts: Sequence[tuple[str, str, int, int]]
) -> None:
    for _, suffix, start, end in parts:
        crc32 = table.parts[suffix].crc32
        if crc32 is not None and zlib.crc32(buffer.data[start - first : end - first]) != int(crc32[row]):
            raise decode.Undecodable(f"the bytes of .{suffix} are not those that were written")
