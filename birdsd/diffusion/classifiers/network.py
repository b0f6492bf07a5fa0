"""The networks of classifiers: a small residual CNN, and a CRNN that also says when.

Both are built for a few hundred clips and a CPU. They have no batch norm: its running statistics would be
buffers, which checkpoints do not hold, and what one sample teaches would depend on the others in its
micro-batch. A bird's pitch is half its name, and a convolution does not know where it is: so the frequency is
an input of its own, and at the end time alone is pooled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from birdsd.diffusion.classifiers.answer import Answer
from birdsd.diffusion.classifiers.backbone import Backbone
from birdsd.diffusion.classifiers.levels import BANDS
from birdsd.diffusion.parameters import CLASSIFIER_ROWS, CLASSIFIER_STATISTICS, CLASSIFIER_WIDENING
from birdsd.errors import BadValue, unknown_name

NETWORKS = ("cnn", "crnn", "timm")
_TOGETHER = 32  # clips a batch, where nothing is learnt
_LEAST_SPREAD = 1e-2  # of a feature
_SOFT = 1e-6  # the root of a variance of 0 has no slope
_RAREST = 1e-3  # share of clips that a network begins by expecting a class in
_GROUP = 8  # channels that a norm takes together
# Strides of the stem and of the four stages, (bands, frames). The CRNN keeps an eighth of the frames: at the
# grid's 8 ms one in 64 ms, about the length of a note.
STEM, _STEM_EDGE = (2, 4), (2, 3)
FRAMES_TOGETHER = 16  # of the grid's, in a frame of the CNN's trunk
_EMPHASIS = 4.0  # of loud frames: e^4 for each deviation, which is about 12 dB
LAGS = (1, 2, 4, 8)  # of the grid's frames, over which a level's change is measured
STRIDES = {"cnn": ((1, 1), (2, 2), (2, 2), (1, 1)), "crnn": ((1, 1), (2, 2), (2, 1), (1, 1))}


def _followed() -> bool:
    """Whether something is learnt, or a graph is written for ONNX: nothing may be computed over its input."""
    return torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling()


def _silu(x: Tensor) -> Tensor:
    """x * sigmoid(x) of something that nobody else holds: over it where nothing is learnt, with the same
    numbers and without new memory."""
    return functional.silu(x, inplace=not _followed())


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, of: int, to: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(of, to, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(to // _GROUP, to)
        self.conv2 = nn.Conv2d(to, to, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(to // _GROUP, to)
        self.shortcut = nn.Conv2d(of, to, 1, bias=False) if of != to else nn.Identity()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, of, H, W] -> [B, to, H / stride, W / stride]."""
        y = _silu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.stride != (1, 1):
            x = functional.avg_pool2d(x, self.stride, ceil_mode=True)
        x = self.shortcut(x)
        return _silu(y + x if _followed() else y.add_(x))


