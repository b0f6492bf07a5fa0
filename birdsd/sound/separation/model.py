"""What separation has learnt: bases by source, with the grid that they belong to; kept as safetensors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.errors import Damaged, Mismatch, listed_names, unknown_name
from birdsd.files import atomic_write, fingerprint
from birdsd.sound.separation.grid import Grid

FORMAT = "birdsd-separation-1"
MAGNITUDE, DECIBEL = "magnitude", "decibel"
DEPTH = 5  # frames a basis is long
_LEAST_BAND = 0.5  # of a model's band that a recording must have
_MOST_VALUES = 1 << 28


@dataclass(frozen=True)
class Bases:
    """Bases float32 [depth * bins, n], columns summing to 1, and the number of the source of each.

    hz: float32 [bins], the frequency of each row. `domain`: of what the bases are, magnitudes or (models of
    soundscape_IR) decibels above the background.
    """

    weights: np.ndarray
    sources: tuple[str, ...]
    owner: np.ndarray
    hz: np.ndarray
    window_s: float
    overlap: int
    depth: int = DEPTH
    domain: str = MAGNITUDE
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = self.weights.shape[1]
        rule = "a separation model is bases, a source for each, and frequencies"
        if self.weights.shape[0] != self.depth * len(self.hz) or len(self.owner) != count or not count:
            raise Damaged(
                f"bases of {self.weights.shape} do not fit {len(self.hz)} frequencies, {self.depth} frames "
                f"and {len(self.owner)} sources",
                rule,
            )
        if not np.isfinite(self.weights).all() or (self.weights < 0).any():
            raise Damaged("the bases of a separation model hold NaN, infinite or negative values", rule)
        spaced = len(self.hz) > 1 and np.isfinite(self.hz).all() and (np.diff(self.hz) > 0).all()
        if not spaced or self.hz[0] < 0:
            raise Damaged("the frequencies of a separation model do not rise", rule)
        if not self.sources or self.owner.min() < 0 or self.owner.max() >= len(self.sources):
            raise Damaged("a basis of a separation model belongs to a source that it does not have", rule)

    @property
    def identity(self) -> str:
        """A fingerprint of what it does."""
        return fingerprint([FORMAT, self._header(), _digest(self.weights)])

    def of(self, source: str) -> Bases:
        """The bases of one source alone."""
        if source not in self.sources:
            raise unknown_name("source of the model", source, self.sources)
        keep = self.owner == self.sources.index(source)
        return replace(
            self, weights=self.weights[:, keep], sources=(source,), owner=np.zeros(int(keep.sum()), np.int64)
        )

    def grid(self, rate_hz: int) -> Grid:
        """The grid on which a recording of this rate is separated by it."""
        return Grid.of(rate_hz, self.window_s, self.overlap)

    def rows(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Which bins of a grid it speaks of, int [n], and its bases for them, float32 [depth * n, bases].

        `UserError` where the rate of the recording leaves less than half of its band.
        """
        bins = np.rint(self.hz / grid.bin_hz).astype(int)
        there = (bins < grid.bins) & (np.diff(bins, prepend=-1) > 0)
        if there.sum() < _LEAST_BAND * len(self.hz):
            top_hz, step_hz = float(self.hz[-1]), float(self.hz[1] - self.hz[0])
            raise Mismatch(
                f"the model is of {self.hz[0]:.0f}-{top_hz:.0f} Hz in steps of {step_hz:.1f} Hz, and a "
                f"recording of {grid.rate_hz} Hz has {grid.rate_hz / 2:.0f} Hz in steps of {grid.bin_hz:.1f}",
                "half of the model's band must be there",
                "learn a model from recordings of that rate",
            )
        pieces = self.weights.reshape(self.depth, len(self.hz), -1)[:, there]
        return bins[there], np.ascontiguousarray(pieces.reshape(-1, pieces.shape[2]))

    def save(self, path: Path) -> Path:
        """Write it atomically as safetensors; returns the path."""
        from safetensors.numpy import save

        tensors: dict[str, np.ndarray] = {
            "weights": np.ascontiguousarray(self.weights, np.float32),
            "owner": np.asarray(self.owner, np.int64),
            "hz": np.asarray(self.hz, np.float32),
        }
        with atomic_write(Path(path)) as stream:
            stream.write(save(tensors, {"format": FORMAT, "bases": json.dumps(self._header())}))
        return Path(path)

    def _header(self) -> dict[str, Any]:
        return {
            "sources": list(self.sources), "window_s": self.window_s, "overlap": self.overlap,
            "depth": self.depth, "domain": self.domain, "notes": self.notes,
        }  # fmt: skip


def load_safetensors(path: Path) -> Bases:
    """A model from its .safetensors file. `UserError` says what is wrong with the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise Mismatch(
                    f"{path} holds other weights (it has {listed_names(sorted(file.keys()))})",
                    f"a separation model says format={FORMAT}",
                    "birdsd run separate learn=FOLDER makes one",
                )
            told = json.loads(about["bases"])
            tensors = {name: file.get_tensor(name) for name in ("weights", "owner", "hz")}
        return Bases(
            tensors["weights"].astype(np.float32), tuple(map(str, told["sources"])), tensors["owner"],
            tensors["hz"], float(told["window_s"]), int(told["overlap"]), int(told["depth"]),
            str(told["domain"]), dict(told["notes"]),
        )  # fmt: skip
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"{path} cannot be read: {error}", "it is a separation model", "copy it again"
        ) from error


def joined(parts: list[Bases]) -> Bases:
    """Several models as one; sources of one name are one source. `UserError` where they lie on other
    grids."""
    first = parts[0]
    names: list[str] = list(dict.fromkeys(name for part in parts for name in part.sources))
    owners = []
    for part in parts:
        alike = (part.window_s, part.overlap, part.depth, part.domain, len(part.hz))
        if alike != (first.window_s, first.overlap, first.depth, first.domain, len(first.hz)):
            raise Mismatch(
                f"the models of {listed_names(first.sources)} and {listed_names(part.sources)} lie on "
                "different grids",
                "their windows, stacked frames, frequencies and domain must be the same",
                "learn both with the same settings",
            )
        owners.append(np.array([names.index(part.sources[at]) for at in part.owner], np.int64))
    weights = np.concatenate([part.weights for part in parts], axis=1)
    return replace(first, weights=weights, sources=tuple(names), owner=np.concatenate(owners), notes={})


def _digest(values: np.ndarray) -> str:
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(values, np.float32).tobytes()).hexdigest()
