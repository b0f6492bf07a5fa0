"""Cleaning: the noise of a recording is taken down under its song, by a limited amount.

What is left of the noise is left on purpose: a model that learns from birds with holes around them paints
holes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from birdsd.errors import BadValue, unknown_name
from birdsd.sound.separation.fit import GATE, LEAST_QUIET_S, NMF, Wanted, free_bird, gate_of
from birdsd.sound.separation.measures import snr_db
from birdsd.sound.separation.sample import Sample
from birdsd.sound.separation.separator import Separator, stems_of

OFF = "off"
METHODS = (OFF, GATE, NMF)
MOST_DB = 60.0


class Cleaned(NamedTuple):
    """A cleaned sound, float32 [channels, n], and what was done to it."""

    waveform: np.ndarray
    facts: dict[str, Any]


@dataclass(frozen=True)
class Cleaner:
    """Cleans any stretch of one recording; `separator` is None where it cannot be, and then says `why`."""

    method: str
    most_db: float
    separator: Separator | None
    why: str = ""

    def clean(self, waveform: np.ndarray) -> Cleaned:
        """The noise of a stretch, float32 [channels, n], taken down by `most_db` at most."""
        if self.separator is None:
            return Cleaned(waveform, {"method": OFF, "why": self.why})
        rate_hz = self.separator.grid.rate_hz
        bird = stems_of(self.separator, waveform)[0]
        kept = np.float32(10 ** (-self.most_db / 20))
        clean = (bird + kept * (waveform - bird)).astype(np.float32)
        return Cleaned(
            clean,
            {
                "method": self.method, "most_db": self.most_db,
                "snr_before_db": round(snr_db(waveform, rate_hz), 2),
                "snr_after_db": round(snr_db(clean, rate_hz), 2),
            },
        )  # fmt: skip


def cleaner_of(sample: Sample, method: str, most_db: float, seed: int = 0) -> Cleaner:
    """What cleans the recording that `sample` is of. The noise is that of its stretches without song; a
    recording that has none stays as it is."""
    check_cleaning(method, most_db)
    wanted = Wanted(method, seed=seed)
    if sample.silent:
        return Cleaner(method, most_db, None, "it is silent")
    if sample.quiet.sum() * sample.grid.hop_s < LEAST_QUIET_S:
        return Cleaner(method, most_db, None, "no stretch without song was found in it")
    separator = gate_of(sample, wanted) if method == GATE else free_bird(sample, wanted)
    return Cleaner(method, most_db, separator)


def check_cleaning(method: str, most_db: float) -> None:
    """`UserError` for settings of data.clean that cannot be."""
    if method not in METHODS:
        raise unknown_name("way of cleaning", method, METHODS)
    if not 0 < most_db <= MOST_DB:
        raise BadValue(
            f"data.clean_db is {most_db:g}", f"it is more than 0 and at most {MOST_DB:g}", "12 is usual"
        )
