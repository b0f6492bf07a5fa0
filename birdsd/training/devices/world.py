"""The ranks of a run: who am I, and what the ranks agree on."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from birdsd.errors import BadValue
from birdsd.files import muted


@dataclass
class World:
    """This process among its peers, from RANK, WORLD_SIZE and LOCAL_RANK; alone where they are unset.

    Agreement goes through CPU tensors and gloo, so that it never waits for a GPU's queue.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    _owns_group: bool = False
    _writers: Any = None

    @classmethod
    def from_environment(cls) -> World:
        """Read the launcher's variables; a rank outside its world is refused."""
        try:
            rank, size, local = (int(os.environ.get(n, d)) for n, d in _VARIABLES.items())
        except ValueError as error:
            raise BadValue(f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers: {error}") from error
        if not 0 <= rank < size:
            raise BadValue(
                f"RANK is {rank} and WORLD_SIZE is {size}", "the rank must be below the world size"
            )
        return cls(rank, size, local)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def start(self, device: torch.device, always: bool = False, timeout_s: float = 1800) -> None:
        """Join the other ranks. A lone process needs no group, unless `always` (DeepSpeed wants one).

        A collective that a peer does not join within `timeout_s` raises.
        """
        if (self.size == 1 and not always) or dist.is_initialized():
            return
        # gloo prints to standard output whom it is connected to, in some versions.
        with muted(1):
            self._join(device, timeout_s)

    def _join(self, device: torch.device, timeout_s: float) -> None:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if self.size == 1:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
            # DeepSpeed holds on to the group it first saw: it must last as long as the process.
            atexit.register(dist.destroy_process_group)
        else:
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
            # The thread that writes checkpoints meets its peers here, apart from the training's own traffic.
            # A rank's file may take long to write.
            self._writers = dist.new_group(backend="gloo", timeout=timedelta(hours=2))
            self._owns_group = True

    def close(self) -> None:
        """Leave the group that `start` made."""
        # Kept until Python ends, its C++ threads would abort one process in forty at the very end.
        self._writers = None
        if self._owns_group and dist.is_initialized():
            dist.destroy_process_group()
        self._owns_group = False

    def exchange(self, values: np.ndarray) -> np.ndarray:
        """Every rank's `values` (int64, [n], n the same everywhere), by rank: [size, n]."""
        if self.size == 1:
            return values[None]
        mine = torch.from_numpy(values)
        all_ranks = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(all_ranks, mine)
        return torch.stack(all_ranks).numpy()

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks of a CPU tensor."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any, writers: bool = False) -> list[Any]:
        """Every rank's `value`, by rank; `writers` for the thread that writes checkpoints."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._writers if writers else None)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""
        return self.gather(value if self.is_first else None)[0]


_VARIABLES = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
