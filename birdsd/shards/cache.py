"""What frozen networks made of a set, kept beside its shards so that training need not load them.

`cache/latents-KEY/NAME.tar` holds KEY.latent.npy of every sample of the shard NAME.tar, in its order: float16
[2 C, height, width], means and log-variances, so that drawing from them stays free. `cache/text-KEY/` holds
the text encoder's states of captions, float16 [tokens, width], by the numbers of their tokens. Both are
ordinary WebDataset tars; each appears when it is complete, so that what is there need not be made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from birdsd.errors import BadValue, Damaged, UserError
from birdsd.files import fingerprint, read_json, write_json
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from birdsd.shards.storage.decode import VERSION as DECODING
from birdsd.shards.storage.table import Shard, ShardTable, index_path, load_table
from birdsd.shards.storage.writer import ShardWriter
from birdsd.sharing import private_folder, publish, remove_leftovers, waiting_for

FORMAT = "birdsd-cache-1"
FOLDER = "cache"
ABOUT_FILE = "about.json"
_TEXTS_PER_SHARD = 256


def cache_folder(index: ShardIndex, elsewhere: str | None = None) -> Path:
    """Beside the shards, or a folder for these shards in `elsewhere`: several sets may use that."""
    if not elsewhere:
        return index.folder / FOLDER
    return Path(elsewhere).expanduser() / f"{index.folder.name}-{fingerprint(str(index.folder.resolve()), 8)}"


class StoredLatents:
    """The latents of a split by number, read when they are asked for. Safe to use from several threads."""

    def __init__(self, index: ShardIndex, split: str) -> None:
        self._index, self._split = index, split
        self._reader = ShardReader(index, split, want=("latent",))

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, number: int) -> np.ndarray:
        """float16 [2 C, height, width], read-only; zeros where the picture could not be decoded."""
        sample = self._reader.read(number)
        if sample.latent is None:
            raise _damaged(self._reader.index.folder, sample.problem)
        return sample.latent

    def path(self, number: int) -> Path:
        """The file that holds a sample's latents."""
        return self._index.path(self._index.locate(self._split, number)[0])


class LatentShards:
    """The latents of a set by one autoencoder; `key` names the autoencoder and the codec."""

    def __init__(self, index: ShardIndex, folder: Path, key: str) -> None:
        self.index = index
        self.folder = Path(folder) / f"latents-{key}"

    def missing(self, split: str) -> list[Shard]:
        """The shards of a split whose latents are not here yet, or were made of another shard."""
        return [shard for shard in self.index.shards(split) if self._table(shard) is None]

    def open(self, split: str) -> StoredLatents | None:
        """The latents of a split; None where some are missing."""
        shards = []
        for shard in self.index.shards(split):
            table = self._table(shard)
            if table is None:
                return None
            shards.append(Shard(shard.name, split, len(table), table.size, table.contents))
        return StoredLatents(ShardIndex(self.folder, shards, {}, None), split)

    def write(self, shard: Shard, latents: Iterable[np.ndarray], about: dict[str, Any]) -> None:
        """Write the latents of all samples of a shard, in their order. Memory does not depend on their
        number; values beyond float16 are refused; nothing is left behind where the iterable fails.
        """
        _begin(self.folder, about)
        keys = self.index.table(shard).keys
        target, shape = self.folder / shard.name, None
        summary = {"format": FORMAT, "of": self._contents(shard)}
        with private_folder(self.folder) as place:
            with ShardWriter(place / target.name, summary) as writer:
                for key, latent in zip(_writable(keys), latents, strict=True):
                    shape = shape or latent.shape
                    if latent.shape != shape:
                        raise ValueError(f"the latent of {key} is {latent.shape}, those before are {shape}")
                    writer.write(key, {"latent.npy": half(latent, f"the latent of {key}")})
            target.parent.mkdir(parents=True, exist_ok=True)
            with waiting_for(self.folder / ".lock"):
                # Another task may have made it meanwhile, with other last bits: tar and index must be of one.
                if self._table(shard) is None:
                    publish(place, target.parent, target.name, index_path(target).name)

    def _table(self, shard: Shard) -> ShardTable | None:
        table = _finished(self.folder / shard.name)
        return table if table and table.summary.get("of") == self._contents(shard) else None

    def _contents(self, shard: Shard) -> str:
        """Changes with the pictures: where nobody has summed their bytes, with the file's size and time, and
        with how they are read; `pixels.json` counts for every set."""
        table, declared = self.index.table(shard), self.index.pixels.fingerprint()
        if table.has_checksums:
            return f"{shard.contents}-{declared}" if declared else shard.contents
        return f"{shard.contents}-{table.size}-{table.mtime_ns}-{DECODING}{declared}"


