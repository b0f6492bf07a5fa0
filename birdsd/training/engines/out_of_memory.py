"""Out of memory in the middle of a run: the step is taken back, and done again in smaller pieces.

A step is a pure function of its position, so that the same samples with the same noise in micro-batches of
half the size teach the same. Every rank must do so at once, since collectives must match.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from birdsd.errors import UserError
from birdsd.files import read_json, write_json
from birdsd.training.batches.batches import Examples
from birdsd.training.batches.global_batch import BatchPlan
from birdsd.training.devices.world import World

if TYPE_CHECKING:
    from birdsd.schema import MachineConfig

MICRO_BATCH_FILE = "micro_batch.json"
# What allocators say: torch on a GPU and on a CPU, cuDNN, cuBLAS.
_PHRASES = ("out of memory", "can't allocate memory", "defaultcpuallocator", "alloc_failed")


class OutOfMemory(Exception):
    """A step did not fit. Nothing of it was kept, on every rank.

    With `redo` the same step may be done again at once. Without it the engine was left in the middle of its
    own bookkeeping, or this rank's peers wait in a collective: only a new start from the checkpoint helps.
    """

    def __init__(self, reason: str, redo: bool = True) -> None:
        super().__init__(reason)
        self.reason, self.redo = reason, redo


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, in whatever words."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(p in str(error).lower() for p in _PHRASES)


def reason_of(error: BaseException) -> str:
    """The first line of what the allocator said."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def agree(world: World, reason: str | None) -> str | None:
    """Why a rank ran out of memory, on all ranks; None where none did. Collective."""
    if world.size == 1:
        return reason
    short = world.exchange(np.array([reason is not None], np.int64))[:, 0]
    if not short.any():
        return None
    return reason or f"rank {int(short.argmax())} ran out of memory; see its log"


def halved(plan: BatchPlan, reason: str, machine: MachineConfig) -> BatchPlan:
    """The same global batch in micro-batches of half the size; `UserError` where they are of one already."""
    if plan.size > 1:
        return BatchPlan(plan.global_batch, plan.world_size, plan.rank, plan.size // 2)
    ways = []
    if not machine.gradient_checkpointing:
        ways.append("machine.gradient_checkpointing=true")
    if not machine.cache_latents:
        ways.append("machine.cache_latents=true (`birdsd run cache` does that work ahead of training)")
    if not machine.offload_optimizer:
        ways.append("machine.offload_optimizer=true")
    if machine.micro_batch != 1:
        ways.append("machine.micro_batch=1 from the start")
    raise UserError(
        f"out of memory with one sample at a time: {reason}",
        f"the global batch of {plan.global_batch} is computed by {plan.world_size} x {plan.count} pieces of "
        "1, and no piece can be smaller",
        f"{'; or '.join([*ways, 'a smaller model or method=lora'])}; `birdsd plan train ...` says what fits",
    )


def oom_event(reason: str, position: int, before: int, after: int) -> tuple[str, dict[str, Any]]:
    """The line to print where memory ran out, and its event."""
    facts = {"position": position, "micro_batch": after, "before": before, "reason": reason}
    line = (
        f"out of memory at position {position} with {before} samples at a time: from here on {after}, "
        f"which teaches the same ({reason})"
    )
    return line, {"event": "out of memory", **facts}


def resplit(examples: list[Examples], plan: BatchPlan) -> list[Examples]:
    """A rank's share of a global batch, made for other micro-batches, in those of `plan`."""
    if not plan.slice:  # more ranks than samples: it only keeps step with the others
        return [examples[0]] * plan.count
    mine, first = len(plan.slice), plan.slice.start
    # What only fills a rank's last micro-batches stands behind its own samples.
    tensors = {key: torch.cat([e.tensors[key] for e in examples])[:mine] for key in examples[0].tensors}
    weights = torch.cat([e.weights for e in examples])[:mine]
    made = []
    for piece in plan.micro_batches():
        begin = piece.offsets[0] - first
        part = slice(begin, begin + len(piece.offsets))
        weight = weights[part] * torch.tensor(piece.weights)
        made.append(Examples({k: t[part] for k, t in tensors.items()}, weight, [], {}))
    return made


def explain_restart(error: OutOfMemory, world: World) -> None:
    """Where only the checkpoint helps: a process on its own starts again there by itself; one
    of several must end, so that all of them do (`UserError`)."""
    if world.size > 1:
        raise UserError(
            f"out of memory in the middle of a collective: {error.reason}",
            f"the other ranks are waiting for this one; {MICRO_BATCH_FILE} in the run folder holds the "
            "smaller micro-batch",
            "run the same command again: it resumes from the latest checkpoint with that micro-batch",
        ) from error


class MicroBatchMemory:
    """The micro-batch to which a run was reduced, for its next start on the same kind of machine."""

    def __init__(self, run_folder: Path, machine: MachineConfig, world: World, device: torch.device) -> None:
        self.path, self._asked = run_folder / MICRO_BATCH_FILE, machine.micro_batch
        name, size = str(device.type), 0
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            name, size = properties.name, properties.total_memory
        # Whoever changes a setting of the machine may have made room by it.
        self._where = {"ranks": world.size, "device": name, "bytes": size, "machine": asdict(machine)}

    def read(self) -> int:
        """The micro-batch to begin with: what was asked for where nothing else is known of this machine."""
        try:
            stored = read_json(self.path) if self.path.is_file() else {}
        except UserError:
            stored = {}
        fits = isinstance(stored, dict) and all(stored.get(k) == v for k, v in self._where.items())
        found = stored.get("micro_batch") if fits else None
        return found if isinstance(found, int) and found > 0 else self._asked

    def write(self, micro_batch: int) -> None:
        """Written by one rank."""
        write_json(self.path, {**self._where, "micro_batch": micro_batch})
