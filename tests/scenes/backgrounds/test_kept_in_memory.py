"""What scenes share, and what little waits, stays in memory; what they sound like does not change by that."""

from __future__ import annotations

import os

import numpy as np
import pytest
import soundfile

from birdsd.files import sha256_file
from birdsd.scenes.backgrounds import pool as pools
from birdsd.scenes.backgrounds import spool as spools
from birdsd.scenes.backgrounds.pool import Pool
from birdsd.scenes.backgrounds.spool import Spool
from birdsd.sound.audio.levels import active_level_db
from birdsd.sound.audio.recordings import read
from tests.support.songs_of_scenes import RATE_HZ, make_pool


@pytest.mark.parametrize("held", [0, 1000, 1 << 20])
def test_a_spool_gives_back_what_it_took_wherever_it_lies(tmp_path, monkeypatch, held):
    monkeypatch.setattr(spools, "HELD_SAMPLES", held)
    sound = np.random.default_rng(held).standard_normal(5000).astype(np.float32)
    with Spool(tmp_path / "spool") as spool:
        one = spool.add([sound[:700], sound[700:700], sound[700:1300]])
        early = one.read(0, 1300)
        wide = spool.add_wide([sound[1300:5000].reshape(-1, 2)], 2)
        assert (tmp_path / "spool").exists() == (held < 5000)
        for start, count in ((0, 1300), (-5, 20), (600, 800), (990, 20), (1299, 1), (1400, 5), (40, 0)):
            wanted = np.zeros(count, np.float32)
            place = np.arange(start, start + count)
            inside = (place >= 0) & (place < 1300)
            wanted[inside] = sound[place[inside]]
            assert np.array_equal(one.read(start, count), wanted)
        assert np.array_equal(wide.read(3, 50), sound[1306:1406].reshape(-1, 2))
        assert np.array_equal(np.concatenate(list(one.blocks(333))), sound[:1300])
        assert np.array_equal(early, sound[:1300])  # whatever came behind it
        with pytest.raises(ValueError, match="read-only"):
            one.read(0, 10)[:] = 0
    assert not (tmp_path / "spool").exists()


def test_a_short_file_of_a_pool_is_decoded_once_and_again_once_it_has_changed(tmp_path, monkeypatch):
    folder, asked = make_pool(tmp_path / "pool"), []

    def counted(path, *args, **named):
        asked.append(path)
        return read(path, *args, **named)

    monkeypatch.setattr(pools, "read", counted)

    def sound(seed: int) -> np.ndarray:
        _, parts = Pool(folder).sound("rain", 30 * RATE_HZ, RATE_HZ, seed)
        return np.concatenate(list(parts))

    first, decoded = sound(1), len(set(asked))
    sound(2), sound(3)
    assert len(asked) == len(set(asked)) and np.array_equal(sound(1), first)
    path = asked[0]
    samples, rate_hz = soundfile.read(path)
    soundfile.write(path, samples[::-1], rate_hz)
    os.utime(path, ns=(1, 1))
    assert not np.array_equal(sound(1), first) and asked.count(path) == 2 and decoded


def test_what_is_said_of_a_file_is_said_of_it_as_it_is_now(tmp_path):
    """A pool lives as long as the page that makes scenes; a file that is replaced is another recording."""
    pool = Pool(make_pool(tmp_path / "pool"))
    (path, *_) = pool.files("rain")
    before = pool.used(path)
    assert pool.used(path) is before
    samples, rate_hz = soundfile.read(path)
    soundfile.write(path, samples[::-1], rate_hz)
    os.utime(path, ns=(1, 1))
    after = pool.used(path)
    assert after.sha256 == sha256_file(path)[:16] != before.sha256


@pytest.mark.parametrize("file_rate_hz", [16000, 22050])
def test_a_part_out_of_memory_is_the_part_that_is_read(tmp_path, monkeypatch, file_rate_hz):
    path = tmp_path / "rain.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(5 * file_rate_hz), file_rate_hz)
    for start_s, length_s in ((0.0, 5.0), (1.2345, 2.0), (3.3, 1.7)):
        kept, _ = pools._part(path, 16000, start_s, length_s)
        assert kept == pytest.approx(read(path, 16000, start_s=start_s, duration_s=length_s)[0], abs=1e-5)
    monkeypatch.setattr(pools, "_HELD_SAMPLES", 5 * 16000 - 1)
    pools._whole.cache_clear()
    pools._part(path, 16000, 0.0, 5.0)
    assert pools._whole.cache_info().currsize == 0  # a long one is not kept


@pytest.mark.parametrize("held", [True, False])
def test_a_part_comes_with_its_own_level_wherever_it_begins(tmp_path, monkeypatch, held):
    path, sound = tmp_path / "one.wav", np.random.default_rng(1).standard_normal(9 * RATE_HZ)
    sound *= np.linspace(0.01, 0.1, len(sound))  # parts have levels of their own
    soundfile.write(path, sound, RATE_HZ)
    monkeypatch.setattr(pools, "_HELD_SAMPLES", len(sound) if held else 0)
    for start_s, length_s in ((0.0, 9.0), (0.0, 4.3), (2.7, 5.0), (0.0, 0.05), (8.9, 0.1)):
        part, level_db = pools._part(path, RATE_HZ, start_s, length_s)
        assert len(part) == round(length_s * RATE_HZ)
        assert level_db == active_level_db(part)
