"""A comparison as a table for a terminal, and as sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from birdsd.evaluation.comparison import p_text
from birdsd.format import size, span, table

if TYPE_CHECKING:
    from birdsd.evaluation.comparison import ArmResult, Comparison

_HEADS = (
    "", "judge", "new species", "95%", "vs base", "known", "agreed", "copies", "loss", "training", "memory",
    "to share", "learns",
)  # fmt: skip


def text(comparison: Comparison) -> str:
    """The table, missing arms, and what the figures are worth."""
    lines = table([_HEADS, *(_row(comparison, arm) for arm in comparison.arms)])
    lines += ["", *remarks(comparison)]
    lines += [f"missing: {arm.title}: {arm.missing}" for arm in comparison.missing]
    return "\n".join(lines)


def _row(comparison: Comparison, arm: ArmResult) -> list[str]:
    if arm.missing:
        return [arm.title, "missing", *[""] * (len(_HEADS) - 2)]
    new, known = arm.scores.get("new"), arm.scores.get("known")
    figures = arm.figures
    return [
        arm.title,
        heard(arm),
        f"{new.accuracy:.0%} of {new.clips}" if new else "-",
        f"{new.low:.0%}-{new.high:.0%}" if new else "-",
        against(arm),
        f"{known.accuracy:.0%} of {known.clips}" if known else "-",
        f"{arm.everything.accuracy:.0%}" if arm.everything else "-",
        copies(arm),
        loss(arm),
        duration(arm),
        memory(arm),
        to_share(arm),
        f"{figures.parameters:,}" if figures.parameters else "-",
    ]


def heard(arm: ArmResult) -> str:
    """The share of clips of new species that the judge names right, of all species it knows."""
    named = arm.heard.get("new")
    return f"{named.right.share:.0%} of {named.clips}" if named else "-"


def against(arm: ArmResult) -> str:
    """Whether it beats the base model, e.g. '+38, p < 0.001'."""
    if arm.gain is None:
        return "-"
    points = 100 * (arm.gain.after - arm.gain.before) / max(1, arm.gain.pairs)
    return f"{points:+.0f}, {p_text(arm.gain.p_adjusted)}"


def copies(arm: ArmResult) -> str:
    """The share of clips nearer to training than 95% of the held-out are; marked where it is too much."""
    if arm.nearness is None:
        return "-"
    return f"{arm.nearness.closer_than_held_out:.0%}{' (!)' if arm.nearness.copies else ''}"


def loss(arm: ArmResult) -> str:
    """The last validation loss."""
    return "-" if arm.final_loss is None else f"{arm.final_loss:.4f}"


def duration(arm: ArmResult) -> str:
    """The wall time of its training; at least that where some of it was never recorded."""
    if not arm.figures.train_s:
        return "-"
    least = ">" if arm.figures.partly else ""
    return least + span(arm.figures.train_s, exact=True)


def memory(arm: ArmResult) -> str:
    """Peak memory of the host, and of the GPU where there was one."""
    figures = arm.figures
    if not figures.peak_mib:
        return "-"
    gpu = f" + GPU {size(figures.gpu_mib * 2**20)}" if figures.gpu_mib else ""
    return size(figures.peak_mib * 2**20) + gpu


def to_share(arm: ArmResult) -> str:
    """The size of what one would share."""
    return "-" if arm.figures.share_bytes is None else size(arm.figures.share_bytes)


def remarks(comparison: Comparison) -> list[str]:
    """How to read the figures and what they are worth, in sentences."""
    settings = comparison.settings
    held_out = comparison.held_out
    count = settings["clips_per_species"]
    lines = [
        *judge_remarks(comparison),
        f"One seed ({settings['seed']}); {count} clips of each species from each arm, from the same noise "
        "and the same prompts.",
        f"Chance: {comparison.chance:.0%} for a classifier that guesses, {comparison.always:.0%} for a model "
        "that sings one of the new species whatever the prompt.",
        "vs base: points on the new species against the base model with the same prompts; p by McNemar's "
        "exact test clip by clip, adjusted for all arms (Holm).",
        "known: retention of the species that the base model knew; agreed: all species together.",
        "copies: share of clips nearer to a training clip than 95% of the held-out ones are; 5% is expected.",
        "loss: on held-out recordings of the new species; only the denoising losses compare, and a loss says "
        "less about the sound than a classifier does.",
    ]
    if held_out:
        lines.append(
            f"The weak check (logistic regression, {comparison.training_clips} clips of "
            f"{comparison.training_recordings} recordings) names {held_out.accuracy:.0%} of "
            f"{held_out.clips} held-out clips right ({held_out.low:.0%} to {held_out.high:.0%}): it is not "
            "ground truth."
        )
    lines += [
        f"{arm.title}, with an environment in the prompt: {background(arm)}"
        for arm in comparison.shown
        if arm.background
    ]
    return lines


def judge_remarks(comparison: Comparison) -> list[str]:
    """Which judge it is and how it does on real clips, or why there is none."""
    stages = comparison.stages
    if stages is None:
        return [f"judge: {comparison.no_judge or 'none'}"]
    if not stages.known:
        return [f"judge: {stages.text()}"]
    real = "; ".join(
        f"{step.title} {step.named.right.text()}" for step in stages.steps if step.named is not None
    )
    return [
        f"judge: {stages.credit}, clips of new species named right of all the species it knows; the other "
        "columns are the weak check's",
        *([f"the judge on real clips, percent: {real}"] if real else []),
        *stages.remarks(),
    ]


def background(arm: ArmResult) -> str:
    """The effect of an environment in the prompt."""
    effect = arm.background
    if effect is None:
        return "-"
    named = ""
    if effect.named_asked is not None and effect.named_none is not None:
        named = (
            f"; it is heard in {effect.named_asked:.0%} of {effect.asked_clips} clips with it in the prompt, "
            f"and none in {effect.named_none:.0%} of {effect.plain_clips} without"
        )
    return f"between the songs {effect.in_words()}, {p_text(effect.p_value)}{named}"
