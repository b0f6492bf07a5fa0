"""Levels see a band of frequencies; what does not fit is turned down as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.sound.audio import levels
from birdsd.sound.audio.levels import (
    SILENCE_DBFS,
    band_level_db,
    fit,
    fitted_words,
    in_band,
    level_db,
    sounding_level_db,
    without_offset,
)
from birdsd.sound.audio.recordings import read, write_wav
from birdsd.sound.codec.codec import SpectrogramCodec
from birdsd.sound.mixing import active_level_db, mix_at_snr

RATE = 32000
TIME = np.arange(3 * RATE) / RATE


def bird(level: float = 0.0045) -> np.ndarray:
    """[1, samples]: faint chirps at 3 kHz, -59 dBFS or so while they sound."""
    song = np.sin(2 * np.pi * (3000 * TIME + 200 * np.sin(12 * TIME))) * (np.sin(2 * np.pi * 2 * TIME) > 0.3)
    return (level * song)[None]


def rounding(bits: int = 16) -> np.ndarray:
    """What the converter adds: one step up or down."""
    return np.random.default_rng(0).integers(-1, 2, len(TIME))[None] / 2.0 ** (bits - 1) * 0.5


LOW = {
    "dc": 0.2 + 0 * TIME,
    "small_dc": 0.005 + 0 * TIME,
    "drift": 0.3 * TIME / 3,
    "fall": 0.8 * np.exp(-TIME / 0.7),
    "slow": 0.3 * np.sin(2 * np.pi * 0.3 * TIME + 1),
    "step": np.where(TIME < 1.3, -0.1, -0.1 + 1e-9),
    "hum": 0.02 * np.sin(2 * np.pi * 50 * TIME + 0.7),
    "infrasound": 0.1 * np.sin(2 * np.pi * 8 * TIME),
    "dc_and_hum": 0.2 + 0.02 * np.sin(2 * np.pi * 50 * TIME),
}
OFFSETS = ("dc", "small_dc", "drift", "fall", "slow", "step")


@pytest.mark.parametrize("low", sorted(LOW))
def test_what_lies_below_the_band_makes_nothing_louder(low):
    expected = level_db(bird())
    assert band_level_db(bird() + LOW[low], RATE, 62.5, 16000.0) == pytest.approx(expected, abs=0.3)
    assert band_level_db((bird() + LOW[low])[0], RATE, 62.5, 16000.0) == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("low", sorted(LOW))
def test_a_dead_microphone_is_silent_whatever_its_offset(low):
    dead = np.rint((LOW[low] + rounding()) * 32768) / 32768
    assert band_level_db(dead, RATE, 62.5, 16000.0) < SILENCE_DBFS


def test_what_lies_above_the_band_does_not_count_either():
    bat = 0.3 * np.sin(2 * np.pi * 14000 * TIME)[None]
    assert band_level_db(bird() + bat, RATE, 62.5, 10000.0) == pytest.approx(level_db(bird()), abs=0.2)
    assert band_level_db(bird() + bat, RATE, 62.5, 16000.0) == pytest.approx(level_db(bat), abs=0.1)


def test_an_ordinary_sound_is_measured_as_it_is():
    """To the bit, so that labels of what was prepared before stay what they were."""
    noise = np.random.default_rng(1).normal(0, 0.05, (2, len(TIME))).astype(np.float32)
    for sound in (bird().astype(np.float32), noise, bird().astype(np.float32) + 1e-5):
        assert in_band(sound, RATE, 62.5, 16000.0) is sound and without_offset(sound, RATE) is sound
        assert band_level_db(sound, RATE, 62.5, 16000.0) == level_db(sound)
    empty = np.zeros((1, 0), np.float32)
    assert band_level_db(empty, RATE, 62.5, 16000.0) == -np.inf
    assert band_level_db(np.zeros((1, 100)), RATE, 62.5, 8000.0) == -np.inf


@pytest.mark.parametrize("count", [1, 2, 3, 50, 999])
def test_the_shortest_sounds_can_be_measured(count):
    assert np.isfinite(in_band(np.full((1, count), 0.3), RATE, 62.5, 8000.0)).all()
    assert without_offset(np.full((1, count), 0.3, np.float32), RATE).shape == (1, count)


@pytest.mark.parametrize("low", sorted(LOW))
@pytest.mark.parametrize("snr_db", [3.0, 20.0])
def test_the_ratio_of_a_mixture_is_that_of_the_band(low, snr_db):
    noise = np.random.default_rng(2).normal(0, 0.01, (1, len(TIME)))
    band = (62.5, 16000.0)
    clean = mix_at_snr(bird(), noise, snr_db, RATE, band).waveform - bird()
    for foreground, background in ((bird() + LOW[low], noise), (bird(), noise + LOW[low])):
        mixture = mix_at_snr(foreground, background, snr_db, RATE, band)
        added = in_band(mixture.waveform / mixture.gain - foreground, RATE, *band)
        assert level_db(added) == pytest.approx(level_db(clean), abs=0.4)


PRESETS = [{}, {"fmin_hz": 0.0, "scale": "mel", "n_fft": 0}, {"intensity": "power", "bands": 128}]


@pytest.mark.parametrize("preset", PRESETS, ids=["birdsong", "from_0_hz", "power"])
@pytest.mark.parametrize("low", OFFSETS)
def test_a_picture_does_not_show_a_recorder_s_offset(low, preset):
    codec = SpectrogramCodec(rate_hz=RATE, frames=750, **preset)
    offset = (bird(0.1) + LOW[low]).astype(np.float32)
    clean, shown = (codec.encode(x.astype(np.float32), RATE)[:, -4:, 10:-10] for x in (bird(0.1), offset))
    as_it_is = codec.quantise(codec.magnitude(offset))[:, -4:, 10:-10]
    # What is left is the song's own part below 20 Hz: it goes with the offset.
    assert np.abs(clean.astype(int) - shown).max() < 100 < np.abs(clean.astype(int) - as_it_is).max()
    assert codec.level_db(offset) == pytest.approx(level_db(bird(0.1)), abs=0.2)


def test_stretches_of_silence_do_not_make_a_background_softer():
    burst = np.zeros((1, 10 * RATE), np.float32)
    burst[:, 3 * RATE : 3 * RATE + 4096] = np.random.default_rng(3).normal(0, 0.1, 4096)
    assert sounding_level_db(burst) == pytest.approx(-20, abs=2) and level_db(burst) < -38
    song = np.tile(bird(0.3), (1, 4))[:, : burst.shape[1]]
    mixture = mix_at_snr(np.pad(song, ((0, 0), (0, burst.shape[1] - song.shape[1]))), burst, 6.0)
    loudest = level_db((mixture.waveform / mixture.gain)[:, 3 * RATE : 3 * RATE + 4096])
    assert loudest < active_level_db(song) + 3


def test_what_does_not_fit_is_turned_down_as_a_whole(tmp_path):
    loud = 2.5 * np.sin(2 * np.pi * 1234.5 * TIME)[None].astype(np.float32)
    fitted, gain_db = fit(loud)
    assert np.abs(fitted).max() <= 1.0 and -7.98 < gain_db < -7.95
    np.testing.assert_allclose(fitted * 10 ** (-gain_db / 20), loud, atol=1e-5)
    assert "8.0 dB" in fitted_words(gain_db) and fitted_words(0.0) == ""
    assert fit(bird()).gain_db == 0.0 and fit(bird()).waveform is not None
    assert write_wav(tmp_path / "a.wav", loud, RATE) == gain_db
    heard = read(tmp_path / "a.wav", RATE)
    np.testing.assert_allclose(heard, fitted, atol=1 / 32768)


def test_windows_that_are_kept_are_those_that_would_be_made_and_nobody_can_change_them():
    for size in (1000, 1001, 1000):
        assert np.array_equal(levels._hann(size), np.hanning(size))
        with pytest.raises(ValueError, match="read-only"):
            levels._hann(size)[0] = 1
    hz = np.fft.rfftfreq(1000, 1 / 8000)
    for low_hz, high_hz in ((50.0, 60.0), (3000.0, 3060.0), (50.0, 60.0)):
        expected = np.sin(0.5 * np.pi * np.clip((hz - low_hz) / (high_hz - low_hz), 0, 1)) ** 2
        assert np.array_equal(levels._rise(1000, 8000, low_hz, high_hz), expected)
    assert levels._hann(1000) is levels._hann(1000)
    long = levels._KEPT_SAMPLES + 1
    assert levels._hann(long) is not levels._hann(long), "a whole night's would stay in memory"


@pytest.mark.parametrize("count", [1, 2, 3, 19, 20, 21, 200])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_level_of_frames_is_by_their_95th_percentile(count, kind):
    power = (np.random.default_rng(count).exponential(size=count) ** 3).astype(kind)
    active = power[power >= float(np.percentile(power, 95)) * 10 ** (-15 / 10)]
    assert levels.active_power_db(power) == pytest.approx(10 * np.log10(active.mean()), abs=1e-5)
    if count > 1:  # exactly between two values, and above every other one
        power = np.append(np.zeros(count - 1, kind), 1).astype(kind)
        wanted = float(np.percentile(power, 95))
        assert levels._percentile(power, 0.95) == pytest.approx(wanted, abs=1e-6)
