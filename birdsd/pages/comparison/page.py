"""The page of a comparison: what each arm learnt, how it sounds, what it cost, and what that is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from birdsd.evaluation.comparison import CLEAR, IN_ENVIRONMENT, KNOWN, NEW, ArmResult, Comparison, Difference
from birdsd.pages import page as html
from birdsd.pages.charts import Curve, confusion_table, line_chart, meter, share_bar
from birdsd.pages.comparison import text as words
from birdsd.pages.comparison.heard import judge_cell, judge_intro, real_and_measures
from birdsd.pages.comparison.sounds import sounds
from birdsd.pages.comparison.style import CSS
from birdsd.pages.markup import Html, element, join
from birdsd.pages.page import Page, amount, name

if TYPE_CHECKING:
    from birdsd.shards.index import ShardIndex

TITLES = {
    "methods": "Comparison of fine-tuning methods",
    "four_ways": "Fine-tuned or from scratch, on song or on song with environment",
}


def comparison_page(out: Path, comparison: Comparison, index: ShardIndex) -> Path:
    """Write the page to `out` (one self-contained HTML file) and return the path. `index`: the shards whose
    training recordings stand beside the generated clips."""
    settings, absent = comparison.settings, len(comparison.missing)
    page = Page(
        title=TITLES.get(comparison.name, comparison.name),
        lead=_lead(comparison),
        badges=(
            html.badge(f"birdsd {comparison.name}"),
            html.badge(f"one seed, {settings['clips_per_species']} clips of each species from each arm"),
            *([html.badge(f"{absent} arms are missing", warn=True)] if absent else []),
        ),
        css=CSS,
        footer=f"Made by birdsd on {settings.get('machine', '')}. This page needs no network: sounds, "
        "images and figures are embedded in the file.",
    )  # fmt: skip
    page.section("Summary", *_in_short(comparison))
    page.section("Learning and forgetting", *_learnt(comparison))
    page.section("Listen", *sounds(comparison, index))
    if any(arm.background for arm in comparison.shown):
        page.section("Effect of the environment", *_backgrounds(comparison))
    page.section("Cost", *_costs(comparison))
    page.section("Loss on held-out recordings", *_losses(comparison))
    page.section("Confusion matrices", *_confusions(comparison))
    page.section("Methods and settings", *_how(comparison))
    return page.write(out)


# -- in short ---------------------------------------------------------------------------------------------


def _lead(comparison: Comparison) -> str:
    count = sum(not arm.control for arm in comparison.arms)
    ways = {"methods": f"{count} fine-tuning methods", "four_ways": f"{count} models"}
    return (
        f"{ways.get(comparison.name, f'{count} arms')}, the same {len(comparison.new)} new species, the "
        f"same {amount(comparison.settings['samples'])} samples, the same seed: judged by "
        "classifiers that never heard a generated clip, and shown side by side for your own ears."
    )


def _in_short(comparison: Comparison) -> list[Html]:
    taught = [arm for arm in comparison.shown if not arm.control]
    beats = [arm for arm in taught if arm.gain and arm.gain.clear]
    rest = [arm for arm in taught if arm.gain and not arm.gain.clear]
    forgot = [arm for arm in taught if arm.forgetting and arm.forgetting.clear]
    copied = [arm for arm in taught if arm.nearness and arm.nearness.copies]
    control = next((arm for arm in comparison.shown if arm.control), None)
    said = []
    if control and NEW in control.scores:
        score = control.scores[NEW]
        said.append(
            f"When prompted for the new species, the untuned base model is named right by the "
            f"weak check in {score.accuracy:.0%} of {score.clips} clips. "
        )
    if beats:
        best = max(beats, key=lambda arm: arm.scores[NEW].accuracy)
        top = best.scores[NEW]
        said.append(
            f"Clearly better than that: {_listed(beats)}. The best is {best.title} with {top.accuracy:.0%} "
            f"({top.low:.0%} to {top.high:.0%})."
        )
    if comparison.judge:
        said.append(_judge_in_short(comparison, taught))
    if rest:
        said.append(f" Not distinguishable from the base model: {_listed(rest)}.")
    lost = []
    if forgot:
        lost.append(f"Clearly forgot some of what the base model knew: {_listed(forgot)}.")
    if copied:
        lost.append(f" Signs of copying training clips: {_listed(copied)}.")
    if not lost and taught:
        lost.append("No arm clearly forgot what the base model knew, and none shows signs of copying.")
    figures = {
        f"new species, taught from {_recordings(comparison)}": amount(len(comparison.new)),
        "known species, to measure retention": amount(len(comparison.known)),
        "training samples of each arm": amount(comparison.settings["samples"]),
        "clips evaluated": amount(sum(len(arm.clips) for arm in comparison.shown)),
    }
    blocks = [element("p", *said), element("p", *lost), html.tiles(figures)]
    if comparison.missing:
        lines = [
            element("p", element("b", name(arm.title)), ": ", name(arm.missing)) for arm in comparison.missing
        ]
        blocks.insert(0, html.note("This page is incomplete. Missing so far:", *lines, warn=True))
    return blocks


def _judge_in_short(comparison: Comparison, taught: Sequence[ArmResult]) -> str:
    """The best arm by the judge, which may be another one."""
    heard = [arm for arm in taught if NEW in arm.heard]
    if not heard:
        return ""
    best = max(heard, key=lambda arm: arm.heard[NEW].right.share)
    right = best.heard[NEW].right
    return (
        f" By {comparison.judge}, of all the species that it knows, the best is {best.title} with "
        f"{right.share:.0%} ({right.low:.0%} to {right.high:.0%})."
    )


def _recordings(comparison: Comparison) -> str:
    total = len(comparison.new) + len(comparison.known)
    return f"about {amount(round(comparison.training_recordings / max(1, total)))} recordings each"


def _listed(arms: Sequence[ArmResult]) -> str:
    ordered = sorted(arms, key=lambda arm: -arm.scores[NEW].accuracy if NEW in arm.scores else 0.0)
    names = [arm.title for arm in ordered]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# -- what they learnt -------------------------------------------------------------------------------------


def _learnt(comparison: Comparison) -> list[Html]:
    intro = element(
        "p",
        "The share of clips in which the weak check names the requested species. The horizontal "
        "line is the 95% interval. The vertical line is the score of a model that sings one of the "
        f"{len(comparison.new)} "
        f"new species whatever it is asked for ({comparison.always:.0%}); a classifier that guesses scores "
        f"{comparison.chance:.0%}. Known species: the vertical line is the base model.",
    )
    control = next((arm for arm in comparison.shown if arm.control and KNOWN in arm.scores), None)
    before = control.scores[KNOWN].accuracy if control else None
    headers = [
        "", *([f"New species, {comparison.stages.judge}"] if comparison.judge and comparison.stages else []),
        "New species, weak check", "Against the base model", "Known species", "Forgotten", "Agreement",
        "Copies",
    ]  # fmt: skip
    rows = [_learnt_row(comparison, arm, before) for arm in comparison.arms]
    caption = (
        "Against the base model and forgotten: points, and the clips gained and lost, clip by clip from "
        "the same noise (McNemar's exact test, one-sided, adjusted for all arms after Holm). Agreement: "
        "asked and named, over all species together, with Cohen's kappa. Copies: the share of clips of new "
        "species that lie nearer to a training clip than 95% of the held-out recordings do; 5% is expected."
    )
    table = html.table(headers, rows, caption=caption, wide=True)
    return [*judge_intro(comparison), intro, table, _worth(comparison), *real_and_measures(comparison)]


def _learnt_row(comparison: Comparison, arm: ArmResult, before: float | None) -> list[object]:
    head = element("span", element("b", arm.title), element("small", arm.says), class_="arm")
    if arm.missing:
        return [head, element("span", "missing", class_="quiet"), *[""] * (6 if comparison.judge else 5)]
    new, known = arm.scores.get(NEW), arm.scores.get(KNOWN)
    return [
        head,
        *([judge_cell(arm, NEW)] if comparison.judge else []),
        meter(new.accuracy, mark=comparison.always, interval=(new.low, new.high)) if new else "\u2013",
        element("span", "the control", class_="quiet") if arm.control else _difference(arm.gain, good=True),
        meter(known.accuracy, mark=before, interval=(known.low, known.high), colour=2) if known else "\u2013",
        _difference(arm.forgetting, good=False)
        if arm.knew_others
        else element("span", "never knew", class_="quiet"),
        _agreement(arm),
        _copies(arm),
    ]  # fmt: skip


def _difference(told: Difference | None, good: bool) -> object:
    if told is None:
        return "\u2013"
    points = 100 * (told.after - told.before) / max(1, told.pairs)
    kind = ("up" if good else "down") if told.clear else "even"
    p = "p\u00a0<\u00a00.001" if told.p_adjusted < 0.001 else f"p\u00a0=\u00a0{told.p_adjusted:.2g}"
    small = element("small", f"{told.gained} gained, {told.lost} lost; {p}")
    return element("span", element("b", f"{points:+.0f}", class_=kind), small, class_="change")


def _agreement(arm: ArmResult) -> object:
    if arm.everything is None:
        return "\u2013"
    small = element("small", f"\u03ba {arm.kappa:.2f}") if arm.kappa is not None else ""
    return element("span", element("b", f"{arm.everything.accuracy:.0%}"), small, class_="change")


def _copies(arm: ArmResult) -> object:
    if arm.nearness is None:
        return "\u2013"
    kind = "down" if arm.nearness.copies else "even"
    small = element("small", f"distance {arm.nearness.generated_median:.2f}")
    return element("span", element("b", f"{arm.nearness.closer_than_held_out:.0%}", class_=kind), small,
                   class_="change")  # fmt: skip


def _worth(comparison: Comparison) -> Html:
    held = comparison.held_out
    worth = (
        f"The weak check is a plain classifier of {comparison.training_clips} training clips. It names "
        f"{held.accuracy:.0%} of {held.clips} clips of held-out recordings right ({held.low:.0%} to "
        f"{held.high:.0%}), so it is not ground truth: what it calls wrong may well be right, and vice versa."
        if held
        else "No recording was held out, so the accuracy of the weak check itself is unknown."
    )
    seed = (
        "One seed, one choice of new species: another might reorder close neighbours in this "
        f"table. Differences are called clear below p = {CLEAR:g}."
    )
    return html.note(element("p", element("b", "Limitations. "), worth), element("p", seed))


# -- costs, losses ----------------------------------------------------------------------------------------


def _costs(comparison: Comparison) -> list[Html]:
    intro = element(
        "p",
        "Time and memory of each arm's own training, and of making its clips. To share: what you would "
        "give to somebody who already has the base model, without codec and cards. An arm built on another "
        "arm includes that arm.",
    )
    gpu = any(arm.figures.gpu_mib for arm in comparison.shown)
    headers = ["", "Training", "Processor", "Memory", *(["GPU memory"] if gpu else []), "Clips", "Memory",
               "Trainable parameters", "To share"]  # fmt: skip
    rows = [_cost_row(arm, gpu) for arm in comparison.shown]
    numeric = tuple(range(1, len(headers)))
    return [intro, html.table(headers, rows, numeric=numeric, wide=True), _size_chart(comparison)]


def _cost_row(arm: ArmResult, gpu: bool) -> list[object]:
    figures = arm.figures
    least = "\u2265\u00a0" if figures.partly else ""

    def seconds(value: float) -> str:
        return least + html.seconds(value) if value else "\u2013"

    def memory(mib: float) -> str:
        return html.gibibytes(mib * 2**20) if mib else "\u2013"

    return [
        element("span", arm.title),
        seconds(figures.train_s),
        seconds(figures.train_cpu_s),
        memory(figures.peak_mib),
        *([memory(figures.gpu_mib)] if gpu else []),
        html.seconds(figures.generate_s) if figures.generate_s else "\u2013",
        memory(figures.generate_mib),
        amount(figures.parameters) if figures.parameters else "\u2013",
        words.to_share(arm).replace(" ", "\u00a0") if figures.share_bytes is not None else "\u2013",
    ]


def _size_chart(comparison: Comparison) -> Html:
    """What one hands on against what was learnt, as dots with their intervals."""
    arms = [arm for arm in comparison.shown if arm.figures.share_bytes and NEW in arm.scores]
    if len(arms) < 2:
        return Html("")
    sizes = np.log10([arm.figures.share_bytes or 1 for arm in arms])
    low, high = float(np.floor(sizes.min())), float(np.ceil(sizes.max()))
    low, high = (low, high) if high > low else (low, low + 1)
    dots = []
    for arm, place in sorted(zip(arms, sizes, strict=True), key=lambda pair: pair[1]):
        score = arm.scores[NEW]
        left = f"left:{100 * (place - low) / (high - low):.2f}%"
        tip = f"{arm.title}: {words.to_share(arm)}, {score.accuracy:.0%}"
        whisker = f"{left};bottom:{100 * score.low:.1f}%;height:{100 * (score.high - score.low):.1f}%"
        dots += [
            element("s", style=whisker),
            element("i", style=f"{left};bottom:{100 * score.accuracy:.1f}%", title=tip),
            element(
                "span", arm.title, class_="right" if place - low > 0.62 * (high - low) else None,
                style=f"{left};bottom:{100 * score.accuracy:.1f}%",
            ),
        ]  # fmt: skip
    marks = [
        element("span", words.size(10**int(p)), style=f"left:{100 * (p - low) / (high - low):.2f}%",
                class_="first" if p == low else "last" if p == high else None)
        for p in np.arange(low, high + 1)
    ]  # fmt: skip
    levels = [element("span", f"{v}%", style=f"bottom:{v}%") for v in (0, 25, 50, 75, 100)]
    lines = [element("u", style=f"bottom:{v}%") for v in (25, 50, 75)]
    chance = element("u", class_="chance", style=f"bottom:{100 * comparison.always:.1f}%")
    alt = "New species named right against the bytes to share, one dot per arm; the table has the figures"
    frame = element(
        "div", element("div", *levels, class_="y", aria_hidden="true"),
        element("div", *lines, chance, *dots, class_="field dots", role="img", aria_label=alt),
        element("div", *marks, class_="x", aria_hidden="true"), class_="plot",
    )  # fmt: skip
    units = element("div", element("span", "new species named right"), element("span", "bytes to share"),
                    class_="units")  # fmt: skip
    return html.card(element("h3", "Adapter size vs. accuracy"), units, frame)


def _losses(comparison: Comparison) -> list[Html]:
    compare = [arm for arm in comparison.shown if arm.loss == "denoising" and arm.validation.losses]
    if not compare:
        return [element("p", "No arm was validated: there are no held-out recordings of the new species.")]
    count = max(arm.validation.samples for arm in compare)
    intro = element(
        "p",
        f"The denoising loss on the same {count} held-out clips of the new species, with the same noise "
        "each time. It compares only among arms that learn by this loss, and on so few clips it is a rough "
        "measure. It says how well noise is predicted, not whether the song is right: where it and the "
        "classifiers disagree, listen.",
    )
    # Six colours; an arm more would share one.
    curves = [
        Curve(arm.title, arm.validation.positions, arm.validation.losses, "line", number % 6 + 1)
        for number, arm in enumerate(compare)
    ]
    said = "; ".join(f"{arm.title} {arm.validation.losses[-1]:.3g}" for arm in compare)
    alt = f"Validation losses: {said}"
    chart = line_chart(curves, x_label="samples seen", y_label="validation loss", alt=alt)
    rows = [
        [arm.title, f"{arm.final_loss:.4f}", f"{min(arm.validation.losses):.4f}",
         amount(arm.validation.positions[int(np.argmin(arm.validation.losses))])]
        for arm in sorted(compare, key=lambda arm: arm.validation.losses[-1])
    ]  # fmt: skip
    table = html.table(["", "At the end", "Lowest", "at samples"], rows, numeric=(1, 2, 3))
    without = [arm.title for arm in comparison.shown if not arm.loss]
    note = element("p", f"Without such a loss: {', '.join(without)}.", class_="quiet") if without else ""
    return [intro, html.card(chart), table, note if isinstance(note, Html) else Html("")]


# -- the environment, confusions, how ---------------------------------------------------------------------


def _backgrounds(comparison: Comparison) -> list[Html]:
    places = " and ".join(f"\u201cin {place}\u201d" for place in comparison.environments)
    held = comparison.background_held_out
    intro = element(
        "p",
        f"Each clip of a new species was asked for once plainly and once with {places}, from the same "
        "noise. What changes between the songs: the level of the quietest fifth of a clip, relative to its "
        "loud parts; and what a plain classifier of backgrounds hears there.",
    )
    rows = []
    for arm in comparison.shown:
        told = arm.background
        if told is None:
            continue
        p = "p\u00a0<\u00a00.001" if told.p_value < 0.001 else f"p\u00a0=\u00a0{told.p_value:.2g}"
        score = arm.scores.get(IN_ENVIRONMENT)
        rows.append([
            element("span", arm.title),
            f"{told.without_db:.1f} dB", f"{told.with_db:.1f} dB",
            element("span", element("b", f"{told.change_db:+.1f} dB"),
                    element("small", f"{told.low_db:+.1f} to {told.high_db:+.1f}; {p}"), class_="change"),
            "\u2013" if told.named_asked is None else meter(told.named_asked, mark=held.get("chance")),
            "\u2013" if told.named_none is None else meter(told.named_none, colour=3),
            meter(score.accuracy, mark=comparison.always, interval=(score.low, score.high), colour=2)
            if score else "\u2013",
        ])  # fmt: skip
    headers = ["", "Between songs, plain", "with the words", "Change", "The environment is heard",
               "None is heard when none is asked", "The bird, in the environment"]  # fmt: skip
    real = ""
    if "with_db" in held and "without_db" in held:
        real = (
            f"In held-out recordings it is {held['without_db']:.1f} dB without and {held['with_db']:.1f} dB "
            "with an environment mixed in. "
        )
    if "accuracy" in held:
        real += (
            f"The classifier of backgrounds names {held['accuracy']:.0%} of {held['clips']:.0f} held-out "
            f"clips right (guessing: {held['chance']:.0%})."
        )
    return [intro, html.table(headers, rows, numeric=(1, 2), wide=True), html.note(element("p", real))]


def _confusions(comparison: Comparison) -> list[Html]:
    tables = []
    species = sorted([*comparison.new, *comparison.known])
    for arm in comparison.shown:
        if arm.everything:
            counts = np.asarray(arm.everything.confusion)
            tables.append(html.card(
                confusion_table(species, counts, title=arm.title, rows="asked for", columns="named")
            ))  # fmt: skip
    if comparison.held_out:
        counts = np.asarray(comparison.held_out.confusion)
        tables.insert(0, html.card(
            confusion_table(species, counts, title="Held-out recordings", rows="true", columns="named")
        ))  # fmt: skip
    summary = element("summary", f"{len(tables)} tables: recordings first, then each arm")
    intro = element(
        "p", "Rows: requested species. Columns: the species that the weak check named. Entries: clips."
    )
    return [intro, element("details", summary, html.grid(*tables), class_="confusions")]


def _how(comparison: Comparison) -> list[Html]:
    settings = comparison.settings
    values: dict[str, object] = {
        "Recordings": name(settings.get("recordings", "")),
        "New species": join((name(one) for one in comparison.new), ", "),
        "Known species": join((name(one) for one in comparison.known), ", "),
        "Base model": name(settings.get("base", "")),
        "Model, codec": f"{settings['model']}, {settings['codec']}",
        "Samples": f"{amount(settings['samples'])} for each arm",
        "Clips": f"{settings['clips_per_species']} a prompt, {settings['steps']} steps, guidance "
        f"{settings['guidance']:g}, seed {settings['seed']}",
        "Machine": name(settings.get("machine", "")),
    }
    stages = [
        *comparison.foundations,
        *((f"training {arm.title}", arm.figures.train_s) for arm in comparison.shown if not arm.control),
        ("all clips", sum(arm.figures.generate_s for arm in comparison.shown)),
    ]
    stages = [(title, seconds) for title, seconds in stages if seconds > 0]
    alt = "Where the time went: " + ", ".join(f"{title} {html.seconds(s)}" for title, s in stages)
    return [
        html.key_values(values),
        element("h3", f"Time breakdown: {html.seconds(sum(s for _, s in stages))} in total"),
        share_bar(stages, alt=alt),
    ]
