"""Where the networks of a pipeline are while it makes clips: all on the device, or each while it works.

With Stable Diffusion 1.5 in 16 bit the UNet is 1.6 GiB, text encoder and autoencoder 0.8 GiB in 32 bit.
Waiting in host memory, the two leave that room on the device; layer by layer, the UNet needs next to nothing
there, and takes the time of sending it at every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from birdsd.errors import unknown_name

if TYPE_CHECKING:
    from birdsd.schema import MachineConfig

OFFLOADS = ("none", "model", "sequential")
ATTENTIONS = ("auto", "sliced")
_NETWORKS = ("text_encoder", "unet", "vae")


@dataclass(frozen=True)
class Placement:
    """`offload`: "none", "model" (a network is on the device while it works) or "sequential" (of the UNet a
    layer is); `vae_tiling`: large pictures are decoded in overlapping tiles, whose seams may be seen;
    `attention`: "sliced" computes it head by head, for GPUs that have no fused kernel."""

    offload: str = "none"
    vae_tiling: bool = False
    attention: str = "auto"

    def __post_init__(self) -> None:
        if self.offload not in OFFLOADS:
            raise unknown_name("machine.offload_generation", self.offload, OFFLOADS)
        if self.attention not in ATTENTIONS:
            raise unknown_name("machine.attention", self.attention, ATTENTIONS)

    @classmethod
    def of(cls, machine: MachineConfig) -> Placement:
        """What a machine's settings say."""
        return cls(machine.offload_generation, machine.vae_tiling, machine.attention)

    def settle(self, pipeline: Any, device: Any, dtype: Any) -> None:
        """Put the networks of a pipeline in their places; its UNet computes in `dtype`."""
        pipeline.unet.to(dtype)
        if self.attention == "sliced":
            pipeline.enable_attention_slicing("max")
        if self.vae_tiling:
            pipeline.vae.enable_tiling()
        if self.offload == "none":
            pipeline.to(device)
        if self.offload == "sequential":
            from accelerate import cpu_offload

            cpu_offload(pipeline.unet, execution_device=device)

    @contextmanager
    def working(self, pipeline: Any, device: Any, *names: str) -> Iterator[None]:
        """Inside, these networks are on the device, and the others are not in their way."""
        moved = [getattr(pipeline, name) for name in names if self._moves(name)]
        for network in moved:
            network.to(device)
        try:
            yield
        finally:
            for network in moved:
                network.to("cpu")
            if moved and str(device).startswith("cuda"):
                import torch

                torch.cuda.empty_cache()

    def _moves(self, name: str) -> bool:
        assert name in _NETWORKS
        return self.offload == "model" or (self.offload == "sequential" and name != "unet")
