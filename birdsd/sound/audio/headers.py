"""Headers that were never finished: of a recorder that lost power, or of a program that wrote to a pipe.

Such a file says that it holds nothing, or less than it does, or not how much. It is read with the header
that it would have got: see `unfinished`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from birdsd.remarks import Remark
from birdsd.sound.audio.pieces import Piece

_HEAD_BYTES = 1 << 16
_LEAST_S = 0.1  # of sound behind a header's end, to be called forgotten and not filler
_PLAIN_AIFC = (b"NONE", b"sowt", b"twos", b"fl32", b"FL32", b"in24", b"in32")
_FLAC_BLOCKS = {1: 192, **{n: 576 << n - 2 for n in range(2, 6)}, **{n: 256 << n - 8 for n in range(8, 16)}}


@dataclass(frozen=True)
class Unfinished:
    """The file as it would be (see `pieces.as_file`), and a sentence about it, '' where there is no need."""

    pieces: tuple[Piece, ...]
    note: str = ""


def unfinished(path: Path) -> Unfinished | None:
    """What is there behind a header that promises less; None for a header that is in order."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        head = stream.read(12)
        if head[:4] not in (b"RIFF", b"RF64", b"FORM", b"fLaC", b"caff") and head[:4] != b".snd":
            return None
        head += stream.read(_HEAD_BYTES - len(head))
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return _wav(path, head, size)
    if head[:4] == b"FORM" and head[8:11] == b"AIF":
        return _aiff(path, head, size)
    if head[:4] == b"fLaC":
        return _flac(path, head, size)
    if head[:4] == b"caff":
        return _caf(head, size)
    return _au(head, size) if head[:4] == b".snd" else None


