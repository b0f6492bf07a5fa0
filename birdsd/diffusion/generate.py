"""Prompts -> pictures, sound, Raven tables, and the recipe that makes the same bytes again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.diffusion import sampling
from birdsd.diffusion.generator import Generator
from birdsd.diffusion.words import species_in
from birdsd.errors import UserError
from birdsd.files import atomic_write, fingerprint, read_json, safe_name, write_json
from birdsd.shards.sharing import private_folder, publish, remove_leftovers

if TYPE_CHECKING:
    from birdsd.sound.codec import SpectrogramCodec


@dataclass(frozen=True)
class Request:
    """What is asked for. Clip k of a prompt is a function of (prompt, seed, k) and the settings below."""

    prompts: tuple[str, ...]
    count: int = 1
    seed: int = 0
    steps: int = 25
    guidance: float = 3.0
    negative_prompt: str = ""
    scheduler: str = "ddim"
    batch_size: int = 8

    def __post_init__(self) -> None:
        sampling.check_request(self.steps, self.guidance, self.count, self.batch_size)
        if self.scheduler not in sampling.SCHEDULERS:
            sampling.make_scheduler(self.scheduler, {})
        if not self.prompts or not all(text.strip() for text in self.prompts):
            raise UserError(
                "there is no prompt", "say what should sing", 'add prompt="an American Robin singing"'
            )


@dataclass(frozen=True)
class Clip:
    """One generated clip and its four files; `made` is false where they were there already."""

    prompt: str
    index: int
    species: tuple[str, ...]
    picture: Path
    sound: Path
    table: Path
    recipe: Path
    duration_s: float
    made: bool = True


def generate(
    model: Generator,
    request: Request,
    out: Path,
    *,
    only: Sequence[int] | None = None,
    keep: bool = False,
    progress: bool = True,
) -> list[Clip]:
    """Make `count` clips of every prompt into `out`; returns them prompt by prompt.

    `only` keeps some clips, by their number in the request: their whole batches are computed all the
    same, since the last bits of a matrix product depend on its shape, and a recipe promises identical
    bytes. With `keep`, a clip whose files are there, with the recipe that would be written, is left.
    """
    from tqdm import tqdm

    out = Path(out)
    wanted = range(len(request.prompts) * request.count) if only is None else sorted(set(only))
    plans = {number: _plan(model, request, number, out) for number in wanted}
    clips = {number: plan.clip(made=False) for number, plan in plans.items() if keep and plan.is_done()}
    needed = sorted({n // request.batch_size for n in plans.keys() - clips.keys()})
    remove_leftovers(out, alone=False)
    with tqdm(total=len(needed) * request.steps, unit="step", disable=None if progress else True) as bar:
        for batch in needed:
            work = [_prompt_of(request, number) for number in _numbers_of(request, batch)]
            pictures = model.images(request, [text for text, _ in work], [k for _, k in work], bar.update)
            for number, picture in zip(_numbers_of(request, batch), pictures, strict=True):
                if number in plans and number not in clips:
                    clips[number] = _write(model.codec, plans[number], picture)
    return [clips[number] for number in wanted]


def share_out(request: Request, share: Callable[[Sequence[int]], list[int]]) -> list[int]:
    """The numbers of the clips that `share` keeps. It chooses among whole batches: two tasks with clips
    of the same batch would both compute all of it."""
    total = len(request.prompts) * request.count
    mine = share(range(-(-total // request.batch_size)))
    return [number for batch in mine for number in _numbers_of(request, batch)]


def _numbers_of(request: Request, batch: int) -> range:
    first = batch * request.batch_size
    return range(first, min(first + request.batch_size, len(request.prompts) * request.count))


def _prompt_of(request: Request, number: int) -> tuple[str, int]:
    """The prompt of a clip, and which of the prompt's clips it is."""
    prompt, index = divmod(number, request.count)
    return request.prompts[prompt], index


