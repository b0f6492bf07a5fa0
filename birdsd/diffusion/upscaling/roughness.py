"""Detail that cannot be predicted, and is drawn: noise of a measured size inside the cells.

The closest picture is smooth, as its errors average out where nobody knows better. On recordings they are
of one size, some 4 dB, in quiet cells and in loud ones alike (docs/upscaler.md), so that one number says how
much noise makes a picture as rough as a recording. The energy of each cell stays what it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from birdsd.diffusion.upscaling.levels import Levels
from birdsd.diffusion.upscaling.measure import detail_db
from birdsd.randomness import generator

ROUGH = 0.9  # of the truth's detail, which sharpness 1 reaches: the last tenth costs the most distance
_MOST_DB = 8.0
_HALVINGS = 7  # of the interval that the noise is looked for in: 0.06 dB are left of it


class Example(NamedTuple):
    """Values [B, 1, ...] on 0..255: what a network made of `coarse`, and what it should be."""

    made: Tensor
    coarse: Tensor
    truth: Tensor


def roughened(levels: Levels, made: Tensor, coarse: Tensor, noise_db: float) -> Tensor:
    """`made` with independent noise of `noise_db` (standard deviation), before its cells' energy is put back.

    The noise is a function of `coarse` [B, 1, h, w]: the same picture always becomes the same, and two
    pictures share no pattern.
    """
    if not noise_db:
        return made
    seen = coarse.detach().round().clamp(0, 255).byte().cpu().numpy().tobytes()
    draw = generator("upscaling", "detail", hashlib.blake2b(seen, digest_size=16).hexdigest())
    drawn = torch.from_numpy(draw.standard_normal(made.shape, dtype=np.float32)).to(made.device)
    return levels.values(levels.magnitude(made) * 10 ** (drawn * (noise_db / 20)))


def noise_for(levels: Levels, examples: Sequence[Example], scale: int, share: float = ROUGH) -> float:
    """How many dB of noise give pictures `share` of the truth's detail; 0 where they have it already."""
    wanted = share * sum(float(detail_db(levels, one.truth).sum()) for one in examples)

    def detail(noise_db: float) -> float:
        found = 0.0
        for made, coarse, _ in examples:
            rough = levels.finished(roughened(levels, made, coarse, noise_db), coarse, scale)
            found += float(detail_db(levels, rough).sum())
        return found

    low, high = 0.0, _MOST_DB
    if detail(low) >= wanted:
        return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if detail(middle) < wanted else (low, middle)
    return (low + high) / 2
