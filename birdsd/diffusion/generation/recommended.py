"""How a model would like to be sampled: what its training.json says under `sampling`, else the usual.

It comes from the model preset's `recommended.sampling`. Settings of a request that are left open (null) are
taken from here, and a recipe stores what they came to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from birdsd.diffusion import adapters
from birdsd.diffusion.export import read_training
from birdsd.diffusion.generation.request import Request
from birdsd.errors import BadValue, UserError, unknown_name

SETTINGS = ("scheduler", "steps", "guidance", "guidance_start", "guidance_end", "guidance_rescale")
USUAL: dict[str, Any] = {field.name: field.default for field in fields(Request) if field.name in SETTINGS}


def checked_sampling(given: Any, where: str) -> dict[str, Any]:
    """The settings of `given` as a request takes them; `UserError` that names `where` for any other."""
    if not isinstance(given, Mapping):
        raise BadValue(f"{where} is {given!r}", f"it holds settings: {', '.join(SETTINGS)}")
    settings: dict[str, Any] = {}
    for name, value in given.items():
        if name not in SETTINGS:
            raise unknown_name(f"setting in {where}", str(name), SETTINGS)
        kind = type(USUAL[name])
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not fits:
            raise BadValue(f"{where}: {name}={value!r}", f"it is like {name}={USUAL[name]}")
        settings[str(name)] = kind(value)
    try:
        Request(("a bird",), **settings)
    except UserError as error:
        raise type(error)(f"{where}: {error.problem}", error.expected, error.hint) from error
    return settings


def recommended(trainings: Iterable[Mapping[str, Any]], where: str) -> dict[str, Any]:
    """What the topmost of these training.json says, from the lowest up; {} where none says anything."""
    advice = [training["sampling"] for training in trainings if training.get("sampling")]
    return checked_sampling(advice[-1], f"sampling in the training.json of {where}") if advice else {}


def sampling_of(folder: Path, base: str | None = None) -> dict[str, Any]:
    """What the model in `folder` (a pipeline or an adapter, or a run with one) recommends, without loading
    it; {} where it says nothing."""
    under, lower = adapters.chain(folder, base)
    lowest = next((p for p in (Path(under), Path(under) / "export") if (p / "training.json").is_file()), None)
    below = read_training(lowest) if lowest is not None else {}
    return recommended([below, *(one.training for one in lower)], str(folder))
