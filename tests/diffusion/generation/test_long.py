"""Latents of any length: windows that swap columns, under every scheduler, without seams."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.long import (
    column_noise,
    long_latents,
    network_calls,
    owners,
    picture_blocks,
    window_starts,
)
from birdsd.diffusion.generation.request import Request
from tests.support.tiny import CODEC

PROMPT = "an American Robin"


@pytest.fixture(scope="module")
def model(pipeline_folder) -> Generator:
    return Generator(pipeline_folder)


def asked(**changes) -> Request:
    return Request((PROMPT,), steps=4, **changes)


@pytest.mark.parametrize("columns", [3, 16, 17, 20, 41, 76, 100, 131])
def test_every_column_is_covered_and_taken_from_a_window_that_holds_it(columns):
    starts = window_starts(columns, 16)
    takes = owners(columns, starts, 16)
    assert starts[0] == 0 and starts[-1] == max(0, columns - 16)
    for column, number in enumerate(takes):
        assert starts[number] <= column < starts[number] + 16
    for one, other in pairwise(starts):
        assert other == starts[-1] or takes[other] == starts.index(one), "a window does not see before itself"


def test_in_the_middle_of_an_overlap_the_columns_take_turns():
    starts = window_starts(96 * 5, 96)
    takes = owners(96 * 5, starts, 96)
    for number, (one, other) in enumerate(pairwise(starts[:-1])):
        shared = takes[other : one + 96]
        assert set(shared[:5]) == {number} and set(shared[-5:]) == {number + 1}
        assert (np.diff(shared[5:-5]) != 0).all() and len(shared) == 19


def test_a_longer_canvas_begins_with_the_same_noise():
    short, long = column_noise(3, 20, (4, 2)), column_noise(3, 50, (4, 2))
    assert np.array_equal(long[..., :20], short) and not np.array_equal(column_noise(4, 20, (4, 2)), short)


@pytest.mark.parametrize("scheduler", sorted(sampling.SCHEDULERS))
def test_one_window_is_an_ordinary_clip(model, scheduler):
    width = model.latent_shape()[2]
    request = asked(scheduler=scheduler)
    alone = long_latents(model, request, PROMPT, width, 5)
    with model.working("text_encoder"):
        context, negative = model.conditioning(request, [PROMPT])
    made = sampling.make_scheduler(scheduler, model.pipeline.scheduler.config)
    usual = sampling.sample_latents(
        model.pipeline.unet,
        made,
        context,
        negative,
        torch.from_numpy(column_noise(5, width, model.latent_shape()[:2]))[None],
        steps=4,
        guidance=request.led(),
        generators=[sampling.torch_generator(5, "canvas sampler")],
    )
    assert torch.allclose(alone, usual, atol=1e-5)


@pytest.mark.parametrize("scheduler", ["ddim", "euler_ancestral", "dpm++karras", "heun"])
def test_long_ones_are_whole_and_do_not_depend_on_the_batch(model, scheduler):
    width = model.latent_shape()[2]
    calls = []
    long = long_latents(model, asked(scheduler=scheduler), PROMPT, 5 * width + 3, 5, lambda: calls.append(1))
    assert long.shape == (1, *model.latent_shape()[:2], 5 * width + 3) and long.isfinite().all()
    assert len(calls) == network_calls(model, asked(scheduler=scheduler), 5 * width + 3)
    again = long_latents(model, asked(scheduler=scheduler, batch_size=3), PROMPT, 5 * width + 3, 5)
    assert torch.allclose(long, again, atol=1e-4)


def test_the_joins_change_no_more_than_other_places(model):
    """Flux from column to column where windows meet, against elsewhere; windows side by side show what a seam
    is."""
    width = model.latent_shape()[2]
    columns = 40 * width
    canvas = long_latents(model, asked(), PROMPT, columns, 1)[0].numpy()
    starts = window_starts(columns, width)
    flux = np.square(np.diff(canvas, axis=-1)).sum((0, 1))
    near = np.zeros(columns - 1, bool)
    for start in starts[1:]:
        near[start - 1 : start + (width - (starts[1] - starts[0]))] = True
    assert flux[near].mean() / flux[~near].mean() <= 1.05 + 0.15  # a model of a few steps: its flux is noisy
    # Averaging would lose level in the overlaps; swapping does not.
    level = np.square(canvas).sum((0, 1))
    inside = np.append(near, False)
    assert level[inside].mean() / level[~inside].mean() == pytest.approx(1, abs=0.15)


def test_blocks_of_a_picture_join_and_are_as_long_as_asked(model):
    width = model.latent_shape()[2]
    factor = CODEC.frames // width
    latents = long_latents(model, asked(), PROMPT, 3 * width, 2)
    frames = 3 * width * factor - 5
    whole = np.concatenate(list(picture_blocks(model, latents, frames, 10**6)), axis=1)
    parts = list(picture_blocks(model, latents, frames, 64))
    assert whole.shape == (CODEC.bands, frames, 3) and sum(part.shape[1] for part in parts) == frames
    assert np.abs(np.concatenate(parts, axis=1) - whole).mean() < 8, "of 255: blocks see other neighbours"
