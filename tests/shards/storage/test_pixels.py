"""Pictures of every kind become uint8 [C, H, W] where their format says what black and white are, and are
refused by name where it does not."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from birdsd.errors import BadValue, NothingLeft, UnknownName, UserError
from birdsd.files import write_json
from birdsd.shards.cache import LatentShards
from birdsd.shards.checks import check_pictures, remarks
from birdsd.shards.index import ShardIndex
from birdsd.shards.inspect import describe, text
from birdsd.shards.reader import Sample, ShardReader
from birdsd.shards.storage.writer import ShardWriter
from tests.support.errors import refuses
from tests.support.remarks import remarked
from tests.support.shard_makers import CODEC, npy, tar_of

TRUE = np.random.default_rng(0).integers(0, 256, (1, 64, 64), dtype=np.uint8)  # of the codec's size


def of(folder: Path, name: str, data: bytes, codec: bool = True, pixels: Any = None) -> Sample:
    """The only sample of a set with one picture."""
    tar_of(folder / "train-0.tar", [(f"a.{name}", data), ("a.json", b'{"caption": "a wren"}')])
    if codec:
        write_json(folder / "codec.json", CODEC.to_json())
    if pixels is not None:
        (folder / "pixels.json").write_text(json.dumps(pixels))
    return ShardReader(ShardIndex.open(folder), "train").read(0)


def stored(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def png(pixels: np.ndarray, colour: int, depth: int) -> bytes:
    """A PNG of [H, W, channels], written by hand: Pillow writes no 16-bit colours."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels.astype(f">u{depth // 8}")).view(np.uint8).reshape(height, -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


GREY = Image.fromarray(TRUE[0])
WIDE = TRUE[0].astype(np.uint16) * 257
GREY_PALETTE = [level for level in range(255, -1, -1) for _ in range(3)]


def _palette() -> bytes:
    image = Image.fromarray(255 - TRUE[0]).copy()
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(GREY_PALETTE)
    return stored(image, "PNG")


EXACT: dict[str, tuple[str, bytes]] = {
    "npy uint8": ("npy", npy(TRUE)),
    "npy uint16": ("npy", npy(WIDE[None])),
    "npy uint16 big endian": ("npy", npy(WIDE[None].astype(">u2"))),
    "npy Fortran order": ("npy", npy(np.asfortranarray(TRUE))),
    "npy uint16 Fortran order": ("npy", npy(np.asfortranarray(WIDE.astype(">u2")))),
    "npy [H, W]": ("npy", npy(TRUE[0])),
    "npy [H, W, C]": ("npy", npy(TRUE.transpose(1, 2, 0))),
    "png": ("png", stored(GREY, "PNG")),
    "png of 16 bits": ("png", stored(Image.fromarray(WIDE), "PNG")),
    "png of 16 bits, written by hand": ("png", png(WIDE[..., None], 0, 16)),
    "png with an alpha that hides nothing": ("png", stored(GREY.convert("LA"), "PNG")),
    "png of 16 bits with alpha": ("png", png(np.stack([WIDE, np.full_like(WIDE, 65535)], -1), 4, 16)),
    "png with a palette of greys": ("png", _palette()),
    "tiff": ("tiff", stored(GREY, "TIFF")),
    "tiff of 16 bits": ("tif", stored(Image.fromarray(WIDE), "TIFF")),
    "webp": ("webp", stored(GREY.convert("RGB"), "WEBP", lossless=True)),
    "pgm of 16 bits": ("pgm", b"P5 64 64 65535\n" + WIDE.astype(">u2").tobytes()),
    "bmp": ("bmp", stored(GREY, "BMP")),
}


@pytest.mark.parametrize("kind", list(EXACT))
@pytest.mark.parametrize("codec", [True, False])
def test_what_says_its_range_is_scaled_to_the_level(tmp_path: Path, kind: str, codec: bool) -> None:
    sample = of(tmp_path, *EXACT[kind], codec=codec)
    assert sample.weight == 1, sample.problem
    assert sample.image.dtype == np.uint8 and sample.image.flags.c_contiguous
    wanted = np.repeat(TRUE, 3, axis=0) if kind == "webp" else TRUE
    assert np.array_equal(sample.image, wanted)
    if kind != "webp":
        assert describe(tmp_path, verify=True)["damaged"] == []
        check_pictures(ShardIndex.open(tmp_path))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_png_of_few_bits_is_spread_over_the_levels(tmp_path: Path, depth: int) -> None:
    levels = np.arange(64 * 64).reshape(64, 64) % 2**depth
    image = Image.fromarray((levels * (255 // (2**depth - 1))).astype(np.uint8))
    data = stored(
        image.convert("1") if depth == 1 else image, "PNG", **({} if depth == 1 else {"bits": depth})
    )
    sample = of(tmp_path, "png", data)
    assert sample.image.shape == (1, 64, 64)
    assert set(np.unique(sample.image)) == set(range(0, 256, 255 // (2**depth - 1))), sample.problem


def test_truth_values_are_black_and_white(tmp_path: Path) -> None:
    assert np.array_equal(of(tmp_path, "npy", npy(TRUE > 99)).image, np.where(TRUE > 99, 255, 0))


def test_colours_of_16_bits_stay_colours(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (8, 9, 3)).astype(np.uint16)
    found = of(tmp_path, "png", png(colours * 257, 2, 16), codec=False).image
    assert np.array_equal(found, colours.transpose(2, 0, 1))
    assert np.array_equal(of(tmp_path, "npy", npy(colours * 257), codec=False).image, found)


def test_the_codec_tells_channels_first_from_channels_last(tmp_path: Path) -> None:
    square = np.random.default_rng(2).integers(0, 256, (2, 2, 2), dtype=np.uint8)
    write_json(tmp_path / "codec.json", {**CODEC.to_json(), "channels": 2})
    stereo = np.random.default_rng(2).integers(0, 256, (64, 64, 2), dtype=np.uint8)
    assert np.array_equal(of(tmp_path, "npy", npy(stereo), codec=False).image, stereo.transpose(2, 0, 1))
    (tmp_path / "codec.json").unlink()
    assert np.array_equal(of(tmp_path, "npy", npy(square), codec=False).image, square)


# -- what has no range of its own -------------------------------------------------------------------------

UNIT = TRUE / 255
FLOATS: dict[str, tuple[np.ndarray, str]] = {
    "float32 in 0..1": (UNIT.astype(np.float32), '{"float32": [0, 1]}'),
    "float16 in 0..1": (UNIT.astype(np.float16), '{"float16": [0, 1]}'),
    "float64 in 0..1": (UNIT, '{"float64": [0, 1]}'),
    "float32 in 0..255": (TRUE.astype(np.float32), '{"float32": [0, 255]}'),
    "float32 in -1..1": ((UNIT * 2 - 1).astype(np.float32), '{"float32": [-1, 1]}'),
    "big-endian float32": (UNIT.astype(">f4"), '{"float32": [0, 1]}'),
    "float32 in decibels": ((UNIT * 80 - 80).astype(np.float32), '{"float32": [-80, 0]}'),
    "int16": (TRUE.astype(np.int16), '{"int16": [0, 255]}'),
    "int32": (TRUE.astype(np.int32) * 16, '{"int32": [0, 4095]}'),
}


@pytest.mark.parametrize("kind", list(FLOATS))
def test_numbers_without_a_range_are_refused_until_it_is_said(tmp_path: Path, kind: str) -> None:
    values, way_out = FLOATS[kind]
    sample = of(tmp_path, "npy", npy(values))
    assert sample.weight == 0 and sample.image is None
    assert (
        values.dtype.name in sample.problem and way_out in sample.problem and "pixels.json" in sample.problem
    )
    assert describe(tmp_path, verify=True)["damaged"] == [sample.problem]
    with refuses("pixels.json", kind=NothingLeft):
        check_pictures(ShardIndex.open(tmp_path))
    told = of(tmp_path, "npy", npy(values), pixels=json.loads(way_out))
    assert np.abs(told.image.astype(int) - TRUE).max() <= 1, told.problem
    assert describe(tmp_path, verify=True)["damaged"] == []


def test_a_floating_tiff_is_refused_like_a_floating_array(tmp_path: Path) -> None:
    data = stored(Image.fromarray(UNIT[0].astype(np.float32)), "TIFF")
    assert '{"float32": [0, 1]}' in of(tmp_path, "tif", data).problem
    assert np.array_equal(of(tmp_path, "tif", data, pixels={"float32": [0, 1]}).image, TRUE)


def test_black_and_white_may_be_the_other_way_round(tmp_path: Path) -> None:
    found = of(tmp_path, "npy", npy(UNIT.astype(np.float32)), pixels={"float32": [1, 0]})
    assert np.array_equal(found.image, 255 - TRUE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_counted(tmp_path: Path, bad: float) -> None:
    values = UNIT.astype(np.float32)
    values[0, 3, 5:8] = bad
    sample = of(tmp_path, "npy", npy(values), pixels={"float32": [0, 1]})
    assert sample.weight == 0 and "3 of its 4096 numbers" in sample.problem


def test_numbers_beyond_what_was_said_are_refused_and_not_cut_off(tmp_path: Path) -> None:
    sample = of(tmp_path, "npy", npy(TRUE.astype(np.float32)), pixels={"float32": [0, 1]})
    assert sample.weight == 0 and "beyond the 0 to 1" in sample.problem
    slightly = (UNIT * 1.004).astype(np.float32)  # a resampling overshoots
    assert of(tmp_path, "npy", npy(slightly), pixels={"float32": [0, 1]}).image.max() == 255


@pytest.mark.parametrize(
    ("told", "word", "kind"),
    [
        ({"float23": [0, 1]}, "'float23'", UnknownName),
        ({"float32": [0]}, 'pixels.json holds "float32": [0]', BadValue),
        ({"float32": [1, 1]}, 'pixels.json holds "float32": [1, 1]', BadValue),
        ({"float32": "0..1"}, 'pixels.json holds "float32": 0..1', BadValue),
        ([0, 1], "pixels.json holds a list", BadValue),
    ],
)
def test_a_pixels_file_that_makes_no_sense_is_refused(
    tmp_path: Path, told: Any, word: str, kind: type[UserError]
) -> None:
    with refuses(word, kind=kind):
        of(tmp_path, "npy", npy(TRUE), pixels=told)


@pytest.mark.parametrize(
    ("values", "name", "meant"),
    [
        (TRUE.astype(np.uint16), "uint16", [0, 255]),
        (TRUE.astype(np.uint16) * 16, "uint16", [0, 4095]),
        ((TRUE > 99).astype(np.uint8), "uint8", [0, 1]),
    ],
)
def test_a_set_that_hardly_uses_its_range_is_asked_about(
    tmp_path: Path, values: np.ndarray, name: str, meant: list[int]
) -> None:
    """One picture may be that dark; a whole set hardly is: a byte in 16 bits, or truth values in bytes."""
    of(tmp_path, "npy", npy(values))
    with refuses((name, json.dumps({name: meant})), kind=BadValue):
        check_pictures(ShardIndex.open(tmp_path))
    assert len(describe(tmp_path, verify=True)["damaged"]) == 1
    found = of(tmp_path, "npy", npy(values), pixels={name: meant}).image
    assert np.abs(found.astype(int) - (TRUE if name == "uint16" else np.where(TRUE > 99, 255, 0))).max() <= 1
    check_pictures(ShardIndex.open(tmp_path))


def test_a_set_of_which_some_cannot_be_read_is_told_of(tmp_path: Path) -> None:
    bad = [(f"b{n}.npy", npy(UNIT.astype(np.float32))) for n in range(3)]
    good = [(f"g{n}.npy", npy(TRUE)) for n in range(5)]
    tar_of(tmp_path / "train-0.tar", [*good, *bad])
    (said,) = check_pictures(ShardIndex.open(tmp_path))
    assert "3 of 8 train samples" in said and "float32" in said
    assert said in list(remarks(ShardIndex.open(tmp_path))) and said in text(describe(tmp_path))


def test_a_training_refuses_such_a_set_before_it_makes_a_run(tmp_path: Path) -> None:
    from birdsd.config import compose
    from birdsd.runs.run import open_training

    of(tmp_path / "shards", "npy", npy(UNIT.astype(np.float32)), codec=False)
    settings = [f"data.shards={tmp_path / 'shards'}", f"runs={tmp_path / 'runs'}", "method=autoencoder"]
    with refuses(("float32", "pixels.json"), kind=NothingLeft):
        open_training(compose("train", settings))
    assert not (tmp_path / "runs").exists()
    (tmp_path / "shards" / "pixels.json").write_text('{"float32": [0, 1]}')
    run, index = open_training(compose("train", settings))
    assert run.folder.is_dir() and index.count("train") == 1


# -- what is not a picture --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (np.zeros((4, 16, 16), np.uint8), "[4, 16, 16]"),
        (np.zeros((1, 1, 64, 64), np.uint8), "[1, 1, 64, 64]"),
        (np.zeros(64, np.uint8), "[64]"),
        (np.uint8(3), "[]"),
        (np.zeros((64, 64), np.complex64), "complex64"),
        (np.zeros((0, 64), np.float32), "empty"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path: Path, values: np.ndarray, word: str) -> None:
    sample = of(tmp_path, "npy", npy(values))
    assert sample.weight == 0
    with refuses(word, kind=NothingLeft):
        check_pictures(ShardIndex.open(tmp_path))


def test_transparent_pixels_and_several_pictures_are_refused(tmp_path: Path) -> None:
    clear = GREY.convert("LA")
    clear.putpixel((0, 0), (9, 0))
    assert "transparent" in of(tmp_path, "png", stored(clear, "PNG")).problem
    keyed = stored(GREY, "PNG", transparency=int(TRUE[0, 0, 0]))
    assert "transparent" in of(tmp_path, "png", keyed).problem
    pages = stored(GREY, "TIFF", save_all=True, append_images=[GREY])
    assert "holds 2 pictures" in of(tmp_path, "tif", pages).problem


def test_a_picture_of_another_size_is_found_by_verify(tmp_path: Path) -> None:
    of(tmp_path, "npy", npy(TRUE[:, :32]))
    found = remarked(describe(tmp_path, verify=True)["damaged"], "another-shape")
    assert (found.facts["found"], found.facts["expected"]) == ([1, 32, 64], [1, 64, 64])


def test_latents_must_be_numbers(tmp_path: Path) -> None:
    latent = np.ones((4, 2, 2), np.float16)
    assert of(tmp_path, "latent.npy", npy(latent)).weight == 1
    latent[0, 0, 0] = np.nan
    assert "not finite" in of(tmp_path, "latent.npy", npy(latent)).problem
    assert "int64" in of(tmp_path, "latent.npy", npy(np.ones((4, 2, 2), np.int64))).problem


# -- what depends on the reading --------------------------------------------------------------------------


def test_another_reading_is_another_set_and_other_latents(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    with ShardWriter(folder / "train-0.tar") as writer:
        writer.write("a", {"npy": UNIT.astype(np.float32), "json": {"captions": ["a wren"]}})
    (folder / "pixels.json").write_text('{"float32": [0, 1]}')
    before = ShardIndex.open(folder)
    LatentShards(before, tmp_path / "cache", "k").write(
        before.shards("train")[0], [np.ones((8, 2, 2), np.float32)], {}
    )
    assert LatentShards(before, tmp_path / "cache", "k").missing("train") == []
    (folder / "pixels.json").write_text('{"float32": [0, 2]}')
    after = ShardIndex.open(folder)
    assert after.fingerprint != before.fingerprint
    assert (
        after.changes_since(before.inventory())
        and "pixels.json" in after.changes_since(before.inventory())[0]
    )
    assert len(LatentShards(after, tmp_path / "cache", "k").missing("train")) == 1
    (folder / "pixels.json").unlink()
    assert any(
        "float32" in problem for problem in ShardIndex.open(folder).verify()
    )  # checksums alone say yes
