"""Whether a judge still hears the species after a codec: what an audit is told by whoever has a judge.

The judge itself lives further up (birdsd.evaluation.judges); an audit hands it each stretch of sound, before
and after every codec, and shows the counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Hearing:
    """Counts over `stretches` whose species is said and known. `missing` says why there are none.

    `before` and each of `after` (in the order of the codecs) are (right of all classes, right of the folder's
    species).
    """

    judge: str = ""
    licence: str = ""
    stretches: int = 0
    species: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # species without a class: in no figure
    before: tuple[int, int] = (0, 0)
    after: list[tuple[int, int]] = field(default_factory=list)
    missing: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return asdict(self)


class AuditListener(Protocol):
    """Listens to an audit."""

    def take(self, path: Path, sound: np.ndarray, copies: Sequence[np.ndarray], rate_hz: int) -> None:
        """A stretch of a recording, [channels, samples], and what every codec made of it."""

    def hearing(self) -> Hearing:
        """What was heard so far."""
