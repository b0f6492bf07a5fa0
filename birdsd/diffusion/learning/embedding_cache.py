"""What the frozen networks make of the pictures and captions of a set: made once, kept beside the shards.

The same values come out whether they are kept or not: rounded to float16 either way, and a caption is encoded
by itself, since the last bits of a matrix product depend on its shape.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from birdsd.diffusion.learning.base import Modules
from birdsd.diffusion.learning.common import picture_of
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.models import to_range
from birdsd.diffusion.networks.tokenizer import token_ids
from birdsd.errors import UserError
from birdsd.files import atomic_write, fingerprint, read_json, sha256_file, write_json
from birdsd.shards.cache import LatentShards, StoredLatents, TextShards, cache_folder, half, pieces
from birdsd.shards.reader import ShardReader

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex

# Pixels a batch of pictures to encode: the encoder works at full resolution, and with Stable Diffusion's a
# picture of 512 x 512 takes 0.65 GiB for it.
ENCODED_PIXELS = 8 * 128 * 256
_IN_MEMORY_BYTES = 512 * 2**20

T = TypeVar("T")
Sharer = Callable[[Sequence[int]], list[int]]
Agreement = Callable[[list[int]], list[int]]


def pictures_together(codec: Mapping[str, Any]) -> int:
    """How many pictures are encoded in one batch."""
    return max(1, ENCODED_PIXELS // (int(codec["bands"]) * int(codec["frames"])))


@dataclass
class Filled:
    """What a pass over a set found and made: samples whose latents, and texts whose states, are there now."""

    latents: int = 0
    latents_made: int = 0
    texts: int = 0
    texts_made: int = 0
    latents_missing: int = 0  # samples and texts that other tasks are still to make
    texts_missing: int = 0
    text_learns: bool = False
    notes: Sequence[str] = ()


class Cached(Protocol):
    """What the caches ask of the method whose frozen networks they stand for."""

    config: TrainConfig
    index: ShardIndex
    codec: dict[str, Any]
    latent_shape: tuple[Any, int, int]

    @property
    def vae_source(self) -> str:
        """Where the autoencoder comes from."""
        ...

    def further_texts(self) -> Sequence[str]:
        """Texts beside the captions of the set that training may ask for."""
        ...

    def wording(self, modules: Modules, text: str) -> str:
        """A text with the words put in that stand for species."""
        ...


class Caches:
    """The latents and text states of one method's set, in memory and on disk.

    Without `use_disk` (machine.cache_latents=false) nothing is read from the disk or written to it.
    """

    def __init__(self, method: Cached) -> None:
        machine = method.config.machine
        self.method, self.index, self.codec = method, method.index, method.codec
        self.use_disk = machine.cache_latents
        self.folder = cache_folder(method.index, machine.cache_folder)
        self._texts: OrderedDict[bytes, Tensor] = OrderedDict()

    # -- where it lies ------------------------------------------------------------------------------

    @cached_property
    def vae_key(self) -> str:
        """Names the autoencoder by what it computes."""
        return models.part_key(self.method.vae_source, "vae")

    @cached_property
    def latent_shards(self) -> LatentShards:
        """By autoencoder and codec."""
        return LatentShards(
            self.index, self.folder, fingerprint([self.vae_key, self.index.codec_fingerprint])
        )

    @cached_property
    def text_shards(self) -> TextShards | None:
        """By text encoder; None where the model's own is not read from files."""
        source = self.method.config.model.source
        if self.method.config.model.init != "pretrained" or not source:
            return None
        return TextShards(self.folder, models.part_key(source, "text_encoder"))

    def latents(self, split: str) -> StoredLatents | None:
        """Those of a split, once all are there."""
        return self.latent_shards.open(split) if self.use_disk else None

    # -- encoding -----------------------------------------------------------------------------------

    def encode_moments(self, modules: Modules, pixels: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> float16 [B, 2 C', h, w]: means and log-variances."""
        vae: Any = modules.frozen["vae"]
        with torch.no_grad(), torch.autocast(modules.device.type, enabled=False):
            moments: Tensor = vae.encode(to_range(pixels)).latent_dist.parameters
        return moments.half()

    def texts(self, modules: Modules, input_ids: Tensor) -> Tensor:
        """float16 [B, n, width] on the device: what a frozen text encoder makes of each text."""
        rows = []
        for ids in input_ids.cpu():
            key = ids.numpy().tobytes()
            state = self._texts.get(key)
            if state is None:
                stored = self.text_shards.get(ids.numpy()) if self.use_disk and self.text_shards else None
                state = (
                    self._encode_text(modules, ids) if stored is None else torch.from_numpy(np.array(stored))
                )
                self._texts[key] = state
                if len(self._texts) * state.nbytes > _IN_MEMORY_BYTES:
                    self._texts.popitem(last=False)
            else:
                self._texts.move_to_end(key)
            rows.append(state)
        return torch.stack(rows).to(modules.device)

    def _encode_text(self, modules: Modules, ids: Tensor) -> Tensor:
        encoder: Any = modules.frozen["text_encoder"]
        with torch.no_grad(), torch.autocast(modules.device.type, enabled=False):
            state = encoder(ids[None].to(modules.device))[0][0]
        return torch.from_numpy(half(state.float().cpu().numpy(), "what the text encoder makes of a caption"))

    def forget(self) -> None:
        """Empty the memory; the disk stays as it is, and is looked at again."""
        self._texts.clear()
        looked_at = vars(self).get("text_shards")  # as `cached_property` keeps it
        if looked_at is not None:
            looked_at.refresh()

    # -- filling ------------------------------------------------------------------------------------

    def fill(
        self,
        modules: Modules,
        splits: Sequence[str],
        share: Sharer,
        alive: Callable[[], object],
        agree: Agreement | None = None,
    ) -> Filled:
        """Make this caller's share of what is missing of `splits`, and say what is there afterwards. Killed
        anywhere, the next call makes the rest.

        `agree` gives all ranks what the first one says. Where tasks know nothing of each other, each has its
        share of everything, and of that makes what is missing.
        """
        work = _Pass(modules, share, alive, agree, Filled())
        self._fill_latents(work, splits)
        if "text_encoder" in modules.frozen and (shards := self.text_shards) is not None:
            left: set[bytes] = set()
            for split in splits:
                left |= self._fill_texts(work, split, shards)
            work.filled.texts, work.filled.texts_missing = len(shards), len(left)
        return work.filled

    def size_bytes(self) -> int:
        """Bytes on disk of the latents and texts of this autoencoder and text encoder."""
        folders = [self.latent_shards.folder, *([self.text_shards.folder] if self.text_shards else [])]
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*.tar"))

    def _fill_latents(self, work: _Pass, splits: Sequence[str]) -> None:
        from tqdm import tqdm

        shards = [(s, number, shard) for s in splits for number, shard in enumerate(self.index.shards(s))]
        missing = {split: self.latent_shards.missing(split) for split in splits}
        mine = work.mine(shards, lambda place: place[2] in missing[place[0]])
        total = sum(shard.count for _, _, shard in mine)
        about = {"autoencoder": self.method.vae_source, "codec": self.index.codec_fingerprint}
        with tqdm(total=total, desc="latents", unit="clip", disable=None if total else True) as bar:
            for split, number, shard in mine:
                first = sum(self.index.shard_sizes(split)[:number])
                made = self._encoded(work, split, first, shard.count)
                self.latent_shards.write(shard, _told(made, bar), about)
        work.filled.latents_made = total
        for split in splits:
            left = self.latent_shards.missing(split)
            gone = sum(shard.count for shard in left)
            work.filled.latents_missing += gone
            work.filled.latents += self.index.count(split) - gone

    def _encoded(self, work: _Pass, split: str, first: int, count: int) -> Iterator[np.ndarray]:
        """The moments of `count` samples from `first` on, in batches that begin with the shard: the same
        whoever makes them. A sample that cannot be decoded gets zeros: reading it again says so.
        """
        reader = ShardReader(self.index, split, want=("image",), io_errors=True)
        together = pictures_together(self.codec)
        for start in range(first, first + count, together):
            samples = reader.read_many(range(start, min(start + together, first + count)))
            pixels = torch.stack([torch.from_numpy(picture_of(s, self.codec)) for s in samples])
            moments = self.encode_moments(work.modules, pixels.to(work.modules.device)).cpu().numpy()
            moments[[sample.weight == 0 for sample in samples]] = 0
            work.alive()
            yield from moments

    def _fill_texts(self, work: _Pass, split: str, shards: TextShards) -> set[bytes]:
        """Returns the texts that are still missing, as the bytes of the numbers of their tokens."""
        from tqdm import tqdm

        mark = self._mark(work.modules, split)
        shards.refresh()
        if work.first_says(shards.is_complete(mark)):
            return set()
        needed = self._needed(work, split)
        mine = work.mine(needed, lambda text: text[1] not in shards)
        about = {"text_encoder": self.method.config.model.source}
        with tqdm(total=len(mine), desc="text", unit="caption", disable=None if mine else True) as bar:
            for some in pieces(mine):
                shards.write(some, _told(self._encoded_texts(work, some), bar), about)
        shards.refresh()
        work.filled.texts_made += len(mine)
        left = {ids.tobytes() for _, ids in needed if ids not in shards}
        if not left:
            with suppress(UserError):  # a folder that is only there to be read
                shards.set_complete(mark)
        return left

    def _encoded_texts(self, work: _Pass, texts: Sequence[tuple[str, np.ndarray]]) -> Iterator[np.ndarray]:
        for _, ids in texts:
            work.alive()
            yield self._encode_text(work.modules, torch.from_numpy(ids)).numpy()

    def _needed(self, work: _Pass, split: str) -> list[tuple[str, np.ndarray]]:
        """Every text that training may ask for, sorted: all wordings of all captions, the empty one, and what
        the method adds; each with the numbers of its tokens. Of texts with the same numbers (they differ in
        case, or only behind the last token that the encoder reads) the first one stands for all."""
        texts = {"", *self.method.further_texts()}
        reader = ShardReader(self.index, split, want=("metadata",), io_errors=True)
        for number in range(len(reader)):
            if number % 256 == 0:
                work.alive()
            texts.update(str(text) for text in reader.read(number).metadata["captions"])
        worded = sorted({self.method.wording(work.modules, text) for text in texts})
        needed: dict[bytes, tuple[str, np.ndarray]] = {}
        for text in worded:
            ids = token_ids(work.modules.tokenizer, [text])[0].numpy()
            needed.setdefault(ids.tobytes(), (text, ids))
        return list(needed.values())

    def _mark(self, modules: Modules, split: str) -> str:
        """Changes with everything that decides which texts there are, and how they are cut into tokens."""
        tokenizer = modules.tokenizer
        cut = [tokenizer.backend_tokenizer.to_str(), tokenizer.model_max_length]
        spoken = (*self.index.species, *self.method.further_texts())
        words = [self.method.wording(modules, text) for text in spoken]
        return fingerprint([self.index.fingerprint, split, cut, words])

    # -- small things -------------------------------------------------------------------------------

    def remembered(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Figures of this set and autoencoder that take long: measured once, then read."""
        if not self.use_disk:
            return measure()
        path = self.latent_shards.folder / f"{name}-{self.index.fingerprint}.json"
        with suppress(UserError):
            stored = read_json(path)
            if isinstance(stored, dict):
                return stored
        found = measure()
        if found:
            with suppress(UserError):  # a folder that is only there to be read
                write_json(path, found)
        return found

    def picture_moments(self, modules: Modules, path: Path, read: Callable[[], np.ndarray]) -> Tensor:
        """float16 [2 C, h, w] of one picture, encoded by itself and kept by the bytes of its file; `read`
        gives the picture, uint8 [C, H, W]."""
        if not self.use_disk or not path.is_file():
            return self._picture_moments(modules, read)
        place = self.folder / f"pictures-{self.vae_key}" / f"{sha256_file(path)[:16]}.npy"
        channels, *size = self.method.latent_shape
        with suppress(OSError, ValueError, EOFError):
            stored = np.load(place, allow_pickle=False)
            if stored.dtype == np.float16 and stored.shape == (2 * channels, *size):
                return torch.from_numpy(stored)
        made = self._picture_moments(modules, read)
        with suppress(UserError), atomic_write(place) as stream:  # perhaps a folder to read from only
            np.save(stream, made.numpy(), allow_pickle=False)
        return made

    def _picture_moments(self, modules: Modules, read: Callable[[], np.ndarray]) -> Tensor:
        return self.encode_moments(modules, torch.from_numpy(read())[None].to(modules.device))[0].cpu()


@dataclass
class _Pass:
    """One caller's pass over a set."""

    modules: Modules
    share: Sharer
    alive: Callable[[], object]
    agree: Agreement | None
    filled: Filled

    def mine(self, items: Sequence[T], is_missing: Callable[[T], bool]) -> list[T]:
        """This caller's share of the items that are missing."""
        missing = {number for number, item in enumerate(items) if is_missing(item)}
        if self.agree is None:
            return [items[number] for number in self.share(range(len(items))) if number in missing]
        return [items[number] for number in self.share(self.agree(sorted(missing)))]

    def first_says(self, value: bool) -> bool:
        """What holds for the first rank, on all of them."""
        return bool(self.agree([int(value)])[0]) if self.agree else value


def _told(arrays: Iterator[np.ndarray], bar: Any) -> Iterator[np.ndarray]:
    """Each array, with the bar one step on."""
    for array in arrays:
        yield array
        bar.update(1)