def _wav(path: Path, head: bytes, size: int) -> Unfinished | None:
    chunks = _chunks(head, 12, "<")
    form, data = chunks.get(b"fmt "), chunks.get(b"data")
    if form is None or data is None or form[1] < 16:
        return None
    _, _, per_second, block = struct.unpack_from("<HIIH", head, form[0] + 2)
    begin, promised = data
    if head[:4] == b"RF64" and promised == 0xFFFFFFFF and b"ds64" in chunks:
        promised = struct.unpack_from("<Q", head, chunks[b"ds64"][0] + 8)[0]
    if not block or not per_second:
        return None
    there = (size - begin) // block * block
    if promised >= size - begin or not _forgotten(path, begin, promised, size, "<", per_second):
        return None
    new = bytearray(head[:begin])
    if head[:4] == b"RF64" and b"ds64" in chunks:
        struct.pack_into("<QQQ", new, chunks[b"ds64"][0], begin - 8 + there, there, there // block)
        struct.pack_into("<I", new, begin - 4, 0xFFFFFFFF)
    else:  # 4 GiB and more: what a pipe would have left, which is read to the end
        struct.pack_into("<I", new, 4, min(begin - 8 + there, 0xFFFFFFFF))
        struct.pack_into("<I", new, begin - 4, there if there < 0x7FFFF000 else 0xFFFFFFFF)
    return Unfinished((bytes(new), (begin, there)), _note(promised, there, per_second))


def _aiff(path: Path, head: bytes, size: int) -> Unfinished | None:
    chunks = _chunks(head, 12, ">")
    common, sound = chunks.get(b"COMM"), chunks.get(b"SSND")
    if common is None or sound is None:
        return None
    if head[8:12] == b"AIFC" and head[common[0] + 18 : common[0] + 22] not in _PLAIN_AIFC:
        return None
    channels, _, bits = struct.unpack_from(">hIh", head, common[0])
    block = channels * -(-bits // 8)
    per_second = round(_extended(head[common[0] + 8 : common[0] + 18]) * block)
    begin, promised = sound[0] + 8, max(0, sound[1] - 8)
    if block <= 0 or per_second <= 0 or promised >= size - begin:
        return None
    if not _forgotten(path, begin, promised, size, ">", per_second):
        return None
    there = (size - begin) // block * block
    new = bytearray(head[:begin])
    struct.pack_into(">I", new, 4, begin - 8 + there)
    struct.pack_into(">I", new, common[0] + 2, there // block)
    struct.pack_into(">I", new, sound[0] - 4, there + 8)
    return Unfinished((bytes(new), (begin, there)), _note(promised, there, per_second))


def _caf(head: bytes, size: int) -> Unfinished | None:
    """The format allows -1 ("to the end of the file"); libsndfile calls it malformed."""
    at = 8
    while at + 12 <= len(head):
        name, length = struct.unpack_from(">4sq", head, at)
        if name == b"data" and (length == -1 or (length == 4 and size > at + 16)):
            new = head[: at + 4] + struct.pack(">q", size - at - 12)
            note = "" if length == -1 else "its header was never finished: read to the end of the file"
            return Unfinished((new, (at + 12, size - at - 12)), note)
        if length < 0:
            return None
        at += 12 + length
    return None


def _au(head: bytes, size: int) -> Unfinished | None:
    begin, promised = struct.unpack_from(">II", head, 4) if len(head) >= 24 else (0, 1)
    if promised or not 24 <= begin < min(size, len(head)):
        return None
    new = head[:8] + b"\xff" * 4 + head[12:begin]  # "not known", which the format allows
    note = Remark("its header was never finished: read to the end of the file", "unfinished-header")
    return Unfinished((new, (begin, size - begin)), note)


def _flac(path: Path, head: bytes, size: int) -> Unfinished | None:
    """A stream that does not say how long it is: the number of its last frame does."""
    if len(head) < 42 or head[4] & 0x7F != 0:
        return None
    if head[21] & 0x0F or any(head[22:26]):  # the 36 bits of the number of samples
        return None
    fixed = int.from_bytes(head[8:10], "big")
    with open(path, "rb") as stream:
        stream.seek(max(42, size - (1 << 18)))
        samples = _flac_end(stream.read(), fixed)
    if samples is None:
        return None
    new = bytearray(head[:42])
    new[21] |= samples >> 32 & 0x0F
    struct.pack_into(">I", new, 22, samples & 0xFFFFFFFF)
    return Unfinished((bytes(new), (42, size - 42)))


def _flac_end(tail: bytes, fixed: int) -> int | None:
    """The sample after the last frame whose header stands in `tail`; `fixed`: the stream's block size."""
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        if tail[at + 1 : at + 2] in (b"\xf8", b"\xf9") and (found := _flac_frame(tail, at, fixed)):
            return found
    return None


def _flac_frame(data: bytes, at: int, fixed: int) -> int | None:
    variable, codes, end = data[at + 1] & 1, data[at + 2 : at + 4], at + 5
    if len(data) < at + 16 or codes[0] >> 4 == 0 or codes[0] & 15 == 15 or codes[1] & 1:
        return None
    lead = data[at + 4]
    more = 0 if lead < 0x80 else 8 - (lead ^ 0xFF).bit_length() - 1
    if (more == 0 and lead >= 0x80) or more > 6:
        return None
    number = lead if not more else lead & (0x3F >> more)
    for byte in data[end : end + more]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    end += more
    code = codes[0] >> 4
    if code in (6, 7):
        block = int.from_bytes(data[end : end + code - 5], "big") + 1
        end += code - 5
    else:
        block = _FLAC_BLOCKS[code]
    end += {12: 1, 13: 2, 14: 2}.get(codes[0] & 15, 0)
    check = 0
    for byte in data[at:end]:
        check ^= byte
        for _ in range(8):
            check = (check << 1 ^ (0x07 if check & 0x80 else 0)) & 0xFF
    if check != data[end]:
        return None
    return (number if variable else number * fixed) + block


def _chunks(head: bytes, at: int, order: str) -> dict[bytes, tuple[int, int]]:
    """(where its content begins, size) of each chunk up to that of the sound."""
    found: dict[bytes, tuple[int, int]] = {}
    while at + 8 <= len(head):
        name, size = struct.unpack_from(f"{order}4sI", head, at)
        found.setdefault(name, (at + 8, size))
        if name in (b"data", b"SSND"):
            break
        at += 8 + size + size % 2
    return found


def _forgotten(path: Path, begin: int, promised: int, size: int, order: str, per_second: int) -> bool:
    """Whether what follows the promised sound is neither chunks nor filler, but more sound."""
    at = begin + promised + promised % 2
    if size - begin - promised < (_LEAST_S * per_second if promised else 1):
        return False
    with open(path, "rb") as stream:
        stream.seek(at)
        rest = stream.read(4096)
        if promised and (not any(rest) or all(byte >= 32 or byte in b"\t\r\n" for byte in rest[:256])):
            return False
        while at + 8 <= size:  # chunks, one after the other, to the end of the file
            stream.seek(at)
            name, length = struct.unpack(f"{order}4sI", stream.read(8))
            if not all(32 <= byte < 127 for byte in name) or length > size - at:
                return True
            at += 8 + length + length % 2
    return False


def _note(promised: int, there: int, per_second: int) -> str:
    said_s, there_s = promised / per_second, there / per_second
    text = f"its header was never finished (it promises {said_s:.2f} s): read to the end of the file, "
    text += f"{there_s:.2f} s"
    return Remark(text, "unfinished-header", promised_s=said_s, there_s=there_s)


def _extended(data: bytes) -> float:
    """An 80-bit float, as AIFF has its sample rate."""
    sign, mantissa = struct.unpack(">hQ", data)
    return float(mantissa) * 2.0 ** ((sign & 0x7FFF) - 16383 - 63)
