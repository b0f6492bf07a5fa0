"""The page of the experiment: the sentence, arms against amounts of real data, differences, power,
failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from birdsd.evaluation.sim2real.answer import Answer, Effect, amount
from birdsd.evaluation.sim2real.text import DIFFERENCES, arm_name, difference_cells
from birdsd.pages.charts import Curve, line_chart
from birdsd.pages.page import Page

_MOST_CURVES = 6


def sim2real_page(path: Path, answer: Answer) -> Path:
    """Write the page; returns its path."""
    facts = answer.facts
    page = Page(
        title="Does synthetic sound help?",
        lead=answer.sentence(),
        badges=(
            "birdsd sim2real", f"{len(facts.get('species', []))} species",
            *(("incomplete",) if answer.failed or answer.missing else ()),
        ),
        warns=bool(answer.failed or answer.missing),
        footer="Made by birdsd. This page needs no network.",
    )  # fmt: skip
    rows = list(dict.fromkeys((score.arm, score.filter) for score in answer.scores))
    page.fill(
        "sim2real.html", answer=answer, facts=facts, amount=amount, arm_name=arm_name, rows=rows,
        chart=_growth(answer, rows), species=_by_species(answer),
    )  # fmt: skip
    return page.write(path)


def _growth(answer: Answer, rows: list[tuple[str, str]]) -> object:
    """Macro average precision against training recordings, where there is more than one amount."""
    amounts = answer.facts.get("amounts") or {}
    if len(answer.levels) < 2 or not amounts:
        return ""
    curves = []
    for number, (name, chosen) in enumerate(rows[:_MOST_CURVES]):
        found = [
            (amounts[level], score) for level in answer.levels if (score := answer.score(name, level, chosen))
        ]
        curves.append(
            Curve(
                arm_name(answer.arm(name).title, chosen), [one for one, _ in found],
                [score.average_precision.estimate for _, score in found], "line", number + 1,
            )
        )  # fmt: skip
    return line_chart(
        curves, x_label="training recordings a species", y_label="macro average precision",
        alt="Macro average precision against training recordings a species, one line an arm",
    )  # fmt: skip


def classifiers_page(
    path: Path, answers: Mapping[str, Answer], differences: Sequence[Effect], reports: Mapping[str, str]
) -> Path:
    """Write the page of several classifiers on the same recordings, and how each grows with them; returns its
    path. `differences`: from the first one; `reports`: the page of each alone, beside it."""
    first = next(iter(answers.values()))
    incomplete = any(found.failed or found.missing for found in answers.values())
    page = Page(
        title="Classifiers, and how they grow with recordings",
        lead=f"{len(answers)} classifiers on the same {first.facts['recordings']['test']} test recordings.",
        badges=("birdsd sim2real", f"{len(first.facts['species'])} species",
                *(("incomplete",) if incomplete else ())),
        warns=incomplete,
        footer="Made by birdsd. This page needs no network.",
    )  # fmt: skip
    rows = [
        (name, arm, chosen)
        for name, found in answers.items()
        for arm, chosen in dict.fromkeys((score.arm, score.filter) for score in found.scores)
    ]
    curves = []
    for number, (name, arm, chosen) in enumerate(rows[:_MOST_CURVES], start=1):
        found, title = answers[name], _row_title(answers, name, arm, chosen)
        curves += _with_interval(found, arm, chosen, title, number)
    chart = line_chart(
        curves, x_label="training recordings a species", y_label="macro average precision",
        alt="Macro average precision against training recordings a species, one line a classifier",
    ) if len(first.levels) > 1 else ""  # fmt: skip
    page.fill(
        "classifiers.html", answers=answers, first=first, rows=rows, chart=chart, amount=amount,
        row_title=lambda *row: _row_title(answers, *row), reports=reports,
        head=DIFFERENCES, differences=[difference_cells(one) for one in differences],
    )  # fmt: skip
    return page.write(path)


def _row_title(answers: Mapping[str, Answer], name: str, arm: str, chosen: str) -> str:
    return f"{name}: {arm_name(answers[name].arm(arm).title, chosen)}"


def _with_interval(answer: Answer, arm: str, chosen: str, title: str, colour: int) -> list[Curve]:
    """The scores of an arm against the amount of data, and the ends of their intervals as pale lines."""
    found = [
        (answer.facts["amounts"][level], score.average_precision)
        for level in answer.levels
        if (score := answer.score(arm, level, chosen))
    ]
    x = [one for one, _ in found]
    return [
        Curve(title, x, [one.estimate for _, one in found], "line", colour),
        Curve("", x, [one.low for _, one in found], "pale", colour),
        Curve("", x, [one.high for _, one in found], "pale", colour),
    ]


def _by_species(answer: Answer) -> list[tuple[str, str, str, str]]:
    """(species, the arm compared with, the arm of the sentence, difference in points) at the largest
    amount."""
    if not answer.primary:
        return []
    effect = answer.primary[-1]
    mine, other = (
        answer.score(effect.arm, effect.level, effect.filter), answer.score(effect.against, effect.level),
    )  # fmt: skip
    if mine is None or other is None:
        return []
    return [
        (
            name,
            f"{other.by_species[name]:.3f}",
            f"{value:.3f}",
            f"{100 * (value - other.by_species[name]):+.1f}",
        )
        for name, value in sorted(mine.by_species.items())
        if name in other.by_species
    ]