@dataclass(frozen=True)
class Recipe:
    """The .json beside a clip: everything that decides its bytes."""

    path: Path
    request: Request
    number: int
    model: Path
    weights: str

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe; a file that is none is a `UserError`."""
        told = read_json(path, "recipe")
        try:
            asked = {**told["request"], "prompts": tuple(told["request"]["prompts"])}
            recipe = cls(
                path, Request(**asked), int(told["number"]), Path(told["model"]), str(told["weights"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not a recipe of birdsd ({type(error).__name__}: {error})",
                "a recipe is the .json beside a generated clip",
            ) from error
        total = recipe.request.count * len(recipe.request.prompts)
        if not 0 <= recipe.number < total:
            raise UserError(
                f"{path} asks for clip {recipe.number}", f"its own request makes {total}, from 0 on"
            )
        return recipe


def regenerate(model: Generator, recipe: Recipe, out: Path) -> list[Clip]:
    """Make the clip of a recipe again: on the same kind of machine, to the byte."""
    if model.identity != recipe.weights:
        raise UserError(
            f"the model in {model.folder} is not the one that {recipe.path} was made with",
            f"its weights have the fingerprint {model.identity}, the recipe names {recipe.weights}",
            "name the folder of the right model with run=",
        )
    return generate(model, recipe.request, out, only=[recipe.number])


@dataclass(frozen=True)
class _Plan:
    """A clip before it is made: where its files go, and its recipe."""

    folder: Path
    stem: str
    recipe: dict[str, Any]

    @property
    def names(self) -> tuple[str, str, str, str]:
        """The picture, the sound, the table and, last, the recipe, which vouches for the others."""
        kinds = ("png", "wav", "Table.1.selections.txt", "json")
        return tuple(f"{self.stem}.{kind}" for kind in kinds)  # type: ignore[return-value]

    def is_done(self) -> bool:
        """Whether the four files are there, made by this very recipe."""
        paths = [self.folder / name for name in self.names]
        if not all(path.is_file() for path in paths):
            return False
        try:
            return bool(read_json(paths[-1]) == self.recipe)
        except UserError:
            return False

    def clip(self, made: bool = True) -> Clip:
        told, (picture, sound, table, recipe) = self.recipe, (self.folder / name for name in self.names)
        return Clip(
            told["prompt"], told["index"], tuple(told["species"]), picture, sound, table, recipe,
            told["duration_s"], made,
        )  # fmt: skip


def _plan(model: Generator, request: Request, number: int, out: Path) -> _Plan:
    """The files of one clip are named after the prompt and a hash of all that decides it."""
    prompt, index = _prompt_of(request, number)
    decides = {
        **asdict(replace(request, prompts=(prompt,), count=1, batch_size=1)),
        "weights": model.identity,
    }
    recipe = {
        "request": json.loads(json.dumps(asdict(request))),
        "number": number,
        "prompt": prompt,
        "index": index,
        "species": list(species_in(prompt, model.species)),
        "synthetic": bool(model.training.get("synthetic", False)),
        "generated": True,
        "model": str(model.folder.resolve()),
        "weights": model.identity,
        "duration_s": round(model.codec.clip_s, 6),
        "rate_hz": model.codec.rate_hz,
        "made_with": {**_versions(), "device": str(model.device), "dtype": str(model.pipeline.unet.dtype)},
    }
    return _Plan(out, f"{safe_name(prompt, 60)}-{fingerprint(decides, 8)}-{index:03d}", recipe)


def _write(codec: SpectrogramCodec, plan: _Plan, picture: np.ndarray) -> Clip:
    """The four files of one clip."""
    from PIL import Image

    from birdsd.sound.labels import Label, write_raven
    from birdsd.sound.recordings import write_wav

    with private_folder(plan.folder) as place:
        png, wav, table, recipe = (place / name for name in plan.names)
        with atomic_write(png) as stream:
            Image.fromarray(picture).save(stream, format="PNG")
        write_wav(wav, codec.decode(codec.from_rgb(picture)), codec.rate_hz)
        asked = [
            Label(label=name, start_s=0.0, end_s=codec.clip_s, low_hz=codec.fmin_hz, high_hz=codec.fmax_hz)
            for name in plan.recipe["species"]
        ]
        write_raven(table, asked)
        write_json(recipe, plan.recipe)
        publish(place, plan.folder, *plan.names)
    return plan.clip()


@lru_cache
def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "diffusers", "transformers")}
