"""When a sound begins and ends, in which band, and how loud it is against what lies under it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from birdsd.errors import BadValue
from birdsd.scenes.heard import band
from birdsd.scenes.heard.band import band_passed, band_power
from birdsd.scenes.heard.boundaries import measure
from birdsd.scenes.heard.cutting import cut_out, without_floor
from birdsd.scenes.heard.ratio import MARGIN_S, around, ratio
from birdsd.scenes.heard.varied import varied
from tests.support.errors import refuses
from tests.support.songs_of_scenes import RATE_HZ, clip_with, sweep


@pytest.mark.parametrize("at_s", [0.1, 0.5, 1.2])
@pytest.mark.parametrize("seconds", [0.06, 0.4, 0.7])
def test_onset_and_offset_of_a_tone_in_silence_are_right_to_a_few_milliseconds(at_s, seconds):
    found = measure(clip_with(sweep(seconds, 3000, 4000), at_s), RATE_HZ)
    assert found.onset_s == pytest.approx(at_s, abs=0.005)
    assert found.offset_s == pytest.approx(at_s + seconds, abs=0.005)
    assert 2800 <= found.low_hz <= 3100 and 3900 <= found.high_hz <= 4200


def test_the_band_and_the_level_come_from_the_sound():
    found = measure(clip_with(sweep(0.8, 1000, 1000, level=0.2), 0.5), RATE_HZ)
    assert found.low_hz < 1000 < found.high_hz and found.high_hz - found.low_hz < 300
    assert found.active_db == pytest.approx(10 * math.log10(0.2**2 / 2), abs=0.3)


def test_notes_of_one_song_are_one_event_and_a_far_louder_one_is_another():
    notes = clip_with(sweep(0.2, 3000, 3500), 0.2, 3.0) + clip_with(sweep(0.2, 3000, 3500), 0.6, 3.0)
    found = measure(notes, RATE_HZ)
    assert (found.onset_s, found.offset_s) == pytest.approx((0.2, 0.8), abs=0.01)
    apart = notes + clip_with(sweep(0.5, 3000, 3500, level=0.6), 2.0, 3.0)
    found = measure(apart, RATE_HZ)
    assert (found.onset_s, found.offset_s) == pytest.approx((2.0, 2.5), abs=0.01)


@pytest.mark.parametrize(
    "samples", [np.zeros(RATE_HZ), np.zeros(0), np.full(RATE_HZ, np.nan), np.eye(1, 8000)[0]]
)
def test_silence_nothing_and_a_click_are_no_events(samples):
    assert measure(samples.astype(np.float32), RATE_HZ) is None


def test_a_clips_own_floor_is_gone_after_cutting_and_the_song_stays():
    song = sweep(0.6, 3000, 4000, level=0.3)
    clip = clip_with(song, 0.7, floor=0.01)
    clean = without_floor(clip, RATE_HZ)
    before, inside = slice(0, int(0.6 * RATE_HZ)), slice(int(0.75 * RATE_HZ), int(1.25 * RATE_HZ))
    assert 10 * np.log10(np.square(clean[before]).mean() / np.square(clip[before]).mean()) < -15
    assert np.square(clean[inside]).mean() == pytest.approx(np.square(song).mean(), rel=0.15)
    cut = cut_out(clip, RATE_HZ)
    assert len(cut.samples) / RATE_HZ == pytest.approx(0.6 + 0.06, abs=0.03)
    assert cut.measured.duration_s == pytest.approx(0.6, abs=0.02)
    assert abs(cut.samples[0]) < 1e-4 and abs(cut.samples[-1]) < 1e-4, "fades end it"


def test_a_song_that_fills_its_clip_is_not_taken_for_its_floor():
    cut = cut_out(sweep(2.0, 3000, 3400), RATE_HZ)
    assert cut is not None and cut.measured.duration_s > 1.9


def test_the_ratio_is_that_of_the_band_alone():
    """White noise has its power spread evenly: in a band of B Hz there is B / 8000 of it."""
    tone = clip_with(sweep(0.6, 3000, 4000, level=0.1), 0.1, 0.8)
    found = measure(tone, RATE_HZ)
    noise = 0.05 * np.random.default_rng(1).standard_normal(2 * RATE_HZ).astype(np.float32)
    heard = ratio(tone, found, noise, RATE_HZ)
    width = found.high_hz - found.low_hz
    expected = 10 * math.log10((0.1**2 / 2) / (0.05**2 * width / 8000))
    assert heard.snr_db == pytest.approx(expected, abs=0.6)
    assert heard.broadband_db == pytest.approx(10 * math.log10((0.1**2 / 2) / 0.05**2), abs=0.4)
    rumble = noise + 0.5 * np.sin(2 * np.pi * 60 * np.arange(len(noise)) / RATE_HZ).astype(np.float32)
    assert ratio(tone, found, rumble, RATE_HZ).snr_db == pytest.approx(heard.snr_db, abs=0.1)
    assert ratio(tone, found, 0 * noise, RATE_HZ).snr_db == math.inf
    assert around(found, RATE_HZ, RATE_HZ, 10**6) == (
        RATE_HZ + round((found.onset_s - 0.5) * RATE_HZ), RATE_HZ + round((found.offset_s + 0.5) * RATE_HZ)
    )  # fmt: skip


def test_a_rumble_far_below_the_band_does_not_leak_into_it():
    """80 dB above what lies in the band, as wind may be, and cut off at its crest."""
    tone = clip_with(sweep(0.6, 3000, 4000, level=0.01), 0.1, 0.8)
    found = measure(tone, RATE_HZ)
    noise = 1e-4 * np.random.default_rng(1).standard_normal(2 * RATE_HZ).astype(np.float32)
    rumble = np.cos(2 * np.pi * 40 * np.arange(2 * RATE_HZ) / RATE_HZ).astype(np.float32)
    margin = round(MARGIN_S * RATE_HZ)
    alone = ratio(tone, found, noise[margin:-margin], RATE_HZ).snr_db
    assert ratio(tone, found, noise + rumble, RATE_HZ, margin).snr_db == pytest.approx(alone, abs=0.3)
    cut_hard = ratio(tone, found, (noise + rumble)[margin:-margin], RATE_HZ).snr_db
    assert cut_hard < alone - 3, "what the margin is for"


def test_a_song_is_shifted_and_hurried_as_asked():
    song = sweep(1.0, 2000, 2000)
    higher = varied(song, RATE_HZ, semitones=3)
    assert len(higher) == len(song)
    peak = np.abs(np.fft.rfft(higher)).argmax() * RATE_HZ / len(higher)
    assert peak == pytest.approx(2000 * 2 ** (3 / 12), rel=0.01)
    faster = varied(song, RATE_HZ, rate=1.25)
    assert len(faster) == len(song) / 1.25
    assert np.abs(np.fft.rfft(faster)).argmax() * RATE_HZ / len(faster) == pytest.approx(2000, rel=0.01)
    assert varied(song, RATE_HZ) is song
    for wrong, named in (
        ({"semitones": 30.0}, "30 semitones"),
        ({"rate": 0.0}, "rate of 0"),
        ({"rate": math.nan}, "rate of nan"),
    ):
        with refuses(named, "12 semitones", kind=BadValue):
            varied(song, RATE_HZ, **wrong)


def whole_power(samples, rate_hz, low_hz, high_hz, margin):
    """`band_power` with numpy's transform of the whole signal."""

    def bins(padded, first, last):
        return np.fft.rfft(padded)[first:last].astype(np.complex64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(band, "_bins", bins)
        return band.band_power(samples, rate_hz, low_hz, high_hz, margin)


@pytest.mark.parametrize("size", [8, 40, 4096 + 8, 20480])
def test_bins_of_a_spectrum_are_those_of_the_whole_one(size):
    sound = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    whole = np.fft.rfft(sound.astype(np.float64))
    eighth, last = size // 8, size // 2 + 1
    for first, end in (
        (0, last),
        (0, 1),
        (last - 1, last),
        (eighth - 1, eighth + 2),
        (eighth, 3 * eighth + 1),
    ):
        found = band._bins(sound, first, end)
        assert found.dtype == np.complex64
        assert np.allclose(found, whole[first:end], atol=1e-6 * np.abs(whole).max())


@pytest.mark.parametrize("rate_hz", [16000, 32000, 48000])
@pytest.mark.parametrize("band_hz", [(300, 700), (2000, 5000), (20, 8000), (6000, 24000)])
@pytest.mark.parametrize("seconds", [0.4, 2.37])
def test_the_power_in_a_band_is_that_of_what_the_band_lets_through(rate_hz, band_hz, seconds):
    count = round(seconds * rate_hz)
    noise = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    noise *= np.linspace(0, 1, count, dtype=np.float32)  # a mean over the wrong span would be another
    low_hz, high_hz = band_hz[0], min(band_hz[1], rate_hz / 2)
    for margin in (0, count // 8):
        passed = band_passed(noise, rate_hz, low_hz, high_hz, exact=True)[margin : count - margin]
        wanted_db = 10 * np.log10(np.square(passed, dtype=np.float64).mean())
        power = band_power(noise, rate_hz, low_hz, high_hz, margin)
        assert 10 * np.log10(power) == pytest.approx(wanted_db, abs=0.05)
        # What it transforms, four samples apart, is what one transform of all of them gives.
        assert power == pytest.approx(whole_power(noise, rate_hz, low_hz, high_hz, margin), rel=1e-5)
    assert band_power(0 * noise, rate_hz, low_hz, high_hz) == 0
    assert band_power(noise[:10], rate_hz, low_hz, high_hz, 5) == 0
