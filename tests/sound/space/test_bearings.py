"""Planted birds are found where they were planted, and nobody where nobody is."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.errors import BadValue, Mismatch, NothingLeft
from birdsd.sound.separation.measures import si_sdr_db
from birdsd.sound.space.apart import apart, apart_in_blocks
from birdsd.sound.space.intensity import bearing_of, bearings_of, field_of, turned_deg
from birdsd.sound.space.layouts import ORTF, Layout, Position
from birdsd.sound.space.orders import ACN_N3D, ACN_SN3D, FUMA, as_foa, energies, told_apart
from birdsd.sound.space.propagate import Reverberation, render
from birdsd.sound.space.stereo import ortf_azimuth
from tests.support.errors import refuses
from tests.support.spatial import AIR, RATE_HZ, at_snr, diffuse_foa, in_foa, song

AZIMUTHS = (-171.0, -128.3, -77.7, -20.0, 0.0, 33.3, 80.0, 149.9)


def heard(foa: np.ndarray):
    return bearing_of(field_of(foa, RATE_HZ).band(1000, 12000))


@pytest.mark.parametrize("kind", ["noise 10 dB", "noise 0 dB", "T60 1.2 s, 10 dB", "T60 1.2 s, 0 dB"])
def test_one_bird_is_found_within_a_degree(kind):
    errors = []
    for number, azimuth in enumerate(AZIMUTHS):
        if kind.startswith("noise"):
            foa = in_foa(song(number), azimuth, 10.0)
            foa = foa + at_snr(foa, diffuse_foa(foa.shape[1], number), float(kind.split()[1]))
        else:
            ratio = float(kind.split()[3])
            foa = in_foa(song(number), azimuth, 10.0, reverberation=Reverberation(1.2, ratio), seed=number)
        found = heard(foa)
        assert found is not None
        errors.append(turned_deg(found.azimuth_deg, azimuth))
        assert found.elevation_deg == pytest.approx(10.0, abs=8.0)
    assert np.median(errors) <= 1.0 and np.percentile(errors, 90) <= 3.0


def test_a_stereo_pair_says_where_a_bird_is_within_two_degrees():
    errors = []
    for number, azimuth in enumerate((-80.0, -45.0, -12.5, 0.0, 7.0, 30.0, 66.0, 85.0)):
        place = Position(azimuth)
        pair = render(song(number), RATE_HZ, (place, place), Layout(ORTF), AIR).T
        noise = np.random.default_rng(number).standard_normal(pair.shape).astype(np.float32)
        noise *= np.float32(0.1 * np.sqrt(np.square(pair).mean()))
        found = ortf_azimuth(pair + noise, RATE_HZ, AIR)
        assert found is not None
        errors.append(abs(found - azimuth))
    assert np.median(errors) <= 2.0 and max(errors) <= 4.0
    assert ortf_azimuth(np.zeros((2, RATE_HZ), np.float32), RATE_HZ) is None


@pytest.mark.parametrize("seed", range(6))
def test_where_nobody_sings_there_is_no_bearing(seed):
    noise = diffuse_foa(2 * RATE_HZ, seed)
    hiss = np.random.default_rng(seed).standard_normal((4, 2 * RATE_HZ)).astype(np.float32)
    coloured = np.cumsum(noise, axis=1) * np.float32(0.01)
    for foa in (noise, coloured, hiss, np.zeros((4, RATE_HZ), np.float32)):
        field = field_of(foa, RATE_HZ)
        for band in (field.band(500, 12000), field.band(3000, 5000)):
            assert bearing_of(band) is None and bearings_of(band) == []


@pytest.mark.parametrize("apart_deg", [45.0, 90.0])
def test_two_birds_at_once_are_told_apart(apart_deg):
    gains = []
    for number, azimuth in enumerate((-100.0, -20.0, 10.0, 120.0)):
        birds = [in_foa(song(2 * number + n), (azimuth + n * apart_deg + 180) % 360 - 180) for n in (0, 1)]
        noise = diffuse_foa(birds[0].shape[1], number)
        foa = birds[0] + birds[1] + at_snr(birds[0], noise, 20.0)
        found = bearings_of(field_of(foa, RATE_HZ).band(1000, 12000))
        assert len(found) == 2
        azimuths = []
        for n in (0, 1):
            asked = azimuth + n * apart_deg
            best = min(found, key=lambda one: turned_deg(one.azimuth_deg, asked))
            assert turned_deg(best.azimuth_deg, asked) <= 3.0
            azimuths.append(best.azimuth_deg)
        sounds = apart(foa, RATE_HZ, azimuths)
        assert sounds.sum(axis=0) == pytest.approx(foa[0], abs=1e-5), "with the rest they are W"
        for n in (0, 1):
            gains.append(si_sdr_db(sounds[1 + n], birds[n][0]) - si_sdr_db(foa[0], birds[n][0]))
    assert np.mean(gains) >= 15.0


def test_a_long_sound_is_told_apart_in_blocks_as_in_one():
    foa = in_foa(song(1, 3.0), 30.0) + in_foa(song(2, 3.0), -60.0)
    whole = apart(foa, RATE_HZ, [30.0, -60.0])
    parts = np.array_split(foa, 7, axis=1)
    blocks = np.concatenate(list(apart_in_blocks(iter(parts), RATE_HZ, [30.0, -60.0], RATE_HZ // 2)), axis=1)
    assert blocks.shape == whole.shape and blocks == pytest.approx(whole, abs=1e-5)


def test_the_order_of_the_channels_is_told_or_asked_for():
    foa = in_foa(song(3), 70.0, 20.0)
    foa = foa + at_snr(foa, diffuse_foa(foa.shape[1], 1), 10.0)
    w, y, z, x = foa
    fuma = np.stack([w / np.float32(2**0.5), x, y, z])
    n3d = np.stack([w, *(np.float32(3**0.5) * one for one in (y, z, x))])
    assert told_apart(energies(foa), "it") == ACN_SN3D and told_apart(energies(fuma), "it") == FUMA
    for order, channels in ((FUMA, fuma), (ACN_N3D, n3d), (ACN_SN3D, foa)):
        assert as_foa(channels, order) == pytest.approx(foa, abs=1e-6)
    for channels in (n3d, np.stack([w, w, w, w]), np.stack([w, w, w, w]) * [[1], [0.01], [0.01], [0.01]]):
        with refuses("a.wav", "order=acn-sn3d", kind=Mismatch):
            told_apart(energies(channels.astype(np.float32)), "a.wav")
    with refuses("a.wav", kind=NothingLeft):
        told_apart(np.zeros(4), "a.wav")


def test_azimuths_that_are_none_are_refused():
    with refuses("[nan]", kind=BadValue):
        apart(np.zeros((4, 1000), np.float32), RATE_HZ, [float("nan")])
