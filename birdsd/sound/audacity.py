"""Audacity label tracks: 'start<TAB>end<TAB>label', then optionally a line '\\<TAB>low<TAB>high' in Hz."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from birdsd.errors import UserError
from birdsd.files import write_text
from birdsd.sound.annotation import Label, clean_name, is_no_bird, parse_number, read_text

_TIMES = re.compile(r"\s*-?\d+(?:[.,]\d+)?\t-?\d+(?:[.,]\d+)?(?:\t|\s*$)")


def is_audacity(text: str) -> bool:
    """Whether a text starts like a label track."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return bool(_TIMES.match(first))


def read_audacity(path: Path) -> list[Label]:
    """The labels of a track, with frequencies where they are given (Audacity writes -1 for 'no limit')."""
    found: list[Label] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        cells = line.split("\t")
        first, second = (parse_number(cells[at]) if at < len(cells) else None for at in (0, 1))
        if cells[0].strip() == "\\" and found and len(cells) >= 3:
            low, high = parse_number(cells[1]), parse_number(cells[2])
            found[-1] = replace(
                found[-1],
                low_hz=low if low is not None and low >= 0 else None,
                high_hz=high if high is not None and high >= 0 else None,
            )
        elif first is not None and second is not None:
            found.append(Label(clean_name(cells[2] if len(cells) > 2 else ""), first, second))
        else:
            raise UserError(
                f"{path}, line {number} is not an Audacity label: {line[:60]!r}",
                "each line is start<TAB>end<TAB>label, or \\<TAB>low<TAB>high after it",
            )
    return [label for label in found if not is_no_bird(label.label)]


def write_audacity(path: Path, labels: Sequence[Label], *, duration_s: float = 0.0) -> None:
    """Write a label track atomically, sorted by time; labels without times span [0, duration_s]."""
    lines = []
    for label in sorted(labels, key=lambda item: (item.start_s or 0.0, item.end_s or 0.0, item.label)):
        end = label.end_s if label.end_s is not None else duration_s
        lines.append(f"{label.start_s or 0.0:.6f}\t{end:.6f}\t{clean_name(label.label)}\n")
        if label.low_hz is not None or label.high_hz is not None:
            low, high = (-1.0 if hz is None else hz for hz in (label.low_hz, label.high_hz))
            lines.append(f"\\\t{low:.6f}\t{high:.6f}\n")
    write_text(Path(path), "".join(lines))
