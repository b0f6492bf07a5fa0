"""Learning rate and EMA decay as pure functions of the number of samples seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from birdsd.errors import BadValue, unknown_name
from birdsd.training.stretches import whole_batches

if TYPE_CHECKING:
    from birdsd.schema import OptimConfig

DECAYS = ("constant", "cosine", "linear")


def check_schedule(optim: OptimConfig) -> None:
    """Refuse values that cannot train, before anything is built."""
    if optim.decay not in DECAYS:
        raise unknown_name("optim.decay", str(optim.decay), DECAYS)
    for name in ("learning_rate", "total_samples", "global_batch"):
        if not 0 < (getattr(optim, name) or 0) < math.inf:
            raise BadValue(f"optim.{name} is {getattr(optim, name)}", "it must be greater than 0")
    if not 0 < optim.epsilon < math.inf:  # type: ignore[operator]
        raise BadValue(f"optim.epsilon is {optim.epsilon}", "it must be greater than 0", "e.g. 1e-8")
    for name in ("beta1", "beta2", "min_learning_rate_ratio"):
        if not 0 <= getattr(optim, name) <= 1 or (getattr(optim, name) == 1 and "beta" in name):
            raise BadValue(f"optim.{name} is {getattr(optim, name)}", "it must lie between 0 and 1")
    for name in ("warmup_samples", "gradient_clip", "weight_decay"):
        if not getattr(optim, name) >= 0:
            raise BadValue(
                f"optim.{name} is {getattr(optim, name)}", "it must not be negative", "0 switches it off"
            )
    if not 0 <= optim.ema_decay < 1:  # type: ignore[operator]
        raise BadValue(
            f"optim.ema_decay is {optim.ema_decay}", "it must be from 0 (off) to below 1", "e.g. 0.999"
        )


def learning_rate_at(position: int, optim: OptimConfig, ends: Sequence[int] = ()) -> float:
    """The learning rate of the step that brings the samples seen to `position`.

    Linear warm-up over `warmup_samples`, then constant, or a cosine or straight line down to
    `min_learning_rate_ratio` at `total_samples`.

    `ends`: the earlier values of `total_samples` of a run that was made longer. What lies before them keeps
    its rates. Beyond, a constant rate goes on as it is; a cosine or line has come down by then, and runs
    once more over the stretch that was added: from where it was up to the peak, over `warmup_samples` or
    half the stretch, then down.
    """
    begin, start, total = 0, 0.0, int(optim.total_samples or 1)
    for end in ends if optim.decay != "constant" else ():
        after = whole_batches(end, int(optim.global_batch or 1))
        if position <= after:
            total = end
            break
        start = _rate_in(after - begin, end - begin, start, begin > 0, optim)
        begin = after
    return _rate_in(position - begin, total - begin, start, begin > 0, optim)


def _rate_in(position: int, total: int, start: float, is_added: bool, optim: OptimConfig) -> float:
    """The rate in a stretch of `total` samples that begins at the rate `start`."""
    peak, warmup = float(optim.learning_rate or 0), int(optim.warmup_samples or 0)
    if is_added:
        warmup = min(warmup, total // 2)
    if position < warmup:
        return start + (peak - start) * position / warmup
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
