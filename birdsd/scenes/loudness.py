"""Loudness words, and what they are in dB: an event's own level, a background's, and one against the
other."""

from __future__ import annotations

import math
from collections.abc import Iterable

# Active levels in dBFS. Without a word an event stands 12 dB above its background, as clips of training do
# whose captions say nothing of loudness.
EVENT_DB = {"very loud": -15.0, "loud": -21.0, "": -27.0, "quiet": -33.0, "faint": -39.0}
BACKGROUND_DB = {"very loud": -27.0, "loud": -33.0, "": -39.0, "quiet": -51.0, "faint": -57.0}
# Other words for the same.
SAME = {
    "very quiet": "faint", "very faint": "faint", "soft": "quiet", "very soft": "faint", "heavy": "loud",
    "very heavy": "very loud", "strong": "loud", "very strong": "very loud", "light": "quiet",
    "very light": "faint", "gentle": "quiet", "low": "quiet",
}  # fmt: skip
ADVERBS = {
    "loudly": "loud", "very loudly": "very loud", "softly": "quiet", "quietly": "quiet", "faintly": "faint",
    "very softly": "faint", "very quietly": "faint", "very faintly": "faint",
}  # fmt: skip
# Words for how far away, and the loudness that goes with them.
DISTANT, DISTANT_M, NEAR_M = "faint", 80.0, 5.0


def loudness(word: str) -> str | None:
    """The key of EVENT_DB and BACKGROUND_DB that a word stands for; None for a word that is not about
    loudness."""
    word = SAME.get(word, word)
    return word if word and word in EVENT_DB else None


def sum_db(levels_db: Iterable[float]) -> float:
    """The level of uncorrelated sounds together; minus infinity for none."""
    power = sum(10 ** (level / 10) for level in levels_db)
    return 10 * math.log10(power) if power > 0 else -math.inf


def relative(event_db: float, backgrounds_db: Iterable[float]) -> dict[str, float]:
    """`{"snr_db": ...}` of an event over backgrounds, or `{"level_db": ...}` where there are none."""
    under = sum_db(backgrounds_db)
    if math.isinf(under):
        return {"level_db": event_db}
    return {"snr_db": round(event_db - under, 1) + 0.0}


def background_word(level_db: float) -> str | None:
    """The word for a background of this level; '' for the usual one, None where no word means it."""
    return next((word for word, level in BACKGROUND_DB.items() if level == level_db), None)
