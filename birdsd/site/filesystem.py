"""File systems, tested by use: sharing, renaming, locking, speed, clock, space."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# By the names that /proc/self/mountinfo uses.
SHARED = {
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "ceph", "glusterfs", "panfs", "pvfs2",
    "orangefs", "wekafs", "vast", "afs", "9p", "virtiofs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph",
    "fuse.juicefs", "fuse.weka", "daos", "fuse.daos", "quobyte", "fuse.quobyte", "dvs", "ocfs2", "gfs2",
}  # fmt: skip
IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}


@dataclass(frozen=True)
class Mount:
    """The file system of a path: its mount point, type and source."""

    point: str
    kind: str
    source: str


def mount_of(path: Path) -> Mount:
    """The mount of `path` or its nearest existing parent; type "unknown" if it cannot be determined."""
    place = str(existing(path).resolve())
    best = Mount("/", "unknown", "")
    with suppress(OSError):
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        best = find_mount(text, place) or best
    return best


def find_mount(mountinfo: str, place: str) -> Mount | None:
    """The entry of a mountinfo table that holds the absolute path `place`."""
    best = None
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if not dash or len(fields) < 5 or len(kinds) < 2:
            continue
        point = fields[4].replace("\\040", " ").replace("\\011", "\t")
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best.point)):  # a later mount hides an earlier one
            best = Mount(point, kinds[0], kinds[1].replace("\\040", " "))
    return best


def is_shared(path: Path) -> bool:
    """Whether other machines see what is written here."""
    return mount_of(path).kind in SHARED


def existing(path: Path) -> Path:
    """`path`, or the nearest of its parents that exists."""
    path = Path(path).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


@contextmanager
def trial_folder(place: Path) -> Iterator[Path]:
    """An empty folder inside `place` (or its nearest parent), gone afterwards. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=".birdsd-doctor-", dir=existing(place)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def trouble_with_renames(folder: Path) -> str:
    """Why a checkpoint cannot be put in place safely here; "" where writing, fsync and rename work."""
    try:
        partial, final = folder / "a.partial", folder / "a"
        for number in range(2):  # the second time it replaces the first
            with open(partial, "w", encoding="utf-8") as stream:
                stream.write(str(number))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, final)
            if final.read_text(encoding="utf-8") != str(number) or partial.exists():
                return "a file that was renamed is not found under its new name"
        (folder / "b.partial").mkdir()
        os.replace(folder / "b.partial", folder / "b")
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"{error.strerror or error} ({os.path.basename(str(error.filename or ''))})"
    return ""


def trouble_with_locks(folder: Path) -> str:
    """Why two jobs on one run might not see each other; "" where flock works."""
    import fcntl

    path = folder / "lock"
    with open(path, "w", encoding="utf-8") as first, open(path, "w", encoding="utf-8") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return f"there are no locks here ({error.strerror or error})"
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return ""
    return "two processes can hold the same lock"


def clock_ahead_s(folder: Path) -> float:
    """Seconds by which the file server's clock is ahead of this machine's; up to a second is rounding."""
    path = folder / "clock"
    before = time.time()
    path.write_text("x", encoding="utf-8")
    after, stamp = time.time(), path.stat().st_mtime
    if before - 1 <= stamp <= after + 1:
        return 0.0
    return stamp - after if stamp > after else stamp - before


def write_speed(folder: Path, size: int = 32 << 20) -> float:
    """Bytes per second of one file of `size` bytes, written and fsynced."""
    block = os.urandom(1 << 20)  # random, so that a compressing file system gains nothing
    start = time.perf_counter()
    with open(folder / "speed", "wb", buffering=0) as stream:
        for _ in range(max(1, size >> 20)):
            stream.write(block)
        os.fsync(stream.fileno())
    return size / max(1e-6, time.perf_counter() - start)


@dataclass(frozen=True)
class Space:
    """What is free on a file system. `files` is None where it has no fixed number of inodes."""

    bytes: int
    files: int | None


def free_space(path: Path) -> Space:
    """What an ordinary user can still write there."""
    status = os.statvfs(existing(path))
    return Space(status.f_bavail * status.f_frsize, status.f_favail if status.f_files else None)


@dataclass(frozen=True)
class Quota:
    """A user's quota on a file system; 0 where there is none."""

    used_bytes: int
    limit_bytes: int
    used_files: int
    limit_files: int


def quota_of(path: Path, timeout_s: float = 5.0) -> Quota | None:
    """The user's quota on the file system of `path`, if a command reports one; None otherwise."""
    mount = mount_of(path)
    user = str(os.getuid())
    if mount.kind == "lustre" and shutil.which("lfs"):
        return read_quota(_output(["lfs", "quota", "-q", "-u", user, mount.point], timeout_s), mount)
    if shutil.which("quota"):
        return read_quota(_output(["quota", "-w", "-p", "-u", "-v"], timeout_s), mount)
    return None


def read_quota(text: str, mount: Mount) -> Quota | None:
    """The line of `quota -w -p` or `lfs quota -q` that is about this mount; sizes there are in KiB."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 9 or fields[0] not in (mount.source, mount.point, mount.point.rstrip("/")):
            continue
        # file system, blocks, quota, limit, grace, files, quota, limit, grace; a * marks what is exceeded
        numbers = [int(field.rstrip("*")) if field.rstrip("*").isdigit() else 0 for field in fields]
        return Quota(
            numbers[1] * 1024, (numbers[2] or numbers[3]) * 1024, numbers[5], numbers[6] or numbers[7]
        )
    return None


def _output(arguments: list[str], timeout_s: float) -> str:
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
        return done.stdout.decode("utf-8", "replace")
    return ""


def is_locked(path: Path) -> bool:
    """Whether another process holds this lock file."""
    import fcntl

    with suppress(FileNotFoundError), open(path, encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def amount(size: float) -> str:
    """A size in bytes, as text: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
