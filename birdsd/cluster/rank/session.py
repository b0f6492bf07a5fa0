"""One process of an allocation: the lock on the run, its record, its heartbeat, and the watchdog."""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any

import birdsd
from birdsd.cluster.rank.signals import set_run_control, take_flag
from birdsd.cluster.rank.watchdog import Watchdog
from birdsd.errors import UserError
from birdsd.files import exclusive
from birdsd.runs.allocations import (
    BEGAN,
    END,
    SUBMISSION_VARIABLE,
    Allocation,
    Began,
    Ended,
    allocation_of_environment,
    allocations,
    boot_id,
    claim,
    is_superseded,
    newest_position,
    slurm_job_id,
    stop_requested,
    withdraw_stop,
    write_record,
)
from birdsd.runs.heartbeat import HEARTBEAT, HEARTBEAT_S, Heartbeat
from birdsd.runs.resources import uses_gpus
from birdsd.runs.run import Run
from birdsd.site.machine import gpu_devices

if TYPE_CHECKING:
    from birdsd.site.notebooks import SessionLimit
    from birdsd.training.progress import Pulse

# For so long a process of the previous allocation may still hold the lock after a requeue.
_LINGER_S = 60.0


class Session:
    """`with Session(run) as session: train(..., session.should_stop, session.event, session.beat)`.

    Rank 0 holds the run's lock, writes the records, and checks for a request to stop; every rank handles
    signals and has a watchdog. Raises `UserError` where another process uses the run.
    """

    def __init__(
        self,
        run: Run,
        watchdog_s: float = 0.0,
        part: str = "",
        lock: bool = True,
        limit: SessionLimit | None = None,
    ) -> None:
        self.run, self.part, self.locks = run, part, lock
        self.rank, self.world_size = _environment_number("RANK", 0), _environment_number("WORLD_SIZE", 1)
        self.is_first = self.rank == 0
        self.allocation: Allocation = allocation_of_environment(run.folder)
        self.seconds: dict[str, float] = {}
        self.flag = take_flag()
        self._pulse: Pulse | None = None
        self._beats = 0
        self.limit = limit
        self._stop_requested = self._signal_reported = False
        self._done = threading.Event()
        self._held = ExitStack()
        self._thread: threading.Thread | None = None
        self._watchdog = Watchdog(watchdog_s, self.allocation.stacks(self.rank))
        self._outcome: Ended | None = None

    # -- begin and end --------------------------------------------------------------------------------

    def __enter__(self) -> Session:
        try:
            if self.is_first:
                if self.locks:
                    self._lock()
                self._begin()
            self._watchdog.start()
        except BaseException:
            self._close()
            raise
        set_run_control(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            ended = self._ended(error)
            if ended is not None:
                self._write_end(ended)
        finally:
            self._close()

    def _lock(self) -> None:
        deadline = time.monotonic() + _LINGER_S
        while True:
            try:
                self._held.enter_context(exclusive(self.run.folder))
                return
            except UserError as error:
                # The previous allocation of the same job may need a moment to exit.
                last = next((a.began for a in reversed(allocations(self.run.folder)) if a.began), None)
                same = last is not None and bool(last.job_id) and last.job_id == slurm_job_id()
                if not same or time.monotonic() > deadline:
                    self._refuse(error)
                    raise
                claim(self.run.folder)
                time.sleep(1.0)

    def _refuse(self, error: UserError) -> None:
        """Record the refusal in a folder of its own, which does not count as progress."""
        with suppress(UserError):
            write_record(self.allocation.folder, END, Ended(time.time(), "refused", 2, message=str(error)))

    def _begin(self) -> None:
        folder = self.allocation.folder
        for name in (END, HEARTBEAT):
            (folder / name).unlink(missing_ok=True)
        submission = os.environ.get(SUBMISSION_VARIABLE, "")
        if not submission:
            withdraw_stop(self.run.folder)  # running it by hand revokes a request to stop
        began = Began(
            time=time.time(),
            job_id=slurm_job_id(),
            restart=_environment_number("SLURM_RESTART_COUNT", 0),
            part=self.part,
            host=platform.node(),
            hosts=_hosts(),
            pid=os.getpid(),
            boot_id=boot_id(),
            world_size=self.world_size,
            nodes=_environment_number("SLURM_JOB_NUM_NODES", 1),
            gpus=_gpus(self.world_size) if uses_gpus(self.run) else 0,
            position=newest_position(self.run.folder),
            submission=submission,
        )
        write_record(folder, BEGAN, began)
        self.event({"event": "began", **asdict(began), "birdsd": birdsd.__version__})
        self._write_heartbeat()
        self._thread = threading.Thread(target=self._beat_on, name="birdsd-heartbeat", daemon=True)
        self._thread.start()

    def _ended(self, error: BaseException | None) -> Ended | None:
        if error is None:
            return self._outcome
        if isinstance(error, UserError):
            return Ended(time.time(), "error", error.exit_status, message=str(error))
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return Ended(time.time(), "stopped", 130, message="interrupted")
        return Ended(time.time(), "error", 1, message=f"{type(error).__name__}: {error}")

    def _write_end(self, ended: Ended) -> None:
        """Rank 0 writes the end for all ranks, but a `UserError` may come from any of them."""
        written = self.allocation.ended
        counts = self.is_first or ended.status == UserError.exit_status
        if not counts or (written is not None and written.status == UserError.exit_status):
            return
        if self._pulse is not None:
            ended.position = ended.position or self._pulse.position
            ended.seconds = ended.seconds or self._all_seconds()
        write_record(self.allocation.folder, END, ended)
        if ended.reason == "error":
            self.event({"event": "error", "message": ended.message, "rank": self.rank})

    def outcome(self, finished: bool, status: int, position: int = 0) -> None:
        """Note how the job ended."""
        cause = "stop.json" if self._stop_requested else self.flag.received.name if self.flag.received else ""
        if not finished and not cause and self.session_ends:
            cause = "the session ends"
        self._outcome = Ended(
            time.time(), "finished" if finished else "stopped", status, position, message=cause
        )

    def _close(self) -> None:
        set_run_control(None)
        self._done.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * HEARTBEAT_S)
        self._watchdog.close()
        self._held.close()
        self.flag.restore()

    # -- what the loop calls --------------------------------------------------------------------------

    def should_stop(self) -> bool:
        """Whether this process was asked to stop: by a signal, (rank 0) by RUN/stop.json, or by the end of
        the machine's session."""
        if self.flag() and not self._signal_reported:
            self._signal_reported = True
            assert self.flag.received is not None
            self.event({"event": "signal", "signal": self.flag.received.name, "rank": self.rank})
        return self.flag() or self._stop_requested or self.session_ends

    @property
    def session_ends(self) -> bool:
        """Whether this machine's session is about to end."""
        return self.limit is not None and self.limit.is_near()

    def event(self, event: dict[str, Any]) -> None:
        self.run.event({**event, "allocation": self.allocation.name})

    def beat(self, pulse: Pulse) -> None:
        """A heartbeat of the loop."""
        self._pulse = pulse
        self._watchdog.heard(pulse.phase)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure the seconds of a phase before the loop."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    # -- the heartbeat ----------------------------------------------------------------------------------

    def _beat_on(self) -> None:
        while not self._done.wait(HEARTBEAT_S):
            with suppress(UserError, OSError):  # a full disk is reported by the checkpoint
                self._write_heartbeat()
            self._stop_requested = self._stop_requested or stop_requested(self.run.folder)
            if self.locks and is_superseded(self.run.folder):
                self._leave_at_once()
        with suppress(UserError, OSError):
            self._write_heartbeat()

    def _leave_at_once(self) -> None:
        """Exit at once: a newer allocation of this job waits for the lock, and would discard what we still
        save."""
        with suppress(UserError, OSError):
            self.event({"event": "superseded", "rank": self.rank})
            write_record(
                self.allocation.folder, END, Ended(time.time(), "refused", 1, message="a newer allocation")
            )
        os._exit(1)

    def _write_heartbeat(self) -> None:
        self._beats += 1
        pulse = self._pulse
        beat = Heartbeat(time.time(), self._beats, "start", newest_position(self.run.folder), 0)
        if pulse is not None:
            beat.phase, beat.position, beat.total = pulse.phase, pulse.position, pulse.total
            beat.samples_per_s, beat.loss = round(pulse.samples_per_s, 3), pulse.loss
            beat.resumed_from = pulse.resumed_from
        beat.seconds = self._all_seconds()
        write_record(self.allocation.folder, HEARTBEAT, beat)

    def _all_seconds(self) -> dict[str, float]:
        measured = dict(self._pulse.seconds) if self._pulse is not None else {}
        return {name: round(value, 3) for name, value in {**self.seconds, **measured}.items()}


def _environment_number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default


def _hosts() -> list[str]:
    nodes = os.environ.get("SLURM_JOB_NODELIST") or os.environ.get("SLURM_NODELIST")
    return [nodes] if nodes else [platform.node()]


def _gpus(world_size: int) -> int:
    """GPUs in use: one per rank, where there are any."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return world_size if shown.strip() not in ("", "-1", "NoDevFiles") else 0
    return world_size if gpu_devices() else 0


def since_process_start_s() -> float:
    """Seconds since this process began: what starting Python and importing took so far."""
    if sys.platform == "linux":
        with suppress(OSError, ValueError, IndexError):
            with open("/proc/self/stat", encoding="ascii") as stream:
                ticks = int(stream.read().rpartition(")")[2].split()[19])
            return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    import psutil

    with suppress(psutil.Error, OSError):
        return max(0.0, time.time() - float(psutil.Process().create_time()))
    return time.process_time()
