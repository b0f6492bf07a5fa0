"""How a step is carried out: the protocol, plain torch, and the choice between torch and DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from birdsd.errors import UserError, unknown_name
from birdsd.training.adam8 import MOMENTS, AdamW8bit
from birdsd.training.ema import Ema
from birdsd.training.flat import FlatParameters, GradientSum
from birdsd.training.muon import Muon, check_optimizer, muon_groups
from birdsd.training.precision import Precision
from birdsd.training.shortage import OutOfMemory, agree, is_out_of_memory, reason_of
from birdsd.training.tensorfile import copy_tensors
from birdsd.training.world import World

if TYPE_CHECKING:
    from birdsd.diffusion.parts import Learner
    from birdsd.schema import MachineConfig, OptimConfig

# A checkpoint's tensors by kind and parameter name.
TensorsByKind = Mapping[str, Mapping[str, Tensor]]
# A micro-batch: a function that gives its prepared batch (or that of its first n samples), and its weights.
MicroWork = tuple[Callable[..., "dict[str, Tensor]"], Tensor]
_NORM_BLOCK = 4096


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

    def extra_state(self) -> dict[str, Any]:
        """What else a checkpoint must hold, as JSON: the optimizer's step, the loss scale."""
        ...

    def showing(self) -> AbstractContextManager[bool]:
        """Inside, the learner holds the weights to show (the EMA where it is on): True; or False where
        the engine keeps them in pieces, and they must come from a checkpoint."""
        ...

    def close(self) -> None: ...


