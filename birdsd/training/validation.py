"""The loss on held-out recordings, with the same samples and the same noise each time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from birdsd.diffusion.networks.finite import NotFinite
from birdsd.training.batches.batches import BatchMaker, FixedOrder, Reader
from birdsd.training.batches.global_batch import BatchPlan
from birdsd.training.devices.precision import release
from birdsd.training.devices.world import World
from birdsd.training.engines.base import Engine
from birdsd.training.engines.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from birdsd.diffusion.learning.base import LearningMethod, Modules

HELD_OUT = "validation"


class Validation:
    """Measures the weights as they are being learnt (previews and exports show the EMA).

    The noise is drawn by (seed, "validation", i): nothing but the weights moves the figure.
    """

    def __init__(
        self, method: LearningMethod, modules: Modules, reader: Reader, world: World, samples: int
    ) -> None:
        self.method, self.modules, self.world, self._reader = method, modules, world, reader
        self._maker = BatchMaker(
            reader,
            FixedOrder(len(reader), samples),
            lambda sample, position: method.make_example(modules, sample, position, purpose=HELD_OUT),
        )
        self._samples, self._said = samples, ""

    @torch.no_grad()
    def run(self, engine: Engine, micro_batch: int) -> dict[str, Any] | None:
        """{"loss", "samples"} and the means of the learner's `measures`, of all ranks, `micro_batch` at a
        time; None where not one could be decoded, and for a mean that is not finite.

        A loss that is not finite is `NotFinite` on every rank: diverged weights must not be saved.
        """
        names = self.modules.learner.measures
        total = torch.zeros(3 + len(names), dtype=torch.float64)
        strange: list[int] = []
        for micro in BatchPlan(self._samples, self.world.size, self.world.rank, micro_batch).micro_batches():
            examples = self._maker.make(0, micro)
            batch = {k: v.to(engine.device) for k, v in examples.tensors.items()}
            losses, *values = self._losses(engine, batch).double().cpu()
            weights = examples.weights.double()
            counted = weights > 0  # what stands in for a sample that could not be decoded does not count
            spoilt = counted & ~losses.isfinite()
            sums = [(losses * weights)[counted].sum(), weights.sum(), spoilt.sum().double()]
            sums += [(value * weights)[counted].sum() for value in values]
            total += torch.stack(sums)
            slots = [slot for slot, share in enumerate(micro.weights) if share]
            strange += [n for slot, n in zip(slots, examples.numbers, strict=True) if spoilt[slot]]
        total = self.world.total(total)
        loss, weight, count, *values = total.tolist()
        if count:
            raise self._not_finite(loss / weight, int(count), int(weight), strange)
        means = [value / weight if math.isfinite(value) else None for value in values] if weight else []
        measured = dict(zip(names, means, strict=False))
        return {"loss": loss / weight, "samples": int(weight), **measured} if weight else None

    def remark(self, result: dict[str, Any], position: int) -> str:
        """What the learner has to say of a result: when it begins to say so, and when it no longer does."""
        before, self._said = self._said, self.modules.learner.remark(result, position)
        if bool(before) == bool(self._said):
            return ""
        return self._said or f"at {position} samples this no longer holds: {before}"

    def _not_finite(self, loss: float, count: int, samples: int, mine: list[int]) -> NotFinite:
        named = f", e.g. '{self._reader.read(mine[0]).key}'" if mine else ""
        return NotFinite(
            f"the validation loss is {loss}: that of {count} of {samples} samples is not finite{named}",
            "the weights have diverged"
            if count == samples
            else "these samples are beyond what it computes with",
            "lower optim.learning_rate or set optim.gradient_clip, or machine.precision=fp32; "
            "save.validate_every_samples=0 leaves validation out",
        )

    def _losses(self, engine: Engine, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """[1 + measures, B]: losses, and what was measured beside them; where memory runs out, of each half
        by itself. Under ZeRO-3 all ranks must do the same, and it is an error there."""
        count, learner = len(next(iter(batch.values()))), self.modules.learner
        try:
            losses = engine.losses(self.method.encode_batch(self.modules, batch))
            return torch.stack([losses, *(learner.measured[name] for name in learner.measures)])
        except Exception as error:
            if not is_out_of_memory(error) or count == 1 or engine.name == "deepspeed-zero3":
                raise
        release(engine.device)
        halves = [
            {k: v[part] for k, v in batch.items()} for part in (slice(count // 2), slice(count // 2, count))
        ]
        return torch.cat([self._losses(engine, half) for half in halves], dim=1)
