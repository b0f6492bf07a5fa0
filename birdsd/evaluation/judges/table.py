"""The tables of `birdsd judge` and of other judgements: a row per file, a row per species."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from birdsd.errors import clipped, listed_names
from birdsd.evaluation.judges.judgement import Judgement, Row, Verdict
from birdsd.evaluation.judges.listening import Listening
from birdsd.format import table

_MOST_FILES = 100
_MOST_PROBLEMS = 10


def judgement_text(judgement: Judgement) -> str:
    """A table with a row per species and the total; what was left out, and the licence, below it."""
    lines = []
    if judgement.clips:
        head = ["species", "clips", "top-1 of all", best_of_title(judgement), "score >= 0.25", "median score"]
        lines += table([head, *(_cells(row) for row in [*judgement.rows, judgement.total])])
    silent = sum(bool(verdict.note) for verdict in judgement.verdicts)
    if silent:
        lines.append(f"nothing was heard in {silent} of {len(judgement.verdicts)} clips")
    if judgement.unknown:
        lines.append(f"{judgement.judge} has no class for {listed_names(judgement.unknown)}: left out")
    intervals = "; in brackets 95% intervals (Wilson)" if judgement.clips else ""
    lines.append(f"judge: {judgement.judge}, a model under {judgement.licence}{intervals}")
    return "\n".join(lines)


def best_of_title(judgement: Judgement) -> str:
    """The head of the column for the best among the set's own species."""
    return f"best of {len(judgement.among)}"


def _cells(row: Row) -> list[str]:
    median = "-" if row.median_score is None else f"{row.median_score:.2f}"
    return [row.species, str(row.clips), str(row.right), str(row.right_among), str(row.confident), median]


def listening_text(listening: Listening) -> str:
    """A row for every file, then the table of species, then what could not be judged."""
    judgement = listening.judgement
    shown = judgement.verdicts[:_MOST_FILES]
    head = ["file", "top-1 of all", "confidence", "should be", "rank", "score", best_of_title(judgement)]
    lines = table([head, *map(_file_cells, shown)], {0, 1, 3, 6})
    if more := len(judgement.verdicts) - len(shown):
        lines.append(f"... and {more} more: --out FOLDER or --json")
    unsaid = sum(verdict.species is None for verdict in judgement.verdicts) - listening.several
    lines += ["", *judgement_text(judgement).splitlines()]
    if unsaid:
        lines.append(f"{unsaid} without a label: heard, but not counted")
    if listening.several:
        lines.append(f"{listening.several} with several species: heard, but not counted")
    return "\n".join([*lines, *left_out_lines(listening.left_out)])


def left_out_lines(left_out: Sequence[tuple[Path, str]]) -> list[str]:
    """The files that could not be judged, each with its reason, where they are many the first of them."""
    lines = [f"left out: {path.name}: {clipped(reason, 200)}" for path, reason in left_out[:_MOST_PROBLEMS]]
    more = len(left_out) - _MOST_PROBLEMS
    return [*lines, f"left out: {more} more"] if more > 0 else lines


def _file_cells(verdict: Verdict) -> list[str]:
    rank = "-" if verdict.rank is None else str(verdict.rank)
    score = "-" if verdict.score is None else f"{verdict.score:.2f}"
    should = verdict.species or "-"
    should = should if verdict.known or not verdict.species else f"({should})"
    named = f"({verdict.note}: {verdict.named})" if verdict.note else verdict.named
    return [
        clipped(verdict.name), named, f"{verdict.confidence:.2f}", should,
        rank, score, verdict.named_among or "-",
    ]  # fmt: skip
