"""The exponential moving average of the weights, in fp32, whoever holds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """Averages of `sources`: the fp32 master weights as this rank holds them, whole or in part.

    Because it follows the masters where they lie, the same few lines serve one flat buffer on one
    GPU and the partitions of ZeRO-1 to 3, without a collective in a step.
    """

    def __init__(self, sources: Sequence[Tensor]) -> None:
        self.sources = [source.detach() for source in sources]
        self.averages = [source.clone() for source in self.sources]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """average = decay * average + (1 - decay) * weight."""
        torch._foreach_lerp_(self.averages, self.sources, 1.0 - decay)

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Inside, the sources hold the averages and the averages hold the weights; exact both ways."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for source, average in zip(self.sources, self.averages, strict=True):
            kept = source.clone()
            source.copy_(average)
            average.copy_(kept)
