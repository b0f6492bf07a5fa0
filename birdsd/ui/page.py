"""The page of `birdsd ui`, in gradio. Nothing on it comes from, or goes to, any other machine."""

from __future__ import annotations

import random
from typing import Any

import gradio as gr
from markupsafe import Markup

from birdsd.diffusion.generation.request import USUAL_STRENGTH
from birdsd.diffusion.generation.sampling import SCHEDULERS
from birdsd.errors import UserError
from birdsd.pages.environment import blocks
from birdsd.pages.prompts import prompts_page
from birdsd.ui import animation_tab, scene_tab
from birdsd.ui.scenes import SceneDesk
from birdsd.ui.session import FormValues, UiSession

MOST_EARLIER = 6  # clips that stay in sight below the newest
MOST_SEED = 10**6  # of those that the page draws by itself
SAVED = (("wav", "Sound"), ("png", "Picture"), ("table", "Raven table"), ("recipe", "Recipe"))
_PROGRESS = gr.Progress()  # gradio looks for one among a function's defaults


def build(session: UiSession) -> gr.Blocks:
    """The page of a session, not yet served."""
    with gr.Blocks(title="birdsd", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(str(session.facts()))
        with gr.Tabs():
            with gr.Tab("Clip", id="clip"):
                _clip_tab(session)
            with gr.Tab("Scene", id="scene"):
                scene_tab.build(session)
            with gr.Tab("Animation", id="animation"):
                animation_tab.build(session)
            with gr.Tab("What to ask for", id="book"):
                gr.HTML(_book(session), elem_id="book")
    return page


def _clip_tab(session: UiSession) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            fields, button, again = _fields(session)
        with gr.Column(scale=3, min_width=420):
            shown, labels, downloads, earlier = _results()
    kept = gr.State([])

    def make(kept: list[str], *values: Any, progress: gr.Progress = _PROGRESS) -> list[Any]:
        return _made(session, kept, values, progress)

    inputs = [kept, *fields]
    outputs = [shown, labels, *downloads, earlier, kept]
    event = {"show_progress": "full", "show_progress_on": [shown], "concurrency_limit": 1}
    button.click(make, inputs, outputs, **event)
    fields[0].submit(make, inputs, outputs, **event)
    seed = fields[3]
    another = again.click(lambda: random.randrange(MOST_SEED), None, seed, show_progress="hidden")
    another.then(make, inputs, outputs, **event)


def _book(session: UiSession) -> str:
    """The prompt book; where the model says nothing of itself, the reason."""
    template = blocks("ui.html")
    try:
        return str(template.book(prompts_page(SceneDesk(session).book().to_json())))
    except UserError as error:
        return str(template.problems([str(error)]))


def _fields(session: UiSession) -> tuple[list[Any], Any, Any]:
    """The fields in the order of `FormValues`, and the two buttons that start."""
    config, model = session.config, session.model
    prompt = gr.Textbox(
        session.first_prompt(), label="Prompt", lines=2, max_lines=4, elem_id="prompt",
        info="(word:1.3) makes a word count more, [word] less" if config.emphasis else None,
    )  # fmt: skip
    with gr.Row():
        species = gr.Dropdown(
            ["", *model.species], value=next(iter(session.named_in(prompt.value)), ""), label="Species",
            min_width=140, allow_custom_value=True, elem_id="species",
        )  # fmt: skip
        environment = gr.Dropdown(
            ["", *model.environments], value="", label="Environment", min_width=140, allow_custom_value=True,
            elem_id="environment",
        )  # fmt: skip
    for chosen in (species, environment):
        chosen.input(session.prompt, [species, environment], prompt, show_progress="hidden")
    prompt.blur(lambda text: next(iter(session.named_in(text)), ""), prompt, species, show_progress="hidden")
    with gr.Row():
        guidance = gr.Slider(
            0, 12, session.usual("guidance"), step=0.5, label="Guidance", min_width=140, buttons=[],
            elem_id="guidance",
        )  # fmt: skip
        steps = gr.Slider(
            1, 100, session.usual("steps"), step=1, label="Steps", min_width=140, buttons=[], elem_id="steps"
        )
    seed = gr.Number(config.seed, label="Seed", precision=0, minimum=0, elem_id="seed")
    with gr.Row():
        button = gr.Button("Generate", variant="primary", elem_id="generate", scale=3, min_width=140)
        again = gr.Button("Another take", elem_id="again", scale=2, min_width=120)
    with gr.Accordion("Start from a recording", open=bool(config.init)):
        init, start_s, strength, low, high = _start(session)
    with gr.Accordion("More", open=False):
        negative = gr.Textbox(config.negative_prompt, label="Negative prompt")
        scheduler = gr.Dropdown(sorted(SCHEDULERS), value=session.usual("scheduler"), label="Scheduler")
    fields = [prompt, guidance, steps, seed, negative, scheduler, init, start_s, strength, low, high]
    return fields, button, again


def _start(session: UiSession) -> tuple[Any, ...]:
    config = session.config
    init = gr.Audio(
        config.init, type="filepath", sources=["upload", "microphone"], label="Recording", elem_id="init"
    )
    with gr.Row():
        usual = USUAL_STRENGTH if config.strength is None else config.strength
        start_s = gr.Number(0, label="Begins at, s", info="in the recording", minimum=0, min_width=140)
        strength = gr.Slider(
            0,
            1,
            usual,
            step=0.05,
            label="Strength",
            info="0 keeps it, 1 replaces it entirely",
            min_width=140,
            buttons=[],
        )
    whole = session.whole_s
    with gr.Row():
        low, high = (
            gr.Slider(0, whole, value, step=0.01, label=label, info=info, min_width=140, buttons=[])
            for value, label, info in (
                (0, "Regenerate from, s", "part of the clip, or all of it"),
                (whole, "to, s", "the rest stays as it is"),
            )
        )
    return init, start_s, strength, low, high


def _results() -> tuple[Any, Any, list[Any], Any]:
    shown = gr.HTML(str(blocks("ui.html").newest()), elem_id="shown")
    labels = gr.HTML(elem_id="labels")
    with gr.Row():
        downloads = [
            gr.DownloadButton(
                f"\u2193 {label}", size="sm", visible=False, min_width=90, elem_id=f"save-{name}"
            )
            for name, label in SAVED
        ]
    earlier = gr.HTML(elem_id="earlier")
    return shown, labels, downloads, earlier


def _made(session: UiSession, kept: list[str], values: tuple[Any, ...], progress: gr.Progress) -> list[Any]:
    """Generate a clip and fill all outputs; an error that the user can correct is shown on the page."""
    form = FormValues.of(values)
    if not form.prompt.strip():
        raise gr.Error("Enter a prompt that says what should sing.", duration=None, print_exception=False)
    try:
        clip = session.make(form, lambda share: progress(share, desc="denoising"))
    except UserError as error:
        message = str(error)
        raise gr.Error(message[:1].upper() + message[1:], duration=None, print_exception=False) from error
    template = blocks("ui.html")
    figure = str(session.figure(clip, form))
    before = [one for one in kept if one != figure]
    files = (clip.sound, clip.picture, clip.table, clip.recipe)
    return [
        str(template.newest(Markup(figure))),
        str(session.labels(clip)),
        *(gr.DownloadButton(value=str(path), visible=True) for path in files),
        str(template.earlier([Markup(one) for one in before[:MOST_EARLIER]])) if before else "",
        [figure, *before][: MOST_EARLIER + 1],
    ]
