"""Headers that were never finished, and float samples on the scale of integers."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdsd.sound.audio.recordings import RecordingError, blocks, probe, read
from tests.support.errors import refuses
from tests.support.remarks import remarked
from tests.support.sound_makers import save, tone

RATE = 16000


def noise(seconds: float = 3.0, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.3, 0.3, (channels, round(seconds * RATE))).astype(np.float32)


def with_wav_sizes(path: Path, riff: int, data: int) -> Path:
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    struct.pack_into("<I", content, 4, riff)
    struct.pack_into("<I", content, at, data)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize(("riff", "data"), [(0, 0), (36, 0), (32036, 32000), (0, 32000), (0xFFFFFFFF, 0)])
def test_a_recorder_that_lost_power_leaves_what_it_wrote(tmp_path, riff, data, subtype, channels):
    sound = noise(channels=channels)
    path = save(tmp_path / "a.wav", sound, RATE, subtype)
    expected = read(path, RATE, channels=channels)
    with_wav_sizes(path, riff, data)
    assert probe(path).duration_s == pytest.approx(3.0, abs=0.001)
    note = remarked(probe(path).notes, "unfinished-header")
    assert note.facts["there_s"] == pytest.approx(3.0, abs=0.005) and "3.00 s" in note
    np.testing.assert_array_equal(read(path, RATE, channels=channels)[:, : 3 * RATE], expected)
    part = read(path, RATE, start_s=2.0, duration_s=0.5, channels=channels)
    np.testing.assert_array_equal(part, expected[:, 2 * RATE : 2 * RATE + RATE // 2])
    joined = np.concatenate([piece for _, piece in blocks(path, RATE, 0.7, channels)], axis=1)
    np.testing.assert_array_equal(joined, expected)


@pytest.mark.parametrize(("promised", "frames"), [(0, 0), (8, 0), (8 + 32000, 16000)])
def test_an_aiff_that_was_never_finished(tmp_path, promised, frames):
    path = save(tmp_path / "a.aiff", noise(), RATE, "PCM_16")
    expected = read(path, RATE)
    content = bytearray(path.read_bytes())
    struct.pack_into(">I", content, 4, 46 + promised)
    struct.pack_into(">I", content, content.index(b"COMM") + 10, frames)
    struct.pack_into(">I", content, content.index(b"SSND") + 4, promised)
    path.write_bytes(content)
    np.testing.assert_array_equal(read(path, RATE), expected)


def test_rf64_caf_and_au_that_were_never_finished(tmp_path):
    for name, at, value in (
        ("a.rf64", b"ds64", bytes(24)),
        ("a.caf", b"data", b"\xff" * 8),
        ("a.au", b".snd", b""),
    ):
        path = save(tmp_path / name, noise(), RATE, "PCM_16")
        expected = read(path, RATE)
        content = bytearray(path.read_bytes())
        place = content.index(at) + {"a.rf64": 8, "a.caf": 4, "a.au": 8}[name]
        content[place : place + len(value or bytes(4))] = value or bytes(4)
        path.write_bytes(content)
        np.testing.assert_array_equal(read(path, RATE), expected)


@pytest.mark.parametrize("seconds", [0.01, 3.0, 61.7])
def test_a_flac_that_does_not_say_how_long_it_is(tmp_path, seconds):
    path = save(tmp_path / "a.flac", noise(seconds), RATE)
    expected = read(path, RATE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:42] = bytes(20)
    path.write_bytes(content)
    assert probe(path).duration_s == pytest.approx(expected.shape[1] / RATE)
    np.testing.assert_array_equal(read(path, RATE), expected)
    half = read(path, RATE, start_s=0.5 * seconds)
    np.testing.assert_array_equal(half, expected[:, -half.shape[1] :])


def test_an_empty_recording_is_told_apart(tmp_path):
    path = save(tmp_path / "a.wav", noise(), RATE)
    head = path.read_bytes()[:44]
    path.write_bytes(head)
    with_wav_sizes(path, 0, 0)
    with refuses(("a.wav", "no samples"), kind=RecordingError):
        probe(path)


def test_a_header_in_order_is_believed(tmp_path):
    """Chunks, filler or text behind the sound are no sound; a header that promises more is no stale one."""
    path = save(tmp_path / "a.wav", noise(), RATE)
    whole = path.read_bytes()
    chunk = b"LIST" + struct.pack("<I", 5000) + bytes(range(250)) * 20
    for behind in (
        chunk,
        chunk + b"cue " + struct.pack("<I", 4) + bytes(4),
        bytes(20000),
        b"<xml>" * 4000,
        b"\x01",
    ):
        path.write_bytes(whole + behind)
        assert probe(path).duration_s == 3.0 and probe(path).notes == ()
    with_wav_sizes(save(path, noise(), RATE), 200000, 150000)
    with refuses(("a.wav", "150000", "96000"), kind=RecordingError):
        probe(path)


@pytest.mark.parametrize("full", [2.0**15, 2.0**23])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("whole_numbers", [True, False])
def test_float_samples_on_the_scale_of_integers_are_scaled_back(tmp_path, full, subtype, whole_numbers):
    sound = noise(5.0)
    scaled = np.rint(sound * full) if whole_numbers else sound * full
    path = save(tmp_path / "a.wav", scaled, RATE, subtype)
    (note,) = probe(path).notes
    assert f"divided by {full:.0f}" in note
    for heard in (read(path, RATE), np.concatenate([b for _, b in blocks(path, RATE, 0.7)], axis=1)):
        np.testing.assert_allclose(heard, sound, atol=1.0 / full if whole_numbers else 1e-6)
    np.testing.assert_allclose(
        read(path, RATE, start_s=2, duration_s=1), read(path, RATE)[:, 2 * RATE : 3 * RATE]
    )


@pytest.mark.parametrize("peak", [0.5, 1.0, 1.2, 3.9])
def test_ordinary_float_samples_stay_what_they_are(tmp_path, peak):
    sound = noise() * (peak / 0.3)
    path = save(tmp_path / "a.wav", sound, RATE, "FLOAT")
    assert probe(path).notes == ()
    np.testing.assert_array_equal(read(path, RATE), sound)


def test_float_samples_far_above_full_scale_are_reported_or_refused(tmp_path):
    path = save(tmp_path / "a.wav", noise() * 30, RATE, "FLOAT")
    assert "19 dB" in probe(path).notes[0] and read(path, RATE).max() > 8
    save(path, noise() * 1000, RATE, "FLOAT")
    with refuses(("a.wav", "300"), kind=RecordingError):
        probe(path)


def test_quiet_integers_written_as_float(tmp_path):
    path = save(tmp_path / "a.wav", np.rint(noise() * 40), RATE, "FLOAT")  # up to 12 of 32768
    assert read(path, RATE).max() == pytest.approx(12 / 32768)
    click = np.where(tone(1.0, RATE) > 0, 1.0, -1.0).astype(
        np.float32
    )  # whole numbers, and a full scale of 1
    np.testing.assert_array_equal(read(save(path, click, RATE, "FLOAT"), RATE), click)


def test_integers_are_left_alone(tmp_path):
    for subtype in ("PCM_16", "PCM_24", "PCM_32"):
        assert probe(save(tmp_path / f"{subtype}.wav", noise(), RATE, subtype)).notes == ()
    assert soundfile.info(str(tmp_path / "PCM_24.wav")).subtype == "PCM_24"
