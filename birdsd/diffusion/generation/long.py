"""Latents of any length: windows over one canvas, joined by swapping frames at every step (SaFa).

After "Latent Swap Joint Diffusion for Long-Form Audio Generation" (arXiv 2502.05130): where two windows
overlap, the columns of one and of the other take turns, instead of being averaged, which would dull what is
random in them. Both then see the same columns at the next step, and so fit. Here the predictions are swapped,
and one scheduler steps the whole canvas: since windows agree on what they share, that is the same, and
schedulers that look back or add noise need nothing of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.guidance import Predictor
from birdsd.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from birdsd.diffusion.generation.generator import Generator
    from birdsd.diffusion.generation.request import Request

OVERLAP = 0.2  # of a window; averaging wants 0.8
_BLIND = 0.05  # of a window, at each of its ends: it does not see what its neighbour joins on there


def window_starts(columns: int, width: int, overlap: float = OVERLAP) -> list[int]:
    """First columns of the windows that cover `columns`; the last one is flush with the end."""
    if columns <= width:
        return [0]
    step = max(1, width - max(1, round(overlap * width)))
    return [*range(0, columns - width, step), columns - width]


def owners(columns: int, starts: Sequence[int], width: int) -> np.ndarray:
    """int [columns]: the window whose prediction each column takes. In an overlap they take turns, but for
    the columns at a window's end, which are left to the one that sees both sides of them."""
    blind = max(1, round(_BLIND * width))
    covering: list[list[int]] = [[] for _ in range(columns)]
    sighted: list[list[int]] = [[] for _ in range(columns)]
    for number, start in enumerate(starts):
        for column in range(start, min(start + width, columns)):
            covering[column].append(number)
            if column >= start + blind * (start > 0) and column < start + width - blind:
                sighted[column].append(number)
    chosen = [seeing or all_of for seeing, all_of in zip(sighted, covering, strict=True)]
    return np.array([over[column % len(over)] for column, over in enumerate(chosen)])


def column_noise(seed: int, columns: int, shape: tuple[int, int]) -> np.ndarray:
    """float32 [C, h, columns]: the noise that a canvas starts from; a longer one begins with the same."""
    draws = generator(seed, "canvas noise").standard_normal((columns, *shape), dtype=np.float32)
    return np.ascontiguousarray(draws.transpose(1, 2, 0))


def long_latents(
    model: Generator, request: Request, prompt: str, columns: int, seed: int,
    tick: Callable[[], object] | None = None,
) -> Tensor:  # fmt: skip
    """Scaled latents float32 [1, C, h, columns] on the CPU, all under one prompt; shorter than a window: its
    beginning. Asks the network for every window at every step (see `window_starts`)."""
    import torch

    parts = model.pipeline
    channels, height, width = model.latent_shape()
    canvas_columns = max(columns, width)
    starts = window_starts(canvas_columns, width)
    takes = owners(canvas_columns, starts, width)
    scheduler = sampling.make_scheduler(request.scheduler, parts.scheduler.config)
    scheduler.set_timesteps(request.steps, device=model.device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    timesteps = scheduler.timesteps
    with model.working("text_encoder"):
        context, negative = model.conditioning(request, [prompt])
    unet = parts.unet
    noise = torch.from_numpy(column_noise(seed, canvas_columns, (channels, height)))[None]
    canvas = noise.to(model.device, unet.dtype) * scheduler.init_noise_sigma
    extra = _extra(scheduler, seed)
    batches = [starts[at : at + request.batch_size] for at in range(0, len(starts), request.batch_size)]
    predictors = [
        Predictor(
            unet, context.to(unet.dtype).expand(len(batch), -1, -1),
            negative.to(unet.dtype).expand(len(batch), -1, -1), request.led(), timesteps.tolist(),
        )
        for batch in batches
    ]  # fmt: skip
    with model.working("unet"), torch.no_grad():
        for number, step in enumerate(timesteps):
            predicted = torch.empty_like(canvas)
            first = 0
            for batch, predict in zip(batches, predictors, strict=True):
                windows = torch.cat([canvas[..., at : at + width] for at in batch])
                told = predict(_Asked(scheduler, number), windows, number, step)
                for offset, at in enumerate(batch):
                    mine = np.flatnonzero(takes[at : at + width] == first + offset)
                    predicted[..., at + mine] = told[offset : offset + 1][..., mine]
                first += len(batch)
                if tick is not None:
                    tick()
            _settle(scheduler, number)
            canvas = scheduler.step(predicted, step, canvas, **extra, return_dict=False)[0]
    return canvas[..., :columns].float().cpu()


def network_calls(model: Generator, request: Request, columns: int) -> int:
    """How often `tick` is called: batches of windows, times steps of the network."""
    windows = len(window_starts(max(columns, model.latent_shape()[2]), model.latent_shape()[2]))
    steps = sampling.network_steps(request.scheduler, model.pipeline.scheduler.config, request.steps)
    return steps * -(-windows // request.batch_size)


class _Asked:
    """A scheduler whose `scale_model_input` may be asked for several batches at one step."""

    def __init__(self, scheduler: Any, number: int) -> None:
        self._scheduler, self._number = scheduler, number

    def scale_model_input(self, latents: Tensor, step: Tensor) -> Tensor:
        _settle(self._scheduler, self._number)
        scaled: Tensor = self._scheduler.scale_model_input(latents, step)
        return scaled


def _settle(scheduler: Any, number: int) -> None:
    """The scheduler is at its `number`-th step: looking up the timestep would confuse equal ones."""
    if getattr(scheduler, "_step_index", None) is not None:
        scheduler._step_index = number


def _extra(scheduler: Any, seed: int) -> dict[str, Any]:
    import inspect

    takes = inspect.signature(scheduler.step).parameters
    return {"generator": sampling.torch_generator(seed, "canvas sampler")} if "generator" in takes else {}


def picture_blocks(model: Generator, latents: Tensor, frames: int, block: int) -> Any:
    """The picture of long latents, block by block: float32 [H, n, 3] of 0..255, `block` frames or fewer each.

    Every block is decoded with columns beside it that are cut off again, and the joins are cross-faded:
    the decoder normalises what it sees, so that two neighbours differ a little.
    """
    factor = model.codec.frames // model.latent_shape()[2]
    beside = 8  # columns on either side, cut off
    total = latents.shape[-1]
    fade = min(4, total)  # columns
    step = max(1, block // factor)
    held: np.ndarray | None = None
    for first in range(0, total, step):
        last = min(total, first + step)
        low, high = max(0, first - beside), min(total, last + beside + fade)
        with model.working("vae"):
            decoded = sampling.decode_latents(model.pipeline.vae, latents[..., low:high].to(model.device))
        picture = ((decoded[0] / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).numpy()
        part = picture[:, (first - low) * factor : (min(total, last + fade) - low) * factor]
        if held is not None:
            width = min(held.shape[1], part.shape[1])
            rise = ((np.arange(width) + 0.5) / width)[None, :, None].astype(np.float32)
            part[:, :width] = part[:, :width] * rise + held[:, :width] * (1 - rise)
        body = (last - first) * factor
        held = part[:, body:].copy() if last < total else None
        yield part[:, : min(body, max(0, frames - first * factor))]