class TextShards:
    """A text encoder's states of texts, found by the numbers of their tokens; `key` names the encoder.

    Which texts a set needs is the caller's to know: once they are all here, it may leave a mark.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = Path(folder) / f"text-{key}"
        self._numbers: dict[str, int] | None = None
        self._reader: ShardReader | None = None
        self._lock = Lock()

    def is_complete(self, mark: str) -> bool:
        """Whether all texts were there when this mark was left, and none is gone since."""
        try:
            return int(read_json(self.folder / f"complete-{mark}.json")["held"]) <= len(self)
        except (UserError, KeyError, TypeError, ValueError):
            return False

    def set_complete(self, mark: str) -> None:
        """Leave a mark."""
        write_json(self.folder / f"complete-{mark}.json", {"format": FORMAT, "held": len(self)})

    def __len__(self) -> int:
        return len(self._open())

    def __contains__(self, ids: np.ndarray) -> bool:
        return _text_key(ids) in self._open()

    def get(self, ids: np.ndarray) -> np.ndarray | None:
        """The states of a text, float16 [tokens, width], read-only; None where they are not here."""
        number = self._open().get(_text_key(ids))
        if number is None:
            return None
        assert self._reader is not None
        sample = self._reader.read(number)
        if sample.latent is None:
            raise _damaged(self.folder, sample.problem)
        return sample.latent

    def write(
        self, texts: Sequence[tuple[str, np.ndarray]], states: Iterable[np.ndarray], about: dict[str, Any]
    ) -> None:
        """Write the states of texts, given as (text, numbers of its tokens): one shard."""
        _begin(self.folder, about)
        keys = [_text_key(ids) for _, ids in texts]
        name = f"text-{fingerprint(keys, 12)}.tar"
        with private_folder(self.folder) as place:
            with ShardWriter(place / name, {"format": FORMAT}) as writer:
                for key, (text, _), state in zip(keys, texts, states, strict=True):
                    writer.write(key, {"latent.npy": half(state, f"'{text}'"), "json": {"text": text}})
            with waiting_for(self.folder / ".lock"):
                if _finished(self.folder / name) is None:
                    publish(place, self.folder, name, index_path(Path(name)).name)
        self.refresh()

    def refresh(self) -> None:
        """Look again at what is there: others may have written."""
        with self._lock:
            self._numbers = None

    def _open(self) -> dict[str, int]:
        with self._lock:
            if self._numbers is None:
                tables = [(tar, t) for tar in sorted(self.folder.glob("text-*.tar")) if (t := _finished(tar))]
                shards = [Shard(tar.name, "text", len(t), t.size, t.contents) for tar, t in tables]
                keys = [key for _, table in tables for key in table.keys]
                self._numbers = {key: number for number, key in enumerate(keys)}
                index = ShardIndex(self.folder, shards, {}, None)
                self._reader = ShardReader(index, "text", want=("latent",)) if shards else None
            return self._numbers


def pieces(texts: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """As many texts as make a shard, at a time."""
    for start in range(0, len(texts), _TEXTS_PER_SHARD):
        yield texts[start : start + _TEXTS_PER_SHARD]


def half(array: np.ndarray, what: str) -> np.ndarray:
    """`array` in float16; `UserError` where it has values that float16 cannot hold."""
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, dtype="<f2")
    if not np.isfinite(values).all():
        raise BadValue(
            f"{what} has values that float16 cannot hold",
            "what frozen networks make is kept as float16 (up to 65504)",
            "Stable Diffusion's networks stay far below that: look at model.source and model.autoencoder",
        )
    return values


def _begin(folder: Path, about: dict[str, Any]) -> None:
    """The folder, what it says of itself, and nothing that a killed writer left."""
    try:
        stored = read_json(folder / ABOUT_FILE) if (folder / ABOUT_FILE).is_file() else None
        if stored != (facts := {"format": FORMAT, **about}):
            write_json(folder / ABOUT_FILE, facts)
    except UserError as error:
        raise type(error)(
            f"the cache cannot be written: {error.problem}",
            "latents and text embeddings are kept beside the shards, once for all runs",
            "machine.cache_folder=FOLDER keeps them elsewhere; machine.cache_latents=false disables it",
        ) from error
    remove_leftovers(folder, alone=False)


def _finished(tar: Path) -> ShardTable | None:
    """The index of a shard that is there and whole, as far as its size says."""
    try:
        table = load_table(index_path(tar))
        return table if tar.stat().st_size == table.size and table.summary.get("format") == FORMAT else None
    except (UserError, OSError):
        return None


def _writable(keys: Sequence[str]) -> Iterator[str]:
    """The keys of a shard; a number for one that only tars of others have (with dots, or twice)."""
    seen: set[str] = set()
    for number, key in enumerate(keys):
        name = key if "." not in key and key not in seen else f"sample-{number:06d}"
        seen.add(name)
        yield name


def _text_key(ids: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(ids, dtype="<i8").tobytes()).hexdigest()[:32]


def _damaged(folder: Path, problem: str) -> UserError:
    return Damaged(
        f"the cache in {folder} is damaged: {problem}",
        "it was intact when it was written",
        "delete that folder and run the same command again to recreate it",
    )
