"""From the names in a configuration to a loaded model: runs, folders, and adapters with their weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.diffusion.adapters import Adapter
from birdsd.errors import BadValue, UserError
from birdsd.runs.auto import chosen_device
from birdsd.runs.models.places import model_place, place_of
from birdsd.runs.run import RunStore
from birdsd.schema import ClipsConfig

if TYPE_CHECKING:
    from birdsd.diffusion.generation.generator import Generator


def load_model(
    config: ClipsConfig, folder: Path | None = None, added: Sequence[Adapter] | None = None
) -> Generator:
    """The model of the configuration on its machine, with what it (or else `added`) puts on top.

    `folder` stands in for `run`. Raises `UserError` for a run that is not there or not finished, for an
    adapter that does not fit, and for a device that this machine does not have.
    """
    from birdsd.diffusion.generation.generator import Generator
    from birdsd.diffusion.networks.placement import Placement
    from birdsd.training.devices.precision import choose_precision, set_threads

    place = model_place(config) if folder is None else folder
    on_top = [open_adapter(config, text) for text in config.add] if added is None else added
    base = RunStore(Path(config.runs)).model_source(config.base, "base")
    device = chosen_device(config.machine)
    set_threads(config.machine.threads, device)
    dtype = choose_precision(config.machine.precision, device).dtype
    model = Generator(place, device, dtype, on_top, base, Placement.of(config.machine))
    if config.guide:
        from birdsd.runs.models.weaker import load_weaker

        model.lead_away_from(load_weaker(config, place, model))
    if config.upscale:
        from birdsd.runs.models.upscaling import load_upscaler

        model.upscale_with(load_upscaler(config, place, model))
    return model


def recommended_sampling(config: ClipsConfig) -> dict[str, Any]:
    """What the model of the configuration recommends for its sampling, without loading it; {} where it says
    nothing, or is not there (which its loading then says)."""
    from birdsd.diffusion.generation.recommended import sampling_of

    try:
        place = model_place(config)
        base = RunStore(Path(config.runs)).model_source(config.base, "base")
    except UserError:
        return {}
    return sampling_of(place, base)


def open_adapter(config: ClipsConfig, text: str) -> Adapter:
    """The adapter that FOLDER_OR_RUN[:WEIGHT] names."""
    name, weight = split_weight(text)
    return Adapter.open(place_of(config, name), weight)


def split_weight(text: str) -> tuple[str, float]:
    """NAME:0.5 -> ("NAME", 0.5); without a number behind its last colon the whole is a name."""
    name, colon, number = text.rpartition(":")
    try:
        weight = float(number) if colon else 1.0
    except ValueError:
        return text, 1.0
    if not math.isfinite(weight):
        raise BadValue(f"add={text}", "a weight is a finite number", f"add={name}:1")
    return (name if colon else text), weight
