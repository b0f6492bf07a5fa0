"""What a classifier hears: pictures of a codec as power on a coarse grid, and power as standardised levels.

Augmentation works on power: two sounds add up there, and a gain is a factor. Levels in dB, which the networks
see, come last. The grid is about 64 bands by 8 ms whatever the codec, so that a network costs and learns the
same on any.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from birdsd.errors import UserError
from birdsd.schema import SPECTROGRAM

BANDS, FRAME_S = 64, 0.0101  # as many bands at least, frames no longer
_LEAST_DEVIATION_DB = 1e-3


@dataclass(frozen=True)
class Grid:
    """Powers of a codec's pictures, `bands` x `frames` of them; each is the mean of a few pixels'."""

    codec: Any

    @cached_property
    def together(self) -> tuple[int, int]:
        """How many bands and frames of the picture are one."""
        bands, frames = int(self.codec.bands), int(self.codec.frames)
        high = max(k for k in range(1, bands + 1) if bands % k == 0 and (bands // k >= BANDS or k == 1))
        wide = max(k for k in range(1, frames + 1) if frames % k == 0 and self._fits(k))
        return high, wide

    def _fits(self, count: int) -> bool:
        return count == 1 or count * float(self.codec.frame_s) <= FRAME_S

    @property
    def bands(self) -> int:
        """Rows, the highest frequency first."""
        return int(self.codec.bands) // self.together[0]

    @property
    def frames(self) -> int:
        """Columns of one clip."""
        return int(self.codec.frames) // self.together[1]

    @cached_property
    def _table(self) -> np.ndarray | None:
        """float32 [256]: the power of each pixel value, where it is the same in every pixel."""
        if getattr(self.codec, "kind", SPECTROGRAM) != SPECTROGRAM:
            return None
        every = np.arange(256, dtype=np.float32)[None, None]
        power: np.ndarray = self.codec.dequantise(every)[0, :, 0] ** 2
        return power

    def power(self, image: np.ndarray) -> np.ndarray:
        """float32 [bands, frames] of a picture uint8 [C, H, W] with any number of frames; several channels
        of sound are their mean."""
        if self._table is not None:
            power = self._table[image]
        else:
            power = self.codec.dequantise(image).transpose(0, 2, 1)[:, ::-1] ** 2
        flat = power[0] if len(power) == 1 else power.mean(axis=0)
        high, wide = self.together
        if (high, wide) == (1, 1):
            return np.ascontiguousarray(flat, np.float32)
        count = flat.shape[1] // wide
        split = flat[:, : count * wide].reshape(self.bands, high, count, wide)
        return np.asarray(split.mean(axis=(1, 3)), np.float32)


@dataclass(frozen=True)
class Standard:
    """Levels as networks take them: dB above `floor_db`, softly, less each band's mean, by one deviation.

    The numbers are those of training clips and stay with the model. Not each clip's own: it would lose how
    loud it is.
    """

    floor_db: float
    mean_db: tuple[float, ...]  # of each band
    deviation_db: float

    @classmethod
    def of(cls, powers: Iterable[np.ndarray], floor_db: float, named: str) -> Standard:
        """Of the powers [bands, frames] of some clips; `UserError` where they are all silent or all alike."""
        count, total, squares = 0, None, 0.0
        for power in powers:
            level = 10 * np.log10(power.astype(np.float64) + 10 ** (floor_db / 10))
            total = level.sum(axis=1) if total is None else total + level.sum(axis=1)
            squares, count = squares + float((level**2).sum()), count + power.shape[1]
        if total is None:
            raise UserError(
                f"not one of the training pictures of {named} can be decoded",
                "a classifier learns from at least one",
                "look at the shards with `birdsd inspect SHARDS`",
            )
        mean = total / count
        deviation = float(np.sqrt(max(0.0, squares / count / len(mean) - float((mean**2).mean()))))
        if deviation < _LEAST_DEVIATION_DB:
            raise UserError(
                f"all training pictures of {named} are silent, or of one level of {mean.mean():.1f} dB",
                "there is nothing in them to tell species apart by",
                "look at them: birdsd inspect SHARDS; and prepare them from recordings with sound",
            )
        return cls(floor_db, tuple(round(float(one), 4) for one in mean), round(deviation, 4))

    def levels(self, power: Tensor) -> Tensor:
        """[B, bands, frames] -> [B, 1, bands, frames], float32."""
        # Not log10(power + floor): programs that make ONNX smaller take so little for nothing.
        level = self.floor_db + 10 * torch.log10(1 + power.float() * 10 ** (-self.floor_db / 10))
        mean = torch.tensor(self.mean_db, dtype=torch.float32, device=power.device)
        return ((level - mean[:, None]) / self.deviation_db)[:, None]
