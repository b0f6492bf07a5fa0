"""What each fine-tuning method says of itself, without torch: what it trains, on which models it stands, what
it keeps and exports, and which settings it has.

Whoever needs to know something of a method asks its `MethodFacts`, so that no name of a method stands in
planning, checks, runs or formats. The facts of our own methods are in `diffusion/methods/facts.py`; those of
other packages come by entry points (see docs/extending.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, TypeVar

from birdsd import plugins
from birdsd.errors import BadValue, unknown_name
from birdsd.schema import MethodConfig, TrainConfig

Shapes = Mapping[str, Sequence[int]]  # of a part's tensors, by name
Counted = Callable[[TrainConfig, Mapping[str, Shapes], int], int]
Settings = TypeVar("Settings", bound=MethodConfig)
_OWN = "birdsd.diffusion.methods.facts"  # found by name: it stands higher in the house


@dataclass(frozen=True)
class Kind:
    """What a method exports. An `adapter` is only what is added to the model it was trained on; `formats`
    are those of `birdsd export` that hold it; what makes no sound listens to it."""

    name: str
    adapter: bool = False
    formats: tuple[str, ...] = ()
    makes_sound: bool = True


PIPELINE = Kind("pipeline", formats=("diffusers", "a1111", "comfyui", "ckpt"))
LORA = Kind("lora", True, ("diffusers", "a1111", "comfyui", "peft", "kohya", "diffusers-lora"))
EMBEDDING = Kind("embedding", True, ("diffusers", "a1111", "comfyui", "embedding", "kohya-embedding"))
AESTHETIC = Kind("aesthetic", True, ("a1111",))
AUTOENCODER, CLIP, UPSCALER = Kind("autoencoder"), Kind("clip"), Kind("upscaler")
CLASSIFIER = Kind("classifier", formats=("onnx",), makes_sound=False)
KINDS = (PIPELINE, LORA, EMBEDDING, AESTHETIC, AUTOENCODER, CLIP, UPSCALER, CLASSIFIER)


@dataclass(frozen=True)
class Next:
    """What a finished run is for, where it is not for making sound: a training that names it."""

    method: str
    model_key: str  # model.KEY=RUN
    line: str
    pretrained: bool = False  # on the same model.source


def _nothing(settings: TrainConfig) -> Iterator[tuple[str, str]]:
    return iter(())


@dataclass(frozen=True)
class MethodFacts:
    """One method, or one form of it.

    `make` is its class as "module:Class", imported when it is asked for. `learning(config, shapes by part,
    species)` counts the parameters that it trains. Callables must not import torch at their module's top.
    """

    name: str
    make: str
    exports: Kind
    learning: Counted
    form: str = ""  # method.base_method=FORM
    trains: bool = True  # false: one pass over the pictures, without checkpoints
    # Its settings, with their defaults; `method.KEY` for every field.
    config: type[MethodConfig] = MethodConfig
    # What those of them mean that are open (0, empty or null) where no model preset recommends anything.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    # The same of `optim.KEY`, where the usual values are not this method's.
    optim: Mapping[str, Any] = field(default_factory=dict)
    # Of `keys` and `form`, those on which the number of trained parameters depends.
    sizes: tuple[str, ...] = ()
    word_per_species: bool = False  # it trains something for each species
    # The models that it stands on beside model.source, of schema.MODEL_KEYS, and the parts that it loads from
    # model.source.
    models: tuple[str, ...] = ("autoencoder",)
    optional: tuple[str, ...] = ()  # of `models`, those that it can do without
    source_parts: tuple[str, ...] = ("unet", "text_encoder", "tokenizer", "vae")
    caches: bool = False  # it keeps what frozen networks make of the shards
    # From the settings of a stored run: what facts.json of its class images says; None without such.
    class_images: Callable[[Mapping[str, Any]], dict[str, Any] | None] = lambda settings: None
    # (key, why) of settings that change nothing beside the others.
    without_effect: Callable[[TrainConfig], Iterator[tuple[str, str]]] = _nothing
    # Changes a copy of the settings so that a step takes the most that it ever will.
    heaviest: Callable[[TrainConfig], None] = lambda settings: None
    next: Next | None = None

    @property
    def title(self) -> str:
        """Under which name model presets keep their recommendation."""
        return f"{self.name}_{self.form}" if self.form else self.name

    @property
    def keys(self) -> tuple[str, ...]:
        """The settings that it has and not every method."""
        shared = {item.name for item in fields(MethodConfig)}
        return tuple(item.name for item in fields(self.config) if item.name not in shared)

    @property
    def settings(self) -> str:
        """The settings that choose it."""
        return f"method={self.name} method.base_method={self.form}" if self.form else f"method={self.name}"


@lru_cache(maxsize=1)
def built_in() -> tuple[MethodFacts, ...]:
    """Our own methods; those with forms once for each."""
    found: tuple[MethodFacts, ...] = importlib.import_module(_OWN).FACTS
    return found


def _of_package(name: str) -> MethodFacts:
    found = plugins.load(plugins.METHODS, name)
    if not isinstance(found, MethodFacts) or found.name != name:
        raise BadValue(
            f"the entry point {name} in {plugins.METHODS} names {found!r}",
            f"it has to be a MethodFacts with the name '{name}'",
            "see docs/extending.md",
        )
    if not (isinstance(found.config, type) and issubclass(found.config, MethodConfig)):
        raise BadValue(
            f"the settings of method={name}, from the entry point in {plugins.METHODS}, are {found.config!r}",
            "they have to be a dataclass derived from birdsd.schema.MethodConfig",
            "see docs/extending.md",
        )
    return found


def names() -> list[str]:
    """The names of all methods, ours first; nothing of other packages is imported."""
    own = list(dict.fromkeys(one.name for one in built_in()))
    return [*own, *(name for name in plugins.names(plugins.METHODS) if name not in own)]


def forms(name: str) -> list[str]:
    """The forms of a method; empty for one that has none."""
    return [one.form for one in built_in() if one.name == name and one.form]


def known() -> list[MethodFacts]:
    """The facts of all methods, also those of other packages."""
    own = {one.name for one in built_in()}
    others = [name for name in plugins.names(plugins.METHODS) if name not in own]
    return [*built_in(), *(_of_package(name) for name in others)]


def find(name: str, form: str = "") -> MethodFacts | None:
    """The facts of a method; None where there is none of that name, or not in that form."""
    same = [one for one in built_in() if one.name == name]
    if same:
        return next((one for one in same if one.form in ("", form)), None)
    return _of_package(name) if name in plugins.names(plugins.METHODS) else None


def named(name: str, form: str = "") -> MethodFacts:
    """The facts of a method, of its first form where none is named; `UserError` for one that is unknown."""
    known_forms = forms(name)
    found = find(name, form or next(iter(known_forms), ""))
    if found is not None:
        return found
    raise (
        unknown_name("method.base_method", form, known_forms)
        if known_forms
        else unknown_name("method", name, names())
    )


def facts_of(method: MethodConfig) -> MethodFacts:
    """The facts of the method whose settings these are."""
    return named(method.name, method.form)


def settings_of(method: MethodConfig, kind: type[Settings]) -> Settings:
    """The section `method` of a configuration, as the dataclass that the chosen method has."""
    if not isinstance(method, kind):
        raise TypeError(f"the settings of method={method.name} are {type(method)}, not {kind}")
    return method


def stored(settings: Mapping[str, Any]) -> MethodFacts | None:
    """The facts of the method that a stored run names; None where it is not known here (any more)."""
    method = settings.get("method") or {}
    return find(str(method.get("name")), str(method.get("base_method", "")))


def adapter_kinds() -> tuple[str, ...]:
    """The kinds of exports that are only an adapter to a model."""
    return tuple(kind.name for kind in KINDS if kind.adapter)


def portable_kinds() -> tuple[str, ...]:
    """The kinds of exports that other programs read."""
    return tuple(kind.name for kind in KINDS if kind.formats)


def kinds_in(format_name: str) -> tuple[str, ...]:
    """The kinds of exports that a format of `birdsd export` holds."""
    return tuple(kind.name for kind in KINDS if format_name in kind.formats)
