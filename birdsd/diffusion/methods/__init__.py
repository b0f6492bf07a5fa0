"""Ways to teach a model birds. Each method is a module of its own, loaded when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from birdsd.diffusion.networks.libraries import import_diffusers
from birdsd.errors import NothingLeft
from birdsd.method_facts import facts_of

if TYPE_CHECKING:
    from birdsd.diffusion.learning.base import Method
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex


def make_method(config: TrainConfig, index: ShardIndex) -> Method:
    """The method that `config.method.name` asks for, on the samples of `index`; `UserError` where there are
    none to learn from."""
    facts = facts_of(config.method)
    if not index.count("train"):
        raise NothingLeft(
            f"there is no picture in the training split of {index.folder}",
            f"method={facts.name} learns from at least one",
            "prepare shards from at least one recording, or set data.validation_fraction=0 for very few",
        )
    import_diffusers()
    module, _, kind = facts.make.partition(":")
    method: Method = getattr(importlib.import_module(module), kind)(config, index)
    return method
