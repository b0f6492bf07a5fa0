"""Keeping the memory that a training step frees, for the next step.

The C library gives memory at the end of its heap back to the system as soon as it is free, and takes large
blocks from the system one by one. A training step on a CPU frees all its activations and needs them again at
once: it takes some thousand page faults, each of which the system answers with a page full of zeros. On two
cores that was 5 to 10% of the processor time of a run of the tiny model, and a twentieth of a classifier's
step.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Who sets one of these has decided what the C library keeps.
USERS_CHOICE = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
# mallopt's own numbers for its parameters (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# So much may lie unused at the end of the heap: no more than the step itself took before.
_KEPT_BYTES = 2**30
# The most that the C library takes here: larger blocks come from the system and go back to it.
_LARGEST_KEPT_BYTES = 32 * 2**20


def keep_freed_memory() -> bool:
    """Have the C library keep up to 1 GiB of freed memory, in blocks of up to 32 MiB; whether it does.

    The most memory that the process ever holds hardly changes (measured: by 1%). Nothing happens where the
    user decided it (`USERS_CHOICE`), and with another C library than GNU's.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in USERS_CHOICE):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "gnu_get_libc_version"):
        return False
    kept = library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    return bool(library.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES) and kept)
