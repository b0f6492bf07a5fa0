"""How long an MP3 really is: its frames are counted where no header says, or where the header is wrong.

libsndfile (mpg123) believes the Xing header, and without one takes the size of the first frame for that of
all: right for a constant bit rate, wrong by any factor for a variable one, and it stops at that length. A
joined file has the header of its first part. Such a file is given to it with a header of our own.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from birdsd.sound.audio.pieces import Piece

SUFFIXES = frozenset({".mp3", ".mpga", ".mp2", ".mp1", ".mpa"})
_KBITS = {  # by (MPEG 1?, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_IN_A_ROW = 4  # as many frames, each where the one before says, are no accident
_HEADER_BYTES = 1500  # the size in a Xing header may leave out the frame that holds it
_SKIPPED_BYTES = 512  # of junk between frames that mpg123 finds its way over by itself
_MOST_JUNK = 1 << 22  # before the first frame


@dataclass(frozen=True)
class Header:
    """A frame's four first bytes. `frame_bytes` counts them; `kind` is what all frames of a stream share."""

    kind: int
    layer: int
    rate_hz: int
    samples: int
    frame_bytes: int
    side_bytes: int  # from the frame's start to where a Xing header would stand


@dataclass(frozen=True)
class Survey:
    """What was counted: `samples` in all, at `rate_hz`, without what a decoder leaves out at the ends.

    `pieces` make a file whose header says the truth; there are none where the file's own header does, and
    they are not needed where it is `plain` and the decoder's estimate is `samples`. `missing` says what a
    header promised and is not there; `stranger` that a stream of another kind follows.
    """

    rate_hz: int
    samples: int
    pieces: tuple[Piece, ...] = ()
    plain: bool = True
    missing: str = ""
    stranger: str = ""


@dataclass
class _Part:
    """Frames from one Xing header (or the start) to the next; `promised` is None without a header."""

    promised: int | None = None
    counted: int = 0


