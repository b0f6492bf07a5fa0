"""Global batch -> micro-batches of one rank, for any world size and any micro-batch.

Global batch k is the positions [k*G, (k+1)*G). Rank r of W takes the contiguous slice from r*G//W to
(r+1)*G//W. Every rank runs the same number of micro-batches, because collectives must match; a rank
with less to do runs one sample again at weight zero. The sum over ranks and micro-batches of
weight * loss, divided by the sum of the weights, is the mean over exactly those G samples.
"""

from __future__ import annotations

from dataclasses import dataclass

from birdsd.errors import BadValue


@dataclass(frozen=True)
class MicroBatch:
    """Offsets into a global batch, and the weight of each: 1, or 0 where the slot is only filled."""

    offsets: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class BatchPlan:
    """How `rank` of `world_size` carries out a global batch in pieces of at most `micro_batch`."""

    global_batch: int
    world_size: int = 1
    rank: int = 0
    micro_batch: int = 0  # 0: the whole slice at once

    def __post_init__(self) -> None:
        if self.global_batch < 1:
            raise BadValue(
                f"optim.global_batch is {self.global_batch}",
                "it must be at least 1",
                "e.g. optim.global_batch=16",
            )
        if self.micro_batch < 0:
            raise BadValue(
                f"machine.micro_batch is {self.micro_batch}",
                "it is the number of samples computed at once, or 0 for all of a rank's share",
                "e.g. machine.micro_batch=4",
            )
        if not 0 <= self.rank < self.world_size:
            raise BadValue(
                f"rank {self.rank} is not in a world of {self.world_size}", "RANK must be below WORLD_SIZE"
            )

    @property
    def slice(self) -> range:
        """The offsets that this rank trains on; empty where there are more ranks than samples."""
        return range(
            self.rank * self.global_batch // self.world_size,
            (self.rank + 1) * self.global_batch // self.world_size,
        )

    @property
    def largest_slice(self) -> int:
        """The most samples that any rank has: ceil(G / W)."""
        return -(-self.global_batch // self.world_size)

    @property
    def size(self) -> int:
        """The micro-batch in use: never more than the largest slice."""
        return min(self.micro_batch or self.largest_slice, self.largest_slice)

    @property
    def count(self) -> int:
        """Micro-batches per global batch, the same on every rank."""
        return -(-self.largest_slice // self.size)

    def micro_batches(self) -> list[MicroBatch]:
        """This rank's micro-batches, in order."""
        mine = self.slice
        filler = MicroBatch((mine.start if mine else 0,), (0.0,))
        pieces = [tuple(mine[i : i + self.size]) for i in range(0, len(mine), self.size)]
        batches = [MicroBatch(piece, (1.0,) * len(piece)) for piece in pieces]
        return batches + [filler] * (self.count - len(batches))
