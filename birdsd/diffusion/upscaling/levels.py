"""What the values of a level picture mean, as differentiable functions: magnitudes, cells, and their energy.

Values are float [B, channels, bands, frames] on a codec's 0..255. A coarse cell is `scale` x `scale` fine
ones, and as loud as their mean power.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from birdsd.sound.codec.grids import scale_of
from birdsd.sound.codec.protocol import Codec

_BEYOND = 128.0  # a value is taken as it is up to so far outside 0..255; no magnitude overflows there
_TINY = 1e-24  # power: far below the floor of any codec, and a gradient still
_ROUNDS = 4  # of making a cell's energy right where some of its values meet 0 or 255


@dataclass(frozen=True)
class Levels:
    """The values of a codec whose pictures keep absolute levels (intensity decibel or log1p)."""

    soft: bool  # log1p
    floor_db: float
    span: float  # dB from 0 to 255, or of log1p the logarithm at 255

    @classmethod
    def of(cls, codec: Codec) -> Levels:
        """Those of a codec's pictures."""
        return cls(*scale_of(codec))

    def magnitude(self, values: Tensor) -> Tensor:
        """Of a full-scale sine 1."""
        low = 0.0 if self.soft else -_BEYOND
        values = values.clamp(low, 255 + _BEYOND)
        if self.soft:
            return torch.expm1(values * (self.span / 255)) * 10 ** (self.floor_db / 20)
        return torch.exp((values * (self.span / 255) + self.floor_db) * (math.log(10) / 20))

    def values(self, magnitude: Tensor) -> Tensor:
        """The inverse; not rounded, and below 0 where a decibel scale goes on."""
        if self.soft:
            return torch.log1p(magnitude * 10 ** (-self.floor_db / 20)) * (255 / self.span)
        db = 20 / math.log(10) * torch.log(magnitude.clamp(min=_TINY**0.5))
        return (db - self.floor_db) * (255 / self.span)

    def decibels(self, values: Tensor) -> Tensor:
        """dB re a full-scale sine; what is quieter than a codec's first step counts as that."""
        quietest = self.magnitude(torch.ones((), device=values.device))
        return 20 * torch.log10(self.magnitude(values).clamp(min=float(quietest)))

    def moved(self, values: Tensor, decibels: Tensor) -> Tensor:
        """As loud by so many dB more, in 0..255; silence stays silent."""
        moved = self.values(self.magnitude(values) * 10 ** (decibels / 20)).clamp(0, 255)
        return torch.where(values < 0.5, 0.0, moved)

    def cells(self, values: Tensor, scale: int) -> Tensor:
        """The coarse picture: the mean power of each cell, [B, channels, bands / scale, frames / scale]."""
        power = functional.avg_pool2d(self.magnitude(values).square(), scale)
        return self.values((power + _TINY).sqrt())

    def with_energy(self, values: Tensor, coarse: Tensor, scale: int) -> Tensor:
        """Fine values whose cells are as loud as `coarse` says; differences inside a cell stay, in dB."""
        return self._moved_to(coarse, values, self.magnitude(values), scale)

    def finished(self, values: Tensor, coarse: Tensor, scale: int) -> Tensor:
        """The same in 0..255 and rounded, for a picture; nothing is heard in a cell that was silent."""
        for _ in range(_ROUNDS):
            heard = self.magnitude(values) * (values >= 0.5)  # as a codec decodes it
            values = self._moved_to(coarse, values, heard, scale).clamp(0, 255)
        silent = functional.interpolate((coarse < 0.5).to(values.dtype), scale_factor=float(scale)) > 0
        return torch.where(silent, 0.0, values).round()

    def _moved_to(self, coarse: Tensor, values: Tensor, counted: Tensor, scale: int) -> Tensor:
        """`values` so much louder that the power of `counted`, their magnitudes, is that of `coarse`."""
        present = (functional.avg_pool2d(counted.square(), scale) + _TINY).sqrt()
        gain = functional.interpolate(self.magnitude(coarse) / present, scale_factor=float(scale))
        return self.values(self.magnitude(values) * gain)
