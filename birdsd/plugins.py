"""What packages of others add to birdsd: found by the entry points of what is installed beside it.

Nothing else is ever loaded: neither what lies in an archive, nor what a preset or a run's records name.
Whatever birdsd has itself goes first, so that no package can take its place.
"""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from birdsd import schema
from birdsd.errors import Unsupported, unknown_name

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

# Groups of entry points, and what stands there: a MethodFacts; a function without parameters that gives a
# Judge; a function of the words behind a verb that returns the exit status; a package whose folder holds
# presets in groups (method/NAME.yaml); a class of a codec.
METHODS, JUDGES, VERBS, CONFIGS = "birdsd.methods", "birdsd.judges", "birdsd.verbs", "birdsd.configs"
CODECS = "birdsd.codecs"


@lru_cache(maxsize=8)
def _found(group: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {one.name: one for one in entry_points(group=group)}


def names(group: str) -> list[str]:
    """What installed packages add to a group, by name; nothing is imported."""
    return sorted(_found(group))


def config_folders() -> list[Path]:
    """The folders of presets that installed packages bring along; they are found without an import."""
    found = []
    for name in names(CONFIGS):
        package, *folders = _found(CONFIGS)[name].module.split(".")
        with suppress(ImportError, ValueError):
            spec = find_spec(package)
            places = (spec.submodule_search_locations if spec else None) or ()
            found += [Path(place, *folders) for place in places]
    return [place for place in found if place.is_dir()]


def forget() -> None:
    """Look anew at what is installed."""
    _found.cache_clear()


def with_codec(job: type, kind: Any) -> type:
    """The configuration class `job`, where its keys `codec.*` are the fields of another kind of codec, which
    an installed package brings. Those of the usual kind are `schema.CodecConfig`.

    The fields are those of a twin of the codec's class, since OmegaConf cannot fill in a frozen dataclass.
    """
    if kind in (None, schema.SPECTROGRAM):
        return job
    if kind not in names(CODECS):
        raise unknown_name("kind of codec", str(kind), [schema.SPECTROGRAM, *names(CODECS)])
    codec = load(CODECS, kind)
    types = get_type_hints(codec)
    fields: list[Any] = [("kind", str, dataclasses.field(default=kind))]
    for item in dataclasses.fields(codec):
        fields.append((item.name, types[item.name], dataclasses.field(default=item.default)))
    section = dataclasses.make_dataclass(codec.__name__, fields)
    group: Any = ("codec", section, dataclasses.field(default_factory=section))
    return dataclasses.make_dataclass(job.__name__, [group], bases=(job,))


def load(group: str, name: str) -> Any:
    """The object that an entry point names; `UserError` where its package cannot be imported."""
    point = _found(group)[name]
    try:
        return point.load()
    except Exception as error:  # whatever a package of others does while it is imported
        package = point.dist.name if point.dist is not None else point.value
        raise Unsupported(
            f"'{name}' of the installed package {package} cannot be loaded ({error})",
            f"its entry point in {group} is {point.value}",
            f"fix or remove that package: pip uninstall {package}",
        ) from error
