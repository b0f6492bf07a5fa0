"""Numbers of a picture -> the uint8 [C, H, W] that everything here computes with, 0 black and 255 white.

Which numbers mean black and white is the format's to say: a byte runs from 0 to 255, a 16-bit number from 0
to 65535, a truth value from false to true. Other types (floats first of all) have no range of their own; for
those `pixels.json` beside the shards says it for the whole set, e.g. {"float32": [0, 1]}. Nothing is guessed
from the values of one picture: a quiet one would become a loud one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.errors import BadValue, UserError, unknown_name
from birdsd.files import fingerprint, read_json
from birdsd.sound.codec.protocol import image_shape

PIXELS_FILE = "pixels.json"
Shape = tuple[int, int, int]
Range = tuple[float, float]

_OWN: dict[str, Range] = {"uint8": (0, 255), "uint16": (0, 65535), "bool": (0, 1)}
_BYTE = np.dtype(np.uint8)
_NAMES = (*_OWN, "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
# Up to here the numbers of a whole set are suspect: truth values in bytes, 12 bits (or a byte) in 16.
_BARELY_USED = {"uint8": 1, "uint16": 4095}
_BEYOND = 0.01  # so much of the range may values lie outside: rounding, and overshoot of a resampling


class Undecodable(Exception):
    """The bytes of a part are not what its suffix says; the reader turns it into a weight of zero."""


@dataclass
class Pixels:
    """How the pictures of a set are stored. `shape`: the codec's [C, H, W], which tells channels first from
    channels last; `ranges`: what `pixels.json` says, type -> (black, white)."""

    shape: Shape | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    peaks: dict[str, float] | None = None  # of a type that has a range: the largest number met so far
    # Strides and shape of a picture that is handed on as it is stored.
    _usual: tuple[tuple[int, ...], tuple[int, ...]] = field(default=((-1,), (-1,)), init=False, repr=False)

    @classmethod
    def of(cls, folder: Path, codec: Mapping[str, Any] | None) -> Pixels:
        """What the files beside the shards say; a `pixels.json` that makes no sense is a `UserError`."""
        shape = None
        with suppress(KeyError, TypeError, ValueError):  # a foreign codec.json may say anything
            shape = image_shape(codec) if isinstance(codec, Mapping) else None
        path = folder / PIXELS_FILE
        ranges = read_json(path, "description of the pictures") if path.is_file() else {}
        if not isinstance(ranges, dict):
            raise _senseless(path, f"a {type(ranges).__name__}")
        return cls(shape, {str(name): _range(path, str(name), value) for name, value in ranges.items()})

    def fingerprint(self) -> str:
        """What `pixels.json` decides; empty where there is none."""
        return fingerprint({name: list(pair) for name, pair in self.ranges.items()}) if self.ranges else ""

    def watching(self) -> Pixels:
        """The same, with a look at the numbers: what `doubts` needs."""
        return replace(self, peaks={})

    def doubts(self) -> list[str]:
        """What many pictures say that one cannot: types whose numbers never come near their range."""
        found = []
        for name, usual in _BARELY_USED.items():
            peak = (self.peaks or {}).get(name)
            if peak is not None and 0 < peak <= usual and name not in self.ranges:
                most = int(_OWN[name][1])
                found.append(
                    f"the largest of all {name} numbers is {peak:.0f}, where {most} is white: say in "
                    f'{PIXELS_FILE} beside the shards which is meant, e.g. {{"{name}": {_likely(0, peak)}}}, '
                    f'or {{"{name}": [0, {most}]}} where they are so dark'
                )
        return found

    def picture(self, values: np.ndarray) -> np.ndarray:
        """uint8 [C, H, W] of numbers of any type, [H, W], [C, H, W] or [H, W, C] with 1 to 3 channels."""
        if values.strides == self._usual[0] and values.shape == self._usual[1] and values.dtype == _BYTE:
            return values  # as the one before: the samples of a set are alike
        arranged = values if values.shape == self.shape else self._arranged(values)
        if self.peaks is not None and arranged.size and (name := arranged.dtype.name) in _BARELY_USED:
            self.peaks[name] = max(self.peaks.get(name, 0.0), float(arranged.max()))
        if arranged.dtype != _BYTE or "uint8" in self.ranges:
            return self._scaled(arranged)
        if arranged is values and self.peaks is None and values.flags.c_contiguous:
            self._usual = values.strides, values.shape
        return np.ascontiguousarray(arranged)

    def _arranged(self, values: np.ndarray) -> np.ndarray:
        shape = values.shape
        if len(shape) == 2:
            return values[None]
        if len(shape) == 3:
            if (shape[2], *shape[:2]) == self.shape:
                return values.transpose(2, 0, 1)
            if shape[0] in (1, 2, 3):
                return values
            if shape[2] in (1, 2, 3):
                return values.transpose(2, 0, 1)
        raise Undecodable(
            f"an array of the shape {list(shape)} is not a picture: [H, W], [C, H, W] or [H, W, C] with 1 to "
            "3 channels (latents are stored as .latent.npy)"
        )

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        name = values.dtype.name
        if name not in _NAMES:
            raise Undecodable(f"numbers of the type {name} are no picture")
        if values.size == 0:
            raise Undecodable(f"it is empty, of the shape {list(values.shape)}")
        low, high = float(values.min()), float(values.max())  # NaN where one is
        if not math.isfinite(low) or not math.isfinite(high):
            count = int(values.size - np.isfinite(values).sum())
            raise Undecodable(f"{count} of its {values.size} numbers are not finite")
        limits = self.ranges.get(name) or _OWN.get(name)
        if limits is None:
            raise Undecodable(
                f"which {name} is black and which white is not said, and its numbers ({low:.4g} to "
                f"{high:.4g}) can be read in several ways: say it in {PIXELS_FILE} beside the shards, e.g. "
                f'{{"{name}": {_likely(low, high)}}}, or store pictures as uint8'
            )
        black, white = limits
        least, most = min(black, white), max(black, white)
        slack = _BEYOND * (most - least)
        if low < least - slack or high > most + slack:
            raise Undecodable(
                f"its numbers run from {low:.4g} to {high:.4g}, beyond the {black:g} to {white:g} that "
                f"{PIXELS_FILE} says for {name}"
            )
        scaled = (values.astype(np.float64) - black) * (255 / (white - black))
        return np.ascontiguousarray(np.rint(scaled).clip(0, 255).astype(np.uint8))


def _range(path: Path, name: str, value: Any) -> Range:
    if name not in _NAMES:
        raise unknown_name(f"type of number in {path}", name, _NAMES)
    numbers = isinstance(value, list) and len(value) == 2
    if not numbers or any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
        raise _senseless(path, f'"{name}": {value}')
    black, white = (float(number) for number in value)
    if not (math.isfinite(black) and math.isfinite(white)) or black == white:
        raise _senseless(path, f'"{name}": {value}')
    return black, white


def _senseless(path: Path, what: str) -> UserError:
    return BadValue(
        f"{path} holds {what}",
        "for each type of number it gives the values of black and of white: two different numbers",
        'e.g. {"float32": [0, 1]}',
    )


def _likely(low: float, high: float) -> str:
    """A range that these numbers could be of, to be looked at by who knows."""
    for black, white in ((0, 1), (-1, 1), (0, 255), (0, 4095), (0, 65535)):
        if black <= low and high <= white:
            return f"[{black}, {white}]"
    return f"[{math.floor(low)}, {math.ceil(high)}]"
