"""The memory budget of training, per GPU and in host memory: by engine, ZeRO stage, offload, precision.

For each trainable parameter, plain torch holds the float32 weight, its gradient, two moments and the EMA:
20 bytes, 14 with 8-bit moments. With the optimizer in host memory all of that is there, and the GPU has the
weights in compute precision and one layer's gradient. DeepSpeed holds weights and gradients in compute
precision, and float32 master weights, moments and EMA; stages 1 to 3 partition the latter over the ranks, 2
also the gradients, 3 also the weights. The sums were checked against real engines on one rank
(docs/memory.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from birdsd.planning.trace import Step
from birdsd.schema import MachineConfig

GIB = 2**30
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# What DeepSpeed keeps in host memory for each offloaded parameter, besides masters, moments and average:
# gradients in float32, and buffers. Measured on the CPU.
_OFFLOAD_EXTRA_BYTES = 6.6
# Gradients that are reduced, and weights that are on the GPU, at once: see `deepspeed_engine`.
_BUCKET, _LIVE = 50_000_000, 100_000_000
_CHUNK = 1 << 25  # parameters whose moments are unpacked at a time
# A scale for each 256 codes of 8 bits.
_PACKED_BYTES = 2 * (1 + 4 / 256)
_SAVED_AT_ONCE_BYTES = 64 * 2**20
# A process with torch, diffusers and a CUDA context, without any tensor of ours.
HOST_PROCESS_BYTES = int(1.5 * GIB)


@dataclass(frozen=True)
class Layout:
    """How a training is carried out on `gpus` devices, `gpus_per_node` of them on a node."""

    engine: str = "torch"
    zero_stage: int = 0
    offload_optimizer: bool = False
    offload_parameters: bool = False
    precision: str = "fp32"
    checkpointing: bool = False
    micro_batch: int = 1
    gpus: int = 1
    gpus_per_node: int = 1
    optimizer_bits: int = 32
    save_in_background: bool = True

    @classmethod
    def of(cls, machine: MachineConfig, precision: str, micro_batch: int, gpus: int, per_node: int) -> Layout:
        """The layout of a machine's settings; ZeRO stage 0 is plain torch."""
        sharded = machine.engine == "deepspeed" and machine.zero_stage > 0
        offloaded = machine.offload_optimizer and (sharded or machine.engine == "torch")
        return cls(
            "deepspeed" if sharded else "torch",
            machine.zero_stage if sharded else 0,
            offloaded,
            sharded and machine.offload_parameters,
            precision,
            machine.gradient_checkpointing,
            micro_batch,
            gpus,
            per_node,
            machine.optimizer_bits,
            machine.save_in_background,
        )

    @property
    def sharded(self) -> bool:
        return self.engine == "deepspeed"

    @property
    def low_precision(self) -> bool:
        """Whether trainable weights are in compute precision on the GPU."""
        return self.sharded or self.offload_optimizer

    def described(self) -> str:
        """The layout in terms of the settings."""
        words = [self.precision, f"micro-batch {self.micro_batch}"]
        words.insert(0, f"DeepSpeed ZeRO-{self.zero_stage}" if self.sharded else "plain torch")
        words += ["optimizer in host memory"] * self.offload_optimizer
        words += ["weights in host memory"] * self.offload_parameters
        words += ["moments in 8 bits"] * (self.optimizer_bits == 8)
        words += ["activations recomputed"] * self.checkpointing
        return ", ".join([*words, *["saves without a copy"] * (not self.save_in_background)])

    def settings(self) -> dict[str, object]:
        """As fields of MachineConfig."""
        return {
            "engine": self.engine,
            "zero_stage": self.zero_stage or 2,
            "offload_optimizer": self.offload_optimizer,
            "offload_parameters": self.offload_parameters,
            "precision": self.precision,
            "gradient_checkpointing": self.checkpointing,
            "micro_batch": self.micro_batch,
            "optimizer_bits": self.optimizer_bits,
            "save_in_background": self.save_in_background,
        }


@dataclass(frozen=True)
class Budget:
    """Bytes by purpose: on the fullest GPU, and in a node's host memory."""

    layout: Layout
    gpu: dict[str, int]
    host: dict[str, int]
    step: Step

    @property
    def gpu_bytes(self) -> int:
        return sum(self.gpu.values())

    @property
    def host_bytes(self) -> int:
        return sum(self.host.values())

    def largest(self) -> str:
        """The largest item on the GPU."""
        return max(self.gpu, key=lambda name: self.gpu[name])


# What traces a step: (micro-batch, precision, recompute, weights in low precision) -> Step.
Tracer = Callable[[int, str, bool, bool], Step]


