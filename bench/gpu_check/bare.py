"""What birdsd's speed is measured against: the plainest loop around diffusers' networks that does as much.

Its batches lie ready on the device: latents and text states, or pixels. Like diffusers' examples it follows
an average of the weights, clips, and reads the loss after every step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Ways:
    """How a step is carried out."""

    channels_last: bool = False
    fused: bool = True
    compiled: bool = False


class Bare:
    """A network in training; `learning` and `loss` are the method's."""

    def __init__(
        self, base: Path, device: torch.device, dtype: torch.dtype, samples: int, ways: Ways
    ) -> None:
        self.base, self.device, self.dtype, self.samples, self.ways = base, device, dtype, samples, ways
        torch.manual_seed(0)
        self.network = self.made()
        if ways.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if ways.compiled:
            self.network.compile(dynamic=False)
        self.learning = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learning, lr=1e-5, fused=ways.fused)
        self.averages = [p.detach().clone() for p in self.learning]

    def made(self) -> Any:
        """The network, with `requires_grad` set."""
        raise NotImplementedError

    def loss(self) -> Tensor:
        """Of a batch, in float32."""
        raise NotImplementedError

    def _laid(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=torch.channels_last) if self.ways.channels_last else tensor

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype) if self.dtype != torch.float32 else nullcontext()

    def steps(self) -> Iterator[float]:
        """Seconds a step."""
        while True:
            begin = time.perf_counter()
            with self._autocast():
                loss = self.loss()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.learning, 1.0, foreach=True)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.learning], 0.001)
            loss.item()
            yield time.perf_counter() - begin


class BareFull(Bare):
    """Every weight of the UNet."""

    def made(self) -> Any:
        """The UNet, and batches for it."""
        from diffusers import DDPMScheduler, UNet2DConditionModel

        unet: Any = UNet2DConditionModel.from_pretrained(str(self.base), subfolder="unet")
        size = unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (self.samples, unet.config.in_channels, height, width)
        self.latents = self._laid(torch.randn(shape, device=self.device))
        self.context = self._states(unet)
        scheduler: Any = DDPMScheduler.from_pretrained(str(self.base), subfolder="scheduler")
        abar = scheduler.alphas_cumprod.to(self.device)
        self.signal, self.sigma = abar.sqrt(), (1 - abar).sqrt()
        return self._learning(unet).to(self.device).train()

    def _states(self, unet: Any) -> Tensor:
        from transformers import CLIPTextConfig

        text = CLIPTextConfig.from_pretrained(str(self.base), subfolder="text_encoder")
        width = unet.config.cross_attention_dim
        return torch.randn(self.samples, text.max_position_embeddings, width, device=self.device)

    def _learning(self, unet: Any) -> Any:
        return unet.requires_grad_(True)

    def loss(self) -> Tensor:
        noise = self._laid(torch.randn_like(self.latents))
        times = torch.randint(0, len(self.signal), (self.samples,), device=self.device)
        signal, sigma = (values[times][:, None, None, None] for values in (self.signal, self.sigma))
        noisy = signal * self.latents + sigma * noise
        guess = self.network(noisy, times, self.context, return_dict=False)[0]
        return F.mse_loss(guess.float(), noise)


class BareLora(BareFull):
    """The attention layers by peft, as diffusers' example has it."""

    def _learning(self, unet: Any) -> Any:
        from peft import LoraConfig

        unet.requires_grad_(False).to(self.dtype)
        unet.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=["to_k", "to_q", "to_v", "to_out.0"]))
        for parameter in unet.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return unet


class BareAutoencoder(Bare):
    """Pixels in and out: absolute differences and KL."""

    size: tuple[int, int] = (512, 512)

    def made(self) -> Any:
        """The autoencoder, and pixels for it."""
        from diffusers import AutoencoderKL

        self.pixels = self._laid(torch.rand(self.samples, 3, *self.size, device=self.device) * 2 - 1)
        vae: Any = AutoencoderKL.from_pretrained(str(self.base), subfolder="vae")
        return _Whole(vae.requires_grad_(True)).to(self.device).train()

    def loss(self) -> Tensor:
        made, kl = self.network(self.pixels)
        return F.l1_loss(made.float(), self.pixels) + 1e-6 * kl.float().mean()


class _Whole(torch.nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(pixels).latent_dist
        return self.vae.decode(posterior.sample()).sample, posterior.kl()


BARE: dict[str, Callable[..., Bare]] = {"full": BareFull, "lora": BareLora, "autoencoder": BareAutoencoder}
