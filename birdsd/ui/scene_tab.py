"""The scene tab of `birdsd ui`: prose or a file, the understood table to edit, the sound with its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from birdsd.errors import UserError
from birdsd.pages.environment import blocks
from birdsd.pages.scene import SceneFolder, scene_figure, scene_table
from birdsd.scenes.editing import BACKGROUND_COLUMNS, BEGINS, EVENT_COLUMNS, ID
from birdsd.scenes.scene import Scene
from birdsd.ui.parts import (
    address,
    canvas_result,
    edited_table,
    problems,
    save_buttons,
    saved,
    seconds,
    step,
    values,
)
from birdsd.ui.scenes import SceneDesk, Settings, Shown, TableOptions
from birdsd.ui.session import UiSession

_PROGRESS = gr.Progress()  # gradio looks for one among a function's defaults
_WIDTHS = ("88px", "88px", "100px", "184px", "94px", "68px", "107px", "124px")
_BACKGROUND_WIDTHS = ("140px", "130px", "130px", "254px", "199px")
_SINGERS = ("bird in the table", "sung by")
EVENTS, CANVAS = "events", "canvas"
_WAYS = [
    ("Songs placed on a background: labels are measured, and every song is a stem", EVENTS),
    ("One canvas, all at once: for listening; labels say what was requested", CANVAS),
]


def build(session: UiSession) -> None:
    """Add the tab's contents; where the model can make no scene, the reason why."""
    desk = SceneDesk(session)
    try:
        shown = desk.understand(desk.first_prompt())
    except UserError as error:
        gr.HTML(problems([error]))
        return
    _Tab(desk, shown).build()


