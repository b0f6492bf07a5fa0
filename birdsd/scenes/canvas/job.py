"""`birdsd run scene` with prompts, or with way=canvas: from settings to folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.request import Request
from birdsd.errors import AlreadyThere, BadValue, Damaged, Mismatch, NotSet, clipped, unknown_name
from birdsd.files import explained_write, read_json, safe_name
from birdsd.runs.models.loading import load_model, recommended_sampling
from birdsd.runs.models.places import model_place
from birdsd.runs.share import ArrayShare
from birdsd.scenes.canvas.asked import Canvas, animation, regions
from birdsd.scenes.canvas.made import made_canvas
from birdsd.scenes.canvas.moving import NO_FFMPEG, kinds_of
from birdsd.scenes.canvas.written import FORMAT, NAME, write_canvas
from birdsd.scenes.compose.batch import Made, numbered
from birdsd.scenes.compose.makers import clips_of
from birdsd.scenes.compose.mixdown import FORMATS
from birdsd.scenes.compose.source import FOR_TABLES, check_count, scenes_of
from birdsd.scenes.scene import Scene
from birdsd.scenes.schedule import TYPICAL_S, solve
from birdsd.scenes.vocabulary import Vocabulary, vocabulary_of_run
from birdsd.schema import SceneConfig
from birdsd.sharing import private_folder, publish, remove_leftovers

WAYS = ("events", "canvas")
_WITHOUT = ("bank", "pool", "judge", "shards")


def is_canvas(config: SceneConfig) -> bool:
    """Whether the settings ask for one canvas instead of events on a background."""
    if config.way not in WAYS:
        raise unknown_name("way", config.way, WAYS)
    if config.recipe:
        told = read_json(Path(config.recipe), "recipe")
        return isinstance(told, dict) and told.get("format") == FORMAT
    if not config.prompts:
        for name in ("times", "duration_s"):
            if getattr(config, name):
                raise NotSet(
                    f"{name} is set, and prompts is not", "it belongs to an animation from prompt to prompt",
                    'prompts=["...", "..."], or leave it out',
                )  # fmt: skip
    return bool(config.prompts) or config.way == "canvas"


def make_canvases(config: SceneConfig) -> tuple[Made, list[str]]:
    """Make this part's canvases that are not there yet; also lines about what came of them."""
    _check(config)
    check_count(config)
    moving = kinds_of(config.moving)
    told: dict[str, Any] = {}
    if config.recipe:
        told = read_json(Path(config.recipe), "recipe")
        config, canvas_of, name_of = _of_recipe(config, told)
    else:
        canvas_of, name_of = _asked(config)
    request = request_of(config)
    out, done, lines = Path(config.out), Made(), []
    remove_leftovers(out, alone=False)
    model: Generator | None = None
    for number in ArrayShare.parse(config.part).share(range(config.count)):
        name = name_of(number)
        model = model or load_model(clips_of(config))
        if told and told["recipe"]["model"] != model.identity:
            raise Mismatch(
                f"the model is not the one that {config.recipe} was made with",
                f"its fingerprint is {model.identity}, the recipe names {told['recipe']['model']}", "run=RUN",
            )  # fmt: skip
        shown = make_canvas(model, request, canvas_of(number), config, name)
        if shown is None:
            done.kept.append(name)
            continue
        done.made.append(name)
        lines += [f"  {path}" for path in shown]
    if config.prompts and config.moving == "auto" and "mp4" not in moving and done.made:
        lines.append(NO_FFMPEG)
    return done, lines


def request_of(config: SceneConfig) -> Request:
    """How the model of a canvas samples; `UserError` for settings that a canvas has no use for, and for a
    model that is not there."""
    _check(config)
    settings = clips_of(config)
    model_place(settings)
    return Request.of(settings, recommended_sampling(settings))


def recipe_of(model: Generator, request: Request, canvas: Canvas, config: SceneConfig) -> dict[str, Any]:
    """Everything that decides the bytes of a canvas."""
    told: dict[str, Any] = json.loads(json.dumps({
        "canvas": canvas.to_json(), "request": request.to_json(), "model": model.identity,
        "run": config.run, "add": list(config.add), "base": config.base, "format": config.format,
    }))  # fmt: skip
    return told


