"""The picture of a scene that is asked for: its birds and backgrounds as a time line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.scenes.placed import PlacedEvent, PlacedScene
from birdsd.sound.audit.picture import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDEST_INCHES = 60.0
# Told apart without colour vision too (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")


def draw_timeline(scene: PlacedScene, path: Path) -> Path:
    """The plan of a scene as a PNG: a lane for each species, its songs as bars with their loudness, and below
    them the backgrounds with their fades."""
    figure = _figure(scene.duration_s, 0.42 * len(_species(scene)) + 0.42 * len(scene.backgrounds) + 1.3)
    axis = figure.subplots()
    lanes = _species(scene)
    for event in scene.events:
        _bar(
            axis,
            event,
            len(scene.backgrounds) + len(lanes) - 1 - lanes.index(event.species),
            COLOURS[lanes.index(event.species) % len(COLOURS)],
        )
    for number, one in enumerate(scene.backgrounds):
        lane = len(scene.backgrounds) - 1 - number
        times = [one.from_s, one.from_s + one.fade_in_s, one.to_s - one.fade_out_s, one.to_s]
        height = 0.15 + 0.65 * _share(one.level_db, -60.0, -24.0)
        tops = [
            lane - 0.4 + (height if flat else 0.0)
            for flat in (not one.fade_in_s, True, True, not one.fade_out_s)
        ]
        axis.fill_between(times, lane - 0.4, tops, color="#8c8c8c", linewidth=0)
    names = [f"{_short(one.environment)} {one.level_db:g} dBFS" for one in scene.backgrounds]
    axis.set_yticks(range(len(lanes) + len(names)))
    axis.set_yticklabels([*reversed(names), *map(_short, reversed(lanes))], parse_math=False)
    axis.set_ylim(-0.6, len(lanes) + len(names) - 0.4)
    axis.set_xlim(0, scene.duration_s)
    axis.set_xlabel("seconds")
    axis.grid(axis="x", alpha=0.3)
    if scene.name:
        axis.set_title(_short(scene.name), fontsize=9, parse_math=False)
    return save_png(figure, path)


def _figure(duration_s: float, height: float) -> Any:
    from matplotlib.figure import Figure

    width = float(np.clip(0.25 * duration_s, 7.0, _WIDEST_INCHES))
    return Figure(figsize=(width, float(np.clip(height, 2.0, 40.0))), layout="constrained")


def _species(scene: PlacedScene) -> list[str]:
    return list(dict.fromkeys(event.species for event in scene.events))


def _bar(axis: Axes, event: PlacedEvent, lane: int, colour: str) -> None:
    loud = (
        _share(event.snr_db, -6.0, 24.0)
        if event.snr_db is not None
        else _share(event.level_db or 0.0, -45.0, -15.0)
    )
    height = 0.3 + 0.5 * loud
    style: dict[str, Any] = {} if event.measured else {"hatch": "//", "edgecolor": "white"}
    axis.bar(
        event.onset_s,
        height,
        event.duration_s,
        lane - height / 2,
        align="edge",
        color=colour,
        linewidth=0,
        **style,
    )
    axis.text(
        event.onset_s,
        lane + height / 2,
        _short(event.sound_type),
        fontsize=6,
        va="bottom",
        clip_on=True,
        parse_math=False,
    )


def _share(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _short(text: str) -> str:
    line = "".join(c if c.isprintable() else "?" for c in text)
    return line if len(line) <= 40 else line[:37] + "..."
