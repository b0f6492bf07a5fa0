"""A fine grid for the small codec of the tests, and an upscaler from the one to the other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from birdsd.diffusion.export import TrainingSet
from birdsd.diffusion.upscaling.folder import write_upscaler
from birdsd.diffusion.upscaling.networks import Shape
from birdsd.sound.codec.grids import Grids
from tests.support import tiny
from tests.support.tiny import CODEC, make_shards

# Its highest band cannot lie beyond half the rate, and so half a band lower than where it should.
FINE = dataclasses.replace(
    CODEC, name="fine", bands=2 * CODEC.bands, frames=2 * CODEC.frames, hop_ms=CODEC.hop_ms / 2, fmin_hz=30.0
)
SHAPE = Shape(features=4, blocks=1)


def noisy(shape: Shape, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of a network that has learnt nothing, and whose every layer does something."""
    torch.manual_seed(seed)
    weights = shape.build().state_dict()
    draw = torch.Generator().manual_seed(seed)
    return {
        name: one + 0.05 * torch.randn(one.shape, generator=draw) for name, one in sorted(weights.items())
    }


def upscaler_folder(folder: Path, sets: int = 2, fine=FINE, coarse=CODEC, noise_db: float = 0.0) -> Path:
    """An upscaler's export, untrained."""
    weights = [noisy(SHAPE, seed) for seed in range(sets)]
    return write_upscaler(folder, SHAPE, weights, Grids.of(fine, coarse), TrainingSet((), True), {}, noise_db)


def fine_shards(folder: Path) -> Path:
    """Shards of the fine codec: pictures whose halves are those of the small one, noise in their cells."""
    picture = tiny.picture

    def twice(species: int, number: int) -> np.ndarray:
        whole = np.kron(picture(species, number), np.ones((1, 2, 2), np.uint8))
        draw = np.random.default_rng(number)
        return np.clip(whole.astype(int) + draw.integers(0, 25, whole.shape), 1, 255).astype(np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "picture", twice)
        return make_shards(folder, FINE)
