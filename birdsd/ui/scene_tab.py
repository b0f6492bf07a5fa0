"""The scene tab of `birdsd ui`: prose, the understood table to edit, the sound with its boxes, files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import gradio as gr

from birdsd.errors import UserError
from birdsd.pages.environment import blocks
from birdsd.pages.scene import SceneFolder, scene_figure, scene_table
from birdsd.scenes.editing import BACKGROUND_COLUMNS, BEGINS, EVENT_COLUMNS, ID
from birdsd.scenes.scene import Scene
from birdsd.ui.scenes import SceneDesk, Settings, Shown
from birdsd.ui.session import UiSession

_PROGRESS = gr.Progress()  # gradio looks for one among a function's defaults
_FILE = "/gradio_api/file="
# In pixels, so that a narrow window scrolls the table rather than breaking its words.
_WIDTHS = ("88px", "88px", "100px", "184px", "96px", "68px", "108px", "124px")
_BACKGROUND_WIDTHS = ("140px", "130px", "130px", "256px", "200px")


def build(session: UiSession) -> None:
    """Add the tab's contents; where the model can make no scene, the reason why."""
    desk = SceneDesk(session)
    try:
        shown = desk.understand(desk.first_prompt())
    except UserError as error:
        gr.HTML(str(blocks("ui.html").problems([str(error)])))
        return
    _Tab(desk, shown).build()


