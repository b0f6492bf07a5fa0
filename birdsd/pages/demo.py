"""The demo's page: what was done, how it sounds, how the training went, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from birdsd.evaluation.judged_run import JudgedRun
from birdsd.evaluation.weak_check import LearningCheck
from birdsd.pages.charts import Marker, loss_chart, time_bar
from birdsd.pages.environment import amount, duration
from birdsd.pages.judge import clip_caption, judged
from birdsd.pages.media import SHOWN_DB, AudioClip, spectrogram
from birdsd.pages.page import Page
from birdsd.pages.scene import SceneFolder, scene_figure, scene_table
from birdsd.sound.codec.protocol import Codec


@dataclass(frozen=True)
class Pair:
    """A generated clip beside a held-out recording of the species it was asked for; None: there is none."""

    species: str
    prompt: str
    generated: AudioClip
    real: AudioClip | None


@dataclass(frozen=True)
class Losses:
    """A loss by samples seen."""

    samples: Sequence[int]
    loss: Sequence[float]


@dataclass(frozen=True)
class Interruption:
    """A stop and the resume that followed; `resumed_at` is the checkpoint's position, in samples."""

    stopped_at: int
    resumed_at: int
    how: str = "killed"


@dataclass(frozen=True)
class Training:
    """One training run."""

    title: str  # e.g. "Autoencoder", "Diffusion model"
    training: Losses
    validation: Losses
    parameters: int
    samples: int
    seconds: float
    interruptions: Sequence[Interruption] = ()
    loss_label: str = "loss"
    remark: str = ""  # e.g. how the bitwise identical resume was checked


@dataclass(frozen=True)
class ClosingScene:
    """The scene that the page ends with: the sentence that it was made of, and its folder; None: it could
    not be made, and `why`."""

    prompt: str
    folder: Path | None
    why: str = ""
    chosen: str = ""  # how its species were


@dataclass(frozen=True)
class DemoData:
    """Everything the page shows."""

    synthetic: bool  # the recordings are the synthetic aviary
    source: str  # where the recordings came from, as the user named it
    codec: Codec
    recordings: int
    clips: int
    hours: float
    clips_per_species: Mapping[str, int]
    pairs: Sequence[Pair]
    trainings: Sequence[Training]
    check: LearningCheck | None
    stages: Sequence[tuple[str, float]]  # (name, seconds) in order
    peak_memory_bytes: int
    machine: str  # e.g. "2 CPU cores, no GPU"
    commands: Sequence[tuple[str, str]]  # (what it does, command)
    credits: Sequence[tuple[str, str, int]]  # (licence, recordists, recordings)
    facts: Mapping[str, str] = field(default_factory=dict)  # more details: versions, seed, signature
    created: str = ""  # date, as text
    judged: JudgedRun | None = None
    scene: ClosingScene | None = None

    @property
    def interrupted(self) -> bool:
        """Whether a run was stopped and resumed."""
        return any(training.interruptions for training in self.trainings)


def demo_page(out: Path, data: DemoData) -> Path:
    """Write the page to `out` (one self-contained HTML file) and return the path."""
    kind = "Synthetic birds: not recordings of any animal" if data.synthetic else "real recordings"
    whole_s = sum(seconds for _, seconds in data.stages)
    birds = "synthetic species" if data.synthetic else "species"
    page = Page(
        title="From recordings to new song",
        lead=f"A latent diffusion model of {len(data.clips_per_species)} {birds}, trained from scratch in "
        f"{duration(whole_s)} on {data.machine}, and evaluated on held-out recordings.",
        badges=("birdsd demo", kind),
        warns=data.synthetic,
        css=("scene.css",),
        footer=f"Made by birdsd{' on ' + data.created if data.created else ''}, {data.machine}. "
        "This page needs no network: sounds, images and figures are embedded in the file.",
    )
    judge = data.judged.staircase if data.judged else None
    page.fill(
        "demo.html", data=data, judged=judged(data.judged), shown_db=SHOWN_DB, whole_s=whole_s,
        judge=judge.credit if judge is not None and judge.known else "",
        parameters=sum(t.parameters for t in data.trainings),
        samples=sum(t.samples for t in data.trainings),
        species=[_species(data, name) for name in dict.fromkeys(pair.species for pair in data.pairs)],
        curves=[(training, _curve(training)) for training in data.trainings],
        scores=_scores(data.check, data.synthetic) if data.check else [],
        unconvincing=data.check is not None and not _convinces(data.check),
        time_bar=time_bar(data.stages),
        scene=_scene(data.scene),
    )  # fmt: skip
    return page.write(out)


