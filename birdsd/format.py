"""Numbers, times and words as one line of text for people."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

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


def span(seconds: float) -> str:
    """40 s, 12 min, 3 h 05 min, 2 d 4 h."""
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    if whole < 5970:
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
    return line if len(line) <= limit else f"{line[: limit - 1]}\u2026"
