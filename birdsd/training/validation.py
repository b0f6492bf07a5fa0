"""The loss on held-out recordings, with the same samples and the same noise each time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from birdsd.training.batches import BatchMaker, FixedOrder, Reader
from birdsd.training.engine import Engine
from birdsd.training.plan import BatchPlan
from birdsd.training.precision import release
from birdsd.training.shortage import is_out_of_memory
from birdsd.training.world import World

if TYPE_CHECKING:
    from birdsd.diffusion.parts import Method, Parts

HELD_OUT = "validation"


class Validation:
    """Measures the weights as they are being learnt (previews and exports show the EMA).

    The noise is drawn by (seed, "validation", i): nothing but the weights moves the figure.
    """

    def __init__(self, method: Method, parts: Parts, reader: Reader, world: World, samples: int) -> None:
        self.method, self.parts, self.world = method, parts, world
        self._maker = BatchMaker(
            reader,
            FixedOrder(len(reader), samples),
            lambda sample, position: method.example(parts, sample, position, purpose=HELD_OUT),
        )
        self._samples = samples

    @torch.no_grad()
    def run(self, engine: Engine, micro_batch: int) -> dict[str, Any] | None:
        """{"loss", "samples"} of all ranks, `micro_batch` at a time; None where not one could be decoded."""
        total = torch.zeros(2, dtype=torch.float64)
        for micro in BatchPlan(self._samples, self.world.size, self.world.rank, micro_batch).micro_batches():
            examples = self._maker.make(0, micro)
            batch = {k: v.to(engine.device) for k, v in examples.tensors.items()}
            losses = self._losses(engine, batch).double().cpu()
            weights = examples.weights.double()
            total += torch.stack([(losses * weights).sum(), weights.sum()])
        total = self.world.total(total)
        weight = float(total[1])
        return {"loss": float(total[0]) / weight, "samples": int(weight)} if weight else None

    def _losses(self, engine: Engine, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """One loss per sample; where memory runs out, of each half by itself. Under ZeRO-3 all ranks must do
        the same, and it is an error there."""
        count = len(next(iter(batch.values())))
        try:
            return engine.losses(self.method.prepare(self.parts, batch))
        except Exception as error:
            if not is_out_of_memory(error) or count == 1 or engine.name == "deepspeed-zero3":
                raise
        release(engine.device)
        halves = [
            {k: v[part] for k, v in batch.items()} for part in (slice(count // 2), slice(count // 2, count))
        ]
        return torch.cat([self._losses(engine, half) for half in halves])
