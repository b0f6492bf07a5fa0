"""A learner beside which a discriminator learns: what the autoencoder and the upscaler share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from birdsd.diffusion.learning.base import Learner
from birdsd.diffusion.method_configs import AutoencoderConfig, UpscalerConfig
from birdsd.diffusion.networks.adversary import Adversary, Discriminator


class AdversarialLearner(Learner):
    """The batch holds `adversary` float [B], 0 before its start; without a discriminator nothing of it."""

    discriminator: Discriminator
    adversary: Adversary | None = None
    weights: AutoencoderConfig | UpscalerConfig

    def with_adversary(self, discriminator: Discriminator) -> None:
        """Let `discriminator` learn beside it."""
        self.discriminator = discriminator
        self.adversary = Adversary(discriminator, self.weights.adversary_weight)
        self.measures = (*self.measures, *self.adversary.names)

    def idles(self, active: Tensor, learning: bool) -> bool:
        """Whether a step before the adversary's start can do without it. On a GPU, to know so would mean to
        wait for it."""
        waits = learning and self.weights.adversary_start_samples > 0 and active.device.type == "cpu"
        return waits and not bool(active.any())

    def remark(self, means: Mapping[str, Any], position: int) -> str:
        """That the adversary was shut out of all of a validation."""
        if self.adversary is None or position <= self.weights.adversary_start_samples:
            return ""
        return self.adversary.remark(means)
