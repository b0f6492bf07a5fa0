"""Recordings in and out: find, probe, read, stream and write sound files.

libsndfile (through soundfile) decodes and soxr resamples; both release the GIL and neither copies
more than it must. Waveforms are float32 arrays [channels, samples], full scale is +-1.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from birdsd.errors import BadValue, NotFound, UnknownName
from birdsd.files import atomic_write
from birdsd.remarks import Remark
from birdsd.sound.audio.channels import MEAN, ChannelChoice, asked_choice, choice_of, mixed
from birdsd.sound.audio.formats import AUDIO_SUFFIXES, FOREIGN_SUFFIXES
from birdsd.sound.audio.levels import fit, fitted_words
from birdsd.sound.audio.source import RecordingError, Source, all_finite, opened

__all__ = [
    "AUDIO_SUFFIXES",
    "FOREIGN_SUFFIXES",
    "AudioInfo",
    "RecordingError",
    "blocks",
    "find_recordings",
    "probe",
    "rate_remarks",
    "read",
    "walk",
    "write_wav",
    "written_note",
]

# soxr's HQ filter rings for about 100 samples of the lower rate: a part is read with this much on both
# sides, so that it equals the same part of the whole file.
_MARGIN_SAMPLES = 512
_RESAMPLER = "HQ"
NOT_RECORDINGS = ".not-recordings"  # in a folder: parts and tables of the sounds that lie above it
_TURNED_DOWN = fitted_words(-1.0).partition(" by ")[0]
# A step of less at a file's ends makes nothing ring that could be heard.
_STEP, _EDGE_S = 2e-3, 0.02


_NEARLY = 0.9  # of a rate: some bands above half of it cost no species


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says, and what is to be said of it (a header that was never finished, ...)."""

    path: Path
    rate_hz: int
    channels: int
    duration_s: float
    notes: tuple[str, ...] = ()


def walk(folder: Path) -> Iterator[Path]:
    """Every file below `folder` in a fixed order; hidden ones are skipped, linked folders followed once, and
    folders left out that hold a file called `NOT_RECORDINGS`."""
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link that points back up, or at a folder that was listed already
            folders.clear()
            continue
        seen.add(real)
        if NOT_RECORDINGS in names:
            folders.clear()
            continue
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
        raise NotFound(f"recordings folder {folder} does not exist", "", "name a folder of sound files")
    return sorted(path for path in walk(folder) if path.suffix.lower() in AUDIO_SUFFIXES)


def probe(path: Path) -> AudioInfo:
    """Read the header, and what it takes to know the length; of float samples also how large they are.

    `RecordingError` when it is not sound, is empty or was cut short.
    """
    with opened(Path(path)) as source:
        return AudioInfo(
            Path(path), source.rate_hz, source.channels, source.frames / source.rate_hz, source.notes
        )


def rate_remarks(files: Mapping[str, Path], top_hz: float) -> list[str]:
    """What to say of recordings (by their names) that hold nothing up to `top_hz`, where somebody listens."""
    low = []
    for name, path in files.items():
        with suppress(RecordingError):  # which others name
            if probe(path).rate_hz < 2 * _NEARLY * top_hz:
                low.append(name)
    if not low:
        return []
    which = f"1 recording ({low[0]}) has" if len(low) == 1 else f"{len(low)} recordings ({low[0]}, ...) have"
    text = (
        f"{which} a sampling rate below {2 * top_hz:.0f} Hz: the classifier listens up to "
        f"{top_hz / 1000:g} kHz, and above half the rate of a recording there is nothing"
    )
    return [Remark(text, "rate-too-low", recordings=low, needed_hz=2 * top_hz)]


