"""Keeping the memory that a training step frees, for the next step.

The C library gives memory at the end of its heap back to the system as soon as it is free, and takes large
blocks from the system one by one. A training step on a CPU frees all its activations and needs them again at
once: it takes some thousand page faults, each of which the system answers with a page full of zeros. On two
cores that was 5 to 10% of the processor time of a run of the tiny model, a twentieth of a classifier's step,
and a third of the step of an autoencoder that learns from 16 whole pictures at once.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Who sets one of these has decided what the C library keeps.
USERS_CHOICE = (
    "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_",
    "GLIBC_TUNABLES",
)  # fmt: skip
# mallopt's own numbers for its parameters (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
# So much may lie unused at the end of the heap, which is all that can be asked for: it is no more than the
# step itself took before.
_KEPT_BYTES = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have the C library keep up to 2 GiB of freed memory, and serve large blocks from its heap as well
    instead of mapping each one anew; returns whether it does.

    The most memory that the process ever holds grows by up to a tenth (measured: 1% where no block is larger
    than 32 MiB, 10% with larger ones). Nothing happens where the user decided it (`USERS_CHOICE`), and with
    another C library than GNU's.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in USERS_CHOICE):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "gnu_get_libc_version"):
        return False
    kept = library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    return bool(library.mallopt(_MMAP_MAX, 0) and kept)
