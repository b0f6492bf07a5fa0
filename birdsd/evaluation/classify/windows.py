"""Windows with overlap over a recording of any length, and what a classifier says in each.

A part of a recording is read and transformed at once: windows that overlap share their frames, and the
network gets many of them together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from birdsd.diffusion.classifiers.folder import Classifier, Heard
from birdsd.errors import BadValue
from birdsd.sound.audio.levels import without_offset
from birdsd.sound.audio.recordings import read

_TOGETHER = 32  # windows that are cut and heard at once
# Of sound that is read and transformed at once: what that makes stays in the processor's cache (300 s took a
# seventh longer, and so did 20 s, by opening the file so often).
_BLOCK_S = 75.0
_NOTHING = -30.0  # the logit of every class where there is no sound
SHORTEST = 1 / 3  # of a window; less new sound at the end of a recording makes no further one


@dataclass(frozen=True)
class Windows:
    """Where the windows of a classifier lie: each `step_frames` of its grid after the one before."""

    classifier: Classifier
    overlap: float  # share of a window that the next one hears too

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise BadValue(
                f"overlap={self.overlap:g}",
                "it is the fraction by which consecutive windows overlap, from 0 to below 1",
                "overlap=0.5",
            )

    @cached_property
    def step_frames(self) -> int:
        """Frames of the grid from one window to the next."""
        return max(1, round(self.classifier.grid.frames * (1 - self.overlap)))

    @property
    def window_s(self) -> float:
        """The length of a window."""
        return float(self.classifier.codec.clip_s)

    @cached_property
    def step_s(self) -> float:
        """From one window to the next."""
        return self.window_s * self.step_frames / self.classifier.grid.frames

    def count(self, duration_s: float) -> int:
        """How many windows a recording has: one at least, and one for the end if enough of it is new."""
        beyond_s = duration_s - self.window_s
        if beyond_s <= 0:
            return 1
        whole = int(beyond_s / self.step_s + 1e-9)
        new_s = beyond_s - whole * self.step_s
        return 1 + whole + (new_s >= SHORTEST * min(self.window_s, self.step_s))

    def powers(self, path: Path, first: int, count: int) -> np.ndarray:
        """float32 [bands, frames of the grid] of the stretch that holds windows `first` to `first + count`,
        filled up with silence where the recording ends. What lies on either side of it is heard with it, so
        that it begins and ends as it would in the middle of a longer one."""
        codec, grid = self.classifier.codec, self.classifier.grid
        frame = grid.together * codec.hop
        wanted = (count - 1) * self.step_frames + grid.frames
        edge = math.ceil(codec.least_samples / frame)  # half a window: a frame there hears its mirror image
        before = min(edge, first * self.step_frames)
        samples = (before + wanted + edge) * frame
        start_s = (first * self.step_frames - before) * frame / codec.rate_hz
        sound = read(
            path, codec.rate_hz, start_s=start_s, duration_s=samples / codec.rate_hz, channels=codec.channels
        )
        sound = without_offset(sound[:, :samples], codec.rate_hz, codec.fmin_hz)
        stretch = np.zeros((len(sound), samples), np.float32)
        stretch[:, : sound.shape[1]] = sound
        return grid.power(codec.image_of(stretch))[:, before : before + wanted]

    def heard(self, path: Path, first: int, count: int) -> Iterator[tuple[int, Heard]]:
        """(number of the first window, what is heard in it and those after) of a stretch, some at a time."""
        frames, block = self.classifier.grid.frames, max(1, int(_BLOCK_S / self.step_s))
        for begin in range(first, first + count, block):
            windows = min(block, first + count - begin)
            power = self.powers(path, begin, windows)
            for start in range(0, windows, _TOGETHER):
                numbers = range(start, min(windows, start + _TOGETHER))
                cut = [power[:, k * self.step_frames : k * self.step_frames + frames] for k in numbers]
                heard = self.classifier.hear(cut)
                heard.logits[[not one.any() for one in cut]] = _NOTHING  # whatever it learnt of silence
                yield begin + start, heard
