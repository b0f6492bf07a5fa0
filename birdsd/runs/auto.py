"""machine=auto: the GPU where there is one, else the CPU as machine=smoke has it; and one line that says so.

The preset leaves device and precision open and is otherwise machine=smoke, so that on a CPU nothing has to be
decided, traced or looked for. A training on a GPU goes by the plan (`plan_training.with_chosen_machine`).
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING

from birdsd.errors import clipped
from birdsd.site.machine import gpu_devices

if TYPE_CHECKING:
    import torch

    from birdsd.schema import MachineConfig

AUTO = "auto"


def chosen_device(machine: MachineConfig) -> torch.device:
    """The device of a job of one process, made its own; with machine=auto a line says which and why.

    Raises `UserError` for a device that this machine does not have.
    """
    from birdsd.training.devices.precision import choose_device, occupy

    device = choose_device(machine.device)
    occupy(device, machine.max_gpu_memory_gib)
    if machine.name == AUTO:
        say(described(machine, device))
    return device


def described(machine: MachineConfig, device: torch.device) -> str:
    """What was taken, and why: one line."""
    import torch

    from birdsd.training.devices.precision import choose_precision

    precision = choose_precision(machine.precision, device).name
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return f"machine=auto: {found.name} ({found.total_memory / 2**30:.0f} GiB), {precision}"
    return f"machine=auto: the CPU ({_cores()} cores, {precision}), as {_why_no_gpu(machine)}"


@cache
def say(line: str) -> None:
    """Tell the user on stderr, once in a process, and by one of a run's ranks."""
    if os.environ.get("RANK", "0") == "0":
        print(f"birdsd: {clipped(line, 300)}", file=sys.stderr, flush=True)


def _why_no_gpu(machine: MachineConfig) -> str:
    import torch

    if machine.device == "cpu":
        return "machine.device=cpu"
    given = next((os.environ[name] for name in _GIVEN if os.environ.get(name)), "")
    if torch.version.cuda is None and (gpu_devices() or given):
        return "this PyTorch has no CUDA, though there is a GPU: `birdsd doctor` shows more"
    if given:
        return "PyTorch sees none of the GPUs that Slurm gave this job: see `birdsd doctor --deep` in a job"
    if gpu_devices():
        return "PyTorch sees no GPU, though there is one: `birdsd doctor --deep` shows more"
    return "there is no GPU here"


# How Slurm tells a job which GPUs are its own.
_GIVEN = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE")


def _cores() -> int:
    """Those that this process may use: a container or a job has fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
