"""An adversary for the autoencoder: a discriminator of patches that learns to tell recordings from
reconstructions, in the same backward pass of the same loop.

It is part of the learner, so that checkpoints, ZeRO and every engine treat it like any other weights. What
two optimizers would do in turn, one loss does at once: the discriminator sees the reconstruction cut off from
the graph, so its hinge loss moves nothing else; what its judgement says of the pixels is taken apart from its
weights, and handed to the decoder as a constant direction. Everything is a function of one sample: nothing
depends on the micro-batch or on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from birdsd.diffusion.networks.models import seeded
from birdsd.remarks import Remark

_SLOPE = 0.2  # of the leaky ReLU
_GAIN = (2 / (1 + _SLOPE**2)) ** 0.5
# Kernel, stride and growth in channels of each layer; 0 channels: the logits. A patch is 38 x 38 pixels.
_LAYERS = ((4, 2, 1), (4, 2, 2), (4, 2, 4), (3, 1, 0))
SMALLEST_SIDE = 8  # pixels, which these layers halve three times
# Of the gradient clip's norm, which it shares with the autoencoder: Adam does not notice the factor.
_SHARE_OF_NORM = 0.1
_SPEEDS = (1e-3, 1e3)
_LARGEST_BALANCE = 1e4  # as in VQGAN (arXiv 2012.09841)
# The discriminator teaches where it is right by at least the first margin (fully from the second on), and
# where its hinge loss is at least the first figure: below it has won outright, and what it says is arbitrary.
_MARGIN = (0.0, 0.2)
_HINGE = (0.02, 0.1)
_LUCK = 0.05  # it is believed by so little of a validation where it only guesses


class Discriminator(nn.Module):
    """PatchGAN (arXiv 1611.07004) without normalisation, and with a fourth input channel, the height: unlike
    in photographs, a texture belongs to a pitch.

    The weights have unit variance divided by `speed` and are multiplied by it where they are used (equalised
    learning rate, arXiv 1710.10196): with Adam, whose steps have the size of the learning rate, that makes it
    learn `speed` times as fast as the optimizer's rate says, without a second optimizer.
    All parameters lie in this one module: ZeRO-3 gathers them when it is called, so that gradients can be
    taken inside the call, where its hooks would lose count.

    A `relativistic` one says which of the two is the more real (relativistic average, arXiv 1807.00734 and
    ESRGAN): each patch is compared with the other picture's mean. That of the sample, not of the batch, so
    that nothing depends on the micro-batch.
    """

    def __init__(self, channels: int, speed: float, seed: int = 0, relativistic: bool = False) -> None:
        super().__init__()
        self.relativistic = relativistic
        self.speed = min(max(speed, _SPEEDS[0]), _SPEEDS[1])
        inputs = 4
        with seeded(seed, "weights", "adversary"):
            for number, (kernel, _, growth) in enumerate(_LAYERS):
                outputs = growth * channels or 1
                weight = torch.randn(outputs, inputs, kernel, kernel) / self.speed
                self.register_parameter(f"weight{number}", nn.Parameter(weight))
                # None for the logits: while none of them is beyond its margin, its gradient would be the
                # rounding of +1 - 1, which Adam blows up to a whole step, another one in every world.
                bias = nn.Parameter(torch.zeros(outputs)) if growth else None
                self.register_parameter(f"bias{number}", bias)
                inputs = outputs

    def forward(self, image: Tensor, decoded: Tensor, idle: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What it makes of pictures and their reconstructions, float32 [B, 3, H, W] without gradients.

        Returns its loss [B], the only one with a gradient (to its own weights); the mean logits of
        pictures and of reconstructions [B]; and the direction [B, 3, H, W] in which a reconstruction is taken
        for a picture less. `idle`: nothing is computed, and the weights get gradients of 0. What is not
        finite is not hidden, but moves no weight.
        """
        if idle:
            nothing = sum(parameter.sum() for parameter in self.parameters()) * 0.0
            zeros = image.new_zeros(len(image))
            return zeros + nothing, zeros, zeros, torch.zeros_like(image)
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            made = decoded.detach().requires_grad_()
            real, fake = self._logits(image), self._logits(made)
            # The sum, divided afterwards: a mean's gradient would vanish in 16 bit.
            judged = -_relative(fake, real.detach()).sum() if self.relativistic else fake.sum()
            (rising,) = torch.autograd.grad(judged, made, retain_graph=learning)
        if self.relativistic:
            loss = _relative(real, fake).mean(1)
        else:
            loss = (functional.relu(1 - real) + functional.relu(1 + fake)).mean(1)
        return loss, real.detach().mean(1), fake.detach().mean(1), -rising.float() / fake.shape[1]

    def _logits(self, image: Tensor) -> Tensor:
        """float32 [B, patches]."""
        height = torch.linspace(-1, 1, image.shape[2], device=image.device, dtype=image.dtype)
        hidden = torch.cat([image, height[:, None].expand_as(image[:, :1])], dim=1)
        for number, (_, stride, growth) in enumerate(_LAYERS):
            weight, bias = getattr(self, f"weight{number}"), getattr(self, f"bias{number}")
            scale = self.speed * weight[0].numel() ** -0.5
            weight = _Finite.apply(weight) * scale
            bias = None if bias is None else _Finite.apply(bias) * self.speed
            hidden = functional.conv2d(hidden.to(weight.dtype), weight, bias, stride, padding=1)
            if growth:
                hidden = functional.leaky_relu(hidden, _SLOPE) * _GAIN
        return hidden.float().flatten(1)


