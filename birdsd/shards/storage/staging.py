"""Shards copied to the node's own disk when they are first opened, where $BIRDSD_SCRATCH names a folder.

A parallel file system then sees one long read for each shard and node, and not the small reads of every
sample in every epoch. Whatever goes wrong with a copy, the shard is read from where it was.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from birdsd.files import safe_name

SCRATCH = "BIRDSD_SCRATCH"
# Copies stop while so much would still be free: scratch is also where others put their things.
_LEAVE_FREE = 0.1
_ABANDONED_S = 1800.0


def staged(path: Path, contents: str) -> Path:
    """Where to read the shard `path` from. `contents`: the hash of what it holds, from its index."""
    named = os.environ.get(SCRATCH)
    if not named:
        return path
    folder = _folder(named)
    if folder is None:
        return path
    try:
        state = path.stat()
        copy = folder / safe_name(f"{contents[:32]}-{state.st_mtime_ns}-{path.name}", 120)
        if copy.is_file() and copy.stat().st_size == state.st_size:
            return copy
        return copy if _copied(path, copy, state.st_size) else path
    except OSError as error:
        _say(f"shards are read from {path.parent}: {error}")
        return path


def _copied(path: Path, copy: Path, size: int) -> bool:
    """Make the copy, unless another rank of this node is at it or the disk has no room."""
    usage = shutil.disk_usage(copy.parent)
    if usage.free - size < _LEAVE_FREE * usage.total:
        _say(f"{copy.parent} has no room for more shards; the others are read from {path.parent}")
        return False
    begun = copy.with_name(f".{copy.name}.partial")
    try:
        with open(begun, "xb"):
            pass
    except FileExistsError:
        if time.time() - begun.stat().st_mtime > _ABANDONED_S:
            begun.unlink()  # its maker was killed; whoever comes next makes it anew
        return False
    try:
        shutil.copyfile(path, begun)
        shutil.copystat(path, begun)  # with its time, by which a reader knows it for the shard of the index
        os.replace(begun, copy)
    except BaseException:
        with suppress(OSError):
            begun.unlink()
        raise
    return True


@cache
def _folder(named: str) -> Path | None:
    """Our folder below scratch; None where it cannot be made, or is somebody else's."""
    folder = Path(named) / f"birdsd-shards-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
    except OSError as error:
        _say(f"shards are not copied to {named}: {error}")
        return None
    return folder


@cache
def _say(line: str) -> None:
    print(f"birdsd: {line}", file=sys.stderr, flush=True)
