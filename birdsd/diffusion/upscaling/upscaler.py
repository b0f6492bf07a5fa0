"""An upscaler at work: pictures of any length, tile by tile, in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from birdsd.diffusion.upscaling.folder import Stored, read_upscaler
from birdsd.diffusion.upscaling.levels import Levels
from birdsd.diffusion.upscaling.roughness import roughened
from birdsd.errors import Mismatch
from birdsd.files import fingerprint
from birdsd.sound.codec.grids import Grids
from birdsd.sound.codec.protocol import Codec

if TYPE_CHECKING:
    from torch import Tensor

TILE = 128  # coarse cells along each side of what is made at a time
_MOST_AROUND = (
    64  # cells of context around a tile: what published networks of hundreds of layers look at most
)


class Upscaler:
    """Makes the fine pictures of one codec of coarse ones.

    `network`: float [B, 1, h, w] in 0..1 -> [B, 1, scale * h, scale * w]; `radius`: how many cells around a
    tile it has to see. `named` and `identity` say which one it is. `noise_db`: of the detail that is drawn.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        grids: Grids,
        radius: int,
        *,
        named: str,
        identity: str,
        sharpness: float = 0.0,
        noise_db: float = 0.0,
        device: Any = "cpu",
    ) -> None:
        self.network, self.grids, self.device = network, grids, device
        self.around = min(-(-radius // 4) * 4, _MOST_AROUND)  # RRDB folds up to 4 x 4 cells
        self.named, self.sharpness, self.noise_db = named, sharpness, noise_db
        self.identity = fingerprint([identity, sharpness, *([noise_db] if noise_db else [])])
        self.levels = Levels.of(grids.fine)

    @classmethod
    def of(cls, stored: Stored, named: str, sharpness: float, device: Any) -> Upscaler:
        """The upscaler of a folder, on a device."""
        network = stored.shape.build()
        network.load_state_dict(stored.weights(sharpness))
        network.eval().requires_grad_(False).to(device)
        return cls(
            network,
            stored.grids,
            stored.shape.radius,
            named=named,
            identity=stored.identity,
            sharpness=sharpness,
            noise_db=stored.noise(sharpness),
            device=device,
        )

    @classmethod
    def open(cls, folder: Path, codec: Codec, sharpness: float = 0.0, device: Any = "cpu") -> Upscaler:
        """That of a run, or of its export, for pictures of `codec`; `UserError` where it is not for these."""
        stored = read_upscaler(folder)
        grids = Grids.of(stored.grids.fine, codec, (f"upscale={folder}", "the model"))
        if grids.scale != stored.shape.scale:
            raise Mismatch(
                f"upscale={folder} makes pictures {stored.shape.scale} times as fine",
                f"its codec '{grids.fine.name}' is {grids.scale} times as fine as the model's '{codec.name}'",
                f"train one with method.scale={grids.scale}",
            )
        return cls.of(replace(stored, grids=grids), str(folder), sharpness, device)

    @property
    def codec(self) -> Codec:
        """Of the pictures that it makes."""
        return self.grids.fine

    def picture(self, picture: np.ndarray, *, loop: bool = False) -> np.ndarray:
        """uint8 [scale * bands, scale * frames, 3] of a coarse picture [bands, frames, 3] on 0..255, whatever
        its length; with `loop` its end goes on with its beginning."""
        return self.codec.to_rgb(self.image(self.grids.coarse.from_rgb(picture), loop=loop))

    def image(self, image: np.ndarray, *, loop: bool = False) -> np.ndarray:
        """uint8 [channels, scale * bands, scale * frames] of a coarse image [channels, bands, frames]."""
        if image.ndim != 3 or image.shape[1] != self.grids.coarse.bands or not image.shape[2]:
            raise Mismatch(
                f"a picture of {' x '.join(str(side) for side in image.shape)} (channels x bands x frames)",
                f"upscale={self.named} takes those of codec '{self.grids.coarse.name}': "
                f"{self.grids.coarse.bands} bands high, and at least a frame wide",
                "give it pictures of that codec",
            )
        return self.tiled(torch.from_numpy(np.ascontiguousarray(image))[:, None], loop, self.values)

    def values(self, given: Tensor) -> Tensor:
        """Values of the coarse codec, as means of power on the scale of the fine one."""
        theirs, gain = Levels.of(self.grids.coarse), 10 ** (-self.grids.offset_db / 20)
        given = given.float().clamp(0, 255)
        values = self.levels.values(theirs.magnitude(given) * gain).clamp(0, 255)
        return torch.where(given < 0.5, 0.0, values)

    def tiled(
        self, given: Tensor, loop: bool = False, read: Callable[[Tensor], Tensor] = torch.Tensor.float
    ) -> np.ndarray:
        """uint8 [channels, scale * bands, scale * frames] of coarse pictures [channels, 1, bands, frames].
        `read` makes values of a tile of them, means of power on the fine codec's 0..255."""
        scale, (count, _, bands, frames) = self.grids.scale, given.shape
        out = np.empty((count, bands * scale, frames * scale), np.uint8)
        around, left = self.around, 0
        if loop:
            left, columns = around, np.arange(-around, frames + around) % frames
            given = given[..., torch.from_numpy(columns)]
        for top in range(0, bands, TILE):
            for first in range(0, frames, TILE):
                rows = _Stretch.of(top, min(TILE, bands - top), bands, around, 0)
                cells = _Stretch.of(first, min(TILE, frames - first), given.shape[-1], around, left)
                tile = read(given[..., rows.low : rows.high, cells.low : cells.high].to(self.device))
                with torch.no_grad():
                    made = self.network(tile / 255)[..., rows.times(scale), cells.times(scale)].float() * 255
                    cells_of = tile[..., rows.inner, cells.inner]
                    made = roughened(self.levels, made, cells_of, self.noise_db)
                    made = self.levels.finished(made, cells_of, scale)
                high, wide = made.shape[-2:]
                at = (slice(top * scale, top * scale + high), slice(first * scale, first * scale + wide))
                out[:, at[0], at[1]] = made[:, 0].byte().cpu().numpy()
        return out


class _Stretch:
    """A tile along one side: what is read, and which part of that is kept."""

    def __init__(self, low: int, high: int, inner: slice) -> None:
        self.low, self.high, self.inner = low, high, inner

    @classmethod
    def of(cls, first: int, count: int, size: int, around: int, shift: int) -> _Stretch:
        """`count` cells from `first` on, of `size`, with `around` more where there are any; the side begins
        `shift` cells late."""
        begin = first + shift
        low, high = max(0, begin - around), min(size, begin + count + around)
        return cls(low, high, slice(begin - low, begin - low + count))

    def times(self, scale: int) -> slice:
        """What is kept, in fine cells."""
        return slice(self.inner.start * scale, self.inner.stop * scale)


def of_three(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A network for colours, asked with the level three times over: the mean of its answers."""

    def call(picture: Tensor) -> Tensor:
        return network(picture.expand(-1, 3, -1, -1)).mean(1, keepdim=True)

    return call