def step_of(trace: Tracer, layout: Layout) -> Step:
    """The step of any micro-batch, extrapolated linearly from traces of one and two samples."""
    single = trace(1, layout.precision, layout.checkpointing, layout.low_precision)
    if layout.micro_batch == 1:
        return single
    two = trace(2, layout.precision, layout.checkpointing, layout.low_precision)
    more = layout.micro_batch - 1
    return replace(
        single,
        micro_batch=layout.micro_batch,
        activations=single.activations + more * (two.activations - single.activations),
        flops=layout.micro_batch * single.flops,
    )


def budget(trace: Tracer, layout: Layout, *, average: bool, on_cpu: bool = False) -> Budget:
    """Bytes of a training in this layout; `average`: with an EMA. On a CPU all of it is host memory."""
    step = step_of(trace, layout)
    share = _sharded if layout.sharded else _offloaded if layout.offload_optimizer else _whole
    gpu, host = share(step, layout, average)
    gpu = {
        "weights that learn": gpu["weights"],
        "gradients": gpu["gradients"],
        "optimizer": gpu["optimizer"],
        "average (EMA)": gpu["average"],
        "frozen networks": step.frozen_bytes,
        "activations": step.activations,
        "buffers": gpu["buffers"],
    }
    ranks = min(layout.gpus, layout.gpus_per_node)
    nodes = -(-layout.gpus // layout.gpus_per_node)
    host = {
        "processes": ranks * HOST_PROCESS_BYTES,
        "offloaded states": ranks * host.get("offloaded", 0),
        # The copy of a checkpoint that is written while training continues: once over all nodes.
        "copy for saves": _saved(step.learning, layout, average) // nodes,
    }
    if on_cpu:
        host |= {name: ranks * size for name, size in gpu.items()}
        gpu = {}
    return Budget(layout, gpu, {name: size for name, size in host.items() if size}, step)


def _saved(learning: int, layout: Layout, average: bool) -> int:
    whole = (16 if average else 12) * learning
    return whole if layout.save_in_background else min(whole, _SAVED_AT_ONCE_BYTES)


def _moments(learning: int, layout: Layout) -> int:
    return 8 * learning if layout.optimizer_bits == 32 else int(_PACKED_BYTES * learning)


def tensor_bytes(planned: Budget) -> int:
    """The peak of all tensors where the device's memory is the host's too, as measured on a CPU."""
    layout, step = planned.layout, planned.step
    # The activations are freed before the optimizer step.
    apart = min(_unpacked(step.learning, layout), planned.gpu["gradients"] + planned.gpu["activations"])
    return (
        planned.gpu_bytes
        + planned.host.get("offloaded states", 0)
        - (apart if layout.offload_optimizer else 0)
    )


def _unpacked(learning: int, layout: Layout) -> int:
    """Bytes of the moments that are unpacked to float32 during the optimizer step."""
    return 0 if layout.optimizer_bits == 32 else 8 * min(learning, _CHUNK)


def _whole(step: Step, layout: Layout, average: bool) -> tuple[dict[str, int], dict[str, int]]:
    learning = step.learning
    ema = 4 * learning if average else 0
    gpu = {"weights": 4 * learning, "gradients": 4 * learning, "optimizer": _moments(learning, layout)}
    # The activations are freed before the optimizer step.
    return {**gpu, "average": ema, "buffers": max(0, _unpacked(learning, layout) - step.activations)}, {}


def _offloaded(step: Step, layout: Layout, average: bool) -> tuple[dict[str, int], dict[str, int]]:
    size, learning = BYTES[layout.precision], step.learning
    gpu = {"weights": size * learning, "gradients": size * step.largest, "optimizer": 0, "average": 0}
    host_bytes = (4 + 4 + (4 if average else 0)) * learning + _moments(learning, layout)
    return {**gpu, "buffers": 0}, {"offloaded": host_bytes + _unpacked(learning, layout)}


def _sharded(step: Step, layout: Layout, average: bool) -> tuple[dict[str, int], dict[str, int]]:
    size, stage, ranks, learning = BYTES[layout.precision], layout.zero_stage, layout.gpus, step.learning
    bucket = size * min(learning, _BUCKET)
    states = (4 + 8 + (4 if average else 0)) * learning // ranks
    gpu = {
        "weights": size * learning,
        "gradients": size * learning // (ranks if stage >= 2 else 1),
        "optimizer": 12 * learning // ranks,
        "average": 4 * learning // ranks if average else 0,
        "buffers": bucket if stage >= 2 else 0,
    }
    host = {}
    if stage == 3:
        # Its own share, and the weights of the layers in use.
        live = min(learning, _LIVE) * size
        gpu["weights"] = (0 if layout.offload_parameters else size * learning // ranks) + live
    if layout.offload_optimizer:
        gpu |= {"optimizer": 0, "average": 0, "gradients": 0}
        gpu["buffers"] = bucket
        host["offloaded"] = states + int(_OFFLOAD_EXTRA_BYTES * learning / ranks)
    if layout.offload_parameters:
        host["offloaded"] = host.get("offloaded", 0) + size * learning // ranks
    return gpu, host
