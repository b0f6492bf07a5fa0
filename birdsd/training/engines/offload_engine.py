"""Plain torch with the optimizer in host memory: for a GPU that holds little more than weights in 16 bit.

On the GPU are the weights in the precision of the work, and one gradient at a time: as soon as backward has
made it, it is added up in host memory. There lie float32 weights, gradients, moments and average, there the
step is computed, and the new weights go back. Neither DeepSpeed nor a compiler is needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from birdsd.errors import Mismatch
from birdsd.training.engines.base import MicroWork, learning_of
from birdsd.training.engines.torch_engine import TorchEngine

if TYPE_CHECKING:
    from birdsd.diffusion.learning.base import Learner
    from birdsd.schema import OptimConfig
    from birdsd.training.devices.precision import Precision
    from birdsd.training.devices.world import World

_PENDING = 8  # gradients that wait in host memory to be added


class LossScale:
    """What `torch.amp.GradScaler` does, for gradients in host memory: torch's own would fetch its scale from
    the GPU without waiting for it. Its state is torch's, so that a run may go on with either.
    """

    def __init__(self) -> None:
        self._state: dict[str, float] = {
            "scale": 2.0**16, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000,
            "_growth_tracker": 0,
        }  # fmt: skip
        self._finite = True

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to go backward from."""
        return loss * self._state["scale"]

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradients as they would be without it; notes whether all are finite."""
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        torch._foreach_mul_(gradients, 1 / self._state["scale"])
        self._finite = all(bool(torch.isfinite(gradient.sum())) for gradient in gradients)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step, unless a gradient overflowed."""
        if self._finite:
            optimizer.step()

    def update(self) -> None:
        """A smaller scale after an overflow, a larger one after many steps without."""
        state = self._state
        state["_growth_tracker"] = state["_growth_tracker"] + 1 if self._finite else 0
        if not self._finite:
            state["scale"] *= state["backoff_factor"]
        elif state["_growth_tracker"] == state["growth_interval"]:
            state["scale"] *= state["growth_factor"]
            state["_growth_tracker"] = 0

    def state_dict(self) -> dict[str, float]:
        """As `torch.amp.GradScaler` has it."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Of this class or of torch's."""
        self._state.update({name: state[name] for name in self._state})


class OffloadEngine(TorchEngine):
    """See `TorchEngine`, whose optimizer's side it is: `flat` holds host copies of what learns."""

    name = "torch-offload"

    def __init__(
        self,
        learner: Learner,
        optim: OptimConfig,
        precision: Precision,
        device: torch.device,
        world: World,
        optimizer_bits: int = 32,
    ) -> None:
        if world.size > 1:
            raise Mismatch(
                f"machine.offload_optimizer=true with machine.engine=torch on {world.size} ranks",
                "plain torch offloads for one process only; ZeRO shards the states over several",
                "set machine.engine=deepspeed and machine.zero_stage=2",
            )
        self._masters: dict[str, nn.Parameter] = {}
        self._handles: list[Any] = []
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="birdsd-gradients")
        self._pending: deque[Future[Any]] = deque()
        super().__init__(learner, optim, precision, device, world, optimizer_bits)

    def _make_scaler(self) -> Any:
        """Of the loss in fp16: one that knows that gradients are here and the loss is on the device."""
        return LossScale() if self.precision.name == "fp16" else None

    def _placed(self, learner: Learner) -> list[tuple[str, nn.Parameter]]:
        """The learner in the precision of the work on the device; float32 copies of what learns here."""
        learning = learning_of(learner)
        for name, parameter in learning:
            self._masters[name] = nn.Parameter(parameter.detach().to("cpu", torch.float32, copy=True))
            parameter.data = parameter.data.to(self.device, self.precision.dtype)
            hook = self._hook(self._masters[name])
            self._handles.append(parameter.register_post_accumulate_grad_hook(hook))
        for parameter in learner.parameters():
            if not parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.to(self.device, self.precision.dtype)
        learner.to(self.device)
        self._parameters = dict(learning)
        return list(self._masters.items())

    def _hook(self, master: nn.Parameter) -> Callable[[Tensor], None]:
        """Adds a gradient to the master's, in the order in which they come."""

        def reached(parameter: Tensor) -> None:
            made, parameter.grad = parameter.grad, None
            assert made is not None and master.grad is not None
            if made.device.type == "cpu":
                master.grad.add_(made)
                return
            if len(self._pending) >= _PENDING:
                self._pending.popleft().result()
            self._pending.append(self._beside.submit(master.grad.add_, made.to("cpu")))

        return reached

    def _backward(self, batches: Sequence[MicroWork], total: Tensor) -> None:
        try:
            super()._backward(batches, total)
        finally:
            while self._pending:
                self._pending.popleft().result()

    def _update(self, learning_rate: float, ema_decay: float) -> Tensor | None:
        norm = super()._update(learning_rate, ema_decay)
        self._refresh()
        return norm

    @torch.no_grad()
    def _refresh(self) -> None:
        """The weights on the device are those here."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self._masters[name].to(parameter.dtype))

    def load_state(self, tensor: Callable[[str, str], Tensor], extra: Any) -> None:
        """See `Engine.load_state`."""
        super().load_state(tensor, extra)
        self._refresh()

    @contextmanager
    def ema_weights(self) -> Iterator[bool]:
        """See `Engine.ema_weights`."""
        try:
            with super().ema_weights() as whole, self._autocast():  # the learner is in low precision
                self._refresh()
                yield whole
        finally:
            self._refresh()

    def close(self) -> None:
        """End the thread too, and let the parameters go of this engine: they would keep it for ever."""
        self._beside.shutdown()
        for handle in self._handles:
            handle.remove()
        super().close()
