"""Stage 1: card, driver, torch, CUDA, NCCL, free memory; and what the doctor says."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from bench.gpu_check.course import Item
from bench.gpu_check.settings import Settings, birdsd

ITEMS = (Item("machine"), Item("doctor"))
REHEARSED = ("machine", "doctor")
GIB = 2**30
_PACKAGES = (
    "torch", "triton", "numpy", "diffusers", "transformers", "accelerate", "peft", "safetensors",
    "tokenizers", "deepspeed", "bitsandbytes",
)  # fmt: skip


def run(item: str, settings: Settings, limit_s: float) -> Iterator[dict[str, Any]]:
    """The facts of the machine, or the lines of `birdsd doctor --deep`."""
    yield from _machine(settings) if item == "machine" else _doctor()


def card_name(settings: Settings) -> str:
    """What is measured; whoever only wants the name takes no memory of the card."""
    if settings.cpu:
        return "the CPU"
    return _said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")


def _machine(settings: Settings) -> Iterator[dict[str, Any]]:
    import psutil
    import torch

    facts: dict[str, Any] = {
        "card": card_name(settings),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "host memory, GiB": round(psutil.virtual_memory().total / GIB, 1),
        "CUDA of torch": torch.version.cuda or "none",
        "commit": _said("git", "rev-parse", "--short", "HEAD"),
    }
    if not settings.cpu:
        properties, (free, total) = torch.cuda.get_device_properties(0), torch.cuda.mem_get_info(0)
        facts |= {
            "compute capability": f"{properties.major}.{properties.minor}",
            "memory, GiB": round(total / GIB, 2),
            "free, GiB": round(free / GIB, 2),
            # What a process takes before any tensor: `planning.hardware.CONTEXT_BYTES` allows for it.
            "context of one process, GiB": round(_context_bytes() / GIB, 3),
            "bf16": torch.cuda.is_bf16_supported(),
            "NCCL": ".".join(map(str, torch.cuda.nccl.version())),
            "cuDNN": torch.backends.cudnn.version(),
            "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "power limit": _said("nvidia-smi", "--query-gpu=power.limit", "--format=csv,noheader"),
        }
    for name in _PACKAGES:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "not installed"
    for name, value in facts.items():
        yield {"table": "machine", "what": name, "value": value}


def _context_bytes() -> int:
    """Of the card's memory what this process takes beside what torch has reserved for tensors."""
    import torch

    before, _ = torch.cuda.mem_get_info(0)
    torch.zeros(1, device="cuda") @ torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info(0)
    return total - min(before, free) - torch.cuda.memory_reserved(0)


def _doctor() -> Iterator[dict[str, Any]]:
    done = subprocess.run(birdsd("doctor", "--deep", "--json"), capture_output=True, text=True)
    for number, finding in enumerate(json.loads(done.stdout)):
        words = {"says": finding["what"], "advice": finding["what_to_do"]}
        yield {"table": "doctor", "what": f"{number}. {finding['topic']}", "level": finding["level"], **words}


def _said(*words: str) -> str:
    if shutil.which(words[0]) is None:
        return f"no {words[0]}"
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else ""
