"""Writing files so that a kill or a full disk never leaves half of one behind."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import platform
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from birdsd.errors import Damaged, DiskFull, InUse, NotFound, UserError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

_HOST = re.sub(r"\W+", "_", platform.node())[:40]
_WAITING = 8  # files that are waited for at once
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def explained_write(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing right or a read-only file system into a sentence for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise DiskFull(
                f"the disk is full while writing {path}",
                "nothing that was already complete is lost, and the unfinished file was removed",
                "free some space (or choose another folder) and run the same command again",
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise UserError(
                f"cannot write {path}: {error.strerror}", "", "choose a folder that you may write to"
            ) from error
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", "", "choose another folder"
        ) from error


@contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success fsync it and rename it over `path`.

    The name is unique to the process, also among machines, so that two writers never share one.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.partial")
    with explained_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, mode, encoding=None if "b" in mode else "utf-8") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
            fsync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


def lock_file(path: Path) -> IO[str]:
    """A file to be `locked`, in a folder that is made if need be. Closing it gives up the lock."""
    with explained_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+", encoding="utf-8")


def locked(stream: IO[str], shared: bool = False, wait: bool = False) -> bool:
    """Whether this process holds the lock of an open file now, alone or with others who share it; so it does
    where the system or the file system has no locks. `wait`: until it does."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        pass  # some network file systems know no locks
    return True


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process: a second one that asks is refused with a `UserError`.

    The lock goes with the process, however it ends. Where the file system has no locks there is none.
    """
    with lock_file(Path(folder) / ".lock") as stream:
        if not locked(stream):
            stream.seek(0)
            raise InUse(
                f"process {stream.read().strip() or '(unknown)'} is at work in {folder}",
                "two at once would corrupt each other's files",
                "wait for it, or stop it, and run the same command again",
            )
        stream.seek(0)
        stream.truncate()
        stream.write(str(os.getpid()))
        stream.flush()
        yield


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the processes that are started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_muting = threading.Lock()
_muted: dict[int, tuple[int, int]] = {}  # by descriptor: how many want it, and what it was


@contextmanager
def muted(descriptor: int) -> Iterator[None]:
    """What C code prints to standard output (1) or error (2) inside is dropped, for the whole process: for
    libraries that report what they do in no other way. Keep it short, and check what they return."""
    with _muting:
        users, kept = _muted.get(descriptor, (0, -1))
        if not users:
            _flush_c(descriptor)
            with suppress(OSError):  # there may be none, and then nothing to mute
                kept = os.dup(descriptor)
                with open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), descriptor)
        _muted[descriptor] = users + 1, kept
    try:
        yield
    finally:
        with _muting:
            users, kept = _muted.pop(descriptor)
            if users > 1:
                _muted[descriptor] = users - 1, kept
            elif kept >= 0:
                _flush_c(descriptor)
                os.dup2(kept, descriptor)
                os.close(kept)


def _flush_c(descriptor: int) -> None:
    """What waits in the buffer of C's standard output goes where it belongs; standard error has none."""
    if descriptor == 1 and sys.platform == "linux":
        ctypes.CDLL(None).fflush(None)


def append_bytes(path: Path, data: bytes) -> None:
    """Add `data` at the end of a file that this process alone writes."""
    with explained_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            put_bytes(descriptor, data)
        finally:
            os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable; file systems that cannot do so are left alone."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def fsync_all(paths: Iterable[Path]) -> None:
    """Wait until all these files and folders are on the disk: at once, for it writes many as fast as one."""
    fsync_soon(paths)()


def fsync_soon(paths: Iterable[Path]) -> Callable[[], None]:
    """Have them written to the disk meanwhile; what comes back waits for it, and raises what went wrong."""
    begun = [_waiting_threads(os.getpid()).submit(_fsync, path) for path in paths]

    def wait() -> None:
        for one in begun:
            one.result()

    return wait


@lru_cache(maxsize=1)
def _waiting_threads(process: int) -> ThreadPoolExecutor:
    """Threads of this process, kept: to start them takes longer than what they do. A fork has none."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(_WAITING, "fsync")


def _fsync(path: Path) -> None:
    # A thread waits for its turn after every call of the system: the fewer, the better.
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return  # where folders cannot be opened, they cannot be synced either
        raise
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically, as UTF-8."""
    with atomic_write(path, "w") as stream:
        stream.write(text)


def put_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 in one go, into a folder that nobody sees before it is whole."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        put_bytes(descriptor, text.encode())
    finally:
        os.close(descriptor)


def put_bytes(descriptor: int, data: bytes | memoryview) -> None:
    """All of it: a single call may write less."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_json(path: Path, value: object) -> None:
    """Write `value` atomically as indented JSON with a trailing newline."""
    write_text(path, json_text(value))


def json_text(value: object) -> str:
    """Indented JSON with a trailing newline."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path, what: str = "file") -> Any:
    """Read JSON; a missing or damaged file becomes a `UserError` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"{what} {path} does not exist") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise Damaged(f"{what} {path} is not valid JSON: {error}") from error


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hex."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(value: object, length: int = 16) -> str:
    """A short hash of a JSON-able value, the same whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def safe_name(text: str, limit: int = 80) -> str:
    """A file name made of `text` that cannot leave its folder, hide itself or look like an option.

    Letters and digits of any script stay; everything else becomes '_'.
    """
    name = re.sub(r"[^\w.+-]+", "_", text, flags=re.UNICODE).strip("._-")
    return name[:limit].rstrip("._-") or "unnamed"
