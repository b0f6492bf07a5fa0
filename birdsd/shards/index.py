"""What is in a folder of shards: splits, samples, labels, codec, fingerprint.

A folder that `prepare` finished has `dataset.json`, which names every shard with its size and a hash
of its contents; a shard that no longer fits is refused with a sentence that says what changed. In any
other folder the shards are `*.tar` (also one folder down), indexed by walking their headers; the
index is kept beside the shard where the folder can be written, and in memory otherwise. What others wrote is
looked at before it is used: see `birdsd.shards.checks`.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from birdsd.errors import Damaged, NotFound, NothingLeft, UserError, unknown_name
from birdsd.files import fingerprint, read_json
from birdsd.remarks import Remark
from birdsd.shards.storage.pixels import PIXELS_FILE, Pixels
from birdsd.shards.storage.table import (
    ABSENT,
    INDEXED_BY,
    Shard,
    ShardTable,
    index_foreign,
    index_path,
    load_table,
)
from birdsd.shards.storage.tarwalk import ShardError

DATASET_FILE = "dataset.json"
CODEC_FILE = "codec.json"
_TABLES_IN_MEMORY = 64  # a window of the sample order reads 16 shards at once
_SPLIT_NAMES = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "validation"}


class ShardIndex:
    """The samples of a folder, numbered 0..count(split)-1 within each split, through its shards in order."""

    def __init__(
        self, folder: Path, shards: list[Shard], dataset: dict[str, Any], codec: dict[str, Any] | None,
        tables: dict[str, ShardTable] | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.dataset = dataset
        self.codec = codec
        self.pixels = Pixels.of(folder, codec)
        self._by_split: dict[str, tuple[Shard, ...]] = {}
        for shard in shards:
            self._by_split[shard.split] = (*self._by_split.get(shard.split, ()), shard)
        self._first = {
            split: np.concatenate([[0], np.cumsum([s.count for s in members])])
            for split, members in self._by_split.items()
        }
        # Tables that could not be kept on disk stay; the others come and go, so that memory is bounded.
        self._kept = tables or {}
        self._loaded: OrderedDict[str, ShardTable] = OrderedDict()
        self._lock = Lock()

    # -- opening ------------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: Path | str) -> ShardIndex:
        """Open a folder of shards; `UserError` names what is missing, damaged or changed."""
        folder = Path(folder)
        if not folder.is_dir():
            raise NotFound(
                f"the folder of shards {folder} does not exist",
                "",
                "make it with `birdsd run prepare data.recordings=... data.shards=...`",
            )
        codec = read_json(folder / CODEC_FILE, "codec file") if (folder / CODEC_FILE).is_file() else None
        if (folder / DATASET_FILE).is_file():
            return cls._open_own(folder, codec)
        if (folder / "prepare.json").is_file():
            raise Damaged(
                f"the shards in {folder} are not finished",
                "`prepare` was interrupted",
                "run the same `birdsd run prepare ...` again; it only does what is missing",
            )
        return cls._open_foreign(folder, codec)

    @classmethod
    def _open_own(cls, folder: Path, codec: dict[str, Any] | None) -> ShardIndex:
        dataset = read_json(folder / DATASET_FILE, "dataset file")
        try:
            shards = [Shard(**entry) for entry in dataset["shards"]]
        except (KeyError, TypeError) as error:
            raise Damaged(
                f"{folder / DATASET_FILE} is not a dataset file of birdsd ({error})",
                "",
                "delete it, and run `birdsd run prepare ...` again to recreate it",
            ) from error
        changes = []
        for shard in shards:
            path = folder / shard.name
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                changes.append(f"{shard.name} is missing")
                continue
            if size != shard.size:
                changes.append(f"{shard.name} has {size} bytes instead of {shard.size}")
        if changes:
            raise ShardError(
                f"shards in {folder} have changed since they were prepared: {listed(changes)}",
                "a run may only read the shards that it started with",
                "restore them, or run the same `birdsd run prepare ...` again: it writes what is missing",
            )
        return cls(folder, shards, dataset, codec)

    @classmethod
    def _open_foreign(cls, folder: Path, codec: dict[str, Any] | None) -> ShardIndex:
        tars = sorted(
            [*folder.glob("*.tar"), *folder.glob("*/*.tar")], key=lambda p: p.relative_to(folder).parts
        )
        tars = [tar for tar in tars if not tar.name.startswith(".")]
        if not tars:
            packed = sorted(
                p.name for p in folder.iterdir() if p.name.endswith((".tar.gz", ".tgz", ".tar.zst"))
            )
            raise NothingLeft(
                f"there are no shards in {folder}"
                + (f", only compressed ones ({listed(packed)})" if packed else ""),
                "shards are uncompressed .tar files, in the folder or one folder down",
                "decompress them" if packed else "make some with `birdsd run prepare ...`",
            )
        shards, kept = [], {}
        for tar in tars:
            table, saved = _foreign_table(tar)
            name = tar.relative_to(folder).as_posix()
            if not saved:
                kept[name] = table
            shards.append(Shard(name, _split_of(tar, folder), len(table), table.size, table.contents))
        names = {shard.split for shard in shards}
        if "train" not in names and len(names - {"validation", "test"}) == 1:
            # One set of shards with a name of its own (laion-0000.tar): that is what to train on.
            only = (names - {"validation", "test"}).pop()
            shards = [_renamed(s, "train") if s.split == only else s for s in shards]
        return cls(folder, shards, {}, codec, kept)

    # -- what there is ------------------------------------------------------------------------------

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits that hold samples, train first."""
        order = {"train": 0, "validation": 1, "test": 2}
        return tuple(sorted(self._by_split, key=lambda s: (order.get(s, 3), s)))

    def shards(self, split: str) -> tuple[Shard, ...]:
        """The shards of a split, in the order that numbers its samples."""
        if split not in self._by_split:
            raise unknown_name(f"split of {self.folder}", split, self.splits)
        return self._by_split[split]

    def count(self, split: str) -> int:
        """How many samples a split holds; 0 for a split that does not exist."""
        return sum(shard.count for shard in self._by_split.get(split, ()))

    def shard_sizes(self, split: str) -> list[int]:
        """Samples per shard: what `SampleOrder` is made from."""
        return [shard.count for shard in self.shards(split)]

    @property
    def fingerprint(self) -> str:
        """A hash of what the shards hold (names, sizes, checksums), of the codec and of `pixels.json`; where
        they lie and when they were written does not matter."""
        shards = [[s.name, s.split, s.size, s.contents] for split in self.splits for s in self.shards(split)]
        declared = [self.pixels.fingerprint()] if self.pixels.ranges else []
        return fingerprint([shards, self.codec_fingerprint, *declared])

    @property
    def is_own(self) -> bool:
        """Whether `prepare` wrote and described the set: every sample then has a picture and its captions."""
        return "shards" in self.dataset

    @property
    def codec_fingerprint(self) -> str:
        """A hash of what decides the images; empty where no codec is known."""
        from birdsd.sound.codec.protocol import Codec

        return Codec.from_json(self.codec).fingerprint() if self.codec else ""

    def known_codec(self, why: str) -> dict[str, Any]:
        """The settings of the codec that made the images; `UserError` where the set does not hold them. `why`
        says what needs them."""
        if not self.codec:
            raise NotFound(
                f"the shards in {self.folder} have no {CODEC_FILE}",
                why,
                f"make them with `birdsd run prepare`, or put the {CODEC_FILE} that fits them there",
            )
        return dict(self.codec)

    def inventory(self) -> dict[str, dict[str, Any]]:
        """What a run keeps to say later what changed: shard name -> split, count, size, contents; and what
        `pixels.json` says, where there is one."""
        inventory: dict[str, dict[str, Any]] = {
            s.name: {"split": s.split, "count": s.count, "size": s.size, "contents": s.contents}
            for split in self.splits
            for s in self.shards(split)
        }
        declared = {PIXELS_FILE: {"contents": self.pixels.fingerprint()}} if self.pixels.ranges else {}
        return inventory | declared

    def changes_since(self, recorded: dict[str, dict[str, Any]]) -> list[str]:
        """What differs from an `inventory()` taken earlier, a phrase each; empty when nothing does."""
        now, changes = self.inventory(), []
        for name in sorted(set(recorded) | set(now)):
            if name not in now:
                changes.append(f"{name} is missing")
            elif name not in recorded:
                changes.append(f"{name} is new")
            elif now[name] != recorded[name]:
                old, new = recorded[name], now[name]
                what = [f"{k} {old.get(k)} -> {new[k]}" for k in new if old.get(k) != new[k]]
                changes.append(f"{name} changed ({', '.join(what)})")
        return changes

    def locate(self, split: str, sample: int) -> tuple[Shard, int]:
        """The shard that holds a sample of a split, and its number within that shard."""
        self.shards(split)  # names the splits there are, where this is none of them
        first = self._first[split]
        if not 0 <= sample < first[-1]:
            raise IndexError(f"sample {sample} of {first[-1]} in split '{split}'")
        number = int(np.searchsorted(first, sample, side="right")) - 1
        return self._by_split[split][number], sample - int(first[number])

    def path(self, shard: Shard) -> Path:
        """Where a shard lies."""
        return self.folder / shard.name

    def table(self, shard: Shard) -> ShardTable:
        """The index of a shard; loaded when first asked for, and checked against `dataset.json`."""
        if shard.name in self._kept:
            return self._kept[shard.name]
        with self._lock:
            if (table := self._loaded.get(shard.name)) is not None:
                self._loaded.move_to_end(shard.name)
                return table
        table = load_table(index_path(self.path(shard)))
        if table.contents != shard.contents or len(table) != shard.count:
            raise ShardError(
                f"shard {self.path(shard)} holds other samples than {self.folder / DATASET_FILE} says",
                f"its contents are {table.contents[:12]} ({len(table)} samples), "
                f"known are {shard.contents[:12]} ({shard.count} samples)",
                "restore the shard and its index, or prepare into a new folder",
            )
        with self._lock:
            self._loaded[shard.name] = table
            while len(self._loaded) > _TABLES_IN_MEMORY:
                self._loaded.popitem(last=False)
        return table

    def key(self, split: str, sample: int) -> str:
        """The key of a sample."""
        shard, number = self.locate(split, sample)
        return self.table(shard).keys[number]

    def metadata(self, split: str, sample: int) -> dict[str, Any]:
        """The metadata of one sample. To go through many, use `ShardReader`."""
        from birdsd.shards.reader import ShardReader

        return ShardReader(self, split, want=("metadata",)).read(sample).metadata

    @property
    def species(self) -> tuple[str, ...]:
        """The species of all splits, sorted; read from `dataset.json`, or from every sample without one."""
        if "species" in self.dataset:
            return tuple(sorted(self.dataset["species"]))
        from birdsd.shards.summary import count_samples

        self.dataset["species"] = count_samples(self)["species"]
        return tuple(sorted(self.dataset["species"]))

    # -- checking -----------------------------------------------------------------------------------

    def verify(self) -> Iterator[str]:
        """Read every byte that the index names and compare checksums; yields a sentence per problem.

        Shards of others are decoded sample by sample instead (or besides, where they have checksums).
        """
        watching = self.pixels.watching()
        for split in self.splits:
            for number, shard in enumerate(self.shards(split)):
                try:
                    table = self.table(shard)
                    if table.has_checksums:
                        yield from _verify_shard(self.path(shard), table)
                    if not (self.is_own and table.has_checksums):
                        yield from self._verify_by_decoding(split, number, watching)
                except (UserError, OSError) as error:
                    yield f"{shard.name}: {error}"
        yield from watching.doubts()

    def _verify_by_decoding(self, split: str, number: int, pixels: Pixels) -> Iterator[str]:
        from birdsd.shards.reader import ShardReader

        reader, first = ShardReader(self, split, pixels=pixels), int(self._first[split][number])
        for sample in range(first, first + self.shards(split)[number].count):
            read = reader.read(sample)
            read.metadata  # noqa: B018  parsed only now, and may be what cannot be read
            if read.weight == 0:
                yield read.problem
            elif read.image is not None and pixels.shape not in (None, read.image.shape):
                expected = f"{CODEC_FILE} says {list(pixels.shape or ())} (channels, bands, frames)"
                name = self.shards(split)[number].name
                found = list(read.image.shape)
                text = f"{name}: {read.key}: its picture is {found}, {expected}"
                yield Remark(
                    text, "another-shape", key=read.key, found=found, expected=list(pixels.shape or ())
                )


