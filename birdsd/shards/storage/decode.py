"""Bytes of a sample's parts -> arrays and metadata. Nothing is unpickled."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np

from birdsd.shards.storage.pixels import Pixels, Undecodable

# Of what pictures are made of; a new number makes latents anew that were cached from shards of others.
VERSION = 2
# The suffixes of each kind of part, the most welcome first.
IMAGE_SUFFIXES = (
    "npy",
    "image.npy",
    "spectrogram.npy",
    "png",
    "webp",
    "jpg",
    "jpeg",
    "bmp",
    "ppm",
    "pgm",
    "tif",
    "tiff",
)
LATENT_SUFFIXES = ("latent.npy", "latents.npy")
METADATA_SUFFIXES = ("json", "txt", "caption", "cls")

_PNG_COLOUR = 25  # the byte of a PNG's header that says of what its pixels are made: 0 and 4 are grey
# header -> dtype, shape, number of elements, number of bytes, whether the first index runs fastest
_headers: dict[bytes, tuple[np.dtype, tuple[int, ...], int, int, bool]] = {}


def npy(data: np.ndarray, start: int = 0, size: int | None = None) -> np.ndarray:
    """The array in a .npy file whose `size` bytes begin at `start` of `data` (uint8), without a copy.

    The samples of a set share their header byte for byte, so it is parsed once and then looked up.
    """
    size = len(data) - start if size is None else size
    view = data.data
    if size < 12 or view[start] != 0x93 or view[start + 1] != 0x4E:
        raise Undecodable("it is not a .npy file")
    if view[start + 6] == 1:  # version 1 has a 2-byte length, later ones a 4-byte length
        length = 10 + view[start + 8] + 256 * view[start + 9]
    else:
        length = 12 + int.from_bytes(view[start + 8 : start + 12], "little")
    header = bytes(view[start : start + min(length, size)])
    dtype, shape, count, used, fortran = _headers.get(header) or _parse(header)
    if length + used != size:
        raise Undecodable(f"it has {size - length} bytes for an array {shape} of {dtype}")
    array: np.ndarray = np.frombuffer(data, dtype, count, start + length)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _parse(header: bytes) -> tuple[np.dtype, tuple[int, ...], int, int, bool]:
    stream = io.BytesIO(header)
    try:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(stream)
    except (ValueError, TypeError, EOFError) as error:
        raise Undecodable(f"its .npy header cannot be read: {error}") from error
    if dtype.hasobject:
        raise Undecodable("it holds Python objects, which are never unpickled")
    count = math.prod(shape)
    parsed = dtype, tuple(int(extent) for extent in shape), count, count * dtype.itemsize, bool(fortran)
    if len(_headers) < 1024:
        _headers[header] = parsed
    return parsed


def picture(data: np.ndarray) -> np.ndarray:
    """The numbers of a PNG, JPEG, WebP, BMP, PGM, PPM or TIFF, [H, W] or [H, W, 3], of the type stored."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data.data)) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise Undecodable(f"it holds {image.n_frames} pictures, and a sample is one")
            if image.mode.startswith(("I", "F")):
                return _deep(image)
            _refuse_transparency(image)
            grey = image.mode in ("1", "L", "LA", "La") or (image.mode in ("P", "PA") and _is_grey(image))
            # Pillow hands grey with alpha of 16 bits out as colour; the file's header says which it is.
            grey = grey or (image.format == "PNG" and int(data[_PNG_COLOUR]) in (0, 4))
            return np.array(image.convert("L" if grey else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Undecodable(f"the picture cannot be read: {error}") from error


def _deep(image: Any) -> np.ndarray:
    """More than eight bits a pixel. What the file calls white becomes the type's largest number."""
    numbers = np.array(image)
    if image.format != "TIFF":  # PNG and PGM fill 16 bits, which Pillow may hand out in 32
        return numbers.astype(np.uint16)
    tags = image.tag_v2
    if tags.get(262) == 0:
        raise Undecodable("zero is white in this TIFF: store it with zero as black")
    bits = int(tags.get(258, (16,))[0])
    unsigned = int(tags.get(339, (1,))[0]) == 1
    if image.mode.startswith("I") and unsigned and bits <= 16:
        return np.rint(numbers * (65535 / (2**bits - 1))).astype(np.uint16)
    return numbers.astype(np.uint32) if image.mode == "I" and unsigned else numbers


def _refuse_transparency(image: Any) -> None:
    if image.has_transparency_data:
        clear = int((np.array(image.convert("RGBA"))[..., 3] < 255).sum())
        if clear:
            raise Undecodable(
                f"{clear} of its pixels are transparent, and no background is given: store it "
                "without an alpha channel"
            )


def _is_grey(image: Any) -> bool:
    palette = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def image(suffix: str, data: np.ndarray, start: int, size: int, pixels: Pixels) -> np.ndarray:
    """uint8 [C, H, W] of the image part of a sample."""
    if suffix.endswith("npy"):
        return pixels.picture(npy(data, start, size))
    return pixels.picture(picture(data[start : start + size]))


def latent(data: np.ndarray, start: int, size: int) -> np.ndarray:
    """The latents of a sample, as stored; floating and finite."""
    found = npy(data, start, size)
    if not np.issubdtype(found.dtype, np.floating):
        raise Undecodable(f"its latents are {found.dtype}, not floating-point numbers")
    if not np.isfinite(found).all():
        raise Undecodable("its latents have numbers that are not finite")
    return found


def metadata(parts: dict[str, bytes]) -> dict[str, Any]:
    """The metadata of a sample from its .json, or from .txt (a caption) and .cls (a label).

    `captions` and `species` are lists afterwards, also where another writer used `caption`, `text`,
    `label` or a single string. An empty list of species that nobody wrote says so in `species_stated`.
    """
    try:
        found = json.loads(parts["json"]) if "json" in parts else {}
        texts = {s: parts[s].decode("utf-8").strip() for s in ("txt", "caption", "cls") if s in parts}
    except ValueError as error:
        raise Undecodable(f"its metadata cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise Undecodable(f"its metadata is a {type(found).__name__}, not an object")
    _as_list(found, "captions", ("caption", "text", "prompt"), texts.get("txt") or texts.get("caption"))
    stated = any(found.get(name) is not None for name in ("species", "label", "class")) or "cls" in texts
    _as_list(found, "species", ("label", "class"), texts.get("cls"))
    if not stated:
        found["species_stated"] = False
    return found


def _as_list(found: dict[str, Any], name: str, others: tuple[str, ...], fallback: str | None) -> None:
    value = found.get(name)
    if value is None:
        value = next((found[other] for other in others if isinstance(found.get(other), str)), fallback)
    if value is None:
        value = []
    found[name] = [str(item) for item in value] if isinstance(value, list) else [str(value)]
