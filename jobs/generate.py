"""generate: prompts -> pictures, sounds, Raven tables, recipes; recipe=FILE makes a clip again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from birdsd.cluster.jobs import Outcome
from birdsd.cluster.parts import Part
from birdsd.cluster.store import RunStore
from birdsd.diffusion import generate as room
from birdsd.diffusion.additions import Addition
from birdsd.diffusion.generate import Clip, Generator, Recipe, Request
from birdsd.errors import UserError
from birdsd.schema import GenerateConfig
from birdsd.training.precision import choose_device, choose_precision


def run(config: GenerateConfig) -> Outcome:
    """Load the model once, make every clip that is not there, and say where they are."""
    out = Path(config.out)
    if config.recipe:
        recipe = Recipe.read(Path(config.recipe))
        model = _load(config, _folder(config) if config.run else recipe.model)
        return _outcome(room.regenerate(model, recipe, out), out)
    kept = ("count", "seed", "steps", "guidance", "negative_prompt", "scheduler", "batch_size")
    request = Request(tuple(dict.fromkeys(config.prompt)), **{name: getattr(config, name) for name in kept})
    mine = room.share_out(request, Part.parse(config.part).share)
    folder = _folder(config)
    return _outcome(
        room.generate(_load(config, folder), request, out, only=mine, keep=True) if mine else [], out
    )


def _load(config: GenerateConfig, folder: Path) -> Generator:
    device = choose_device(config.machine.device)
    dtype = choose_precision(config.machine.precision, device).dtype
    base = str(_place(config, config.base)) if config.base else None
    return Generator(folder, device, dtype, [_addition(config, text) for text in config.add], base)


def _addition(config: GenerateConfig, text: str) -> Addition:
    """FOLDER_OR_RUN[:WEIGHT]."""
    name, colon, number = text.rpartition(":")
    try:
        weight = float(number) if colon else 1.0
    except ValueError:
        name, weight = text, 1.0
    return Addition.open(_place(config, name if colon else text), weight)


def _folder(config: GenerateConfig) -> Path:
    if not config.run:
        raise UserError(
            "run is not set", "a model must make the sound", "run=NAME of a finished run, or a folder"
        )
    return _place(config, config.run)


def _place(config: GenerateConfig, name: str) -> Path:
    """A folder as it stands, or the export of the run that `name` names."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    return RunStore(Path(config.runs)).find(name).export_folder


def _outcome(clips: list[Clip], out: Path) -> Outcome:
    lines = [f"  {clip.sound}  {', '.join(clip.species) or 'no species it knows'}" for clip in clips]
    kept = sum(not clip.made for clip in clips)
    facts = {"out": str(out), "clips": [{k: _plain(v) for k, v in asdict(clip).items()} for clip in clips]}
    facts["nothing_to_do"] = kept == len(clips)
    title = f"{len(clips)} clips in {out}" + (f", {kept} of them made before" if kept else "")
    return Outcome("\n".join([title, *lines]), facts)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
