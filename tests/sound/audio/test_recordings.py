"""Reading, streaming and writing sound, and what is said of files that are not."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
import soundfile

from birdsd.errors import BadValue, NotFound
from birdsd.sound.audio.recordings import RecordingError, blocks, find_recordings, probe, read, write_wav
from tests.support.errors import refuses
from tests.support.sound_makers import save, tone, truncate


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "aiff"])
def test_every_format_gives_back_its_tone(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", tone(1.0))
    info = probe(path)
    assert (info.rate_hz, info.channels) == (44100, 1)
    assert info.duration_s == pytest.approx(1.0, abs=0.06)
    waveform = read(path, 44100)
    assert waveform.dtype == np.float32 and waveform.ndim == 2
    spectrum = np.abs(np.fft.rfft(waveform[0, :44000]))
    assert np.argmax(spectrum) == pytest.approx(1000 * 44000 / 44100, abs=1)
    assert np.abs(waveform).max() == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("rate_in", [8000, 22050, 44100, 48000, 384000])
def test_any_rate_becomes_the_asked_one(tmp_path, rate_in):
    path = save(tmp_path / "a.wav", tone(0.5, rate_in), rate_in)
    waveform = read(path, 44100)
    assert waveform.shape == (1, 22050)
    middle = waveform[0, 4000:18000]
    expected = tone(0.5, 44100)[0, 4000:18000]
    assert np.abs(middle - expected).max() < 2e-3


RATES = [(44100, 32000), (48000, 44100), (44100, 44100), (8000, 44100), (44100, 22051)]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("start_s", "duration_s"), [(0.0, 0.4), (0.0123, 0.4), (1.2345, 0.5), (1.7, 9.0)])
def test_a_part_is_the_same_part_of_the_whole(tmp_path, rate, start_s, duration_s):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 2 * rate[0])).astype(np.float32)
    path = save(tmp_path / "a.wav", noise, rate[0], "FLOAT")
    whole = read(path, rate[1])
    part = read(path, rate[1], start_s=start_s, duration_s=duration_s)
    first = round(start_s * rate[1])
    expected = whole[:, first : first + part.shape[1]]
    assert part.shape[1] == pytest.approx(min(duration_s, 2.0 - start_s) * rate[1], abs=1)
    # The last samples hang on what follows, which the part cannot know at the file's end.
    assert np.abs(part[:, : expected.shape[1]] - expected).max() < 1e-4


@pytest.mark.parametrize("rate_hz", [22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_are_the_file_in_pieces(tmp_path, rate_hz, channels):
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 70000)).astype(np.float32)
    path = save(tmp_path / "a.wav", noise, 44100, "FLOAT")
    pieces = list(blocks(path, rate_hz, 0.3, channels))
    assert [start for start, _ in pieces] == pytest.approx([0.3 * i for i in range(len(pieces))], abs=1e-4)
    assert all(piece.shape == (channels, round(0.3 * rate_hz)) for _, piece in pieces[:-1])
    joined = np.concatenate([piece for _, piece in pieces], axis=1)
    np.testing.assert_allclose(joined, read(path, rate_hz, channels=channels), atol=1e-5)


@pytest.mark.parametrize("rates", [(16000, 32000), (44100, 32000), (22050, 24000), (48000, 16000)])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_recorder_s_offset_does_not_ring_at_the_ends_of_a_file(tmp_path, rates, channels):
    time = np.arange(3 * rates[0]) / rates[0]
    for number, offset in enumerate((0.2 + 0 * time, 0.3 * time / 3 + 0.1, -0.2 * np.cos(time))):
        sound = np.repeat(offset[None], channels, axis=0)
        path = save(tmp_path / f"{number}.wav", sound, rates[0], "FLOAT")
        expected = np.interp(np.arange(3 * rates[1]) / rates[1], time, offset)
        streamed = np.concatenate([piece for _, piece in blocks(path, rates[1], 0.7, channels)], axis=1)
        for heard in (read(path, rates[1], channels=channels), streamed):
            assert heard.shape == (channels, 3 * rates[1])
            assert np.abs(heard - expected)[:, 2:-2].max() < 2e-3
        last = read(path, rates[1], start_s=2.5, channels=channels)
        assert np.abs(last - expected[-last.shape[1] :])[:, :-2].max() < 2e-3


def test_streaming_holds_one_block_however_long_the_file(tmp_path):
    def peak_bytes(duration_s):
        path = save(tmp_path / f"{duration_s}.wav", tone(duration_s, 16000), 16000)
        tracemalloc.start()
        for _ in blocks(path, 22050, 1.0):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(60) < 1.3 * peak_bytes(6)


def test_channels_are_averaged_or_doubled(tmp_path):
    seven = save(tmp_path / "seven.wav", tone(0.2, channels=7), subtype="FLOAT")
    assert probe(seven).channels == 7
    mean = tone(0.2, channels=7).mean(axis=0, keepdims=True)
    np.testing.assert_allclose(read(seven, 44100), mean, atol=1e-6)
    mono = save(tmp_path / "mono.wav", tone(0.2), subtype="FLOAT")
    stereo = read(mono, 44100, channels=2)
    assert stereo.shape == (2, 8820) and np.array_equal(stereo[0], stereo[1])
    with refuses("7 channels", kind=RecordingError):
        read(seven, 44100, channels=2)


def bad_files(folder):
    cut = {name: save(folder / f"cut.{name}", tone(3.0)) for name in ("wav", "flac", "mp3", "ogg", "aiff")}
    yield from ((truncate(path, 0.5), "cut short") for path in cut.values())
    yield truncate(save(folder / "stub.wav", tone(1.0)), 0.0003), "damaged"
    (folder / "empty.wav").touch()
    yield folder / "empty.wav", "empty"
    yield save(folder / "none.wav", tone(0.0)), "no samples"
    (folder / "text.wav").write_text("<!DOCTYPE html><title>404</title>" * 40)
    yield folder / "text.wav", "text"
    (folder / "phone.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    yield folder / "phone.m4a", "libsndfile"
    (folder / "folder.wav").mkdir()
    yield folder / "folder.wav", "folder,"
    yield folder / "gone.wav", "not exist"
    broken = tone(1.0)
    broken[0, 22050] = np.nan
    yield save(folder / "nan.wav", broken, subtype="FLOAT"), "NaN", "0.500 s"
    broken[0, 22050] = np.inf
    yield save(folder / "inf.wav", broken, subtype="FLOAT"), "infinite"


def test_each_bad_file_gets_a_sentence_that_names_it(tmp_path):
    for path, *facts in bad_files(tmp_path):
        with refuses((path.name, *facts), kind=RecordingError):
            read(path, 44100)
        with refuses(path.name, kind=RecordingError):
            list(blocks(path, 22050, 0.7))


def test_a_header_that_a_pipe_left_open_is_not_cut_short(tmp_path):
    path = save(tmp_path / "a.wav", tone(1.0))
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    data[4:8] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert read(path, 44100).shape == (1, 44100)


def test_an_mp3_may_end_a_little_before_its_estimated_length(tmp_path):
    path = save(tmp_path / "a.mp3", tone(3.0))
    truncate(path, 0.97)
    for rate_hz in (44100, 22050):
        whole = read(path, rate_hz)
        assert 2.7 * rate_hz < whole.shape[1] < 3.0 * rate_hz
        pieces = np.concatenate([piece for _, piece in blocks(path, rate_hz, 0.4)], axis=1)
        assert abs(pieces.shape[1] - whole.shape[1]) <= 1


def test_silence_and_values_beyond_full_scale_are_sound(tmp_path):
    assert not read(save(tmp_path / "a.wav", np.zeros((1, 100), np.float32)), 44100).any()
    loud = save(tmp_path / "b.wav", 4 * tone(0.1), subtype="FLOAT")
    assert read(loud, 44100).max() == pytest.approx(0.8, abs=0.01)


def test_a_part_outside_of_the_file_is_refused(tmp_path):
    path = save(tmp_path / "a.wav", tone(1.0))
    with refuses("1.000 s", kind=RecordingError):
        read(path, 44100, start_s=1.0)


@pytest.mark.parametrize(("sample_format", "step"), [("int16", 1 / 65536), ("float32", 0.0)])
def test_what_is_written_is_read_back(tmp_path, sample_format, step):
    waveform = np.random.default_rng(2).uniform(-1, 0.9999, (2, 500)).astype(np.float32)
    assert write_wav(tmp_path / "new" / "a.wav", waveform, 32000, sample_format) == 0
    assert np.abs(read(tmp_path / "new" / "a.wav", 32000, channels=2) - waveform).max() <= step
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.wav"]


def test_what_does_not_fit_is_turned_down_and_nan_refused(tmp_path):
    waveform = np.array([0.5, 1.5, -2.0, 1.0], np.float32)
    gain_db = write_wav(tmp_path / "a.wav", waveform, 8000)
    assert gain_db == pytest.approx(-6.02, abs=0.01)
    assert read(tmp_path / "a.wav", 8000)[0].tolist() == pytest.approx([0.25, 0.75, -1.0, 0.5], abs=1e-4)
    with soundfile.SoundFile(tmp_path / "a.wav") as sound:
        assert "6.0 dB" in sound.comment
    assert write_wav(tmp_path / "a.wav", waveform, 8000, "float32") == 0.0
    np.testing.assert_array_equal(read(tmp_path / "a.wav", 8000)[0], waveform)
    with refuses(("b.wav", "NaN"), kind=BadValue):
        write_wav(tmp_path / "b.wav", np.array([np.nan]), 8000)
    assert not (tmp_path / "b.wav").exists()


HOSTILE = ["-", "-rf.wav", "a b'\"$(x).wav", "ünïcødé 鸟.wav", "new\nline.wav", "..wav", "x" * 200 + ".wav"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_only_names(tmp_path, monkeypatch, name):
    path = save(tmp_path / "plain.wav", tone(0.1)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert read(type(path)(name), 44100).shape == (1, 4410)  # "-" alone would be standard input


def test_recordings_are_found_sorted_without_hidden_ones_or_endless_links(tmp_path):
    for name in ("b/2.WAV", "a/1.flac", "a/.hidden.wav", ".trash/x.wav", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    assert [p.relative_to(tmp_path).as_posix() for p in find_recordings(tmp_path)] == ["a/1.flac", "b/2.WAV"]
    with refuses("nowhere", kind=NotFound):
        find_recordings(tmp_path / "nowhere")


@pytest.mark.data
def test_real_recordings_read(data_folder):
    for path in find_recordings(data_folder / "birdsong")[::10]:
        info = probe(path)
        assert read(path, info.rate_hz).shape == (1, round(info.duration_s * info.rate_hz))
