"""The file that `birdsd pack` writes: a ZIP whose manifest lists every member with its size and SHA-256.

Nothing in it is compressed: weights and spectrograms would not shrink, and a member that claims more bytes
than the file has is recognised before anything is unpacked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from birdsd.errors import BadValue, Damaged, DiskFull, Mismatch, NotFound, Unsupported, UserError
from birdsd.files import atomic_write, explained_write, fsync_folder

FORMAT, MANIFEST = "birdsd-pack-1", "birdsd-pack.json"
PACK_SUFFIX = ".birdsd.zip"
# The folders of a pack: the run, the runs and models that it is based on, its shards.
ROOMS = ("run", "runs", "models", "shards")
_MANIFEST_BYTES = 256 << 20
_BLOCK_BYTES = 1 << 20
_ODD = re.compile(r"[\x00-\x1f\x7f\\:]")

Progress = Callable[[int], object]


# -- writing ----------------------------------------------------------------------------------------------


class PackWriter:
    """Adds members to a pack, and the manifest at the end. Made by `writing`."""

    def __init__(self, archive: zipfile.ZipFile, progress: Progress) -> None:
        self._archive, self._progress = archive, progress
        self.files: dict[str, dict[str, Any]] = {}

    def add(self, name: str, blocks: Iterator[bytes], size: int, mtime_ns: int) -> None:
        """Add a member of `size` bytes; raises `UserError` if the blocks amount to fewer or more."""
        check_name(name)
        info = zipfile.ZipInfo(name)
        info.file_size, info.external_attr = size, (stat.S_IFREG | 0o644) << 16
        digest, written = hashlib.sha256(), 0
        with self._archive.open(info, "w", force_zip64=size >= 1 << 31) as target:
            for block in blocks:
                target.write(block)
                digest.update(block)
                written += len(block)
                self._progress(len(block))
        if written != size:
            raise Mismatch(f"{name} changed while it was packed", "", "run the same command again")
        self.files[name] = {"bytes": size, "sha256": digest.hexdigest(), "mtime_ns": mtime_ns}

    def add_bytes(self, name: str, data: bytes, mtime_ns: int) -> None:
        """Add a member from memory."""
        self.add(name, iter([data]), len(data), mtime_ns)

    def add_stream(self, name: str, stream: IO[bytes]) -> None:
        """Add an open file, up to its present size."""
        status = os.fstat(stream.fileno())
        self.add(name, blocks_of(stream, status.st_size), status.st_size, status.st_mtime_ns)


def blocks_of(stream: IO[bytes], size: int) -> Iterator[bytes]:
    """The first `size` bytes of a stream, in blocks; fewer where it is shorter."""
    while size > 0 and (block := stream.read(min(size, _BLOCK_BYTES))):
        size -= len(block)
        yield block


@contextmanager
def writing(path: Path, facts: dict[str, Any], progress: Progress) -> Iterator[PackWriter]:
    """Write a pack to `path`, which appears once it is whole. `facts` go into its manifest."""
    with atomic_write(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        writer = PackWriter(archive, progress)
        yield writer
        manifest = {"format": FORMAT, **facts, "files": writer.files}
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        archive.writestr(zipfile.ZipInfo(MANIFEST), text.encode())


# -- reading ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pack:
    """A pack whose table of contents is valid; the bytes are verified as they are unpacked."""

    path: Path
    manifest: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of all its members."""
        return sum(record["bytes"] for record in self.manifest["files"].values())

    def extract(self, folder: Path, progress: Progress) -> None:
        """Unpack into `folder`, which is empty and private; raises `UserError` where a byte differs."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                for name, record in self.manifest["files"].items():
                    self._extract(
                        archive, name, record, folder.joinpath(*PurePosixPath(name).parts), progress
                    )
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise damaged(self.path, str(error) or type(error).__name__) from error

    def _extract(
        self, archive: zipfile.ZipFile, name: str, record: dict[str, Any], target: Path, progress: Progress
    ) -> None:
        digest, written = hashlib.sha256(), 0
        with explained_write(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            stream = open(target, "xb")  # noqa: SIM115 - never overwrite a file
        with stream, archive.open(name) as source:
            for block in blocks_of(source, record["bytes"] + 1):
                with explained_write(target):
                    stream.write(block)
                digest.update(block)
                written += len(block)
                progress(len(block))
            with explained_write(target):
                stream.flush()
                os.fsync(stream.fileno())
        if written != record["bytes"] or digest.hexdigest() != record["sha256"]:
            raise damaged(self.path, f"the bytes of {name} are not those that were packed")
        # An index beside a shard is valid only while the shard has the modification time that it names.
        os.utime(target, ns=(record["mtime_ns"], record["mtime_ns"]))


def open_pack(path: Path) -> Pack:
    """Read and validate a pack's table of contents; nothing is unpacked.

    Raises `UserError` for a file that is not a pack, is truncated, or has links, names that leave their
    folder, members missing from the manifest (or the other way round), or impossible sizes.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"{path} does not exist", "expected the file that `birdsd pack RUN` wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            for info in infos:
                _check_info(path, info)
            table = {info.filename: info.file_size for info in infos}
            if len(table) != len(infos):
                raise damaged(path, "it has two members of one name")
            manifest = _manifest(path, archive, table)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise damaged(path, f"it is truncated or not a ZIP file ({error})") from error
    _check_table(path, manifest, table)
    return Pack(path, manifest)


