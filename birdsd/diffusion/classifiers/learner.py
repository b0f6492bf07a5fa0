"""The classifier that learns, and its losses: one number a clip, whatever else is in the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from birdsd.diffusion.learning.base import Learner
from birdsd.diffusion.method_configs import ClassifierConfig
from birdsd.errors import unknown_name

LOSSES = ("bce", "cross_entropy", "focal")


class ClassifierLearner(Learner):
    """A network and its loss.

    The batch: `levels` float32 [B, 1, bands, frames], `target` [B, classes]; `keep` [B, width] where there is
    dropout; `frames` [B, classes, steps] and `frames_known` [B] where the network says when.
    """

    measures = ("named_right",)
    class_weight: Tensor

    def __init__(self, network: Any, settings: ClassifierConfig, class_weight: Tensor) -> None:
        """`class_weight` [classes] multiplies what each class adds to the loss."""
        super().__init__()
        if settings.loss not in LOSSES:
            raise unknown_name("method.loss", settings.loss, LOSSES)
        self.network, self.settings, self.patience = network, settings, settings.patience
        self.register_buffer("class_weight", class_weight, persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """float32 [B], in nats; of several classes the sum over them."""
        answer = self.network(batch["levels"], batch.get("keep"))
        logits, target = answer.logits.float(), batch["target"]
        loss = self.of_logits(logits, target)
        if answer.frames is not None and "frames" in batch:
            heard = answer.frames.float().transpose(1, 2)
            wanted = batch["frames"].transpose(1, 2)
            each = functional.binary_cross_entropy_with_logits(heard, wanted, reduction="none")
            of_frames = (each * self.class_weight).sum(dim=2).mean(dim=1)
            loss = loss + self.settings.frame_weight * of_frames * batch["frames_known"]
        if not torch.is_grad_enabled():
            self.measured = {"named_right": named_right(logits, target)}
        return loss

    def of_logits(self, logits: Tensor, target: Tensor) -> Tensor:
        """[B] from [B, classes] each."""
        told = self.settings
        if told.loss == "cross_entropy":
            share = target / target.sum(dim=1, keepdim=True).clamp(min=1)
            share = share * (1 - told.smoothing) + told.smoothing / target.shape[1]
            return -(self.class_weight * share * logits.log_softmax(dim=1)).sum(dim=1)
        smooth = target * (1 - told.smoothing) + told.smoothing / 2
        each = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
        if told.loss == "focal":  # arXiv 1708.02002
            present = logits.sigmoid()
            missed = target * (1 - present) + (1 - target) * present
            weight = target * told.focal_alpha + (1 - target) * (1 - told.focal_alpha)
            each = weight * missed**told.focal_gamma * each
        return (self.class_weight * each).sum(dim=1)


def named_right(logits: Tensor, target: Tensor) -> Tensor:
    """float32 [B]: 1 where the highest logit is of a class that is there; without any, where none is above
    0."""
    top = logits.argmax(dim=1, keepdim=True)
    there = target.gather(1, top)[:, 0] > 0
    silent = (target.sum(dim=1) == 0) & (logits.amax(dim=1) < 0)
    return (there | silent).float()


def class_weights(counts: Any, strength: float) -> Tensor:
    """float32 [classes], with the mean 1: count ** -strength."""
    weight = torch.as_tensor(counts, dtype=torch.float64).clamp(min=1) ** -strength
    return (weight / weight.mean()).float()
