"""Audacity label tracks: 'start<TAB>end<TAB>label', then optionally a line '\\<TAB>low<TAB>high' in Hz."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from birdsd.files import write_text
from birdsd.sound.labels.annotation import MALFORMED, Label, Problem, read_text
from birdsd.sound.labels.numbers import column_rule, comma_rule, parse_number
from birdsd.sound.labels.rows import LabelFile, Row
from birdsd.sound.species.names import clean_name, read_names

_NUMBER = r"-?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?"
_TIMES = re.compile(rf"\s*{_NUMBER}\t{_NUMBER}(?:\t|\s*$)")


def is_audacity(text: str) -> bool:
    """Whether a text starts like a label track."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return bool(_TIMES.match(first))


def read_audacity(path: Path) -> list[Label]:
    """The species' labels of a track, with frequencies where given (Audacity writes -1 for 'no limit').

    A label without a name has none here either. `UserError` for a line that is no label.
    """
    return [label for row in read_track(path).strictly() for label in row.labels()]


def read_track(path: Path) -> LabelFile:
    """The rows of a label track; lines that are no labels are problems."""
    lines = [(n, line.split("\t")) for n, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    numbers = [cell for _, cells in lines for cell in cells[:3] if parse_number(cell, "decimal") is not None]
    rule = column_rule(numbers, comma_rule(numbers))
    found = LabelFile(path)
    for number, cells in lines:
        first, second = (parse_number(cells[at], rule) if at < len(cells) else None for at in (0, 1))
        if cells[0].strip() == "\\" and found.rows and len(cells) >= 3:
            low, high = parse_number(cells[1], rule), parse_number(cells[2], rule)
            found.rows[-1] = replace(
                found.rows[-1],
                low_hz=low if low is not None and low >= 0 else None,
                high_hz=high if high is not None and high >= 0 else None,
            )
        elif first is not None and second is not None:
            names = read_names(cells[2] if len(cells) > 2 else "")
            found.rows.append(Row(number, names, start_s=first, end_s=second))
            found.synonyms += names.scientific
            found.problems += [Problem(path, f"line {number}: {remark}") for remark in names.remarks]
        else:
            line = "\t".join(cells)
            reason = (
                f"line {number} is not an Audacity label: {line[:60]!r}; each line is "
                "start<TAB>end<TAB>label, or \\<TAB>low<TAB>high after it"
            )
            found.problems.append(Problem(path, reason, MALFORMED, 1))
    return found


def write_audacity(path: Path, labels: Sequence[Label], *, duration_s: float = 0.0) -> None:
    """Write a label track atomically, see `audacity_text`."""
    write_text(Path(path), audacity_text(labels, duration_s=duration_s))


def audacity_text(labels: Sequence[Label], *, duration_s: float = 0.0) -> str:
    """A label track, sorted by time; labels without times span [0, duration_s]."""
    lines = []
    for label in sorted(labels, key=lambda item: (item.start_s or 0.0, item.end_s or 0.0, item.label)):
        end = label.end_s if label.end_s is not None else duration_s
        lines.append(f"{label.start_s or 0.0:.6f}\t{end:.6f}\t{clean_name(label.label)}\n")
        if label.low_hz is not None or label.high_hz is not None:
            low, high = (-1.0 if hz is None else hz for hz in (label.low_hz, label.high_hz))
            lines.append(f"\\\t{low:.6f}\t{high:.6f}\n")
    return "".join(lines)
