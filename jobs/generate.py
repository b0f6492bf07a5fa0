"""generate: prompts -> pictures, sounds, Raven tables, recipes; recipe=FILE reproduces a clip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from birdsd.diffusion.adapters import Adapter
from birdsd.diffusion.generation import generate as generation
from birdsd.diffusion.generation.generate import Clip, Recipe
from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.request import Request
from birdsd.jobs_api import Outcome
from birdsd.runs.models.loading import load_model, recommended_sampling
from birdsd.runs.models.places import model_place
from birdsd.runs.share import ArrayShare
from birdsd.schema import GenerateConfig
from birdsd.sound.audio.levels import fitted_line


def run(config: GenerateConfig) -> Outcome:
    """Load the model once, generate the clips that do not exist yet, and list them."""
    out = Path(config.out)
    if config.recipe:
        recipe = Recipe.read(Path(config.recipe))
        return _outcome(generation.regenerate(_load_for(config, recipe), recipe, out), out)
    request = Request.of(config, recommended_sampling(config))
    share = generation.share_out(request, ArrayShare.parse(config.part).share)
    model_place(config)  # a wrong name is an error for every part, also for one that has nothing to do
    return _outcome(
        generation.generate(load_model(config), request, out, only=share, keep=True) if share else [], out
    )


def _load_for(config: GenerateConfig, recipe: Recipe) -> Generator:
    """The recipe's own model and adapters, or those that the configuration names instead."""
    adapters = None if config.add else [Adapter.open(folder, weight) for folder, weight in recipe.adapters]
    config = replace(config, base=config.base or recipe.base, guide=config.guide or recipe.guide)
    if recipe.upscale is not None:
        named, sharpness = recipe.upscale
        config = replace(config, upscale=config.upscale or named, upscale_sharpness=sharpness)
    return load_model(config, None if config.run else recipe.model, adapters)


def _outcome(clips: list[Clip], out: Path) -> Outcome:
    lines = [f"  {clip.sound}  {', '.join(clip.species) or 'no known species'}" for clip in clips]
    kept = sum(not clip.made for clip in clips)
    facts = {"out": str(out), "clips": [clip.to_json() for clip in clips]}
    facts["nothing_to_do"] = kept == len(clips)
    title = f"{len(clips)} clips in {out}" + (f", {kept} of them already existed" if kept else "")
    louder = fitted_line([clip.gain_db for clip in clips])
    return Outcome("\n".join([title, *lines, *([louder] if louder else [])]), facts)
