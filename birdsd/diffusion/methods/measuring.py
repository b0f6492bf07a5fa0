"""What an autoencoder loses of the spectrograms: measured before anything is taught on its latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from birdsd.diffusion.methods.common import evaluating, picture_of, read, to_range

if TYPE_CHECKING:
    from birdsd.shards.index import ShardIndex

_PICTURES = 16


def autoencoder_loss(
    vae: Any,
    source: str,
    index: ShardIndex,
    codec: dict[str, Any],
    share: Callable[[Sequence[int]], list[int]],
    alive: Callable[[], None],
) -> list[str]:
    """A line that says it, from up to 16 held-out spectrograms spread evenly; the first rank's alone, since
    every rank would say the same.

    The error is the mean absolute one of the pixels after encoder and decoder, without the noise of the
    latents: what no diffusion model on this autoencoder can do better than. `alive` is called at each.
    """
    if not share([0]):
        return []
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
            return [f"what the autoencoder {source} loses is not measured: no GPU memory is left to decode"]
    return [_line(source, errors, split, codec)] if errors else []


def _error(vae: Any, image: torch.Tensor) -> float:
    """The mean absolute error of [1, 3, H, W] in -1..1, as a share of that range."""
    with torch.no_grad(), evaluating(vae), torch.autocast(vae.device.type, enabled=False):
        decoded = vae.decode(vae.encode(image).latent_dist.mode()).sample
    return float((decoded.clamp(-1, 1) - image).abs().mean()) / 2


def _line(source: str, errors: Sequence[float], split: str, codec: dict[str, Any]) -> str:
    mean = float(np.mean(errors))
    line = f"the autoencoder {source} loses {mean:.1%} of the range of {len(errors)} {split} spectrograms"
    if codec.get("intensity") == "decibel":
        span_db = float(codec["ceiling_db"]) - float(codec["floor_db"])
        line += f" (mean absolute error {mean * span_db:.1f} dB)"
    return line
