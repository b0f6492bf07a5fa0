"""What packages of others add to birdsd: found by the entry points of what is installed beside it.

Nothing else is ever loaded: neither what lies in an archive, nor what a preset or a run's records name.
Whatever birdsd has itself goes first, so that no package can take its place.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import metadata
from typing import Any

from birdsd.errors import UserError

METHODS, JUDGES, CONFIGS = "birdsd.methods", "birdsd.judges", "birdsd.configs"


@lru_cache(maxsize=8)
def _found(group: str) -> dict[str, metadata.EntryPoint]:
    return {one.name: one for one in metadata.entry_points(group=group)}


def names(group: str) -> list[str]:
    """What installed packages add to a group, by name; nothing is imported."""
    return sorted(_found(group))


def module_of(group: str, name: str) -> str:
    """The module that an addition lies in; it is not imported."""
    return _found(group)[name].module


def load(group: str, name: str) -> Any:
    """The object that an entry point names; `UserError` where its package cannot be imported."""
    point = _found(group)[name]
    try:
        return point.load()
    except Exception as error:  # whatever a package of others does while it is imported
        package = point.dist.name if point.dist is not None else point.value
        raise UserError(
            f"'{name}' of the installed package {package} cannot be loaded ({error})",
            f"its entry point in {group} is {point.value}",
            f"mend or remove that package: pip uninstall {package}",
        ) from error
