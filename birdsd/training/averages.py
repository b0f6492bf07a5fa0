"""An average of the weights whose length is chosen after training, from the checkpoints that were kept.

Each checkpoint holds the weights of its step and their exponential average up to it: two snapshots, each a
known mixture of the weights of all steps before. A mixture of snapshots is one of the steps too, and least
squares bring it near to any other average: here to the power function of Karras et al. 2024 (EDM2, arXiv
2312.02696), whose `length` is its relative deviation, 0.05 to 0.25 of the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from birdsd.errors import BadValue, NotFound
from birdsd.training.schedule import ema_decay_at

if TYPE_CHECKING:
    from torch import Tensor

    from birdsd.schema import OptimConfig
    from birdsd.training.checkpoints.reading import Checkpoint

WORST = 0.5  # a larger relative error of the mixture is another average than the one asked for
_LONGEST = 0.28  # beyond about 0.289 early steps would count more than late ones
_RIDGE = 1e-9  # keeps snapshots that say the same from being set against each other


@dataclass(frozen=True)
class Mixture:
    """Of each snapshot (kind, position) how much, and how far the mixture is from the average asked for: the
    relative error of the profile, 0 where it is the same."""

    shares: dict[tuple[str, int], float]
    error: float


def exponential_profile(steps: int, optim: OptimConfig) -> np.ndarray:
    """float64 [steps + 1]: how much the weights after each step (0: the first ones) count in the EMA after
    `steps` steps."""
    batch = int(optim.global_batch or 1)
    decays = np.array([ema_decay_at(step * batch, optim) for step in range(1, steps + 1)])
    kept = np.append(np.cumprod(decays[::-1])[::-1], 1.0)  # of what was there before step k + 1
    return np.append(kept[0], (1 - decays) * kept[1:]) if steps else np.ones(1)


def power_profile(steps: int, length: float) -> np.ndarray:
    """float64 [steps + 1]: the same for the average whose weights grow as a power of the step."""
    if not 0 < length <= _LONGEST:
        raise BadValue(
            f"--length {length:g}",
            f"it is the average's deviation relative to the training: above 0, at most {_LONGEST}",
            "try 0.05, 0.1 and 0.2",
        )
    inverse = length**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    power = max(root.real for root in roots if abs(root.imag) < 1e-9)
    profile = (np.arange(steps + 1) / max(1, steps)) ** power
    profile[0] = 0.0
    return np.asarray(profile / profile.sum())


def mixture_for(length: float, positions: Sequence[int], optim: OptimConfig, average: bool) -> Mixture:
    """How to mix the snapshots at these positions (in samples) into an average of `length` that ends at the
    last of them. `average`: each has an EMA beside its weights. `UserError` where they are too few for it."""
    batch = int(optim.global_batch or 1)
    steps = -(-max(positions) // batch)
    wanted = power_profile(steps, length)
    names: list[tuple[str, int]] = []
    rows: list[np.ndarray] = []
    for position in positions:
        own = -(-position // batch)
        row = np.zeros(steps + 1)
        row[own] = 1.0
        names.append(("weights", position))
        rows.append(row)
        if average:
            row = np.zeros(steps + 1)
            row[: own + 1] = exponential_profile(own, optim)
            names.append(("ema", position))
            rows.append(row)
    basis = np.stack(rows)
    # Least squares whose shares add up to 1: one more equation (Lagrange's).
    count = len(rows)
    normal = np.zeros((count + 1, count + 1))
    normal[:count, :count] = basis @ basis.T + _RIDGE * np.eye(count)
    normal[:count, count] = normal[count, :count] = 1.0
    shares = np.linalg.lstsq(normal, np.append(basis @ wanted, 1.0), rcond=None)[0][:count]
    error = float(np.linalg.norm(shares @ basis - wanted) / np.linalg.norm(wanted))
    if error > WORST:
        raise NotFound(
            f"the {len(positions)} checkpoints that are there give no average of length {length:g}",
            f"the nearest mixture is off by {error:.0%}; at most {WORST:.0%} is taken",
            "keep more of them (save.keep), closer together (save.every_samples), or ask for another length",
        )
    return Mixture(dict(zip(names, map(float, shares), strict=True)), error)


def mixed(checkpoints: Sequence[Checkpoint], mixture: Mixture) -> dict[str, Tensor]:
    """The mixture of every parameter, float32."""
    import torch

    at = {checkpoint.position: checkpoint for checkpoint in checkpoints}
    keys = checkpoints[-1].commit["tensors"]
    names = [key.split("/", 1)[1] for key in keys if key.startswith("weights/")]
    made = {}
    for name in names:
        total = torch.zeros(checkpoints[-1].tensor("weights", name).shape, dtype=torch.float64)
        for (kind, position), share in mixture.shares.items():
            total += share * at[position].tensor(kind, name).double()
        made[name] = total.float()
    return made
