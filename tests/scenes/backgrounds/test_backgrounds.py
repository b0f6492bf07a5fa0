"""Backgrounds of any length: at their level, without hard cuts, from other files, or generated."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import soundfile

from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.request import Request
from birdsd.errors import NothingLeft, NotSet, UnknownName
from birdsd.scenes.backgrounds.joined import faded_in_out, joined
from birdsd.scenes.backgrounds.pool import Pool
from birdsd.scenes.backgrounds.render import Backgrounds, at_rate
from birdsd.scenes.backgrounds.spool import Spool
from birdsd.scenes.bank.split import SPLITS
from birdsd.scenes.placed import PlacedBackground
from birdsd.sound.audio.levels import active_level_db
from tests.support.errors import refuses
from tests.support.songs_of_scenes import RATE_HZ, make_pool
from tests.support.threads import one_thread as one_thread
from tests.support.tiny import autoencoder_folder as autoencoder_folder
from tests.support.tiny import index as index
from tests.support.tiny import pipeline_folder as pipeline_folder
from tests.support.tiny import trained as trained


def told(**changes) -> PlacedBackground:
    given = {
        "environment": "rain",
        "prompt": "rain",
        "level_db": -39.0,
        "from_s": 0.0,
        "to_s": 20.0,
        "source": "pool",
        "seed": 3,
    }
    return PlacedBackground(**{**given, **changes})


@pytest.fixture(scope="module")
def pool_folder(tmp_path_factory):
    return make_pool(tmp_path_factory.mktemp("pool"))


@pytest.mark.parametrize("lengths", [[100], [100, 100, 100], [30, 5, 100], [10] * 40, [1000]])
@pytest.mark.parametrize("samples", [1, 77, 150])
def test_pieces_are_joined_to_exactly_the_length_or_what_there_is(lengths, samples):
    parts = list(joined(iter([np.ones(n, np.float32) for n in lengths]), 20, samples))
    assert sum(map(len, parts)) == min(
        samples, sum(map(len, joined(iter([np.ones(n, np.float32) for n in lengths]), 20, 10**6)))
    )
    assert np.concatenate(parts).min() > 0.99, "no dip at a join"


def test_unlike_pieces_keep_their_level_across_the_join():
    draw = np.random.default_rng(0)
    parts = [draw.standard_normal(20000).astype(np.float32) for _ in range(20)]
    whole = np.concatenate(list(joined(iter(parts), 8000, 10**9)))
    levels = [np.square(part).mean() for part in np.array_split(whole, 40)]
    assert np.ptp(10 * np.log10(levels)) < 0.6


def test_fades_on_blocks_are_those_of_the_whole():
    whole = faded_in_out(np.ones(1000, np.float32), 0, 1000, 100, 200)
    parts = [faded_in_out(np.ones(50, np.float32), at, 1000, 100, 200) for at in range(0, 1000, 50)]
    assert (
        np.array_equal(np.concatenate(parts), whole)
        and whole[0] < 0.02
        and whole[-1] < 0.02
        and whole[500] == 1
    )


def test_a_background_of_the_pool_has_its_level_its_length_and_other_files_one_after_the_other(
    pool_folder, tmp_path
):
    with Spool(tmp_path / "spool") as spool:
        layer = Backgrounds(pool=Pool(pool_folder)).layer(told(), RATE_HZ, spool)
        sound = layer.read(0, 20 * RATE_HZ)
        assert layer.samples == 20 * RATE_HZ
        assert active_level_db(sound) == pytest.approx(-39, abs=0.1)
        assert len(layer.files) == 4 and {one.licence for one in layer.files} == {"CC0"}
        loud = [10 * np.log10(np.square(part).mean()) for part in np.array_split(sound, 40)]
        assert np.ptp(loud) < 3, "files that are 12 dB apart are brought to one level"
        again = Backgrounds(pool=Pool(pool_folder)).layer(told(), RATE_HZ, spool)
        assert np.array_equal(again.read(0, 20 * RATE_HZ), sound)
        other = Backgrounds(pool=Pool(pool_folder)).layer(told(seed=4), RATE_HZ, spool)
        assert not np.array_equal(other.read(0, 20 * RATE_HZ), sound)
        assert np.array_equal(layer.read(-5, 5), np.zeros(5)) and not layer.read(20 * RATE_HZ, 5).any()


def test_the_files_of_the_splits_are_disjoint_and_all_are_used(pool_folder):
    held = {split: set(Pool(pool_folder, split).files("rain")) for split in SPLITS}
    assert all(held.values()) and sum(map(len, held.values())) == len(set.union(*held.values())) == 4


def test_what_is_missing_is_named(pool_folder, tmp_path):
    with Spool(tmp_path / "spool") as spool:
        with refuses("'rain'", "pool=FOLDER", kind=NotSet):
            Backgrounds().layer(told(), RATE_HZ, spool)
        with refuses("'snow'", "rain, stream", kind=UnknownName):
            Backgrounds(pool=Pool(pool_folder)).layer(told(environment="snow"), RATE_HZ, spool)
        with refuses("'rain'", "run=RUN", kind=NotSet):
            Backgrounds().layer(told(source="generate"), RATE_HZ, spool)
        silent = tmp_path / "silent.wav"
        soundfile.write(silent, np.zeros(RATE_HZ), RATE_HZ)
        with refuses("'rain'", kind=NothingLeft):
            Backgrounds().layer(told(source="file", path=str(silent)), RATE_HZ, spool)
        assert Backgrounds().layer(told(source="none"), RATE_HZ, spool) is None


def test_a_file_is_repeated_with_a_fade_where_it_is_shorter(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(4 * RATE_HZ)
    soundfile.write(tmp_path / "wind.wav", noise, RATE_HZ)
    with Spool(tmp_path / "spool") as spool:
        layer = Backgrounds().layer(
            told(source="file", path=str(tmp_path / "wind.wav"), to_s=10.0), RATE_HZ, spool
        )
        sound = layer.read(0, 10 * RATE_HZ)
    assert np.ptp([10 * np.log10(np.square(part).mean()) for part in np.array_split(sound, 20)]) < 1.5


def test_a_generated_background_is_as_long_as_asked_at_any_rate(pipeline_folder, tmp_path):
    model = Generator(pipeline_folder)
    request = Request(("rain",), steps=2)
    with Spool(tmp_path / "spool") as spool:
        for rate_hz in (model.codec.rate_hz, 22050):
            layer = Backgrounds(model, request).layer(told(source="generate", to_s=5.3), rate_hz, spool)
            sound = layer.read(0, layer.samples)
            assert len(sound) == round(5.3 * rate_hz) and np.isfinite(sound).all()
            assert active_level_db(sound) == pytest.approx(-39, abs=0.1)
            blocks = [np.square(part).mean() for part in np.array_split(sound, 10)]
            assert min(blocks) > 0, "no hole at a join of blocks"


def test_resampled_as_one_stream_is_the_same_as_whole():
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32)
    parts = iter(np.array_split(tone, 7))
    made = np.concatenate(list(islice(at_rate(parts, RATE_HZ, 24000, 24000), 100)))
    expected = np.sin(2 * np.pi * 440 * np.arange(24000) / 24000)
    assert len(made) == 24000 and np.abs(made - expected)[500:-500].max() < 1e-3
