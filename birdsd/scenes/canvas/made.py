"""From a canvas to sound: one long latent whose columns are told different texts, denoised once.

The windows are those of any long latent (`diffusion.generation.long`), and each is asked once a step, however
many prompts lie under it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.columns import Told
from birdsd.diffusion.generation.long import canvas_latents, column_noise, looped_picture
from birdsd.randomness import generator
from birdsd.scenes.backgrounds.looped import FADE_S, WHOLE_S, rounded
from birdsd.scenes.backgrounds.made import sound_of_latents
from birdsd.scenes.canvas.asked import ANIMATION, Canvas

if TYPE_CHECKING:
    from torch import Tensor

    from birdsd.diffusion.generation.generator import Generator
    from birdsd.diffusion.generation.request import Request

_ALIKE = 0.9995  # cosine from which on there is no angle to divide by


def column_s(model: Generator) -> float:
    """Seconds of sound in a column of the model's latents."""
    return float(model.codec.clip_s / model.latent_shape()[2])


def columns_of(model: Generator, canvas: Canvas) -> int:
    """How many columns a canvas has: a loop lasts whole columns, anything else is cut to its length."""
    exact = canvas.duration_s / column_s(model)
    return max(1, round(exact) if canvas.loop else int(np.ceil(exact - 1e-9)))


def made_canvas(
    model: Generator, request: Request, canvas: Canvas, tick: Callable[[], object] | None = None
) -> Iterator[np.ndarray]:
    """Mono float32 parts at the codec's rate. What comes out is not measured, and need not be what was asked
    for."""
    latents = drawn(model, request, canvas, tick)
    codec = model.codec
    if not canvas.loop:
        return sound_of_latents(model, latents, canvas.duration_s)
    if canvas.duration_s <= WHOLE_S:
        picture = looped_picture(model, latents)
        return iter([model.sound_of(picture, loop=True).mean(axis=0)])
    columns = latents.shape[-1]
    length_s = columns * column_s(model)
    further = latents[..., np.arange(columns + int(np.ceil(2 * FADE_S / column_s(model)))) % columns]
    sound = sound_of_latents(model, further, length_s + FADE_S)
    return rounded(sound, round(length_s * codec.rate_hz), round(FADE_S * codec.rate_hz))


def drawn(
    model: Generator, request: Request, canvas: Canvas, tick: Callable[[], object] | None = None
) -> Tensor:
    """Scaled latents float32 [1, C, h, columns] of the canvas."""
    import torch

    columns = columns_of(model, canvas)
    channels, height, width = model.latent_shape()
    whole = columns if canvas.loop else max(columns, width)
    weights = canvas.weights((np.arange(whole) + 0.5) * column_s(model))
    with model.working("text_encoder"):
        states, negative = model.conditioning(request, [mark.prompt for mark in canvas.marks])
    texts, which = np.unique(weights, axis=0, return_inverse=True)
    mixed = torch.einsum("tp,pnw->tnw", torch.from_numpy(texts).to(states), states)
    noise = torch.from_numpy(canvas_noise(canvas, weights, (channels, height)))[None]
    told = Told(mixed, which.reshape(-1))
    watch = sampling.Watch()
    made = canvas_latents(
        model, request, told, negative[:1], noise, canvas.seed, tick, loop=canvas.loop, watch=watch
    )
    if (step := watch.spoilt().get(0)) is not None:
        raise model.not_finite(request, (canvas.prompts[0], canvas.seed, 0), step, watch.steps)
    return made[..., :columns]


def canvas_noise(canvas: Canvas, weights: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """float32 [C, h, columns]: in an animation every prompt has a noise of its own, and between two of them
    each column turns from one to the other; regions share one noise."""
    columns = len(weights)
    if canvas.kind != ANIMATION or len(canvas.marks) == 1:
        return column_noise(canvas.seed, columns, shape)
    out = np.zeros((*shape, columns), np.float32)
    shares = np.zeros(columns)
    # One noise after the other: where two meet, `out` holds the first of them with its share.
    for number in range(weights.shape[1]):
        used = np.flatnonzero(weights[:, number] > 0)
        if not len(used):
            continue
        seed = int(generator(canvas.seed, "noise of a prompt", number).integers(2**31))
        noise = column_noise(seed, columns, shape)[..., used]
        before, after = shares[used], weights[used, number]
        out[..., used] = slerp(out[..., used], noise, np.where(before > 0, after, 1.0))
        shares[used] += after
    return out


def slerp(one: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """float32 [C, h, n]: column by column from `one` (share 0) to `other` (1) along the great circle, so that
    noise keeps its strength on the way."""
    flat, towards = one.reshape(-1, one.shape[-1]), other.reshape(-1, other.shape[-1])
    sizes = np.linalg.norm(flat, axis=0) * np.linalg.norm(towards, axis=0)
    cosine = np.divide((flat * towards).sum(0), sizes, out=np.ones_like(sizes), where=sizes > 0)
    angle = np.arccos(np.clip(cosine, -1, 1))
    straight = np.abs(cosine) > _ALIKE
    sine = np.where(straight, 1.0, np.sin(angle))
    kept = np.where(straight, 1 - share, np.sin((1 - share) * angle) / sine)
    new = np.where(straight, share, np.sin(share * angle) / sine)
    return np.asarray((flat * kept + towards * new).reshape(one.shape), np.float32)
