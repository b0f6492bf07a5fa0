"""Several tasks at work in one folder, perhaps on several machines: locks where there are any, and files
that nobody else writes where there are none."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from birdsd.files import explained_write, fsync_folder, lock_file, locked, safe_name

_WRITING = ".writing-"
# A folder that nobody has written to for so long is a dead writer's, wherever that writer was.
_ABANDONED_S = 6 * 3600.0


@contextmanager
def private_folder(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` that only this process writes to; gone afterwards.

    Its name holds the host too: two machines may give out the same process id.
    """
    place = Path(folder) / f"{_WRITING}{_host()}-{os.getpid()}"
    with explained_write(place):
        place.mkdir(parents=True, exist_ok=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def publish(place: Path, folder: Path, *names: str) -> None:
    """Move finished files from a private folder to `folder`, in this order, each at once."""
    with explained_write(folder):
        for name in names:
            os.replace(place / name, folder / name)
        fsync_folder(folder)


def remove_leftovers(folder: Path, alone: bool) -> None:
    """Remove what killed writers left in `folder`. `alone`: nobody else is at work here.

    A private folder goes if its writer is known to be dead, or was last written to long ago.
    """
    for place in Path(folder).glob(f"{_WRITING}*"):
        host, _, pid = place.name.removeprefix(_WRITING).rpartition("-")
        dead = host == _host() and pid.isdigit() and not _is_alive(int(pid))
        if dead or _age_s(place) > _ABANDONED_S:
            shutil.rmtree(place, ignore_errors=True)
    for leftover in Path(folder).glob(".*.partial"):
        if alone or _age_s(leftover) > _ABANDONED_S:
            leftover.unlink(missing_ok=True)


@contextmanager
def beside_others(folder: Path, part: str) -> Iterator[None]:
    """Hold one part, and the folder together with the other parts.

    Waits for a duplicate of this task, and for a task that does the whole alone.
    """
    with waiting_for(folder / f".lock-{safe_name(part)}"), waiting_for(folder / ".lock", shared=True):
        yield


@contextmanager
def waiting_for(path: Path, shared: bool = False) -> Iterator[None]:
    """Hold the lock `path`, alone or with others who share it; waits, and says so, while it is taken.

    The lock goes with the process, however it ends. Where the file system has no locks there is none.
    """
    with lock_file(path) as stream:
        if not locked(stream, shared):
            print(f"waiting for another task that is working in {path.parent}", file=sys.stderr)
            locked(stream, shared, wait=True)
        yield


def _host() -> str:
    return safe_name(platform.node(), 60)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # there signal 0 would not only ask
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # someone else's process
    with suppress(OSError, IndexError):
        # Dead, but not yet buried: in a container perhaps nobody ever does.
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    return True


def _age_s(path: Path) -> float:
    """Seconds since `path`, or a file in it, was last written to; 0 where it is gone meanwhile."""
    newest = 0.0
    with suppress(OSError):
        newest = path.stat().st_mtime
        if path.is_dir():
            newest = max([newest, *(entry.stat().st_mtime for entry in os.scandir(path))])
    return time.time() - newest if newest else 0.0
