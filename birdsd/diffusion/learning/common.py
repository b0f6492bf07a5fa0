"""What methods share: samples as tensors, the frozen autoencoder, previews."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.errors import Mismatch, NotSet
from birdsd.files import atomic_write, safe_name
from birdsd.sound.codec.protocol import image_shape

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex
    from birdsd.shards.reader import Sample


def codec_of(index: ShardIndex) -> dict[str, Any]:
    """The codec that the shards were made with; a clear error where they say nothing of it."""
    return index.known_codec("a model must know how its pictures become sound")


def load_codec(values: dict[str, Any]) -> Any:
    """The codec of stored settings."""
    from birdsd.sound.codec.protocol import Codec

    return Codec.from_json(values)


def required_source(config: TrainConfig) -> str:
    """model.source, which model.init=pretrained needs."""
    if not config.model.source:
        raise NotSet(
            "model.init=pretrained without model.source",
            "weights must come from somewhere",
            "set model.source to a diffusers folder, a finished run or a hub id, or model.init=scratch",
        )
    return config.model.source


def read(index: ShardIndex, split: str, numbers: Iterable[int]) -> list[Sample]:
    """Samples of a split by number."""
    from birdsd.shards.reader import ShardReader

    return ShardReader(index, split).read_many(numbers)


def picture_of(sample: Sample, codec: dict[str, Any]) -> np.ndarray:
    """uint8 [C, bands, frames]; zeros for a sample that could not be decoded (its weight is 0)."""
    shape = image_shape(codec)
    if sample.image is None:
        return np.zeros(shape, np.uint8)
    if tuple(sample.image.shape) != shape:
        raise Mismatch(
            f"sample {sample.key} is an image of {list(sample.image.shape)}",
            f"codec.json beside the shards says {list(shape)} (channels, bands, frames)",
            "prepare the shards again, or put the codec.json that fits them into their folder",
        )
    return sample.image


def write_preview(
    folder: Path, rows: Sequence[np.ndarray], pictures: Sequence[np.ndarray], names: Sequence[str], codec: Any
) -> list[Path]:
    """One grid.png of `rows` (uint8 [H, W, 3], equal widths) and a wav for every picture; returns the
    paths.
    """
    from PIL import Image

    from birdsd.sound.audio.recordings import write_wav

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    gap = np.full((4, rows[0].shape[1], 3), 255, np.uint8)
    grid = np.concatenate([piece for row in rows for piece in (row, gap)][:-1])
    paths = [folder / "grid.png"]
    with atomic_write(paths[0]) as stream:
        Image.fromarray(grid).save(stream, format="PNG")
    for picture, name in zip(pictures, names, strict=True):
        path = folder / f"{safe_name(name)}.wav"
        write_wav(path, codec.decode(codec.from_rgb(picture)), codec.rate_hz)
        paths.append(path)
    return paths
