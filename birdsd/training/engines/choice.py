"""Which engine a run trains with, and why."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from birdsd.errors import Mismatch, Unsupported, unknown_name
from birdsd.training.devices.precision import Precision
from birdsd.training.devices.world import World
from birdsd.training.engines.base import Engine
from birdsd.training.engines.torch_engine import TorchEngine, compile_in_place

if TYPE_CHECKING:
    from birdsd.diffusion.learning.base import Learner
    from birdsd.schema import MachineConfig, OptimConfig


def check_engine(machine: MachineConfig) -> None:
    """Refuse an engine, a ZeRO stage or an offload that there is not, wherever it is to run."""
    if machine.engine not in ("torch", "deepspeed"):
        raise unknown_name("machine.engine", machine.engine, ("torch", "deepspeed"))
    if machine.offload_parameters and (machine.engine != "deepspeed" or machine.zero_stage != 3):
        raise Mismatch(
            f"machine.offload_parameters=true with machine.engine={machine.engine}, "
            f"machine.zero_stage={machine.zero_stage}",
            "only ZeRO-3 can keep weights off the GPU until a layer needs them",
            "set machine.engine=deepspeed and machine.zero_stage=3",
        )
    if machine.optimizer_bits not in (8, 32):
        raise unknown_name("machine.optimizer_bits", str(machine.optimizer_bits), ("8", "32"))
    if machine.engine == "deepspeed":
        if machine.zero_stage not in (0, 1, 2, 3):
            raise unknown_name("machine.zero_stage", str(machine.zero_stage), ("0", "1", "2", "3"))
        if machine.zero_stage and machine.compile:
            raise Mismatch(
                f"machine.compile=true with DeepSpeed ZeRO-{machine.zero_stage}",
                "DeepSpeed's hooks would break the compiled graph into pieces",
                "set machine.engine=torch, or machine.compile=false",
            )
        if machine.zero_stage and machine.optimizer_bits == 8:
            raise Mismatch(
                f"machine.optimizer_bits=8 with DeepSpeed ZeRO-{machine.zero_stage}",
                "only plain torch supports 8-bit optimizer states; ZeRO shards them over the ranks instead",
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
        return "torch", "ZeRO stage 0 shards nothing over the ranks: plain torch does the same, faster"
    if find_spec("deepspeed") is None:
        raise Unsupported(
            "machine.engine=deepspeed, but DeepSpeed is not installed",
            "it is an optional dependency for ZeRO and offload",
            'pip install "birdsd[deepspeed]" (Linux or WSL2), or machine.engine=torch',
        )
    return "deepspeed", f"machine.engine=deepspeed, ZeRO stage {machine.zero_stage}"


def reads_in_place(machine: MachineConfig, device: torch.device) -> bool:
    """Whether the engine's state lies in host memory as a checkpoint holds it, so that one pass over the
    files restores it (`Engine.places`)."""
    return engine_name(machine)[0] == "torch" and device.type == "cpu" and machine.optimizer_bits == 32


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
    if machine.compile:
        compile_in_place(learner, device)
    if name == "torch":
        return TorchEngine(learner, optim, precision, device, world, machine.optimizer_bits)
    if name == "torch-offload":
        from birdsd.training.engines.offload_engine import OffloadEngine

        return OffloadEngine(learner, optim, precision, device, world, machine.optimizer_bits)
    from birdsd.training.engines.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(learner, optim, machine, precision, device, world, micro_batches)
