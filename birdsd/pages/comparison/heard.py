"""What the judge says on the page of a comparison, and what is measured beside being named."""

from __future__ import annotations

from birdsd.evaluation.comparison import ArmResult, Comparison
from birdsd.pages import page as html
from birdsd.pages.charts import meter
from birdsd.pages.judge import stairs_table
from birdsd.pages.markup import Html, element


def judge_intro(comparison: Comparison) -> list[Html]:
    """Who the judge is, or why there is none."""
    stages = comparison.stages
    if stages is None:
        return (
            [html.note(f"{comparison.no_judge[:1].upper()}{comparison.no_judge[1:]}.", warn=True)]
            if comparison.no_judge
            else []
        )
    if not stages.known:
        return [html.note(f"{stages.text()}.")]
    return [
        element(
            "p",
            f"{stages.credit} knows thousands of species and never heard a generated clip: a clip counts as "
            "named right when the species that was asked for has the highest score of them all. The weak "
            "check knows the species of this page only, and has to name one of them.",
        )
    ]


def judge_cell(arm: ArmResult, kind: str) -> object:
    """The share that the judge names right, with its interval."""
    told = arm.heard.get(kind)
    if told is None:
        return "\u2013"
    return meter(told.right.share, interval=(told.right.low, told.right.high), colour=3)


def real_and_measures(comparison: Comparison) -> list[Html]:
    """What the judge says of real clips stage by stage, and the measures of every arm."""
    blocks: list[Html] = []
    if comparison.judge and comparison.stages is not None and comparison.stages.steps:
        blocks += [element("h3", "The judge on real clips"), *stairs_table(comparison.stages)]
    arms = [(arm, arm.measures) for arm in comparison.shown if arm.measures is not None]
    if not arms:
        return blocks
    first = arms[0][1]
    intro = element(
        "p",
        "Being named is necessary, not sufficient. These are further measures of the clips of new species, "
        "with the same figure for held-out clips through the codec in the first row.",
    )
    held: list[object] = ["Held-out recordings", *(row.cells()[0] for row in first.rows)]
    rows = [
        [arm.title, *(told.row(row.key).cells()[1] if told.has(row.key) else "-" for row in first.rows)]
        for arm, told in arms
    ]
    headers = ["", *(row.title for row in first.rows)]
    says = element("p", "; ".join(f"{row.title}: {row.says}" for row in first.rows) + ".", class_="quiet")
    table = html.table(headers, [held, *rows], numeric=tuple(range(1, len(headers))), wide=True)
    return [*blocks, element("h3", "Other measures"), intro, table, says]
