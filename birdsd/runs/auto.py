"""machine=auto: the GPU where there is one, else the CPU as in machine=smoke, announced in one line.

The preset leaves device and precision open and is otherwise machine=smoke, so that on a CPU nothing has to
be decided or traced. A training on a GPU follows the plan (`plan_training.with_chosen_machine`).
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING

from birdsd.errors import clipped
from birdsd.remarks import Remark
from birdsd.site.machine import gpu_devices

if TYPE_CHECKING:
    import torch

    from birdsd.schema import MachineConfig

AUTO = "auto"


def chosen_device(machine: MachineConfig) -> torch.device:
    """Choose and reserve the device of a single-process job; with machine=auto, announce it and the
    reason.

    Raises `UserError` for a device that this machine does not have.
    """
    from birdsd.training.devices.precision import choose_device, occupy

    device = choose_device(machine.device)
    occupy(device, machine.max_gpu_memory_gib)
    if machine.name == AUTO:
        say(described(machine, device))
    return device


def described(machine: MachineConfig, device: torch.device) -> str:
    """The choice and its reason, as one line."""
    import torch

    from birdsd.training.devices.precision import choose_precision

    precision = choose_precision(machine.precision, device).name
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"machine=auto: {properties.name} ({properties.total_memory / 2**30:.0f} GiB), {precision}"
    why = _why_no_gpu(machine)
    return Remark(f"machine=auto: the CPU ({_cores()} cores, {precision}), as {why}", why.code)


@cache
def say(line: str) -> None:
    """Print it to stderr, once per process, and on one of a run's ranks only."""
    if os.environ.get("RANK", "0") == "0":
        print(f"birdsd: {clipped(line, 300)}", file=sys.stderr, flush=True)


def _why_no_gpu(machine: MachineConfig) -> Remark:
    import torch

    if machine.device == "cpu":
        return Remark("machine.device=cpu", "cpu-asked-for")
    value = next((os.environ[name] for name in _GIVEN if os.environ.get(name)), "")
    if torch.version.cuda is None and (gpu_devices() or value):
        text = "this PyTorch has no CUDA, though there is a GPU: `birdsd doctor` shows more"
        return Remark(text, "no-cuda")
    if value:
        text = "PyTorch sees none of the GPUs that Slurm gave this job: see `birdsd doctor --deep` in a job"
        return Remark(text, "gpus-of-slurm-unseen")
    if gpu_devices():
        return Remark(
            "PyTorch sees no GPU, though there is one: `birdsd doctor --deep` shows more", "gpu-unseen"
        )
    return Remark("there is no GPU here", "no-gpu")


# The variables in which Slurm lists a job's GPUs.
_GIVEN = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE")


def _cores() -> int:
    """The CPUs that this process may use: a container or a job has fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
