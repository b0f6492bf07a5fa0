"""What is behind the bird: how loud a clip is between its songs, and which environment that sounds like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.evaluation.features import band_levels_db
from birdsd.evaluation.weak_check import REGULARISATION
from birdsd.randomness import generator

if TYPE_CHECKING:
    from birdsd.shards.index import ShardIndex
    from birdsd.sound.codec.protocol import Codec

QUIET = 0.2  # share of the frames that count as between the songs
NONE = "(none)"  # the environment of a clip in which nothing is mixed
_RESAMPLES = 2000


@dataclass(frozen=True)
class Background:
    """What an environment in the prompt changes, clip by clip from the same noise.

    Levels are those of the quietest fifth of a clip's frames, in dB below its loud ones. `named_asked`: the
    share of clips in which the classifier of backgrounds hears the environment that was asked for;
    `named_none`: the share of clips asked for without one in which it hears none.
    """

    pairs: int
    without_db: float
    with_db: float
    low_db: float  # 95% interval of the difference
    high_db: float
    p_value: float  # Wilcoxon's signed ranks, one-sided: that asking makes it louder
    named_asked: float | None = None
    named_none: float | None = None
    asked_clips: int = 0
    plain_clips: int = 0

    @property
    def change_db(self) -> float:
        return self.with_db - self.without_db

    def in_words(self) -> str:
        """The change with its interval."""
        return f"{self.change_db:+.1f} dB ({self.low_db:+.1f} to {self.high_db:+.1f})"


def background_db(levels_db: np.ndarray) -> float:
    """The level between the songs of a clip's band levels [bands, frames], in dB relative to the clip."""
    frames = 10 * np.log10((10 ** (np.asarray(levels_db, dtype=np.float64) / 10)).mean(axis=0))
    return float(np.quantile(frames, QUIET))


def change(without: Sequence[float], with_words: Sequence[float]) -> tuple[float, float, float, float, float]:
    """Paired levels in dB -> (mean without, mean with, low, high, p); the interval by bootstrap."""
    from scipy.stats import wilcoxon

    before, after = np.asarray(without, dtype=np.float64), np.asarray(with_words, dtype=np.float64)
    difference = after - before
    draw = generator(0, "background", len(difference))
    means = difference[draw.integers(0, len(difference), (_RESAMPLES, len(difference)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    p = 1.0 if not difference.any() else float(wilcoxon(difference, alternative="greater").pvalue)
    return float(before.mean()), float(after.mean()), float(low), float(high), p


class BackgroundClassifier:
    """A plain classifier of what is behind the bird, trained on training clips whose mixture is known."""

    def __init__(self, index: ShardIndex, codec: Codec, limit: int = 2000) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        levels, names = _known_backgrounds(index, codec, "train", limit)
        self.names = sorted(set(names))
        self._model: Any = None
        if len(self.names) > 1:
            self._model = make_pipeline(
                StandardScaler(),
                LogisticRegression(C=REGULARISATION, max_iter=2000, class_weight="balanced"),
            )
            self._model.fit(_features(levels), names)
        levels, names = _known_backgrounds(index, codec, "validation", limit)
        self.held_out = self._measure(levels, names)

    def name(self, levels: Sequence[np.ndarray]) -> list[str]:
        """The environment of every clip's band levels, `NONE` among them; [] where there is no classifier."""
        if self._model is None or not levels:
            return []
        return [str(name) for name in self._model.predict(_features(levels))]

    def _measure(self, levels: Sequence[np.ndarray], names: Sequence[str]) -> dict[str, float]:
        """What the classifier is worth on held-out clips, and the levels there."""
        found: dict[str, float] = {}
        pairs = list(zip(levels, names, strict=True))
        loud = {
            kind: [background_db(level) for level, name in pairs if (name == NONE) == plain]
            for kind, plain in (("without_db", True), ("with_db", False))
        }
        found |= {kind: float(np.mean(values)) for kind, values in loud.items() if values}
        if answers := self.name(levels):
            right = [answer == name for answer, name in zip(answers, names, strict=True)]
            found |= {"accuracy": float(np.mean(right)), "clips": float(len(right))}
            found["chance"] = 1 / len(self.names)
        return found


def _features(levels: Sequence[np.ndarray]) -> np.ndarray:
    """What lies below the songs: quiet and middling levels of every band, float64 [clips, features]."""
    return np.stack(
        [
            np.concatenate([np.quantile(level, share, axis=1) for share in (0.1, 0.25, 0.5)])
            for level in levels
        ]
    )


def _known_backgrounds(
    index: ShardIndex, codec: Codec, split: str, limit: int
) -> tuple[list[np.ndarray], list[str]]:
    from birdsd.shards.reader import ShardReader

    count = index.count(split) if split in index.splits else 0
    levels: list[np.ndarray] = []
    names: list[str] = []
    if not count:
        return levels, names
    reader = ShardReader(index, split, want=("image", "metadata"))
    for number in np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int)):
        sample = reader.read(int(number))
        if sample.image is not None:
            mixed = sample.metadata.get("snr_db") is not None
            levels.append(band_levels_db(codec, sample.image))
            names.append(str(sample.metadata.get("environment") or NONE) if mixed else NONE)
    return levels, names
