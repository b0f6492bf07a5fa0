"""The hardware and processes of this machine, without PyTorch, and not only on Linux."""

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
    """The number of NVIDIA GPUs. WSL2 has one device for all of them, so there the driver is asked."""
    count = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if count or not os.path.exists("/dev/dxg"):
        return count
    program = shutil.which("nvidia-smi") or shutil.which("/usr/lib/wsl/lib/nvidia-smi")
    if program is None:
        return 0
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=True
        )
        return sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    return 0


def command_line(process_id: str) -> str:
    """The command line of a process of this machine; "" where there is none."""
    import psutil

    with suppress(psutil.Error, OSError, ValueError):
        return " ".join(psutil.Process(int(process_id)).cmdline())
    return ""
