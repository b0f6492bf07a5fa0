"""Clips that are loops: their end goes on with their beginning, in the picture and in the sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.columns import Told
from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.long import canvas_latents, looped_picture, network_calls
from birdsd.diffusion.generation.request import Request
from birdsd.diffusion.networks.finite import NotFinite
from birdsd.randomness import generator

if TYPE_CHECKING:
    import torch


def looped_images(
    model: Generator,
    request: Request,
    prompts: Sequence[str],
    indices: Sequence[int],
    tick: Callable[[], object] | None = None,
    *,
    seeds: Sequence[int],
    spoilt: dict[int, NotFinite],
) -> np.ndarray:
    """uint8 [B, H, W, 3]: what `Generator.images` gives, as loops. They start from the same noise.

    Each is a canvas of its own, so neither the batch nor its neighbours matter; `spoilt` as there.
    """
    with model.working("text_encoder"):
        context, negative = model.conditioning(request, prompts)
    pictures = []
    for position, (seed, k) in enumerate(zip(seeds, indices, strict=True)):
        watch = sampling.Watch()
        noise: torch.Tensor = sampling.initial_noise(seed, [k], model.latent_shape())
        told = Told.same(context[position : position + 1], noise.shape[-1])
        own = int(generator(seed, "loop", int(k)).integers(2**31))
        against = negative[position : position + 1]
        latents = canvas_latents(model, request, told, against, noise, own, tick, loop=True, watch=watch)
        picture = looped_picture(model, latents)
        step = watch.spoilt().get(0)
        if step or not np.isfinite(picture).all():
            spoilt[position] = model.not_finite(request, (prompts[position], seed, k), step, watch.steps)
        pictures.append(np.rint(np.nan_to_num(picture)).clip(0, 255).astype(np.uint8))
    return np.stack(pictures)


def looped_steps(model: Generator, request: Request) -> int:
    """How often `looped_images` calls `tick` for a full batch."""
    return request.batch_size * network_calls(model, request, model.latent_shape()[2], loop=True)
