"""Learning rate and EMA decay as pure functions of the number of samples seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from birdsd.errors import UserError, unknown_name

if TYPE_CHECKING:
    from birdsd.schema import OptimConfig

DECAYS = ("constant", "cosine", "linear")


def check_schedule(optim: OptimConfig) -> None:
    """Refuse values that cannot train, before anything is built."""
    if optim.decay not in DECAYS:
        raise unknown_name("optim.decay", str(optim.decay), DECAYS)
    for name in ("learning_rate", "total_samples", "global_batch"):
        if not 0 < (getattr(optim, name) or 0) < math.inf:
            raise UserError(f"optim.{name} is {getattr(optim, name)}", "it must be greater than 0")
    if not 0 < optim.epsilon < math.inf:  # type: ignore[operator]
        raise UserError(f"optim.epsilon is {optim.epsilon}", "it must be greater than 0", "e.g. 1e-8")
    for name in ("beta1", "beta2", "min_learning_rate_ratio"):
        if not 0 <= getattr(optim, name) <= 1 or (getattr(optim, name) == 1 and "beta" in name):
            raise UserError(f"optim.{name} is {getattr(optim, name)}", "it must lie between 0 and 1")
    for name in ("warmup_samples", "gradient_clip", "weight_decay"):
        if not getattr(optim, name) >= 0:
            raise UserError(
                f"optim.{name} is {getattr(optim, name)}", "it must not be negative", "0 switches it off"
            )
    if not 0 <= optim.ema_decay < 1:  # type: ignore[operator]
        raise UserError(
            f"optim.ema_decay is {optim.ema_decay}", "it must be from 0 (off) to below 1", "e.g. 0.999"
        )


def learning_rate_at(position: int, optim: OptimConfig) -> float:
    """The learning rate of the step that brings the samples seen to `position`.

    Linear warm-up over `warmup_samples`, then constant, or a cosine or straight line down to
    `min_learning_rate_ratio` at `total_samples`.
    """
    peak, total = float(optim.learning_rate or 0), int(optim.total_samples or 1)
    warmup = int(optim.warmup_samples or 0)
    if position < warmup:
        return peak * position / warmup
    if optim.decay == "constant":
        return peak
    low = float(optim.min_learning_rate_ratio or 0)
    done = min(1.0, (position - warmup) / max(1, total - warmup))
    shape = 0.5 * (1 + math.cos(math.pi * done)) if optim.decay == "cosine" else 1 - done
    return peak * (low + (1 - low) * shape)


def ema_decay_at(position: int, optim: OptimConfig) -> float:
    """The EMA decay of that step; short memory first, (1 + k) / (10 + k) after k global batches."""
    steps = position / int(optim.global_batch or 1)
    return min(float(optim.ema_decay or 0), (1 + steps) / (10 + steps))
