"""Being asked to stop: signals only set a flag, which the training loop reads at a step boundary."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from birdsd.training.progress import Pulse

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
        if self.received is None:
            self.received = signal.Signals(number)

    def restore(self) -> None:
        """Give the signals back to whoever handled them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return self.received is not None


class Attendant(Protocol):
    """Who knows whether this process is to stop, and wants to know where it is: a session, mostly."""

    def should_stop(self) -> bool: ...

    def beat(self, pulse: Pulse) -> None: ...


_early: StopFlag | None = None
_attendant: Attendant | None = None


def attended_by(attendant: Attendant | None) -> None:
    """Tell the jobs of this process who looks after it; None: nobody does any more."""
    global _attendant
    _attendant = attendant


class _Alone:
    """A job that is run by hand: signals ask it to stop, and nobody wants to know where it is."""

    def __init__(self, flag: StopFlag) -> None:
        self.should_stop = flag

    def beat(self, pulse: Pulse) -> None:
        pass


@contextmanager
def attendant() -> Iterator[Attendant]:
    """Who looks after this process: its session where it is part of a submission, else nothing but
    signals from here on, which are given back afterwards."""
    if _attendant is not None:
        yield _attendant
        return
    flag = take_flag()
    try:
        yield _Alone(flag)
    finally:
        flag.restore()


def listen_early() -> StopFlag:
    """Begin to listen before anything slow is imported, so that no signal is lost until the job asks."""
    global _early
    if _early is None and threading.current_thread() is threading.main_thread():
        _early = StopFlag()
    return _early or StopFlag()


def take_flag() -> StopFlag:
    """The flag that `listen_early` made, or a new one; the taker restores it."""
    global _early
    flag, _early = _early or StopFlag(), None
    return flag
