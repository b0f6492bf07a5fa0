"""A look at shards that others wrote, before anything is learnt from them: what samples lack, and whether
their pictures can be read as pictures. Sets that `prepare` wrote need none of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from birdsd.errors import BadValue, NothingLeft
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from birdsd.shards.storage.decode import METADATA_SUFFIXES
from birdsd.shards.storage.table import PICTURES

_LOOKED_AT = 32  # pictures of a split, spread over its shards


@dataclass(frozen=True)
class Lacking:
    """Samples of a split without one kind of part ("image" or "caption"); `example` is the key of one."""

    split: str
    part: str
    count: int
    samples: int
    example: str

    def __str__(self) -> str:
        effect = "they cannot be trained on" if self.part == "image" else "they are trained without a caption"
        of = f"{self.count} of {self.samples} {self.split} samples"
        return f"{of} have no {self.part} (e.g. '{self.example}'): {effect}"


def lacking(index: ShardIndex) -> list[Lacking]:
    """What samples lack, by the parts that the shards' tables name; nothing is read but those tables."""
    if index.is_own:
        return []
    found = []
    for split in index.splits:
        for part, suffixes in (("image", PICTURES), ("caption", METADATA_SUFFIXES)):
            count, example = 0, ""
            for shard in index.shards(split):
                table = index.table(shard)
                without = table.lacks(suffixes)
                if len(without) and not count:
                    example = table.keys[int(without[0])]
                count += len(without)
            if count:
                found.append(Lacking(split, part, count, index.count(split), example))
    return found


def check_pictures(index: ShardIndex, splits: tuple[str, ...] | None = None) -> list[str]:
    """Refuse a set whose pictures cannot be read, or not in one way only, by a look at some of each split;
    `UserError` with the reason of the first. Where it is some of them only, a sentence says how many."""
    found = []
    for split in index.splits:
        if index.is_own or (splits and split not in splits) or not index.count(split):
            continue
        reader = ShardReader(index, split, want=("image", "latent"), pixels=index.pixels.watching())
        numbers = np.unique(np.linspace(0, len(reader) - 1, min(_LOOKED_AT, len(reader))).astype(int))
        samples = reader.read_many(numbers)
        if all(sample.weight == 0 for sample in samples):
            raise NothingLeft(
                f"no picture can be read from the {split} samples of {index.folder}: {samples[0].problem}",
                "",
                f"`birdsd inspect {index.folder} --verify` names every sample that cannot be read",
            )
        for doubt in reader.pixels.doubts():
            raise BadValue(f"the {split} pictures of {index.folder} can be read in two ways: {doubt}")
        bad = [
            sample.problem
            for number, sample in zip(numbers, samples, strict=True)
            if sample.weight == 0 and _has_picture(index, split, int(number))
        ]
        if bad:
            found.append(f"{len(bad)} of {len(samples)} {split} samples looked at cannot be read: {bad[0]}")
    return found


def _has_picture(index: ShardIndex, split: str, number: int) -> bool:
    shard, row = index.locate(split, number)
    return row not in index.table(shard).lacks(PICTURES)


def remarks(index: ShardIndex) -> Iterator[str]:
    """What a training should say of its set before it begins."""
    yield from (str(gap) for gap in lacking(index))
    yield from check_pictures(index)
