"""Separation: with bases that stay fixed against real time, and against soundscape_IR's loop on equal terms.

Its quality on real recordings: `python -m bench.separation_table DATA`.
"""

from __future__ import annotations

import time

import numpy as np

from bench.common import Row, Size, paired
from bench.separation_peer import update_loop
from birdsd.sound.separation import masks, nmf
from birdsd.sound.separation.fit import Wanted, fit, learn_source
from birdsd.sound.separation.grid import Grid
from birdsd.sound.separation.model import joined
from birdsd.sound.separation.sample import of_sound
from birdsd.sound.separation.separator import BasesSeparator, in_blocks

RATE_HZ = 32000


def run(size: Size) -> list[Row]:
    """Speed with a model of two sources at the settings that `separate` has by default."""
    seconds, repeats = size.of(60, 30, 3), size.of(5, 3, 1)
    bird, noise = _song(10, 0), _noise(10, 1)
    wanted = Wanted("nmf")
    grid = Grid.of(RATE_HZ)
    model = joined(
        [learn_source(name, of_sound(one, grid), wanted) for name, one in (("bird", bird), ("rest", noise))]
    )
    sound = _song(seconds, 2) + _noise(seconds, 3)
    separator = fit(of_sound(sound[: 10 * RATE_HZ], grid), wanted, model).separator
    assert isinstance(separator, BasesSeparator)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in in_blocks(separator, [sound[None]], 10 * RATE_HZ):
            pass
        times.append(time.process_time() - start)
    speed = seconds / float(np.median(times))
    return [
        Row("separation", "fixed bases, two sources, one core: x real time", speed, 10.0),
        _against_the_loop(separator, sound[: size.of(20, 10, 2) * RATE_HZ], repeats),
    ]


def _against_the_loop(separator: BasesSeparator, sound: np.ndarray, repeats: int) -> Row:
    """Activations of the same matrix by the same bases in as many iterations."""
    magnitude = np.abs(separator.grid.spectrum(sound))
    target = nmf.stacked(separator.features(magnitude), separator.depth)
    weights = separator.bases.rows(separator.grid)[1]
    pair = paired(
        lambda: nmf.activate(target, weights, masks.ITERATIONS),
        lambda: update_loop(target, weights, masks.ITERATIONS),
        repeats,
    )
    note = f"{pair.ours_s:.2f} s and {pair.peer_s:.2f} s for {len(sound) / RATE_HZ:.0f} s"
    return Row("separation", "the same vs soundscape_IR's update loop", pair.speedup, 1.5, note=note)


def _song(seconds: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    time_s = np.arange(seconds * RATE_HZ) / RATE_HZ
    sweep = np.sin(2 * np.pi * (3000 + 200 * seed + 800 * np.sin(2 * np.pi * 3 * time_s)) * time_s / 4)
    pauses = np.sin(2 * np.pi * 0.7 * time_s + draw.uniform(0, 6)) > 0
    return (0.3 * sweep * pauses).astype(np.float32)


def _noise(seconds: int, seed: int) -> np.ndarray:
    return (0.05 * np.random.default_rng(seed).standard_normal(seconds * RATE_HZ)).astype(np.float32)