def _relative(more: Tensor, less: Tensor) -> Tensor:
    """[B, patches]: the cross entropy of `more` being the more real of the two, beside the other's mean."""
    return (
        functional.softplus(less.mean(1, keepdim=True) - more)
        + functional.softplus(less - more.mean(1, keepdim=True))
    ) / 2


class _Finite(torch.autograd.Function):
    """The same tensor; of its gradient what is not finite becomes 0. A broken discriminator would spoil the
    norm that all gradients are clipped by, and with it the autoencoder."""

    @staticmethod
    def forward(ctx: object, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient.nan_to_num(0.0, 0.0, 0.0)


class Adversary:
    """Joins a discriminator and the autoencoder's loss."""

    names = ("adversary_real", "adversary_fake", "adversary_weight", "adversary_open")

    def __init__(self, discriminator: Discriminator, weight: float) -> None:
        self.discriminator, self.weight = discriminator, weight

    def loss(
        self,
        image: Tensor,
        decoded: Tensor,
        active: Tensor,
        pixel_loss: Callable[[Tensor], Tensor],
        idle: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A term [B] of value 0 whose gradients are those of both sides, and what was measured, [B] each.

        Its value is 0 so that the curve of a run's loss stays that of its reconstructions. `active` [B]: 0
        for samples from before the adversary's start, else 1. `pixel_loss`: reconstructions -> [B], whose
        gradient the adversary's is made as long as, times `weight`, sample by sample (VQGAN's adaptive
        weight, taken at the pixels).
        """
        hinge, real, fake, direction = self.discriminator(image, decoded.detach(), idle)
        fixed = decoded.detach()
        with torch.enable_grad():
            fixed = fixed.requires_grad_()
            (falling,) = torch.autograd.grad(pixel_loss(fixed).sum(), fixed)
        length = _length(direction)
        balance = (_length(falling) / length.clamp(min=1e-30)).clamp(max=_LARGEST_BALANCE).float()
        opened = gate(real, fake, hinge.detach())
        finite = length.isfinite() & real.isfinite() & fake.isfinite()
        opened = torch.where(finite, opened, 0.0)
        factor = torch.where(opened > 0, self.weight * balance * opened, 0.0) * active
        push = factor[:, None, None, None] * torch.where(finite[:, None, None, None], direction, 0.0)
        term = _without_value((decoded * push).flatten(1).sum(1))
        hinge = torch.where(finite, hinge, 0.0) * active
        term = term + _without_value(hinge * (_SHARE_OF_NORM / self.discriminator.speed))
        measured = dict(zip(self.names, (real, fake, factor, opened), strict=True))
        return term, measured

    def remark(self, means: Mapping[str, Any]) -> str:
        """Why it taught nothing, or next to nothing, in a whole validation of these means; nothing where it
        taught. By luck some samples believe even one that guesses."""
        opened, real, fake = (means.get(name) for name in (self.names[3], *self.names[:2]))
        if opened is not None and opened >= _LUCK:
            return ""
        if opened is None or real is None or fake is None:
            kind, why = "not-finite", "its output is not finite"
        elif real - fake < _MARGIN[1]:
            kind, how = ("guesses", "does not tell") if real <= fake else ("nearly-guesses", "hardly tells")
            why = f"it {how} recordings ({real:.2f}) from reconstructions ({fake:.2f})"
        else:
            kind, why = "won", f"it has won outright: recordings {real:.2f}, reconstructions {fake:.2f}"
        left = f"left out of all but {opened:.1%}" if opened else "left out"
        text = f"the adversary is {left}, and the autoencoder learns on without it: {why}"
        return Remark(text, "adversary-left-out", why=kind, opened=opened or 0.0, real=real, fake=fake)


def gate(real: Tensor, fake: Tensor, hinge: Tensor) -> Tensor:
    """0 .. 1 [B]: how far a discriminator is to be believed, of its mean logits and hinge loss on a sample.

    One that does not tell the two apart (untrained, dead) has nothing to teach; nor has one that has won so
    clearly that it does not learn any more. A function of the sample alone, without memory.
    """
    knows = _ramp(real - fake, *_MARGIN)
    return knows * _ramp(hinge, *_HINGE)


def _ramp(value: Tensor, low: float, high: float) -> Tensor:
    return ((value - low) / (high - low)).clamp(0, 1)


def _length(values: Tensor) -> Tensor:
    """float64 [B]: the norm of each sample's values."""
    return torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=torch.float64)


def _without_value(term: Tensor) -> Tensor:
    return term - term.detach()
