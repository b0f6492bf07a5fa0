"""Latents of any length: windows over one canvas, joined by swapping frames at every step (SaFa).

After "Latent Swap Joint Diffusion for Long-Form Audio Generation" (arXiv 2502.05130): where two windows
overlap, the columns of one and of the other take turns, instead of being averaged, which would dull what is
random in them. Both then see the same columns at the next step, and so fit. Here the predictions are swapped,
and one scheduler steps the whole canvas: since windows agree on what they share, that is the same, and
schedulers that look back or add noise need nothing of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.columns import ColumnAttention, Told
from birdsd.diffusion.generation.guidance import Predictor
from birdsd.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from birdsd.diffusion.generation.generator import Generator
    from birdsd.diffusion.generation.request import Request

OVERLAP = 0.2  # of a window; averaging wants 0.8
_BLIND = 0.05  # of a window, at each of its ends: it does not see what its neighbour joins on there


def window_starts(columns: int, width: int, overlap: float = OVERLAP, loop: bool = False) -> list[int]:
    """First columns of the windows that cover `columns`; the last one is flush with the end, in a loop they
    lie evenly around it."""
    step = max(1, width - max(1, round(overlap * width)))
    if loop:
        count = -(-columns // step)
        return [round(number * columns / count) for number in range(count)]
    if columns <= width:
        return [0]
    return [*range(0, columns - width, step), columns - width]


def owners(columns: int, starts: Sequence[int], width: int) -> np.ndarray:
    """int [columns]: the window whose prediction each column takes. In an overlap they take turns, but for
    the columns at a window's end, which are left to the one that sees both sides of them."""
    return _turns(columns, starts, width)[0]


