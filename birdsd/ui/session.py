"""The session behind the page of `birdsd ui`: a loaded model, requests, clips to show and keep."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from birdsd.diffusion.generation import generate as generation
from birdsd.diffusion.generation.generate import Clip
from birdsd.diffusion.generation.recommended import USUAL
from birdsd.diffusion.generation.request import Request
from birdsd.diffusion.generation.words import species_in
from birdsd.files import atomic_write, safe_name, sha256_file
from birdsd.pages.environment import blocks
from birdsd.pages.media import AudioClip, spectrogram
from birdsd.pages.page import name
from birdsd.schema import GenerateConfig
from birdsd.sound.audio.levels import fitted_words
from birdsd.sound.captions import prompt_for

if TYPE_CHECKING:
    from birdsd.diffusion.generation.generator import Generator


@dataclass(frozen=True)
class FormValues:
    """The values of the page's fields: `init` an uploaded recording, `mask_*` the part to regenerate."""

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
    def of(cls, given: Sequence[Any]) -> FormValues:
        """From the values of the fields in their order; an empty field has its default."""
        names = (field.name for field in fields(cls))
        filled = {name: value for name, value in zip(names, given, strict=True) if value not in (None, "")}
        return cls(**{"prompt": "", **filled})


@dataclass
class UiSession:
    """A model and where its clips go. One clip at a time: there is one model in memory."""

    config: GenerateConfig
    model: Generator
    out: Path

    def __post_init__(self) -> None:
        self.busy = Lock()

    @classmethod
    def open(cls, config: GenerateConfig) -> UiSession:
        """Load the model of a configuration."""
        from birdsd.runs.models.loading import load_model

        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        return cls(config, load_model(config), out)

    def usual(self, name: str) -> Any:
        """A sampling setting's initial value: from the command line, else as the model recommends."""
        given = getattr(self.config, name)
        return {**USUAL, **self.model.sampling}[name] if given is None else given

    @property
    def clip_s(self) -> float:
        return self.model.codec.clip_s

    @property
    def whole_s(self) -> float:
        """The clip's length as the page's sliders know it: to a hundredth of a second."""
        return math.floor(100 * self.clip_s) / 100

    def prompt(self, species: str | None, environment: str | None) -> str:
        """The prompt that the model has seen most often for a species in an environment."""
        names = [species] if species else []
        return prompt_for(names, (environment or "").strip()) if names or environment else ""

    def named_in(self, prompt: str) -> tuple[str, ...]:
        """The species that a prompt names."""
        return species_in(prompt, self.model.species)

    def first_prompt(self) -> str:
        """The prompt that the page opens with."""
        if self.config.prompt:
            return str(self.config.prompt[0])
        return self.prompt(next(iter(self.model.species), None), None) or "a bird singing"

    def request(self, values: FormValues) -> Request:
        """The request of the fields; `UserError` for what cannot be generated."""
        start = f"{values.init}@{values.start_s:g}" if values.init and values.start_s else values.init
        low, high = values.mask_start_s, values.mask_end_s
        masked = bool(values.init) and (low > 0 or high < self.whole_s)
        settings = replace(
            self.config,
            prompt=[values.prompt.strip()],
            guidance=float(values.guidance),
            steps=int(values.steps),
            seed=int(values.seed),
            seeds=[],
            count=1,
            negative_prompt=values.negative_prompt.strip(),
            scheduler=values.scheduler or self.config.scheduler,
            init=start or None,
            strength=None if masked or not values.init else values.strength,
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

    def make(self, values: FormValues, progress: Callable[[float], object] = lambda share: None) -> Clip:
        """Generate the clip, or find it where it was generated before.

        `progress` is called with the share that is done, 0 to 1.
        """
        if values.init:
            values = replace(values, init=self.keep_recording(values.init))
        request = self.request(values)
        with self.busy:
            whole = generation.steps_of(self.model, request) or 1
            done = [0]

            def tick() -> None:
                done[0] += 1
                progress(done[0] / whole)

            (clip,) = generation.generate(self.model, request, self.out, keep=True, progress=tick)
            return clip

    # -- for the page --------------------------------------------------------------------

    def figure(self, clip: Clip, values: FormValues) -> Markup:
        """The spectrogram with its axes, the player below it, and a caption."""
        shown = AudioClip.read(self.model.heard_codec, clip.picture, clip.sound)
        return spectrogram(
            shown.levels(), shown.codec, alt=f"Spectrogram of: {clip.prompt}",
            waveform=shown.waveform, rate_hz=shown.rate_hz, caption=self._caption(clip, values),
        )  # fmt: skip

    def _caption(self, clip: Clip, values: FormValues) -> str:
        caption = f"\u201c{clip.prompt}\u201d, seed {values.seed:g}, guidance {values.guidance:g}"
        if clip.gain_db:
            caption += f", {fitted_words(clip.gain_db)}"
        if values.init:
            request = self.request(values)
            span = request.span(self.clip_s)
            source = Path(values.init).name
            if span is not None:
                return f"{caption}; {span.start_s:g} to {span.end_s:g} s regenerated in {source}"
            strength = 1 - request.skipped_steps() / request.steps
            return f"{caption}; from {source} with strength {strength:.2g}"
        return caption

    def labels(self, clip: Clip) -> Markup:
        """The clip's Raven table, as a table, and where its files are."""
        from birdsd.sound.labels.load import read_raven

        rows = [
            [name(x.label), f"{x.start_s:.2f}", f"{x.end_s:.2f}", f"{_khz(x.low_hz)}\u2013{_khz(x.high_hz)}"]
            for x in read_raven(clip.table)
        ]
        return blocks("ui.html").labels(rows, self.out)

    @property
    def title(self) -> str:
        """What the model is called: its run, or its folder."""
        folder = self.model.folder.resolve()
        return folder.parent.name if folder.name == "export" else folder.name

    def facts(self) -> Markup:
        """The head of the page: what the model is, and the licences that bind its sounds."""
        model = self.model
        kinds = [f"{one.kind} {one.folder.parent.name}" for one in model.adapters]
        birds = f"{len(model.species)} species" if model.species else "unknown species"
        synthetic = "synthetic birds, " if model.training.get("synthetic") else ""
        line = (
            f"{synthetic}{birds}, clips of {self.clip_s:.3g} s at {model.codec.rate_hz / 1000:g} kHz, on "
            f"{model.device}" + (f", with {', '.join(kinds)}" if kinds else "")
        )
        licences = sorted(name for name in model.training.get("licences", {}) if "NC" in name or "SA" in name)
        return blocks("ui.html").facts(self.title, line, ", ".join(licences))


def _khz(hz: Any) -> str:
    return f"{float(hz or 0) / 1000:.3g}"
