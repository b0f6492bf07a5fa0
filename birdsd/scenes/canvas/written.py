"""The folder of a canvas: sound, picture, and tables of what was asked for, none of which was measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.files import atomic_write, explained_write, fsync_all, write_json, write_text
from birdsd.scenes.backgrounds.spool import Piece, Spool
from birdsd.scenes.canvas.asked import ANIMATION, Canvas
from birdsd.scenes.canvas.moving import write_moving
from birdsd.scenes.compose.mixdown import Written, fitting_gain_db, true_peak, write_mix
from birdsd.scenes.compose.picture import levels_of
from birdsd.sound.audio.recordings import NOT_RECORDINGS
from birdsd.sound.labels.annotation import Label
from birdsd.sound.labels.audacity import audacity_text

if TYPE_CHECKING:
    from birdsd.diffusion.generation.generator import Generator

FORMAT = "birdsd-canvas/1"
NAME = "canvas.json"
ASKED = "asked for"
_NOTE = (
    "These labels say what was asked for, and when. Nothing was measured: a model may have sung something "
    "else, earlier, later, or nothing."
)


@dataclass(frozen=True)
class _Whole:
    """A piece that lasts from the beginning to the end: all of the mix."""

    piece: Piece
    start: int = 0

    @property
    def samples(self) -> int:
        return self.piece.samples

    def read(self, first: int, count: int) -> np.ndarray:
        return self.piece.read(first, count)


def write_canvas(
    canvas: Canvas, parts: Iterable[np.ndarray], model: Generator, folder: Path, name: str, kind: str,
    moving: list[str], recipe: Mapping[str, Any], picture: bool = True,
) -> list[Path]:  # fmt: skip
    """Write everything into `folder`; returns what people look at or listen to. `kind`: flac or wav."""
    sound, rate_hz = folder / f"{name}.{kind}", model.codec.rate_hz
    with Spool(folder / ".spool") as spool:  # memory does not grow with the duration
        stem = _Whole(spool.add(iter(parts)))
        gain_db = fitting_gain_db(true_peak([stem], stem.samples))
        write_mix(sound, [Written(stem, None)], stem.samples, rate_hz, gain_db=gain_db)
    fsync_all([sound])
    stretches = canvas.stretches()
    lowest, highest = model.codec.band_hz
    labels = [Label(one.label, one.from_s, one.to_s, lowest, highest) for one in stretches]
    write_text(folder / f"{name}.asked.txt", audacity_text(labels))
    write_text(folder / f"{name}.asked.csv", _csv(canvas))
    # A folder with this file holds no recordings to learn from: nobody knows what is heard in them.
    write_text(folder / NOT_RECORDINGS, _NOTE + "\n")
    shown = [sound]
    if picture:
        shown.append(draw_canvas(canvas, sound, folder / f"{name}.png"))
    for ending in moving if canvas.kind == ANIMATION else []:
        shown.append(write_moving(canvas, sound, folder / f"{name}.{ending}"))
    told = {
        "format": FORMAT, "name": name, "labels": ASKED, "measured": False, "note": _NOTE,
        "generated": True, "synthetic": bool(model.training.get("synthetic", False)),
        "licences": sorted(model.training.get("licences") or ()), "duration_s": canvas.duration_s,
        "rate_hz": rate_hz, "gain_db": gain_db, "recipe": dict(recipe),
        "asked": [{**vars(one), "species": list(one.species), "status": ASKED} for one in stretches],
    }  # fmt: skip
    write_json(folder / NAME, told)
    return shown


def _csv(canvas: Canvas) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["from_s", "to_s", "prompt", "then", "species", "status"])
    for one in canvas.stretches():
        species = "; ".join(one.species)
        writer.writerow([f"{one.from_s:.3f}", f"{one.to_s:.3f}", one.prompt, one.then, species, ASKED])
    return text.getvalue()


def draw_canvas(canvas: Canvas, sound: Path, path: Path) -> Path:
    """A spectrogram as PNG, with what was asked for above it."""
    from PIL import Image, ImageDraw

    columns = int(np.clip(canvas.duration_s * 60, 300, 3000))
    levels, _ = levels_of(sound, columns)
    top = float(np.percentile(levels, 99.9))
    grey = (255 * np.clip((top - levels) / 70, 0, 1)).astype(np.uint8)
    lanes = 2
    picture = Image.new("RGB", (columns, grey.shape[0] + 14 * lanes + 2), "white")
    picture.paste(Image.fromarray(grey), (0, 14 * lanes))
    draw = ImageDraw.Draw(picture)
    for number, one in enumerate(canvas.stretches()):
        left = one.from_s / canvas.duration_s * columns
        right = one.to_s / canvas.duration_s * columns
        draw.line([(left, 14 * (number % lanes)), (left, picture.height)], fill="#D55E00")
        words = f"{one.prompt} > {one.then}" if one.then else one.prompt
        room = max(8, int((right - left) * lanes / 6.2))
        text = words.encode("ascii", "replace").decode()[:room]
        draw.text((left + 3, 14 * (number % lanes) + 1), text, fill="#222222")
    with explained_write(path), atomic_write(path) as stream:
        picture.save(stream, format="PNG")
    return path
