"""What the page of `birdsd ui` does, without the page: a loaded model, a request, a clip to show and keep."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from birdsd.diffusion.generation import generate as room
from birdsd.diffusion.generation.generate import Clip
from birdsd.diffusion.generation.recommended import USUAL
from birdsd.diffusion.generation.request import Request
from birdsd.diffusion.generation.words import species_in
from birdsd.files import atomic_write, safe_name, sha256_file
from birdsd.pages import page as html
from birdsd.pages.grid import Shown
from birdsd.pages.markup import Html, element
from birdsd.pages.media import picture_levels, spectrogram
from birdsd.schema import GenerateConfig
from birdsd.sound.audio.levels import fitted_words
from birdsd.sound.captions import prompt_for

if TYPE_CHECKING:
    from birdsd.diffusion.generation.generator import Generator


@dataclass(frozen=True)
class Asked:
    """What the page's fields say. `init` is an uploaded recording, `mask_*` the stretch to make anew."""

    prompt: str
    guidance: float
    steps: int
    seed: int
    negative_prompt: str = ""
    scheduler: str | None = None
    init: str | None = None
    start_s: float = 0.0
    strength: float | None = None
    mask_start_s: float = 0.0
    mask_end_s: float = math.inf

    @classmethod
    def of(cls, values: Sequence[Any]) -> Asked:
        """From the values of the fields in their order; an empty field is as usual."""
        names = (field.name for field in fields(cls))
        given = {name: value for name, value in zip(names, values, strict=True) if value not in (None, "")}
        return cls(**{"prompt": "", **given})


