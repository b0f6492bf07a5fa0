"""Stop requests: signals only set a flag, which the training loop reads at a step boundary."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from birdsd.training.progress import Pulse

# They ask a run to save and leave: Slurm's warning and its preemption, a `kill`, and Ctrl-C.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGUSR2", "SIGTERM", "SIGINT") if hasattr(signal, name))


class StopFlag:
    """A callable: whether a signal has asked this process to stop. A second Ctrl-C interrupts."""

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
        """Restore the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return self.received is not None


class RunControl(Protocol):
    """What controls a running job: says whether to stop, and gets its progress. Usually a session."""

    def should_stop(self) -> bool: ...

    def beat(self, pulse: Pulse) -> None: ...


_early: StopFlag | None = None
_control: RunControl | None = None


def set_run_control(control: RunControl | None) -> None:
    """Set what controls the jobs of this process; None for nothing."""
    global _control
    _control = control


class _Alone:
    """The control of a job that is run by hand: signals ask it to stop, and its progress is ignored."""

    def __init__(self, flag: StopFlag) -> None:
        self.should_stop = flag

    def beat(self, pulse: Pulse) -> None:
        pass


@contextmanager
def run_control() -> Iterator[RunControl]:
    """The control of this process: its session if it belongs to a submission, else signals alone, whose
    handlers are restored afterwards."""
    if _control is not None:
        yield _control
        return
    flag = take_flag()
    try:
        yield _Alone(flag)
    finally:
        flag.restore()


def listen_early() -> StopFlag:
    """Handle signals before anything slow is imported, so that none is lost until the job asks."""
    global _early
    if _early is None and threading.current_thread() is threading.main_thread():
        _early = StopFlag()
    return _early or StopFlag()


def take_flag() -> StopFlag:
    """The flag that `listen_early` made, or a new one; the taker restores it."""
    global _early
    flag, _early = _early or StopFlag(), None
    return flag
