"""Numbers, sizes, durations, events and tables as text for a terminal."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

ELLIPSIS = "\u2026"
_LEAST_FIRST = 20  # columns that the first column of a table keeps
_HIDDEN = (
    "time",
    "event",
    "seconds",
    "pid",
    "boot_id",
    "hosts",
    "restart",
    "submission",
    "part",
    "gpus",
    "nodes",
)


def printable(words: object) -> str:
    """One line without control characters: what a run is called must not steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(words).split()))


def short(value: float) -> str:
    """812, 4.5k, 1.2M: three digits at most; 3.4 below ten."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 99.5 else f"{scaled:.3g}{unit}"
    return f"{value:.0f}" if value >= 9.95 or value == int(value) else f"{value:.1f}"


def event_words(event: Mapping[str, Any]) -> str:
    """What an event says besides its name, without what only programs need."""
    told = {key: value for key, value in event.items() if key not in _HIDDEN and value not in ("", None, [])}
    return ", ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in told.items())


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def size(count: float) -> str:
    """Bytes in binary units, three digits: 812 B, 3.4 KiB, 12 MiB, 1.5 GiB."""
    scaled, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if scaled < 999.5:
            break
        scaled, unit = scaled / 1024, larger
    return f"{scaled:.0f} {unit}" if scaled >= 99.5 or unit == "B" else f"{scaled:.3g} {unit}"


def span(seconds: float, exact: bool = False) -> str:
    """A duration: 40 s, 12 min, 3 h 05 min, 2 d 4 h; `exact`: also 0.4 s and 3 min 20 s."""
    whole = max(0, round(seconds))
    if exact and seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    if exact and 60 <= whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 100:
        return f"{whole} s"
    if whole < (3600 if exact else 5970):
        return f"{round(whole / 60)} min"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def moment(when: float, now: float) -> str:
    """14:05 today, else Mar 03 14:05, by this machine's clock."""
    same_day = time.localtime(when)[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M" if same_day else "%b %d %H:%M", time.localtime(when))


def first_line(text: str, limit: int = 300) -> str:
    """The first line that says something, shortened."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= limit else f"{line[: limit - 1]}{ELLIPSIS}"


def table(
    rows: Sequence[Sequence[str]],
    left: Collection[int] = (0,),
    indent: int = 0,
    width: int | None = None,
) -> list[str]:
    """The lines of a table whose first row is its header.

    Columns in `left` are aligned left, the others right. A column that is empty below its header is left
    out. With `width`, the first column is shortened in the middle until a line fits into so many columns.
    """
    cells = [["".join(map(_visible, cell)) for cell in row] for row in rows]
    used = [c for c in range(len(cells[0])) if c == 0 or len(cells) == 1 or any(row[c] for row in cells[1:])]
    widths = {c: max(len(row[c]) for row in cells) for c in used}
    if width is not None:
        room = width - indent - sum(widths[c] + 2 for c in used[1:])
        widths[0] = min(widths[0], max(_LEAST_FIRST, room))
    lines = []
    for row in cells:
        parts = [
            shortened(row[c], widths[c]).ljust(widths[c]) if c in left else row[c].rjust(widths[c])
            for c in used
        ]
        lines.append((" " * indent + "  ".join(parts)).rstrip())
    return lines


def _visible(character: str) -> str:
    return character if character.isprintable() else " " if character.isspace() else "?"


def shortened(text: str, width: int) -> str:
    """At most `width` characters, cut in the middle: the end of a run's name is its signature."""
    if len(text) <= width:
        return text
    tail = min(9, width // 3)
    return f"{text[: width - tail - 1]}{ELLIPSIS}{text[-tail:]}"
