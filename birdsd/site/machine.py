"""What this machine has, told without PyTorch, and on systems that are not Linux too."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

_ASK_TIMEOUT_S = 20.0


@lru_cache(maxsize=1)
def gpu_devices() -> int:
    """NVIDIA GPUs of this machine. WSL2 has one device for them all, so there the driver is asked."""
    count = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if count or not os.path.exists("/dev/dxg"):
        return count
    program = shutil.which("nvidia-smi") or shutil.which("/usr/lib/wsl/lib/nvidia-smi")
    if program is None:
        return 0
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=True
        )
        return sum(line.startswith("GPU ") for line in told.stdout.splitlines())
    return 0


def command_line(process_id: str) -> str:
    """The words that a process of this machine was started with; "" where there is none."""
    import psutil

    with suppress(psutil.Error, OSError, ValueError):
        return " ".join(psutil.Process(int(process_id)).cmdline())
    return ""
