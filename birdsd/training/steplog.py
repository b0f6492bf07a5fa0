"""The steps of a run on their way into its records: held back, so that no step waits for the device."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch

from birdsd.diffusion.networks.finite import NotFinite
from birdsd.training.devices.world import World
from birdsd.training.engines.base import StepResult
from birdsd.training.records import Ledger, Metrics


class StepLog:
    """Collects the steps of one process. All ranks collect, and write at the same steps; rank 0's records are
    the run's. `batch` is how many samples a step takes."""

    def __init__(self, metrics: Metrics, ledger: Ledger, world: World, batch: int) -> None:
        self._metrics, self._ledger, self._world, self._batch = metrics, ledger, world, batch
        self._steps: list[tuple[int, float, StepResult]] = []
        self._seen: list[np.ndarray] = []
        self.samples_per_s = 0.0  # over the steps that were written last
        self.restart_clock()

    def __bool__(self) -> bool:
        """Whether there is a step to write."""
        return bool(self._steps)

    def saw(self, numbers: np.ndarray) -> None:
        """The samples of the step that follows, int [samples], -1 - n for one that could not be decoded."""
        self._seen.append(numbers)

    def took(self, position: int, learning_rate: float, result: StepResult) -> None:
        """A step to `position`; its loss may still be on its way from the device."""
        self._steps.append((position, learning_rate, result))

    def restart_clock(self) -> None:
        """What happened since the last step (validation, a save, a preview) is no part of the speed."""
        self._since = time.perf_counter()

    def losses(self) -> list[float]:
        """The loss of each step, summed over the ranks. Here the host waits for the device."""
        losses = torch.stack([result.loss for _, _, result in self._steps]).double().cpu()
        return list(self._world.total(losses).tolist())

    def write(self, losses: list[float]) -> list[dict[str, Any]]:
        """Write the steps, and return their lines of metrics.jsonl; `NotFinite` where a loss is not,
        before anything is written."""
        now = time.perf_counter()
        self.samples_per_s = len(self._steps) * self._batch / max(1e-9, now - self._since)
        self._since = now
        lines = [self._line(*step, loss) for step, loss in zip(self._steps, losses, strict=True)]
        if self._world.is_first:
            self._ledger.append(np.concatenate(self._seen))
            self._metrics.append(lines)
        self._steps.clear()
        self._seen.clear()
        return lines

    def _line(self, position: int, rate: float, result: StepResult, loss: float) -> dict[str, Any]:
        if not math.isfinite(loss):
            raise NotFinite(
                f"the loss is {loss} at step {position // self._batch} "
                f"(positions {position - self._batch} to {position - 1})",
                "nothing of this step was saved",
                "lower optim.learning_rate or set optim.gradient_clip, or machine.precision=fp32",
            )
        line = {"kind": "train", "position": position, "loss": loss, "learning_rate": rate}
        if result.gradient_norm is not None:
            line["gradient_norm"] = float(result.gradient_norm)
        return {**line, "samples_per_s": round(self.samples_per_s, 2)}
