"""Muon: momentum whose matrices are made orthogonal before each step, and AdamW for everything else.

Keller Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); the scale of an update is that of Liu
et al. 2025, "Muon is Scalable for LLM Training" (arXiv 2502.16982), so that AdamW's learning rate and weight
decay serve for both. A filter [out, in, h, w] counts as a matrix [out, in * h * w]. First and last layers and
embeddings are AdamW's: their rows are things by themselves, and no map between features. The step is that of
torch.optim.Muon, which knows no filters and multiplies in bf16 also where a processor has no instructions
for it.

With several ranks each makes its share of the matrices orthogonal and sends them to the others. What is
learnt does not depend on who computed what: replicas stay alike even where the ranks' processors multiply in
different precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from birdsd.training.devices.cores import multiplies_bf16
from birdsd.training.devices.world import World
from birdsd.training.engines.adam8 import MOMENTS, adamw_step

if TYPE_CHECKING:
    from birdsd.schema import OptimConfig
    from birdsd.training.engines.flat import FlatParameters

MOMENTUM = 0.95
_LIKE_ADAMW = 0.2  # root mean square of AdamW's usual updates
# How the names of first and last layers and of embeddings end: diffusers', and those of our classifiers.
_NOT_HIDDEN = ("conv_in", "conv_out", "embedding", "embeddings", "stem", "head")
# A quintic whose iteration takes singular values to around 1; five steps are enough for bf16.
_QUINTIC, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5
# Multiplications for which there would be time in what a matrix costs whatever its size (0.3 ms on a core).
_OVERHEAD = 40_000_000


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

    def __init__(self, flat: FlatParameters, optim: OptimConfig, world: World | None = None) -> None:
        self._flat, self._world = flat, world or World()
        decay = float(optim.weight_decay or 0)
        groups: list[dict[str, Any]] = [
            {"params": [], "weight_decay": weight_decay, "muon": number == 0}
            for number, weight_decay in enumerate((decay, decay, 0.0))
        ]
        for chunk, group in zip(flat.chunks, flat.group_of, strict=True):
            groups[group]["params"].append(chunk)
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
        self._shares = self._dealt()

    def _dealt(self) -> list[list[tuple[nn.Parameter, list[str]]]]:
        """By rank, the chunks in which it has matrices, and their names: neighbours, to be sent as one."""
        matrices = [
            (number, name, parameter)
            for number, group in enumerate(self._flat.group_of)
            if group == 0
            for name, parameter in self._flat.members(number)
        ]
        shares: list[list[tuple[nn.Parameter, list[str]]]] = []
        for share in deal([_cost(parameter) for _, _, parameter in matrices], self._world.size):
            names: dict[int, list[str]] = {}
            for number, name, _ in matrices[share]:
                names.setdefault(number, []).append(name)
            shares.append([(self._flat.chunks[number], held) for number, held in names.items()])
        return shares

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step with the gradients in each chunk's `.grad`, which Muon's updates replace. Collective.

        No rank may keep to itself that it cannot take the step: the others would wait for its matrices.
        """
        for group in self.param_groups:
            for chunk in group["params"]:
                (self._look_ahead if group["muon"] else self._adamw)(group, chunk)
        self._make_orthogonal()
        for group in self.param_groups:
            if group["muon"]:
                self._apply(group)

    def _look_ahead(self, group: dict[str, Any], chunk: nn.Parameter) -> None:
        """The momentum as Nesterov has it, in place of the gradient."""
        state, gradient = self.state[chunk], _grad(chunk)
        state["step"] += 1
        momentum = state["exp_avg"].lerp_(gradient, 1 - MOMENTUM)
        gradient.lerp_(momentum, MOMENTUM)

    def _make_orthogonal(self) -> None:
        """Every matrix that lies in a gradient's place, by the rank that it was dealt to."""
        for chunk, names in self._shares[self._world.rank]:
            for name in names:
                place = self._flat.view(_grad(chunk), name)
                place.copy_(orthogonal(place.flatten(1)).view_as(place))
        if self._world.size == 1:
            return
        sent = [
            dist.broadcast(_grad(chunk)[self._flat.span(names[0], names[-1])], src=rank, async_op=True)
            for rank, share in enumerate(self._shares)
            for chunk, names in share
        ]
        for work in sent:
            work.wait()

    def _apply(self, group: dict[str, Any]) -> None:
        for chunk in group["params"]:
            chunk.detach().mul_(1 - group["lr"] * group["weight_decay"])
        for share in self._shares:
            for chunk, names in share:
                for name in names:
                    update, weight = (self._flat.view(t, name) for t in (_grad(chunk), chunk.detach()))
                    size = _LIKE_ADAMW * max(update.flatten(1).shape) ** 0.5
                    weight.add_(update, alpha=-group["lr"] * size)

    def _adamw(self, group: dict[str, Any], chunk: nn.Parameter) -> None:
        state = self.state[chunk]
        adamw_step(group, chunk, [state[kind] for kind in MOMENTS], state["step"])


def deal(costs: Sequence[int], ranks: int) -> list[slice]:
    """For each rank neighbouring items, so that the costliest share costs as little as it can."""

    def cut(most: int) -> list[slice]:
        shares, start, held = [], 0, 0
        for number, cost in enumerate(costs):
            if held + cost > most:
                shares.append(slice(start, number))
                start, held = number, 0
            held += cost
        return [*shares, slice(start, len(costs))]

    low, high = max(costs, default=0), sum(costs)
    while low < high:
        middle = (low + high) // 2
        if len(cut(middle)) <= ranks:
            high = middle
        else:
            low = middle + 1
    shares = cut(high)
    return [*shares, *[slice(0, 0)] * (ranks - len(shares))]


def _cost(matrix: Tensor) -> int:
    """Of `orthogonal`, in multiplications."""
    short, long = sorted(matrix.flatten(1).shape)
    return _ITERATIONS * short * short * (2 * long + short) + _OVERHEAD


def _grad(chunk: nn.Parameter) -> Tensor:
    assert chunk.grad is not None
    return chunk.grad


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
