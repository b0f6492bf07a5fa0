"""Scenes that are loops: backgrounds go round, and events go on at the beginning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdsd.jobs_api import load_job
from birdsd.scenes.backgrounds.looped import loop_at, reaching_over, rounded
from birdsd.scenes.compose.around import Around, folded
from birdsd.scenes.placed import PlacedBackground
from birdsd.schema import SceneConfig
from tests.support.songs_of_scenes import RATE_HZ, make_bank, make_pool

SCENE = """
format: birdsd-scene/1
seed: 3
duration_s: 6
loop: true
backgrounds:
  - {environment: rain, source: pool}
events:
  - {id: over, species: Synthetic Low, onset_s: 5.8, snr_db: 12}
  - {id: inside, species: Synthetic High, onset_s: 2, snr_db: 12}
"""


class Ramp:
    """A stem whose samples say which they are."""

    def __init__(self, start: int, samples: int) -> None:
        self.start, self.samples = start, samples

    def read(self, first: int, count: int) -> np.ndarray:
        at = np.arange(first, first + count) - self.start
        return np.where((at >= 0) & (at < self.samples), at + 1, 0).astype(np.float32)


@pytest.mark.parametrize(("start", "samples"), [(90, 30), (-20, 50), (-20, 140), (250, 10), (0, 100)])
def test_a_stem_that_reaches_over_the_end_is_folded_into_the_loop(start, samples):
    expected = np.zeros(100)
    for at in range(samples):
        expected[(start + at) % 100] += at + 1
    stem = folded(Ramp(start, samples), 100)
    parts = [stem.read(first, 10) for first in range(0, 100, 10)]
    if start == 0:
        assert not isinstance(stem, Around)
    assert np.array_equal(np.concatenate(parts), expected)


def test_parts_become_a_loop_whose_end_fades_into_its_beginning():
    n, fade = 4000, 500
    told = np.arange(n + fade, dtype=np.float32)
    parts = list(rounded(iter(np.array_split(told, 13)), n, fade))
    loop = np.concatenate(parts)
    assert len(loop) == n and loop[0] == fade and np.array_equal(loop[: n - fade], told[fade:n])
    assert loop[-1] == pytest.approx(fade, rel=0.02), "the last sample comes before the first"
    assert loop[n - fade] == pytest.approx(n, rel=0.02)
    short = np.concatenate(list(rounded(iter([told[:100]]), n, fade)))
    assert len(short) == n and np.isfinite(short).all()


def test_a_loop_in_another_number_of_samples_has_no_step():
    wave = np.sin(2 * np.pi * 5 * np.arange(1000) / 1000).astype(np.float32)
    other = loop_at(wave, 1501)
    assert np.allclose(other, np.sin(2 * np.pi * 5 * np.arange(1501) / 1501), atol=1e-4)


def test_stretches_at_the_loop_point_reach_over_it():
    first = PlacedBackground("rain", "rain", -39.0, 0.0, 10.0, 0.0, 2.0, "pool", "", 1)
    last = PlacedBackground("wind", "wind", -39.0, 9.0, 30.0, 2.0, 0.0, "pool", "", 1)
    one, two = reaching_over(first, 30.0), reaching_over(last, 30.0)
    assert (one.from_s, one.fade_in_s, one.to_s) == (-1.0, 2.0, 10.0)
    assert (two.to_s, two.fade_out_s, two.from_s) == (31.0, 2.0, 9.0)
    whole = PlacedBackground("rain", "rain", -39.0, 0.0, 30.0, 0.0, 0.0, "pool", "", 1)
    assert reaching_over(whole, 30.0) == whole


@pytest.fixture(scope="module")
def looped(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("looped")
    make_bank(folder / "bank")
    make_pool(folder / "pool")
    (folder / "loop.yaml").write_text(SCENE)
    out = folder / "out"
    settings = {"bank": str(folder / "bank"), "pool": str(folder / "pool"), "picture": False}
    load_job("scene")(SceneConfig(scene=str(folder / "loop.yaml"), out=str(out), **settings))
    return next(path.parent for path in out.glob("*/labels.json"))


def test_an_event_over_the_end_is_heard_and_labelled_at_both(looped):
    told = json.loads((looped / "labels.json").read_text())
    over = [one for one in told["came_out"] if one["event"] == "over"]
    assert len(over) == 2 and over[0]["offset_s"] == 6 and over[1]["onset_s"] == 0
    assert over[0]["onset_s"] == pytest.approx(5.8, abs=0.01) and over[1]["offset_s"] < 5
    assert all(0 <= one["onset_s"] < one["offset_s"] <= 6 for one in told["came_out"])
    stem, _ = soundfile.read(looped / over[0]["stem"])
    assert len(stem) == 6 * RATE_HZ
    head = round(over[1]["offset_s"] * RATE_HZ)
    assert np.square(stem[:head]).mean() > 100 * np.square(stem[head + RATE_HZ // 2 : 5 * RATE_HZ]).mean()


def test_at_the_loop_point_the_sound_steps_no_more_than_inside(looped):
    sound, _ = soundfile.read(next(looped.glob("*.flac")))
    assert len(sound) == 6 * RATE_HZ
    assert abs(sound[0] - sound[-1]) <= np.percentile(np.abs(np.diff(sound)), 99)


def test_any_scene_becomes_a_loop_by_its_setting(looped, tmp_path):
    folder = looped.parents[1]
    load_job("scene")(
        SceneConfig(
            bank=str(folder / "bank"), pool=str(folder / "pool"), out=str(tmp_path), picture=False,
            prompt="a Synthetic High in rain followed by a Synthetic Low in a quiet stream", loop=True,
        )
    )  # fmt: skip
    made = next(path.parent for path in tmp_path.glob("*/labels.json"))
    assert json.loads((made / "recipe.json").read_text())["scene"]["loop"] is True
    sound, _ = soundfile.read(next(made.glob("*.flac")))
    assert abs(sound[0] - sound[-1]) <= np.percentile(np.abs(np.diff(sound)), 99)
