"""What the scene tab and the animation tab share: tables to edit, problems said in words, files to save."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from birdsd.errors import UserError
from birdsd.pages.environment import blocks
from birdsd.pages.scene import CanvasFolder, canvas_figure, canvas_table

SAVED = (("zip", "Everything (ZIP)"), ("wav", "Sound (WAV)"), ("table", "Label table"), ("png", "Picture"))


def step(number: int, title: str, words: str = "") -> Any:
    """The heading of a part of the tab."""
    return gr.HTML(str(blocks("ui.html").step(number, title, words)))


def edited_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    name: str,
    widths: Sequence[str],
    fixed: Sequence[int] = (),
    spare: bool = True,
) -> Any:
    """A table whose cells can be changed, but for those of `fixed` columns. `widths` in pixels, so that a
    narrow window scrolls the table rather than breaking its words."""
    return gr.Dataframe(
        value=values(rows, columns) if spare else [list(row) for row in rows],
        headers=list(columns), datatype="str", type="array", interactive=True,
        wrap=True, column_count=len(columns), buttons=[],
        static_columns=list(fixed), column_widths=list(widths), elem_id=name, show_label=False,
        max_height=420,
    )  # fmt: skip


def values(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> list[list[str]]:
    """The rows, and an empty one, in which something new begins."""
    return [*(list(row) for row in rows), [""] * len(columns)]


def seconds(duration_s: float | None) -> str:
    """A duration for a field, which is empty where nobody has said one."""
    return "" if duration_s is None else f"{duration_s:g}"


def problems(errors: Sequence[UserError], folder: Path | None = None) -> str:
    """What cannot be, in the words of the errors; `folder`: where an upload lies, of which users know
    nothing; a file's name begins no sentence with a capital."""
    told = [str(one) for one in errors]
    if folder is not None:
        shown = [one.replace(f"{folder}/", "") for one in told]
    else:
        shown = [one[:1].upper() + one[1:] for one in told]
    return str(blocks("ui.html").problems(shown))


def address(path: Path) -> str:
    """Where the page finds a file of the clips' folder."""
    return "/gradio_api/file=" + quote(str(path))


def save_buttons(name: str, further: Sequence[tuple[str, str]] = ()) -> list[Any]:
    """Buttons that save files, hidden until there are some."""
    return [
        gr.DownloadButton(
            f"\N{DOWNWARDS ARROW} {label}", size="sm", visible=False, min_width=130, elem_id=f"{name}-{kind}"
        )
        for kind, label in (*SAVED, *further)
    ]


def saved(paths: Sequence[Path | None]) -> list[Any]:
    """The buttons with their files; one without a file is hidden."""
    return [gr.DownloadButton(value=str(path) if path else None, visible=path is not None) for path in paths]


def canvas_result(made: CanvasFolder, notes: Sequence[str] = ()) -> str:
    """A canvas with its sound, its moving picture and what was asked for."""
    alt = f"Spectrogram of {made.folder.name}"
    figure = canvas_figure(made, alt, address(made.sound))
    moving = address(made.moving[0]) if made.moving else ""
    return str(blocks("ui.html").scene(figure, canvas_table(made), notes, made.folder, moving))