def _scene(scene: ClosingScene | None) -> dict[str, Any] | None:
    """What the template shows of the scene; None without one."""
    if scene is None:
        return None
    if scene.folder is None:
        return {"prompt": scene.prompt, "why": scene.why}
    held = SceneFolder(scene.folder)
    figure = scene_figure(held, f"Spectrogram of the scene: {scene.prompt}")
    told = {"figure": figure, "table": scene_table(held), "labels": held.labels, "notes": held.notes}
    return {"prompt": scene.prompt, "why": "", "chosen": scene.chosen, **told}


def _species(data: DemoData, species: str) -> tuple[Pair, list[tuple[Markup, Markup | None]]]:
    """The first pair of a species, and the figures of all its pairs (generated, real) on one colour scale."""
    pairs = [pair for pair in data.pairs if pair.species == species]
    clips = [clip for pair in pairs for clip in (pair.generated, pair.real) if clip is not None]
    loudest_db = max(clip.loudest_db for clip in clips)
    real = "Held-out synthetic recording" if data.synthetic else "Held-out recording"

    def figure(clip: AudioClip, title: str, alt: str) -> Markup:
        return spectrogram(
            clip.levels(loudest_db), clip.codec, alt=alt, title=title, waveform=clip.waveform,
            rate_hz=clip.rate_hz, caption=clip_caption(clip.verdict, clip.caption),
        )  # fmt: skip

    rows = []
    for number, pair in enumerate(pairs, start=1):
        label = f"Generated {number}" if len(pairs) > 1 else "Generated"
        generated = figure(pair.generated, label, f"Spectrogram generated for the prompt: {pair.prompt}")
        alt = f"Spectrogram of a held-out recording of {species}"
        rows.append((generated, figure(pair.real, real, alt) if pair.real is not None else None))
    return pairs[0], rows


def _curve(training: Training) -> Markup:
    """The losses of one run with its interruptions marked."""
    validation = list(zip(training.validation.samples, training.validation.loss, strict=True))
    return loss_chart(
        training.training.samples, training.training.loss, validation, label=training.loss_label,
        title=training.title, markers=[_marker(stop) for stop in training.interruptions],
        stops=[f"{stop.how} at sample {stop.stopped_at} and resumed from {stop.resumed_at}"
               for stop in training.interruptions],
    )  # fmt: skip


def _marker(stop: Interruption) -> Marker:
    if stop.resumed_at == stop.stopped_at:
        return Marker(stop.stopped_at, f"{stop.how} and resumed at {amount(stop.stopped_at)}")
    label = f"{stop.how} at {amount(stop.stopped_at)}, resumed from {amount(stop.resumed_at)}"
    return Marker(stop.resumed_at, label, stop.stopped_at)


def _scores(check: LearningCheck, synthetic: bool) -> list[dict[str, Any]]:
    """The weak check's scores of held-out and of generated clips, each with its titles."""
    real = f"held-out {'synthetic ' if synthetic else ''}recordings"
    titles = (
        (check.held_out, f"Clips of {real}", real.capitalize(), "true"),
        (check.generated, "Generated clips", "Generated clips", "asked for"),
    )
    return [
        {"score": score, "title": title, "subject": subject, "rows": rows}
        for score, title, subject, rows in titles
    ]


def _convinces(check: LearningCheck) -> bool:
    good = check.generated is not None and check.generated.better_than_chance
    return good and not (check.nearness is not None and check.nearness.copies)
