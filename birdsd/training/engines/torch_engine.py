"""How a step is carried out in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from birdsd.errors import Unsupported
from birdsd.training.devices.copies import copy_tensors
from birdsd.training.devices.precision import Precision, divide_cores
from birdsd.training.devices.world import World
from birdsd.training.engines.adam8 import MOMENTS, AdamW8bit
from birdsd.training.engines.base import (
    EngineBase,
    MicroWork,
    StepResult,
    TensorsByKind,
    adamw,
    decay_groups,
    learning_of,
)
from birdsd.training.engines.ema import Ema
from birdsd.training.engines.flat import FlatParameters, GradientSum
from birdsd.training.engines.muon import Muon, muon_groups
from birdsd.training.engines.out_of_memory import OutOfMemory, agree, is_out_of_memory, reason_of

if TYPE_CHECKING:
    from birdsd.diffusion.learning.base import Learner
    from birdsd.schema import OptimConfig

_NORM_BLOCK = 4096


def compile_in_place(learner: nn.Module, device: torch.device) -> None:
    """Have torch compile the learner when it is first called; its parameters keep their names. `UserError`
    where there is no compiler."""
    from shutil import which

    has = find_spec("triton") is not None if device.type == "cuda" else which("g++") or which("clang++")
    if not has:
        raise Unsupported(
            f"machine.compile=true, but there is no compiler for {device.type} here",
            "torch.compile needs Triton on a GPU, and g++ or clang++ on a CPU",
            "install it, or set machine.compile=false",
        )
    learner.compile(dynamic=False)


class TorchEngine(EngineBase):
    """Replicas in plain PyTorch: every rank holds everything, gradients are summed."""

    name = "torch"

    def __init__(
        self,
        learner: Learner,
        optim: OptimConfig,
        precision: Precision,
        device: torch.device,
        world: World,
        optimizer_bits: int = 32,
    ) -> None:
        super().__init__(learner, precision, device, world)
        self.scaler = self._make_scaler()
        divide_cores(device, world.size)
        self.clip = float(optim.gradient_clip or 0)
        learning = self._placed(learner)
        self.shapes = {name: parameter.shape for name, parameter in learning}
        self.parameter_names = sorted(self.shapes)
        muon = optim.optimizer == "muon"
        self.flat = FlatParameters((muon_groups if muon else decay_groups)(learning))
        self.optimizer = Muon(self.flat, optim, world) if muon else self._adamw(optim, optimizer_bits)
        if isinstance(self.optimizer, torch.optim.AdamW):
            for chunk in self.flat.chunks:
                self.optimizer.state[chunk] = {
                    "step": torch.zeros((), device=chunk.device),
                    **{key: torch.zeros_like(chunk.detach()) for key in MOMENTS},
                }
        self.summing = GradientSum(self.flat) if world.size > 1 else None
        if world.size > 1:
            for chunk in self.flat.chunks:
                torch.distributed.broadcast(chunk.detach(), src=0)
        self.ema = Ema(self.flat.chunks) if optim.ema_decay else None

    def _adamw(self, optim: OptimConfig, bits: int) -> torch.optim.AdamW | AdamW8bit:
        chunks: list[list[nn.Parameter]] = [[], []]
        for chunk, group in zip(self.flat.chunks, self.flat.group_of, strict=True):
            chunks[group].append(chunk)
        return adamw(chunks, optim, bits)

    def _make_scaler(self) -> Any:
        """Of the loss, where the precision needs one."""
        return torch.amp.GradScaler(self.device.type) if self.precision.name == "fp16" else None

    def _placed(self, learner: Learner) -> list[tuple[str, nn.Parameter]]:
        """Put the learner where it computes; returns what the optimizer changes, in float32."""
        learner.to(self.device)
        learning = learning_of(learner)
        for _, parameter in learning:  # what is frozen stays in the precision it came in
            parameter.data = parameter.data.float()
        return learning

    def step(
        self,
        batches: Sequence[MicroWork],
        learning_rate: float,
        ema_decay: float,
    ) -> StepResult:
        """See `Engine.step`."""
        self.flat.zero_gradients()
        total, short = torch.zeros((), device=self.device), None
        try:
            self._backward(batches, total)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            short = reason_of(error)
        if self.summing:
            # Also where memory ran out: the others wait for these sums, which nobody will use.
            self.summing.finish(begun=short is None)
        if (short := agree(self.world, short)) is not None:
            raise OutOfMemory(short)
        return StepResult(total, self._update(learning_rate, ema_decay))

    def _backward(self, batches: Sequence[MicroWork], total: Tensor) -> None:
        """Gradients of all micro-batches; their losses are added to `total`."""
        for number, (make, weights) in enumerate(batches):
            batch = make()
            if self.summing and number == len(batches) - 1:
                self.summing.begin()
            with self._autocast():
                losses = self.learner(batch)
            loss = (losses.float() * weights).sum()
            (self.scaler.scale(loss) if self.scaler else loss).backward()
            total += loss.detach()

    def _update(self, learning_rate: float, ema_decay: float) -> Tensor | None:
        norm = None
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        if self.clip:
            norm = _norm(self.flat.gradients)
            torch._foreach_mul_(self.flat.gradients, (self.clip / (norm + 1e-6)).clamp(max=1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        if self.ema:
            self.ema.update(ema_decay)
        return norm

    def _tensor(self, kind: str, number: int) -> Tensor:
        """What a chunk has of a kind, in float32; a copy where it is packed."""
        chunk = self.flat.chunks[number]
        if kind == "weights":
            return chunk.detach()
        if kind == "ema":
            assert self.ema is not None
            return self.ema.averages[number]
        if isinstance(self.optimizer, AdamW8bit):
            return self.optimizer.moment(chunk, kind)
        tensor: Tensor = self.optimizer.state[chunk][kind]
        return tensor

    @torch.no_grad()
    def copy_state(self, into: TensorsByKind) -> None:
        """See `Engine.copy_state`."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for number in range(len(self.flat.chunks)):
            names = [name for name, _ in self.flat.members(number)]
            for kind, targets in into.items():
                if mine := [name for name in names if name in targets]:
                    flat = self._tensor(kind, number)
                    pairs += [(targets[name], self.flat.view(flat, name)) for name in mine]
            if isinstance(self.optimizer, AdamW8bit):  # what was unpacked must not all be there at once
                self._copy(pairs)
                pairs = []
        self._copy(pairs)

    @torch.no_grad()
    def load_state(self, tensor: Callable[[str, str], Tensor], extra: Mapping[str, Any]) -> None:
        """See `Engine.load_state`."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for number, chunk in enumerate(self.flat.chunks):
            names = [name for name, _ in self.flat.members(number)]
            for kind in self.kinds:
                packed = kind in MOMENTS and isinstance(self.optimizer, AdamW8bit)
                whole = torch.zeros_like(chunk.detach()) if packed else self._tensor(kind, number)
                here = [(self.flat.view(whole, name), tensor(kind, name)) for name in names]
                if packed:
                    self._copy(here)
                    self.optimizer.restore(chunk, kind, whole)  # type: ignore[union-attr]
                else:
                    pairs += here
        self._copy(pairs)
        self.take_up(extra)

    @torch.no_grad()
    def places(self) -> dict[str, Tensor]:
        """See `Engine.places`."""
        return {
            f"{kind}/{name}": self.flat.view(self._tensor(kind, number), name)
            for number in range(len(self.flat.chunks))
            for name, _ in self.flat.members(number)
            for kind in self.kinds
        }

    def take_up(self, extra: Mapping[str, Any]) -> None:
        """See `Engine.take_up`."""
        for chunk in self.flat.chunks:
            self.optimizer.state[chunk]["step"].fill_(float(extra["optimizer_step"]))
        if self.scaler and extra.get("loss_scaler"):
            self.scaler.load_state_dict(extra["loss_scaler"])

    def _copy(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        copy_tensors(pairs)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def extra_state(self) -> dict[str, Any]:
        """See `Engine.extra_state`."""
        step = self.optimizer.state[self.flat.chunks[0]]["step"]
        return {
            "optimizer_step": int(step.item()),
            "loss_scaler": self.scaler.state_dict() if self.scaler else None,
        }

    @contextmanager
    def ema_weights(self) -> Iterator[bool]:
        """See `Engine.ema_weights`."""
        with self.ema.exchanged() if self.ema else nullcontext():
            yield True

    def close(self) -> None:
        """End the threads that sum gradients."""
        if self.summing:
            self.summing.close()


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of flat tensors together (float32, no dimension), block by block.

    PyTorch sums a long tensor's squares one after the other on a CPU: over millions of them that loses
    1e-4 of the norm, and a run clipped by it drifts away from the same run under DeepSpeed.
    """
    norms = []
    for tensor in tensors:
        whole = tensor.numel() // _NORM_BLOCK * _NORM_BLOCK
        norms.append(torch.linalg.vector_norm(tensor[:whole].view(-1, _NORM_BLOCK), dim=1))
        norms.append(torch.linalg.vector_norm(tensor[whole:])[None])
    return torch.linalg.vector_norm(torch.cat(norms), dtype=torch.float64).float()