def _manifest(path: Path, archive: zipfile.ZipFile, table: dict[str, int]) -> dict[str, Any]:
    if MANIFEST not in table:
        raise NotFound(f"{path} has no {MANIFEST}", "expected the file that `birdsd pack RUN` wrote")
    if table[MANIFEST] > _MANIFEST_BYTES:
        raise damaged(path, f"its {MANIFEST} has {table[MANIFEST]:,} bytes")
    try:
        manifest = json.loads(archive.read(MANIFEST))
        kind = manifest["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, f"its {MANIFEST} cannot be read ({error})") from error
    if kind != FORMAT:
        raise Unsupported(
            f"{path} has the format {str(kind)[:60]!r}", f"this birdsd reads {FORMAT}", "use the newer birdsd"
        )
    return dict(manifest)


def _check_info(path: Path, info: zipfile.ZipInfo) -> None:
    """Refuse what a pack never holds: folders, links, devices, compressed or encrypted members."""
    try:
        check_name(info.orig_filename)
    except UserError as error:
        raise damaged(path, error.problem) from error
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise damaged(path, f"its member {info.filename!r} is a link, a folder or a device")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
        raise damaged(path, f"its member {info.filename!r} is compressed or encrypted")
    if info.compress_size != info.file_size:
        raise damaged(path, f"its member {info.filename!r} has two sizes")


def check_name(name: str) -> None:
    """Refuse a member's name that is not a plain path inside one of `ROOMS`."""
    parts = name.split("/")
    odd = not name or len(name) > 1000 or _ODD.search(name) or any(part in ("", ".", "..") for part in parts)
    if odd or (name != MANIFEST and (parts[0] not in ROOMS or len(parts) < 3)):
        raise BadValue(f"the name {name[:200]!r} is not allowed in a pack", "names stay inside their folder")


def _check_table(path: Path, manifest: dict[str, Any], table: dict[str, int]) -> None:
    files = manifest.get("files")
    try:
        known = {str(name): (int(record["bytes"]), str(record["sha256"])) for name, record in files.items()}  # type: ignore[union-attr]
        times = [record["mtime_ns"] for record in files.values()]  # type: ignore[union-attr]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(path, f"its {MANIFEST} is not one ({error})") from error
    if any(not isinstance(time, int) or not 0 <= time < 1 << 62 for time in times):
        raise damaged(path, "its manifest contains an invalid timestamp")
    members = set(table) - {MANIFEST}
    if missing := sorted(set(known) - members):
        raise damaged(path, f"{len(missing)} of its members are missing, {missing[0]} for one")
    if unknown := sorted(members - set(known)):
        raise damaged(path, f"it holds {unknown[0]!r}, which its {MANIFEST} does not name")
    for name, (size, _) in known.items():
        if size != table[name]:
            raise damaged(path, f"{name} has {table[name]:,} bytes instead of {size:,}")
    if sum(table.values()) > path.stat().st_size:
        raise damaged(path, "its members claim more bytes than the file has")
    # Some file systems do not distinguish A from a, nor two Unicode forms of an umlaut.
    plain = {unicodedata.normalize("NFC", name).casefold() for name in known}
    folders = {str(parent) for name in plain for parent in PurePosixPath(name).parents}
    if len(plain) != len(known) or plain & folders:
        raise damaged(path, "two of its members would be one file")


def damaged(path: Path, reason: str) -> UserError:
    """The error for a pack that must not be unpacked."""
    return Damaged(
        f"{path} was not unpacked: {reason}",
        "every member must be exactly as it was packed",
        "copy the file again, or pack the run again; existing files are untouched",
    )


def check_space(folder: Path, needed: int) -> None:
    """Raise `UserError` where the disk has no room for `needed` bytes."""
    place = Path(folder).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DiskFull(
            f"{needed / 1e9:.2f} GB are needed in {folder}, and {free / 1e9:.2f} GB are free",
            "",
            "free some space",
        )


def move_in(source: Path, target: Path) -> None:
    """Move a complete unpacked folder into place atomically."""
    with explained_write(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, target)
        fsync_folder(target.parent)


def names_below(folder: Path, is_left: Callable[[Path], bool] = lambda folder: False) -> list[Path]:
    """The plain files below `folder`, sorted, without hidden ones, unfinished ones, other packs, and the
    folders that `is_left` leaves out."""
    paths = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not is_left(Path(root, name))]
        for name in files:
            path = Path(root, name)
            if not name.startswith(".") and not name.endswith((".partial", PACK_SUFFIX)) and path.is_file():
                paths.append(path)
    return sorted(paths)


@contextmanager
def bar(total: int, word: str) -> Iterator[Any]:
    """A progress bar over bytes, on a terminal; yields the function to call with the bytes of each block."""
    from tqdm import tqdm

    with tqdm(
        total=total, desc=word, unit="B", unit_scale=True, file=sys.stderr, disable=not sys.stderr.isatty()
    ) as shown:
        yield shown.update
