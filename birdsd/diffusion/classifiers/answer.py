"""What a classifier's network says."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Answer(NamedTuple):
    """Of [B] pictures: logits [B, classes], an embedding [B, width], and where the network says when, the
    logits of each frame [B, classes, frames]."""

    logits: Tensor
    embedding: Tensor
    frames: Tensor | None
