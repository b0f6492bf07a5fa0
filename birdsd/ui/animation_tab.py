"""The animation tab of `birdsd ui`: prompts and their times, the sound between them, a picture that moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from birdsd.errors import UserError
from birdsd.pages.environment import blocks
from birdsd.ui.parts import canvas_result, edited_table, problems, save_buttons, saved, step
from birdsd.ui.scenes import SceneDesk, Settings
from birdsd.ui.session import UiSession

_PROGRESS = gr.Progress()  # gradio looks for one among a function's defaults
_COLUMNS = ("at, s", "prompt")


def build(session: UiSession) -> None:
    """Add the tab's contents."""
    desk = SceneDesk(session)
    step(
        1,
        "Say what is heard, and when",
        "each prompt is heard alone at its time and fades into the next one",
    )
    rows = edited_table(_COLUMNS, desk.first_animation(), "animation-rows", ("22%", "78%"))
    with gr.Row():
        duration = gr.Textbox(
            "", label="Duration, s", placeholder="to the last prompt", max_lines=1, min_width=150,
            info="empty: to the last prompt", elem_id="animation-duration",
        )  # fmt: skip
        seed = gr.Textbox(
            str(session.config.seed), label="Seed", max_lines=1, min_width=150, elem_id="animation-seed",
            info="another one: another sound",
        )  # fmt: skip
        loop = gr.Checkbox(
            False, label="Seamless loop", min_width=200, elem_id="animation-loop",
            info="the last prompt fades into the first",
        )  # fmt: skip
    with gr.Accordion("How it is made", open=False), gr.Row():
        steps = gr.Slider(
            1, 100, session.usual("steps"), step=1, label="Steps", min_width=200, buttons=[],
            elem_id="animation-steps",
        )  # fmt: skip
        guidance = gr.Slider(
            0, 12, session.usual("guidance"), step=0.5, label="Guidance", min_width=200, buttons=[]
        )
    step(2, "Make the sound")
    button = gr.Button("Make the animation", variant="primary", elem_id="animation-make")
    wrong = gr.HTML(elem_id="animation-problems")
    figure = gr.HTML(str(blocks("ui.html").no_animation()), elem_id="animation-figure")
    with gr.Row():
        files = save_buttons("animation", (("mp4", "Video (MP4)"), ("gif", "Moving picture (GIF)")))

    def make(
        rows: Sequence[Any], duration: str, seed: str, loop: bool, steps: int, guidance: float,
        progress: gr.Progress = _PROGRESS,
    ) -> list[Any]:  # fmt: skip
        settings = Settings(steps, guidance)
        try:
            canvas = desk.animation(rows, duration, seed, loop)
            title = " to ".join(dict.fromkeys([canvas.marks[0].prompt, canvas.marks[-1].prompt]))
            made = desk.make_canvas(canvas, title, settings, lambda share, what: progress(share, desc=what))
            whole = desk.archive(made, None)
        except UserError as error:
            return [problems([error]), gr.skip(), *[gr.skip()] * len(files)]
        unknown = [f"\u201c{one}\u201d names no species that the model knows" for one in canvas.prompts
                   if not session.named_in(one)]  # fmt: skip
        moving = {path.suffix: path for path in made.moving}
        paths = [whole, made.sound, made.table, made.picture, moving.get(".mp4"), moving.get(".gif")]
        return ["", canvas_result(made, unknown), *saved(paths)]

    button.click(
        make, [rows, duration, seed, loop, steps, guidance], [wrong, figure, *files],
        show_progress="full", show_progress_on=[figure], concurrency_limit=1,
    )  # fmt: skip
