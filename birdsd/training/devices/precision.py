"""The device and the number format of a run, each with the reason for it."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass

import psutil
import torch

from birdsd.diffusion.networks.freed_memory import keep_freed_memory
from birdsd.errors import Mismatch, NotFound, unknown_name
from birdsd.training.devices.cores import share_cores

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The format that forward and backward compute in. Weights and moments stay in fp32."""

    name: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.name]


def choose_device(requested: str, local_rank: int = 0) -> torch.device:
    """`auto` takes the GPU where there is one; on a node with several, each rank its own."""
    if requested not in ("auto", "cpu", "cuda"):
        raise unknown_name("machine.device", requested, ("auto", "cpu", "cuda"))
    there = torch.cuda.is_available()
    if requested == "cuda" and not there:
        raise NotFound(
            "machine.device is cuda, but PyTorch sees no GPU here",
            "a driver and a CUDA build of PyTorch are needed",
            "use machine.device=cpu or auto",
        )
    if requested == "cpu" or not there:
        return torch.device("cpu")
    # A launcher may show each rank one GPU only: then that one is number 0 whatever the local rank.
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def choose_precision(requested: str, device: torch.device) -> Precision:
    """bf16 where the GPU has it, else fp16 with loss scaling; fp32 on the CPU, unless one is asked for."""
    if requested != "auto" and requested not in DTYPES:
        raise unknown_name("machine.precision", requested, ("auto", *DTYPES))
    if device.type == "cpu":
        if requested == "fp16":
            raise Mismatch(
                "machine.precision is fp16 on a CPU",
                "fp16 trains on GPUs only",
                "use machine.precision=fp32 or bf16",
            )
        if requested == "auto":
            return Precision("fp32", "the CPU: the same numbers on every processor")
        return Precision(requested, "machine.precision asks for it")
    major, minor = torch.cuda.get_device_capability(device)
    name = f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    if requested == "auto":
        if major >= 8:
            return Precision("bf16", f"{name}, has bf16: the range of fp32 and no loss scaling")
        return Precision("fp16", f"{name}, has no fast bf16: fp16 with loss scaling")
    return Precision(requested, f"machine.precision asks for it ({name})")


def occupy(device: torch.device, limit_gib: float) -> None:
    """Make a GPU this process's own, of which it allocates no more than `limit_gib` GiB (0: no limit)."""
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)
    if limit_gib > 0:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gib * 2**30 / total), device)


def release(device: torch.device) -> None:
    """Give back what is no longer used, so that what comes next finds room in one piece."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def set_threads(threads: int, device: torch.device) -> None:
    """How many threads an operation on the CPU may take; 0 leaves it to torch. Where the CPU is what
    computes, they mind the other programs on it, and memory that is freed is kept for the next step."""
    if threads > 0:
        torch.set_num_threads(threads)
    if device.type == "cpu":
        share_cores(torch.get_num_threads())
        keep_freed_memory()


def divide_cores(device: torch.device, ranks: int) -> None:
    """Where several ranks compute on a CPU, each takes its share of it, unless OMP_NUM_THREADS is set."""
    if device.type == "cpu" and ranks > 1 and not int(os.environ.get("OMP_NUM_THREADS") or 0):
        here = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
        torch.set_num_threads(max(1, (psutil.cpu_count(logical=False) or 1) // here))
