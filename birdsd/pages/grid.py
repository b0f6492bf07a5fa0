"""The page of an X/Y grid: clips in a table whose columns and rows are the values of two settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsd.pages.judge import clip_caption
from birdsd.pages.media import SHOWN_DB, AudioClip, thumbnail
from birdsd.pages.page import Page


@dataclass(frozen=True)
class Cell:
    """One place of the grid, with the command that makes its clips."""

    column: int
    row: int
    command: str
    clips: Sequence[AudioClip]
    heard: str = ""  # e.g. "3 of 4 named right"


@dataclass(frozen=True)
class GridData:
    """Everything the page shows. `y_name` is empty where there is no second setting."""

    x_name: str
    x_values: Sequence[str]
    y_name: str
    y_values: Sequence[str]
    cells: Sequence[Cell]
    shared: Mapping[str, str]  # what all cells have in common
    judge: str = ""  # with its licence; "" without one
    remark: str = ""  # why there is none, or what it does not cover


def write_grid_page(out: Path, data: GridData) -> Path:
    """Write the page to `out` (one self-contained HTML file) and return the path."""
    clips = [clip for cell in data.cells for clip in cell.clips]
    prompt = data.shared.get("prompt")
    page = Page(
        title=data.x_name.capitalize() + (f" \u00d7 {data.y_name}" if data.y_name else ""),
        lead=(f"\u201c{prompt}\u201d. " if prompt else "")
        + "One setting varies from left to right"
        + (", another from top to bottom; " if data.y_name else "; ")
        + "everything else is the same. Click a picture to play from there.",
        badges=("birdsd grid", f"{len(clips)} generated clips"),
        footer="Made by birdsd. This page needs no network: sounds and images are embedded in the file.",
        css=("grid.css",),
        scripts=("grid.js",),
    )
    loudest_db = max(clip.loudest_db for clip in clips)
    page.fill(
        "grid.html", data=data, shown_db=SHOWN_DB, codec=clips[0].codec,
        cells={(cell.row, cell.column): _cell(data, cell, loudest_db) for cell in data.cells},
    )  # fmt: skip
    return page.write(out)


def _cell(data: GridData, cell: Cell, loudest_db: float) -> dict[str, Any]:
    """What a cell shows: what it is (`label`), its figures, how they were named, and its command."""
    label = f"{data.x_name} {data.x_values[cell.column]}"
    if data.y_name:
        label += f", {data.y_name} {data.y_values[cell.row]}"
    several = len(cell.clips) > 1
    figures = [
        thumbnail(clip, label, clip_caption(clip.verdict, clip.caption if several else ""), loudest_db)
        for clip in cell.clips
    ]
    return {"label": label, "figures": figures, "heard": cell.heard if several else "", "run": cell.command}
