"""The recordings of a split, out of shards or a folder of sound files, as the check compares them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.evaluation.leakage.check import RECORDING, Leak
from birdsd.evaluation.real_clips import SourceRecordings
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from birdsd.shards.storage.decode import IMAGE_SUFFIXES
from birdsd.shards.storage.table import ABSENT
from birdsd.sound.audio.recordings import RecordingError, probe
from birdsd.sound.labels.annotation import Recording
from birdsd.sound.labels.load import load_recordings


def from_folder(source: Path) -> list[Recording]:
    """The recordings of a folder or file, labelled or not."""
    found = load_recordings(source, require_labels=False)
    return [*found.recordings, *found.unlabelled]


def from_shards(index: ShardIndex, split: str, recordings: Path | None = None) -> list[Recording]:
    """The recordings that the samples of a split were cut from, each once; none of a split that is not there.

    `recordings` is the folder that the shards were prepared from: only with it is their sound compared. A
    recording whose background lies under a clip counts too; environmental sound that was mixed in does not.
    """
    if not index.count(split):
        return []
    source = SourceRecordings(recordings) if recordings else None
    reader = ShardReader(index, split, want=("metadata",))
    found: dict[str, Recording] = {}
    for number in range(len(reader)):
        sample = reader.read(number)
        for name, named, recordist in _parents(sample.key, sample.metadata):
            if name in found:
                continue
            path = (source.find(named) if source and named else None) or Path(named or name)
            duration_s = _duration_s(path) if source else 0.0
            found[name] = Recording(path, name, recordist=recordist, duration_s=duration_s)
    return list(found.values())


def same_pictures(one: ShardIndex, one_split: str, other: ShardIndex, other_split: str) -> list[Leak]:
    """Samples of two splits with the same picture under the ids of different recordings: all that can be
    compared of clips whose recordings are not at hand. Those without a stored checksum are not compared."""
    if not one.count(one_split) or not other.count(other_split):
        return []
    known, found = _checksums(one, one_split), []
    want = ("image", "metadata")
    readers = ShardReader(one, one_split, want=want), ShardReader(other, other_split, want=want)
    for mark, numbers in _checksums(other, other_split).items():
        for number, twin in product(known.get(mark, ()), numbers):
            first, second = readers[0].read(number), readers[1].read(twin)
            ids = [next(_parents(sample.key, sample.metadata))[0] for sample in (first, second)]
            if ids[0] == ids[1] or first.image is None or second.image is None or np.ptp(first.image) == 0:
                continue
            if np.array_equal(first.image, second.image):
                found.append(
                    Leak(RECORDING, one_split, other_split, first.key, second.key, "the same picture")
                )
    return found


def _checksums(index: ShardIndex, split: str) -> dict[tuple[str, int, int], list[int]]:
    """The numbers of the samples with each (kind, size, checksum) of a stored picture."""
    found: dict[tuple[str, int, int], list[int]] = {}
    first = 0
    for shard in index.shards(split):
        table = index.table(shard)
        for suffix in IMAGE_SUFFIXES:
            part = table.parts.get(suffix)
            if part is None or part.crc32 is None:
                continue
            rows = zip(part.offset.tolist(), part.size.tolist(), part.crc32.tolist(), strict=True)
            for row, (offset, size, crc32) in enumerate(rows):
                if offset != ABSENT:
                    found.setdefault((suffix, size, crc32), []).append(first + row)
        first += len(table)
    return found


def _parents(key: str, metadata: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(id, path, recordist) of the recording that a sample was cut from, and of that which lies under it."""
    named = str(metadata.get("path") or "")
    yield str(metadata.get("recording_id") or named or key), named, str(metadata.get("recordist") or "")
    if background := metadata.get("background_id"):
        named = str(metadata.get("background_path") or "")
        yield str(background), named, str(metadata.get("background_recordist") or "")


def _duration_s(path: Path) -> float:
    try:
        return probe(path).duration_s
    except (RecordingError, OSError):
        return 0.0
