"""Libraries that talk: their lines belong on standard error, where no script reads them as a result."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# The libraries' own chatter (optional packages that are missing, a bar for each file loaded) hides what
# birdsd has to say. Their errors still come through.
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def hush() -> None:
    """Quieten them, as a default, before they are imported."""
    for setting, value in QUIET.items():
        os.environ.setdefault(setting, value)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it misses an extra


@contextmanager
def libraries_on_stderr() -> Iterator[None]:
    """Some libraries, and their C code, print to standard output; there a script expects JSON alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Without transformers' progress bars and advice while models are read."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
