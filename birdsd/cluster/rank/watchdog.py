"""The watchdog of a process: ends it, its stacks on file, when a step makes no progress for too long."""

from __future__ import annotations

import faulthandler
import time
from contextlib import suppress
from pathlib import Path
from typing import IO


class Watchdog:
    """`machine.watchdog_s` in seconds (0: none), and the file that the stacks of all threads go to."""

    def __init__(self, limit_s: float, stacks: Path) -> None:
        self._limit_s, self._path = limit_s, stacks
        self._stacks: IO[str] | None = None
        self._armed = 0.0

    def start(self) -> None:
        """Open the file; nothing is timed before the first step."""
        if self._limit_s:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stacks = open(self._path, "w", encoding="utf-8")  # noqa: SIM115 - open to the end

    def heard(self, phase: str) -> None:
        """Progress in `phase`. Only steps of training are timed; other phases take as long as they need."""
        now = time.monotonic()
        if self._stacks is None:
            return
        if phase != "train":
            faulthandler.cancel_dump_traceback_later()
            self._armed = 0.0
        elif now - self._armed > min(1.0, self._limit_s / 10):
            # The timer is a C thread without the GIL, so that it also ends a process stuck in C code.
            faulthandler.dump_traceback_later(self._limit_s, exit=True, file=self._stacks)
            self._armed = now

    def close(self) -> None:
        """Disarm it, and remove the file if nothing was written to it."""
        faulthandler.cancel_dump_traceback_later()
        if self._stacks is not None:
            self._stacks.close()
            with suppress(OSError):
                if not self._path.stat().st_size:
                    self._path.unlink()
