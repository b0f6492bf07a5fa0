"""Bytes of a sample's parts -> arrays and metadata. Nothing is unpickled."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np

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
)
LATENT_SUFFIXES = ("latent.npy", "latents.npy")
METADATA_SUFFIXES = ("json", "txt", "caption", "cls")

# header -> dtype, shape, number of elements, number of bytes
_headers: dict[bytes, tuple[np.dtype, tuple[int, ...], int, int]] = {}


class Undecodable(Exception):
    """The bytes of a part are not what its suffix says; the reader turns it into a weight of zero."""


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
    dtype, shape, count, used = _headers.get(header) or _parse(header)
    if length + used != size:
        raise Undecodable(f"it has {size - length} bytes for an array {shape} of {dtype}")
    array: np.ndarray = np.frombuffer(data, dtype, count, start + length)
    return array.reshape(shape)


def _parse(header: bytes) -> tuple[np.dtype, tuple[int, ...], int, int]:
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
    if fortran and len(shape) > 1:
        raise Undecodable("it is stored in Fortran order")
    count = math.prod(shape)
    parsed = dtype, tuple(int(extent) for extent in shape), count, count * dtype.itemsize
    if len(_headers) < 1024:
        _headers[header] = parsed
    return parsed


def picture(data: np.ndarray) -> np.ndarray:
    """A PNG, JPEG or WebP -> uint8 [C, H, W] with C = 1 (grey) or 3."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data.data)) as image:
            grey = image.mode in ("1", "L", "I", "I;16", "F", "LA")
            pixels = np.array(image.convert("L" if grey else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Undecodable(f"the picture cannot be read: {error}") from error
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def image(suffix: str, data: np.ndarray, start: int, size: int) -> np.ndarray:
    """The image part of a sample; [C, H, W] where it was a picture, as stored where it was an array."""
    return npy(data, start, size) if suffix.endswith("npy") else picture(data[start : start + size])


def metadata(parts: dict[str, bytes]) -> dict[str, Any]:
    """The metadata of a sample from its .json, or from .txt (a caption) and .cls (a label).

    `captions` and `species` are lists afterwards, also where another writer used `caption`, `text`,
    `label` or a single string.
    """
    try:
        found = json.loads(parts["json"]) if "json" in parts else {}
        texts = {s: parts[s].decode("utf-8").strip() for s in ("txt", "caption", "cls") if s in parts}
    except ValueError as error:
        raise Undecodable(f"its metadata cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise Undecodable(f"its metadata is a {type(found).__name__}, not an object")
    _as_list(found, "captions", ("caption", "text", "prompt"), texts.get("txt") or texts.get("caption"))
    _as_list(found, "species", ("label", "class"), texts.get("cls"))
    return found


def _as_list(found: dict[str, Any], name: str, others: tuple[str, ...], fallback: str | None) -> None:
    value = found.get(name)
    if value is None:
        value = next((found[other] for other in others if isinstance(found.get(other), str)), fallback)
    if value is None:
        value = []
    found[name] = [str(item) for item in value] if isinstance(value, list) else [str(value)]
