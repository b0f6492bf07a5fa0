"""The bootstrap over recordings: against the loop that is usually written, one draw after the other."""

from __future__ import annotations

import numpy as np

from bench.common import Row, Size, paired
from birdsd.evaluation.resampling import mean_interval

RECORDINGS, CLIPS_EACH = 500, 4
LIMIT_S = 2.0


def run(size: Size) -> list[Row]:
    """Ten thousand draws of five hundred recordings, four clips of each."""
    draws = size.of(10_000, 10_000, 200)
    looped = size.of(1_000, 300, 20)  # the loop's draws: its time grows with them in proportion
    random = np.random.default_rng(0)
    recordings = np.repeat(np.arange(RECORDINGS), CLIPS_EACH)
    values = random.normal(size=len(recordings)) + random.normal(size=RECORDINGS)[recordings]

    def ours() -> None:
        mean_interval(values, recordings, resamples=draws)

    pair = paired(ours, lambda: by_loop(values, recordings, looped), repeats=size.of(5, 3, 1))
    peer_s = pair.peer_s * draws / looped
    what = f"{draws:,} draws of {RECORDINGS} recordings"
    return [
        Row("resampling", f"{what} within {LIMIT_S:g} s", LIMIT_S / pair.ours_s, 1.0,
            note=f"{pair.ours_s:.2f} s"),
        Row("resampling", "the same vs a loop over draws", peer_s / pair.ours_s, 5.0),
        Row("resampling", "its ends, difference from the loop's, in widths",
            difference(values, recordings, draws, looped), 0.25, False),
    ]  # fmt: skip


def by_loop(values: np.ndarray, recordings: np.ndarray, draws: int) -> tuple[float, float]:
    """The interval as it is usually computed."""
    random, names = np.random.default_rng(1), np.unique(recordings)
    clips = {name: values[recordings == name] for name in names}
    means = []
    for _ in range(draws):
        drawn = random.choice(names, size=len(names), replace=True)
        means.append(np.concatenate([clips[name] for name in drawn]).mean())
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def difference(values: np.ndarray, recordings: np.ndarray, draws: int, looped: int) -> float:
    """How far apart the ends of both intervals are, as a share of its width."""
    found, (low, high) = (
        mean_interval(values, recordings, resamples=draws),
        by_loop(values, recordings, looped),
    )
    return max(abs(found.low - low), abs(found.high - high)) / found.width
