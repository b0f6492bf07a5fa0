"""Muon: momentum whose matrices are made orthogonal before each step, and AdamW for everything else.

Keller Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); the scale of an update is that of Liu
et al. 2025, "Muon is Scalable for LLM Training" (arXiv 2502.16982), so that AdamW's learning rate and weight
decay serve for both. A filter [out, in, h, w] counts as a matrix [out, in * h * w]. First and last layers and
embeddings are AdamW's: their rows are things by themselves, and no map between features. The step is that of
torch.optim.Muon, which knows no filters and multiplies in bf16 also where a processor has no instructions
for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from birdsd.training.devices.cores import multiplies_bf16
from birdsd.training.engines.adam8 import MOMENTS, adamw_step

if TYPE_CHECKING:
    from birdsd.schema import OptimConfig
    from birdsd.training.engines.flat import FlatParameters

MOMENTUM = 0.95
_LIKE_ADAMW = 0.2  # root mean square of AdamW's usual updates
_NOT_HIDDEN = ("conv_in", "conv_out", "embedding", "embeddings")  # how their modules' names end
# A quintic whose iteration takes singular values to around 1; five steps are enough for bf16.
_QUINTIC, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5


def is_hidden(name: str, parameter: Tensor) -> bool:
    """Whether Muon changes a parameter: a matrix or filter between the first layer and the last."""
    return parameter.ndim >= 2 and not any(part.endswith(_NOT_HIDDEN) for part in name.split("."))


def muon_groups(learning: Sequence[tuple[str, nn.Parameter]]) -> list[list[tuple[str, nn.Parameter]]]:
    """[matrices for Muon, matrices for AdamW, vectors for AdamW]; weight decay is for the first two."""
    hidden = {name for name, parameter in learning if is_hidden(name, parameter)}
    return [
        [item for item in learning if item[0] in hidden],
        [item for item in learning if item[0] not in hidden and item[1].ndim >= 2],
        [item for item in learning if item[1].ndim < 2],
    ]


class Muon(torch.optim.Optimizer):
    """One step over the chunks of `FlatParameters(muon_groups(...))`: Muon for those of group 0, fused AdamW
    for the others. Both keep AdamW's two moments, so that a checkpoint looks the same; Muon uses the first.
    """

    def __init__(self, flat: FlatParameters, optim: OptimConfig) -> None:
        self._flat = flat
        self._matrices: dict[nn.Parameter, list[str]] = {}
        decay = float(optim.weight_decay or 0)
        groups: list[dict[str, Any]] = [
            {"params": [], "weight_decay": weight_decay, "muon": number == 0}
            for number, weight_decay in enumerate((decay, decay, 0.0))
        ]
        for number, (chunk, group) in enumerate(zip(flat.chunks, flat.group_of, strict=True)):
            groups[group]["params"].append(chunk)
            self._matrices[chunk] = [name for name, _ in flat.members(number)]
        betas = (float(optim.beta1 or 0), float(optim.beta2 or 0))
        super().__init__(
            [group for group in groups if group["params"]],
            {"lr": 0.0, "betas": betas, "eps": float(optim.epsilon or 0)},
        )
        for chunk in flat.chunks:
            self.state[chunk] = {
                "step": torch.zeros((), device=chunk.device),
                **{kind: torch.zeros_like(chunk.detach()) for kind in MOMENTS},
            }

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step with the gradients in each chunk's `.grad`."""
        for group in self.param_groups:
            for chunk in group["params"]:
                (self._muon if group["muon"] else self._adamw)(group, chunk)

    def _muon(self, group: dict[str, Any], chunk: nn.Parameter) -> None:
        state, gradient = self.state[chunk], chunk.grad
        assert gradient is not None
        state["step"] += 1
        momentum = state["exp_avg"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM)  # as Nesterov looks
        weights = chunk.detach().mul_(1 - group["lr"] * group["weight_decay"])
        for name in self._matrices[chunk]:
            matrix = self._flat.view(ahead, name).flatten(1)
            size = _LIKE_ADAMW * max(matrix.shape) ** 0.5
            weight = self._flat.view(weights, name)
            weight.add_(orthogonal(matrix).view_as(weight), alpha=-group["lr"] * size)

    def _adamw(self, group: dict[str, Any], chunk: nn.Parameter) -> None:
        state = self.state[chunk]
        adamw_step(group, chunk, [state[kind] for kind in MOMENTS], state["step"])


@cache
def _cpu_has_bf16() -> bool:
    return multiplies_bf16()


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V^T of a matrix U S V^T [rows, columns], float32: singular values of 0.7 to 1.2, by iteration.

    A matrix of zeros stays one.
    """
    fast = matrix.device.type == "cuda" or _cpu_has_bf16()
    found = matrix.to(torch.bfloat16) if fast else matrix.float()
    tall = found.size(0) > found.size(1)
    if tall:
        found = found.T
    found = found / (found.norm() + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = found @ found.T
        found = a * found + (b * square + c * square @ square) @ found
    return (found.T if tall else found).float()
