"""What generation takes, traced on networks without weights as `trace` does for training."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from birdsd.diffusion.networks import models
from birdsd.planning.live_tensors import LiveTensors
from birdsd.planning.trace import counting, fake_tensors, hollow_networks, tensors_of
from birdsd.training.devices.precision import DTYPES

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig


@dataclass(frozen=True)
class Generation:
    """What generation takes, in bytes: each network, and the activations of UNet and decoder."""

    unet_bytes: int
    vae_bytes: int
    text_bytes: int
    unet_activations: int
    decoder_activations: int
    flops_per_step: int


def trace_generation(config: TrainConfig, codec: dict[str, Any], clips: int, precision: str) -> Generation:
    """Trace one guided sampling step of `clips` at once, and the decoding of one of them."""
    dtype = DTYPES[precision]
    with fake_tensors(), torch.no_grad():
        networks = hollow_networks(config, codec)
        unet, vae, text = networks.unet.to(dtype).eval(), networks.vae.eval(), networks.text_encoder
        height, width = models.latent_size(vae.config, int(codec["bands"]), int(codec["frames"]))
        live = LiveTensors()
        sizes: list[int] = []
        for network in (unet, vae, text):
            for tensor in tensors_of(network):
                live.hold(tensor)
            sizes.append(live.bytes - sum(sizes))
        weights = live.bytes
        with live:
            shape = (2 * clips, int(vae.config.latent_channels), height, width)
            context = torch.zeros(
                2 * clips, int(text.config.max_position_embeddings), int(text.config.hidden_size), dtype=dtype
            )
            unet(torch.zeros(shape, dtype=dtype), torch.zeros((), dtype=torch.int64), context)
        busy = live.peak_bytes - weights
        with counting() as counter:
            unet(torch.zeros(shape, dtype=dtype), torch.zeros((), dtype=torch.int64), context)
        del context
        gc.collect()
        live.restart_peak()
        before = live.bytes
        with live:
            vae.decode(torch.zeros((1, *shape[1:])))
        unet_bytes, vae_bytes, text_bytes = sizes
        decoder = live.peak_bytes - before
        return Generation(unet_bytes, vae_bytes, text_bytes, busy, decoder, counter.get_total_flops())


def trace_personalisation(config: TrainConfig, codec: dict[str, Any]) -> int:
    """Bytes that aesthetic gradients take for a prompt beside the text encoder: the copy of its weights with
    gradients and moments, and the activations."""
    from birdsd.diffusion.generation.aesthetics import AestheticSettings, Personalisation

    with fake_tensors():
        hollow = hollow_networks(config, codec)
        text, limit = hollow.text_encoder, int(hollow.tokenizer.model_max_length)
        width = int(text.config.hidden_size)
        live = LiveTensors()
        for tensor in tensors_of(text):
            live.hold(tensor)
        before = live.bytes
        with live, torch.enable_grad():
            projection, embedding = torch.zeros(width, width), torch.ones(1, width)
            tuning = Personalisation(text, hollow.tokenizer, projection, embedding, AestheticSettings())
            weights = tuning.copied(torch.zeros(limit, dtype=torch.int64))
            learning = [value for value in weights.values() if value.requires_grad]
            moments = [torch.zeros_like(value) for value in (*learning, *learning)]  # Adam's
            for _ in range(2):
                states = tuning.states(weights, torch.zeros(1, limit, dtype=torch.int64))
                (states[:, -1] @ projection.T).sum().backward()
        del moments
        return live.peak_bytes - before
