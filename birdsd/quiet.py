"""Other libraries talk: of what is missing, of what will be deprecated, of every file they load.

None of it is for whoever types `birdsd`, and it hides what birdsd has to say. So in our own processes the
libraries' log records and warnings are put aside: on a terminal they are dropped, in the ranks of a job they
go to a file beside the rank's log. Errors come through, in whatever way a library reports them.
`BIRDSD_VERBOSE=1` shows everything.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

VERBOSE_VARIABLE = "BIRDSD_VERBOSE"
# What libraries read when they are imported: also for those who write to a terminal past Python.
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TQDM_DISABLE": "1",  # the bars of others: ours say themselves whether they are drawn
    "TF_CPP_MIN_LOG_LEVEL": "2",  # tensorboard imports TensorFlow where there is one
}
# Torch's warnings from C++. In a rank's log they help, of peers that cannot be reached, say: so the processes
# that we start are told whether this was the user's wish.
_TORCH_VARIABLE, _CHOSEN_VARIABLE = "TORCH_CPP_LOG_LEVEL", "BIRDSD_CHOSE"


def hush() -> None:
    """Quieten them, as a default, before they are imported."""
    if os.environ.get(VERBOSE_VARIABLE):
        return
    for setting, value in QUIET.items():
        os.environ.setdefault(setting, value)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it misses an extra


@contextmanager
def terminal_for_us() -> Iterator[None]:
    """Inside, what libraries log and warn of is dropped, unless it is an error."""
    hush()
    if not os.environ.get(VERBOSE_VARIABLE) and _TORCH_VARIABLE not in os.environ:
        os.environ[_TORCH_VARIABLE], os.environ[_CHOSEN_VARIABLE] = "ERROR", _TORCH_VARIABLE
    before = logging.Logger.callHandlers, warnings.showwarning
    _put_aside(None)
    try:
        yield
    finally:
        logging.Logger.callHandlers, warnings.showwarning = before  # type: ignore[method-assign]


def libraries_in(path: Path) -> None:
    """To the end of this process it goes to the file `path`, which is made when the first line comes."""
    if chosen := os.environ.pop(_CHOSEN_VARIABLE, ""):
        os.environ.pop(chosen, None)
    _put_aside(path)


def _put_aside(path: Path | None) -> None:
    if os.environ.get(VERBOSE_VARIABLE):
        return
    passed_on = logging.Logger.callHandlers

    def aside(text: Callable[[], str]) -> None:
        if path is not None:
            # A full disk, or a remark that does not fit its format, must not end the work.
            with suppress(OSError, TypeError, ValueError, KeyError):
                line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text().rstrip()}\n"
                with open(path, "a", encoding="utf-8") as stream:
                    stream.write(line)

    def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            passed_on(logger, record)
        else:
            aside(lambda: f"{record.levelname} {record.name}: {record.getMessage()}")

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        aside(lambda: warnings.formatwarning(message, category, filename, lineno, line))

    logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign,assignment]
    if not sys.warnoptions:  # -W and PYTHONWARNINGS ask for them
        warnings.showwarning = show


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
        if os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") != "1":  # the hub would refuse, with a warning
            logging.enable_progress_bar()
