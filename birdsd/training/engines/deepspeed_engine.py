"""DeepSpeed ZeRO 1 to 3 through accelerate. Imported only by a run that uses it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from birdsd.errors import Unsupported, UserError
from birdsd.training.devices.precision import Precision, release
from birdsd.training.devices.world import World
from birdsd.training.engines.adam8 import MOMENTS
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
from birdsd.training.engines.out_of_memory import OutOfMemory, agree, is_out_of_memory, reason_of

if TYPE_CHECKING:
    from birdsd.diffusion.learning.base import Learner
    from birdsd.schema import MachineConfig, OptimConfig

# accelerate and DeepSpeed read their rank from here even where a process group stands already.
_LONE_PROCESS = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
# `Accelerator(deepspeed_plugin=...)` leaves these behind; a plain engine made later must not see them.
_LEFT_BEHIND = (
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
)


# What DeepSpeed's optimizer of stages 1 and 2 counts from.
INITIAL_MICRO_STEP_ID = -1


# With weights in host memory: so many are on the GPU at once.
LIVE_PARAMETERS = 100_000_000


def bucket_elements(sizes: Sequence[int]) -> int:
    """How many gradients are summed over the ranks at once. DeepSpeed's own 5e8 would lie ready whole, a
    gibibyte in 16 bit, however small the model; the largest parameter must fit."""
    return max([1, *sizes, min(sum(sizes), 50_000_000)])


class DeepSpeedEngine(EngineBase):
    """ZeRO: optimizer state (1), gradients (2) and weights (3) dealt out over the ranks."""

    def __init__(
        self,
        learner: Learner,
        optim: OptimConfig,
        machine: MachineConfig,
        precision: Precision,
        device: torch.device,
        world: World,
        micro_batches: int,
    ) -> None:
        super().__init__(learner, precision, device, world)
        self.stage, self.micro_batches = machine.zero_stage, micro_batches
        self.name = f"deepspeed-zero{self.stage}"
        self.parameter_names = sorted(n for n, p in learner.named_parameters() if p.requires_grad)
        self.shapes = {n: p.shape for n, p in learner.named_parameters() if p.requires_grad}
        self._environment = {
            name: os.environ.get(name) for name in (*_LONE_PROCESS, *_LEFT_BEHIND, "DS_ACCELERATOR")
        }
        _import_deepspeed(device)
        self.engine = self.learner = self._wrap(learner, optim, machine)
        self._parameters = {n: p for n, p in self.engine.module.named_parameters() if n in self.shapes}
        self.optimizer: Any = self.engine.optimizer
        self._start_moments()
        self.ema = Ema(self._masters()) if optim.ema_decay else None

    def _wrap(self, learner: Learner, optim: OptimConfig, machine: MachineConfig) -> Any:
        from accelerate import Accelerator
        from accelerate.utils import DeepSpeedPlugin, DistributedType

        _forget_accelerate()  # what an engine before this one left behind would choose for it
        for name, value in _LONE_PROCESS.items():
            os.environ.setdefault(name, value)
        plugin = DeepSpeedPlugin(
            hf_ds_config=self._settings(optim, machine),
            gradient_accumulation_steps=self.micro_batches,
        )
        # Neither cpu=True nor ACCELERATE_USE_CPU: both would drop DeepSpeed without a word.
        os.environ.pop("ACCELERATE_USE_CPU", None)
        mixed = "no" if self.precision.name == "fp32" else self.precision.name
        accelerator = Accelerator(deepspeed_plugin=plugin, mixed_precision=mixed)
        if accelerator.distributed_type != DistributedType.DEEPSPEED:
            raise UserError(
                f"accelerate chose {accelerator.distributed_type} instead of DeepSpeed",
                "an ACCELERATE_... variable in the environment prevents it",
                "unset it, or set machine.engine=torch",
            )
        groups = [[p for _, p in group] for group in decay_groups(learning_of(learner))]
        engine = accelerator.prepare(learner, adamw(groups, optim))[0]
        # Under ZeRO-3 transformers would load any further model in pieces, and wait for all ranks to join in;
        # previews are made by one.
        from transformers.integrations import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
        return engine

    def _settings(self, optim: OptimConfig, machine: MachineConfig) -> dict[str, Any]:
        zero: dict[str, Any] = {
            "stage": self.stage,
            "contiguous_gradients": self.stage == 3,
            "reduce_bucket_size": bucket_elements([shape.numel() for shape in self.shapes.values()]),
        }
        if machine.offload_optimizer:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
        if machine.offload_parameters:
            zero["offload_param"] = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
            # Its own limit of 1e9 weights on the GPU at once is more than Stable Diffusion has.
            zero |= {
                "stage3_max_live_parameters": LIVE_PARAMETERS,
                "stage3_max_reuse_distance": LIVE_PARAMETERS,
                "stage3_prefetch_bucket_size": LIVE_PARAMETERS // 10,
            }
        return {
            "train_micro_batch_size_per_gpu": max(1, machine.micro_batch),
            "gradient_accumulation_steps": self.micro_batches,
            "gradient_clipping": float(optim.gradient_clip or 0),  # its own default is 1.0
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW needs no compiler
            "bf16": {"enabled": self.precision.name == "bf16"},
            "fp16": {"enabled": self.precision.name == "fp16"},
            "steps_per_print": 10**12,
        }

    # -- a step -------------------------------------------------------------------------------------

    def step(
        self,
        batches: Sequence[MicroWork],
        learning_rate: float,
        ema_decay: float,
    ) -> StepResult:
        """See `Engine.step`."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        total, short = torch.zeros((), device=self.device), None
        if hasattr(self.optimizer, "gradient_accumulation_steps"):
            self.optimizer.gradient_accumulation_steps = len(batches)
        # DeepSpeed divides by the micro-batches that it was set up for and averages over the ranks; the
        # weights sum to 1 already.
        scale = self.micro_batches * self.world.size
        for number, (make, weights) in enumerate(batches, start=1):
            # Set here, not counted by DeepSpeed: after memory ran out there are more of them.
            self.engine.set_gradient_accumulation_boundary(number == len(batches))
            losses, weights, reason = self._forward(make, weights)
            short = short or reason
            loss = (losses.float() * weights).sum()
            try:
                self.engine.backward(loss * scale)
            except Exception as error:
                self._raise_out_of_memory(error)
            if number == len(batches) and (short := agree(self.world, short)) is not None:
                break
            self.engine.step()  # acts on the last micro-batch only
            total += loss.detach()
        if short is not None:
            self._discard()
            raise OutOfMemory(short)
        if self.ema:
            self.ema.update(ema_decay)
        return StepResult(total, self.engine.get_global_grad_norm())

    def _forward(
        self, make: Callable[..., dict[str, Tensor]], weights: Tensor
    ) -> tuple[Tensor, Tensor, str | None]:
        """Losses and their weights, and None; where there is too little memory, those of one sample at no
        weight, and why: the backward that follows keeps step with the other ranks, and with DeepSpeed's own
        counting."""
        reason = None
        try:
            batch = make()
        except Exception as error:
            reason = self._reason_out_of_memory(error)
        if reason is None:
            try:
                with self._autocast():
                    return self.engine(batch), weights, None
            except Exception as error:
                if self.stage == 3:  # its weights are half gathered
                    self._raise_out_of_memory(error)
                reason = self._reason_out_of_memory(error)
            del batch
        release(self.device)
        with self._autocast():
            return self.engine(make(1)), 0 * weights[:1], reason

    @staticmethod
    def _reason_out_of_memory(error: Exception) -> str:
        if is_out_of_memory(error):
            return reason_of(error)
        raise error

    def _raise_out_of_memory(self, error: Exception) -> None:
        """Raise what the loop knows: in the middle of a backward DeepSpeed's buckets are half full."""
        if is_out_of_memory(error):
            raise OutOfMemory(reason_of(error), redo=False) from error
        raise error

    def _discard(self) -> None:
        """Forget the gradients of this step, the way DeepSpeed does where fp16 overflowed."""
        optimizer = self.optimizer
        optimizer.zero_grad(set_to_none=True)  # of stage 3 this begins the counting of micro-batches anew
        if self.stage < 3:
            optimizer.micro_step_id = INITIAL_MICRO_STEP_ID
            optimizer._release_preflattened_grad_buffers()
            for kept in (optimizer.averaged_gradients, optimizer.all_grad_tensors):
                for group in kept:
                    kept[group] = None
        if getattr(optimizer, "cpu_offload", False):
            optimizer.reset_cpu_buffers()
            optimizer._offload_accumulated_param_ids = set()

    # -- state --------------------------------------------------------------------------------------

    def _masters(self) -> list[Tensor]:
        """The flat fp32 weights that this rank owns, and that the optimizer updates."""
        for name in (
            "fp32_partitioned_groups_flat",
            "single_partition_of_fp32_groups",
            "fp32_groups_flat_partition",
        ):
            if (masters := getattr(self.optimizer, name, None)) is not None:
                return list(masters)
        raise RuntimeError(f"{type(self.optimizer).__name__} keeps its fp32 weights somewhere unknown")

    def _start_moments(self) -> None:
        # DeepSpeed makes them in the first step; a checkpoint can only be set into what is there.
        state = self.optimizer.optimizer.state
        for master in self._masters():
            step_device = master.device
            state[master].setdefault("step", torch.zeros((), device=step_device))
            for key in MOMENTS:
                state[master].setdefault(key, torch.zeros_like(master))
        if hasattr(self.optimizer, "_lazy_init_hp_params_optimizer_state"):
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def copy_state(self, into: TensorsByKind) -> None:
        """See `Engine.copy_state`. Every rank gathers every parameter, in the same order."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        for kind, targets in into.items():
            with self.ema.exchanged() if kind == "ema" and self.ema else nullcontext():
                for name in self.parameter_names:
                    if name not in targets and self.world.size == 1:
                        continue
                    parameter = self._parameters[name]
                    if kind in MOMENTS:
                        full = safe_get_full_optimizer_state(parameter, kind)
                    else:
                        full = safe_get_full_fp32_param(parameter)
                    if name in targets:
                        targets[name].copy_(full.view(self.shapes[name]))

    def load_state(self, tensor: Callable[[str, str], Tensor], extra: Mapping[str, Any]) -> None:
        """See `Engine.load_state`."""
        for kind in self.kinds:
            with self.ema.exchanged() if kind == "ema" and self.ema else nullcontext():
                for name in self.parameter_names:
                    self._set(self._parameters[name], kind, tensor(kind, name))
        self.take_up(extra)

    def places(self) -> dict[str, Tensor]:
        """None: DeepSpeed keeps the state in pieces."""
        return {}

    def take_up(self, extra: Mapping[str, Any]) -> None:
        """See `Engine.take_up`."""
        for master in self._masters():
            self.optimizer.optimizer.state[master]["step"].fill_(float(extra["optimizer_step"]))
        if extra.get("loss_scale") and self.precision.name == "fp16":
            self.optimizer.loss_scaler.cur_scale = float(extra["loss_scale"])

    def _set(self, parameter: Any, kind: str, value: Tensor) -> None:
        from deepspeed import utils

        if self.stage == 3:
            # Its setters for a whole tensor fail where the ranks do not divide its size.
            piece = torch.zeros(parameter.ds_tensor.numel())
            mine = value.reshape(-1)[self.world.rank * len(piece) :][: len(piece)]
            piece[: len(mine)] = mine
            if kind in MOMENTS:
                utils.safe_set_local_optimizer_state(parameter, piece, kind)
            else:
                utils.safe_set_local_fp32_param(parameter, piece)
        elif kind in MOMENTS:
            utils.safe_set_full_optimizer_state(parameter, value.to(self.device), kind)
        else:
            utils.safe_set_full_fp32_param(parameter, value.to(self.device))

    def extra_state(self) -> dict[str, Any]:
        """See `Engine.extra_state`."""
        state = self.optimizer.optimizer.state[self._masters()[0]]
        scale = self.optimizer.loss_scaler.cur_scale if self.precision.name == "fp16" else None
        return {"optimizer_step": int(state["step"]), "loss_scale": scale}

    @contextmanager
    def ema_weights(self) -> Iterator[bool]:
        """See `Engine.ema_weights`."""
        yield False

    def close(self) -> None:
        """Undo what DeepSpeed and accelerate keep for the whole process."""
        self.engine.destroy()
        _forget_accelerate()
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _forget_accelerate() -> None:
    """Reset accelerate's process-wide state; the process group is the `World`'s to close."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    # Not `reset_partial_state`'s way of destroying the group: that is left to who made it.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    PartialState._reset_state()


def _import_deepspeed(device: torch.device) -> None:
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    # It calls collectives by names that PyTorch is about to change, and is told so at every call.
    warnings.filterwarnings("ignore", r".*is deprecated\. Please use", FutureWarning)
    try:
        import deepspeed
        import deepspeed.ops
    except ImportError as error:
        raise Unsupported(
            f"machine.engine is deepspeed, but it cannot be imported: {error}",
            "",
            "install it (`pip install deepspeed`), or set machine.engine=torch",
        ) from error
    # Its shared-memory collectives would be compiled at the first start, which takes half a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
