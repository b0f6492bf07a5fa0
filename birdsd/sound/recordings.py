"""Recordings in and out: find, probe, read, stream and write sound files.

libsndfile (through soundfile) decodes and soxr resamples; both release the GIL and neither copies
more than it must. Waveforms are float32 arrays [channels, samples], full scale is +-1.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from birdsd.errors import UserError
from birdsd.files import atomic_write, muted

AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".w64", ".rf64", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc"}
    | {".au", ".caf"}
)
# Sound, but not for libsndfile: named in reports instead of being passed over in silence.
FOREIGN_SUFFIXES = frozenset({".m4a", ".aac", ".mp4", ".wma", ".amr", ".ape", ".wv", ".mka", ".webm"})

# soxr's HQ filter rings for about 100 samples of the lower rate: a part is read with this much on both
# sides, so that it equals the same part of the whole file.
_MARGIN_SAMPLES = 512
_RESAMPLER = "HQ"
_MAGIC = (b"RIFF", b"RF64", b"FORM", b"fLaC", b"OggS")
_FETCH_AGAIN = "fetch it again, or save what is left as a new file"


class RecordingError(UserError):
    """A file that cannot be used as sound; the message names it and says why."""


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    path: Path
    rate_hz: int
    channels: int
    duration_s: float


def walk(folder: Path) -> Iterator[Path]:
    """Every file below `folder` in a fixed order; hidden ones are skipped, linked folders followed once."""
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link that points back up, or at a folder that was listed already
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(here, name)


def find_recordings(folder: Path) -> list[Path]:
    """The sound files below `folder`, sorted; a single file is its own list."""
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"recordings folder {folder} does not exist", "", "name a folder of sound files")
    return sorted(path for path in walk(folder) if path.suffix.lower() in AUDIO_SUFFIXES)


def probe(path: Path) -> AudioInfo:
    """Read the header only. `RecordingError` when it is not sound, is empty or was cut short."""
    with _opened(Path(path)) as sound:
        return _info(Path(path), sound)


def read(
    path: Path, rate_hz: int, *, start_s: float = 0.0, duration_s: float | None = None, channels: int = 1
) -> np.ndarray:
    """Decode a part of a file at `rate_hz`: float32 [channels, samples], not padded and not normalised.

    Mono is the mean of the file's channels; stereo from mono is the same twice. The part may end
    before `duration_s` where the file does. Raises `RecordingError` for NaN or infinite samples, for a
    file that stops before its header says, and for a start that lies beyond the end.
    """
    path = Path(path)
    with _opened(path) as sound:
        info = _info(path, sound)
        first = round(start_s * info.rate_hz)
        count = sound.frames if duration_s is None else round(duration_s * info.rate_hz)
        end = min(sound.frames, first + count)
        if first < 0 or end <= first:
            raise RecordingError(
                f"{path} lasts {info.duration_s:.3f} s",
                f"the part from {start_s:.3f} s on, {duration_s} s long, lies outside of it",
            )
        low, high = _with_margins(first, end, sound.frames, info.rate_hz, rate_hz)
        frames = _decode(sound, path, low, high - low)
    if not len(frames):
        raise RecordingError(f"{path} ends before {start_s:.3f} s")
    waveform = _mix_channels(frames, channels, path)
    if info.rate_hz != rate_hz:
        waveform = soxr.resample(waveform, info.rate_hz, rate_hz, quality=_RESAMPLER)
        skipped = round(start_s * rate_hz) - low * rate_hz // info.rate_hz  # exact: see _with_margins
        waveform = waveform[skipped : skipped + max(1, round((end - first) * rate_hz / info.rate_hz))]
    return _as_channels_first(waveform, channels)


def blocks(path: Path, rate_hz: int, block_s: float, channels: int = 1) -> Iterator[tuple[float, np.ndarray]]:
    """Stream a file as (start_s, float32 [channels, samples]) blocks of `block_s`; the last may be shorter.

    Only one block is held, whatever the file's length. Errors are those of `read`.
    """
    path = Path(path)
    size = max(1, round(block_s * rate_hz))
    with _opened(path) as sound:
        info = _info(path, sound)
        stream = None
        if info.rate_hz != rate_hz:
            columns = min(channels, info.channels)
            stream = soxr.ResampleStream(info.rate_hz, rate_hz, columns, dtype="float32", quality=_RESAMPLER)
        step = max(1, math.ceil(block_s * info.rate_hz))
        held: list[np.ndarray] = []
        waiting = sent = position = 0
        end = sound.frames
        while position < end:
            asked = min(step, end - position)
            frames = _decode(sound, path, position, asked)
            position += asked
            if len(frames) < asked:  # the end, a little before where the header put it
                end = position
            part = _mix_channels(frames, channels, path)
            if stream is not None:
                part = stream.resample_chunk(part, last=position >= end)
            held.append(part)
            waiting += len(part)
            while waiting >= size:
                whole = np.concatenate(held) if len(held) > 1 else held[0]
                held, waiting = [whole[size:]], waiting - size
                yield sent / rate_hz, _as_channels_first(whole[:size], channels)
                sent += size
        if waiting:
            yield sent / rate_hz, _as_channels_first(np.concatenate(held), channels)


def write_wav(path: Path, waveform: np.ndarray, rate_hz: int, sample_format: str = "int16") -> int:
    """Write [channels, samples] (or [samples]) atomically as "int16" or "float32"; returns clipped samples.

    Samples beyond full scale are clipped in int16 and counted, so that a caller can say so. What
    `read` gives back is the same to half a 16-bit step.
    """
    waveform = np.atleast_2d(np.asarray(waveform, dtype=np.float32))
    if not _all_finite(waveform):
        raise UserError(f"cannot write {path}: the waveform has NaN or infinite samples")
    clipped = 0
    data = np.ascontiguousarray(waveform.T)
    if sample_format == "int16":
        clipped = int(np.count_nonzero(np.abs(data) > 1.0))
        data = np.clip(np.rint(data * 32768.0), -32768, 32767).astype(np.int16)
    elif sample_format != "float32":
        raise UserError(f"unknown sample format '{sample_format}'", "valid: int16, float32")
    # Encoded in memory: an error inside libsndfile's write callback (a full disk) would go unseen.
    buffer = io.BytesIO()
    subtype = "PCM_16" if sample_format == "int16" else "FLOAT"
    soundfile.write(buffer, data, rate_hz, format="WAV", subtype=subtype)
    with atomic_write(Path(path)) as stream:
        stream.write(buffer.getbuffer())
    return clipped


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    # Absolute, because libsndfile takes a file named "-" for standard input.
    absolute = os.path.abspath(path)
    try:
        with muted(2):  # mpg123 remarks on every oddity of a file, and does not name it
            sound = soundfile.SoundFile(absolute)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise _explain(path, error) from error
    with sound:
        yield sound


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
            "read are wav, flac, mp3, ogg, opus, aiff, au, caf",
            f"convert it, for example: ffmpeg -i INPUT{path.suffix} OUTPUT.flac",
        )
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head) and head[:4] not in _MAGIC:
        return RecordingError(f"{path} holds text, not sound", "", "a failed download may leave a web page")
    return RecordingError(f"{path} is damaged or not a sound file ({_reason(error)})")


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).removeprefix("Error : ").strip().rstrip(".")


def _info(path: Path, sound: soundfile.SoundFile) -> AudioInfo:
    if missing := _cut_short(sound.extra_info):
        raise RecordingError(f"{path} was cut short: {missing}", "", _FETCH_AGAIN)
    if sound.frames <= 0:
        raise RecordingError(f"{path} has no samples (it lasts 0 s)")
    return AudioInfo(path, int(sound.samplerate), int(sound.channels), sound.frames / sound.samplerate)


def _cut_short(log: str) -> str:
    """libsndfile reads what is left of a file; only its log tells that the header promised more."""
    for promised, there in re.findall(r"^ *(?:data|SSND) : (\d+) \(should be (\d+)\)", log, re.MULTILINE):
        # Writers to a pipe cannot go back and leave 0, or 2^31 and more, in the header: not cut short.
        if int(there) < int(promised) < 0x7FFFF000:
            return f"the header promises {promised} bytes of sound, {there} are there"
    if "Last page lacks an end-of-stream bit" in log:
        return "the stream has no end"
    return ""


def _decode(sound: soundfile.SoundFile, path: Path, first: int, count: int) -> np.ndarray:
    """float32 [count, channels] from frame `first` on; all of it (but for an MP3's last bit), all finite."""
    try:
        with muted(2):
            if sound.tell() != first:
                sound.seek(first)
            frames: np.ndarray = sound.read(count, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise RecordingError(
            f"{path} is damaged or cut short after {first / sound.samplerate:.2f} s ({_reason(error)})",
            "",
            _FETCH_AGAIN,
        ) from error
    if len(frames) < count and not _ends_as_estimated(sound, first + len(frames)):
        got_s, promised_s = (first + len(frames)) / sound.samplerate, sound.frames / sound.samplerate
        raise RecordingError(
            f"{path} was cut short: the header promises {promised_s:.2f} s, {got_s:.2f} s are there",
            "",
            _FETCH_AGAIN,
        )
    if not _all_finite(frames):
        bad = int(np.argmin(np.isfinite(frames).all(axis=1)))
        raise RecordingError(
            f"{path} has NaN or infinite samples (the first at {(first + bad) / sound.samplerate:.3f} s)"
        )
    return frames


def _ends_as_estimated(sound: soundfile.SoundFile, end: int) -> bool:
    """Without a Xing header the length of an MP3 is an estimate, from its size and its first frame."""
    return sound.format == "MP3" and sound.frames - end <= max(0.25 * sound.samplerate, 0.01 * sound.frames)


def _all_finite(values: np.ndarray) -> bool:
    # One NaN or infinity makes the sum so too: a single cheap pass in the common case.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


def _with_margins(first: int, end: int, frames: int, rate_in: int, rate_out: int) -> tuple[int, int]:
    """Widen the frames [first, end) so that resampling them gives exactly that part of the whole.

    The new start is a multiple of rate_in / gcd, which lies on the grid of output samples.
    """
    if rate_in == rate_out:
        return first, end
    period = rate_in // math.gcd(rate_in, rate_out)
    margin = math.ceil(_MARGIN_SAMPLES * max(1.0, rate_in / rate_out))
    return max(0, first - margin) // period * period, min(frames, end + margin)


def _mix_channels(frames: np.ndarray, channels: int, path: Path) -> np.ndarray:
    """[n, c] -> [n] when either side is mono, else [n, 2]."""
    present = frames.shape[1]
    if present == 1:
        return frames[:, 0]
    if channels == 1:
        return frames.mean(axis=1, dtype=np.float32)
    if present > channels:
        raise RecordingError(
            f"{path} has {present} channels",
            f"{channels} are asked for, and no rule says which of them to take",
            "use a codec with one channel (the mean of all), or split the file",
        )
    return frames


def _as_channels_first(waveform: np.ndarray, channels: int) -> np.ndarray:
    if waveform.ndim == 1:
        return waveform[np.newaxis] if channels == 1 else np.repeat(waveform[np.newaxis], channels, axis=0)
    return np.ascontiguousarray(waveform.T)