def make_canvas(
    model: Generator, request: Request, canvas: Canvas, config: SceneConfig, name: str,
    tick: Callable[[], object] | None = None,
) -> list[Path] | None:  # fmt: skip
    """Make one canvas and publish its folder; what of it people look at or listen to, None where it is there
    already. `tick` is called once a step of the network."""
    out, recipe = Path(config.out), recipe_of(model, request, canvas, config)
    if _is_there(out / name, recipe):
        return None
    with explained_write(out):
        out.mkdir(parents=True, exist_ok=True)
    with private_folder(out) as place:
        folder = place / name
        folder.mkdir()
        parts = made_canvas(model, request, canvas, tick)
        shown = write_canvas(
            canvas, parts, model, folder, name, config.format, kinds_of(config.moving), recipe, config.picture
        )
        publish(place, out, name)
    return [out / name / path.name for path in shown]


def canvas_of_scene(scene: Scene, vocabulary: Vocabulary) -> Canvas:
    """The regions of a scene, its songs as long as they usually are."""
    typical_s = min(TYPICAL_S, vocabulary.clip_s or TYPICAL_S)
    return regions(solve(scene, typical_s=typical_s, overrun="leave_out"))


def _asked(config: SceneConfig) -> tuple[Callable[[int], Canvas], Callable[[int], str]]:
    """Canvas and name by number."""
    if config.prompts:
        if given := [
            name for name in ("prompt", "scene", "distribution", *FOR_TABLES) if getattr(config, name)
        ]:
            raise Mismatch(
                f"prompts and {' and '.join(given)} are both set", "one is an animation, the other a scene",
                "leave one of them out",
            )  # fmt: skip
        settings = clips_of(config)
        clip_s = vocabulary_of_run(model_place(settings), config.base).clip_s
        first = animation(
            config.prompts, config.times, config.duration_s, seed=config.seed, loop=config.loop, clip_s=clip_s
        )
        name = safe_name(f"{config.prompts[0]} to {config.prompts[-1]}", 60)
        name = name if len(config.prompts) > 1 else safe_name(config.prompts[0], 60)
        return lambda k: replace(first, seed=config.seed + k), numbered(name, config.count)
    vocabulary = vocabulary_of_run(model_place(clips_of(config)), config.base)
    scenes = scenes_of(config, vocabulary)
    return lambda k: canvas_of_scene(scenes.of(k), vocabulary), numbered(
        f"{scenes.name}-canvas", config.count
    )


def _of_recipe(
    config: SceneConfig, told: dict[str, Any]
) -> tuple[SceneConfig, Callable[[int], Canvas], Callable[[int], str]]:
    try:
        recipe = told["recipe"]
        canvas, request = Canvas.from_json(recipe["canvas"]), Request.from_json(recipe["request"])
        name = safe_name(str(told["name"]), 100)
        config = replace(
            config, run=config.run or recipe["run"], add=config.add or recipe["add"],
            base=config.base or recipe["base"], format=recipe["format"], steps=request.steps, count=1,
            guidance=request.guidance, scheduler=request.scheduler, batch_size=request.batch_size,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(
            f"{config.recipe} is damaged ({type(error).__name__}: {error})", "", "make the canvas anew"
        ) from error
    return config, lambda _: canvas, lambda _: name


def _is_there(folder: Path, recipe: dict[str, Any]) -> bool:
    if not folder.is_dir():
        return False
    path = folder / NAME
    there = read_json(path, "recipe").get("recipe") if path.is_file() else None
    if there == recipe:
        return True
    raise AlreadyThere(
        f"{clipped(str(folder), 200)} holds something else",
        "what is there is never overwritten", "name another folder with out=, or delete this one",
    )  # fmt: skip


def _check(config: SceneConfig) -> None:
    if config.format not in FORMATS:
        raise BadValue(f"format={config.format}", f"valid: {', '.join(FORMATS)}", "leave it out for flac")
    for name in _WITHOUT:
        if getattr(config, name):
            raise Mismatch(
                f"{name} is set for a canvas",
                "on one canvas the model makes birds and background at once, and nothing is judged",
                f"leave {name} out, or way=events without prompts",
            )
    if not config.run and not config.recipe:
        raise NotSet("run is not set", "a model must draw the canvas", "run=RUN")
