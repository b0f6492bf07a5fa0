"""Ways to teach a model birds. Each method is a module of its own, loaded when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from birdsd.errors import UserError, unknown_name

if TYPE_CHECKING:
    from birdsd.diffusion.learning.base import Method
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex

# Name -> (module, class).
METHODS: dict[str, tuple[str, str]] = {
    "autoencoder": ("birdsd.diffusion.methods.autoencoder", "AutoencoderMethod"),
    "full": ("birdsd.diffusion.methods.full", "FullMethod"),
    "lora": ("birdsd.diffusion.methods.lora", "LoraMethod"),
    "textual_inversion": ("birdsd.diffusion.methods.textual_inversion", "TextualInversionMethod"),
    "dreambooth": ("birdsd.diffusion.methods.dreambooth", "DreamBoothMethod"),
    "clip": ("birdsd.diffusion.methods.clip", "ClipMethod"),
    "aesthetic_gradients": ("birdsd.diffusion.methods.aesthetic_gradients", "AestheticGradientsMethod"),
}


def make_method(config: TrainConfig, index: ShardIndex) -> Method:
    """The method that `config.method.name` asks for, on the samples of `index`; `UserError` where there are
    none to learn from."""
    name = config.method.name
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    if not index.count("train"):
        raise UserError(
            f"there is no picture in the training split of {index.folder}",
            f"method={name} learns from at least one",
            "prepare shards from at least one recording, or set data.validation_fraction=0 for very few",
        )
    module, kind = METHODS[name]
    method: Method = getattr(importlib.import_module(module), kind)(config, index)
    return method
