"""The upscaler that `upscale` names: a run, a folder, or another program's file, which is measured first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from birdsd.errors import Mismatch
from birdsd.files import read_json
from birdsd.runs.auto import say
from birdsd.runs.models.places import place_of
from birdsd.shards.index import ShardIndex

if TYPE_CHECKING:
    from birdsd.diffusion.generation.generator import Generator
    from birdsd.diffusion.upscaling.upscaler import Upscaler
    from birdsd.schema import ClipsConfig


def load_upscaler(config: ClipsConfig, main: Path, model: Generator) -> Upscaler:
    """The upscaler for the pictures of `model`, which lies in `main`, on its device.

    Another program's file has learnt from photographs: how it does on the spectrograms that the model was
    taught with, beside bicubic interpolation, is said before it is used.
    """
    from birdsd.diffusion.formats.upscalers import measured_on, read_foreign
    from birdsd.diffusion.upscaling.upscaler import Upscaler

    named = str(config.upscale)
    path = upscaler_place(config, named)
    if not path.is_file():
        return Upscaler.open(path, model.codec, config.upscale_sharpness, model.device)
    if config.upscale_sharpness:
        raise Mismatch(
            f"upscale_sharpness={config.upscale_sharpness:g} with upscale={named}",
            "a file holds one set of weights, and no measure of how much noise it lacks",
            "leave it out",
        )
    upscaler = read_foreign(path, model.codec, model.device)
    shards = _shards(main)
    if shards is None:
        say(f"upscale={path.name} is not measured: the shards that the model was taught with are not here")
    else:
        say(measured_on(upscaler, shards).line(f"upscale={path.name}"))
    return upscaler


def upscaler_place(config: ClipsConfig, named: str) -> Path:
    """A file as it stands, else a folder or the export of a run."""
    path = Path(named).expanduser()
    return path.resolve() if path.is_file() else place_of(config, named).resolve()


def _shards(main: Path) -> ShardIndex | None:
    """Those that a run was trained with, where they still lie there."""
    for folder in (main, main.parent):
        if (folder / "config.json").is_file() and (folder / "signature.json").is_file():
            named = (read_json(folder / "config.json").get("data") or {}).get("shards")
            if named and Path(named).is_dir():
                return ShardIndex.open(Path(named))
    return None
