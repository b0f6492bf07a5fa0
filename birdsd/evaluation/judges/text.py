"""A judgement as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from birdsd.errors import listed_names

if TYPE_CHECKING:
    from birdsd.evaluation.judges.judgement import Judgement, Row


def judgement_text(judgement: Judgement) -> str:
    """A table with a row per species and the total; what was left out, and the licence, below it."""
    head = [
        "species",
        "clips",
        "top-1 of all",
        f"of {len(judgement.among)} species",
        "score >= 0.25",
        "median",
    ]
    rows = [head, *(_cells(row) for row in judgement.rows)]
    if judgement.clips:
        rows.append(_cells(judgement.total))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) if not i else cell.rjust(width) for i, (cell, width) in
                  enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip
    silent = sum(bool(verdict.note) for verdict in judgement.verdicts)
    if silent:
        lines.append(f"in {silent} of {len(judgement.verdicts)} clips nothing was heard")
    if judgement.unknown:
        lines.append(f"not known to {judgement.judge}, left out: {listed_names(judgement.unknown)}")
    lines.append(f"judge: {judgement.judge} ({judgement.licence}); brackets: 95% intervals (Wilson)")
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    median = "-" if row.median_score is None else f"{row.median_score:.2f}"
    return [row.species, str(row.clips), str(row.right), str(row.right_among), str(row.confident), median]
