"""Errors of a reconstructed picture: of its pixels, their differences, their local statistics, and of what a
network that has seen spectrograms makes of it. All are float32 [B], one value a sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from birdsd.diffusion.export import read_codec
from birdsd.diffusion.networks.clip import clip_place
from birdsd.errors import Mismatch, NotSet, listed_names
from birdsd.schema import SPECTROGRAM
from birdsd.sound.codec.protocol import find_kind

if TYPE_CHECKING:
    from birdsd.diffusion.networks.clip import Clip

_BLOCK = 8  # pixels along each side of the blocks whose statistics are compared
_SMALLEST_SQUARE = 1e-8  # a square root has no gradient at 0: frames of silence
_VARIANCE = 1e-6  # below it the square root's gradient would be huge: blocks of one colour


def mean_error(error: Tensor) -> Tensor:
    """The mean absolute value of [B, ...]."""
    return error.abs().flatten(1).mean(1)


def spectral_error(error: Tensor) -> Tensor:
    """The root mean square over the bands, meaned over the frames: of decibels it is the log-spectral
    distance. `error` is [B, C, H, W]."""
    return (error.square().mean(dim=2) + _SMALLEST_SQUARE).sqrt().flatten(1).mean(1)


def difference_error(error: Tensor) -> Tensor:
    """The mean absolute error of the differences along frequency and time; `error` is [B, C, H, W]."""
    return mean_error(error.diff(dim=2)) + mean_error(error.diff(dim=3))


def texture_error(decoded: Tensor, image: Tensor) -> Tensor:
    """How far mean and standard deviation of 8 x 8 blocks lie apart; pictures are [B, C, H, W].

    A noise floor cannot be predicted pixel by pixel, and the mean absolute error answers it with its median:
    one dark colour. As loud and as rough as the recording's it may be all the same.
    """
    size = min(_BLOCK, *image.shape[2:])
    ours, theirs = _blocks(decoded, size), _blocks(image, size)
    return mean_error(ours[0] - theirs[0]) + mean_error(ours[1] - theirs[1])


def _blocks(image: Tensor, size: int) -> tuple[Tensor, Tensor]:
    mean = functional.avg_pool2d(image, size)
    variance = functional.avg_pool2d(image.square(), size) - mean.square()
    return mean, (variance.clamp(min=0) + _VARIANCE).sqrt()


class Features(nn.Module):
    """The image tower of a CLIP that has learnt to tell spectrograms apart, as it is: a frozen judge of what
    matters in them."""

    vision_model: Any

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        del clip.model.text_model  # half of its memory, and no texts come here
        self.vision_model = clip.model.vision_model.eval().requires_grad_(False)
        self._squeezed = clip.squeezed

    def error(self, decoded: Tensor, image: Tensor) -> Tensor:
        """The mean absolute difference of every layer's states, each normalised; pictures are [B, 3, H, W]
        in -1..1, as wide as those that it has learnt from."""
        with torch.no_grad():
            wanted = self._states(image)
        pairs = zip(self._states(decoded), wanted, strict=True)
        return torch.stack([mean_error(ours - theirs) for ours, theirs in pairs]).mean(0)

    def _states(self, image: Tensor) -> list[Tensor]:
        outputs = self.vision_model(pixel_values=self._squeezed(image), output_hidden_states=True)
        return [functional.layer_norm(s.float(), s.shape[-1:]) for s in outputs.hidden_states]


def check_features(source: str | None, codec: Mapping[str, Any]) -> str:
    """model.clip, where it names a run or a folder of method=clip whose pictures are those of `codec`."""
    if not source:
        raise NotSet(
            "method.feature_weight is set, and model.clip is not",
            "what is compared are the features of an image tower that has seen spectrograms",
            "train one with method=clip and set model.clip=RUN, or set method.feature_weight=0",
        )
    theirs = read_codec(Path(clip_place(source)))
    not_seen = find_kind(codec.get("kind", SPECTROGRAM)).DECODING_ONLY  # how pictures become sound again
    names = sorted({*theirs, *codec} - {*not_seen})
    other = [name for name in names if theirs.get(name) != codec.get(name)]
    if other:
        raise Mismatch(
            f"the codec of model.clip={source} differs from that of the shards in {listed_names(other)}: "
            f"{other[0]} is {theirs.get(other[0])}, not {codec.get(other[0])}",
            "its image tower has seen other pictures than these",
            "train one with method=clip on these shards, or set method.feature_weight=0",
        )
    return source
