"""What a classifier hears: pictures of a codec as power on a coarse grid, and power as standardised levels.

Augmentation works on power: two sounds add up there, and a gain is a factor. Levels in dB, which the networks
see, come last. The grid is 64 bands by about 8 ms whatever the codec, so that a network costs and learns the
same on any.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from birdsd.diffusion.parameters import CLASSIFIER_BANDS
from birdsd.errors import NothingLeft
from birdsd.schema import SPECTROGRAM

BANDS, FRAME_S = CLASSIFIER_BANDS, 0.0101  # as many bands, frames no longer
_LEAST_DEVIATION_DB = 1e-3
_QUIET_SHARE = 0.25  # of the frames
_TINY = 1e-16  # a power far below what any codec shows


@dataclass(frozen=True)
class Grid:
    """Powers of a codec's pictures, `bands` x `frames` of them; each is the mean of a few pixels'. Of a codec
    with fewer bands some rows are alike."""

    codec: Any

    bands = BANDS  # rows, the highest frequency first

    @cached_property
    def together(self) -> int:
        """How many frames of the picture are one."""
        frames, frame_s = int(self.codec.frames), float(self.codec.frame_s)
        fitting = [k for k in range(1, frames + 1) if frames % k == 0 and k * frame_s <= FRAME_S]
        return max(fitting, default=1)

    @cached_property
    def _rows(self) -> np.ndarray:
        """float32 [BANDS, codec.bands]: how much of each row of the picture is in each of ours."""
        count = int(self.codec.bands)
        ours, theirs = np.arange(BANDS + 1) / BANDS, np.arange(count + 1) / count
        shared = np.minimum(ours[1:, None], theirs[1:]) - np.maximum(ours[:-1, None], theirs[:-1])
        weight: np.ndarray = (np.maximum(shared, 0) * BANDS).astype(np.float32)
        return weight

    @property
    def frames(self) -> int:
        """Columns of one clip."""
        return int(self.codec.frames) // self.together

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
        count = flat.shape[1] // self.together
        flat = np.asarray(flat[:, : count * self.together], np.float32)
        if self.together > 1:
            flat = flat.reshape(len(flat), count, self.together).mean(axis=2)
        return flat if len(flat) == BANDS else self._rows @ flat


def loudness(power: Tensor) -> Tensor:
    """[B, 1, 1] of [B, bands, frames]: the mean power of a band in the loud frames. Frames count by their
    energy, so that pauses say nothing; of silence a number too small to matter."""
    frames = power.mean(dim=1)
    level = frames.square().sum(dim=1) / frames.sum(dim=1).clamp(min=_TINY)
    return level.clamp(min=_TINY)[:, None, None]


def without_steady(power: Tensor, times: float) -> Tensor:
    """[B, bands, frames] less `times` the power that each band keeps through the quietest quarter of its
    frames, at least 0: spectral subtraction. What is always there is the place and the recorder. In noise
    alone 2 times that is about the median; a bird that sings most of the time is left."""
    if not times:
        return power
    quiet = max(1, round(_QUIET_SHARE * power.shape[2]))
    if type(power) is Tensor and power.device.type == "cpu":  # the same numbers six times as fast
        ranked = np.partition(power.detach().numpy(), quiet - 1, axis=2)[:, :, quiet - 1 : quiet]
        steady = torch.from_numpy(np.ascontiguousarray(ranked))
    else:  # a GPU, or a graph that is written for ONNX
        steady = power.topk(quiet, dim=2, largest=False).values.amax(dim=2, keepdim=True)
    return (power - times * steady).clamp(min=0)


@dataclass(frozen=True)
class Standard:
    """Levels as networks take them: dB above `floor_db`, softly, less each band's mean, by one deviation.

    `relative`: to the loud frames of the clip, so that neither a bird's distance nor a recorder's gain
    matters; else to full scale. `spectral_subtraction`: see `without_steady`. Means and deviation are those
    of training clips, and stay with the model.
    """

    floor_db: float
    relative: bool
    mean_db: tuple[float, ...]  # of each band
    deviation_db: float
    spectral_subtraction: float = 0.0

    @classmethod
    def of(
        cls,
        powers: Iterable[np.ndarray],
        floor_db: float,
        relative: bool,
        named: str,
        spectral_subtraction: float = 0.0,
    ) -> Standard:
        """Of the powers [bands, frames] of some clips; `UserError` where they are all silent or all alike."""
        plain = cls(floor_db, relative, (0.0,) * BANDS, 1.0, spectral_subtraction)
        count, total, squares = 0, np.zeros(BANDS), 0.0
        for power in powers:
            level = plain.levels(torch.from_numpy(np.asarray(power, np.float32))[None])[0, 0].double().numpy()
            total, squares, count = (
                total + level.sum(axis=1),
                squares + (level**2).sum(),
                count + level.shape[1],
            )
        if not count:
            raise NothingLeft(
                f"not one of the training pictures of {named} can be decoded",
                "a classifier learns from at least one",
                "look at the shards with `birdsd inspect SHARDS`",
            )
        mean = total / count
        deviation = float(np.sqrt(max(0.0, squares / count / BANDS - float((mean**2).mean()))))
        if deviation < _LEAST_DEVIATION_DB:
            raise NothingLeft(
                f"all training pictures of {named} are silent, or of one level",
                "there is nothing in them to tell species apart by",
                "look at them: birdsd inspect SHARDS; and prepare them from recordings with sound",
            )
        means = tuple(round(float(one), 4) for one in mean)
        return replace(plain, mean_db=means, deviation_db=round(deviation, 4))

    def levels(self, power: Tensor) -> Tensor:
        """[B, bands, frames] -> [B, 1, bands, frames], float32."""
        power = without_steady(power.float(), self.spectral_subtraction)
        if self.relative:
            power = power / loudness(power)
        # Not log10(power + floor): programs that make ONNX smaller take so little for nothing.
        level = self.floor_db + 10 * torch.log10(1 + power * 10 ** (-self.floor_db / 10))
        mean = torch.tensor(self.mean_db, dtype=torch.float32, device=power.device)
        return ((level - mean[:, None]) / self.deviation_db)[:, None]
