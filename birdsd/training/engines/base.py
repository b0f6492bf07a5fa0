"""What an engine is (the protocol), and what the engines share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from birdsd.errors import NothingLeft
from birdsd.training.devices.precision import Precision
from birdsd.training.devices.world import World
from birdsd.training.engines.adam8 import MOMENTS, AdamW8bit
from birdsd.training.engines.ema import Ema

if TYPE_CHECKING:
    from birdsd.schema import OptimConfig

# A checkpoint's tensors by kind and parameter name.
TensorsByKind = Mapping[str, Mapping[str, Tensor]]
# A micro-batch: a function that gives its prepared batch (or that of its first n samples), and its weights.
MicroWork = tuple[Callable[..., "dict[str, Tensor]"], Tensor]


@dataclass(frozen=True)
class StepResult:
    """`loss`: this rank's share of the batch's mean (float32, no dimension, on the device);
    `gradient_norm`: of all ranks, before clipping, or None where nothing is clipped."""

    loss: Tensor
    gradient_norm: Tensor | float | None


class Engine(Protocol):
    """What the loop needs of an engine. All methods but `close` are collective."""

    name: str
    device: torch.device
    parameter_names: list[str]
    shapes: dict[str, torch.Size]
    ema: Ema | None

    @property
    def kinds(self) -> tuple[str, ...]:
        """What a checkpoint holds for each parameter: weights, exp_avg, exp_avg_sq, and ema if on."""
        ...

    def step(
        self,
        batches: Sequence[MicroWork],
        learning_rate: float,
        ema_decay: float,
    ) -> StepResult:
        """One optimizer step on this rank's micro-batches.

        Each is a function that gives the prepared batch (called with n: that of its first n samples), and
        its weights (on the device, shape [B]), already divided by the global batch's total weight. Raises
        `OutOfMemory`, on all ranks at once, where one of them has too little for it; nothing has changed
        then, and the next call may bring the same samples in more micro-batches.
        """
        ...

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        """One loss per sample without gradients: float32 [B]."""
        ...

    def copy_state(self, into: TensorsByKind) -> None:
        """Copy the state into `into[kind][name]`, which holds the names that this rank is to write."""
        ...

    def load_state(self, tensor: Callable[[str, str], Tensor], extra: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint: `tensor(kind, name)`; the module has its weights already."""
        ...

    def places(self) -> dict[str, Tensor]:
        """Where the tensors of a checkpoint belong, by KIND/PARAMETER: written there (weights as well), and
        then `take_up` called, it is as after `load_state`. Only of an engine that `reads_in_place`."""
        ...

    def take_up(self, extra: Mapping[str, Any]) -> None:
        """What else a checkpoint holds (`extra_state`)."""
        ...

    def extra_state(self) -> dict[str, Any]:
        """What else a checkpoint must hold, as JSON: the optimizer's step, the loss scale."""
        ...

    def ema_weights(self) -> AbstractContextManager[bool]:
        """Inside, the learner holds the weights to show (the EMA where it is on): True; or False where
        the engine keeps them in pieces, and they must come from a checkpoint."""
        ...

    def close(self) -> None: ...


class EngineBase:
    """What the engines share: how the learner is called, and what a checkpoint holds."""

    def __init__(self, learner: nn.Module, precision: Precision, device: torch.device, world: World) -> None:
        self.learner, self.precision, self.device, self.world = learner, precision, device, world
        self.ema: Ema | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """See `Engine.kinds`."""
        return ("weights", *MOMENTS, *(("ema",) if self.ema else ()))

    def _autocast(self) -> AbstractContextManager[None]:
        """In the precision of the work: weights may be in it, inputs (latents, noise) are not."""
        if self.precision.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, self.precision.dtype)

    @torch.no_grad()
    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        """See `Engine.losses`."""
        with self._autocast():
            losses: Tensor = self.learner(batch)
            return losses.float()


def learning_of(learner: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that learn, by name; `UserError` where there are none."""
    learning = [(name, p) for name, p in learner.named_parameters() if p.requires_grad]
    if not learning:
        raise NothingLeft(
            "this method has no trainable parameters", "no parameter of its learner requires a gradient"
        )
    return learning


def decay_groups(learning: Sequence[tuple[str, nn.Parameter]]) -> list[list[tuple[str, nn.Parameter]]]:
    """[matrices and filters, vectors]: weight decay is for the former, never for norms and biases."""
    return [
        [item for item in learning if item[1].ndim >= 2],
        [item for item in learning if item[1].ndim < 2],
    ]


def adamw(
    groups: Sequence[Sequence[nn.Parameter]], optim: OptimConfig, bits: int = 32
) -> torch.optim.AdamW | AdamW8bit:
    """Fused AdamW over [decayed, not decayed]; with 8 bits the moments of the former are packed."""
    decays = (float(optim.weight_decay or 0), 0.0)
    param_groups = [{"params": list(g), "weight_decay": d} for g, d in zip(groups, decays, strict=True)]
    if bits == 8:
        packed = [{**group, "packed": number == 0} for number, group in enumerate(param_groups)]
        return AdamW8bit([group for group in packed if group["params"]], optim)
    param_groups = [group for group in param_groups if group["params"]]
    return torch.optim.AdamW(
        param_groups,
        lr=float(optim.learning_rate or 0),
        betas=(float(optim.beta1 or 0), float(optim.beta2 or 0)),
        eps=float(optim.epsilon or 0),
        fused=True,
    )