class _Tab:
    """The fields, and what happens between them. `state` holds the last scene that was whole: rows are read
    against it, so that a row which cannot be read spoils nothing."""

    def __init__(self, desk: SceneDesk, first: Shown) -> None:
        self.desk, self.first = desk, first

    def build(self) -> None:
        self.state = gr.State(self.first.scene)
        self._prose()
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=520):
                self.events = _table(
                    EVENT_COLUMNS, self.first.rows.events, "scene-events", _WIDTHS, [ID, BEGINS]
                )
                self.backgrounds = _table(
                    BACKGROUND_COLUMNS,
                    self.first.rows.backgrounds,
                    "scene-backgrounds",
                    _BACKGROUND_WIDTHS,
                    [0],
                )
            with gr.Column(scale=2, min_width=240):
                self.beside = gr.HTML(_beside(self.first), elem_id="scene-beside")
        self._how()
        self.make = gr.Button("Make the sound", variant="primary", elem_id="scene-make")
        self.figure = gr.HTML(str(blocks("ui.html").no_scene()), elem_id="scene-figure")
        with gr.Row():
            self.files = [
                gr.DownloadButton(
                    f"\N{DOWNWARDS ARROW} {label}", size="sm", visible=False, elem_id=f"scene-{name}"
                )
                for name, label in (("zip", "Everything (ZIP)"), ("wav", "Sound (WAV)"))
            ]
        self._events()

    def _prose(self) -> None:
        with gr.Row(equal_height=False):
            self.prose = gr.Textbox(
                self.desk.first_prompt(), label="Scene", lines=2, max_lines=6, scale=6, min_width=360,
                info="who sings, when, how loud, and where", elem_id="scene-prose",
            )  # fmt: skip
            with gr.Column(scale=2, min_width=220):
                with gr.Row():
                    self.duration = gr.Textbox(
                        _seconds(self.first.scene.duration_s), label="Duration, s", placeholder="as it takes",
                        min_width=90, max_lines=1, elem_id="scene-duration",
                    )  # fmt: skip
                    self.seed = gr.Textbox(
                        str(self.desk.session.config.seed), label="Seed", min_width=80, max_lines=1,
                        elem_id="scene-seed",
                    )  # fmt: skip
                self.read = gr.Button("Understand", elem_id="scene-read")

    def _how(self) -> None:
        session = self.desk.session
        with gr.Accordion("How it is made", open=False):
            with gr.Row():
                self.steps = gr.Slider(
                    1, 100, session.usual("steps"), step=1, label="Steps", min_width=140, buttons=[],
                    elem_id="scene-steps",
                )  # fmt: skip
                self.guidance = gr.Slider(
                    0, 12, session.usual("guidance"), step=0.5, label="Guidance", min_width=140, buttons=[]
                )
                self.tries = gr.Slider(
                    1,
                    12,
                    4,
                    step=1,
                    label="Tries",
                    info="of a song that is not confirmed",
                    min_width=140,
                    buttons=[],
                )
            self.judged = gr.Checkbox(
                True, label="Songs must be confirmed by a judge", elem_id="scene-judged",
                info="BirdNET where it is installed, else a weak check of the model's own species",
            )  # fmt: skip
            self.pool = gr.Textbox(
                "", label="Recordings for backgrounds", max_lines=1, elem_id="scene-pool",
                info="a folder of this machine with a sub-folder for each environment",
            )  # fmt: skip

    def _events(self) -> None:
        rows = [self.events, self.backgrounds, self.duration, self.seed, self.pool]
        understood = [self.state, self.beside, self.events, self.backgrounds, self.duration]
        asked: dict[str, Any] = {"show_progress": "hidden", "concurrency_id": "scene"}
        for event in (self.read.click, self.prose.submit):
            event(self._understand, [self.prose, self.seed, self.pool], understood, **asked)
        for event in (
            self.events.input, self.backgrounds.input, self.duration.blur, self.duration.submit,
            self.seed.blur, self.seed.submit,
        ):  # fmt: skip
            event(self._edit, [self.state, *rows], understood[:-1], **asked)
        settings = [self.steps, self.guidance, self.judged, self.tries]
        self.make.click(
            self._make, [self.state, *rows, *settings], [*understood[:2], self.figure, *self.files],
            show_progress="full", show_progress_on=[self.figure], concurrency_limit=1,
        )  # fmt: skip

    # -- what the buttons do -----------------------------------------------------------------

    def _understand(self, prose: str, seed: str, pool: str) -> list[Any]:
        try:
            shown = self.desk.understand(prose, seed, pool or "")
        except UserError as error:
            return [gr.skip(), _problems([error]), gr.skip(), gr.skip(), gr.skip()]
        return [*self._outputs(shown), _seconds(shown.scene.duration_s)]

    def _edit(
        self,
        scene: Scene,
        events: Sequence[Any],
        backgrounds: Sequence[Any],
        duration: str,
        seed: str,
        pool: str,
    ) -> list[Any]:
        try:
            found = self.desk.edit(scene, events, backgrounds, duration, seed, pool or "")
        except UserError as error:
            return [gr.skip(), _problems([error]), gr.skip(), gr.skip()]
        if found.scene is None:
            return [gr.skip(), _problems(found.problems), gr.skip(), gr.skip()]
        return self._outputs(self.desk.shown(found.scene, pool or ""))

    def _outputs(self, shown: Shown) -> list[Any]:
        tables = ((shown.rows.events, EVENT_COLUMNS), (shown.rows.backgrounds, BACKGROUND_COLUMNS))
        return [shown.scene, _beside(shown), *(_values(rows, columns) for rows, columns in tables)]

    def _make(
        self, scene: Scene, events: Sequence[Any], backgrounds: Sequence[Any], duration: str, seed: str,
        pool: str, steps: int, guidance: float, judged: bool, tries: int, progress: gr.Progress = _PROGRESS,
    ) -> list[Any]:  # fmt: skip
        same = [gr.skip()] * (1 + len(self.files))
        try:
            found = self.desk.edit(scene, events, backgrounds, duration, seed, pool or "")
            if found.scene is None:
                return [gr.skip(), _problems(found.problems), *same]
            settings = Settings(steps, guidance, judged, tries, pool or "")
            made = self.desk.make(found.scene, settings, lambda share, what: progress(share, desc=what))
            whole = self.desk.archive(made, found.scene)
        except UserError as error:
            return [gr.skip(), _problems([error]), *same]
        shown = self.desk.shown(found.scene, pool or "")
        return [
            found.scene, _beside(shown), _result(made),
            *(gr.DownloadButton(value=str(path), visible=True) for path in (whole, made.sound)),
        ]  # fmt: skip


def _table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    name: str,
    widths: Sequence[str],
    fixed: list[int],
) -> Any:
    return gr.Dataframe(
        value=_values(rows, columns), headers=list(columns), datatype="str", type="array", interactive=True,
        wrap=True, column_count=len(columns), buttons=[],
        static_columns=fixed, column_widths=list(widths), elem_id=name, show_label=False,
        max_height=420,
    )  # fmt: skip


def _values(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> list[list[str]]:
    """The rows, and an empty one, in which a new event or background begins."""
    return [*(list(row) for row in rows), [""] * len(columns)]


def _seconds(duration_s: float | None) -> str:
    return "" if duration_s is None else f"{duration_s:g}"


def _beside(shown: Shown) -> str:
    return str(blocks("ui.html").understood(shown.sentence, shown.duration_s, shown.notes))


def _problems(errors: Sequence[UserError]) -> str:
    return str(blocks("ui.html").problems([str(one)[:1].upper() + str(one)[1:] for one in errors]))


def _result(made: SceneFolder) -> str:
    alt = f"Spectrogram of the scene {made.folder.name}"
    figure = scene_figure(made, alt, _FILE + quote(str(made.sound)))
    return str(blocks("ui.html").scene(figure, scene_table(made), made.notes, made.folder))
