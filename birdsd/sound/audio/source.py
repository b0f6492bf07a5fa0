"""One opened sound file: what its header says, what is really there, and its samples.

libsndfile (through soundfile) decodes. Where a header is wrong, or none says how long the file is, it is
given the file with a header that is right (see `headers` and `mp3`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import soundfile

from birdsd.errors import UserError
from birdsd.files import muted
from birdsd.sound.audio import mp3
from birdsd.sound.audio.formats import FOREIGN_SUFFIXES, foreign_reason
from birdsd.sound.audio.headers import Unfinished, unfinished
from birdsd.sound.audio.levels import float_scale
from birdsd.sound.audio.pieces import as_file

_MAGIC = (b"RIFF", b"RF64", b"FORM", b"fLaC", b"OggS")
_FETCH_AGAIN = "fetch it again, or save what is left as a new file"
# A frame of an MP3 may keep bits in the 511 bytes before it, which can be many frames of near silence (the
# more, the lower the rate): a part is decoded from this much earlier on.
_MP3_LEAD_SAMPLES, _MP3_LEAD_BELOW_32_KHZ = 16 * 1152, 64 * 576
_PCM_16, _FULL_SCALE = "PCM_16", np.float32(2**15)  # what most recorders write
_MOST_SAMPLES = 1 << 48  # more than any file has: libsndfile's word for "not known"


class RecordingError(UserError):
    """A file that cannot be used as sound; the message names it and says why."""

    code = "recording"


@dataclass(frozen=True)
class Source:
    """An opened file. `scale` is the factor that makes its samples those of a full scale of 1.

    `key` stands for the content: the same file, unchanged, has the same one.
    """

    path: Path
    key: tuple[str, int, int]
    sound: soundfile.SoundFile
    scale: float = 1.0
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        return int(self.sound.frames)

    @property
    def rate_hz(self) -> int:
        return int(self.sound.samplerate)

    @property
    def channels(self) -> int:
        return int(self.sound.channels)

    def decode(self, first: int, count: int) -> np.ndarray:
        """float32 [count, channels] from frame `first` on: all of it (but an MP3's last bit), all finite."""
        frames = self._raw(first, count)
        if len(frames) < count and not self._ends_as_estimated(first + len(frames)):
            got_s, promised_s = (first + len(frames)) / self.rate_hz, self.frames / self.rate_hz
            raise RecordingError(
                f"{self.path} was cut short: the header promises {promised_s:.2f} s, {got_s:.2f} s are there",
                "",
                _FETCH_AGAIN,
            )
        if self.sound.subtype != _PCM_16 and not all_finite(frames):
            bad = int(np.argmin(np.isfinite(frames).all(axis=1)))
            raise RecordingError(
                f"{self.path} has NaN or infinite samples (the first at {(first + bad) / self.rate_hz:.3f} s)"
            )
        return frames if self.scale == 1.0 else frames * np.float32(self.scale)

    def peek(self, first: int, count: int) -> np.ndarray:
        """What `decode` gives, where a little less, or a number that is not finite, is no matter."""
        return np.nan_to_num(self._raw(first, count) * np.float32(self.scale), posinf=0.0, neginf=0.0)

    @property
    def _lead(self) -> int:
        return _MP3_LEAD_SAMPLES if self.rate_hz >= 32000 else _MP3_LEAD_BELOW_32_KHZ

    def _raw(self, first: int, count: int) -> np.ndarray:
        sound = self.sound
        try:
            with muted(2) if sound.format == "MP3" else nullcontext():  # mpg123 remarks on every oddity
                lead = 0
                if sound.tell() != first:
                    lead = min(first, self._lead) if sound.format == "MP3" else 0
                    sound.seek(first - lead)
                with _sequential(sound):
                    count = max(0, min(count, self.frames - first))
                    frames = _decoded(sound, lead + count)[lead:]
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise RecordingError(
                f"{self.path} is damaged or cut short after {first / self.rate_hz:.2f} s ({_reason(error)})",
                "",
                _FETCH_AGAIN,
            ) from error
        return frames

    def _ends_as_estimated(self, end: int) -> bool:
        """The header of an MP3 counts frames, of which the encoder's delay and padding are left out."""
        return self.sound.format == "MP3" and self.frames - end <= max(
            0.25 * self.rate_hz, 0.01 * self.frames
        )


def _decoded(sound: soundfile.SoundFile, count: int) -> np.ndarray:
    """float32 [count, channels] from the current position. Samples of 16 bits are read as integers and
    converted here: the same numbers in about a quarter of the time that libsndfile takes to convert them."""
    if sound.subtype != _PCM_16:
        return np.asarray(sound.read(count, dtype="float32", always_2d=True))
    frames: np.ndarray = sound.read(count, dtype="int16", always_2d=True).astype(np.float32)
    frames /= _FULL_SCALE
    return frames


@contextmanager
def _sequential(sound: soundfile.SoundFile) -> Iterator[None]:
    """Read on from where one is. soundfile seeks to that place after each reading, and an MP3's decoder then
    begins anew: it forgets the frames before, and complains on the terminal."""
    info = getattr(sound, "_info", None) if sound.format == "MP3" else None
    seekable = getattr(info, "seekable", 0)
    if not seekable:
        yield
        return
    info.seekable = 0  # type: ignore[union-attr]
    try:
        yield
    finally:
        info.seekable = seekable  # type: ignore[union-attr]


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """The file, opened and checked; `RecordingError` when it is not sound, is empty or was cut short."""
    path = Path(path)
    # Absolute, because libsndfile takes a file named "-" for standard input.
    absolute = os.path.abspath(path)
    with ExitStack() as stack:
        try:
            state = os.stat(absolute)
            key = absolute, state.st_size, state.st_mtime_ns
            mended = _mended(*key)
            sound = stack.enter_context(_sound_file(path, key, mended, stack))
        except (soundfile.LibsndfileError, OSError, TypeError) as error:
            raise _explain(path, error) from error
        sound = _whole_mp3(path, key, sound, stack)
        _check(path, sound, mended is not None)
        notes = [mended.note] if mended is not None and mended.note else []
        scale = 1.0
        if sound.subtype in ("FLOAT", "DOUBLE"):
            scale, note = _float_scale(path, key, sound)
            notes += [note] if note else []
        yield Source(path, key, sound, scale, tuple(notes))


def all_finite(values: np.ndarray) -> bool:
    """Whether no value is NaN or infinite."""
    # One NaN or infinity makes the sum so too: a single cheap pass in the common case.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


def spread(frames: int, rate_hz: int) -> list[tuple[int, int]]:
    """(first, count) of what is looked at to judge a whole file: all of a short one, else 16 places in it."""
    places = 16
    if frames <= 4 * rate_hz:
        return [(0, frames)]
    count = int(min(rate_hz, max(rate_hz / 8, 0.1 * frames / places)))
    return [(i * (frames - count) // (places - 1), count) for i in range(places)]


def _sound_file(
    path: Path, key: tuple[str, int, int], mended: Unfinished | None, stack: ExitStack
) -> soundfile.SoundFile:
    if mended is not None:
        return _quietly(stack.enter_context(as_file(path, mended.pieces)))
    try:
        return _quietly(key[0])
    except soundfile.LibsndfileError:
        # Something before the first frame of an MP3 hides it.
        if path.suffix.lower() not in mp3.SUFFIXES or not (counted := _counted(*key)) or not counted.pieces:
            raise
        return _quietly(stack.enter_context(as_file(path, counted.pieces)))


def _quietly(file: Any) -> soundfile.SoundFile:
    """Open without mpg123's remarks on the terminal, which name no file; errors are raised all the same."""
    with muted(2):
        return soundfile.SoundFile(file)


def _whole_mp3(
    path: Path, key: tuple[str, int, int], sound: soundfile.SoundFile, stack: ExitStack
) -> soundfile.SoundFile:
    """The same file, opened so that its length is the true one."""
    counted = _counted(*key) if sound.format == "MP3" else None
    if counted is None:
        return sound
    if counted.missing:
        raise RecordingError(f"{path} was cut short: {counted.missing}", "", _FETCH_AGAIN)
    if counted.stranger:
        raise RecordingError(
            f"{path} consists of MP3 streams that differ: {counted.stranger}",
            "a file must have one sample rate and one number of channels",
            "convert it, for example: ffmpeg -i INPUT.mp3 OUTPUT.flac",
        )
    if not counted.pieces or (counted.plain and sound.frames == counted.samples):
        return sound
    return stack.enter_context(_quietly(stack.enter_context(as_file(path, counted.pieces))))


@lru_cache(maxsize=512)
def _mended(absolute: str, size: int, mtime_ns: int) -> Unfinished | None:
    return unfinished(Path(absolute)) if os.path.isfile(absolute) else None


@lru_cache(maxsize=4096)
def _counted(absolute: str, size: int, mtime_ns: int) -> mp3.Survey | None:
    return mp3.survey(Path(absolute))


_lock = Lock()
_scales: dict[tuple[str, int, int], tuple[float, str]] = {}


def _float_scale(path: Path, key: tuple[str, int, int], sound: soundfile.SoundFile) -> tuple[float, str]:
    """What `levels.float_scale` says of the file's samples; asked once for each file."""
    known = _scales.get(key)
    if known is None:
        peak, integers = 0.0, True
        try:
            for first, count in spread(sound.frames, sound.samplerate):
                sound.seek(first)
                values = sound.read(count, dtype="float32")
                peak = max(peak, float(np.abs(values).max(initial=0.0)))
                integers = integers and bool((values == np.rint(values)).all())
            sound.seek(0)
        except (soundfile.LibsndfileError, RuntimeError):  # damage, which decoding will tell of
            return 1.0, ""
        try:
            found = float_scale(peak, integers)
        except UserError as error:
            raise RecordingError(f"{path}: {error.problem}", error.expected, error.hint) from error
        with _lock:
            if len(_scales) > 4096:
                _scales.pop(next(iter(_scales)))
            _scales[key] = found
        return found
    return known


def _check(path: Path, sound: soundfile.SoundFile, mended: bool) -> None:
    if missing := "" if mended else _cut_short(sound.extra_info):
        raise RecordingError(f"{path} was cut short: {missing}", "", _FETCH_AGAIN)
    if sound.frames <= 0:
        raise RecordingError(f"{path} has no samples (it lasts 0 s)")
    if sound.frames > _MOST_SAMPLES:
        raise RecordingError(
            f"{path} does not say how long it is, and its end is damaged", "", "save it as a new file"
        )


def _explain(path: Path, error: Exception) -> RecordingError:
    if not path.exists():
        return RecordingError(f"{path} does not exist")
    if path.is_dir():
        return RecordingError(f"{path} is a folder, not a sound file")
    try:
        with open(path, "rb") as stream:
            head = stream.read(512)
    except OSError as problem:
        return RecordingError(f"{path} cannot be read: {problem.strerror}")
    if not head:
        return RecordingError(f"{path} is empty (0 bytes)")
    if path.suffix.lower() in FOREIGN_SUFFIXES:
        return RecordingError(
            f"{path} is in a format that libsndfile does not decode",
            "supported are wav, flac, mp3, ogg, opus, aiff, au, caf",
            foreign_reason(path).partition(": ")[2],
        )
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head) and head[:4] not in _MAGIC:
        return RecordingError(f"{path} holds text, not sound", "", "a failed download may leave a web page")
    return RecordingError(f"{path} is damaged or not a sound file ({_reason(error)})")


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).removeprefix("Error : ").strip().rstrip(".")


def _cut_short(log: str) -> str:
    """libsndfile reads what is left of a file; only its log tells that the header promised more."""
    for promised, there in re.findall(r"^ *(?:data|SSND) : (\d+) \(should be (\d+)\)", log, re.MULTILINE):
        # Writers to a pipe cannot go back and leave 0, or 2^31 and more, in the header: not cut short.
        if int(there) < int(promised) < 0x7FFFF000:
            return f"the header promises {promised} bytes of sound, {there} are there"
    if "Last page lacks an end-of-stream bit" in log:
        return "the stream has no end"
    return ""
