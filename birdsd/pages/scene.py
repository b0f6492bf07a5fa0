"""A scene on a page: its spectrogram with the boxes that came out, its player, and its table; or one canvas
with what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from birdsd.errors import NotFound
from birdsd.files import read_json
from birdsd.pages.charts import nice_ticks
from birdsd.pages.environment import blocks, data_uri
from birdsd.pages.media import SHOWN_DB, khz_ticks, png, sound_uri
from birdsd.scenes.canvas.written import FORMAT, NAME
from birdsd.scenes.compose.picture import HEIGHT, PER_SECOND, WIDEST, levels_of

LABELS = "labels.json"
_FORMATS = ("flac", "wav")
_PIXELS_PER_SECOND = 24  # of a long scene, which is scrolled
_COLOURS = 6  # of palette.css
_MOVING = ("mp4", "gif")  # the one with sound first


@dataclass(frozen=True)
class SoundFolder:
    """A folder with a sound and perhaps its picture, which have its name."""

    folder: Path

    @cached_property
    def sound(self) -> Path:
        """The sound; of a scene the mix."""
        return next(path for path in map(self._named, _FORMATS) if path.is_file())

    @property
    def picture(self) -> Path | None:
        """The spectrogram, where one was drawn."""
        path = self._named("png")
        return path if path.is_file() else None

    def _named(self, ending: str) -> Path:
        return self.folder / f"{self.folder.name}.{ending}"


@dataclass(frozen=True)
class SceneFolder(SoundFolder):
    """A scene as `birdsd run scene` leaves it."""

    @cached_property
    def labels(self) -> Mapping[str, Any]:
        """labels.json; `UserError` where the folder holds no scene."""
        told = read_json(self.folder / LABELS, "labels of a scene")
        if not isinstance(told, dict) or not {"came_out", "asked", "duration_s"} <= set(told):
            raise NotFound(f"{self.folder} holds no scene", "`birdsd run scene` makes one")
        return told

    @property
    def table(self) -> Path:
        """The Raven selection table."""
        return self._named("Table.1.selections.txt")

    @property
    def notes(self) -> list[str]:
        """What is to be said of it, but for what the table says already."""
        lost = tuple(f"{one['key']} (" for one in self.labels["asked"] if one["fate"] != "placed")
        return [note for note in self.labels["notes"] if not (lost and note.startswith(lost))]

    @property
    def species(self) -> list[str]:
        """Those that sing, each once, in the order of time."""
        return list(dict.fromkeys(one["species"] for one in _in_order(self.labels)))


def scene_figure(scene: SceneFolder, alt: str, address: str = "") -> Markup:
    """The long spectrogram with a box for each event that came out, and the player below it: a click plays
    from there, or from where a box begins.

    `address`: where a browser finds the sound; without one it is embedded.
    """
    duration_s = float(scene.labels["duration_s"])
    return long_figure(
        scene.sound, duration_s, alt, address,
        lambda nyquist_hz: [_box(scene, one, duration_s, nyquist_hz) for one in _in_order(scene.labels)],
    )  # fmt: skip


def long_figure(
    sound: Path, duration_s: float, alt: str, address: str,
    boxes: Callable[[float], list[dict[str, Any]]],
) -> Markup:  # fmt: skip
    """The spectrogram of a long sound, which is scrolled, with boxes, and its player. `boxes`: given half the
    rate in Hz, as the template of scenes has them; `address` as for `scene_figure`."""
    columns = int(np.clip(duration_s * PER_SECOND, 200, WIDEST))
    levels, nyquist_hz = levels_of(sound, columns)
    top_db = float(np.percentile(levels, 99.9))
    shown = (255 * (1 + (levels - top_db) / SHOWN_DB).clip(0, 1)).round().astype(np.uint8)
    count = max(5, round(duration_s * _PIXELS_PER_SECOND / 90))
    return Markup(
        blocks("scene.html").figure(
            data_uri(png(shown), "image/png"), alt, khz_ticks(np.linspace(nyquist_hz, 0, HEIGHT)),
            [(at / duration_s, f"{at:g}") for at in nice_ticks(0, duration_s, count)],
            boxes(nyquist_hz), address or _embedded(sound), round(duration_s * _PIXELS_PER_SECOND),
        )
    )  # fmt: skip


def scene_table(scene: SceneFolder) -> Markup:
    """What came out, what of it nobody confirmed, and what did not come out, with the reason."""
    labels = scene.labels
    missing = [(one["species"], one["onset_s"], one["why"] or one["fate"]) for one in labels["asked"]
               if one["fate"] != "placed"]  # fmt: skip
    return Markup(
        blocks("scene.html").came_out(_in_order(labels), missing, labels["backgrounds"], scene.species)
    )


def _in_order(labels: Mapping[str, Any]) -> list[dict[str, Any]]:
    return sorted(labels["came_out"], key=lambda one: (one["onset_s"], one["key"]))


def _box(scene: SceneFolder, one: Mapping[str, Any], duration_s: float, nyquist_hz: float) -> dict[str, Any]:
    """Shares of the picture, from the left and from below."""
    left, right = (min(one[edge] / duration_s, 1.0) for edge in ("onset_s", "offset_s"))
    low, high = (min(one[edge] / nyquist_hz, 1.0) for edge in ("low_hz", "high_hz"))
    return {
        "left": left, "width": max(right - left, 0.002), "bottom": low, "height": max(high - low, 0.01),
        "at": one["onset_s"], "to": one["offset_s"], "species": one["species"],
        "sure": one["confirmed"] is True and one.get("mix_heard") is not False, "under": high > 0.88,
        "asked": False,
        "colour": scene.species.index(one["species"]) % _COLOURS + 1,
    }  # fmt: skip


def _embedded(sound: Path) -> Markup:
    import soundfile

    with soundfile.SoundFile(sound) as file:
        samples = file.read(dtype="float32", always_2d=True)
        return sound_uri(samples.T, file.samplerate)


# -- one canvas, of which nothing is measured ----------------------------------------------------


@dataclass(frozen=True)
class CanvasFolder(SoundFolder):
    """A canvas as `birdsd run scene` leaves it: nothing in it is measured."""

    @cached_property
    def told(self) -> Mapping[str, Any]:
        """canvas.json; `UserError` where the folder holds no canvas."""
        told = read_json(self.folder / NAME, "canvas")
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise NotFound(f"{self.folder} holds no canvas", "`birdsd run scene way=canvas` makes one")
        return told

    @property
    def table(self) -> Path:
        """The label track for Audacity: what was asked for."""
        return self._named("asked.txt")

    @property
    def moving(self) -> list[Path]:
        """The pictures that move, the one with sound first."""
        return [path for path in map(self._named, _MOVING) if path.is_file()]


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
