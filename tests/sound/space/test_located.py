"""Boxes of birds that sing into each other's boxes each get their own bird's bearing, and no mean of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdsd.sound.bearings import locate
from birdsd.sound.labels.annotation import Label
from birdsd.sound.space.intensity import turned_deg
from birdsd.sound.space.orders import ACN_SN3D
from birdsd.sound.space.propagate import Reverberation
from tests.support.spatial import RATE_HZ, at_snr, diffuse_foa, in_foa, song

SECONDS, LATER_S = 2.0, 0.6


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("second_first", [False, True])
def test_boxes_that_overlap_get_the_bearings_of_their_own_birds(
    tmp_path: Path, seed: int, second_first: bool
) -> None:
    asked = (-30.0 + 40 * seed, 15.0 + 40 * seed)
    later = round(LATER_S * RATE_HZ)
    foa = np.zeros((4, round(SECONDS * RATE_HZ) + later + RATE_HZ), np.float32)
    for n, azimuth in enumerate(asked):
        bird = in_foa(song(2 * seed + n), azimuth, reverberation=Reverberation(0.6, 10.0), seed=n)
        bird = bird[:, : foa.shape[1] - n * later]
        foa[:, n * later : n * later + bird.shape[1]] += bird
    foa += at_snr(foa, diffuse_foa(foa.shape[1], seed), 20.0)
    soundfile.write(tmp_path / "two.wav", foa.T, RATE_HZ, subtype="FLOAT")
    boxes = [
        Label(name, n * LATER_S, n * LATER_S + SECONDS, 1000.0, 12000.0)
        for n, name in enumerate(("first", "second"))
    ]
    placed = locate(
        tmp_path / "two.wav", boxes[::-1] if second_first else boxes, order=ACN_SN3D, picture=False
    ).placed
    assert [one.label.label for one in placed] == (
        ["second", "first"] if second_first else ["first", "second"]
    )
    for one in placed:
        assert one.bearing is not None
        wanted = asked[("first", "second").index(one.label.label)]
        assert turned_deg(one.bearing.azimuth_deg, wanted) <= 5.0


def test_a_box_that_shares_its_bird_with_another_has_the_same_bearing(tmp_path: Path) -> None:
    foa = in_foa(song(3), 50.0)
    soundfile.write(tmp_path / "one.wav", foa.T, RATE_HZ, subtype="FLOAT")
    boxes = [Label("a", 0.0, 2.0, 1000.0, 12000.0), Label("b", 0.5, 1.5, 2000.0, 9000.0)]
    for one in locate(tmp_path / "one.wav", boxes, order=ACN_SN3D, picture=False).placed:
        assert one.bearing is not None and turned_deg(one.bearing.azimuth_deg, 50.0) <= 2.0
