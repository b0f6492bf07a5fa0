"""`birdsd prompts`: the prompt book of a model."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.cli.verb import Verb, emit
from birdsd.errors import BadValue, Mismatch, NotSet

if TYPE_CHECKING:
    from birdsd.scenes.book.book import Book

_EXAMPLES = """examples:
  birdsd prompts RUN                                 species, sound types, environments, loudness, scenes
  birdsd prompts RUN --sounds generated/ --out book  also how often the judge agreed, as an HTML page
  birdsd prompts RUN --make 4 --out book             generate 4 clips per prompt first
  birdsd prompts RUN --json

The judge is BirdNET where it is installed and knows the species, else the weak check of the run's shards,
else there is no verdict, and it says so."""


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run, or an exported or imported folder")
    parser.add_argument(
        "--sounds",
        type=Path,
        metavar="FOLDER",
        help="folder of clips from `birdsd run generate`, to be judged",
    )
    parser.add_argument(
        "--make", type=int, default=0, metavar="N", help="first generate N clips per prompt into OUT/sounds"
    )
    parser.add_argument(
        "--judge",
        metavar="NAME",
        help="a BirdNET folder, an installed judge, weak, or none (default: the best available)",
    )
    parser.add_argument(
        "--shards",
        metavar="FOLDER",
        help="shards that the weak check is fitted on (default: those of the training)",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write prompts.html and prompts.json here")
    parser.add_argument("--base", help="base model of an adapter, if it has moved")


def _prompts(options: argparse.Namespace) -> int:
    from birdsd.runs.models.places import model_place
    from birdsd.scenes.book.book import book_of, book_text
    from birdsd.scenes.compose.makers import clips_of
    from birdsd.scenes.vocabulary import vocabulary_of_run
    from birdsd.schema import SceneConfig

    _check(options)
    config = SceneConfig(
        run=options.run, runs=str(options.runs), base=options.base, judge=options.judge, shards=options.shards
    )
    place = model_place(clips_of(config))
    vocabulary = vocabulary_of_run(place, options.base)
    book = book_of(vocabulary, str(options.run))
    sounds = options.sounds
    if options.make:
        sounds = options.out / "sounds"
        _make(config, book, options.make, sounds)
    if sounds:
        from birdsd.scenes.book.believed import judged
        from birdsd.scenes.compose.makers import gate_of

        book = judged(book, sounds, gate_of(config, place, vocabulary.species))
    written = _write(book, options.out) if options.out else []
    return emit(
        options, book.to_json(), "\n".join([book_text(book), *(f"written: {path}" for path in written)])
    )


def _check(options: argparse.Namespace) -> None:
    if options.make < 0 or options.make > 1000:
        raise BadValue(f"--make {options.make}", "it is a number of clips per prompt, from 1 to 1000")
    if options.make and options.sounds:
        raise Mismatch(
            "--make and --sounds", "clips are either made or there already", "leave one of them out"
        )
    if options.make and not options.out:
        raise NotSet("--make without --out", "clips need a folder to lie in", "add --out FOLDER")


def _make(config: Any, book: Book, count: int, folder: Path) -> None:
    """Clips of every prompt for single clips; those that are there are kept."""
    from birdsd.diffusion.generation.generate import generate
    from birdsd.diffusion.generation.request import Request
    from birdsd.runs.models.loading import load_model, recommended_sampling
    from birdsd.scenes.compose.makers import clips_of

    texts = list(dict.fromkeys(one.example for one in book.entries if one.ask == "clip"))
    settings = replace(clips_of(config), prompt=texts, count=count)
    generate(load_model(settings), Request.of(settings, recommended_sampling(settings)), folder, keep=True)


def _write(book: Book, out: Path) -> list[Path]:
    from birdsd.files import explained_write, write_json
    from birdsd.pages.prompts import prompts_page

    told = book.to_json()
    with explained_write(out):
        page = prompts_page(told).write(out / "prompts.html")
        write_json(out / "prompts.json", told)
    return [page, out / "prompts.json"]


VERBS = (
    Verb(
        "prompts",
        "list what a model can be asked for, and how often it did so",
        _add_prompts,
        _prompts,
        _EXAMPLES,
        takes_runs=True,
    ),
)
