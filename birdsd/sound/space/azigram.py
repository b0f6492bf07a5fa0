"""The azigram: a spectrogram whose hue is the azimuth (Thode 2019); what is diffuse is grey."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from birdsd.files import atomic_write
from birdsd.sound.space.intensity import Field

HEIGHT, WIDEST = 256, 3000
_RANGE_DB = 60.0
_LEGEND = 40


class Azigram:
    """Gathers fields of a recording, block by block, into at most `WIDEST` columns."""

    def __init__(self, frames: int, bins: int) -> None:
        self.frames, self.columns = max(1, frames), min(WIDEST, max(1, frames))
        self.rows = np.minimum((np.arange(bins) * HEIGHT) // bins, HEIGHT - 1)
        self.flow = np.zeros((2, self.columns, HEIGHT))
        self.energy = np.zeros((self.columns, HEIGHT))
        self.held = np.zeros((self.columns, HEIGHT))
        self.at = 0

    def add(self, field: Field) -> None:
        """The next frames."""
        frames, bins = field.energy.shape
        columns = np.minimum((self.at + np.arange(frames)) * self.columns // self.frames, self.columns - 1)
        place = columns[:, None] * HEIGHT + self.rows[None, :bins]
        for into, values in (
            (self.flow[0], field.intensity[0]), (self.flow[1], field.intensity[1]),
            (self.energy, field.energy), (self.held, field.energy * (1 - field.diffuseness)),
        ):  # fmt: skip
            into += np.bincount(place.ravel(), values.ravel(), into.size).reshape(into.shape)
        self.at += frames

    def pixels(self) -> np.ndarray:
        """uint8 [HEIGHT, columns, 3] HSV: hue 0 ahead, then left, behind and right."""
        hue = np.degrees(np.arctan2(self.flow[1], self.flow[0])) % 360
        level = 10 * np.log10(np.maximum(self.energy, 1e-20))
        top = float(np.percentile(level, 99.8))
        value = np.clip((level - top + _RANGE_DB) / _RANGE_DB, 0, 1)
        sharp = np.clip(self.held / np.maximum(self.energy, 1e-30), 0, 1)
        hsv = np.stack([hue / 360, sharp, value], axis=2)
        return np.rint(255 * hsv).astype(np.uint8).transpose(1, 0, 2)[::-1]


def draw_azigram(gathered: Azigram, path: Path, marks: Iterable[tuple[float, float]] = ()) -> None:
    """Write it as PNG, with a legend of the hues below; `marks`: (share of the width, azimuth) of bearings
    that were found, as ticks of their hue above."""
    from PIL import Image, ImageDraw

    pixels = gathered.pixels()
    width = max(pixels.shape[1], 400)
    picture = Image.new("RGB", (width, HEIGHT + _LEGEND + 10), "white")
    picture.paste(Image.fromarray(np.ascontiguousarray(pixels), "HSV").convert("RGB"), (0, 10))
    draw = ImageDraw.Draw(picture)
    for at, azimuth in marks:
        x = round(at * (pixels.shape[1] - 1))
        draw.line([(x, 0), (x, 8)], fill=f"hsv({round(azimuth) % 360},100%,70%)", width=3)
    hues = Image.new("HSV", (360, 12))
    hues.putdata([(round((180 - x) % 360 * 255 / 360), 255, 230) for x in range(360)] * 12)
    picture.paste(hues.convert("RGB"), (8, HEIGHT + 16))
    for text, azimuth in (("behind", 180), ("left", 90), ("ahead", 0), ("right", -90)):
        draw.text((8 + 180 - azimuth, HEIGHT + 32), text, fill="black")
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    with atomic_write(path) as stream:
        stream.write(buffer.getbuffer())
