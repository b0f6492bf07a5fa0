"""Backgrounds made by a model: one long canvas without seams, decoded block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from birdsd.diffusion.generation.long import long_latents, picture_blocks
from birdsd.scenes.backgrounds.joined import joined

if TYPE_CHECKING:
    from torch import Tensor

    from birdsd.diffusion.generation.generator import Generator
    from birdsd.diffusion.generation.request import Request

BLOCK_S = 20.0  # what is decoded at a time: phases of an hour at once would take gigabytes
OVERLAP_S = 0.25


def made_background(
    model: Generator, request: Request, prompt: str, duration_s: float, seed: int,
    tick: Callable[[], object] | None = None, *, loop_s: float = 0.0,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Mono float32 parts at the codec's rate, `duration_s` in all; with `loop_s`, of a loop of that length,
    as often as it takes."""
    codec = model.codec
    frame_s = codec.hop / codec.rate_hz
    factor = codec.frames // model.latent_shape()[2]
    overlap = max(factor, round(OVERLAP_S / frame_s))
    frames = int(np.ceil(duration_s / frame_s)) + factor
    columns = -(-(frames + overlap) // factor)
    around = max(1, round(loop_s / (factor * frame_s))) if loop_s else columns
    latents = long_latents(model, request, prompt, around, seed, tick, loop=loop_s > 0)
    if loop_s:
        latents = latents[..., np.arange(columns) % around]
    return sound_of_latents(model, latents, duration_s)


def sound_of_latents(model: Generator, latents: Tensor, duration_s: float) -> Iterator[np.ndarray]:
    """Mono float32 parts at the codec's rate, `duration_s` in all, of latents [1, C, h, columns] (a little
    longer, where the last samples are not to fade)."""
    codec = model.codec
    factor = codec.frames // model.latent_shape()[2]
    overlap = max(factor, round(OVERLAP_S * codec.rate_hz / codec.hop))
    block = max(factor, round(BLOCK_S * codec.rate_hz / codec.hop) // factor * factor)
    pictures = picture_blocks(model, latents, latents.shape[-1] * factor, block)
    samples = round(duration_s * codec.rate_hz)
    return joined(_sounds(model, pictures, overlap), overlap * codec.hop, samples)


def _sounds(model: Generator, pictures: Iterator[np.ndarray], overlap: int) -> Iterator[np.ndarray]:
    """Sound of picture blocks, each begun `overlap` frames early: where phases found apart are joined."""
    codec = model.codec
    before: np.ndarray | None = None
    for picture in pictures:
        whole = picture if before is None else np.concatenate([before, picture], axis=1)
        if whole.shape[1] * codec.hop <= codec.least_samples:
            return
        before = picture[:, -overlap:]
        yield model.sound_of(whole).mean(axis=0)
