"""The two small networks of the ESRGAN family, under the names that their published weights have.

Compact is Real-ESRGAN's SRVGGNetCompact, RRDB is ESRGAN's RRDBNet: with these names chaiNNer, ComfyUI and
AUTOMATIC1111's web UI load what is trained here, and what others trained is loaded here. Pictures are float
[B, channels, H, W] in 0..1, results [B, channels, scale * H, scale * W], not clamped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from birdsd.diffusion.networks.models import seeded
from birdsd.errors import BadValue, unknown_name

COMPACT, RRDB = "compact", "rrdb"
NETWORKS = (COMPACT, RRDB)
SCALES = (2, 4)
_RESIDUAL = 0.2  # of a dense block's output, as published
_QUIET = 0.1  # of the initial weights that make a residual


@dataclass(frozen=True)
class Shape:
    """What decides a network's tensors. `growth`: channels that each convolution of a dense block adds."""

    network: str = COMPACT
    features: int = 32
    blocks: int = 8
    scale: int = 2
    channels: int = 1
    growth: int = 16

    def build(self) -> nn.Module:
        """The network, with PyTorch's initial weights."""
        if self.network == RRDB:
            return RrdbNet(self)
        return Compact(self)

    @property
    def radius(self) -> int:
        """How many input pixels away something can be and still change a pixel of the result."""
        if self.network == COMPACT:
            return self.blocks + 2
        within = 15 * self.blocks + 2
        return (within if self.scale == 4 else 2 * within) + 3


class Compact(nn.Module):
    """SRVGGNetCompact: convolutions with PReLU at the coarse size; the nearest pixel is added at the end."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.scale = shape.scale
        width, layers = shape.features, list[nn.Module]()
        for number in range(shape.blocks + 1):
            layers.append(nn.Conv2d(width if number else shape.channels, width, 3, padding=1))
            layers.append(nn.PReLU(width))
        layers.append(nn.Conv2d(width, shape.channels * shape.scale**2, 3, padding=1))
        self.body = nn.ModuleList(layers)

    def forward(self, picture: Tensor) -> Tensor:
        hidden = picture
        for layer in self.body:
            hidden = layer(hidden)
        near = functional.interpolate(picture, scale_factor=float(self.scale), mode="nearest")
        return functional.pixel_shuffle(hidden, self.scale) + near


class _Dense(nn.Module):
    """A residual dense block: five convolutions, each of which sees all before it."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for number in range(1, 6):
            of, to = features + (number - 1) * growth, features if number == 5 else growth
            setattr(self, f"conv{number}", nn.Conv2d(of, to, 3, padding=1))

    def forward(self, given: Tensor) -> Tensor:
        seen = given
        for number in range(1, 5):
            made = functional.leaky_relu(getattr(self, f"conv{number}")(seen), 0.2)
            seen = torch.cat([seen, made], dim=1)
        last: Tensor = getattr(self, "conv5")(seen)  # noqa: B009 - as its four siblings
        return given + _RESIDUAL * last


