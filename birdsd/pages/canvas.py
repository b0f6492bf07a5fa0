"""A canvas on a page: its spectrogram with what was asked for, its player, and the table beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from birdsd.errors import NotFound
from birdsd.files import read_json
from birdsd.pages.environment import blocks
from birdsd.pages.scene import long_figure, sound_in
from birdsd.scenes.canvas.written import FORMAT, NAME

_MOVING = ("mp4", "gif")  # the one with sound first
_COLOURS = 6  # of palette.css


@dataclass(frozen=True)
class CanvasFolder:
    """A canvas as `birdsd run scene` leaves it: nothing in it is measured."""

    folder: Path

    @cached_property
    def told(self) -> Mapping[str, Any]:
        """canvas.json; `UserError` where the folder holds no canvas."""
        told = read_json(self.folder / NAME, "canvas")
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise NotFound(f"{self.folder} holds no canvas", "`birdsd run scene way=canvas` makes one")
        return told

    @cached_property
    def sound(self) -> Path:
        return sound_in(self.folder)

    @property
    def table(self) -> Path:
        """The label track for Audacity: what was asked for."""
        return self.folder / f"{self.folder.name}.asked.txt"

    @property
    def picture(self) -> Path | None:
        path = self.folder / f"{self.folder.name}.png"
        return path if path.is_file() else None

    @property
    def moving(self) -> list[Path]:
        """The pictures that move, the one with sound first."""
        found = (self.folder / f"{self.folder.name}.{kind}" for kind in _MOVING)
        return [path for path in found if path.is_file()]


def canvas_figure(canvas: CanvasFolder, alt: str, address: str = "") -> Markup:
    """The long spectrogram with a line where each prompt begins, and the player below it; `address` as for
    `scene_figure`."""
    duration_s = float(canvas.told["duration_s"])
    stretches = canvas.told["asked"]
    prompts = list(dict.fromkeys(one["prompt"] for one in stretches))
    boxes = [
        {
            "left": one["from_s"] / duration_s, "width": (one["to_s"] - one["from_s"]) / duration_s,
            "bottom": 0.0, "height": 1.0, "at": one["from_s"], "to": one["to_s"], "species": words_of(one),
            "sure": True, "under": False, "asked": True,
            "colour": prompts.index(one["prompt"]) % _COLOURS + 1,
        }
        for one in stretches
    ]  # fmt: skip
    return long_figure(canvas.sound, duration_s, alt, address, lambda _: boxes)


def words_of(stretch: Mapping[str, Any]) -> str:
    """What a stretch was asked for, or which prompt goes over into which."""
    return (
        f"{stretch['prompt']} \N{RIGHTWARDS ARROW} {stretch['then']}"
        if stretch["then"]
        else stretch["prompt"]
    )


def canvas_table(canvas: CanvasFolder) -> Markup:
    """What was asked for, and when."""
    rows = [[words_of(one), f"{one['from_s']:.2f}", f"{one['to_s']:.2f}"] for one in canvas.told["asked"]]
    return Markup(blocks("scene.html").requested(rows, canvas.told["note"]))
