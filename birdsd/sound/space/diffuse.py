"""Wind and rain from everywhere: independent plane waves, each another piece of the same noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from birdsd.sound.space.air import Air
from birdsd.sound.space.layouts import ARRAY, Layout, Position

WAVES = 32
_BLOCK = 1 << 17
_FADE_S = 0.05  # where a piece begins anew

Read = Callable[[int, int], np.ndarray]


def waves(count: int = WAVES) -> list[Position]:
    """Directions spread evenly over the sphere (Fibonacci's lattice)."""
    found = []
    for number in range(count):
        azimuth = (number * 180 * (3 - math.sqrt(5)) + 180) % 360 - 180
        elevation = math.degrees(math.asin(1 - (2 * number + 1) / count))
        found.append(Position(azimuth, elevation))
    return found


def round_and_round(read: Read, samples: int, rate_hz: int, seamless: bool) -> tuple[Read, int]:
    """A mono piece as one that has no end, and the samples after which it begins anew. `seamless`: it goes
    on there by itself; else its end is cross-faded into its beginning, at equal power."""
    fade = 0 if seamless else min(round(_FADE_S * rate_hz), samples // 4)
    length = samples - fade
    angle = 0.5 * np.pi * (np.arange(fade) + 0.5) / max(1, fade)
    rise, fall = np.sin(angle).astype(np.float32), np.cos(angle).astype(np.float32)

    def around(first: int, count: int) -> np.ndarray:
        out = np.empty(count, np.float32)
        done = 0
        while done < count:
            at = (first + done) % length
            step = min(count - done, length - at)
            part = np.array(read(at, step))
            if at < fade:
                faded = min(step, fade - at)
                old = read(length + at, faded)
                part[:faded] = part[:faded] * rise[at : at + faded] + old * fall[at : at + faded]
            out[done : done + step] = part
            done += step
        return out

    return around, length


def bed(
    read: Read, length: int, samples: int, rate_hz: int, layout: Layout, draw: np.random.Generator
) -> Iterator[np.ndarray]:
    """float32 [n, layout.channels] blocks, `samples` in all, of noise that `read` gives round and round.

    Recorders of an array, metres apart, have nothing in common but the noise's kind: each hears another
    piece. The two of an ORTF pair hear the same waves at other times, to the nearest sample.
    """
    spread = [Position()] * len(layout.recorders) if layout.name == ARRAY else waves()
    starts = ((draw.permutation(len(spread)) + draw.random(len(spread))) * length / len(spread)).astype(int)
    if layout.name == ARRAY:
        gains, delays = np.eye(len(spread)), np.zeros((len(spread), len(spread)))
    else:
        paths = [layout.paths(one, Air()) for one in spread]
        gains = np.stack([one.gains for one in paths]) / math.sqrt(len(spread))
        delays = np.rint(np.stack([one.delays_s for one in paths]) * rate_hz)
    if layout.matrix is not None:
        gains, delays = gains @ layout.matrix, delays[:, : layout.channels]
    mixing, shifts = gains.astype(np.float32), delays.astype(int)
    together = not shifts.any()
    for first in range(0, samples, _BLOCK):
        count = min(_BLOCK, samples - first)
        if together:
            heard = np.stack([read(int(start) + first, count) for start in starts], axis=1)
            yield heard @ mixing
            continue
        out = np.zeros((count, layout.channels), np.float32)
        most = int(np.abs(shifts).max())
        for start, gain, shift in zip(starts, mixing, shifts, strict=True):
            piece = read(int(start) + first - most, count + 2 * most)
            for channel, late in enumerate(shift):
                at = most - int(late)
                out[:, channel] += piece[at : at + count] * gain[channel]
        yield out
