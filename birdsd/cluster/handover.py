"""Being asked to stop: signals only set a flag, which the training loop reads at a step boundary."""

from __future__ import annotations

import signal
from types import FrameType

# What asks a run to save and leave: Slurm's warning and its preemption, a `kill`, and Ctrl-C.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGUSR2", "SIGTERM", "SIGINT") if hasattr(signal, name))


class StopFlag:
    """Says, when called, whether a signal has asked this process to stop. A second Ctrl-C interrupts."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def restore(self) -> None:
        """Give the signals back to whoever handled them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return self.received is not None
