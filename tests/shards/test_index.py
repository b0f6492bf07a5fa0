"""Indexing shards that others wrote, and refusing those that cannot be used."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from birdsd.errors import NotFound, NothingLeft
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from birdsd.shards.storage import tarwalk
from birdsd.shards.storage.table import index_path
from birdsd.shards.storage.tarwalk import ShardError
from tests.support.errors import refuses
from tests.support.shard_makers import foreign_set, npy, sample_members, tar_of

LONG = "deep/" * 30 + "x" * 120  # beyond ustar's 100 and 155 characters


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_walk_finds_what_tarfile_finds(tmp_path: Path, form: int) -> None:
    names = ["a.npy", "folder/b.json", "d" * 90 + "/" + "e" * 90 + ".npy"]
    if form != tarfile.USTAR_FORMAT:
        names += ["鳥-é.npy", LONG + ".npy"]
    path = tar_of(tmp_path / "x.tar", [(name, os.urandom(37 * i)) for i, name in enumerate(names)], form)
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar]
    assert [(m.name, m.offset, m.size) for m in tarwalk.walk(path).members] == expected


def test_directories_and_remarks_hold_no_sample(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in ("__meta__/x.json", "folder/a.npy"):
            tar.addfile(tarfile.TarInfo(name))
    assert [m.name for m in tarwalk.walk(path).members] == ["folder/a.npy"]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
        (tarfile.FIFOTYPE, "pipe"),
    ],
)
def test_links_and_sparse_files_are_refused(tmp_path: Path, kind: bytes, word: str) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a.npy")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with refuses(("a.npy", word), kind=tarwalk.ShardError):
        tarwalk.walk(path)


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.8])
def test_a_truncated_tar_is_named(tmp_path: Path, keep: float) -> None:
    path = tar_of(
        tmp_path / "cut.tar", [m for i in range(20) for m in sample_members(f"k{i}", i, (1, 32, 32))]
    )
    os.truncate(path, int(path.stat().st_size * keep))
    with refuses(("cut.tar", " at byte "), kind=ShardError):
        ShardIndex.open(tmp_path)


def test_a_flipped_bit_in_a_header_is_found(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "x.tar", sample_members("k"))
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    with refuses(("x.tar", "byte 0", "checksum"), kind=ShardError):
        tarwalk.walk(path)


@pytest.mark.parametrize(
    "content", [b"", b"not a tar at all" * 100, bytes(range(256)) * 20, gzip.compress(b"x" * 99, mtime=0)]
)
def test_what_is_no_tar_is_refused_with_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-0.tar").write_bytes(content)
    with refuses("train-0.tar", kind=ShardError):
        ShardIndex.open(tmp_path)


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    with refuses(str(tmp_path), "birdsd run prepare", kind=NothingLeft):
        ShardIndex.open(tmp_path)
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with refuses("x.tar.gz", kind=NothingLeft):
        ShardIndex.open(tmp_path)
    with refuses("nowhere", kind=NotFound):
        ShardIndex.open(tmp_path / "nowhere")


def test_hostile_member_names_stay_names(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    names = ["../../escape", "/etc/passwd", "-rf", "a b'\"$(x)", "鳥"]
    tar_of(folder / "0.tar", [m for i, name in enumerate(names) for m in sample_members(name, i)])
    before = sorted(p for p in tmp_path.rglob("*"))
    reader = ShardReader(ShardIndex.open(folder), "train")
    samples = reader.read_many(range(len(names)))
    # The standard library strips nothing either: the keys are only labels here.
    assert [s.key.lstrip("/") for s in samples] == [n.lstrip("/") for n in names]
    assert [int(s.image[0, 0, 0]) for s in samples] == list(range(len(names)))
    assert sorted(p for p in tmp_path.rglob("*")) == sorted([*before, folder / "0.index.json"])


def test_splits_by_name_and_by_folder(tmp_path: Path) -> None:
    for name in ("a/birds-train-0001.tar", "a/birds-val-0001.tar", "test/0001.tar", "train-0001.tar"):
        tar_of(tmp_path / name, sample_members(name.replace("/", "_").replace(".", "_")))
    index = ShardIndex.open(tmp_path)
    assert {s: index.count(s) for s in index.splits} == {"train": 2, "validation": 1, "test": 1}


def test_a_set_with_a_name_of_its_own_is_for_training(tmp_path: Path) -> None:
    tar_of(tmp_path / "laion-00000.tar", sample_members("k"))
    assert ShardIndex.open(tmp_path).splits == ("train",)


def test_the_index_is_kept_and_made_anew_when_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign_set(tmp_path, shards=1, samples=3)
    first = ShardIndex.open(tmp_path).fingerprint
    walked: list[Path] = []
    real = tarwalk.walk
    monkeypatch.setattr("birdsd.shards.storage.table.walk", lambda path: walked.append(path) or real(path))
    assert ShardIndex.open(tmp_path).fingerprint == first
    assert not walked
    tar_of(tmp_path / "train-000000.tar", sample_members("other", 9))
    index = ShardIndex.open(tmp_path)
    assert walked and index.count("train") == 1 and index.fingerprint != first
    index_path(tmp_path / "train-000000.tar").write_text('{"format": "birdsd-index-1"')
    assert ShardIndex.open(tmp_path).fingerprint == index.fingerprint


def test_a_folder_that_cannot_be_written_is_indexed_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign_set(tmp_path, 2, 3)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "read-only")

    monkeypatch.setattr("birdsd.shards.storage.table.atomic_write", refuse)
    index = ShardIndex.open(tmp_path)
    assert not list(tmp_path.glob("*.json"))
    assert ShardReader(index, "train").read(4).key == "s1_1"


def test_what_others_store(tmp_path: Path) -> None:
    from PIL import Image

    def picture(form: str, mode: str) -> bytes:
        stream = io.BytesIO()
        pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
        Image.fromarray(pixels if mode == "RGB" else pixels[..., 0]).save(stream, form, lossless=True)
        return stream.getvalue()

    tar_of(
        tmp_path / "0.tar",
        [
            ("a.png", picture("PNG", "RGB")),
            ("a.txt", b"a wren, singing"),
            ("b.webp", picture("WEBP", "RGB")),
            ("b.cls", b"3"),
            ("c.PNG", picture("PNG", "L")),
            ("c.json", b'{"caption": "a robin", "label": "Robin"}'),
            ("d.latent.npy", npy(np.ones((4, 2, 2), np.float16))),
        ],
    )
    index = ShardIndex.open(tmp_path)
    a, b, c, d = ShardReader(index, "train").read_many(range(4))
    assert (
        a.image.shape == (3, 4, 4) and a.image[1, 0, 0] == 1 and a.metadata["captions"] == ["a wren, singing"]
    )
    assert np.array_equal(b.image, a.image) and b.metadata["species"] == ["3"]
    assert c.image.shape == (1, 4, 4) and c.metadata["captions"] == ["a robin"]
    assert d.image is None and d.latent.dtype == np.float16 and d.weight == 1
    assert index.species == ("3", "Robin")


def test_a_change_since_is_named(tmp_path: Path) -> None:
    foreign_set(tmp_path, 3, 4)
    before = ShardIndex.open(tmp_path).inventory()
    assert ShardIndex.open(tmp_path).changes_since(before) == []
    tar_of(tmp_path / "train-000001.tar", sample_members("other", 9))
    (tmp_path / "train-000002.tar").unlink()
    tar_of(tmp_path / "train-000009.tar", sample_members("k", 1))
    changes = ShardIndex.open(tmp_path).changes_since(before)
    assert len(changes) == 3
    assert "train-000001.tar changed" in changes[0] and "count 4 -> 1" in changes[0]
    assert changes[1] == "train-000002.tar is missing" and changes[2] == "train-000009.tar is new"