def _turns(
    columns: int, starts: Sequence[int], width: int, loop: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """int [columns] twice: the window that each column is taken from, as `owners` says, and where in it. In a
    loop, what reaches over the end goes on at the beginning."""
    blind = max(1, round(_BLIND * width))
    covering: list[list[tuple[int, int]]] = [[] for _ in range(columns)]
    sighted: list[list[tuple[int, int]]] = [[] for _ in range(columns)]
    for number, start in enumerate(starts):
        for place in range(width if loop else min(width, columns - start)):
            column = (start + place) % columns
            covering[column].append((number, place))
            if place >= blind * (loop or start > 0) and place < width - blind:
                sighted[column].append((number, place))
    chosen = [seeing or all_of for seeing, all_of in zip(sighted, covering, strict=True)]
    taken = np.array([over[column % len(over)] for column, over in enumerate(chosen)])
    return taken[:, 0], taken[:, 1]


def column_noise(seed: int, columns: int, shape: tuple[int, int]) -> np.ndarray:
    """float32 [C, h, columns]: the noise that a canvas starts from; a longer one begins with the same."""
    draws = generator(seed, "canvas noise").standard_normal((columns, *shape), dtype=np.float32)
    return np.ascontiguousarray(draws.transpose(1, 2, 0))


def long_latents(
    model: Generator, request: Request, prompt: str, columns: int, seed: int,
    tick: Callable[[], object] | None = None, *, loop: bool = False,
) -> Tensor:  # fmt: skip
    """Scaled latents float32 [1, C, h, columns] on the CPU, all under one prompt; shorter than a window: its
    beginning, or with `loop` a loop all the same. Asks the network for every window at every step (see
    `window_starts`)."""
    import torch

    channels, height, width = model.latent_shape()
    whole = columns if loop else max(columns, width)
    with model.working("text_encoder"):
        context, negative = model.conditioning(request, [prompt])
    noise = torch.from_numpy(column_noise(seed, whole, (channels, height)))[None]
    told = Told.same(context, whole)
    return canvas_latents(model, request, told, negative, noise, seed, tick, loop=loop)[..., :columns]


def canvas_latents(
    model: Generator, request: Request, told: Told, negative: Tensor, noise: Tensor, seed: int,
    tick: Callable[[], object] | None = None, *, loop: bool = False, watch: sampling.Watch | None = None,
) -> Tensor:  # fmt: skip
    """Scaled latents float32 [1, C, h, columns] on the CPU, from `noise` of that shape, every column under
    what it is `told`. `negative`: [1, n, width], what guidance leads away from.

    A loop has windows that reach over its end, and they move around it from step to step: where it begins
    anew is a place like any other.
    """
    import torch

    unet, width, columns = model.pipeline.unet, model.latent_shape()[2], noise.shape[-1]
    scheduler = sampling.make_scheduler(request.scheduler, model.pipeline.scheduler.config)
    scheduler.set_timesteps(request.steps, device=model.device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    timesteps = scheduler.timesteps
    starts = window_starts(columns, width, loop=loop)
    shifts = generator(seed, "loop offsets").integers(columns, size=len(timesteps)) if loop else ()
    canvas = noise.to(model.device, unet.dtype) * scheduler.init_noise_sigma
    extra = _extra(scheduler, seed)
    told = Told(told.states.to(unet.dtype), told.which)
    asker = _Asker(unet, request, told, negative.to(unet.dtype), timesteps.tolist(), noise.shape[2])
    with model.working("unet"), torch.no_grad(), asker.attention:
        for number, step in enumerate(timesteps):
            moved = [start + int(shifts[number]) for start in starts] if loop else starts
            takes, at = _turns(columns, moved, width, loop)
            predicted = torch.empty_like(canvas)
            for first in range(0, len(moved), request.batch_size):
                batch = moved[first : first + request.batch_size]
                places = [(start + np.arange(width)) % columns for start in batch]
                answered = asker.ask(_Asked(scheduler, number), canvas, places, number, step)
                for offset in range(len(batch)):
                    mine = np.flatnonzero(takes == first + offset)
                    predicted[..., mine] = answered[offset : offset + 1][..., at[mine]]
                if tick is not None:
                    tick()
            _settle(scheduler, number)
            canvas = scheduler.step(predicted, step, canvas, **extra, return_dict=False)[0]
            if watch is not None:
                watch.look(canvas)
    return canvas.float().cpu()


class _Asker:
    """Asks the network for windows, each with what its columns are told."""

    def __init__(
        self,
        unet: Any,
        request: Request,
        told: Told,
        negative: Tensor,
        timesteps: Sequence[float],
        height: int,
    ) -> None:
        self._unet, self._told, self._negative, self._timesteps = unet, told, negative, timesteps
        self._led = request.led()
        several = len(told.states) > 1
        self._columns = ColumnAttention(unet, height) if several else None
        self.attention = self._columns or nullcontext()

    def ask(
        self, scheduler: _Asked, canvas: Tensor, places: list[np.ndarray], number: int, step: Tensor
    ) -> Tensor:
        """What is predicted for the windows at `places`, each int [w]: [B, C, h, w]."""
        import torch

        windows = torch.cat([canvas[..., place] for place in places])
        entering, local = self._told.windows(places)
        texts = entering.shape[1] // self._negative.shape[1]
        if self._columns is not None:
            self._columns.tell(local, texts)
        negative = self._negative.expand(len(places), -1, -1).repeat(1, texts, 1)
        predict = Predictor(self._unet, entering, negative, self._led, self._timesteps)
        return predict(scheduler, windows, number, step)


def network_calls(model: Generator, request: Request, columns: int, loop: bool = False) -> int:
    """How often `tick` is called: batches of windows, times steps of the network."""
    width = model.latent_shape()[2]
    windows = len(window_starts(columns if loop else max(columns, width), width, loop=loop))
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


def looped_picture(model: Generator, latents: Tensor, block: int | None = None) -> np.ndarray:
    """The picture of the latents of a loop [1, C, h, columns], float32 [H, columns * factor, 3] of 0..255.

    The decoder sees what lies beyond either end, and where its blocks meet at the loop point they are
    cross-faded, like everywhere else.
    """
    import torch

    factor = model.codec.frames // model.latent_shape()[2]
    columns, around, fade = latents.shape[-1], 8, 4
    places = torch.arange(-around, columns + around + fade) % columns
    wide = latents[..., places]
    frames = wide.shape[-1] * factor
    whole = np.concatenate(list(picture_blocks(model, wide, frames, block or frames)), axis=1)
    whole = whole[:, around * factor : (around + columns + fade) * factor]
    picture, further = whole[:, : columns * factor].copy(), whole[:, columns * factor :]
    width = min(further.shape[1], picture.shape[1])
    rise = ((np.arange(width) + 0.5) / width)[None, :, None].astype(np.float32)
    picture[:, :width] = picture[:, :width] * rise + further[:, :width] * (1 - rise)
    return picture


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
