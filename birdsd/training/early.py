"""Early stopping: when validation has not improved for a while the run ends, and its best point is exported.

What was validated so far decides it, and nothing else: a run that was stopped and resumed reads that in its
metrics, and ends at the same step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from birdsd.training.checkpoints.reading import Checkpoint, checkpoint_at, positions
from birdsd.training.previews import load_weights
from birdsd.training.records import read_metrics

if TYPE_CHECKING:
    from birdsd.diffusion.learning.base import Learner
    from birdsd.training.devices.world import World


class EarlyStop:
    """After `patience` validations in a row without a lower loss the run is `over`; 0: never, and there is no
    `best` position."""

    def __init__(self, patience: int = 0, seen: Iterable[tuple[int, float]] = ()) -> None:
        self.patience = patience
        self.best: int | None = None
        self._lowest, self._since = math.inf, 0
        for position, loss in seen:
            self.saw(position, loss)

    @classmethod
    def restored(cls, patience: int, run_folder: Path, world: World) -> EarlyStop:
        """From the metrics, which end where the run goes on; the first rank reads them for all."""
        return cls(patience, world.from_first(validated(run_folder) if patience and world.is_first else []))

    def saw(self, position: int, loss: float) -> None:
        """A validation's loss."""
        if not self.patience:
            return
        if loss < self._lowest:
            self._lowest, self.best, self._since = loss, position, 0
        else:
            self._since += 1

    @property
    def over(self) -> bool:
        """Whether the run is to end here."""
        return bool(self.patience) and self._since >= self.patience

    def line(self, position: int) -> str:
        """What to tell the user of a run that ended."""
        return (
            f"stopped at {position} samples: {self._since} validations without a loss below "
            f"{self._lowest:.4g}, which it had at {self.best}"
        )


def validated(run_folder: Path) -> list[tuple[int, float]]:
    """(position, loss) of every validation of a run so far."""
    lines = (line for line in read_metrics(run_folder) if line.get("kind") == "validation")
    return [(int(line["position"]), float(line["loss"])) for line in lines]


def take_best(learner: Learner, run_folder: Path, newest: Checkpoint) -> str:
    """Where the learner stops early: put the weights of its best validation into it, which has those of
    `newest`. Returns a line for the user; nothing where they are those."""
    best = EarlyStop(learner.patience, validated(run_folder) if learner.patience else ()).best
    if not learner.patience or best is None or best == newest.position:
        return ""
    if best not in positions(run_folder):
        return f"the checkpoint at {best}, the best, is not there: exported is that at {newest.position}"
    checkpoint = checkpoint_at(run_folder, best)
    load_weights(learner, checkpoint, "ema" if checkpoint.has("ema") else "weights")
    return f"exported is the checkpoint at {best} samples, whose validation loss is the lowest"
