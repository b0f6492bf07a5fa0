"""diffusers without the libraries that it would import because they happen to be installed.

Its networks import peft and bitsandbytes wherever there are any: a second or two of every start, also of
trainings that have neither adapters nor weights of 4 or 8 bits. While diffusers is imported, stand-ins are in
their places: the real ones are imported by whoever uses something of theirs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# What modules of diffusers, which its networks need, take of them when they are imported.
_TAKERS = (
    "diffusers.models.modeling_utils",
    "diffusers.hooks.layerwise_casting",
    "diffusers.loaders.lora_base",
)
_SCALING = ("scale_lora_layers", "unscale_lora_layers")  # around each call of a UNet
_LATER = ("bitsandbytes", "peft.helpers", "peft.tuners.tuners_utils")


class _Later:
    """A function or class of a module that is imported when it is called. Until then nothing can be an
    instance of it."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return getattr(importlib.import_module(self._module), self._name)(*arguments, **named)

    def __instancecheck__(self, thing: object) -> bool:
        real = sys.modules.get(self._module)
        return real is not None and isinstance(thing, getattr(real, self._name))


class _StandIn(ModuleType):
    """For a module, while others are imported; who keeps it gets at the real one by its attributes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            return _Later(self.__name__, name)
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def _standing_in(names: tuple[str, ...]) -> Iterator[None]:
    """For those that are installed, and not imported yet."""
    placed: dict[str, ModuleType] = {}
    for name in names:
        top = name.partition(".")[0]
        if top in sys.modules or (spec := find_spec(top)) is None:
            continue
        stand_in = _StandIn(name)
        stand_in.__spec__ = spec if name == top else ModuleSpec(name, None)
        placed[name] = stand_in
    sys.modules.update(placed)
    try:
        yield
    finally:
        for name, mine in placed.items():
            if sys.modules.get(name) is mine:
                del sys.modules[name]


def _unless_one(scale: Callable[..., None]) -> Callable[..., None]:
    """A scaling of adapters that does not even import peft to find out that there is nothing to do."""

    def spared(model: Any, weight: float | None = None) -> None:
        if weight is not None and weight != 1.0:
            scale(model, weight)

    return spared


def import_diffusers() -> None:
    """Import what diffusers' networks stand on. Whoever has done so already keeps what it has."""
    if _TAKERS[0] in sys.modules:
        return
    with suppress(Exception):
        whole, part = (importlib.import_module(f"diffusers.utils{rest}") for rest in ("", ".peft_utils"))
        for name in _SCALING:
            spared = _unless_one(getattr(part, name))
            for module in (whole, part):
                setattr(module, name, spared)
    with _standing_in(_LATER):
        for name in _TAKERS:
            # Another version may have no such module, or need the real ones at once: it will get them.
            with suppress(Exception):
                importlib.import_module(name)
