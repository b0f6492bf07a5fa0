"""The weaker model for autoguidance: another run, or an earlier checkpoint of the same one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.errors import BadValue, Mismatch
from birdsd.files import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

    from birdsd.diffusion.generation.generator import Generator, WeakerModel
    from birdsd.schema import ClipsConfig
    from birdsd.training.checkpoints.reading import Checkpoint


def split_position(text: str) -> tuple[str, int | None]:
    """NAME@2000 -> ("NAME", 2000); without a number behind its last @ the whole is a name."""
    name, at, number = text.rpartition("@")
    return (name, int(number)) if at and number.isascii() and number.isdigit() else (text, None)


def placed(config: ClipsConfig, text: str) -> str:
    """What `guide` names, by the full path of its folder; "@2000" is of `run`."""
    from birdsd.runs.models.places import model_place, place_of

    name, position = split_position(text)
    folder = place_of(config, name) if name else model_place(config)
    return str(folder.resolve()) + ("" if position is None else f"@{position}")


def load_weaker(config: ClipsConfig, main: Path, like: Generator) -> WeakerModel:
    """The model that `config.guide` names, on the device of `like`, the model in `main`."""
    from birdsd.diffusion.generation.generator import Generator, WeakerModel
    from birdsd.runs.models.places import model_place

    assert config.guide is not None
    name, position = split_position(config.guide)
    if not name and position is None:
        raise BadValue(
            f"guide={config.guide}", "it names a run, or a position", "guide=RUN, RUN@POSITION or @POSITION"
        )
    named = placed(replace(config, run=str(main)), config.guide)
    folder = model_place(replace(config, run=split_position(named)[0]))
    model = Generator(
        folder, like.device, like.pipeline.unet.dtype, placement=like.placement, base=config.base
    )
    identity = model.identity
    if position is not None:
        from birdsd.training.checkpoints.reading import checkpoint_at

        run = folder if (folder / "checkpoints").is_dir() else folder.parent
        checkpoint = checkpoint_at(run, position)
        put_weights(model.pipeline, stored(checkpoint), f"guide={config.guide}")
        identity = fingerprint([identity, position, checkpoint.commit["files"]])
        checkpoint.release()
    elif identity == like.identity:
        raise Mismatch(
            f"guide={config.guide} is the model itself",
            "a model cannot guide itself",
            "name a weaker run, or an earlier checkpoint: guide=@POSITION",
        )
    return WeakerModel(model, named, identity)


def stored(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """A checkpoint's tensors by parameter: the moving averages where it has them."""
    kind = "ema" if checkpoint.has("ema") else "weights"
    names = [key.split("/", 1)[1] for key in checkpoint.commit["tensors"] if key.startswith(f"{kind}/")]
    return {name: checkpoint.tensor(kind, name) for name in names}


def put_weights(pipeline: Any, values: Mapping[str, Tensor], wanted: str) -> None:
    """Put the weights of a run's checkpoints into the networks of a pipeline; a `UserError` that begins with
    `wanted` where a network is missing there."""
    import torch

    parameters = {
        f"{part}.{name}": tensor
        for part in ("unet", "text_encoder")
        for name, tensor in getattr(pipeline, part).state_dict().items()
    }
    for name, value in values.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise Mismatch(
                f"{wanted}: the checkpoint holds {name}, which the model does not have",
                "its method taught something on top of a model, not the model itself",
                "name a run of method=full, or one by its export: guide=RUN",
            )
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
