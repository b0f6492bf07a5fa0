"""Loops: the place where one begins anew is a place like any other, in latents, picture and sound."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from birdsd.diffusion.generation.columns import ColumnAttention, Told
from birdsd.diffusion.generation.generate import Recipe, generate, regenerate
from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.long import (
    canvas_latents,
    column_noise,
    long_latents,
    looped_picture,
    network_calls,
    picture_blocks,
    window_starts,
)
from birdsd.diffusion.generation.request import Request
from birdsd.errors import Mismatch
from tests.support.errors import refuses
from tests.support.tiny import CODEC

PROMPT = "an American Robin"
FACTOR = 4  # frames a column


@pytest.fixture(scope="module")
def model(pipeline_folder) -> Generator:
    return Generator(pipeline_folder)


def asked(**changes) -> Request:
    return Request((PROMPT,), **{"steps": 4, **changes})


def flux_at_the_join(pictures: list[np.ndarray]) -> float:
    """Mean spectral flux from the last frame to the first, against that where a column of the latents meets
    the next one inside (within one, frames are more alike)."""
    join = np.mean([np.square(one[:, 0] - one[:, -1]).sum() for one in pictures])
    flux = [np.square(np.diff(one, axis=1)).sum(0)[FACTOR - 1 :: FACTOR] for one in pictures]
    inside = np.mean(flux)
    return float(join / inside)


def plain_picture(model: Generator, latents: torch.Tensor) -> np.ndarray:
    """As it is decoded where nobody asked for a loop."""
    frames = latents.shape[-1] * FACTOR
    return np.concatenate(list(picture_blocks(model, latents, frames, frames)), axis=1).mean(-1)


@pytest.mark.parametrize("columns", [3, 9, 16, 17, 50])
def test_windows_lie_evenly_around_a_loop(columns):
    starts = window_starts(columns, 16, loop=True)
    gaps = np.diff([*starts, columns])
    assert starts[0] == 0 and np.ptp(gaps) <= 1 and gaps.max() <= 13, "neighbours share a fifth of a window"


def test_white_noise_has_no_seam_where_the_loop_begins_anew(model):
    """A model of a few steps draws little but noise: any place of its loops is like any other."""
    columns = model.latent_shape()[2] + 5
    loops, lines = [], []
    for seed in range(160):  # of a single join the flux is a chance of a few bands
        latents = long_latents(model, asked(steps=2), PROMPT, columns, seed, loop=True)
        assert latents.shape[-1] == columns
        loops.append(looped_picture(model, latents).mean(-1))
        if seed < 40:
            line = long_latents(model, asked(steps=2), PROMPT, columns, seed)
            lines.append(plain_picture(model, line))
    assert flux_at_the_join(loops) <= 1.05
    assert flux_at_the_join(lines) > flux_at_the_join(loops)


def test_the_decoder_sees_over_the_end(model):
    """Turned latents are a turned picture: zeros beyond the ends would show at both of them."""
    latents = long_latents(model, asked(), PROMPT, 40, 3, loop=True)
    factor = CODEC.frames // model.latent_shape()[2]
    picture = looped_picture(model, latents)
    turned = looped_picture(model, torch.roll(latents, 11, -1))
    far = np.abs(np.roll(picture, 11 * factor, axis=1) - turned)
    # The normalisation sees other columns twice: levels differ a little everywhere, not just at the ends.
    assert far.mean() < 2 and far[:, : 2 * factor].mean() < 3 and far[:, -2 * factor :].mean() < 3


def test_blocks_of_a_loop_are_faded_into_each_other_around_its_end(model):
    latents = long_latents(model, asked(), PROMPT, 60, 3, loop=True)
    whole, parts = looped_picture(model, latents), looped_picture(model, latents, block=64)
    assert whole.shape == parts.shape and np.abs(whole - parts).mean() < 8


@pytest.mark.parametrize("scheduler", ["ddim", "heun", "euler_ancestral", "dpm++"])
def test_a_loop_is_whole_under_every_scheduler_and_shorter_than_a_window_too(model, scheduler):
    request = asked(scheduler=scheduler)
    for columns in (5, 33):
        calls = []
        made = long_latents(
            model, request, PROMPT, columns, 2, lambda calls=calls: calls.append(1), loop=True
        )
        assert made.shape[-1] == columns and made.isfinite().all()
        assert len(calls) == network_calls(model, request, columns, loop=True)


def test_a_looped_clip_goes_on_with_its_beginning(model, tmp_path):
    clips = generate(model, asked(loop=True, count=6), tmp_path, progress=False)
    steps = []
    for clip in clips:
        sound, _ = soundfile.read(clip.sound)
        assert len(sound) == CODEC.samples_per_clip
        steps.append(abs(sound[0] - sound[-1]) / np.percentile(np.abs(np.diff(sound)), 99))
    assert max(steps) <= 1
    again = generate(model, asked(loop=True, count=6), tmp_path, keep=True, progress=False)
    assert not any(clip.made for clip in again)
    straight = generate(model, asked(count=1), tmp_path, progress=False)[0]
    assert straight.picture != clips[0].picture
    made = regenerate(model, Recipe.read(clips[2].recipe), tmp_path / "again")[0]
    assert made.sound.read_bytes() == clips[2].sound.read_bytes()


@pytest.mark.parametrize("other", [{"init": "some.wav"}, {"guide_weight": 2.0}])
def test_what_cannot_be_a_loop_is_refused(other):
    with refuses("loop=true", kind=Mismatch):
        asked(loop=True, **other)


# -- what columns are told -----------------------------------------------------------------------------


def predicted(model, states, which, width) -> torch.Tensor:
    noise = torch.from_numpy(column_noise(1, width, model.latent_shape()[:2]))[None]
    _, negative = model.conditioning(asked(), [PROMPT])
    return canvas_latents(model, asked(), Told(states, which), negative, noise, 1)


def test_columns_that_are_told_the_same_twice_make_an_ordinary_canvas(model):
    """Two texts in one window, equal word for word: the mask must not change what one text gives."""
    width = model.latent_shape()[2]
    context, _ = model.conditioning(asked(), [PROMPT])
    half = (np.arange(width) >= width // 2).astype(int)
    alone = predicted(model, context, np.zeros(width, int), width)
    twice = predicted(model, context.repeat(2, 1, 1), half, width)
    assert torch.allclose(alone, twice, atol=1e-4)


def test_cross_attention_of_a_column_is_that_under_its_own_text_alone(model):
    """Layer by layer: half of the columns of one text, half of the other's."""
    width, height = model.latent_shape()[2], model.latent_shape()[1]
    context, _ = model.conditioning(asked(), [PROMPT, "a Eurasian Wren"])
    unet = model.pipeline.unet
    across = next(module for name, module in unet.named_modules() if name.endswith("attn2"))
    local = (np.arange(width) >= width // 2).astype(int)[None]
    queries = torch.randn(1, (height // 2) * (width // 2), across.to_q.in_features)
    with torch.no_grad():
        apart = [across(queries, encoder_hidden_states=context[k : k + 1]) for k in (0, 1)]
        with ColumnAttention(unet, height) as told:
            told.tell(local, 2)
            both = across(queries, encoder_hidden_states=context.flatten(0, 1)[None])
        after = across(queries, encoder_hidden_states=context[:1])
    second = torch.from_numpy(local[0, ::2] == 1).repeat(height // 2)
    assert torch.allclose(both[:, ~second], apart[0][:, ~second], atol=1e-5)
    assert torch.allclose(both[:, second], apart[1][:, second], atol=1e-5)
    assert not torch.allclose(apart[0], apart[1], atol=1e-5)
    assert torch.allclose(after, apart[0]), "outside, everything is as it was"