def _verify_shard(path: Path, table: ShardTable) -> Iterator[str]:
    with open(path, "rb") as stream:
        for number, key in enumerate(table.keys):
            for suffix, part in table.parts.items():
                if part.offset[number] == ABSENT or part.crc32 is None:
                    continue
                stream.seek(int(part.offset[number]))
                if zlib.crc32(stream.read(int(part.size[number]))) != int(part.crc32[number]):
                    yield f"{path.name}: the bytes of {key}.{suffix} are not those that were written"


def _foreign_table(tar: Path) -> tuple[ShardTable, bool]:
    """The table of a shard that others wrote, and whether it stands on disk (fresh, or written now)."""
    path, state = index_path(tar), os.stat(tar)
    with suppress(UserError):
        table = load_table(path)
        fits = (table.size, table.mtime_ns) == (state.st_size, state.st_mtime_ns)
        if fits and (table.has_checksums or INDEXED_BY.items() <= table.summary.items()):
            return table, True
    table = index_foreign(tar)
    try:
        table.save(path)
    except (UserError, OSError):  # a folder that is only there to be read
        return table, False
    return table, True


def _split_of(tar: Path, folder: Path) -> str:
    name = re.sub(r"[-_.]?\d*\.tar$", "", tar.name) or (tar.parent.name if tar.parent != folder else "train")
    known = name.lower()
    for word in ("train", "validation", "test", *_SPLIT_NAMES):
        if known == word or re.search(rf"(^|[-_.]){word}([-_.]|$)", known):
            return _SPLIT_NAMES.get(word, word)
    return name


def _renamed(shard: Shard, split: str) -> Shard:
    return Shard(shard.name, split, shard.count, shard.size, shard.contents)


def listed(items: list[str], limit: int = 5) -> str:
    """'a, b, c and 7 more'."""
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")