def learning_of(learner: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that learn, by name; `UserError` where there are none."""
    learning = [(name, p) for name, p in learner.named_parameters() if p.requires_grad]
    if not learning:
        raise UserError(
            "nothing in this method learns", "its learner has no parameter that requires a gradient"
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
    held = [{"params": list(g), "weight_decay": d} for g, d in zip(groups, decays, strict=True)]
    if bits == 8:
        packed = [{**group, "packed": number == 0} for number, group in enumerate(held)]
        return AdamW8bit([group for group in packed if group["params"]], optim)
    held = [group for group in held if group["params"]]
    return torch.optim.AdamW(
        held,
        lr=float(optim.learning_rate or 0),
        betas=(float(optim.beta1 or 0), float(optim.beta2 or 0)),
        eps=float(optim.epsilon or 0),
        fused=True,
    )


def check_engine(machine: MachineConfig) -> None:
    """Refuse an engine, a ZeRO stage or an offload that there is not, wherever it is to run."""
    if machine.engine not in ("torch", "deepspeed"):
        raise unknown_name("machine.engine", machine.engine, ("torch", "deepspeed"))
    if machine.offload_parameters and (machine.engine != "deepspeed" or machine.zero_stage != 3):
        raise UserError(
            f"machine.offload_parameters=true with machine.engine={machine.engine}, "
            f"machine.zero_stage={machine.zero_stage}",
            "only ZeRO-3 can do without the weights on the GPU until a layer needs them",
            "set machine.engine=deepspeed and machine.zero_stage=3",
        )
    if machine.optimizer_bits not in (8, 32):
        raise unknown_name("machine.optimizer_bits", str(machine.optimizer_bits), ("8", "32"))
    if machine.engine == "deepspeed":
        if machine.zero_stage not in (0, 1, 2, 3):
            raise unknown_name("machine.zero_stage", str(machine.zero_stage), ("0", "1", "2", "3"))
        if machine.zero_stage and machine.compile:
            raise UserError(
                f"machine.compile=true with DeepSpeed ZeRO-{machine.zero_stage}",
                "DeepSpeed's hooks would break the compiled graph into pieces",
                "set machine.engine=torch, or machine.compile=false",
            )
        if machine.zero_stage and machine.optimizer_bits == 8:
            raise UserError(
                f"machine.optimizer_bits=8 with DeepSpeed ZeRO-{machine.zero_stage}",
                "moments in 8 bits are plain torch's; ZeRO deals them out over the ranks instead",
                "set machine.engine=torch, or machine.optimizer_bits=32",
            )


def engine_name(machine: MachineConfig) -> tuple[str, str]:
    """The engine in use, and why."""
    check_engine(machine)
    if machine.engine == "torch":
        if machine.offload_optimizer:
            return "torch-offload", "machine.engine=torch with machine.offload_optimizer=true"
        return "torch", "machine.engine=torch"
    if machine.zero_stage == 0:
        return "torch", "ZeRO stage 0 deals nothing out over the ranks: plain torch does the same, faster"
    if find_spec("deepspeed") is None:
        raise UserError(
            "machine.engine=deepspeed, and DeepSpeed is not installed",
            "it is an extra: only ZeRO and offload need it",
            'pip install "birdsd[deepspeed]" (Linux or WSL2), or machine.engine=torch',
        )
    return "deepspeed", f"machine.engine=deepspeed, ZeRO stage {machine.zero_stage}"


def make_engine(
    learner: Learner,
    optim: OptimConfig,
    machine: MachineConfig,
    precision: Precision,
    device: torch.device,
    world: World,
    micro_batches: int,
) -> Engine:
    """Wrap `learner`, which holds the weights to start from, for training here."""
    name = engine_name(machine)[0]
    check_optimizer(optim, machine)
    if machine.compile:
        compile_in_place(learner, device)
    if name == "torch":
        return TorchEngine(learner, optim, precision, device, world, machine.optimizer_bits)
    if name == "torch-offload":
        from birdsd.training.offload_engine import OffloadEngine

        return OffloadEngine(learner, optim, precision, device, world, machine.optimizer_bits)
    from birdsd.training.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(learner, optim, machine, precision, device, world, micro_batches)


def compile_in_place(learner: nn.Module, device: torch.device) -> None:
    """Have torch compile the learner when it is first called; its parameters keep their names. `UserError`
    where there is no compiler."""
    from shutil import which

    has = find_spec("triton") is not None if device.type == "cuda" else which("g++") or which("clang++")
    if not has:
        raise UserError(
            f"machine.compile=true, and there is no compiler for {device.type} here",
            "torch.compile needs Triton on a GPU, and g++ or clang++ on a CPU",
            "install it, or set machine.compile=false",
        )
    learner.compile(dynamic=False)


class TorchEngine:
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
        self.device, self.world, self.precision = device, world, precision
        self.scaler = self._make_scaler()
        self.learner = learner
        self.clip = float(optim.gradient_clip or 0)
        learning = self._placed(learner)
        self.shapes = {name: parameter.shape for name, parameter in learning}
        self.parameter_names = sorted(self.shapes)
        muon = optim.optimizer == "muon"
        self.flat = FlatParameters((muon_groups if muon else decay_groups)(learning))
        self.optimizer = Muon(self.flat, optim) if muon else self._adamw(optim, optimizer_bits)
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
        from accelerate import Accelerator

        name = self.precision.name
        self.accelerator = Accelerator(
            cpu=self.device.type == "cpu", mixed_precision="no" if name == "fp32" else name
        )
        return self.accelerator.scaler

    def _placed(self, learner: Learner) -> list[tuple[str, nn.Parameter]]:
        """Put the learner where it computes; returns what the optimizer changes, in float32."""
        learner.to(self.device)
        learning = learning_of(learner)
        for _, parameter in learning:  # what is frozen stays in the precision it came in
            parameter.data = parameter.data.float()
        return learning

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("weights", *MOMENTS, *(("ema",) if self.ema else ()))

    def _autocast(self) -> AbstractContextManager[None]:
        if self.precision.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, self.precision.dtype)

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

    @torch.no_grad()
    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        """See `Engine.losses`."""
        with self._autocast():
            return self.learner(batch).float()

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
        held: Tensor = self.optimizer.state[chunk][kind]
        return held

    @torch.no_grad()
    def copy_state(self, into: TensorsByKind) -> None:
        """See `Engine.copy_state`."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for number in range(len(self.flat.chunks)):
            names = [name for name, _ in self.flat.members(number)]
            for kind, targets in into.items():
                if mine := [name for name in names if name in targets]:
                    held = self._tensor(kind, number)
                    pairs += [(targets[name], self.flat.view(held, name)) for name in mine]
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
                held = torch.zeros_like(chunk.detach()) if packed else self._tensor(kind, number)
                here = [(self.flat.view(held, name), tensor(kind, name)) for name in names]
                if packed:
                    self._copy(here)
                    self.optimizer.restore(chunk, kind, held)  # type: ignore[union-attr]
                else:
                    pairs += here
            self.optimizer.state[chunk]["step"].fill_(float(extra["optimizer_step"]))
        self._copy(pairs)
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
    def showing(self) -> Iterator[bool]:
        """See `Engine.showing`."""
        with self.ema.exchanged() if self.ema else nullcontext():
            yield True

    def close(self) -> None:
        """Forget what accelerate keeps for the whole process, so that another engine may follow."""
        if self.summing:
            self.summing.close()
        forget_accelerate()


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


def forget_accelerate() -> None:
    """Reset accelerate's process-wide state; the process group is the `World`'s to close."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    # Not `reset_partial_state`'s way of destroying the group: that is left to who made it.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    PartialState._reset_state()
