"""A canvas as data: what is asked for when, and what is refused before anything is drawn."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from birdsd.errors import BadValue, Mismatch, NotSet
from birdsd.scenes.canvas.asked import Canvas, animation, regions
from birdsd.scenes.canvas.made import canvas_noise, slerp
from birdsd.scenes.scene import Background, Event, Scene
from birdsd.scenes.schedule import solve
from tests.support.errors import refuses

ABC = ("a robin", "a wren", "a crow")


def test_each_prompt_is_heard_alone_at_its_time_and_in_equal_shares_in_the_middle():
    canvas = animation(ABC, (0, 4, 10), 12)
    told = canvas.weights(np.array([0, 2, 4, 7, 10, 11.9]))
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 0, 1]]
    assert np.allclose(told, expected)


def test_an_animation_that_loops_goes_back_to_its_first_prompt():
    canvas = animation(ABC, (1, 4, 7), 10, loop=True)
    told = canvas.weights(np.array([0.999, 7, 9.0, 0.0]))
    assert np.allclose(told[0], [1, 0, 0], atol=0.07) and np.allclose(told[1], [0, 0, 1])
    assert np.allclose(told[2], [0.5, 0, 0.5]) and np.allclose(told[3], [0.75, 0, 0.25])
    whole = canvas.weights(np.linspace(0, 9.99, 500))
    assert np.allclose(whole.sum(1), 1) and whole.min() >= 0
    assert np.abs(np.diff(np.vstack([whole, whole[:1]]), axis=0)).max() <= 1 / 16 + 1e-9, "no jump anywhere"


def test_without_times_prompts_lie_evenly():
    assert [mark.at_s for mark in animation(ABC).marks] == [0, 5, 10]
    assert animation(ABC).duration_s == 10 and animation(ABC, loop=True).duration_s == 15
    assert [mark.at_s for mark in animation(ABC, (), 30, loop=True).marks] == [0, 10, 20]
    assert animation(("a robin",), (), None, clip_s=3).duration_s == 3
    assert animation(("a robin",), (), 90).duration_s == 90


@pytest.mark.parametrize(
    ("prompts", "times", "duration_s", "named", "kind"),
    [
        ((), (), None, "prompts", NotSet),
        (("a robin", " "), (), None, "prompts", NotSet),
        (ABC, (0, 1), None, "3 prompts and 2 times", Mismatch),
        (ABC, (0, 5, 3), None, "times=[0.0, 5.0, 3.0]", BadValue),
        (ABC, (0, 3, 3), None, "times=[0.0, 3.0, 3.0]", BadValue),
        (ABC, (0, math.nan, 3), None, "times=", BadValue),
        (ABC, (-1, 2, 3), None, "times=", BadValue),
        (ABC, (0, 2, math.inf), None, "times=", BadValue),
        (ABC, (0, 2, 30), 20, "'a crow' is to be heard at 30 s", BadValue),
        (ABC, (), 0.0001, "0.0001 s", BadValue),
        (ABC, (), 90000, "90000 s", BadValue),
        (("a",) * 201, (), None, "201 prompts", BadValue),
    ],
)
def test_what_cannot_be_is_refused(prompts, times, duration_s, named, kind):
    with refuses(named, kind=kind):
        animation(prompts, times, duration_s)


def test_a_loop_whose_end_has_another_prompt_than_its_beginning_is_refused():
    with refuses(("10 s", "0 s"), "duration_s", kind=Mismatch):
        animation(ABC, (0, 5, 10), 10, loop=True)


def scene(**changes) -> Scene:
    return Scene(
        duration_s=20, seed=4,
        backgrounds=(Background("rain", to_s=10), Background("wind", from_s=10)),
        events=(
            Event("e0", "House Sparrow", "song", onset_s=2, duration_s=3, snr_db=6),
            Event("e1", "Black Phoebe", onset_s=4, duration_s=2, snr_db=6),
        ),
        **changes,
    )  # fmt: skip


def test_a_scene_becomes_regions_without_gaps_that_say_who_sings_where():
    canvas = regions(solve(scene()))
    told = canvas.stretches()
    assert told[0].from_s == 0 and told[-1].to_s == 20
    assert all(one.to_s == other.from_s for one, other in pairwise(told))
    names = [one.species for one in told]
    both = ("House Sparrow", "Black Phoebe")
    assert names == [(), ("House Sparrow",), both, ("Black Phoebe",), (), ()]
    assert "rain" in told[1].prompt and "singing" in told[1].prompt and "wind" in told[-1].prompt
    assert np.allclose(canvas.weights(np.array([2.01, 4.99, 5.5])).argmax(1), [1, 2, 3])
    assert all(one.label.startswith("asked for: ") for one in told)
    assert Canvas.from_json(canvas.to_json()) == canvas


def test_noise_keeps_its_strength_between_two_prompts():
    canvas = animation(("a", "b"), (0, 10), 10)
    weights = canvas.weights(np.linspace(0, 10, 200))
    noise = canvas_noise(canvas, weights, (4, 16))
    norms = np.square(noise).mean((0, 1))
    assert norms[80:120].mean() == pytest.approx(1, abs=0.1), "a mean of two would have half of it"
    again = canvas_noise(animation(("a", "c"), (0, 10), 10), weights, (4, 16))
    assert np.array_equal(noise, again)
    assert not np.allclose(
        noise[..., 0], canvas_noise(animation(("a",), (), 10), weights[:, :1], (4, 16))[..., 1]
    )


def test_slerp_ends_at_both_ends_and_takes_what_is_alike_straight():
    draw = np.random.default_rng(0)
    one, other = draw.standard_normal((2, 4, 8, 3)).astype(np.float32)
    share = np.array([0.0, 1.0, 0.5])
    made = slerp(one, other, share)
    assert np.allclose(made[..., 0], one[..., 0], atol=1e-5)
    assert np.allclose(made[..., 1], other[..., 1], atol=1e-5)
    assert np.allclose(slerp(one, one, share), one, atol=1e-5)
    assert np.allclose(slerp(np.zeros_like(one), one, np.ones(3)), one)
