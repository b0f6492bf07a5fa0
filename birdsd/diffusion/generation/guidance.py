"""How a prediction is led: away from the empty prompt, away from a weaker model, and only for a while.

Classifier-free guidance (Ho and Salimans 2022), in an interval of the noise levels (Kynkaanniemi et al. 2024,
arXiv 2404.07724), rescaled to the deviation of the unguided prediction (Lin et al. 2023, arXiv 2305.08891),
and autoguidance (Karras et al. 2024, arXiv 2406.02507). All of them are linear in what the network gives,
image by image, so that neither the batch size nor an image's neighbours matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from birdsd.errors import BadValue

if TYPE_CHECKING:
    from torch import Tensor

_LAST = 999  # the noisiest timestep
_CLOSE = 1e-9


@dataclass(frozen=True)
class Guidance:
    """`scale` 1 is none. It acts while the share of the schedule that lies behind (0 at the noisiest
    timestep, 1 at the cleanest) is in `start`..`end`; so does the weaker model's. `rescale` 0..1 is how much
    of the contrast that guidance adds is taken back."""

    scale: float = 3.0
    start: float = 0.0
    end: float = 1.0
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or self.scale < 0:
            raise BadValue(
                f"guidance={self.scale}", "it must be a number >= 0", "try guidance=3; 1 turns it off"
            )
        if not 0 <= self.start < self.end <= 1:
            raise BadValue(
                f"guidance_start={self.start:g} guidance_end={self.end:g}",
                "they are shares of the noise schedule, 0 <= start < end <= 1; 0 is the noise, 1 the picture",
                "e.g. guidance_start=0.1 guidance_end=0.8; 0 and 1 guide all the way",
            )
        if not 0 <= self.rescale <= 1:
            raise BadValue(
                f"guidance_rescale={self.rescale:g}",
                "it is a share: 0 leaves the guided prediction, 1 gives it the deviation of the unguided one",
                "try guidance_rescale=0.7",
            )

    def active(self, timesteps: Sequence[float]) -> list[bool]:
        """For each timestep, whether it lies in the interval."""
        behind = [1 - timestep / _LAST for timestep in timesteps]
        return [self.start - _CLOSE <= share <= self.end + _CLOSE for share in behind]


@dataclass(frozen=True)
class Weaker:
    """A weaker model to be led away from, under its own `context` [B, n, width]: the prediction goes on by
    `weight` - 1 times what the model knows better."""

    unet: Any
    context: Tensor
    weight: float


def check_guide_weight(weight: float) -> None:
    """Refuse a weight that leads towards the weaker model."""
    if not math.isfinite(weight) or weight < 1:
        raise BadValue(
            f"guide_weight={weight:g}",
            "it is how far to go beyond the model, away from the weaker one: 1 is not at all",
            "try guide_weight=2",
        )


class Predictor:
    """Asks the networks for a batch, led as it should be."""

    def __init__(
        self,
        unet: Any,
        context: Tensor,
        negative: Tensor | None,
        guidance: Guidance,
        timesteps: Sequence[float],
        weaker: Weaker | None = None,
    ) -> None:
        import torch

        self.unet, self.context, self.guidance, self.weaker = unet, context, guidance, weaker
        self.active = guidance.active(timesteps)
        self.both = torch.cat([negative, context]) if guidance.scale > 1 and negative is not None else None

    def __call__(self, scheduler: Any, latents: Tensor, number: int, step: Tensor) -> Tensor:
        """What is predicted for `latents` [B, C, h, w] at the `number`-th timestep, `step`."""
        import torch

        both = self.both if self.active[number] else None
        weaker = self.weaker if self.active[number] else None
        entering = torch.cat([latents] * 2) if both is not None else latents
        entering = scheduler.scale_model_input(entering, step)
        states = self.context if both is None else both
        predicted: Tensor = self.unet(entering, step, encoder_hidden_states=states, return_dict=False)[0]
        within = predicted
        if both is not None:
            without, within = predicted.chunk(2)
            predicted = without + self.guidance.scale * (within - without)
        if weaker is not None:
            plain = entering[-len(latents) :]
            less = weaker.unet(plain, step, encoder_hidden_states=weaker.context, return_dict=False)[0]
            predicted = predicted + (weaker.weight - 1) * (within - less)
        if self.guidance.rescale and (both is not None or weaker is not None):
            predicted = rescaled(predicted, within, self.guidance.rescale)
        return predicted


def rescaled(led: Tensor, plain: Tensor, share: float) -> Tensor:
    """`led` [B, ...], each image brought by `share` of the way to the deviation of `plain`."""
    each = tuple(range(1, led.ndim))
    level = led * (plain.std(dim=each, keepdim=True) / led.std(dim=each, keepdim=True))
    return share * level + (1 - share) * led
