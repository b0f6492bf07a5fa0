"""The code of a run, copied when it is submitted, so that later edits do not change a queued job.

Of a checkout: the files that git tracks, as they are in the working tree (so with every uncommitted
change), and new files that it does not ignore; the uncommitted diff lies beside the copy to be read.
Of an installed package: the package itself. The copy is named by a hash of its contents, so that
submitting again without a change makes no second one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import birdsd
from birdsd.errors import NotFound
from birdsd.files import explained_write, write_json, write_text

FOLDER = "code"
_ROOMS = ("birdsd", "jobs", "configs", "slurm")
_FILES = ("pyproject.toml", "README.md", "LICENSE")
_KINDS = (".py", ".yaml", ".yml", ".typed", ".toml", ".json", ".sh", ".md", ".html", ".css", ".js")


@dataclass(frozen=True)
class Snapshot:
    """A code snapshot. `folder` goes first on PYTHONPATH; `version` is the commit, with '+changes' for
    any."""

    folder: Path
    version: str


def code_root() -> Path:
    """The checkout of the running code, or the folder of the installed package."""
    return Path(birdsd.__file__).resolve().parent.parent


def code_fingerprint(root: Path | None = None) -> str:
    """A hash of the running code: the name of its snapshot."""
    root = code_root() if root is None else Path(root)
    return _hash(root, _files(root))


def take_snapshot(run_folder: Path, root: Path | None = None) -> Snapshot:
    """Copy the running code to RUN/code/HASH/; the same code again gives the same folder."""
    root = code_root() if root is None else Path(root)
    files = _files(root)
    if not files:
        raise NotFound(f"no code was found in {root}", "every submitted job takes a snapshot of it")
    version, diff = _version(root)
    target = Path(run_folder).resolve() / FOLDER / _hash(root, files)
    if not target.is_dir():
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        with explained_write(target):
            for name in files:
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, partial / name)
            try:
                os.rename(partial, target)
            except OSError:  # another submission of the same code was faster
                if not target.is_dir():
                    raise
                shutil.rmtree(partial, ignore_errors=True)
        write_json(target.with_suffix(".json"), {"version": version, "files": files})
        if diff:
            write_text(target.with_suffix(".diff"), diff)
    return Snapshot(target, version)


def _files(root: Path) -> list[str]:
    is_checkout = (root / "pyproject.toml").is_file() and (root / "jobs").is_dir()
    return _tracked(root) or _found(root, _ROOMS if is_checkout else ("birdsd",))


def _tracked(root: Path) -> list[str]:
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed is None or _git(root, "rev-parse", "--show-prefix") not in ("", "\n"):
        return []  # no git here, or an installed package inside somebody else's repository
    names = sorted({name for name in listed.split("\0") if name})
    return [name for name in names if _belongs(name) and (root / name).is_file()]


def _found(root: Path, rooms: tuple[str, ...]) -> list[str]:
    paths = [path for room in rooms for path in (root / room).rglob("*") if path.is_file()]
    paths += [root / name for name in _FILES if len(rooms) > 1 and (root / name).is_file()]
    names = sorted(path.relative_to(root).as_posix() for path in paths)
    return [name for name in names if Path(name).suffix in _KINDS or name in _FILES]


def _belongs(name: str) -> bool:
    first = name.split("/", 1)[0]
    return name in _FILES or (first in _ROOMS and "/" in name)


def _hash(root: Path, files: list[str]) -> str:
    digest = hashlib.sha256()
    for name in files:
        content = (root / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def _version(root: Path) -> tuple[str, str]:
    """(commit or release, the uncommitted diff)."""
    commit = (_git(root, "rev-parse", "--short=12", "HEAD") or "").strip()
    if not commit or not _tracked(root):
        return f"birdsd {birdsd.__version__}", ""
    diff = _git(root, "diff", "HEAD", "--", *_ROOMS) or ""
    new = _git(root, "ls-files", "--others", "--exclude-standard", "--", *_ROOMS) or ""
    return commit + ("+changes" if diff or new else ""), diff


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