class _Tab:
    """The fields, and what happens between them. `state` holds the last scene that was whole: rows are read
    against it, so that a row which cannot be read spoils nothing."""

    def __init__(self, desk: SceneDesk, first: Shown) -> None:
        self.desk, self.first = desk, first

    def build(self) -> None:
        self.state = gr.State(self.first.scene)
        step(
            1,
            "Say what is heard",
            "who sings, when, how loud, and where; \u201cWhat to ask for\u201d has examples",
        )
        self._prose()
        self._file()
        step(2, "Check it", "every cell without a lock can be changed")
        self._tables()
        step(3, "Make the sound")
        self._how()
        self.make = gr.Button("Make the sound", variant="primary", elem_id="scene-make")
        self.figure = gr.HTML(str(blocks("ui.html").no_scene()), elem_id="scene-figure")
        with gr.Row():
            self.files = save_buttons("scene")
        self._events()

    # -- the fields --------------------------------------------------------------------------

    def _prose(self) -> None:
        with gr.Row(equal_height=False):
            self.prose = gr.Textbox(
                self.desk.first_prompt(), show_label=False, container=False, lines=2, max_lines=6, scale=6,
                min_width=300, elem_id="scene-prose",
            )  # fmt: skip
            self.read = gr.Button("Fill in the table", elem_id="scene-read", scale=1, min_width=170)

    def _file(self) -> None:
        with gr.Accordion("Or open a scene file or a label table", open=False):
            self.file = gr.File(
                label="A scene as YAML or CSV, or labels from Raven, Audacity or a CSV table",
                type="filepath", height=130, elem_id="scene-file",
            )  # fmt: skip
            with gr.Column(visible=False) as self.of_table:
                with gr.Row():
                    self.others = gr.Checkbox(
                        False, label="Other birds sing", min_width=180, elem_id="scene-others",
                        info="every part is sung by another species",
                    )  # fmt: skip
                    self.place = gr.Dropdown(
                        ["", *self.desk.vocabulary().environments], value="", label="Environment",
                        allow_custom_value=True, min_width=180, elem_id="scene-environment",
                        info="heard behind the birds",
                    )  # fmt: skip
                    self.recording = gr.Textbox(
                        "", label="Recording", max_lines=1, min_width=180, elem_id="scene-recording",
                        info="if the table covers several",
                    )  # fmt: skip
                self.singers = edited_table(
                    _SINGERS, [["", ""]], "scene-singers", ("50%", "50%"), [0], spare=False
                )

    def _tables(self) -> None:
        first = self.first
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                self.events = edited_table(
                    EVENT_COLUMNS, first.rows.events, "scene-events", _WIDTHS, [ID, BEGINS]
                )
                self.backgrounds = edited_table(
                    BACKGROUND_COLUMNS, first.rows.backgrounds, "scene-backgrounds", _BACKGROUND_WIDTHS, [0]
                )
            with gr.Column(scale=2, min_width=240):
                self.beside = gr.HTML(_beside(first), elem_id="scene-beside")
        with gr.Row():
            self.duration = gr.Textbox(
                seconds(first.scene.duration_s), label="Duration, s", placeholder="as it takes",
                min_width=150, max_lines=1, elem_id="scene-duration", info="empty: as long as it takes",
            )  # fmt: skip
            self.seed = gr.Textbox(
                str(self.desk.session.config.seed), label="Seed", min_width=150, max_lines=1,
                elem_id="scene-seed", info="another one: other voices and gaps",
            )  # fmt: skip
            self.loop = gr.Checkbox(
                False, label="Seamless loop", min_width=200, elem_id="scene-loop",
                info="the end runs into the beginning",
            )  # fmt: skip

    def _how(self) -> None:
        session = self.desk.session
        with gr.Accordion("How it is made", open=False):
            self.way = gr.Radio(_WAYS, value=EVENTS, show_label=False, container=False, elem_id="scene-way")
            with gr.Column() as self.judging:
                with gr.Row():
                    self.judged = gr.Checkbox(
                        True, label="Songs must be confirmed by a judge", elem_id="scene-judged",
                        min_width=260,
                        info="BirdNET where it is installed, else a weak check of the model's own species",
                    )  # fmt: skip
                    self.in_mix = gr.Checkbox(
                        False, label="They must be heard in the mix, too", elem_id="scene-in-mix",
                        min_width=260,
                        info="songs that BirdNET does not hear there are replaced, and at last left out",
                    )  # fmt: skip
                    self.tries = gr.Slider(
                        1, 12, 4, step=1, label="Tries", info="of a song that is not confirmed",
                        min_width=200,
                        buttons=[], elem_id="scene-tries",
                    )  # fmt: skip
                self.pool = gr.Textbox(
                    "", label="Recordings for backgrounds (pool)", max_lines=1, elem_id="scene-pool",
                    info="a folder on this machine with a sub-folder for each environment",
                )  # fmt: skip
            with gr.Row():
                self.steps = gr.Slider(
                    1, 100, session.usual("steps"), step=1, label="Steps", min_width=200, buttons=[],
                    elem_id="scene-steps",
                )  # fmt: skip
                self.guidance = gr.Slider(
                    0, 12, session.usual("guidance"), step=0.5, label="Guidance", min_width=200, buttons=[]
                )

    def _events(self) -> None:
        rows = [self.events, self.backgrounds, self.duration, self.seed, self.pool, self.loop]
        understood = [self.state, self.beside, self.events, self.backgrounds, self.duration]
        asked: dict[str, Any] = {"show_progress": "hidden", "concurrency_id": "scene"}
        for event in (self.read.click, self.prose.submit):
            event(self._understand, [self.prose, self.seed, self.pool, self.loop], understood, **asked)
        for event in (
            self.events.input, self.backgrounds.input, self.duration.blur, self.duration.submit,
            self.seed.blur, self.seed.submit, self.loop.input,
        ):  # fmt: skip
            event(self._edit, [self.state, *rows], understood[:-1], **asked)
        opened = [*understood, self.seed, self.loop]
        how = [self.place, self.recording, self.seed, self.pool, self.loop]
        for event in (self.file.upload, self.others.input, self.recording.submit):
            event(self._open, [self.file, self.others, *how], [self.of_table, self.singers, *opened], **asked)
        for event in (self.singers.input, self.place.input):
            event(self._sing_anew, [self.file, self.singers, *how], opened, **asked)
        self.way.change(
            lambda way: gr.Column(visible=way == EVENTS), self.way, self.judging, show_progress="hidden"
        )
        self.judged.change(
            lambda judged: gr.Checkbox(interactive=judged), self.judged, self.in_mix, show_progress="hidden"
        )
        settings = [self.steps, self.guidance, self.judged, self.tries, self.in_mix, self.way]
        self.make.click(
            self._make, [self.state, *rows, *settings], [*understood[:2], self.figure, *self.files],
            show_progress="full", show_progress_on=[self.figure], concurrency_limit=1,
        )  # fmt: skip

    # -- what the buttons do -----------------------------------------------------------------

    def _understand(self, prose: str, seed: str, pool: str, loop: bool = False) -> list[Any]:
        try:
            shown = self.desk.understand(prose, seed, pool or "", loop)
        except UserError as error:
            return [gr.skip(), problems([error]), gr.skip(), gr.skip(), gr.skip()]
        return [*self._outputs(shown), seconds(shown.scene.duration_s)]

    def _open(
        self, file: str | None, others: bool, place: str, recording: str, seed: str, pool: str, loop: bool
    ) -> list[Any]:
        """A file that was chosen, and who sings whose part where it is a label table."""
        if not file:
            return [gr.Column(visible=False), *[gr.skip()] * 8]
        try:
            birds = self.desk.parts(Path(file), pool or "", others=others, recording=recording, seed=seed)
        except UserError as error:
            # The recording may have to be said, for which there is a field.
            return [gr.Column(visible=True), gr.skip(), *self._refused(error, Path(file))]
        rows = [list(pair) for pair in birds.items()]
        opened = self._sing_anew(file, rows, place, recording, seed, pool, loop)
        return [gr.Column(visible=bool(rows)), rows or gr.skip(), *opened]

    def _sing_anew(
        self, file: str | None, singers: Sequence[Sequence[Any]], place: str, recording: str, seed: str,
        pool: str, loop: bool,
    ) -> list[Any]:  # fmt: skip
        if not file:
            return [gr.skip()] * 7
        birds = {str(one): str(by).strip() for one, by in singers if one and str(by or "").strip()}
        try:
            options = TableOptions(birds, place or "", recording or "") if birds else TableOptions()
            shown = self.desk.open(Path(file), options, seed, pool or "", loop)
        except UserError as error:
            return self._refused(error, Path(file))
        scene = shown.scene
        # A field that says so already is left alone: somebody may be about to change it.
        looped = scene.loop if scene.loop != loop else gr.skip()
        seed_said = str(scene.seed) if str(scene.seed) != seed else gr.skip()
        return [*self._outputs(shown), seconds(scene.duration_s), seed_said, looped]

    def _refused(self, error: UserError, file: Path) -> list[Any]:
        return [gr.skip(), problems([error], file.parent), *[gr.skip()] * 5]

    def _edit(
        self,
        scene: Scene,
        events: Sequence[Any],
        backgrounds: Sequence[Any],
        duration: str,
        seed: str,
        pool: str,
        loop: bool | None = None,
    ) -> list[Any]:
        try:
            found = self.desk.edit(scene, events, backgrounds, duration, seed, pool or "", loop)
        except UserError as error:
            return [gr.skip(), problems([error]), gr.skip(), gr.skip()]
        if found.scene is None:
            return [gr.skip(), problems(found.problems), gr.skip(), gr.skip()]
        return self._outputs(self.desk.shown(found.scene, pool or ""))

    def _outputs(self, shown: Shown) -> list[Any]:
        tables = ((shown.rows.events, EVENT_COLUMNS), (shown.rows.backgrounds, BACKGROUND_COLUMNS))
        return [shown.scene, _beside(shown), *(values(rows, columns) for rows, columns in tables)]

    def _make(
        self, scene: Scene, events: Sequence[Any], backgrounds: Sequence[Any], duration: str, seed: str,
        pool: str, loop: bool, steps: int, guidance: float, judged: bool, tries: int, in_mix: bool, way: str,
        progress: gr.Progress = _PROGRESS,
    ) -> list[Any]:  # fmt: skip
        same = [gr.skip()] * (1 + len(self.files))
        settings = Settings(steps, guidance, judged, tries, pool or "", judged and in_mix)
        try:
            found = self.desk.edit(scene, events, backgrounds, duration, seed, pool or "", loop)
            if found.scene is None:
                return [gr.skip(), problems(found.problems), *same]
            shown = self.desk.shown(found.scene, pool or "")
            make = self._canvas if way == CANVAS else self._on_a_background
            result = make(shown, settings, lambda share, what: progress(share, desc=what))
        except UserError as error:
            return [gr.skip(), problems([error]), *same]
        return [found.scene, _beside(shown), *result]

    def _on_a_background(self, shown: Shown, settings: Settings, progress: Any) -> list[Any]:
        made = self.desk.make(shown.scene, settings, progress)
        whole = self.desk.archive(made, shown.scene)
        return [_result(made), *saved([whole, made.sound, made.table, made.picture])]

    def _canvas(self, shown: Shown, settings: Settings, progress: Any) -> list[Any]:
        title = self.desk.title(shown.scene, settings.pool)
        made = self.desk.make_canvas(
            self.desk.canvas_of(shown.scene, settings.pool), title, settings, progress
        )
        whole = self.desk.archive(made, shown.scene)
        return [canvas_result(made, shown.notes), *saved([whole, made.sound, made.table, made.picture])]


def _beside(shown: Shown) -> str:
    return str(blocks("ui.html").understood(shown.sentence, shown.duration_s, shown.notes, shown.scene.loop))


def _result(made: SceneFolder) -> str:
    alt = f"Spectrogram of the scene {made.folder.name}"
    figure = scene_figure(made, alt, address(made.sound))
    return str(blocks("ui.html").scene(figure, scene_table(made), made.notes, made.folder))
