"""The walk over raw headers against Python's own tarfile, on tars drawn at random and on the odd ones."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from birdsd.shards.storage import tarwalk
from birdsd.shards.storage.tarwalk import ShardError
from tests.support.errors import refuses
from tests.support.shard_makers import sample_members, tar_of

FORMS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
WORDS = ["a", "Vögel", "site.1", "x" * 60, "long " * 25, "鳥", ".", "b"]


def entry(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **more: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for key, value in more.items():
        setattr(info, key, value)
    return info


def expected(data: bytes) -> list[tuple[str, int, int]]:
    """What tarfile finds, joined tars to their end."""
    with tarfile.open(fileobj=io.BytesIO(data), ignore_zeros=True) as tar:
        return [(m.name, m.offset_data, m.size) for m in tar if m.isreg() and not m.name.startswith("__")]


def walked(path: Path) -> list[tuple[str, int, int]]:
    return [(m.name, m.offset, m.size) for m in tarwalk.walk(path).members]


def drawn_tar(draw: np.random.Generator, form: int) -> bytes:
    stream = io.BytesIO()
    settings = {"comment": "every member"} if form == tarfile.PAX_FORMAT and draw.random() < 0.5 else None
    with tarfile.open(fileobj=stream, mode="w", format=form, pax_headers=settings, encoding="utf-8") as tar:
        for number in range(int(draw.integers(1, 12))):
            depth = int(draw.integers(0, 4))
            folder = "/".join(draw.choice(WORDS) for _ in range(depth))
            if form == tarfile.USTAR_FORMAT:
                folder = folder[:60].rstrip("/ ")
            name = f"{folder}/{number}" if folder else str(number)
            name = (
                draw.choice(["", "./"]) + name + draw.choice(["", "y" * 40 * (form != tarfile.USTAR_FORMAT)])
            )
            info = entry(name + ".npy", size=int(draw.integers(0, 1500)))
            if draw.random() < 0.3:
                info = entry(name, tarfile.DIRTYPE)
            elif form == tarfile.PAX_FORMAT and draw.random() < 0.4:
                info.mtime = 1.5  # a number that needs an extended header
            tar.addfile(info, io.BytesIO(draw.bytes(info.size)))
    return stream.getvalue()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(40))
def test_the_walk_agrees_with_tarfile(tmp_path: Path, form: int, seed: int) -> None:
    draw = np.random.default_rng([seed, form])
    data = b"".join(drawn_tar(draw, form) for _ in range(int(draw.integers(1, 4))))
    (tmp_path / "x.tar").write_bytes(data)
    assert walked(tmp_path / "x.tar") == expected(data)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_name_of_a_folder_ends_with_the_folder(tmp_path: Path, form: int) -> None:
    folder = "b/" + "Vögel " * 20
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for name, data in sample_members("a/0", 1):
            tar.addfile(entry(name, size=len(data)), io.BytesIO(data))
        tar.addfile(entry(folder, tarfile.DIRTYPE))
        for name, data in sample_members("b/1", 2):
            tar.addfile(entry(name, size=len(data)), io.BytesIO(data))
    (tmp_path / "train-0.tar").write_bytes(stream.getvalue())
    samples = ShardReader(ShardIndex.open(tmp_path), "train").read_many(range(2))
    assert [(s.key, int(s.image.flat[0])) for s in samples] == [("a/0", 1), ("b/1", 2)]
    assert samples[1].metadata["captions"] == ["caption b/1"]


def test_a_folders_size_is_no_data(tmp_path: Path) -> None:
    """Some programs keep an allocation in the size field of a folder; nothing follows its header."""
    data = entry("d", tarfile.DIRTYPE, 0).tobuf()
    allocated = bytearray(entry("d/", tarfile.DIRTYPE).tobuf(tarfile.USTAR_FORMAT))
    allocated[124:135] = b"00000002000"
    allocated[148:156] = b" " * 8
    allocated[148:155] = f"{sum(allocated):06o}\0".encode()
    body = entry("a.npy", size=3).tobuf() + b"abc".ljust(512, b"\0")
    whole = data + bytes(allocated) + body + bytes(1024)
    (tmp_path / "x.tar").write_bytes(whole)
    assert walked(tmp_path / "x.tar") == expected(whole) == [("a.npy", 3 * 512, 3)]


def test_global_settings_do_not_outlive_what_a_member_says_itself(tmp_path: Path) -> None:
    def records(kind: bytes, text: str) -> bytes:
        line = f"{len(text) + 4} {text}\n".encode()
        return entry("pax", kind, len(line)).tobuf(tarfile.USTAR_FORMAT) + line.ljust(512, b"\0")

    def member(name: str) -> bytes:
        return entry(name, size=1).tobuf(tarfile.USTAR_FORMAT) + b"x".ljust(512, b"\0")

    whole = records(b"g", "comment=all") + records(b"x", "path=own.npy") + member("a.npy") + member("b.npy")
    link = entry("ln", tarfile.GNUTYPE_LONGLINK, 4).tobuf(tarfile.USTAR_FORMAT) + b"away".ljust(512, b"\0")
    whole += link + member("c.npy") + bytes(1024)
    (tmp_path / "x.tar").write_bytes(whole)
    names = [name for name, _, _ in walked(tmp_path / "x.tar")]
    assert names == [name for name, _, _ in expected(whole)] == ["own.npy", "b.npy", "c.npy"]


def test_joined_tars_are_read_to_their_end(tmp_path: Path) -> None:
    first = tar_of(tmp_path / "1", sample_members("a", 1)).read_bytes()
    second = tar_of(tmp_path / "2", sample_members("b", 2)).read_bytes()
    (tmp_path / "train-0.tar").write_bytes(first + bytes(3 << 20) + second)
    reader = ShardReader(ShardIndex.open(tmp_path), "train")
    assert [(s.key, int(s.image.flat[0])) for s in reader.read_many(range(len(reader)))] == [
        ("a", 1),
        ("b", 2),
    ]


@pytest.mark.parametrize("rest", [b"x", b"\xff" * 512, b"x" * 5000])
def test_what_follows_the_end_marker_and_is_no_tar_is_refused(tmp_path: Path, rest: bytes) -> None:
    whole = tar_of(tmp_path / "x.tar", sample_members("a")).read_bytes()
    (tmp_path / "x.tar").write_bytes(whole + rest)
    with refuses(("x.tar", "byte 10240"), kind=ShardError):
        tarwalk.walk(tmp_path / "x.tar")


def test_a_damaged_header_behind_an_end_marker_hides_nothing(tmp_path: Path) -> None:
    one = tar_of(tmp_path / "x.tar", sample_members("a")).read_bytes()
    other = bytearray(one)
    other[2] ^= 1
    (tmp_path / "x.tar").write_bytes(one + bytes(other))
    with refuses(("x.tar", "byte 10240"), kind=ShardError):
        tarwalk.walk(tmp_path / "x.tar")


@pytest.mark.parametrize(("kind", "word"), [(b"M", "another tar"), (b"Z", "'Z'"), (b"2", "symbolic")])
def test_what_cannot_be_read_is_refused_by_its_whole_name(tmp_path: Path, kind: bytes, word: str) -> None:
    name = "deep/" * 30 + "link.npy"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(entry(name, kind))
    (tmp_path / "x.tar").write_bytes(stream.getvalue())
    with refuses((name, word), kind=tarwalk.ShardError):
        tarwalk.walk(tmp_path / "x.tar")


def test_volume_labels_and_folder_lists_hold_no_sample(tmp_path: Path) -> None:
    listing = entry("d/", b"D", 7).tobuf(tarfile.GNU_FORMAT) + b"Ya.npy\0".ljust(512, b"\0")
    body = entry("a.npy", size=1).tobuf() + b"x".ljust(512, b"\0")
    (tmp_path / "x.tar").write_bytes(entry("label", b"V").tobuf() + listing + body + bytes(1024))
    assert [name for name, _, _ in walked(tmp_path / "x.tar")] == ["a.npy"]
