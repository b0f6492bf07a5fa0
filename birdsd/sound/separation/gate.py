"""The spectral gate: what stands above the steady level of its band passes, the rest is the background."""

from __future__ import annotations

import numpy as np

OVER = 2.0  # times the steady level, which is taken off
FLOOR = 0.05


def steady_level(magnitude: np.ndarray) -> np.ndarray:
    """The median of each bin, float32 [bins], of magnitudes [frames, bins]."""
    found: np.ndarray = np.median(magnitude, axis=0).astype(np.float32)
    return found


def gate(magnitude: np.ndarray, steady: np.ndarray) -> np.ndarray:
    """Float32 [2, frames, bins]: the share of what stands out, and of the rest.

    (V - 2 m) / V of the magnitude V and the steady level m of its bin, not below 0.05: spectral subtraction
    (Boll 1979).
    """
    passed = 1 - np.float32(OVER) * steady / np.maximum(magnitude, np.float32(1e-12))
    np.clip(passed, np.float32(FLOOR), 1, out=passed)
    return np.stack([passed, 1 - passed])