def parse(data: bytes | mmap.mmap, at: int) -> Header | None:
    """The frame header at `at`, if one is there; free-format frames do not count."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    second, third, fourth = data[at + 1], data[at + 2], data[at + 3]
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    bits, rate = third >> 4, third >> 2 & 3
    if version == 1 or layer == 4 or rate == 3 or bits in (0, 15):
        return None
    first = version == 3
    rate_hz = _RATES_HZ[version][rate]
    kbits = _KBITS[first, layer][bits]
    padding = third >> 1 & 1
    if layer == 1:
        samples, size = 384, (12000 * kbits // rate_hz + padding) * 4
    else:
        samples = 1152 if first or layer == 2 else 576
        size = samples // 8 * 1000 * kbits // rate_hz + padding
    mono = fourth >> 6 == 3
    side = 4 + ((17 if mono else 32) if first else (9 if mono else 17))
    return Header((second & 0xFE) << 8 | (third & 0x0C) << 4 | mono, layer, rate_hz, samples, size, side)


def survey(path: Path) -> Survey | None:
    """Count the frames of an MP3, or believe a Xing header that fits the file; None where there are none.

    Reads the headers of frames only: some 30 us a second of sound.
    """
    with open(path, "rb") as stream:
        try:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (ValueError, OSError):  # empty, or not a file that can be mapped
            return None
        with data:
            end = _without_tags(data)
            start = _first_frame(data, _after_id3(data, 0), end)
            if start is None:
                return None
            first = parse(data, start)
            assert first is not None
            xing = _Xing.at(data, start, first)
            if xing is not None and xing.fits(end - start) and start == _after_id3(data, 0):
                return Survey(first.rate_hz, (xing.frames or 0) * first.samples)
            return _counted(data, start, end, first, xing)


def _counted(data: mmap.mmap, start: int, end: int, first: Header, xing: _Xing | None) -> Survey:
    body = start + (first.frame_bytes if xing else 0)
    parts = [_Part(xing.frames if xing else None)]
    runs: list[tuple[int, int]] = []
    stranger = ""
    for begin, stop, kind, headers, frames in _runs(data, body, end, first.kind):
        if kind != first.kind:
            if frames >= 10 and not stranger:
                stranger = f"from byte {begin} on, its sample rate or number of channels differs"
            continue
        runs.append((begin, stop - begin))
        position = 0
        for at, found in headers:
            parts[-1].counted += at - position
            parts.append(_Part(found.frames))
            position = at
        parts[-1].counted += frames - position
    frames = sum(part.counted for part in parts)
    samples, rate_hz = first.samples, first.rate_hz
    missing = ""
    for part in parts:
        lost = (part.promised or 0) - part.counted
        if lost * samples > max(0.25 * rate_hz, 0.01 * (part.promised or 0) * samples):
            promised_s, there_s = ((n * samples / rate_hz) for n in (part.promised or 0, part.counted))
            missing = f"the header promises {promised_s:.2f} s, {there_s:.2f} s are there"
    gaps = [b[0] - a[0] - a[1] for a, b in pairwise(runs)]
    simple = max(gaps, default=0) <= _SKIPPED_BYTES and start == _after_id3(data, 0)
    whole = frames * samples
    if first.layer != 3:  # a Xing header is layer III's
        return Survey(rate_hz, whole, (), True, missing, stranger)
    if simple and xing is not None and xing.frames == frames:
        return Survey(rate_hz, whole, (), True, missing, stranger)
    size = sum(length for _, length in runs)
    header = (
        _own_header(data, start, first, frames)
        if xing is None or not xing.frames
        else xing.telling(data, frames, size)
    )
    return Survey(rate_hz, whole, (header, *runs), simple and xing is None, missing, stranger)


@dataclass(frozen=True)
class _Xing:
    """A Xing, Info or VBRI header: the frame at `start` holds it, and no sound."""

    start: int
    size: int
    tag: int  # where the header itself begins
    frames: int | None
    stream_bytes: int | None
    lame: int = 0  # where the encoder's delay and padding stand, 0 for none

    @classmethod
    def at(cls, data: mmap.mmap, start: int, header: Header) -> _Xing | None:
        if header.layer != 3:
            return None
        tag = start + header.side_bytes
        if data[start + 36 : start + 40] == b"VBRI":
            size, frames = struct.unpack(">II", data[start + 46 : start + 54])
            return cls(start, header.frame_bytes, 0, None, size) if frames else None
        if data[tag : tag + 4] not in (b"Xing", b"Info") or tag + 120 > len(data):
            return None
        flags, at = data[tag + 7], tag + 8
        frames = stream_bytes = None
        if flags & 1:
            frames, at = struct.unpack(">I", data[at : at + 4])[0], at + 4
        if flags & 2:
            stream_bytes, at = struct.unpack(">I", data[at : at + 4])[0], at + 4
        at += (100 if flags & 4 else 0) + (4 if flags & 8 else 0)
        lame = at + 21 if data[at : at + 1].isalpha() and at + 24 <= start + header.frame_bytes else 0
        return cls(start, header.frame_bytes, tag, frames, stream_bytes, lame)

    def fits(self, stream_bytes: int) -> bool:
        """Whether it describes just this much, so that nothing has to be counted."""
        if not self.frames or not self.stream_bytes or not self.tag:
            return False
        return 0 <= stream_bytes - self.stream_bytes <= _HEADER_BYTES

    def telling(self, data: mmap.mmap, frames: int, size: int) -> bytes:
        """The frame with another number of frames, of `size` bytes, in it; the delay at the start stays."""
        frame = bytearray(data[self.start : self.start + self.size])
        struct.pack_into(">I", frame, self.tag - self.start + 8, frames)
        if self.stream_bytes is not None:
            struct.pack_into(">I", frame, self.tag - self.start + 12, self.size + size)
        if self.lame:  # the padding was that of the first part's end
            at = self.lame - self.start
            frame[at + 1] &= 0xF0
            frame[at + 2] = 0
        return bytes(frame)


def _own_header(data: mmap.mmap, start: int, first: Header, frames: int) -> bytes:
    """A frame with an Info header, of the kind of the frame at `start`, that says how many follow."""
    header = bytearray(data[start : start + 4])
    header[1] |= 1  # no checksum
    for bits in range(1, 15):  # the smallest frame that holds it
        header[2] = bits << 4 | (header[2] & 0x0D)
        found = parse(bytes(header), 0)
        if found is not None and found.frame_bytes >= found.side_bytes + 120:
            break
    assert found is not None
    return _tagged(bytes(header) + bytes(found.frame_bytes - 4), found.side_bytes, frames)


def _tagged(frame: bytes, tag: int, frames: int) -> bytes:
    info = b"Info" + struct.pack(">II", 1, frames)
    return frame[:4] + bytes(tag - 4) + info + bytes(len(frame) - tag - len(info))


def _runs(
    data: mmap.mmap, at: int, end: int, kind: int
) -> Iterator[tuple[int, int, int, list[tuple[int, _Xing]], int]]:
    """Unbroken rows of frames: (start, stop, kind, Xing headers by the number of frames before, frames)."""
    sizes: dict[int, int] = {}  # by the two bytes that decide; looked up once for each
    first = True
    while at + 4 <= end:
        begin, frames = at, 0
        headers: list[tuple[int, _Xing]] = []
        here = parse(data, at)
        if here is None or (not first and here.kind != kind and not _in_a_row(data, at, end)):
            found = _next_frame(data, at, end)
            if found is None:
                return
            at = found
            continue
        first = False
        sizes.clear()
        while at + 4 <= end and data[at] == 0xFF:
            two = data[at + 1] << 8 | data[at + 2]
            size = sizes.get(two)
            if size is None:
                header = parse(data, at)
                size = header.frame_bytes if header is not None and header.kind == here.kind else 0
                if not size:
                    break
                sizes[two] = size
            elif (data[at + 3] >> 6 == 3) != (here.kind & 1):
                break
            if at + size > end:
                at = end
                break
            if data[at + here.side_bytes] in b"XI" and (
                found_xing := _Xing.at(data, at, parse(data, at) or here)
            ):
                headers.append((frames, found_xing))
            frames += 1
            at += size
            stop = at
        if frames:
            yield begin, stop, here.kind, headers, frames
        else:
            at = max(at, begin + 1)


def _first_frame(data: mmap.mmap, at: int, end: int) -> int | None:
    found = parse(data, at)
    if found is not None and (at + found.frame_bytes >= end or parse(data, at + found.frame_bytes)):
        return at
    return _next_frame(data, at, min(end, at + _MOST_JUNK))


def _next_frame(data: mmap.mmap, at: int, end: int) -> int | None:
    """The next place from which several frames follow each other; tags are stepped over."""
    while True:
        at = _after_id3(data, at)
        tag, at = data.find(b"ID3", at, end), data.find(b"\xff", at, end)
        if at < 0:
            return None
        if 0 <= tag < at:
            at = tag
            if _after_id3(data, at) == at:
                at += 1
            continue
        if _in_a_row(data, at, end):
            return at
        at += 1


def _in_a_row(data: mmap.mmap, at: int, end: int) -> bool:
    kind = None
    for number in range(_IN_A_ROW):
        header = parse(data, at)
        if header is None or kind not in (None, header.kind):
            return number >= 2 and at >= end - 1
        kind = header.kind
        at += header.frame_bytes
        if at > end:
            return number >= 2
    return True


def _after_id3(data: mmap.mmap, at: int) -> int:
    """Past the ID3v2 tags at `at`, however many."""
    while data[at : at + 3] == b"ID3" and at + 10 <= len(data):
        sizes = data[at + 6 : at + 10]
        if max(sizes) > 127:
            break
        footer = 10 if data[at + 5] & 0x10 else 0
        at += 10 + footer + (sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3])
    return at


def _without_tags(data: mmap.mmap) -> int:
    """Where the sound ends: before ID3v1, APE and Lyrics3 tags at the end of the file."""
    end = len(data)
    while True:
        if end >= 128 and data[end - 128 : end - 125] == b"TAG":
            end -= 128
        elif end >= 32 and data[end - 32 : end - 24] == b"APETAGEX":
            size, _, flags = struct.unpack("<III", data[end - 20 : end - 8])
            whole = size + (32 if flags & 0x80000000 else 0)
            if not 32 <= whole <= end:
                return end
            end -= whole
        elif end >= 15 and data[end - 9 : end] == b"LYRICS200" and data[end - 15 : end - 9].isdigit():
            end -= min(end, 15 + int(data[end - 15 : end - 9]))
        else:
            return end
