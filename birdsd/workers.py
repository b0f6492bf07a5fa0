"""Work in several processes, in each of which a worker is made once; or here, where one process is enough."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from birdsd.errors import UserError
from birdsd.files import environment

# One thread each: the processes share the cores, and threads inside them only get in each other's way.
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

W = TypeVar("W")
T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS and OpenMP with one thread, as in a worker process; also a decorator. The matrices of a clip are
    so small that more threads only spin: five times the processor time, and waits wherever cores are busy."""
    with threadpool_limits(limits=1):
        yield


def done_by_workers(
    make: Callable[..., W],
    settings: tuple[Any, ...],
    call: Callable[[W, T], R],
    tasks: Sequence[T],
    processes: int,
    broken: UserError,
) -> Iterator[R]:
    """What `call(make(*settings), task)` gives for each task, in any order; in several processes, the last
    task first. All of it must be picklable. `broken` is raised where a process ended abruptly."""
    processes = min(processes, len(tasks))
    if processes <= 1:
        worker = make(*settings)
        yield from (call(worker, task) for task in tasks)
        return
    queue = list(tasks)
    context = multiprocessing.get_context("spawn")  # fork would copy locks that threads of ours may hold
    with (
        environment(dict.fromkeys(_THREAD_SETTINGS, "1")),
        ProcessPoolExecutor(processes, context, _start_worker, (make, settings)) as pool,
    ):
        running: set[Future[R]] = set()
        try:
            while queue or running:
                while queue and len(running) < processes + 2:
                    running.add(pool.submit(_in_worker, call, queue.pop()))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise broken from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_worker: Any = None


def _start_worker(make: Callable[..., Any], settings: tuple[Any, ...]) -> None:
    global _worker
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _worker = make(*settings)


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    """Should the parent be killed, its workers must not wait for work for ever."""
    parent.join()
    os._exit(1)


def _in_worker(call: Callable[[Any, T], R], task: T) -> R:
    assert _worker is not None
    return call(_worker, task)
