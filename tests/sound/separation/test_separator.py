"""Stems: they sum to the recording, are the same in blocks as at once, and hold the bird."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.errors import BadValue, Mismatch, NothingLeft, UnknownName, UserError
from birdsd.sound.separation import masks
from birdsd.sound.separation.fit import Fitted, Wanted, fit, learn_source, self_test
from birdsd.sound.separation.gate import gate
from birdsd.sound.separation.grid import Grid
from birdsd.sound.separation.measures import improvement_db, si_sdr_db, snr_db
from birdsd.sound.separation.model import DECIBEL, Bases, joined
from birdsd.sound.separation.sample import Sample, of_sound, together
from birdsd.sound.separation.separator import in_blocks, reach, stems_of
from tests.support.birds_and_noise import RATE_HZ, at_0_db, crickets, rain, song
from tests.support.errors import refuses

GRID = Grid.of(RATE_HZ)
SMALL = Wanted("nmf", bases=6, depth=3)
BIRD = song(6.0, seed=5)


def learnt(wanted: Wanted = SMALL, noise=rain, **more) -> Bases:
    """A model of other songs and other noise than those that are tested."""
    parts = []
    for name, sounds in (("bird", [song(4.0, seed) for seed in (1, 2)]), ("rain", [noise(4.0, 3)])):
        parts.append(learn_source(name, together([of_sound(one, GRID) for one in sounds]), wanted, **more))
    return joined(parts)


def mixed(noise=rain) -> np.ndarray:
    return BIRD + at_0_db(BIRD, noise(6.0, 9))


WAYS: dict[str, dict] = {
    "gate": {"wanted": Wanted("gate")},
    "bird free": {"wanted": SMALL},
    "pcnmf": {"wanted": Wanted("pcnmf", bases=8, depth=3)},
    "auto": {"wanted": Wanted(bases=6, depth=3)},
    "supervised": {"wanted": SMALL, "model": learnt},
    "semi-supervised": {"wanted": Wanted(bases=6, depth=3, free=4), "model": learnt},
    "adaptive": {"wanted": Wanted(bases=6, depth=3, adapt=0.1), "model": learnt},
    "decibel": {"wanted": SMALL, "model": lambda: learnt(domain=DECIBEL)},
}


def fitted(way: str, sound: np.ndarray) -> Fitted:
    of = WAYS[way]
    return fit(of_sound(sound, GRID), of["wanted"], of["model"]() if "model" in of else None)


@pytest.mark.parametrize("samples", [1, 100, GRID.window, 5 * GRID.hop + 1, 20000])
def test_what_is_not_changed_comes_back(samples: int):
    sound = np.random.default_rng(0).uniform(-1, 1, samples).astype(np.float32)
    np.testing.assert_allclose(GRID.waveform(GRID.spectrum(sound), samples), sound, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_masks_sum_to_one_and_stems_to_the_recording(way: str):
    sound = mixed()
    separator = fitted(way, sound).separator
    shares = separator.masks(np.abs(GRID.spectrum(sound)))
    assert (shares >= 0).all() and np.isfinite(shares).all()
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-5)
    stems = stems_of(separator, np.stack([sound, 0.5 * sound[::-1]]))
    assert stems.shape == (len(separator.sources), 2, len(sound))
    assert np.abs(stems.astype(np.float64).sum(axis=0)[0] - sound).max() <= 1e-6
    # The last stem is what its own mask gives too, and not merely what is left.
    own = GRID.waveform(GRID.spectrum(sound) * separator.masks(np.abs(GRID.spectrum(sound)))[-1], len(sound))
    if way != "adaptive":  # whose bases have moved on meanwhile
        np.testing.assert_allclose(stems_of(separator, sound)[-1, 0], own, atol=2e-5)


@pytest.mark.parametrize(
    ("way", "least_db"),
    [("gate", 3.0), ("bird free", 5.0), ("pcnmf", 4.0), ("supervised", 9.0), ("semi-supervised", 4.0),
     ("adaptive", 7.0)],
)  # fmt: skip
def test_the_bird_comes_out_of_the_rain(way: str, least_db: float):
    sound = mixed()
    stems = stems_of(fitted(way, sound).separator, sound)[:, 0]
    assert improvement_db(stems[0], BIRD, sound) >= least_db


def test_what_is_learnt_takes_out_what_the_gate_cannot():
    sound = mixed(crickets)
    gains = {}
    for name, model in (("gate", None), ("nmf", learnt(noise=crickets))):
        separator = fit(of_sound(sound, GRID), Wanted(name, bases=6, depth=3), model).separator
        gains[name] = improvement_db(stems_of(separator, sound)[0, 0], BIRD, sound)
    assert gains["nmf"] >= gains["gate"] + 2 and gains["nmf"] >= 8


def test_of_noise_alone_little_is_called_a_bird():
    noise = rain(5.0, 9)
    stems = stems_of(fit(of_sound(noise, GRID), SMALL, learnt()).separator, noise)[:, 0]
    assert 10 * np.log10(np.mean(stems[0] ** 2) / np.mean(noise**2)) <= -10


@pytest.mark.parametrize("way", ["gate", "bird free", "pcnmf", "supervised", "decibel"])
@pytest.mark.parametrize("part", [977, 50000])
def test_blocks_are_the_whole(way: str, part: int):
    sound = mixed()
    separator = fitted(way, sound).separator
    whole = stems_of(separator, sound)
    parts = [sound[None, at : at + part] for at in range(0, len(sound), part)]
    found = list(in_blocks(separator, parts, 2 * RATE_HZ))
    assert len(found) >= 3
    np.testing.assert_array_equal(np.concatenate([one for one, _ in found], axis=1)[0], sound)
    stems = np.concatenate([two for _, two in found], axis=2)
    np.testing.assert_allclose(stems, whole, atol=3e-5)


def test_no_more_than_a_block_and_its_margins_is_held():
    separator = fitted("supervised", mixed())
    seen = []

    class Watched:
        sources, grid, depth = separator.separator.sources, GRID, separator.separator.depth

        def masks(self, magnitude: np.ndarray) -> np.ndarray:
            seen.append(len(magnitude))
            return separator.separator.masks(magnitude)

    parts = (rain(1.0, second)[None] for second in range(40))
    assert sum(one.shape[1] for one, _ in in_blocks(Watched(), parts, 2 * RATE_HZ)) == 40 * RATE_HZ
    assert max(seen) <= GRID.frames(3 * RATE_HZ + 2 * reach(separator.separator))


def test_the_same_seed_gives_the_same_bytes():
    sound = mixed()
    made = [stems_of(fitted("pcnmf", sound).separator, sound).tobytes() for _ in range(2)]
    assert made[0] == made[1]


@pytest.mark.parametrize("seed", [3, 7])
def test_pcnmf_takes_the_bird_for_the_bird_where_a_single_random_start_takes_the_noise(
    seed: int, monkeypatch: pytest.MonkeyPatch
):
    sound = mixed()
    wanted = Wanted("pcnmf", bases=8, depth=3, seed=seed)

    def gain_db() -> float:
        stems = stems_of(fit(of_sound(sound, GRID), wanted).separator, sound)
        return improvement_db(stems[0, 0], BIRD, sound)

    assert gain_db() > 2
    monkeypatch.setattr("birdsd.sound.separation.fit.STARTS", 1)
    assert gain_db() < 0


def test_two_groups_can_be_turned_over_by_hand():
    sound = mixed()
    wanted = Wanted("pcnmf", bases=8, depth=3)
    one, two = (
        fit(of_sound(sound, GRID), Wanted("pcnmf", bases=8, depth=3, turned=t)) for t in (False, True)
    )
    np.testing.assert_allclose(
        stems_of(one.separator, sound)[0], stems_of(two.separator, sound)[1], atol=1e-5
    )
    assert "guess" in one.notes[0] and "by hand" in two.notes[0] and wanted.seed == 0
    assert len(one.facts["kurtosis"]) == 2


def test_auto_takes_what_does_better_on_the_recordings_own_song():
    for noise in (rain, crickets):
        sound = mixed(noise)
        sample = of_sound(sound, GRID)
        wanted = Wanted(bases=6, depth=3)
        told = self_test(sample, wanted)
        found = fit(sample, wanted)
        assert set(told) == {"gate", "nmf"}
        assert found.facts["method"] == max(told, key=lambda name: told[name])
        assert "gate" in found.notes[0] and "nmf" in found.notes[0], "both numbers are shown"


def test_where_nothing_is_quiet_auto_says_so_and_nmf_refuses():
    time = np.arange(3 * RATE_HZ) / RATE_HZ
    never_quiet = (0.3 * np.sin(2 * np.pi * (2000 + 900 * np.sin(9 * time)) * time)).astype(np.float32)
    sample = of_sound(never_quiet, GRID)
    if sample.quiet.any():
        sample = Sample((sample.pieces[0],), GRID)
        sample.__dict__["quiet"] = np.zeros(len(sample.magnitude), bool)
    assert fit(sample, Wanted()).facts["method"] == "gate"
    with refuses("3 s", "method=pcnmf", kind=NothingLeft):
        fit(sample, Wanted("nmf"))


def test_other_rates_than_the_models():
    model = learnt()
    for rate_hz in (22050, 48000):
        grid = model.grid(rate_hz)
        sound = song(4.0, 5, rate_hz) + 0.05 * rain(4.0, 9, rate_hz)
        stems = stems_of(fit(of_sound(sound, grid), SMALL, model).separator, sound)
        assert np.abs(stems.sum(axis=0)[0] - sound).max() <= 1e-6
    with refuses(("0-8000 Hz", "4000 Hz", "2000 Hz"), kind=Mismatch):
        fit(of_sound(rain(2.0, 1, 4000), model.grid(4000)), SMALL, model)


@pytest.mark.parametrize(
    ("sound", "wanted", "named", "kind"),
    [
        (np.zeros(RATE_HZ, np.float32), Wanted("gate"), "silent", NothingLeft),
        (np.full(RATE_HZ, 1e-7, np.float32), Wanted("auto"), "silent", NothingLeft),
        (rain(0.05), Wanted("pcnmf"), "16 bases for 14 frames", BadValue),
        (rain(0.3), Wanted("pcnmf", bases=500), "500 bases for 45 frames", BadValue),
    ],
)
def test_what_cannot_be_separated_is_told(
    sound: np.ndarray, wanted: Wanted, named: str, kind: type[UserError]
):
    with refuses(named, kind=kind):
        fit(of_sound(sound, GRID), wanted)


def test_nan_and_infinite_samples_are_refused():
    separator = fitted("gate", mixed())
    for bad in (np.nan, np.inf):
        sound = mixed().copy()
        sound[100] = bad
        with refuses("NaN", kind=BadValue):
            stems_of(separator, sound)


def test_a_sound_shorter_than_a_frame_still_sums():
    separator = fitted("supervised", mixed()).separator
    for samples in (1, 7, GRID.hop, GRID.window - 1):
        sound = rain(1.0)[:samples]
        stems = stems_of(separator, sound)
        assert stems.shape == (2, 1, samples) and np.abs(stems.sum(axis=0)[0] - sound).max() <= 1e-6


@pytest.mark.parametrize(
    ("settings", "named", "kind"),
    [
        ({"method": "magic"}, "'magic'", UnknownName), ({"bases": 0}, "bases is 0", BadValue),
        ({"adapt": 2.0}, "adapt is 2", BadValue),
        ({"adapt": float("nan")}, "adapt is nan", BadValue), ({"floor_db": 0.0}, "floor_db is 0", BadValue),
        ({"depth": 0}, "depth is 0", BadValue),
        ({"bird": "x", "rest": "x"}, "'x'", Mismatch),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings: dict, named: str, kind: type[UserError]):
    with refuses(named, kind=kind):
        Wanted(**settings)


def test_the_gate_is_its_formula():
    magnitude = np.array([[1.0, 4.0, 0.0]], np.float32)
    shares = gate(magnitude, np.array([1.0, 1.0, 1.0], np.float32))
    np.testing.assert_allclose(shares[0], [[0.05, 0.5, 0.05]])
    np.testing.assert_allclose(shares.sum(axis=0), 1)


def test_a_floor_leaves_masks_that_sum_to_one():
    shares = masks.floored(np.array([[[1.0]], [[0.0]], [[0.0]]], np.float32), -20.0)
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-6)
    assert shares.min() == pytest.approx(0.1, abs=1e-6)


def test_measures():
    assert si_sdr_db(3 * BIRD, BIRD) > 100
    noisy = BIRD + at_0_db(BIRD, rain(6.0, 9))
    assert si_sdr_db(noisy, BIRD) == pytest.approx(0, abs=0.3)
    assert improvement_db(BIRD, BIRD, noisy) > 100 and np.isneginf(si_sdr_db(0 * BIRD, BIRD))
    soft = BIRD + 0.1 * rain(6.0, 9)
    assert snr_db(soft[None], RATE_HZ) > snr_db(noisy[None], RATE_HZ) + 10
    assert snr_db(np.zeros((1, 9), np.float32), RATE_HZ) == 0
