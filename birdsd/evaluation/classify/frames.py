"""When a class is heard: windows with a score for each frame, laid over one another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from birdsd.diffusion.classifiers.folder import sigmoid


@dataclass(frozen=True)
class FrameScores:
    """Of a stretch of sound: `scores` float32 [classes, frames], each `frame_s` long, from its beginning; and
    `of_windows`, as many: the highest score that a window over the frame has as a whole."""

    scores: np.ndarray
    of_windows: np.ndarray
    frame_s: float

    @classmethod
    def of(cls, starts_s: np.ndarray, logits: np.ndarray, frames: np.ndarray, window_s: float) -> FrameScores:
        """From windows that begin at `starts_s` [n]: logits [n, classes], and of their frames [n, classes,
        steps]. Where windows overlap, a frame has the mean of its logits; where there is none, score 0."""
        steps, count = frames.shape[2], logits.shape[1]
        frame_s = window_s / steps
        places = np.rint(np.asarray(starts_s) / frame_s).astype(int)
        total = int(places.max(initial=0)) + steps
        sums, covered = np.zeros((count, total)), np.zeros(total)
        whole, best = sigmoid(logits), np.zeros((count, total), np.float32)
        for place, window, score in zip(places.tolist(), frames, whole, strict=True):
            stretch = slice(place, place + steps)
            sums[:, stretch] += window
            covered[stretch] += 1
            best[:, stretch] = np.maximum(best[:, stretch], score[:, None])
        return cls(sigmoid(sums / np.maximum(1, covered)) * (covered > 0), best, frame_s)

    def runs(self, thresholds: np.ndarray) -> Iterator[tuple[int, float, float, float]]:
        """(class, start in s, end in s, highest score) of each run of frames at or above the class's
        threshold, within windows that are."""
        limits = np.asarray(thresholds)[:, None]
        on = np.pad((self.scores >= limits) & (self.of_windows >= limits), ((0, 0), (1, 1)))
        for number in np.flatnonzero(on.any(axis=1)).tolist():
            edges = np.flatnonzero(np.diff(on[number].astype(int)))
            for low, high in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
                highest = float(self.scores[number, low:high].max())
                yield number, low * self.frame_s, high * self.frame_s, highest
