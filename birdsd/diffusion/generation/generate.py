"""Prompts -> pictures, sound, Raven tables, and the recipe that makes the same bytes again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.conditioning import Span, Start, keep_sound
from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.loops import looped_images, looped_steps
from birdsd.diffusion.generation.request import Request
from birdsd.diffusion.networks.finite import NotFinite
from birdsd.errors import BadValue, Damaged, Mismatch, UserError
from birdsd.files import atomic_write, fingerprint, read_json, safe_name, write_json
from birdsd.sharing import private_folder, publish, remove_leftovers
from birdsd.sound.captions import says_no_bird


@dataclass(frozen=True)
class Clip:
    """One generated clip and its four files; `made` is false where they were there already.

    `gain_db`: by how much the sound was turned to fit into its file (0.0: it is as loud as it was made).
    """

    prompt: str
    index: int
    species: tuple[str, ...]
    picture: Path
    sound: Path
    table: Path
    recipe: Path
    duration_s: float
    made: bool = True
    gain_db: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain values, paths as text."""
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}
        return {**plain, "species": list(self.species)}


def generate(
    model: Generator,
    request: Request,
    out: Path,
    *,
    only: Sequence[int] | None = None,
    keep: bool = False,
    progress: bool | Callable[[], object] = True,
) -> list[Clip]:
    """Make every clip of the request into `out`; returns them prompt by prompt, seed by seed.

    `only` keeps some clips, by their number in the request: their whole batches are computed all the
    same, since the last bits of a matrix product depend on its shape, and a recipe promises identical
    bytes. With `keep`, a clip whose files are there, with the recipe that would be written, is left.
    `progress`: a bar, nothing, or what to call once a step of the network (see `steps_of`). Clips whose
    numbers are not finite are not written; `NotFinite` names them once all others are there.
    """
    from tqdm import tqdm

    out = Path(out)
    start = model.start(request)
    wanted = range(request.total) if only is None else sorted(set(only))
    plans = {number: _plan(model, request, number, out, start) for number in wanted}
    clips = {number: found for number, plan in plans.items() if keep and (found := plan.found())}
    needed = sorted({n // request.batch_size for n in plans.keys() - clips.keys()})
    failed: list[NotFinite] = []
    remove_leftovers(out, alone=False)
    hidden = None if progress is True else True
    with tqdm(total=len(needed) * steps_of(model, request), unit="step", disable=hidden) as bar:
        tick = progress if callable(progress) else bar.update
        for batch in needed:
            numbers = request.numbers_of(batch)
            prompts, seeds, indices = zip(*(request.work(number) for number in numbers), strict=True)
            spoilt: dict[int, NotFinite] = {}
            if request.loop:
                pictures = looped_images(model, request, prompts, indices, tick, seeds=seeds, spoilt=spoilt)
            else:
                pictures = model.images(
                    request, prompts, indices, tick, seeds=seeds, start=start, spoilt=spoilt
                )
            for position, (number, picture) in enumerate(zip(numbers, pictures, strict=True)):
                if number in plans and number not in clips:
                    if position in spoilt:
                        failed.append(spoilt[position])
                    else:
                        clips[number] = _write(model, plans[number], picture)
    if failed:
        first, there = failed[0], f"{len(clips)} of {len(plans)} clips are in {out}"
        what = f"{len(failed)} clips were not made ({there}): {first.problem}"
        raise NotFinite(what, first.expected, first.hint)
    return [clips[number] for number in wanted]


def steps_of(model: Generator, request: Request) -> int:
    """How often one batch of the request asks the network."""
    if request.loop:
        return looped_steps(model, request)
    trained = model.pipeline.scheduler.config
    return sampling.network_steps(request.scheduler, trained, request.steps, request.skipped_steps())


def share_out(request: Request, share: Callable[[Sequence[int]], list[int]]) -> list[int]:
    """The numbers of the clips that `share` keeps. It chooses among whole batches: two tasks with clips
    of the same batch would both compute all of it."""
    return [number for batch in share(range(request.batches)) for number in request.numbers_of(batch)]


@dataclass(frozen=True)
class Recipe:
    """The .json beside a clip: everything that decides its bytes."""

    path: Path
    request: Request
    number: int
    model: Path
    weights: str
    base: str | None = None
    adapters: tuple[tuple[str, float], ...] = ()
    start: str | None = None  # the identity of what it started from
    guide: str | None = None  # the weaker model, and a fingerprint of its weights
    guide_weights: str | None = None
    upscale: tuple[str, float] | None = None  # the upscaler, and its sharpness

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe; a file that is none is a `UserError`."""
        stored = read_json(path, "recipe")
        try:
            guide, upscale = stored.get("guide"), stored.get("upscale")
            led = (guide["model"], guide["weights"]) if guide else (None, None)
            recipe = cls(
                path, Request.from_json(stored["request"]), int(stored["number"]), Path(stored["model"]),
                str(stored["weights"]), stored.get("base"),
                tuple((str(one["folder"]), float(one["weight"])) for one in stored.get("additions", ())),
                stored.get("start"), led[0], led[1],
                (str(upscale["model"]), float(upscale["sharpness"])) if upscale else None,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Damaged(
                f"{path} is not a birdsd recipe ({type(error).__name__}: {error})",
                "a recipe is the .json beside a generated clip",
            ) from error
        if not 0 <= recipe.number < recipe.request.total:
            raise BadValue(
                f"{path} asks for clip {recipe.number}",
                f"its own request makes {recipe.request.total}, from 0 on",
            )
        return recipe


def regenerate(model: Generator, recipe: Recipe, out: Path) -> list[Clip]:
    """Make the clip of a recipe again: on the same kind of machine, to the byte."""
    if model.identity != recipe.weights:
        raise Mismatch(
            f"the model in {model.folder} is not the one that {recipe.path} was made with",
            f"its weights have the fingerprint {model.identity}, the recipe names {recipe.weights}",
            "name the folder of the right model with run=, what was added to it with add=, and its upscaler "
            "(if any) with upscale=",
        )
    if recipe.guide and (found := model.weaker.identity if model.weaker else "none") != recipe.guide_weights:
        raise Mismatch(
            f"the weaker model is not the one that {recipe.path} was made with",
            f"its weights have the fingerprint {found}, the recipe names {recipe.guide_weights}",
            "name the right one with guide=; an earlier checkpoint lasts as long as save.keep says",
        )
    start = model.start(recipe.request)
    if start is not None and start.identity != recipe.start:
        raise Mismatch(
            f"{recipe.request.init} is not what {recipe.path} was started from",
            f"its content has the fingerprint {start.identity}, the recipe names {recipe.start}",
            "put the old recording back",
        )
    return generate(model, recipe.request, out, only=[recipe.number])


@dataclass(frozen=True)
class _Plan:
    """A clip before it is made: where its files go, and its recipe."""

    folder: Path
    stem: str
    recipe: dict[str, Any]
    start: Start | None = None
    span: Span | None = None

    @property
    def names(self) -> tuple[str, str, str, str]:
        """The picture, the sound, the table and, last, the recipe, which vouches for the others."""
        kinds = ("png", "wav", "Table.1.selections.txt", "json")
        return tuple(f"{self.stem}.{kind}" for kind in kinds)  # type: ignore[return-value]

    @property
    def names_in_table(self) -> list[str]:
        """Whom the Raven table names. An empty table would say that there is no bird: where nobody knows who
        was asked for, it says so, and `prepare` leaves such clips out."""
        return list(self.recipe["species"]) or ([] if self.recipe.get("no_bird") else ["Unknown"])

    def found(self) -> Clip | None:
        """The clip whose four files are there, made by this very recipe; else None."""
        paths = [self.folder / name for name in self.names]
        if not all(path.is_file() for path in paths):
            return None
        try:
            stored = read_json(paths[-1], "recipe")
        except UserError:
            return None
        # Only the making shows the gain; a recipe without one is of a time when sounds were cut off.
        gain_db = stored.pop("gain_db", None) if isinstance(stored, dict) else None
        return (
            self.clip(float(gain_db), made=False) if gain_db is not None and stored == self.recipe else None
        )

    def clip(self, gain_db: float, made: bool = True) -> Clip:
        facts, (picture, sound, table, recipe) = self.recipe, (self.folder / name for name in self.names)
        return Clip(
            facts["prompt"], facts["index"], tuple(facts["species"]), picture, sound, table, recipe,
            facts["duration_s"], made, gain_db,
        )  # fmt: skip


def _plan(model: Generator, request: Request, number: int, out: Path, start: Start | None) -> _Plan:
    """The files of one clip are named after the prompt and a hash of all that decides it."""
    work = request.work(number)
    decides = {**request.alone(number).to_json(), "weights": model.identity}
    weaker = model.weaker if request.guide_weight is not None else None
    if weaker is not None:
        decides["guide"] = weaker.identity
    asked = request.to_json()
    if start is not None:
        decides["init"] = start.identity
        asked["init"] = start.named
    span = request.span(model.codec.clip_s)
    recipe = {
        "request": asked,
        "number": number,
        "prompt": work.prompt,
        "index": work.nth,
        "species": list(model.named_in(request, work.prompt)),
        "synthetic": bool(model.training.get("synthetic", False)),
        "generated": True,
        "model": str(model.folder.resolve()),
        "weights": model.identity,
        "duration_s": round(model.codec.clip_s, 6),
        "rate_hz": model.codec.rate_hz,
        "made_with": {**_versions(), "device": str(model.device), "dtype": str(model.pipeline.unet.dtype)},
    }
    if not recipe["species"] and says_no_bird(work.prompt, model.environments):
        recipe["no_bird"] = True
    if len(request.seeds) > 0:
        recipe["seed"] = work.seed
    if start is not None:
        recipe["start"] = start.identity
    if span is not None:
        recipe["generated_s"] = [round(span.start_s, 6), round(span.end_s, 6)]
    if model.base is not None:
        recipe["base"] = model.base
    if weaker is not None:
        recipe["guide"] = {"model": weaker.named, "weights": weaker.identity}
    if model.upscaler is not None:
        recipe["upscale"] = {"model": model.upscaler.named, "sharpness": model.upscaler.sharpness}
    if model.on_top:
        recipe["additions"] = [
            {"folder": str(one.folder.resolve()), "kind": one.kind, "weight": one.weight}
            for one in model.on_top
        ]
    stem = f"{safe_name(work.prompt, 60)}-{fingerprint(decides, 8)}-{work.nth:03d}"
    return _Plan(out, stem, recipe, start, span)


def _write(model: Generator, plan: _Plan, picture: np.ndarray) -> Clip:
    """The four files of one clip."""
    from PIL import Image

    from birdsd.sound.audio.recordings import write_wav
    from birdsd.sound.labels.load import Label, write_raven

    codec, loop = model.heard_codec, bool(plan.recipe["request"].get("loop"))
    picture = model.finished(picture, loop=loop)
    decode = codec.decode_loop if loop else codec.decode
    sound = decode(codec.from_rgb(picture))
    begin_s, end_s = 0.0, codec.clip_s
    if plan.span is not None and plan.start is not None:
        begin_s, end_s = plan.span.start_s, plan.span.end_s
        sound = keep_sound(sound, plan.start, plan.span, codec)
    with private_folder(plan.folder) as place:
        png, wav, table, recipe = (place / name for name in plan.names)
        with atomic_write(png) as stream:
            Image.fromarray(picture).save(stream, format="PNG")
        gain_db = write_wav(wav, sound, codec.rate_hz)
        made = [
            Label(label=name, start_s=begin_s, end_s=end_s, low_hz=codec.fmin_hz, high_hz=codec.fmax_hz)
            for name in plan.names_in_table
        ]
        write_raven(table, made)
        write_json(recipe, {**plan.recipe, "gain_db": gain_db})
        publish(place, plan.folder, *plan.names)
    return plan.clip(gain_db)


@lru_cache
def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "diffusers", "transformers")}
