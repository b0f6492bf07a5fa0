"""Randomness as a function of a key, so that a draw never depends on what was drawn before it.

A counter-based generator (Philox, Salmon et al. 2011) is keyed by a hash of (seed, purpose,
position, ...). Two processes that ask for the same key get the same numbers, in any order, on any
machine: this is what lets a run be stopped anywhere and split over any number of ranks.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """A generator that depends on `key` alone, e.g. `generator(seed, "noise", position)`."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def permutation(count: int, *key: int | str) -> np.ndarray:
    """A permutation of range(count) that depends on `key` alone; int64, shape [count]."""
    return generator(*key).permutation(count)