@dataclass
class Studio:
    """A model and where its clips go. One clip at a time: there is one model in memory."""

    config: GenerateConfig
    model: Generator
    out: Path

    def __post_init__(self) -> None:
        self._busy = Lock()

    @classmethod
    def open(cls, config: GenerateConfig) -> Studio:
        """Load the model of a configuration."""
        from birdsd.runs.models.loading import load_model

        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        return cls(config, load_model(config), out)

    def usual(self, name: str) -> Any:
        """What a setting of the sampling is at first: as the page was asked, else as the model recommends."""
        asked = getattr(self.config, name)
        return {**USUAL, **self.model.sampling}[name] if asked is None else asked

    @property
    def clip_s(self) -> float:
        return self.model.codec.clip_s

    @property
    def whole_s(self) -> float:
        """The clip's length as the page's sliders know it: to a hundredth of a second."""
        return math.floor(100 * self.clip_s) / 100

    def prompt(self, species: str | None, environment: str | None) -> str:
        """The sentence that the model has read most often for a species in an environment."""
        names = [species] if species else []
        return prompt_for(names, (environment or "").strip()) if names or environment else ""

    def named_in(self, prompt: str) -> tuple[str, ...]:
        """The species that a prompt names."""
        return species_in(prompt, self.model.species)

    def first_prompt(self) -> str:
        """What stands on the page at first."""
        if self.config.prompt:
            return str(self.config.prompt[0])
        return self.prompt(next(iter(self.model.species), None), None) or "a bird singing"

    def request(self, asked: Asked) -> Request:
        """The request of the fields; `UserError` for what cannot be made."""
        start = f"{asked.init}@{asked.start_s:g}" if asked.init and asked.start_s else asked.init
        low, high = asked.mask_start_s, asked.mask_end_s
        masked = bool(asked.init) and (low > 0 or high < self.whole_s)
        settings = replace(
            self.config,
            prompt=[asked.prompt.strip()],
            guidance=float(asked.guidance),
            steps=int(asked.steps),
            seed=int(asked.seed),
            seeds=[],
            count=1,
            negative_prompt=asked.negative_prompt.strip(),
            scheduler=asked.scheduler or self.config.scheduler,
            init=start or None,
            strength=None if masked or not asked.init else asked.strength,
            mask_start_s=low if masked else None,
            mask_end_s=high if masked and high < self.whole_s else None,
        )
        return Request.of(settings, self.model.sampling)

    def keep_recording(self, path: str) -> str:
        """Copy an uploaded recording to the clips, whose recipes name it: uploads do not outlive the page."""
        source = Path(path)
        if not source.is_file() or source.is_relative_to(self.out.resolve()):
            return path
        mark = sha256_file(source)[:8]
        kept = self.out.resolve() / "recordings" / f"{safe_name(source.stem, 60)}-{mark}{source.suffix}"
        if not kept.is_file():
            with atomic_write(kept) as stream, open(source, "rb") as sound:
                shutil.copyfileobj(sound, stream)
        return str(kept)

    def make(self, asked: Asked, told: Callable[[float], object] = lambda share: None) -> Clip:
        """Make the clip, or find it where it was made before; `told` hears the share that is done, 0..1."""
        if asked.init:
            asked = replace(asked, init=self.keep_recording(asked.init))
        request = self.request(asked)
        with self._busy:
            whole = room.steps_of(self.model, request) or 1
            done = [0]

            def tick() -> None:
                done[0] += 1
                told(done[0] / whole)

            (clip,) = room.generate(self.model, request, self.out, keep=True, progress=tick)
            return clip

    # -- what there is to see --------------------------------------------------------------------

    def figure(self, clip: Clip, asked: Asked) -> Html:
        """The spectrogram with its axes, the player below it, and what it is."""
        codec = self.model.codec
        shown = Shown.read(codec, clip.picture, clip.sound)
        return spectrogram(
            picture_levels(codec, shown.image),
            codec.row_hz(),
            codec.clip_s,
            alt=f"Spectrogram of: {clip.prompt}",
            waveform=shown.waveform,
            rate_hz=shown.rate_hz,
            caption=self._caption(clip, asked),
        )

    def _caption(self, clip: Clip, asked: Asked) -> str:
        said = f"\u201c{clip.prompt}\u201d, seed {asked.seed:g}, guidance {asked.guidance:g}"
        if clip.gain_db:
            said += f", {fitted_words(clip.gain_db)}"
        if asked.init:
            request = self.request(asked)
            span = request.span(self.clip_s)
            name = Path(asked.init).name
            if span is not None:
                return f"{said}; {span.start_s:g} to {span.end_s:g} s regenerated in {name}"
            strength = 1 - request.skipped_steps() / request.steps
            return f"{said}; from {name} with strength {strength:.2g}"
        return said

    def labels(self, clip: Clip) -> Html:
        """The clip's Raven table, as a table."""
        from birdsd.sound.labels.load import read_raven

        rows = [
            [
                html.name(x.label),
                f"{x.start_s:.2f}",
                f"{x.end_s:.2f}",
                f"{_khz(x.low_hz)}\u2013{_khz(x.high_hz)}",
            ]
            for x in read_raven(clip.table)
        ]
        if not rows:
            return element("p", "No label: the prompt names no species known to this model.", class_="quiet")
        return html.table(["Label", "from, s", "to, s", "kHz"], rows, numeric=(1, 2, 3))

    def facts(self) -> Html:
        """What the model is, in two lines."""
        model = self.model
        kinds = [f"{one.kind} {one.folder.parent.name}" for one in model.adapters]
        folder = model.folder.resolve()
        title = folder.parent.name if folder.name == "export" else folder.name
        heard = f"{len(model.species)} species" if model.species else "unknown species"
        made = "synthetic birds, " if model.training.get("synthetic") else ""
        line = (
            f": {made}{heard}, clips of {self.clip_s:.3g} s at {model.codec.rate_hz / 1000:g} kHz, on "
            f"{model.device}" + (f", with {', '.join(kinds)}" if kinds else "") + "."
        )
        licences = sorted(name for name in model.training.get("licences", {}) if "NC" in name or "SA" in name)
        rights = (
            f"Trained on recordings under {', '.join(licences)}: this may restrict the use of its sounds."
        )
        return element(
            "div",
            element("div", element("b", html.name(title)), line),
            element("div", rights) if licences else "",
            class_="model",
        )


def _khz(hz: Any) -> str:
    return f"{float(hz or 0) / 1000:.3g}"
