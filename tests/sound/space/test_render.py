"""What receivers hear of a bird at a known place: delays, levels, air, reverberation, movement."""

from __future__ import annotations

import math

import numpy as np
import pytest

from birdsd.errors import BadValue, UnknownName
from birdsd.sound.space.air import Air
from birdsd.sound.space.diffuse import bed, round_and_round, waves
from birdsd.sound.space.layouts import (
    ARRAY,
    FOA,
    MS,
    ORTF,
    Layout,
    Position,
    Recorder,
    compass_deg,
    unit_vector,
)
from birdsd.sound.space.propagate import Reverberation, render
from tests.support.spatial import AIR, RATE_HZ, in_foa, song


def placed(
    layout: Layout, azimuth: float, elevation: float = 0.0, distance: float = 10.0, **how
) -> np.ndarray:
    place = Position(azimuth, elevation, distance)
    return render(song(1, 0.5), RATE_HZ, (place, place), layout, how.pop("air", AIR), **how)


def delay_s(one: np.ndarray, other: np.ndarray) -> float:
    """How much later `other` hears it: the peak of the cross-correlation, between its samples."""
    size, over = 2 * len(one), 16
    cross = np.fft.rfft(other, size) * np.conj(np.fft.rfft(one, size))
    found = np.fft.irfft(np.pad(cross, (0, (over - 1) * size // 2)), over * size)
    at = int(np.argmax(found))
    a, b, c = found[at - 1], found[at], found[(at + 1) % len(found)]
    fine = at + 0.5 * (a - c) / (a - 2 * b + c)
    return (fine if at < over * size // 2 else fine - over * size) / (over * RATE_HZ)


@pytest.mark.parametrize(
    ("celsius", "percent", "per_100_m"),
    [
        (10, 70, (0.37, 0.97, 3.3, 11.8, 23.8, 37)),
        (20, 70, (0.50, 0.90, 2.3, 7.8, 16.5, 28)),
        (20, 50, (0.47, 0.99, 3.0, 10.5, 22.1, 36)),
    ],
)
def test_the_air_takes_what_iso_9613_says(celsius, percent, per_100_m):
    found = 100 * Air(celsius, percent).absorption_db_per_m(np.array([1, 2, 4, 8, 12, 16]) * 1000.0)
    assert found == pytest.approx(per_100_m, rel=0.02, abs=0.006)


@pytest.mark.parametrize("azimuth", [-150.0, -45.0, 0.0, 30.0, 90.0, 180.0])
@pytest.mark.parametrize("elevation", [-30.0, 0.0, 60.0])
def test_ambisonics_are_acn_in_sn3d(azimuth, elevation):
    w, y, z, x = placed(Layout(FOA), azimuth, elevation).T
    a, e = math.radians(azimuth), math.radians(elevation)
    for channel, gain in ((y, math.sin(a) * math.cos(e)), (z, math.sin(e)), (x, math.cos(a) * math.cos(e))):
        assert channel == pytest.approx(gain * w, abs=1e-5)


def test_an_ortf_pair_has_the_delay_and_the_level_difference_of_its_geometry():
    for azimuth, micros, level_db in ((15, 128, 2.4), (30, 248, 4.9), (60, 429, 10.8), (-30, -248, -4.9)):
        left, right = placed(Layout(ORTF), azimuth, air=Air(20.0)).T
        assert 1e6 * delay_s(left, right) == pytest.approx(micros, abs=3)
        level = 10 * math.log10(np.square(left).sum() / np.square(right).sum())
        assert level == pytest.approx(level_db, abs=0.1)


def test_mid_and_side_sum_to_the_pressure_and_come_from_ambisonics():
    pair, foa = placed(Layout(MS), 40.0), placed(Layout(FOA), 40.0)
    assert pair.sum(axis=1) == pytest.approx(foa[:, 0], abs=1e-6)
    assert pair[:, 0] - pair[:, 1] == pytest.approx(foa[:, 1], abs=1e-6)


@pytest.mark.parametrize("heading", [0.0, 90.0])
def test_recorders_of_an_array_hear_a_bird_when_and_as_loud_as_they_are_far(heading):
    array = Layout(ARRAY, (Recorder("A", -20, 0), Recorder("B", 30, 10), Recorder("C", 0, 40, 3)), heading)
    azimuth, distance = 50.0, 25.0
    bearing = math.radians(compass_deg(azimuth, heading))
    bird = distance * np.array([math.sin(bearing), math.cos(bearing), 0.0])
    heard = placed(array, azimuth, distance=distance, air=Air(humidity_percent=100)).T
    far = np.linalg.norm(array.places() - bird, axis=1)
    for one, other in ((0, 1), (0, 2)):
        asked = (far[other] - far[one]) / AIR.speed_m_s
        assert delay_s(heard[one], heard[other]) == pytest.approx(asked, abs=2e-6)
        level = 10 * math.log10(np.square(heard[one]).sum() / np.square(heard[other]).sum())
        assert level == pytest.approx(20 * math.log10(far[other] / far[one]), abs=1.5), "and a little air"


def test_a_far_bird_is_softer_and_duller_and_more_in_reverberation():
    near, far = (placed(Layout(FOA), 0.0, distance=d)[:, 0] for d in (20.0, 200.0))
    lost = 10 * math.log10(np.square(near).sum() / np.square(far).sum())
    loss = 180 * AIR.absorption_db_per_m(np.array([3500.0]))[0]
    assert lost == pytest.approx(20 + loss, abs=3.0)
    echo = Reverberation(1.0, 20.0)
    for distance in (10.0, 40.0):
        dry = in_foa(song(1), 0.0, distance_m=distance)[0]
        wet = in_foa(song(1), 0.0, distance_m=distance, reverberation=echo)[0]
        # Another air for what is scattered: the beginning is aligned, and what is more is the forest.
        rest = wet[: len(dry)] - dry
        tail = np.square(rest).sum() + np.square(wet[len(dry) :]).sum()
        ratio = 10 * math.log10(np.square(dry).sum() / tail)
        assert ratio == pytest.approx(20 - 20 * math.log10(distance / 10), abs=3.0)


def test_the_reverberation_falls_by_60_db_in_its_time():
    click = np.zeros(2000, np.float32)
    click[100] = 1
    heard = in_foa(click, 0.0, reverberation=Reverberation(0.8, 0.0), seed=3)[0]
    levels = [
        10 * np.log10(np.square(heard[round(at * RATE_HZ) :][:1600]).mean())
        for at in (0.1, 0.2, 0.3, 0.4, 0.5)
    ]
    slope = np.polyfit((0.1, 0.2, 0.3, 0.4, 0.5), levels, 1)[0]
    assert slope == pytest.approx(-60 / 0.8, rel=0.08)


@pytest.mark.parametrize("layout", [Layout(FOA), Layout(ORTF)])
def test_a_bird_that_flies_past_ends_on_the_other_side(layout):
    sound = np.random.default_rng(0).standard_normal(RATE_HZ).astype(np.float32)
    sides = Position(60.0), Position(-60.0)
    moved = render(sound, RATE_HZ, sides, layout, AIR)
    if layout.name == FOA:
        side = np.array([float(part[:, 0] @ part[:, 1]) for part in np.array_split(moved, 10)])
    else:
        side = np.array(
            [np.square(part[:, 0]).sum() - np.square(part[:, 1]).sum() for part in np.array_split(moved, 10)]
        )
    assert side[0] > 0 > side[-1] and np.all(np.diff(side) < 0.1 * side[0]), "from the left to the right"
    still = render(sound, RATE_HZ, (sides[0], sides[0]), layout, AIR)
    level = [np.square(one[5000:-5000]).sum() for one in (moved, still)]
    assert 0.7 < level[0] / level[1] < 1.4, "without gaps or bumps"


def test_a_bed_of_rain_is_diffuse_and_as_loud_in_every_channel_as_a_diffuse_field():
    noise = np.random.default_rng(1).standard_normal(4 * RATE_HZ).astype(np.float32)

    def read(first, count):
        return noise[first : first + count]

    around, length = round_and_round(read, len(noise), RATE_HZ, seamless=False)
    for layout in (
        Layout(FOA),
        Layout(ORTF),
        Layout(MS),
        Layout(ARRAY, (Recorder("A", 0, 0), Recorder("B", 9, 0))),
    ):
        draw = np.random.default_rng(2)
        heard = np.concatenate(list(bed(around, length, 6 * RATE_HZ, RATE_HZ, layout, draw)))
        assert heard.shape == (6 * RATE_HZ, layout.channels)
        power = np.square(heard).mean(axis=0)
        wanted = {ORTF: 1 / 3, MS: 1 / 3, ARRAY: 1.0}.get(layout.name)
        if wanted:
            assert power == pytest.approx(np.full(2, wanted), rel=0.15)
        else:
            assert power == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3], rel=0.1)
        same = np.corrcoef(heard.T)
        limit = {MS: 0.6, ORTF: 0.5}.get(layout.name, 0.05)
        assert np.abs(same[np.triu_indices(layout.channels, 1)]).max() < limit, (
            "never one file in all channels"
        )


def test_what_goes_round_and_round_has_no_step_where_it_begins_anew():
    tone = np.sin(2 * np.pi * 50.3 * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32)
    around, length = round_and_round(
        lambda first, count: tone[first : first + count], len(tone), RATE_HZ, False
    )
    sound = around(length - 500, 1000)
    assert np.abs(np.diff(sound)).max() < 0.03 and len(around(5, 3 * length)) == 3 * length


def test_the_directions_of_the_waves_are_spread_evenly():
    units = np.array([one.unit for one in waves(64)])
    assert np.abs(units.mean(axis=0)).max() < 0.02
    assert units.T @ units / 64 == pytest.approx(np.eye(3) / 3, abs=0.02)


@pytest.mark.parametrize(
    ("make", "said", "kind"),
    [
        (lambda: Air(humidity_percent=300.0), "humidity_percent is 300", BadValue),
        (lambda: Air(temperature_c=math.nan), "temperature_c is nan", BadValue),
        (lambda: Position(400.0), "azimuth_deg is 400", BadValue),
        (lambda: Position(0.0, 0.0, 0.0), "distance_m is 0", BadValue),
        (lambda: Position(0.0, 0.0, math.inf), "distance_m is inf", BadValue),
        (lambda: Reverberation(-1.0), "reverb_s is -1", BadValue),
        (lambda: Layout("quad"), "'quad'", UnknownName),
        (lambda: Layout(FOA, heading_deg=400.0), "heading_deg is 400", BadValue),
        (
            lambda: render(np.array([0, np.nan]), 8000, (Position(), Position()), Layout(FOA), AIR),
            "NaN",
            BadValue,
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_value(make, said, kind):
    with pytest.raises(kind) as caught:
        make()
    assert said in str(caught.value)


def test_compass_bearings_turn_the_other_way():
    assert [compass_deg(a, h) for a, h in ((0, 0), (90, 0), (-90, 0), (30, 90))] == [0, 270, 90, 60]
    assert unit_vector(90.0) == pytest.approx([0, 1, 0], abs=1e-12)
