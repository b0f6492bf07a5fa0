"""Positions -> micro-batches of tensors, made by reader threads ahead of use."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from birdsd.errors import NotFound, NothingLeft
from birdsd.shards.prefetch import Prefetcher
from birdsd.training.batches.global_batch import BatchPlan, MicroBatch
from birdsd.training.devices.precision import release

if TYPE_CHECKING:
    from birdsd.diffusion.learning.base import LearningMethod, Modules
    from birdsd.schema import TrainConfig
    from birdsd.shards.cache import StoredLatents
    from birdsd.shards.index import ShardIndex
    from birdsd.shards.reader import Sample
    from birdsd.training.devices.world import World

MakeExample = Callable[["Sample", int], dict[str, Tensor]]


class Reader(Protocol):
    """What batches need of a `ShardReader`."""

    def read(self, number: int) -> Sample: ...

    def __len__(self) -> int: ...


class Order(Protocol):
    """What batches need of a `SampleOrder`."""

    def batch(self, start: int, count: int) -> np.ndarray: ...


@dataclass
class Examples:
    """A micro-batch on the CPU. `weights`: 0 for a slot that is only filled or could not be decoded.

    `numbers`: the samples of this rank's share, -1 - n where one could not be decoded; without the
    slots that only fill. `problems`: sample number -> why it could not be decoded.
    """

    tensors: dict[str, Tensor]
    weights: Tensor
    numbers: list[int]
    problems: dict[int, str]


class CachedReader:
    """Samples whose latents were computed ahead, so that their pictures need not be read."""

    def __init__(self, index: ShardIndex, split: str, latents: StoredLatents) -> None:
        from birdsd.shards.reader import ShardReader

        self._whole = ShardReader(index, split)
        self._light = ShardReader(index, split, want=("metadata",))
        self._latents = latents

    def __len__(self) -> int:
        return len(self._light)

    def read(self, number: int) -> Sample:
        latent = self._latents[number]
        if not latent.any():  # zeros stand where the picture could not be decoded: read it, to say why
            sample = self._whole.read(number)
            if sample.weight:
                sample.weight = 0.0
                sample.problem = (
                    f"{sample.key}: it could not be decoded when its latents were cached; delete "
                    f"{self._latents.path(number)}, and they are recomputed"
                )
            return sample
        sample = self._light.read(number)
        sample.latent = latent
        return sample


def open_reader(index: ShardIndex, split: str, method: LearningMethod, cached: bool) -> Reader:
    """Reads a split from its shards; where `cached` from its latents on disk, if the method has any."""
    from birdsd.shards.reader import ShardReader

    latents = method.cached_latents(split) if cached else None
    return ShardReader(index, split) if latents is None else CachedReader(index, split, latents)


def provide(method: LearningMethod, modules: Modules, world: World, alive: Callable[[], None]) -> list[str]:
    """Let the method make what it needs, each rank its share; returns what it has to say."""
    lines = method.setup(modules, partial(_share, world), alive)
    modules.frozen.release()
    world.from_first(None)  # nobody begins before all of it is there
    return lines


def fill_caches(
    method: LearningMethod,
    device: torch.device,
    dtype: torch.dtype,
    splits: Sequence[str],
    world: World,
    alive: Callable[[], None],
) -> None:
    """Let the method keep what its frozen networks make of `splits`, each rank its share. They are not in
    memory afterwards."""
    if not splits:
        return

    def agree(numbers: list[int]) -> list[int]:
        agreed: list[int] = world.gather(numbers, writers=True)[0]  # it may take long: theirs is the patience
        return agreed

    kept = method.fill_cache(device, dtype, splits, partial(_share, world), alive, agree)
    release(device)
    world.gather(None, writers=True)
    unseen = [split for split in splits if kept is not None and method.cached_latents(split) is None]
    for rank, gone in enumerate(world.gather(unseen)):
        if gone:
            raise NotFound(
                f"rank {rank} does not find the latents of {', '.join(gone)} that other ranks have cached",
                "all ranks read what each of them has made",
                "set machine.cache_folder to a place that all nodes share, or machine.cache_latents=false",
            )


def _share(world: World, numbers: Sequence[int]) -> list[int]:
    return list(numbers[world.rank :: world.size])


def make_order(config: TrainConfig, index: ShardIndex) -> Order:
    """The order of the training samples: every one as often, or balanced by species."""
    from birdsd.shards.order import SampleOrder

    sizes = index.shard_sizes("train")
    if not config.method.species_balance:
        return SampleOrder(sizes, config.seed)
    from birdsd.shards.balance import BalancedOrder, species_weights

    weights = species_weights(index, "train", config.method.species_balance)
    return BalancedOrder(sizes, config.seed, weights)


class FixedOrder:
    """The same samples each time: `count` of `total`, spread evenly. For validation."""

    def __init__(self, total: int, count: int) -> None:
        self.numbers = np.linspace(0, total, num=min(count, total), endpoint=False).astype(np.int64)

    def batch(self, start: int, count: int) -> np.ndarray:
        return self.numbers[start : start + count]


class BatchMaker:
    """Makes the micro-batches of one rank; used by several threads at once."""

    def __init__(self, reader: Reader, order: Order, example: MakeExample, pin: bool = False) -> None:
        self.reader, self.order, self.example, self.pin = reader, order, example, pin
        self._spare: dict[str, Tensor] | None = None

    def make(self, start: int, micro: MicroBatch) -> Examples:
        """The micro-batch of the global batch that begins at position `start`."""
        first = micro.offsets[0]
        numbers = self.order.batch(start + first, len(micro.offsets))
        made: list[dict[str, Tensor] | None] = []
        result = Examples({}, torch.tensor(micro.weights, dtype=torch.float32), [], {})
        for slot, (offset, number) in enumerate(zip(micro.offsets, numbers.tolist(), strict=True)):
            sample = self.reader.read(number)
            made.append(self.example(sample, start + offset) if sample.weight else None)
            if not sample.weight:  # reading the metadata may find the fault only now
                made[slot] = None
                result.problems[number] = getattr(sample, "problem", "") or sample.key
            if micro.weights[slot]:
                result.numbers.append(-1 - number if made[slot] is None else number)
            if made[slot] is None:
                result.weights[slot] = 0.0
        self._spare = next((m for m in made if m is not None), self._spare)
        filled = [m if m is not None else self._filler(start) for m in made]
        result.tensors = {key: torch.stack([m[key] for m in filled]) for key in filled[0]}
        if self.pin:
            result.tensors = {key: tensor.pin_memory() for key, tensor in result.tensors.items()}
        return result

    def _filler(self, start: int) -> dict[str, Tensor]:
        """Something of the right shapes to stand where a sample could not be decoded, at weight 0."""
        if self._spare is None:
            first = ""
            for number in range(min(len(self.reader), 200)):
                sample = self.reader.read(number)
                first = first or str(getattr(sample, "problem", ""))
                if sample.weight:
                    self._spare = self.example(sample, start)
                    break
            else:
                raise NothingLeft(
                    "not one of the first 200 samples can be decoded" + (f"; {first}" if first else ""),
                    "there is nothing to train on",
                    "look at the shards with `birdsd inspect SHARDS`",
                )
        return self._spare


def global_batches(
    maker: BatchMaker, plan: BatchPlan, start: int, stop: int, threads: int, ahead: int
) -> Generator[list[Examples], None, None]:
    """This rank's micro-batches of each global batch from position `start` to before `stop`.

    `ahead` global batches are made before they are asked for, micro-batch by micro-batch.
    """
    pieces = plan.micro_batches()
    work = ((position, micro) for position in range(start, stop, plan.global_batch) for micro in pieces)
    prefetcher = Prefetcher(lambda item: maker.make(*item), work, threads, depth=max(1, ahead) * len(pieces))
    with prefetcher:
        batch: list[Examples] = []
        for examples in prefetcher:
            batch.append(examples)
            if len(batch) == len(pieces):
                yield batch
                batch = []
