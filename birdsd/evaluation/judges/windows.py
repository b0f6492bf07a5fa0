"""The windows in which a judge hears a sound: one after the other, the last one padded with zeros."""

from __future__ import annotations

import numpy as np


def windows_of(waveform: np.ndarray, rate_hz: int, window_s: float, shortest_s: float) -> np.ndarray:
    """float32 [windows, window_s * rate_hz]: one after the other, the last one padded with zeros.

    A last window with less than `shortest_s` of sound is dropped, unless it is the only one.
    """
    size = round(window_s * rate_hz)
    count = max(1, -(-len(waveform) // size))
    if count > 1 and len(waveform) - (count - 1) * size < shortest_s * rate_hz:
        count -= 1
    windows = np.zeros((count, size), dtype=np.float32)
    kept = waveform[: count * size]
    windows.reshape(-1)[: len(kept)] = kept
    return windows
