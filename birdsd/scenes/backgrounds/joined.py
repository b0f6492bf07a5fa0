"""Pieces one after the other, cross-faded at equal power: what is unlike keeps its level across the join."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=8)
def rising(samples: int) -> np.ndarray:
    """float32 [samples], not to be changed: sin from 0 to 1; with its mirror image the powers add up to 1."""
    return np.sin(0.5 * np.pi * (np.arange(samples) + 0.5) / max(1, samples)).astype(np.float32)


def joined(parts: Iterator[np.ndarray], fade: int, samples: int) -> Iterator[np.ndarray]:
    """Exactly `samples` samples of the parts (or fewer, where they end), each overlapping the one before it
    by `fade` samples, or by a third of the shorter one."""
    sent = 0
    held: np.ndarray | None = None
    width = 0
    for part in parts:
        if held is not None:
            width = min(fade, len(held), len(part) // 3)
            rise = rising(width)
            part = np.asarray(part, np.float32)
            crossed = part[:width] * rise + held[len(held) - width :] * rise[::-1]
            for ready in (held[: len(held) - width], crossed):
                ready = ready[: samples - sent]
                sent += len(ready)
                yield ready
        if sent >= samples:
            return
        keep = min(fade, len(part) // 3)
        body = part[width : len(part) - keep][: samples - sent]
        sent += len(body)
        yield body
        held = part[len(part) - keep :]
        if sent >= samples:
            return
    if held is not None and sent < samples:
        yield held[: samples - sent]


def faded_in_out(samples: np.ndarray, start: int, total: int, fade_in: int, fade_out: int) -> np.ndarray:
    """`samples`, [n] or [n, channels], are those from `start` on of a piece of `total`: its fades on them, at
    equal power."""
    end = start + len(samples)
    if (not fade_in or start >= fade_in) and (not fade_out or end <= total - fade_out):
        return samples
    place = np.arange(start, end)
    gain = np.ones(len(samples), np.float32)
    if fade_in:
        gain *= np.sin(0.5 * np.pi * np.clip((place + 0.5) / fade_in, 0, 1)).astype(np.float32)
    if fade_out:
        gain *= np.sin(0.5 * np.pi * np.clip((total - place - 0.5) / fade_out, 0, 1)).astype(np.float32)
    return samples * (gain if samples.ndim == 1 else gain[:, None])
