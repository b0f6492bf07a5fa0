"""Cached latents: what the frozen autoencoder made of every image of a split, in one memory-mapped file.

Beside the shards, one folder per autoencoder: `latents-FINGERPRINT/SPLIT.npy` holds float16
[samples, channels, height, width] in the order of the index, `SPLIT.json` says what it was made from.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.errors import UserError
from birdsd.files import atomic_write, read_json, safe_name, write_json
from birdsd.shards.index import ShardIndex

FORMAT = "birdsd-latents-1"


class LatentCache:
    """The latents of one split by one autoencoder (moments: 2 C channels, so that sampling stays free).

    `folder` defaults to the folder of the shards; name another where that one cannot be written.
    """

    def __init__(
        self, index: ShardIndex, split: str, vae_fingerprint: str, folder: Path | None = None
    ) -> None:
        self.index, self.split, self.vae_fingerprint = index, split, vae_fingerprint
        self.folder = Path(folder or index.folder) / f"latents-{safe_name(vae_fingerprint)[:16]}"
        self.path = self.folder / f"{safe_name(split)}.npy"
        self.facts_path = self.path.with_suffix(".json")

    def open(self) -> np.ndarray | None:
        """The latents, memory-mapped and read-only; None where there are none, or they are of other data."""
        if not (self.path.is_file() and self.facts_path.is_file()):
            return None
        try:
            facts = read_json(self.facts_path)
            latents: np.ndarray = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (UserError, ValueError, OSError):
            return None
        expected = {**self._facts(), "shape": list(latents.shape), "bytes": os.path.getsize(self.path)}
        fits = isinstance(facts, dict) and all(facts.get(name) == value for name, value in expected.items())
        return latents if fits and len(latents) == self.index.count(self.split) else None

    def write(self, latents: Iterable[np.ndarray], progress: bool = True) -> np.ndarray:
        """Stream latents [C, H, W], one per sample in the order of the index, to disk; returns `open()`.

        Memory does not depend on their number. Values beyond float16 are refused. Nothing is left
        behind where the iterable ends early or fails.
        """
        from tqdm import tqdm

        count = self.index.count(self.split)
        bar = tqdm(
            latents,
            total=count,
            desc=f"latents {self.split}",
            unit="clip",
            disable=None if progress else True,
        )
        shape: tuple[int, ...] | None = None
        written = checksum = 0
        with atomic_write(self.path) as stream:
            for latent in bar:
                if shape is None:
                    shape = tuple(latent.shape)
                    np.lib.format.write_array_header_1_0(
                        stream, {"descr": "<f2", "fortran_order": False, "shape": (count, *shape)}
                    )
                data = _half(latent, shape, written)
                stream.write(data)
                checksum = zlib.crc32(data, checksum)
                written += 1
            if written != count or shape is None:
                raise ValueError(
                    f"{written} latents were given for the {count} samples of split '{self.split}'"
                )
        facts = {
            **self._facts(),
            "shape": [count, *shape],
            "bytes": os.path.getsize(self.path),
            "crc32": checksum,
        }
        write_json(self.facts_path, facts)
        stored = self.open()
        assert stored is not None
        return stored

    def _facts(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "vae": self.vae_fingerprint,
            "shards": self.index.fingerprint,
            "split": self.split,
        }


def _half(latent: np.ndarray, shape: tuple[int, ...], number: int) -> bytes:
    if tuple(latent.shape) != shape:
        raise ValueError(f"latent {number} is {latent.shape}, those before are {shape}")
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(latent, dtype="<f2")
    if not np.isfinite(half).all():
        raise UserError(
            f"latent {number} has values that float16 cannot hold",
            "cached latents are stored as float16 (up to 65504)",
            "train without the cache: machine.cache_latents=false",
        )
    return half.tobytes()
