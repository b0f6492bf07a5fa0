"""Which coarse and which fine grid belong together, and how the same sound reads in both."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from birdsd.errors import Mismatch, Unsupported, UserError
from birdsd.randomness import generator
from birdsd.sound.codec.codec import SpectrogramCodec
from birdsd.sound.codec.protocol import Codec

_MEASURED_S = 2.0  # of the sounds that both grids are read with
_APART = 0.5  # fine bands that a coarse one may lie off the middle of its group


@dataclass(frozen=True)
class Grids:
    """A fine codec, and a coarse one each of whose cells is `scale` bands by `scale` frames of it."""

    fine: SpectrogramCodec
    coarse: SpectrogramCodec
    scale: int

    @classmethod
    def of(cls, fine: Codec, coarse: Codec, named: tuple[str, str] = ("", "")) -> Grids:
        """`UserError`, which names both, where one is no multiple of the other. `named`: whose they are."""
        high, low = spectrogram(fine), spectrogram(coarse)
        scale = max(1, round(low.hop / high.hop))
        fits = (
            scale > 1
            and (high.rate_hz, high.channels) == (low.rate_hz, low.channels)
            and low.hop == scale * high.hop
            and high.bands == scale * low.bands
        )
        if fits:
            middle = high.row_hz().reshape(low.bands, scale).mean(axis=1)
            spacing = float(np.abs(np.diff(high.row_hz())).max())
            fits = bool((np.abs(middle - low.row_hz()) <= _APART * spacing + 1e-6).all())
        if fits:
            return cls(high, low, scale)
        whose = [f" of {one}" if one else "" for one in named]
        raise Mismatch(
            f"codec '{high.name}'{whose[0]} ({high.description}) is not a finer grid of codec "
            f"'{low.name}'{whose[1]} ({low.description})",
            "each cell of the coarse grid must be 2 x 2 or 4 x 4 cells of the fine one, at the same rate",
            f"prepare the fine shards with {_settings(low)}",
        )

    @cached_property
    def offset_db(self) -> float:
        """By how much the coarse codec reads sound louder than the mean power of the fine one's cells.

        A coarse band adds up magnitudes under a wider triangle, and its gain is set by a sine; where its
        pictures stand for means of power, this must come off. Noise reads louder than a tone does; this is
        the middle between the two, which song is.
        """
        samples = int(_MEASURED_S * self.fine.rate_hz) // self.coarse.hop * self.coarse.hop
        noise = generator(0, "upscaling", "noise").standard_normal(samples)
        low, high = (float(self.fine.row_hz()[at]) for at in (-2, 1))
        time_s = np.arange(samples) / self.fine.rate_hz
        sweep = np.sin(2 * np.pi * (low + (high - low) * time_s / _MEASURED_S / 2) * time_s)
        found = []
        for sound in (noise, sweep):
            given = (0.1 * sound).astype(np.float32)[None]
            power = [float(np.square(codec.magnitude(given)).mean()) for codec in (self.coarse, self.fine)]
            found.append(float(10 * np.log10(power[0] / power[1])))
        return sum(found) / 2


class Scale(NamedTuple):
    """What the values 0..255 of pictures with levels mean: decibels from `floor_db` over `span` of them, or,
    where it is `soft` (log1p), logarithms of 1 + magnitude / floor up to `span`."""

    soft: bool
    floor_db: float
    span: float


def scale_of(codec: Codec) -> Scale:
    """That of a codec; `UserError` for one without absolute levels."""
    known = spectrogram(codec)
    range_db = known.ceiling_db - known.floor_db
    if known.intensity == "log1p":
        return Scale(True, known.floor_db, math.log1p(10 ** (range_db / 20)))
    return Scale(False, known.floor_db, range_db)


def spectrogram(codec: Codec) -> SpectrogramCodec:
    """The codec, where its pictures can be upscaled; `UserError` for one without absolute levels."""
    if not isinstance(codec, SpectrogramCodec) or not codec.keeps_level or codec.scale == "mel":
        raise Unsupported(
            f"the pictures of codec '{codec.name}' cannot be upscaled",
            "they must be spectrograms with levels (intensity=decibel or log1p) on a linear or log scale",
            "use codec=birdsong, for example",
        )
    return codec


def coarser(codec: Codec, scale: int) -> SpectrogramCodec:
    """The grid whose cells are `scale` x `scale` cells of the codec's."""
    fine = spectrogram(codec)
    if fine.bands % scale or fine.frames % scale:
        raise Mismatch(
            f"the images of codec '{fine.name}' are {fine.bands} x {fine.frames} (bands x frames)",
            f"with method.scale={scale} both must be multiples of {scale}",
            "set method.scale to a divisor, or prepare shards with other codec.bands and codec.frames",
        )
    rows = fine.row_hz().reshape(fine.bands // scale, scale).mean(axis=1)
    return _resized(fine, fine.bands // scale, fine.frames // scale, fine.hop_ms * scale, (rows[-1], rows[0]))


def grid_of_length(name: str, rate_hz: int, seconds: float, frames: int, fmax_hz: float) -> Codec:
    """A grid whose clips last `seconds` at `rate_hz`, up to `fmax_hz`: for cutting, or for showing, a clip of
    any length."""
    hop_ms = 1000 * seconds / frames
    return SpectrogramCodec(
        name=name, rate_hz=rate_hz, hop_ms=hop_ms, window_ms=max(16.0, 3 * hop_ms), n_fft=0, frames=frames,
        fmax_hz=fmax_hz,
    )  # fmt: skip


def finer(codec: Codec, scale: int) -> SpectrogramCodec:
    """The grid that has `scale` x `scale` cells in each cell of the codec's; `UserError` if none."""
    coarse = spectrogram(codec)
    rows = coarse.row_hz()
    edge = (1 - 1 / scale) / 2
    ends = (rows[-1] - edge * (rows[-2] - rows[-1]), rows[0] + edge * (rows[0] - rows[1]))
    if coarse.hop % scale or ends[0] <= 0 or ends[1] > coarse.rate_hz / 2:
        raise Unsupported(
            f"codec '{coarse.name}' ({coarse.description}) has no grid that is {scale} times as fine",
            "its hop must be a multiple of the scale in samples, and its finer bands must lie above 0 Hz and "
            "not beyond half the rate",
            "prepare shards with codec=birdsong-half, whose fine grid is birdsong",
        )
    return _resized(coarse, coarse.bands * scale, coarse.frames * scale, coarse.hop_ms / scale, ends)


def _resized(
    codec: SpectrogramCodec, bands: int, frames: int, hop_ms: float, ends_hz: tuple[Any, Any]
) -> SpectrogramCodec:
    low, high = (round(float(value), 4) for value in ends_hz)
    values: dict[str, Any] = {"bands": bands, "frames": frames, "hop_ms": hop_ms, "fmin_hz": low}
    if codec.window_ms < 2 * hop_ms:  # phases could not be found from windows that hardly overlap
        values |= {"window_ms": 2 * hop_ms, "n_fft": 0}
    name = f"{codec.name}-{bands}x{frames}"
    return dataclasses.replace(codec, name=name, fmax_hz=high, **values)


def _settings(coarse: SpectrogramCodec) -> str:
    try:
        fine = finer(coarse, 2)
    except UserError:
        return "codec=birdsong, and the coarse ones with codec=birdsong-half"
    names = ("rate_hz", "bands", "frames", "hop_ms", "fmin_hz", "fmax_hz", "scale", "channels")
    return " ".join(
        f"codec.{name}={getattr(fine, name):g}"
        if not isinstance(getattr(fine, name), str)
        else f"codec.{name}={getattr(fine, name)}"
        for name in names
    )
