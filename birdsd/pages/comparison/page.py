"""The page of a comparison: what each arm learnt, how it sounds, what it cost, and how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.evaluation.comparison import CLEAR, IN_ENVIRONMENT, KNOWN, NEW, ArmResult, Comparison, p_text
from birdsd.format import size
from birdsd.pages.charts import Curve, line_chart, time_bar
from birdsd.pages.comparison.sounds import sounds
from birdsd.pages.environment import amount
from birdsd.pages.judge import stages_table
from birdsd.pages.page import Page

if TYPE_CHECKING:
    from birdsd.shards.index import ShardIndex

# By the name of the comparison: its title, and what its arms are.
_TITLES = {
    "compare_methods": ("Comparison of fine-tuning methods", "fine-tuning methods"),
    "finetune_vs_scratch": ("Fine-tuned or from scratch, on song or on song with environment", "models"),
}


def comparison_page(out: Path, comparison: Comparison, index: ShardIndex) -> Path:
    """Write the page to `out` (one self-contained HTML file) and return the path. `index`: the shards whose
    training recordings stand beside the generated clips."""
    settings, absent = comparison.settings, len(comparison.missing)
    count = sum(not arm.control for arm in comparison.arms)
    title, arms = _TITLES.get(comparison.name, (comparison.name, "arms"))
    page = Page(
        title=title,
        lead=f"{count} {arms}, the same {len(comparison.new)} new species, the same "
        f"{amount(settings['samples'])} samples, the same seed: judged by classifiers that never heard a "
        "generated clip, and shown side by side for your own ears.",
        badges=(
            f"birdsd {comparison.name}",
            f"one seed, {settings['clips_per_species']} clips of each species from each arm",
            *([f"{absent} arms are missing"] if absent else []),
        ),
        warns=bool(absent),
        footer=f"Made by birdsd on {settings.get('machine', '')}. This page needs no network: sounds, "
        "images and figures are embedded in the file.",
        css=("comparison.css",),
    )
    stages = [
        *comparison.foundations,
        *((f"training {arm.title}", arm.figures.train_s) for arm in comparison.shown if not arm.control),
        ("all clips", sum(arm.figures.generate_s for arm in comparison.shown)),
    ]
    stages = [(name, seconds) for name, seconds in stages if seconds > 0]
    species = len(comparison.new) + len(comparison.known)
    page.fill(
        "comparison.html", comparison=comparison, settings=settings, shown=comparison.shown, new=NEW,
        known=KNOWN, in_environment=IN_ENVIRONMENT, clear=CLEAR, p_text=p_text,
        recordings_each=round(comparison.training_recordings / max(1, species)),
        stages_table=stages_table, summary=_summary(comparison), sounds=sounds(comparison, index),
        sizes=_sizes(comparison), losses=_losses(comparison), species=sorted(
            [*comparison.new, *comparison.known]), stages=stages, time_bar=time_bar(stages),
    )  # fmt: skip
    return page.write(out)


def _summary(comparison: Comparison) -> dict[str, Any]:
    """Which arms did what; arms by how well they are named, best first."""
    taught = [arm for arm in comparison.shown if not arm.control]

    def listed(arms: Sequence[ArmResult]) -> str:
        ordered = sorted(arms, key=lambda arm: -arm.scores[NEW].accuracy if NEW in arm.scores else 0.0)
        names = [arm.title for arm in ordered]
        return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

    beats = [arm for arm in taught if arm.gain and arm.gain.clear]
    heard = [arm for arm in taught if NEW in arm.heard]
    control = next((arm for arm in comparison.shown if arm.control), None)
    return {
        "taught": bool(taught),
        "control": control.scores if control else {},
        "beats": listed(beats),
        "best": max(beats, key=lambda arm: arm.scores[NEW].accuracy, default=None),
        "heard_best": max(heard, key=lambda arm: arm.heard[NEW].right.share, default=None),
        "rest": listed([arm for arm in taught if arm.gain and not arm.gain.clear]),
        "forgot": listed([arm for arm in taught if arm.forgetting and arm.forgetting.clear]),
        "copied": listed([arm for arm in taught if arm.nearness and arm.nearness.copies]),
    }  # fmt: skip


def _sizes(comparison: Comparison) -> dict[str, Any] | None:
    """Accuracy against what one shares, on a logarithmic axis: dots with their intervals; None below two."""
    arms = [arm for arm in comparison.shown if arm.figures.share_bytes and NEW in arm.scores]
    if len(arms) < 2:
        return None
    powers = [math.log(arm.figures.share_bytes or 1, 16) for arm in arms]  # ticks: 64 KiB, 1 MiB, 16 MiB
    low, high = math.floor(min(powers)), math.ceil(max(powers))
    high = max(high, low + 1)
    places = [(power - low) / (high - low) for power in powers]
    return {
        "dots": sorted(zip(places, arms, strict=True), key=lambda pair: pair[0]),
        "ticks": [((p - low) / (high - low), size(16**p)) for p in range(low, high + 1)],
    }


def _losses(comparison: Comparison) -> dict[str, Any] | None:
    """The validation losses that compare; None where there are none."""
    arms = [arm for arm in comparison.shown if arm.loss == "denoising" and arm.validation.losses]
    if not arms:
        return None
    # Six colours; an arm more would share one.
    curves = [
        Curve(arm.title, arm.validation.positions, arm.validation.losses, "line", number % 6 + 1)
        for number, arm in enumerate(arms)
    ]
    alt = "Validation losses: " + "; ".join(f"{arm.title} {arm.validation.losses[-1]:.3g}" for arm in arms)
    chart = line_chart(curves, x_label="samples seen", y_label="validation loss", alt=alt)
    rows = [
        (
            arm.title,
            arm.validation.losses[-1],
            *min(zip(arm.validation.losses, arm.validation.positions, strict=True)),
        )
        for arm in sorted(arms, key=lambda arm: arm.validation.losses[-1])
    ]
    without = [arm.title for arm in comparison.shown if not arm.loss]
    return {"samples": max(arm.validation.samples for arm in arms), "chart": chart, "rows": rows,
            "without": ", ".join(without)}  # fmt: skip
