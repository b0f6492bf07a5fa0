"""MP3 files without a header that says how long they are, or with one that is wrong."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdsd.sound.audio import mp3
from birdsd.sound.audio.recordings import RecordingError, blocks, probe, read
from tests.support.errors import refuses

PULSE_HZ = 3000.0


def song(seconds: float, rate_hz: int, channels: int = 1) -> np.ndarray:
    """[samples, channels]: loud noise, then near silence (so that the rate varies); a pulse each 2 s."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(0).standard_normal(len(time)) * np.where(time < seconds / 3, 0.1, 1e-5)
    pulses = np.where(time % 2 < 0.1, 0.5 * np.sin(2 * np.pi * PULSE_HZ * time), 0)
    return np.repeat((noise + pulses)[:, None], channels, axis=1).astype(np.float32)


def encoded(
    folder: Path, sound: np.ndarray, rate_hz: int, mode: str = "VARIABLE", level: float = 0.5
) -> bytes:
    path = folder / "encoded.mp3"
    settings = {"bitrate_mode": mode, "compression_level": level, "format": "MP3"}
    with soundfile.SoundFile(path, "w", rate_hz, sound.shape[1], **settings) as stream:
        stream.write(sound)
    return path.read_bytes()


def bare(data: bytes) -> bytes:
    """Without the frame that says how many follow."""
    header = mp3.parse(data, 0)
    assert header is not None and (b"Xing" in data[:64] or b"Info" in data[:64])
    return data[header.frame_bytes :]


def id3(size: int) -> bytes:
    # A picture may hold anything, also what looks like frames.
    size_bytes = bytes(size >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size_bytes + (b"\xff\xfb\x90\x00" * size)[:size]


def ape(size: int) -> bytes:
    return bytes(size) + b"APETAGEX" + struct.pack("<IIII", 2000, size + 32, 1, 0) + bytes(8)


def check(path: Path, seconds: float, rate_hz: int, channels: int = 1) -> None:
    """The length is known from the outset, all of it can be read, and parts are where they belong."""
    assert probe(path).duration_s == pytest.approx(seconds, abs=0.15)
    whole = read(path, rate_hz, channels=channels)
    assert whole.shape == (channels, round(probe(path).duration_s * rate_hz))
    joined = np.concatenate([piece for _, piece in blocks(path, rate_hz, 0.7, channels)], axis=1)
    assert np.abs(joined - whole).max() < 1e-3
    middle = read(path, rate_hz, start_s=0.6 * seconds, duration_s=0.5, channels=channels)
    first = round(0.6 * seconds * rate_hz)
    assert np.abs(middle - whole[:, first : first + middle.shape[1]]).max() < 1e-2
    last = whole[:, -round(2.5 * rate_hz) :]  # a pulse each 2 s, also at the end
    assert np.abs(last).max() > 0.3


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 48000])  # MPEG 2.5, 2.5, 2 and 1
@pytest.mark.parametrize("channels", [1, 2])
def test_the_frames_are_counted_where_no_header_says(tmp_path, mode, rate_hz, channels):
    data = encoded(tmp_path, song(9.0, rate_hz, channels), rate_hz, mode)
    path = tmp_path / "a.mp3"
    path.write_bytes(bare(data))
    check(path, 9.0, rate_hz, channels)


def test_a_quiet_beginning_makes_no_longer_file_and_a_loud_one_no_shorter(tmp_path):
    loud = song(12.0, 22050)
    for name, sound in (("loud", loud), ("quiet", loud[::-1].copy())):
        path = tmp_path / f"{name}.mp3"
        path.write_bytes(bare(encoded(tmp_path, sound, 22050)))
        assert probe(path).duration_s == pytest.approx(12.0, abs=0.12)
        assert read(path, 22050).shape[1] == pytest.approx(12.0 * 22050, abs=2700)


@pytest.mark.parametrize("header", [True, False], ids=["xing", "bare"])
def test_tags_and_junk_are_no_sound(tmp_path, header):
    data = encoded(tmp_path, song(6.0, 44100), 44100)
    data = data if header else bare(data)
    path = tmp_path / "a.mp3"
    for before, after in (
        (id3(300), b""), (id3(5000) + id3(70000), b"TAG" + bytes(125)), (b"", ape(4000)),
        (id3(10), ape(200000) + b"TAG" + bytes(125)), (bytes(3000), b""), (b"junk" * 500, b"\xff\xfb" * 4000),
    ):  # fmt: skip
        path.write_bytes(before + data + after)
        check(path, 6.0, 44100)


@pytest.mark.parametrize("tag", [b"", id3(90000), b"TAG" + bytes(125)], ids=["plain", "id3v2", "id3v1"])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_a_joined_file_is_as_long_as_its_parts(tmp_path, mode, tag):
    first, second = (encoded(tmp_path, song(s, 44100), 44100, mode) for s in (4.0, 6.0))
    path = tmp_path / "a.mp3"
    for data in (first + tag + second, bare(first) + tag + second, first + tag + bare(second)):
        path.write_bytes(data)
        check(path, 10.0, 44100)


def test_what_a_header_promises_and_is_not_there_is_told_before_anything_is_decoded(tmp_path):
    path = tmp_path / "a.mp3"
    data = encoded(tmp_path, song(10.0, 44100), 44100)
    path.write_bytes(data[: len(data) // 2])
    with refuses(("a.mp3", " 10.", " s, "), kind=RecordingError):
        probe(path)
    path.write_bytes(data + data[: len(data) // 2])  # the second part
    with refuses(("a.mp3", "10.03 s", "3.50 s"), kind=RecordingError):
        probe(path)


def test_streams_of_another_rate_behind_the_first_are_not_lost_in_silence(tmp_path):
    path = tmp_path / "a.mp3"
    path.write_bytes(encoded(tmp_path, song(3.0, 44100), 44100) + encoded(tmp_path, song(3.0, 22050), 22050))
    with refuses("MP3", "ffmpeg", kind=RecordingError):
        probe(path)


def test_a_file_in_order_is_left_to_the_decoder(tmp_path):
    """Nothing is counted, and nothing put before it: the decoder trims the encoder's delay by itself."""
    sound = song(5.0, 44100)
    path = tmp_path / "a.mp3"
    path.write_bytes(encoded(tmp_path, sound, 44100))
    survey = mp3.survey(path)
    assert survey is not None and survey.pieces == ()
    assert probe(path).duration_s == 5.0 and read(path, 44100).shape == (1, len(sound))


def test_an_mp3_by_another_name_is_read(tmp_path):
    path = tmp_path / "a.mpga"
    path.write_bytes(bare(encoded(tmp_path, song(6.0, 44100), 44100)))
    check(path, 6.0, 44100)


def test_bytes_that_are_no_frames_are_no_mp3(tmp_path):
    path = tmp_path / "a.mp3"
    for data in (
        b"",
        b"\xff" * 5000,
        np.random.default_rng(0).bytes(20000),
        b"ID3" + b"\xff" * 200,
        id3(500),
    ):
        path.write_bytes(data)
        with refuses("a.mp3", kind=RecordingError):
            read(path, 44100)
