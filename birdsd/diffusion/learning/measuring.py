"""What an autoencoder loses of the spectrograms: measured before anything is taught on its latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from birdsd.diffusion.learning.common import picture_of, read
from birdsd.diffusion.networks.models import evaluating, to_range

if TYPE_CHECKING:
    from birdsd.shards.index import ShardIndex

_PICTURES = 16


def autoencoder_loss(
    vae: Any, index: ShardIndex, codec: dict[str, Any], alive: Callable[[], object]
) -> dict[str, Any]:
    """{"loss", "pictures", "split"} of up to 16 held-out spectrograms, spread evenly: the mean absolute
    error of the pixels after encoder and decoder, as a share of their range and without the noise of the
    latents: no diffusion model on this autoencoder can do better. {} where nothing could be measured.

    `alive` is called at each.
    """
    split = "validation" if index.count("validation") else "train"
    total = index.count(split)
    count = min(_PICTURES, total)
    errors = []
    for sample in read(index, split, [number * total // count for number in range(count)]):
        alive()
        if sample.weight == 0:
            continue
        image = to_range(torch.from_numpy(picture_of(sample, codec))[None].to(vae.device))
        try:
            errors.append(_error(vae, image))
        except torch.cuda.OutOfMemoryError:  # training decodes nothing: it may fit all the same
            torch.cuda.empty_cache()
            return {}
    return {"loss": float(np.mean(errors)), "pictures": len(errors), "split": split} if errors else {}


def loss_line(source: str, measured: dict[str, Any], codec: dict[str, Any]) -> str:
    """What `autoencoder_loss` found, for the user to read."""
    if not measured:
        return f"what the autoencoder {source} loses is not measured: nothing could be decoded here"
    mean, pictures, split = float(measured["loss"]), measured["pictures"], measured["split"]
    line = f"the autoencoder {source} loses {mean:.1%} of the range of {pictures} {split} spectrograms"
    if codec.get("intensity") == "decibel":
        span_db = float(codec["ceiling_db"]) - float(codec["floor_db"])
        line += f" (mean absolute error {mean * span_db:.1f} dB)"
    return line


def _error(vae: Any, image: torch.Tensor) -> float:
    """The mean absolute error of [1, 3, H, W] in -1..1, as a share of that range."""
    with torch.no_grad(), evaluating(vae), torch.autocast(vae.device.type, enabled=False):
        decoded = vae.decode(vae.encode(image).latent_dist.mode()).sample
    return float((decoded.clamp(-1, 1) - image).abs().mean()) / 2
