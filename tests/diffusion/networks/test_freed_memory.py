"""What a step frees is kept for the next one: the system is not asked for the same pages again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from birdsd.diffusion.networks.freed_memory import USERS_CHOICE

_GNU_ONLY = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the C library of GNU")

# Ten steps, each of which takes six blocks and gives them back; prints whether memory is kept, and
# the page faults of the steps.
STEPS = """
import ctypes, resource
from birdsd.diffusion.networks.freed_memory import keep_freed_memory

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
kept = {kept}
faults = []
for step in range(11):
    blocks = [library.malloc({mib} * 2**20) for _ in range(6)]
    for block in blocks:
        library.memset(block, 1, {mib} * 2**20)
    for block in blocks:
        library.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(kept, faults[-1] - faults[0])
"""


def steps(kept: str, mib: int = 30, **environment: str) -> tuple[bool, int]:
    clean = {name: value for name, value in os.environ.items() if name not in USERS_CHOICE}
    done = subprocess.run(
        [sys.executable, "-c", STEPS.format(kept=kept, mib=mib)],
        env={**clean, **environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    said, count = done.stdout.split()
    return said == "True", int(count)


@_GNU_ONLY
@pytest.mark.parametrize("mib", [30, 60])
def test_pages_are_asked_for_once(mib: int) -> None:
    _, without = steps("False", mib)
    kept, with_it = steps("keep_freed_memory()", mib)
    assert kept and with_it < without / 5, (with_it, without)


@_GNU_ONLY
def test_who_has_decided_it_is_not_overruled() -> None:
    kept, _ = steps("keep_freed_memory()", MALLOC_TRIM_THRESHOLD_="131072")
    assert not kept