class _Rrdb(nn.Module):
    """A residual in residual dense block."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_Dense(features, growth) for _ in range(3))

    def forward(self, given: Tensor) -> Tensor:
        inner: Tensor = self.rdb3(self.rdb2(self.rdb1(given)))
        return given + _RESIDUAL * inner


class RrdbNet(nn.Module):
    """RRDBNet: it makes pictures four times as large; for a scale of 2 it folds 2 x 2 pixels into channels
    first, as Real-ESRGAN has it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.folded = 4 // shape.scale
        width = shape.features
        self.conv_first = nn.Conv2d(shape.channels * self.folded**2, width, 3, padding=1)
        self.body = nn.Sequential(*(_Rrdb(width, shape.growth) for _ in range(shape.blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up1, self.conv_up2, self.conv_hr = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.conv_last = nn.Conv2d(width, shape.channels, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        height, width = picture.shape[2:]
        # Folding needs whole groups of pixels; what is added is cut off again.
        short = (-width % self.folded, -height % self.folded)
        padded = functional.pad(picture, (0, short[0], 0, short[1]), mode="replicate")
        hidden = self.conv_first(functional.pixel_unshuffle(padded, self.folded))
        hidden = hidden + self.conv_body(self.body(hidden))
        for up in (self.conv_up1, self.conv_up2):
            hidden = functional.interpolate(hidden, scale_factor=2.0, mode="nearest")
            hidden = functional.leaky_relu(up(hidden), 0.2)
        made: Tensor = self.conv_last(functional.leaky_relu(self.conv_hr(hidden), 0.2))
        return made[..., : height * 4 // self.folded, : width * 4 // self.folded]


def built(shape: Shape, seed: int) -> nn.Module:
    """A network to begin with; its weights are a function of the seed."""
    if shape.network not in NETWORKS:
        raise unknown_name("method.architecture", shape.network, NETWORKS)
    if shape.scale not in SCALES:
        raise BadValue(
            f"method.scale={shape.scale}",
            "a picture becomes 2 or 4 times as high and wide",
            "set method.scale=2",
        )
    if min(shape.features, shape.blocks) < 1 or shape.growth < 1:
        raise BadValue(
            f"method.features={shape.features} method.depth={shape.blocks}",
            "a network has features and blocks",
            "leave them out for the usual size",
        )
    with seeded(seed, "weights", "upscaler"):
        network = shape.build()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.2)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        last: Any = network.body[-1] if isinstance(network, Compact) else network.conv_last
        with torch.no_grad():
            last.weight *= _QUIET
    return network


# -- which network a file holds ---------------------------------------------------------------------------


def recognised(tensors: Mapping[str, Any]) -> Shape | None:
    """The shape of the network whose tensors these are; None where they are of no network here."""
    return _compact(tensors) or _rrdb(tensors)


def _compact(tensors: Mapping[str, Any]) -> Shape | None:
    numbers = sorted(
        {int(match[1]) for name in tensors if (match := re.fullmatch(r"body\.(\d+)\.\w+", name))}
    )
    if len(numbers) < 3 or numbers != list(range(len(numbers))) or len(numbers) % 2 == 0:
        return None
    first, last = (tensors.get(f"body.{at}.weight") for at in (0, numbers[-1]))
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        return None
    channels = int(first.shape[1])
    scale = round((int(last.shape[0]) / channels) ** 0.5)
    shape = Shape(COMPACT, int(first.shape[0]), (len(numbers) - 3) // 2, scale, channels)
    return shape if _fits(shape, tensors) else None


def _rrdb(tensors: Mapping[str, Any]) -> Shape | None:
    first, last, inner = (
        tensors.get(name) for name in ("conv_first.weight", "conv_last.weight", "body.0.rdb1.conv1.weight")
    )
    if first is None or last is None or inner is None or {first.ndim, last.ndim, inner.ndim} != {4}:
        return None
    blocks = 1 + max(int(name.split(".")[1]) for name in tensors if re.match(r"body\.\d+\.", name))
    channels = int(last.shape[0])
    scale = {1: 4, 4: 2, 16: 1}.get(int(first.shape[1]) // max(channels, 1), 0)
    shape = Shape(RRDB, int(first.shape[0]), blocks, scale, channels, int(inner.shape[0]))
    return shape if scale and _fits(shape, tensors) else None


def _fits(shape: Shape, tensors: Mapping[str, Any]) -> bool:
    with torch.device("meta"):
        wanted = shape.build().state_dict()
    return wanted.keys() == tensors.keys() and all(
        tuple(wanted[name].shape) == tuple(tensors[name].shape) for name in wanted
    )


_OLD = {
    "model.0": "conv_first", "model.3": "conv_up1", "model.6": "conv_up2", "model.8": "conv_hr",
    "model.10": "conv_last",
}  # fmt: skip


def under_new_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """RRDB weights of the first ESRGAN files (`model.1.sub.0.RDB1.conv1.0`, or `RRDB_trunk`) under the names
    of today; anything else as it is."""
    renamed = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        if found := re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0", stem):
            stem = f"body.{found[1]}.rdb{found[2]}.conv{found[3]}"
        elif re.fullmatch(r"model\.1\.sub\.\d+", stem):
            stem = "conv_body"
        elif found := re.fullmatch(r"RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)", stem):
            stem = f"body.{found[1]}.rdb{found[2]}.conv{found[3]}"
        else:
            others = {
                "trunk_conv": "conv_body",
                "upconv1": "conv_up1",
                "upconv2": "conv_up2",
                "HRconv": "conv_hr",
            }
            stem = {**_OLD, **others}.get(stem, stem)
        renamed[f"{stem}.{kind}"] = tensor
    whole = recognised(renamed)
    return renamed if whole is not None and whole.network == RRDB else dict(tensors)
