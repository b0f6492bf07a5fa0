"""Clips around songs, and windows."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdsd.errors import BadValue
from birdsd.sound.song_finder import find_songs, quiet_stretches, song_energy, sounding_around, windows
from tests.support.errors import refuses
from tests.support.sound_makers import save


def song_at(times_s, duration_s, rate_hz=32000, noise=0.003, seed=0):
    """Noise with half-second trills at the given times; float32 [1, samples]."""
    rng = np.random.default_rng(seed)
    waveform = noise * rng.standard_normal(round(duration_s * rate_hz))
    t = np.arange(round(0.5 * rate_hz)) / rate_hz
    trill = 0.1 * np.sin(2 * np.pi * 4000 * t) * (np.sin(2 * np.pi * 20 * t) > 0)
    for time in times_s:
        first = round(time * rate_hz)
        waveform[first : first + len(trill)] += trill
    return waveform.astype(np.float32)[np.newaxis]


def test_every_song_is_in_a_clip_and_the_quiet_is_in_none():
    times = [7.0, 19.0, 31.0]
    found = find_songs([(0.0, song_at(times, 40.0))], 2.0, 3, rate_hz=32000)
    assert len(found) == 3
    for segment, time in zip(found, times, strict=True):
        assert segment.start_s <= time and time + 0.5 <= segment.start_s + segment.duration_s


def test_a_song_is_found_from_its_beginning_to_its_end():
    waveform = song_at([5.0, 12.0, 12.8, 20.0], 30.0)[0]
    energy = song_energy(waveform, 32000)
    for peak_s, (start_s, end_s) in ((5.2, (5.0, 5.5)), (12.9, (12.0, 13.3)), (20.4, (20.0, 20.5))):
        assert sounding_around(energy, peak_s) == pytest.approx((start_s, end_s), abs=0.12)
    for segment in find_songs([(0.0, waveform[None])], 2.0, 3, rate_hz=32000):
        assert segment.start_s <= segment.peak_s <= segment.start_s + 2.0


def test_what_lies_between_songs_holds_none_and_nearly_all_of_noise():
    times = [5.0, 12.0, 12.8, 20.0]
    found = quiet_stretches(song_energy(song_at(times, 30.0)[0], 32000), 1.0)
    assert len(found) == 4 and sum(end_s - start_s for start_s, end_s in found) > 25.0
    assert not any(start_s < time + 0.5 and time < end_s for start_s, end_s in found for time in times)
    for seed in range(5):
        noise = song_at([], 10.0, seed=seed)[0]
        assert sum(e - s for s, e in quiet_stretches(song_energy(noise, 32000), 1.0)) > 8.0
        hum = noise + 0.1 * np.cumsum(noise)  # most of it low
        assert sum(e - s for s, e in quiet_stretches(song_energy(hum, 32000), 1.0)) > 8.0


def test_a_file_gives_what_its_blocks_give_and_songs_across_chunks_are_found(tmp_path):
    times = [10.0, 59.8, 100.0, 127.0]
    path = save(tmp_path / "long.flac", song_at(times, 130.0), 32000)
    found = find_songs(path, 3.0, 10)
    for time in times:
        assert any(s.start_s <= time and time + 0.5 <= s.start_s + s.duration_s for s in found), time
    assert all(s.start_s >= 0 and s.start_s + s.duration_s <= 130.0 for s in found)
    starts = [s.start_s for s in found]
    assert starts == sorted(starts) and (np.diff(starts) >= 1.5 - 1e-9).all()


def test_the_limit_keeps_the_strongest():
    waveform = song_at([5.0, 15.0, 25.0], 30.0)
    waveform[:, 14 * 32000 : 17 * 32000] *= 4.0
    (best,) = find_songs([(0.0, waveform)], 2.0, 1, rate_hz=32000)
    assert best.start_s <= 15.0 <= best.start_s + 2.0
    assert find_songs([(0.0, waveform)], 2.0, 0, rate_hz=32000) == []


def test_silence_has_no_songs_and_a_constant_is_silence():
    assert find_songs([(0.0, np.zeros((1, 90000), np.float32))], 2.0, 5, rate_hz=44100) == []
    assert find_songs([(0.0, np.full((1, 90000), 0.3, np.float32))], 2.0, 5, rate_hz=44100) == []
    assert find_songs([], 2.0, 5) == []


@pytest.mark.parametrize("duration_s", [0.004, 0.3, 1.9])
def test_a_recording_shorter_than_a_clip_is_one_segment(duration_s):
    (segment,) = find_songs([(0.0, song_at([], duration_s))], 2.0, 5, rate_hz=32000)
    assert (segment.start_s, segment.duration_s) == (0.0, pytest.approx(duration_s, abs=1e-3))


@pytest.mark.parametrize("rate_hz", [8000, 384000])
def test_any_rate_will_do(rate_hz):
    waveform = song_at([3.0], 6.0, rate_hz)
    found = find_songs([(0.0, waveform)], 2.0, 1, rate_hz=rate_hz)
    assert len(found) == 1


def test_memory_does_not_grow_with_the_recording():
    def peak_bytes(minutes):
        def stream():
            for number in range(minutes):
                yield 60.0 * number, song_at([20.0], 60.0, 8000, seed=number)

        tracemalloc.start()
        find_songs(stream(), 3.0, 5, rate_hz=8000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(1)
    assert peak_bytes(12) < 1.3 * peak_bytes(3)


@settings(deadline=None)
@given(st.floats(0.1, 100), st.floats(0.5, 10), st.floats(0, 0.9))
def test_windows_cover_the_recording_and_stay_inside(duration_s, clip_s, overlap):
    found = list(windows(duration_s, clip_s, overlap))
    assert found[0].start_s == 0.0
    covered = 0.0
    for segment in found:
        assert segment.start_s <= covered + 1e-6
        covered = max(covered, segment.start_s + segment.duration_s)
        assert covered <= duration_s + 1e-6
    assert duration_s - covered <= 0.25 * clip_s + 1e-6


def test_windows_step_by_what_does_not_overlap():
    assert [s.start_s for s in windows(10.0, 4.0, 0.5)] == [0.0, 2.0, 4.0, 6.0]
    assert [s.start_s for s in windows(9.0, 4.0)] == [0.0, 4.0, 5.0]
    with refuses("1.0", "below 1", kind=BadValue):
        list(windows(9.0, 4.0, 1.0))