def read(
    path: Path,
    rate_hz: int,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    channels: int = 1,
    channel: int | None = None,
) -> np.ndarray:
    """Decode a part of a file at `rate_hz`: float32 [channels, samples], not padded and not normalised.

    Mono is the mean of the file's channels, or the strongest where they cancel each other out (see
    `channels`); `channel` names one, from 1. Stereo from mono is the same twice. The part may end before
    `duration_s` where the file does. Raises `RecordingError` for NaN or infinite samples, for a file that
    stops before its header says, for a start beyond the end, and for a channel that is not there.
    """
    path = Path(path)
    with opened(path) as source:
        file_rate_hz, length = source.rate_hz, source.frames
        first = round(start_s * file_rate_hz)
        count = length if duration_s is None else round(duration_s * file_rate_hz)
        end = min(length, first + count)
        if first < 0 or end <= first:
            raise RecordingError(
                f"{path} lasts {length / file_rate_hz:.3f} s",
                f"the part from {start_s:.3f} s on, {duration_s} s long, lies outside of it",
            )
        low, high = _with_margins(first, end, length, file_rate_hz, rate_hz)
        frames = source.decode(low, high - low)
        if not len(frames):
            raise RecordingError(f"{path} ends before {start_s:.3f} s")
        whole = frames if low == 0 and high == length else None
        choice = _choice(source, channels, channel, whole)
    waveform = mixed(frames, channels, choice, path)
    if file_rate_hz != rate_hz:
        before, after = _held(waveform, file_rate_hz, rate_hz, low == 0, high == length)
        longer = np.concatenate([before, waveform, after]) if len(before) + len(after) else waveform
        waveform = soxr.resample(longer, file_rate_hz, rate_hz, quality=_RESAMPLER)
        # Exact: see _with_margins and _held.
        skipped = round(start_s * rate_hz) - (low - len(before)) * rate_hz // file_rate_hz
        waveform = waveform[skipped : skipped + max(1, round((end - first) * rate_hz / file_rate_hz))]
    return _as_channels_first(waveform, channels)


