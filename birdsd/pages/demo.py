"""The page that ends the demo: what was done, how it sounds, how it learnt, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from birdsd.evaluation.judged_run import JudgedRun
from birdsd.evaluation.weak_check import LearningCheck
from birdsd.pages import page as html
from birdsd.pages.charts import Curve, Marker, confusion_table, line_chart, meter, share_bar, smoothed
from birdsd.pages.demo_listen import Clip as Clip
from birdsd.pages.demo_listen import Pair as Pair
from birdsd.pages.demo_listen import listen
from birdsd.pages.judge import judged
from birdsd.pages.markup import Html, element, join
from birdsd.pages.page import Page, amount, name
from birdsd.sound.codec.protocol import Codec


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
    remark: str = ""  # e.g. what the proof of the bitwise equal resume showed


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

    @property
    def interrupted(self) -> bool:
        """Whether a run was stopped and resumed."""
        return any(training.interruptions for training in self.trainings)


def demo_page(out: Path, data: DemoData) -> Path:
    """Write the page to `out` (one self-contained HTML file) and return the path."""
    kind = "synthetic aviary" if data.synthetic else "real recordings"
    page = Page(
        title="From recordings to new song",
        lead=_lead(data),
        badges=(
            html.badge("birdsd demo"),
            html.badge("Synthetic birds: not recordings of any animal", warn=True) if data.synthetic
            else html.badge(kind),
        ),
        footer=f"Made by birdsd{' on ' + data.created if data.created else ''}, {data.machine}. "
        "This page needs no network: sounds, images and figures are embedded in the file.",
    )  # fmt: skip
    page.section("What was done", *_done(data))
    page.section("Listen", *listen(data.codec, data.pairs, data.synthetic, _judge(data)))
    page.section("Does it still hear the bird?", *judged(data.judged))
    page.section("Training curves", *_learnt(data))
    page.section("Species check (weak)", *_checked(data.check, data.synthetic))
    page.section("Cost", *_cost(data))
    page.section("Next steps", html.commands(data.commands))
    page.section("Recordings and licences", *_licences(data))
    return page.write(out)


def _lead(data: DemoData) -> str:
    birds = "synthetic species" if data.synthetic else "species"
    return (
        f"A latent diffusion model of {len(data.clips_per_species)} {birds}, trained from scratch in "
        f"{html.seconds(sum(s for _, s in data.stages))} on {data.machine}, and evaluated on held-out "
        "recordings."
    )


def _judge(data: DemoData) -> str:
    """The judge that spoke of the clips, "" without one."""
    told = data.judged.staircase if data.judged else None
    return told.credit if told is not None and told.known else ""


def _done(data: DemoData) -> list[Html]:
    parameters = sum(t.parameters for t in data.trainings)
    stopped = "was interrupted half-way and resumed where it had stopped, " if data.interrupted else ""
    sentence = (
        f"{amount(data.recordings)} recordings became {amount(data.clips)} labelled spectrograms of "
        f"{data.codec.clip_s:.2g} s. An autoencoder learnt to squeeze them, a diffusion model learnt to "
        f"draw them from a sentence, {stopped}and each sentence below was then drawn and turned back into "
        "sound."
    )
    codec = data.codec
    details = {
        "Recordings": element("span", "the synthetic aviary, " if data.synthetic else "", name(data.source)),
        "Codec": f"{codec.name}: {codec.description}",
        "Clips": join((Html(f"{name(s)}\u00a0{amount(n)}") for s, n in data.clips_per_species.items()), ", "),
        **data.facts,
    }
    figures = {
        "recordings": amount(data.recordings),
        "clips prepared": amount(data.clips),
        "minutes of sound": amount(60 * data.hours),
        "parameters trained": f"{parameters / 1e6:.1f} M",
        "samples seen": amount(sum(t.samples for t in data.trainings)),
    }
    blocks = [element("p", sentence), html.tiles(figures), html.key_values(details)]
    if data.synthetic:
        remark = (
            "The birds of this demo are the synthetic aviary: sweeps, trills and harmonics made by a "
            "program, so that the demo runs without any recording. Every name begins with "
            "\u201cSynthetic\u201d. With your own: "
        )
        own = element("code", "make demo RECORDINGS=folder")
        blocks.insert(1, html.note(element("p", remark, own), warn=True))
    return blocks


def _learnt(data: DemoData) -> list[Html]:
    return [
        element(
            "p",
            "The loss by samples seen. The validation loss is measured on held-out recordings with the same "
            "noise every time, so that its points can be compared; when it rises while the training loss "
            "falls, the model has begun to memorise the recordings.",
        ),
        *(training_block(training) for training in data.trainings),
    ]


def training_block(training: Training) -> Html:
    """The curves of one run with its interruptions marked, and its figures in a sentence."""
    losses, validation = training.training, training.validation
    window = max(1, len(losses.loss) // 40)
    curves = [Curve("training loss", losses.samples, losses.loss, "line" if window == 1 else "pale")]
    if window > 1:
        mean = smoothed(losses.loss, window)
        curves.append(Curve(f"its mean over {window} steps", losses.samples, mean))
    if len(validation.samples):
        curves.append(Curve("validation loss", validation.samples, validation.loss, "dots", 2))
    finite = [v for v in losses.loss if np.isfinite(v) and v > 0]
    wide = bool(finite) and max(finite) > 8 * min(finite)
    chart = line_chart(
        curves,
        x_label="samples seen",
        y_label=training.loss_label,
        log_y=wide,
        markers=[_marker(i) for i in training.interruptions],
        alt=_curve_in_words(training),
    )
    rate = training.samples / training.seconds if training.seconds else 0.0
    figures = (
        f"{training.parameters / 1e6:.2f} M parameters, {amount(training.samples)} samples in "
        f"{html.seconds(training.seconds)}, {amount(rate)} samples/s. {training.remark}"
    )
    return html.card(element("h3", training.title), chart, element("p", figures, class_="quiet"))


def _marker(stop: Interruption) -> Marker:
    if stop.resumed_at == stop.stopped_at:
        return Marker(stop.stopped_at, f"{stop.how} and resumed at {amount(stop.stopped_at)}")
    label = f"{stop.how} at {amount(stop.stopped_at)}, resumed from {amount(stop.resumed_at)}"
    return Marker(stop.resumed_at, label, stop.stopped_at)


def _curve_in_words(training: Training) -> str:
    losses, validation = training.training.loss, training.validation.loss
    said = [f"{training.title}: "]
    if len(losses):
        said.append(f"training loss from {losses[0]:.3g} to {losses[-1]:.3g}")
    if len(validation):
        said.append(f", validation loss from {validation[0]:.3g} to {validation[-1]:.3g}")
    for stop in training.interruptions:
        said.append(f"; {stop.how} at sample {stop.stopped_at} and resumed from {stop.resumed_at}")
    return "".join(said)


def _checked(check: LearningCheck | None, synthetic: bool) -> list[Html]:
    if check is None:
        return [element("p", "The check needs two species with training recordings; there were fewer.")]
    real = "held-out synthetic recordings" if synthetic else "held-out recordings"
    intro = element(
        "p",
        "A plain classifier (logistic regression on log-mel statistics) that was trained on "
        f"{amount(check.training_recordings)} training recordings only and never heard a generated clip. It "
        "is lenient: it knows these species only, and has to name one of them whatever it hears. Where the "
        "judge knows the species, believe the judge. "
        f"What it scores on {real} is what the check itself is worth; guessing scores "
        f"{100 * check.chance:.3g}%.",
    )
    blocks = [intro, _score_table(check, real), _verdicts(check, real)]
    pictures = []
    for one, title, rows in (
        (check.held_out, f"Clips of {real}", "true"),
        (check.generated, "Generated clips", "asked for"),
    ):
        if one:
            counts = np.asarray(one.confusion)
            table = confusion_table(check.species, counts, title=title, rows=rows, columns="named")
            pictures.append(html.card(table))
    return [*blocks, html.grid(*pictures)]


def _score_table(check: LearningCheck, real: str) -> Html:
    scores = (check.held_out, check.generated)

    def cells(species: str) -> list[object]:
        found: list[object] = []
        for colour, one in enumerate(scores, start=1):
            share = one.per_species.get(species) if one else None
            if one is None or share is None:
                found += ["\u2013", "0"]
            else:
                found += [meter(share, mark=check.chance, colour=colour), one.clips_per_species[species]]
        return found

    total: list[object] = ["All"]
    for colour, one in enumerate(scores, start=1):
        if one:
            interval = (one.low, one.high)
            total += [meter(one.accuracy, mark=check.chance, interval=interval, colour=colour), one.clips]
        else:
            total += ["\u2013", "0"]
    rows: list[list[object]] = [[name(species), *cells(species)] for species in check.species]
    headers = ["Species", "Held-out", "clips", "Generated", "clips"]
    caption = (
        f"Share of clips whose species the weak check named right, for {real} and generated ones. The "
        f"vertical line is chance, {100 * check.chance:.3g}%; the horizontal one in the last row the 95% "
        "interval."
    )
    return html.table(headers, [*rows, total], caption=caption, numeric=(2, 4), total=True, wide=True)


def _verdicts(check: LearningCheck, real: str) -> Html:
    said = []
    for title, one in ((real[0].upper() + real[1:], check.held_out), ("Generated clips", check.generated)):
        if one:
            said.append(element("p", element("b", title), f": {one.verdict()}."))
    if check.nearness:
        said.append(element("p", element("b", "Copies and variety"), f": {check.nearness.verdict()}."))
    good = bool(check.generated and check.generated.better_than_chance)
    copied = bool(check.nearness and check.nearness.copies)
    return html.note(*said, warn=copied or not good)


def _cost(data: DemoData) -> list[Html]:
    whole = sum(s for _, s in data.stages)
    figures: dict[str, object] = {
        "in total": html.seconds(whole),
        "peak memory": html.gibibytes(data.peak_memory_bytes),
    }
    for training in data.trainings:
        if training.seconds:
            figures[f"samples/s, {training.title.lower()}"] = amount(training.samples / training.seconds)
    words = ", ".join(f"{title} {html.seconds(s)}" for title, s in data.stages)
    return [html.tiles(figures), share_bar(data.stages, alt=f"Where the time went: {words}")]


def _licences(data: DemoData) -> list[Html]:
    if data.synthetic:
        text = "The synthetic aviary was made by birdsd and is in the public domain (CC0)."
    else:
        text = (
            "A model and its output may inherit conditions of what it was trained on: non-commercial and "
            "share-alike licences above all. These are the recordings used."
        )
    unknown = "not stated"
    rows = [[name(licence or unknown), amount(n), name(who or unknown)] for licence, who, n in data.credits]
    return [element("p", text), html.table(["Licence", "Recordings", "Recordists"], rows, numeric=(1,))]
