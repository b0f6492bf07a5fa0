"""The heartbeat of an allocation: how often it is written, what it says, and when its absence is silence.

Rank 0 writes RUN/allocations/NAME/heartbeat.json anew every few seconds; `birdsd status`, the doctor and the
next allocation read it. Nothing here imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

HEARTBEAT = "heartbeat.json"
HEARTBEAT_S = 5.0
# A heartbeat older than this does not count; file servers may show it half a minute late.
SILENT_S = 60.0


@dataclass
class Heartbeat:
    """The progress of an allocation. `seconds`: its time so far, by phase."""

    time: float
    count: int
    phase: str
    position: int
    total: int
    samples_per_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    loss: float | None = None
    resumed_from: int | None = None


def is_recent(file: Path) -> bool:
    """Whether a heartbeat was written lately by this machine's clock; unreliable where clocks differ."""
    with suppress(OSError):
        return not is_silent(time.time(), [file.stat().st_mtime])
    return False


def is_silent(now: float, signs: Iterable[float | None]) -> bool:
    """Whether every sign of life, in seconds since 1970, is too long ago, or in a future as far away: clocks
    of nodes differ. Signs of 0 or None are not there."""
    return all(abs(now - sign) > SILENT_S for sign in signs if sign)