def blocks(
    path: Path, rate_hz: int, block_s: float, channels: int = 1, channel: int | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """Stream a file as (start_s, float32 [channels, samples]) blocks of `block_s`; the last may be shorter.

    Only one block is held, whatever the file's length. Channels and errors are those of `read`.
    """
    path = Path(path)
    size = max(1, round(block_s * rate_hz))
    with opened(path) as source:
        file_rate_hz = source.rate_hz
        choice = _choice(source, channels, channel)
        stream = None
        if file_rate_hz != rate_hz:
            columns = 1 if choice.channel is not None else min(channels, source.channels)
            stream = soxr.ResampleStream(file_rate_hz, rate_hz, columns, dtype="float32", quality=_RESAMPLER)
        step = max(1, math.ceil(block_s * file_rate_hz))
        parts: list[np.ndarray] = []
        waiting = sent = position = unwanted = 0
        end = source.frames
        while position < end:
            count = min(step, end - position)
            frames = source.decode(position, count)
            position += count
            if len(frames) < count:  # the end, a little before where the header put it
                end = position
            part = mixed(frames, channels, choice, path)
            if stream is not None:
                before, after = _held(part, file_rate_hz, rate_hz, position == count, position >= end)
                longer = np.concatenate([before, part, after]) if len(before) + len(after) else part
                part = stream.resample_chunk(longer, last=position >= end)
                unwanted += len(before) * rate_hz // file_rate_hz
                part, unwanted = part[unwanted:], unwanted - min(unwanted, len(part))
                if len(after):
                    part = part[: max(0, round(end * rate_hz / file_rate_hz) - sent - waiting)]
            parts.append(part)
            waiting += len(part)
            while waiting >= size:
                joined = np.concatenate(parts) if len(parts) > 1 else parts[0]
                parts, waiting = [joined[size:]], waiting - size
                yield sent / rate_hz, _as_channels_first(joined[:size], channels)
                sent += size
        if waiting:
            yield sent / rate_hz, _as_channels_first(np.concatenate(parts), channels)


def write_wav(path: Path, waveform: np.ndarray, rate_hz: int, sample_format: str = "int16") -> float:
    """Write [channels, samples] (or [samples]) atomically as "int16" or "float32"; returns the gain in dB.

    Samples beyond full scale do not fit into int16: then the whole is turned down (see `levels.fit`), by the
    gain that is returned and that stands in the file's comment; 0.0 where none was needed. What `read` gives
    back is the same, but for that gain, to half a 16-bit step.
    """
    waveform = np.atleast_2d(np.asarray(waveform, dtype=np.float32))
    if not all_finite(waveform):
        raise BadValue(f"cannot write {path}: the waveform has NaN or infinite samples")
    gain_db = 0.0
    if sample_format == "int16":
        waveform, gain_db = fit(waveform)
        data = np.clip(np.rint(waveform.T * 32768.0), -32768, 32767).astype(
            np.int16
        )  # 1.0 is a step too much
    elif sample_format == "float32":
        data = np.ascontiguousarray(waveform.T)
    else:
        raise UnknownName(f"unknown sample format '{sample_format}'", "valid: int16, float32")
    # Encoded in memory: an error inside libsndfile's write callback (a full disk) would go unseen.
    buffer = io.BytesIO()
    subtype = "PCM_16" if sample_format == "int16" else "FLOAT"
    with soundfile.SoundFile(buffer, "w", rate_hz, data.shape[1], format="WAV", subtype=subtype) as sound:
        if gain_db:
            sound.comment = fitted_words(gain_db)
        sound.write(data)
    with atomic_write(Path(path)) as stream:
        stream.write(buffer.getbuffer())
    return gain_db


def written_note(path: Path) -> str:
    """What `write_wav` had to say of a sound: that it was turned down; '' for any other file."""
    try:
        with soundfile.SoundFile(os.path.abspath(path)) as sound:
            comment = str(sound.comment)
    except (soundfile.LibsndfileError, OSError):
        return ""
    return comment if comment.startswith(_TURNED_DOWN) else ""


def _choice(
    source: Source, channels: int, channel: int | None, whole: np.ndarray | None = None
) -> ChannelChoice:
    if channel is not None:
        return asked_choice(source, channel)
    return choice_of(source, whole) if channels == 1 else MEAN


def _with_margins(first: int, end: int, frames: int, rate_in: int, rate_out: int) -> tuple[int, int]:
    """Widen the frames [first, end) so that resampling them gives exactly that part of the whole.

    The new start is a multiple of rate_in / gcd, which lies on the grid of output samples.
    """
    if rate_in == rate_out:
        return first, end
    period = rate_in // math.gcd(rate_in, rate_out)
    margin = math.ceil(_MARGIN_SAMPLES * max(1.0, rate_in / rate_out))
    return max(0, first - margin) // period * period, min(frames, end + margin)


def _held(
    waveform: np.ndarray, rate_in: int, rate_out: int, begins: bool, ends: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What to put before and behind a file's own beginning and end, [n] or [n, channels], while resampling.

    A recorder's offset is a step there, which a resampler makes ring: then it is held for a while. Nothing
    is needed inside of a file, and where there is no offset.
    """
    nothing = waveform[:0]
    period = rate_in // math.gcd(rate_in, rate_out)
    count = -(-math.ceil(_MARGIN_SAMPLES * max(1.0, rate_in / rate_out)) // period) * period
    parts, short = [], max(1, round(_EDGE_S * rate_in))
    for wanted, edge in ((begins, waveform[:short]), (ends, waveform[-short:])):
        level = edge.mean(axis=0, keepdims=True, dtype=np.float32) if wanted and len(edge) else nothing
        heard = len(level) and np.abs(level).max() > _STEP
        parts.append(np.repeat(level, count, axis=0) if heard else nothing)
    return parts[0], parts[1]


def resampled(waveform: np.ndarray, from_hz: float, to_hz: float) -> np.ndarray:
    """A whole waveform, [channels, samples] or [samples], at another rate; itself where they are equal."""
    if from_hz == to_hz:
        return waveform
    return np.asarray(soxr.resample(waveform.T, from_hz, to_hz, quality=_RESAMPLER).T)


def _as_channels_first(waveform: np.ndarray, channels: int) -> np.ndarray:
    if waveform.ndim == 1:
        return waveform[np.newaxis] if channels == 1 else np.repeat(waveform[np.newaxis], channels, axis=0)
    return np.ascontiguousarray(waveform.T)
