"""The recipe of a scene: everything that decides its bytes, compared before anything is made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from birdsd.errors import Damaged, Mismatch
from birdsd.files import read_json
from birdsd.scenes.scene import Background, Event, Scene

FORMAT = "birdsd-scene-recipe/1"
NAME = "recipe.json"


def recipe_of(
    scene: Scene, name: str, settings: Mapping[str, Any], identities: Mapping[str, Any]
) -> dict[str, Any]:
    """`settings`: of the job; `identities`: fingerprints of model, bank and pool."""
    import json

    told = {
        "format": FORMAT, "name": name, "scene": asdict(scene), "settings": dict(settings),
        "identities": dict(identities), "made_with": made_with(),
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return plain


def read_recipe(path: Path) -> tuple[Scene, dict[str, Any]]:
    """The scene of a recipe, and all that the recipe says; `UserError` for a file that is none."""
    told = read_json(Path(path), "recipe")
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise Damaged(
            f"{path} is not the recipe of a scene", f"that is the {NAME} in a scene's folder ({FORMAT})"
        )
    try:
        return scene_from(told["scene"]), told
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(
            f"{path} is damaged ({type(error).__name__}: {error})", "", "make the scene anew"
        ) from error


def check_identities(path: Path, told: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """`UserError` where model, bank or pool is not what the recipe was made with."""
    for what, was in told["identities"].items():
        if there.get(what) != was:
            raise Mismatch(
                f"the {what} is not the one that {path} was made with",
                f"its fingerprint is {there.get(what)}, the recipe names {was}",
                f"name the right one with {'run' if what == 'model' else what}=",
            )


def scene_from(told: Mapping[str, Any]) -> Scene:
    """The scene that `asdict` described; lists become tuples again."""
    given = dict(told)
    given["events"] = tuple(Event(**_tuples(Event, one)) for one in told["events"])
    given["backgrounds"] = tuple(Background(**_tuples(Background, one)) for one in told["backgrounds"])
    return Scene(**_tuples(Scene, given))


def _tuples(kind: type, told: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(kind)}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in told.items() if name in known}


@lru_cache
def made_with() -> dict[str, str]:
    """Versions of what decides a scene's bytes."""
    from importlib.metadata import version

    return {name: version(name) for name in ("birdsd", "numpy", "scipy", "soundfile", "soxr")}
