"""How close an upscaled picture is to the truth, beside what bicubic interpolation makes of its cells."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from birdsd.diffusion.upscaling.levels import Levels

LOUD_DB = -70.0  # re a full-scale sine: above it a cell of a recording is mostly song


def bicubic(coarse: Tensor, scale: int) -> Tensor:
    """The interpolation that any picture program has, of the values as they are; in 0..255."""
    return functional.interpolate(
        coarse, scale_factor=float(scale), mode="bicubic", align_corners=False
    ).clamp(0, 255)


def spectral_distance_db(levels: Levels, made: Tensor, truth: Tensor) -> Tensor:
    """float32 [B]: the root mean square difference over the bands, in dB, meaned over the frames."""
    error = levels.decibels(made) - levels.decibels(truth)
    return error.square().mean(dim=2).sqrt().flatten(1).mean(1)


def loud_error_db(levels: Levels, made: Tensor, truth: Tensor) -> Tensor:
    """float32 [B]: the mean absolute difference where the truth is louder than -70 dB; 0 where nothing is."""
    known = levels.decibels(truth)
    loud = (known > LOUD_DB).float()
    error = (levels.decibels(made) - known).abs() * loud
    return error.flatten(1).sum(1) / loud.flatten(1).sum(1).clamp(min=1)


def detail_db(levels: Levels, picture: Tensor) -> Tensor:
    """float32 [B]: the mean absolute difference between neighbouring frames."""
    return levels.decibels(picture).diff(dim=3).abs().flatten(1).mean(1)


@dataclass
class Measured:
    """Means over pictures, in dB but for `detail`, a share of the truth's."""

    distance_db: float
    bicubic_db: float
    loud_db: float
    bicubic_loud_db: float
    detail: float
    bicubic_detail: float
    pictures: int

    @property
    def gain(self) -> float:
        """By which share the distance is below bicubic's."""
        return 1 - self.distance_db / self.bicubic_db if self.bicubic_db else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain values, rounded as far as they mean anything."""
        return {name: round(value, 4) for name, value in asdict(self).items()}

    def line(self, named: str) -> str:
        """For the user to read."""
        word = "below" if self.gain >= 0 else "ABOVE"
        return (
            f"{named}: log-spectral distance {self.distance_db:.2f} dB on {self.pictures} pictures, "
            f"{abs(self.gain):.1%} {word} bicubic's {self.bicubic_db:.2f}; detail {self.detail:.2f} of the "
            f"truth's (bicubic {self.bicubic_detail:.2f})"
        )


class Tally:
    """Adds pictures up, one batch after the other."""

    def __init__(self, levels: Levels, scale: int) -> None:
        self.levels, self.scale = levels, scale
        self._sums, self._count = torch.zeros(7, dtype=torch.float64), 0

    def add(self, made: Tensor, truth: Tensor, coarse: Tensor) -> None:
        """Values [B, 1, ...] on 0..255: what was made of `coarse`, and what it should be."""
        plain, levels = bicubic(coarse, self.scale), self.levels
        values = (
            spectral_distance_db(levels, made, truth),
            spectral_distance_db(levels, plain, truth),
            loud_error_db(levels, made, truth),
            loud_error_db(levels, plain, truth),
            detail_db(levels, made),
            detail_db(levels, plain),
            detail_db(levels, truth),
        )
        self._sums += torch.stack([value.double().sum().cpu() for value in values])
        self._count += len(truth)

    def result(self) -> Measured:
        """The means of all that was added."""
        count = max(1, self._count)
        made, plain, loud, plain_loud, *details = (float(value) / count for value in self._sums)
        detail, plain_detail, true_detail = details
        true_detail = true_detail or 1.0
        shares = detail / true_detail, plain_detail / true_detail
        return Measured(made, plain, loud, plain_loud, *shares, self._count)