class Trunk(nn.Module):
    """Levels [B, 1, bands, frames] -> features [B, channels, bands', frames']."""

    def __init__(self, width: int, strides: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, (5, 7), STEM, _STEM_EDGE, bias=False)
        self.norm = nn.GroupNorm(width // _GROUP, width)
        sizes = [width * factor for factor in CLASSIFIER_WIDENING]
        self.stages = nn.ModuleList(
            Block(of, to, stride) for of, to, stride in zip([width, *sizes], sizes, strides, strict=False)
        )
        self.channels = sizes[-1]
        self.rows = CLASSIFIER_ROWS  # of BANDS, by the strides
        self.recomputes = False

    def gradient_checkpointing_enable(self) -> None:
        """Keep only what goes into each stage, and compute the rest again in backward."""
        self.recomputes = True

    def forward(self, levels: Tensor) -> Tensor:
        """See the class."""
        x = _silu(self.norm(self._begun(levels)))
        for stage in self.stages:
            again = self.recomputes and torch.is_grad_enabled()
            x = checkpoint(stage, x, use_reentrant=False) if again else stage(x)
        return x

    def _begun(self, levels: Tensor) -> Tensor:
        """The stem's [B, width, bands', frames'] of levels and, as a second channel, the place of each band.

        The place is the same in every clip. So in a network that is in use (its weights learn no more) what
        the stem makes of it is computed once for a batch and added: the same but for roundings, in two
        thirds of the time.
        """
        height, weight = levels.shape[2], self.stem.weight
        place = torch.linspace(-1, 1, height, device=levels.device, dtype=levels.dtype).view(1, 1, height, 1)
        if weight.requires_grad or _followed() or levels.dtype != torch.float32:
            made: Tensor = self.stem(torch.cat([levels, place.expand_as(levels)], dim=1))
            return made
        last = weight.is_contiguous(memory_format=torch.channels_last)
        order = torch.channels_last if last else torch.contiguous_format
        own, other = (part.contiguous(memory_format=order) for part in weight.split(1, dim=1))
        of_place = functional.conv2d(place.expand(-1, -1, -1, levels.shape[3]), other, None, STEM, _STEM_EDGE)
        return functional.conv2d(levels, own, None, STEM, _STEM_EDGE).add_(of_place)


class Cnn(nn.Module):
    """The trunk, then mean and maximum over time, in which loud frames count more than pauses. Beside them
    stand statistics of each band's level (`of_bands`), by which a linear layer tells many birds apart."""

    centre: Tensor
    spread: Tensor

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.trunk = Trunk(width, STRIDES["cnn"])
        self.embedding_width = 2 * self.trunk.rows * self.trunk.channels + CLASSIFIER_STATISTICS * BANDS
        self.head = nn.Linear(self.embedding_width, classes)
        self.register_buffer("centre", torch.zeros(self.embedding_width))
        self.register_buffer("spread", torch.ones(self.embedding_width))

    @torch.no_grad()
    def settle(self, levels: Tensor) -> None:
        """Make the embedding of some training clips [B, 1, bands, frames] of zero mean and unit deviation, as
        the untrained network has it, and learn from there: features that hardly vary would else come last."""
        found = torch.cat([self.features(part) for part in levels.split(_TOGETHER)])
        self.centre.copy_(found.mean(dim=0))
        self.spread.copy_(found.std(dim=0, correction=0).clamp(min=_LEAST_SPREAD))

    def forward(self, levels: Tensor, keep: Tensor | None = None) -> Answer:
        """`levels` [B, 1, bands, frames]; `keep` [B, embedding_width] is dropout's mask, scaled."""
        embedding = (self.features(levels) - self.centre) / self.spread
        return Answer(self.head(embedding if keep is None else embedding * keep), embedding, None)

    def features(self, levels: Tensor) -> Tensor:
        """[B, embedding_width], as they come."""
        x = self.trunk(levels).flatten(1, 2)
        share = loud_share(levels)
        statistics = of_bands(levels[:, 0], share)
        share = functional.avg_pool1d(share, FRAMES_TOGETHER, ceil_mode=True)
        heard = (x * share).sum(dim=2) / share.sum(dim=2)
        return torch.cat([heard, x.amax(dim=2), statistics], dim=1)


def loud_share(levels: Tensor) -> Tensor:
    """[B, 1, frames], sum 1: how much each frame counts, by its loudest band."""
    return (_EMPHASIS * levels[:, 0].amax(dim=1)).softmax(dim=1)[:, None]


def of_bands(bands: Tensor, share: Tensor) -> Tensor:
    """[B, CLASSIFIER_STATISTICS * bands] of levels [B, bands, frames]: of each band mean, maximum and
    deviation, and over each of LAGS how much its level changes, and how much it rises."""
    mean = (bands * share).sum(dim=2, keepdim=True)
    deviation = ((bands - mean).square() * share).sum(dim=2).add(_SOFT).sqrt()
    found = [mean[:, :, 0], bands.amax(dim=2), deviation]
    for lag in LAGS:
        change = bands[:, :, lag:] - bands[:, :, :-lag]
        weight = torch.maximum(share[:, :, lag:], share[:, :, :-lag])
        weight = weight / weight.sum(dim=2, keepdim=True)
        found += [(change.abs() * weight).sum(dim=2), (change * weight).sum(dim=2)]
    return torch.cat(found, dim=1)


class Recurrent(nn.Module):
    """A bidirectional GRU of one layer, [B, T, of] -> [B, T, 2 * to].

    Its weights are its own parameters and go to torch's kernel at each call: nn.GRU keeps references to
    them, which ZeRO-3 and planning without weights leave behind.
    """

    def __init__(self, of: int, to: int) -> None:
        super().__init__()
        made = nn.GRU(of, to, batch_first=True, bidirectional=True)
        self.hidden = to
        self.order = [name for name, _ in made.named_parameters()]
        for name, parameter in made.named_parameters():
            self.register_parameter(name, nn.Parameter(parameter.detach().clone()))

    def forward(self, x: Tensor) -> Tensor:
        """See the class; in float32 whatever the precision, as a recurrence adds up its roundings."""
        with torch.autocast(x.device.type, enabled=False):
            weights = [getattr(self, name).float() for name in self.order]
            x = x.float()
            start = torch.zeros(2, x.shape[0], self.hidden, device=x.device)
            heard: Tensor = torch.gru(x, start, weights, True, 1, 0.0, False, True, True)[0]
        return heard


class Crnn(nn.Module):
    """The trunk, a GRU over time, and attention that says which frames count for which class."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.trunk = Trunk(width, STRIDES["crnn"])
        self.recurrent = Recurrent(self.trunk.rows * self.trunk.channels, 2 * width)
        self.embedding_width = 4 * width
        self.head = nn.Linear(self.embedding_width, classes)
        self.attention = nn.Linear(
            self.embedding_width, classes, bias=False
        )  # softmax over time takes it out

    def forward(self, levels: Tensor, keep: Tensor | None = None) -> Answer:
        """`levels` [B, 1, bands, frames]; `keep` [B, embedding_width] is dropout's mask, scaled."""
        x = self.recurrent(self.trunk(levels).flatten(1, 2).transpose(1, 2))
        embedding = x.mean(dim=1)
        x = x if keep is None else x * keep[:, None]
        frames, share = self.head(x), self.attention(x).float().softmax(dim=1)
        return Answer((frames * share).sum(dim=1), embedding, frames.transpose(1, 2))


@torch.no_grad()
def expect_rarely(network: Any, share: float) -> None:
    """Let a CNN or CRNN begin by giving every class the score `share`, how often a class is in a clip. A
    training of a few hundred small steps cannot move a bias from 0.5 to there, and the weights would do it in
    its place (arXiv 1708.02002, section 3.3)."""
    if isinstance(network, (Cnn, Crnn)):
        share = min(max(share, _RAREST), 0.5)
        network.head.bias.fill_(math.log(share / (1 - share)))


def build_network(settings: Mapping[str, Any]) -> Any:
    """The network that `settings` describe: `network` (cnn, crnn or timm), `classes` (their number), `width`,
    `backbone`. Weights are drawn from torch's generator."""
    kind, classes, width = str(settings["network"]), int(settings["classes"]), int(settings["width"])
    if kind not in NETWORKS:
        raise unknown_name("method.network", kind, NETWORKS)
    if kind == "timm":
        return Backbone(str(settings.get("backbone") or ""), classes, bool(settings.get("bare")))
    if width < _GROUP or width % _GROUP:
        raise BadValue(
            f"method.width={width}",
            f"the channels of the first stage are a multiple of {_GROUP}",
            "set method.width=24 (or 16, 32, 48)",
        )
    return Cnn(classes, width) if kind == "cnn" else Crnn(classes, width)


def frame_count(network: str, frames: int) -> int:
    """How many frames of its own a network makes of `frames` of the grid; 0 where it does not say when."""
    if network != "crnn":
        return 0
    for _, stride in (STEM, *STRIDES["crnn"]):
        frames = -(-frames // stride)
    return frames
