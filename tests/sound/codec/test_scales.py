"""Filter banks against librosa's, their inverse, and the refusal of empty filters."""

import librosa
import numpy as np
import pytest

from birdsd.errors import BadValue
from birdsd.randomness import generator
from birdsd.sound.codec.scales import SCALES, filter_bank, hz_to_mel, mel_to_hz
from tests.support.errors import refuses


def dense(bank):
    matrix = np.zeros((bank.weights.bands, bank.weights.bins))
    matrix[bank.weights.band, bank.weights.bin] = bank.weights.weight
    return matrix


@pytest.mark.parametrize("formula", ["htk", "slaney"])
@pytest.mark.parametrize("norm", [None, "slaney"])
def test_mel_banks_are_librosas(formula, norm):
    bank = filter_bank("mel", 32000, 2048, 80, 50.0, 15000.0, formula, norm)
    expected = librosa.filters.mel(
        sr=32000,
        n_fft=2048,
        n_mels=80,
        fmin=50,
        fmax=15000,
        htk=formula == "htk",
        norm=norm,
        dtype=np.float64,
    )
    assert np.abs(dense(bank) - expected).max() < 1e-7 * expected.max()


@pytest.mark.parametrize("formula", ["htk", "slaney"])
def test_mel_and_back(formula):
    hz = np.array([0.0, 60, 999, 1000, 1001, 16000])
    assert np.allclose(mel_to_hz(hz_to_mel(hz, formula), formula), hz)
    assert np.allclose(hz_to_mel(hz, formula), librosa.hz_to_mel(hz, htk=formula == "htk"))


def test_a_linear_scale_on_the_bins_is_those_bins():
    bank = filter_bank("linear", 32000, 512, 256, 62.5, 16000.0)
    assert bank.identity
    magnitude = generator("identity").random((7, 257), dtype=np.float32)
    assert np.array_equal(bank.apply(magnitude), magnitude[:, 1:])
    assert np.array_equal(bank.invert(magnitude[:, 1:])[:, 1:], magnitude[:, 1:])


@pytest.mark.parametrize("scale", SCALES)
def test_products_equal_the_dense_ones_and_inverse_fits_the_bands(scale):
    bank = filter_bank(scale, 32000, 1024, 60, 300.0, 15000.0)
    assert not bank.identity
    matrix = dense(bank)
    magnitude = generator("products", scale).random((100, 513), dtype=np.float32) ** 2
    bands = bank.apply(magnitude)
    assert np.allclose(bands, magnitude @ matrix.T, rtol=1e-5, atol=1e-6)
    found = bank.invert(bands)
    assert found.shape == magnitude.shape and (found >= 0).all()
    assert np.linalg.norm(found @ matrix.T - bands) < 0.02 * np.linalg.norm(bands)
    uncovered = matrix.sum(axis=0) == 0
    assert uncovered.any() and not found[:, uncovered].any()


def test_correction_brings_bands_closer():
    bank = filter_bank("mel", 32000, 1024, 60, 300.0, 15000.0)
    draw = generator("correction")
    wanted, have = (draw.random((20, 513), dtype=np.float32) + 0.1 for _ in range(2))
    bands = bank.apply(wanted)
    before = np.linalg.norm(bank.apply(have) - bands)
    after = np.linalg.norm(bank.apply(have * bank.correction(have, bands)) - bands)
    assert after < 0.5 * before


@pytest.mark.parametrize(("scale", "fmin"), [("mel", 0.0), ("log", 800.0), ("linear", 0.0)])
def test_empty_filters_are_refused_with_sizes_that_work(scale, fmin):
    with refuses("filters see no FFT bin", kind=BadValue) as caught:
        filter_bank(scale, 32000, 512, 500, fmin, 15000.0)
    ways = dict(way.removeprefix("set ").split("=") for way in caught.value.hint.split(", or ") if "=" in way)
    assert filter_bank(scale, 32000, int(ways["n_fft"]), 500, fmin, 15000.0).weights.bands == 500
    assert filter_bank(scale, 32000, 512, int(ways["bands"]), fmin, 15000.0).centre_hz[-1] > 14000
    assert int(ways["n_fft"]) % 2 == 0


def test_where_no_reasonable_fft_would_do_only_fewer_bands_are_named():
    with refuses(("285 of the 512", "n_fft=512"), "bands=", kind=BadValue) as caught:
        filter_bank("log", 32000, 512, 512, 30.0, 15000.0)
    assert "n_fft" not in caught.value.hint
