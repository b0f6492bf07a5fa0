"""What separates: once fitted, it gives the masks of any stretch of the recording, in any order.

Blocks of a recording overlap by what a frame and a basis reach, and only their middle is kept: with bases
that stay fixed the stems of an hour in blocks are those of the hour at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from birdsd.errors import BadValue
from birdsd.sound.audio.channels import mix_down
from birdsd.sound.audio.source import all_finite
from birdsd.sound.separation import masks, nmf
from birdsd.sound.separation.gate import gate
from birdsd.sound.separation.grid import Grid
from birdsd.sound.separation.model import Bases


class Separator(Protocol):
    """Masks of magnitudes, for sources that have names. The last source is what is left over."""

    @property
    def sources(self) -> tuple[str, ...]: ...

    @property
    def grid(self) -> Grid: ...

    @property
    def depth(self) -> int: ...

    def masks(self, magnitude: np.ndarray) -> np.ndarray:
        """Float32 [sources, frames, bins] that sum to one, of magnitudes [frames, bins]."""
        ...


@dataclass(frozen=True)
class GateSeparator:
    """The spectral gate, with the steady level of each bin."""

    grid: Grid
    steady: np.ndarray
    sources: tuple[str, ...]
    depth: int = 1

    def masks(self, magnitude: np.ndarray) -> np.ndarray:
        return gate(magnitude, self.steady)


@dataclass(frozen=True)
class BasesSeparator:
    """Bases that stay fixed."""

    grid: Grid
    bases: Bases
    scale: float
    background: np.ndarray | None = None
    floor_db: float = masks.FLOOR_DB
    power: float = masks.POWER
    iterations: int = masks.ITERATIONS

    @property
    def sources(self) -> tuple[str, ...]:
        return self.bases.sources

    @property
    def depth(self) -> int:
        return self.bases.depth

    def features(self, magnitude: np.ndarray) -> np.ndarray:
        bins = self.bases.rows(self.grid)[0]
        return masks.features_of(magnitude, bins, self.bases.domain, self.background, self.scale)

    def masks(self, magnitude: np.ndarray) -> np.ndarray:
        found = masks.of_bases(
            self.bases, self.grid, magnitude, self.features(magnitude), self.iterations, self.power
        )
        return masks.floored(found, self.floor_db)


@dataclass
class AdaptiveSeparator:
    """Bases that follow the recording from block to block, so that blocks come in order."""

    fixed: BasesSeparator
    rates: np.ndarray
    weights: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.grid, self.sources, self.depth = self.fixed.grid, self.fixed.sources, self.fixed.depth
        self.bins, self.weights = self.fixed.bases.rows(self.grid)

    def masks(self, magnitude: np.ndarray) -> np.ndarray:
        fixed = self.fixed
        target = nmf.stacked(fixed.features(magnitude), self.depth)
        self.weights, activations = nmf.adapt(target, self.weights, self.rates, fixed.iterations)
        found = masks.shared_out(
            fixed.bases, self.weights, activations, self.bins, magnitude.shape, fixed.power
        )
        return masks.floored(found, fixed.floor_db)


def reach(separator: Separator) -> int:
    """Samples, whole hops of them, on either side of a stretch on which its stems depend."""
    grid = separator.grid
    return 2 * grid.window + 2 * (separator.depth - 1) * grid.hop


def stems_of(separator: Separator, sound: np.ndarray) -> np.ndarray:
    """Float32 [sources, channels, n] that sum to `sound`, float32 [channels, n].

    All channels get the masks of their mix. `UserError` for samples that are NaN or infinite.
    """
    sound = np.atleast_2d(np.asarray(sound, np.float32))
    if not all_finite(sound):
        raise BadValue("the sound to separate has NaN or infinite samples", "nothing can be said of those")
    grid, samples = separator.grid, sound.shape[1]
    spectra = [grid.spectrum(channel) for channel in sound]
    mono = mix_down(sound, grid.rate_hz)
    magnitude = np.abs(spectra[0] if len(sound) == 1 else grid.spectrum(mono))
    shares = separator.masks(magnitude)
    stems = np.empty((len(shares), *sound.shape), np.float32)
    for number, share in enumerate(shares[:-1]):
        for channel, spectrum in enumerate(spectra):
            stems[number, channel] = grid.waveform(spectrum * share, samples)
    # The masks sum to one, and so do the stems: the last is what the others leave, to the last bit.
    stems[-1] = sound - stems[:-1].sum(axis=0)
    return stems


def in_blocks(
    separator: Separator, parts: Iterable[np.ndarray], block: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(sound [channels, n], stems [sources, channels, n]) of a sound that comes in parts [channels, any], in
    blocks of about `block` samples. No more than one block and its margins are held."""
    grid, side = separator.grid, reach(separator)
    block = max(1, round(block / grid.hop)) * grid.hop  # frames of every block are those of the whole
    held: np.ndarray | None = None
    before = 0  # samples at the beginning of `held` that were given out
    for part in parts:
        held = part if held is None else np.concatenate([held, part], axis=1)
        while held.shape[1] >= before + block + side:
            yield _middle(separator, held[:, : before + block + side], before, before + block)
            kept = min(side, before + block)
            held, before = held[:, before + block - kept :], kept
    if held is not None and held.shape[1] > before:
        yield _middle(separator, held, before, held.shape[1])


def _middle(separator: Separator, sound: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    return sound[:, first:last], stems_of(separator, sound)[:, :, first:last]
