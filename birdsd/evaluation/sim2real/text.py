"""The answer for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from birdsd.evaluation.sim2real.answer import Answer, Effect, amount
from birdsd.format import table


def answer_text(answer: Answer) -> str:
    """The sentence, a table of arms by amounts of data, one of differences, and the power."""
    lines = [
        answer.sentence(),
        "",
        *table([["macro average precision", *map(amount, answer.levels)], *_scores(answer)]),
    ]
    lines += ["", *table(
        [["difference, points", "recordings", "estimate", "95% interval", "p", "corrected", "80% power at"],
         *_effects(answer)],
        {0, 1},
    )]  # fmt: skip
    lines += ["", f"Power, before it ran: {answer.power.text()}"]
    lines += [f"failed: {', '.join(names)}: {why}" for names, why in answer.failures]
    return "\n".join(lines)


def classifiers_text(answers: Mapping[str, Answer], differences: Sequence[Effect]) -> str:
    """Several classifiers on the same recordings: each one's arms by amounts of data, and what they differ by
    from those of the first."""
    first = next(iter(answers.values()))
    head = ["macro average precision", *map(amount, first.levels)]
    rows = [[f"{name}: {row[0]}", *row[1:]] for name, found in answers.items() for row in _scores(found)]
    recordings = [
        [f"{name}: {arm_name(found.arm(arm).title, chosen)}", *_of_recordings(found, arm, chosen)]
        for name, found in answers.items()
        for arm, chosen in dict.fromkeys((score.arm, score.filter) for score in found.scores)
    ]
    lines = table([head, *rows])
    lines += ["", *table([["macro F1 of recordings", *map(amount, first.levels)], *recordings])]
    lines += ["", *table([DIFFERENCES, *map(difference_cells, differences)], {0, 1, 2})]
    for name, found in answers.items():
        lines += [f"{name} failed: {', '.join(cells)}: {why}" for cells, why in found.failures]
        lines += [f"{name}: not trained yet: {len(found.missing)} cells"] if found.missing else []
    return "\n".join(lines)


DIFFERENCES = ["classifier", "against", "recordings", "difference, points", "95% interval", "p", "corrected"]


def difference_cells(one: Effect) -> list[str]:
    """A row below `DIFFERENCES`."""
    interval = one.difference
    return [
        arm_name(one.arm, one.filter), one.against, one.level, f"{100 * interval.estimate:+.1f}",
        f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}", f"{one.p_value:.3f}",
        f"{one.p_adjusted:.3f}",
    ]  # fmt: skip


def _of_recordings(answer: Answer, arm: str, chosen: str) -> list[str]:
    found = [answer.score(arm, level, chosen) for level in answer.levels]
    return ["-" if score is None else f"{score.recordings_f1:.3f}" for score in found]


def arm_name(title: str, chosen: str) -> str:
    """An arm with its filter."""
    return f"{title}, {chosen}" if chosen else title


def _scores(answer: Answer) -> list[list[str]]:
    rows = []
    for name, chosen in dict.fromkeys((score.arm, score.filter) for score in answer.scores):
        cells = []
        for level in answer.levels:
            score = answer.score(name, level, chosen)
            cells.append(
                "-" if score is None else f"{score.average_precision.estimate:.3f} "
                f"({score.average_precision.low:.3f}-{score.average_precision.high:.3f})"
            )  # fmt: skip
        rows.append([arm_name(answer.arm(name).title, chosen), *cells])
    return rows


def _effects(answer: Answer) -> list[list[str]]:
    return [
        [
            f"{arm_name(answer.arm(one.arm).title, one.filter)} - {answer.arm(one.against).title}",
            one.level, f"{100 * one.difference.estimate:+.1f}",
            f"{100 * one.difference.low:+.1f} to {100 * one.difference.high:+.1f}",
            f"{one.p_value:.3f}", f"{one.p_adjusted:.3f}", f"{100 * one.findable:.1f}",
        ]
        for one in answer.effects
    ]  # fmt: skip
