"""Structs of numbers and text out of a MATLAB file (level 5), read in Python alone.

scipy's reader is compiled and trusts the file: one flipped bit ended the whole process. Here every length is
held against what is there, nothing but numbers, text and structs is understood, and nothing is executed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from birdsd.errors import Damaged, NotFound, Unsupported

LARGEST_BYTES = 1 << 28  # of a file, and of what is in it unpacked
_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
# Types of stored numbers and text, by their number in the format.
_TYPES = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
    16: "u1", 17: "u2", 18: "u4",
}  # fmt: skip
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)
_DEEPEST = 4
_RULE = "it is to be a MATLAB file of level 5 (-v6 or -v7)"


class _Damaged(Exception):
    """The bytes are not what the format says."""


class _Reader(NamedTuple):
    """Bytes, and the order that they are written in."""

    data: memoryview
    order: str


def read_struct(path: Path, name: str) -> dict[str, Any]:
    """The fields of the struct `name`: arrays float64 or int, text, lists of these (cells), structs as dicts.

    `UserError` for anything that is no such file, or holds more than it may.
    """
    path = Path(path)
    if path.stat().st_size > LARGEST_BYTES:
        raise Unsupported(f"{path} is larger than {LARGEST_BYTES} bytes", "no model is that large")
    data = path.read_bytes()
    if len(data) < _HEADER_BYTES or data[126:128] not in (b"IM", b"MI") or not data.startswith(b"MATLAB"):
        raise Damaged(f"{path} is not a MATLAB file that can be read", _RULE)
    order = "<" if data[126:128] == b"IM" else ">"
    try:
        for body in _variables(_Reader(memoryview(data)[_HEADER_BYTES:], order)):
            found, value = _matrix(body, 0)
            if found == name and isinstance(value, dict):
                return value
    except (_Damaged, struct.error, zlib.error, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise Damaged(f"{path} is damaged: {error}", _RULE) from error
    raise NotFound(f"{path} holds no struct {name}", _RULE)


def _variables(reader: _Reader) -> Iterator[_Reader]:
    """The bodies of the variables of a file, unpacked one by one."""
    left = LARGEST_BYTES
    for kind, body in _elements(reader):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            plain = unpacker.decompress(body, left)
            if unpacker.unconsumed_tail:
                raise _Damaged(f"it unpacks to more than {LARGEST_BYTES} bytes")
            left -= len(plain)
            yield from (
                one for inner, one in _parts(_Reader(memoryview(plain), reader.order)) if inner == _MATRIX
            )
        elif kind == _MATRIX:
            yield _Reader(body, reader.order)


def _parts(reader: _Reader) -> Iterator[tuple[int, _Reader]]:
    return ((kind, _Reader(body, reader.order)) for kind, body in _elements(reader))


def _elements(reader: _Reader) -> Iterator[tuple[int, memoryview]]:
    """(type, content) of the data elements that follow each other."""
    data, at = reader.data, 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{reader.order}II", data, at)
        if kind >> 16:  # four bytes and fewer lie in the tag itself
            kind, size, first = kind & 0xFFFF, kind >> 16, at + 4
            if size > 4:
                raise _Damaged(f"{size} bytes in a small element")
            following = at + 8
        else:
            first = at + 8
            following = first + size if kind == _COMPRESSED else first + -(-size // 8) * 8
        if first + size > len(data):
            raise _Damaged(f"{size} bytes are promised and {len(data) - first} are there")
        yield kind, data[first : first + size]
        at = following


def _matrix(reader: _Reader, depth: int) -> tuple[str, Any]:
    """The name and the value of a variable or a field."""
    if depth > _DEEPEST:
        raise _Damaged("it is nested too deeply")
    parts = list(_elements(reader))
    if not parts:
        return "", np.zeros(0)
    if len(parts) < 3 or len(parts[0][1]) < 8:
        raise _Damaged("a variable has no head")
    kind = struct.unpack_from(f"{reader.order}I", parts[0][1])[0] & 0xFF
    shape = [int(one) for one in _numbers(*parts[1], reader.order)]
    name = bytes(parts[2][1]).decode("ascii", "replace")
    if any(one < 0 for one in shape):
        raise _Damaged(f"{name or 'a field'} has the shape {shape}")
    rest = parts[3:]
    if kind == _STRUCT:
        return name, _fields(rest, shape, reader.order, depth)
    if kind == _CELL:
        return name, [
            _matrix(_Reader(body, reader.order), depth + 1)[1] for inner, body in rest if inner == _MATRIX
        ]
    if kind != _CHAR and kind not in _NUMERIC:
        return name, None  # objects, functions, sparse matrices: nothing that a model has
    values = _numbers(*rest[0], reader.order) if rest else np.zeros(0)
    if kind == _CHAR:
        return name, "".join(map(chr, values.astype(int).tolist()))
    if values.size != np.prod(shape, dtype=object):
        raise _Damaged(f"{name or 'a field'} has {values.size} values for the shape {shape}")
    return name, values.reshape(shape, order="F")


def _fields(parts: list[tuple[int, memoryview]], shape: list[int], order: str, depth: int) -> dict[str, Any]:
    """The fields of a struct of one element."""
    if np.prod(shape, dtype=object) != 1 or len(parts) < 2:
        raise _Damaged(f"a struct has the shape {shape}")
    width = int(_numbers(*parts[0], order)[0]) if len(parts[0][1]) >= 4 else 0
    text = bytes(parts[1][1])
    if not 1 <= width <= 64 or len(text) % width:
        raise _Damaged("the names of a struct's fields are cut off")
    names = [
        text[at : at + width].split(b"\0")[0].decode("ascii", "replace") for at in range(0, len(text), width)
    ]
    bodies = [body for kind, body in parts[2:] if kind == _MATRIX]
    if len(bodies) != len(names):
        raise _Damaged(f"a struct has {len(names)} names and {len(bodies)} fields")
    return {
        name: _matrix(_Reader(body, order), depth + 1)[1] for name, body in zip(names, bodies, strict=True)
    }


def _numbers(kind: int, body: memoryview, order: str) -> np.ndarray:
    """Stored numbers as float64, or int64 where they are whole."""
    if kind not in _TYPES:
        raise _Damaged(f"numbers of an unknown type {kind}")
    stored = np.dtype(order + _TYPES[kind])
    if len(body) % stored.itemsize:
        raise _Damaged("numbers are cut off")
    values = np.frombuffer(body, stored)
    return values.astype(np.float64 if stored.kind == "f" else np.int64)
