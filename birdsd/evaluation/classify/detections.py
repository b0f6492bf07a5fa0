"""From scores of windows, or of frames, to detections with onset and offset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from birdsd.diffusion.classifiers.folder import Heard, sigmoid
from birdsd.evaluation.classify.frames import FrameScores
from birdsd.evaluation.classify.windows import Windows
from birdsd.evaluation.judges.sounds import Detection

_TOUCHING_S = 1e-6


def of_windows(
    windows: Windows, first: int, heard: Heard, thresholds: np.ndarray, end_s: float
) -> list[Detection]:
    """A detection for each class that reaches its threshold in a window."""
    scores = sigmoid(heard.logits)
    found = []
    for window, number in np.argwhere(scores >= thresholds):
        start_s = (first + int(window)) * windows.step_s
        until_s = min(start_s + windows.window_s, max(end_s, start_s))
        found.append(
            Detection(start_s, until_s, windows.classifier.classes[number], float(scores[window, number]))
        )
    return found


def of_frames(
    windows: Windows, first: int, parts: Sequence[tuple[int, Heard]], thresholds: np.ndarray, end_s: float
) -> list[Detection]:
    """A detection for each run of frames in which a class reaches its threshold, within windows in which it
    does. Where windows overlap, the logits of a frame are their mean. `parts` are those of one stretch, whose
    first window is `first`."""
    logits = np.concatenate([heard.logits for _, heard in parts])
    frames = np.concatenate([heard.frames for _, heard in parts if heard.frames is not None])
    numbers = np.concatenate([start + np.arange(len(heard.logits)) for start, heard in parts])
    begin_s, names = first * windows.step_s, windows.classifier.classes
    scores = FrameScores.of(numbers * windows.step_s - begin_s, logits, frames, windows.window_s)
    return [
        Detection(begin_s + start_s, min(begin_s + stop_s, end_s), names[number], score)
        for number, start_s, stop_s, score in scores.runs(thresholds)
        if min(begin_s + stop_s, end_s) > begin_s + start_s
    ]


def merged(detections: Iterable[Detection]) -> list[Detection]:
    """Those of one species that overlap or touch, as one with the highest score; sorted by time."""
    joined: list[Detection] = []
    for one in sorted(detections, key=lambda d: (d.species, d.start_s)):
        before = joined[-1] if joined else None
        if before and before.species == one.species and one.start_s <= before.end_s + _TOUCHING_S:
            end_s = max(before.end_s, one.end_s)
            joined[-1] = Detection(before.start_s, end_s, one.species, max(before.score, one.score))
        else:
            joined.append(one)
    return sorted(joined, key=lambda d: (d.start_s, d.end_s, d.species))
