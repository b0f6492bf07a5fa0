"""One network with two sets of weights: what the mean absolute error teaches, and what an adversary adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from birdsd.diffusion.upscaling.networks import Shape, built

_DOT = "/"  # stands for a dot, which no parameter's name may hold


class Twofold(nn.Module):
    """A network, and beside its weights the difference that makes a second, sharper set of them.

    The difference begins at 0, so that until the adversary's start both sets are one, and a checkpoint, an
    average and an interpolation of both are those of plain parameters. All of them lie in this one module:
    ZeRO-3 gathers them when it is called, and the network itself holds none.
    """

    def __init__(self, shape: Shape, seed: int, sharp: bool) -> None:
        super().__init__()
        self.shape, self.sharp, self.recomputed = shape, sharp, False
        self._names = []
        for name, parameter in built(shape, seed).named_parameters():
            self._names.append(name)
            self.register_parameter(f"plain{_DOT}{_kept(name)}", nn.Parameter(parameter.detach()))
            if sharp:
                difference = nn.Parameter(torch.zeros_like(parameter))
                self.register_parameter(f"sharper{_DOT}{_kept(name)}", difference)
        with torch.device("meta"):
            self._skeleton = [shape.build()]  # in a list, so that its empty parameters are not this module's

    def forward(self, picture: Tensor, both: bool) -> tuple[Tensor, Tensor | None]:
        """What either set makes of [B, 1, H, W] in 0..1; the sharper set's gradients do not reach the plain
        one. Without `both` the second is None."""
        plain = self._called(picture, self.weights(0.0))
        if not both:
            if self.sharp and torch.is_grad_enabled():  # gradients of 0: every engine wants one of each
                plain = plain + sum(self._sharper(name).sum() for name in self._names) * 0.0
            return plain, None
        moved = {name: self._plain(name).detach() + self._sharper(name) for name in self._names}
        return plain, self._called(picture, moved)

    def begin_as(self, sets: Sequence[Mapping[str, Tensor]]) -> None:
        """Take the weights of an earlier one; where that has one set, both are it."""
        with torch.no_grad():
            for name in self._names:
                self._plain(name).copy_(sets[0][name])
                if self.sharp:
                    self._sharper(name).copy_(sets[-1][name] - sets[0][name])

    def weights(self, sharpness: float) -> dict[str, Tensor]:
        """Under the network's own names: 0 the plain set, 1 the sharper one, between them their mixture."""
        if not sharpness or not self.sharp:
            return {name: self._plain(name) for name in self._names}
        return {name: self._plain(name) + sharpness * self._sharper(name) for name in self._names}

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in backward."""
        self.recomputed = True

    def _called(self, picture: Tensor, weights: dict[str, Tensor]) -> Tensor:
        names = list(weights)

        def call(given: Tensor, *tensors: Tensor) -> Tensor:
            made: Tensor = functional_call(
                self._skeleton[0], dict(zip(names, tensors, strict=True)), (given,)
            )
            return made

        given = picture.to(weights[names[0]].dtype)
        if self.recomputed and torch.is_grad_enabled():
            kept: Tensor = checkpoint(call, given, *weights.values(), use_reentrant=False)
            return kept.float()
        return call(given, *weights.values()).float()

    def _plain(self, name: str) -> Tensor:
        found: Tensor = getattr(self, f"plain{_DOT}{_kept(name)}")
        return found

    def _sharper(self, name: str) -> Tensor:
        found: Tensor = getattr(self, f"sharper{_DOT}{_kept(name)}")
        return found


def _kept(name: str) -> str:
    return name.replace(".", _DOT)
