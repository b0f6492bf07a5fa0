"""Levels, mixtures, and the pool of environmental sound."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.errors import BadValue, Mismatch, NotFound, NothingLeft
from birdsd.randomness import generator
from birdsd.sound.audio.recordings import RecordingError
from birdsd.sound.mixing import EnvironmentPool, active_level_db, level_db, mix_at_snr
from tests.support.errors import refuses
from tests.support.sound_makers import save, tone, truncate


def noise(samples=44100, level=0.05, channels=1, seed=0):
    return (level * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5, 30.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_mixture_has_the_asked_ratio_and_the_bird_keeps_its_level(snr_db, channels):
    bird, rain = 0.3 * tone(1.0, channels=channels), noise(channels=channels)
    mixture, gain = mix_at_snr(bird, rain, snr_db)
    assert gain == 1.0 and mixture.dtype == np.float32
    assert level_db(bird) - level_db(mixture - bird) == pytest.approx(snr_db, abs=0.05)


def test_pauses_do_not_count():
    bird = tone(1.0)
    sparse = np.zeros((1, 10 * 44100), np.float32)
    sparse[:, :44100] = bird
    assert active_level_db(sparse) == pytest.approx(level_db(bird), abs=0.3)
    assert level_db(sparse) == pytest.approx(level_db(bird) - 10.0, abs=0.1)
    mixture, _ = mix_at_snr(sparse, noise(sparse.shape[1]), 10.0)
    assert level_db(mixture - sparse) == pytest.approx(level_db(bird) - 10.0, abs=0.3)


def test_a_sum_beyond_full_scale_is_turned_down_and_says_so():
    bird = 4.0 * tone(1.0)
    mixture, gain = mix_at_snr(bird, noise(), 0.0)
    assert 0 < gain < 1 and np.abs(mixture).max() == pytest.approx(0.99, abs=1e-3)
    # Turned down as a whole: the ratio stays.
    assert level_db(bird) - level_db(mixture / gain - bird) == pytest.approx(0.0, abs=0.05)


def test_where_one_is_silent_nothing_is_scaled():
    silent, rain = np.zeros((1, 44100), np.float32), noise()
    assert np.array_equal(mix_at_snr(silent, rain, 6.0).waveform, rain)
    assert np.array_equal(mix_at_snr(rain, silent, 6.0).waveform, rain)
    assert level_db(silent) == -np.inf and level_db(np.zeros((1, 0))) == -np.inf


def test_what_cannot_be_mixed_is_refused():
    with refuses(("(1, 10)", "(1, 11)"), kind=Mismatch):
        mix_at_snr(noise(10), noise(11), 3.0)
    with refuses("nan dB", "snr_db_low=3", kind=BadValue):
        mix_at_snr(noise(10), noise(10), float("nan"))


@pytest.fixture
def pool_folder(tmp_path):
    folder = tmp_path / "environment"
    for name, number in (("rain/a", 1), ("rain/b", 2), ("sea_waves/c", 3), ("summer-night_02", 4)):
        save(folder / f"{name}.wav", noise(2 * 16000, seed=number), 16000)
    (tmp_path / "manifest.csv").write_text(
        "path,label,kind,licence,attribution\n"
        "environment/rain/a.wav,drizzle,environment_clip,CC0,P\n"
        "birds/x.wav,Wren,focal_clip,CC BY,Q\n"
    )
    return folder


def test_names_come_from_the_table_the_folder_or_the_file(pool_folder):
    pool = EnvironmentPool(pool_folder)
    assert pool.names == ("drizzle", "rain", "sea waves", "summer night")
    assert (
        pool.licence(pool_folder / "rain/a.wav") == "CC0"
        and pool.recordist(pool_folder / "rain/a.wav") == "P"
    )
    assert pool.licence(pool_folder / "rain/b.wav") == ""


@pytest.mark.parametrize("duration_s", [0.5, 2.0, 7.3])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_draw_has_the_asked_length_and_depends_on_its_key_alone(pool_folder, duration_s, channels):
    pool = EnvironmentPool(pool_folder)
    waveform, name, path, _ = pool.draw(generator(1, "x"), duration_s, 22050, channels)
    assert waveform.shape == (channels, round(duration_s * 22050))
    assert name in pool.names and path.is_file()
    pool.draw(generator(2, "y"), duration_s, 22050, channels)
    again = pool.draw(generator(1, "x"), duration_s, 22050, channels)
    assert np.array_equal(again.waveform, waveform) and again.path == path
    assert {pool.draw(generator(n), 0.1, 22050).name for n in range(40)} == set(pool.names)


def test_a_repeated_sound_has_no_gap_and_keeps_its_level(pool_folder):
    waveform = EnvironmentPool(pool_folder).draw(generator(0), 20.0, 16000).waveform
    levels = [level_db(waveform[:, i : i + 800]) for i in range(0, waveform.shape[1], 800)]
    assert max(levels) - min(levels) < 3.0


def test_bad_files_are_problems_and_an_empty_pool_an_error(tmp_path):
    truncate(save(tmp_path / "rain" / "cut.wav", noise()), 0.5)
    with refuses("cut.wav", "mixtures_per_clip=0", kind=NothingLeft):
        EnvironmentPool(tmp_path)
    save(tmp_path / "rain" / "good.wav", noise())
    pool = EnvironmentPool(tmp_path)
    assert pool.names == ("rain",) and [p.path.name for p in pool.problems] == ["cut.wav"]
    with refuses("nowhere", kind=NotFound):
        EnvironmentPool(tmp_path / "nowhere")


def rounding(samples=44100):
    """What a converter writes where nothing is: an offset, and its last bit."""
    return 0.02 + np.random.default_rng(7).integers(0, 2, (1, samples)) / 32768


def hum(samples=44100):
    return 0.05 * np.sin(2 * np.pi * 50 * np.arange(samples) / 44100)[None] + rounding(samples)


def burst(samples=4 * 44100):
    sound = np.zeros((1, samples))
    sound[:, 30000:36000] = noise(6000)
    return sound


@pytest.mark.parametrize("sound", [rounding(), hum(), 0 * rounding(), 0 * rounding() + 0.3, burst()])
def test_a_silent_file_is_no_background_and_is_named(tmp_path, sound):
    save(tmp_path / "rain" / "dead.wav", sound.astype(np.float32))
    with refuses("dead.wav", kind=NothingLeft):
        EnvironmentPool(tmp_path)
    save(tmp_path / "rain" / "good.wav", noise())
    pool = EnvironmentPool(tmp_path)
    assert [problem.path.name for problem in pool.problems] == ["dead.wav"]
    assert {pool.draw(generator(n), 0.5, 44100).path.name for n in range(20)} == {"good.wav"}


def test_a_soft_background_is_one(tmp_path):
    save(tmp_path / "rain" / "soft.wav", noise(level=2e-4), subtype="PCM_24")
    assert EnvironmentPool(tmp_path).problems == []


def test_a_piece_in_which_little_sounds_is_drawn_again(tmp_path):
    sound = np.zeros((1, 60 * 16000), np.float32)
    sound[:, 20 * 16000 : 35 * 16000] = noise(15 * 16000)
    save(tmp_path / "rain" / "gaps.wav", sound, 16000)
    pool = EnvironmentPool(tmp_path)
    for number in range(20):
        piece = pool.draw(generator(number), 5.0, 16000).waveform
        assert (np.abs(piece).reshape(100, -1).max(axis=1) > 0).mean() >= 0.5


def test_silence_at_the_ends_of_a_short_file_is_not_repeated(tmp_path):
    sound = np.zeros((1, 5 * 16000), np.float32)  # as ESC-50 fills its clips up
    sound[:, 4000:28000] = noise(24000)
    save(tmp_path / "rain" / "padded.wav", sound, 16000)
    piece = EnvironmentPool(tmp_path).draw(generator(0), 9.0, 16000).waveform
    assert piece.shape == (1, 9 * 16000)
    assert (np.abs(piece).reshape(90, -1).max(axis=1) > 0).mean() > 0.9


def test_a_long_file_of_mostly_silence_is_told_when_no_piece_of_it_sounds(tmp_path):
    sound = np.zeros((1, 120 * 8000), np.float32)
    sound[:, 8000:16000] = noise(8000)
    save(tmp_path / "rain" / "one_second.wav", sound, 8000)
    pool = EnvironmentPool(tmp_path)
    with refuses("one_second.wav", kind=RecordingError):
        pool.draw(generator(0), 5.0, 8000)


@pytest.mark.data
def test_the_real_pool(data_folder):
    pool = EnvironmentPool(data_folder / "environment")
    assert {"rain", "sea waves", "wind", "summer night"} <= set(pool.names) and pool.problems == []
    drawn = pool.draw(generator(3), 5.12, 44100)
    assert drawn.licence and pool.recordist(drawn.path)
