"""`birdsd classify`: which species a classifier of your own hears in recordings, and when."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from birdsd.cli.verb import Verb, emit
from birdsd.errors import UserError, unknown_name

_EXAMPLES = """examples:
  birdsd classify recordings/ run=RUN                  Raven tables and a CSV in classified/
  birdsd classify night.flac run=RUN overlap=0.75 merge=true format=raven,audacity
  birdsd classify recordings/ run=RUN threshold=0.8 out=loud/ processes=4 --json
  birdsd classify recordings/ run=RUN strong=true      from when to when: method.network=crnn only

RUN is a finished run of `birdsd run train method=classifier`, or its exported folder. Each species has a
threshold of its own, which was found on validation recordings. The same command again goes on where it was
interrupted."""

# Setting -> (kind, default, what it is).
_SETTINGS: dict[str, tuple[str, Any, str]] = {
    "run": ("text", None, "the classifier: a run's name, signature or folder, or an exported folder"),
    "out": ("text", "classified", "folder of the tables"),
    "overlap": ("number", 0.5, "share of a window that the next one hears again"),
    "threshold": ("number", None, "score from which a species counts; left out: each has its own"),
    "merge": ("switch", False, "windows that overlap or touch become one row for each species"),
    "strong": ("switch", False, "rows from when to when a CRNN hears a species within its windows"),
    "format": ("names", ["raven", "csv"], "of raven, audacity, csv, parquet"),
    "processes": ("count", 0, "that listen at once; 0: one for each core"),
    "runs": ("text", "runs", "folder that holds the runs"),
}


def _add(parser: argparse.ArgumentParser) -> None:
    told = "\n".join(f"  {name + '=':11} {meaning}" for name, (_, _, meaning) in _SETTINGS.items())
    parser.description = f"settings:\n{told}"
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RECORDINGS|KEY=VALUE",
        help="sound files or folders of them, and settings",
    )


def _settings(words: list[str]) -> tuple[list[Path], dict[str, Any]]:
    """The recordings and the settings; a word with a = is a recording where one is called so."""
    sources: list[Path] = []
    values = {name: default for name, (_, default, _) in _SETTINGS.items()}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or Path(word).exists():
            sources.append(Path(word))
        elif name not in _SETTINGS:
            raise unknown_name("setting of classify", name, _SETTINGS)
        else:
            values[name] = _read(name, value)
    return sources, values


def _read(name: str, text: str) -> Any:
    kind = _SETTINGS[name][0]
    try:
        if kind == "number":
            return float(text)
        if kind == "count":
            if (count := int(text)) < 0:
                raise ValueError
            return count
    except ValueError:
        raise UserError(
            f"{name}={text}", "a number is expected" if kind == "number" else "a count from 0 on is expected"
        ) from None
    if kind == "switch":
        if text not in ("true", "false"):
            raise UserError(f"{name}={text}", "it is true or false")
        return text == "true"
    return [one.strip() for one in text.split(",") if one.strip()] if kind == "names" else text


def _classify(options: argparse.Namespace) -> int:
    sources, told = _settings(options.words)
    if not told["run"]:
        raise UserError(
            "run is not set",
            "a classifier must listen",
            "run=RUN of a finished training with method=classifier",
        )
    if not sources:
        raise UserError("no recordings are named", "", "name sound files, or folders of them")
    from birdsd.evaluation.classify.classify import ClassifySettings, check_formats, classify
    from birdsd.evaluation.classify.tables import text_of, write_tables
    from birdsd.files import read_json
    from birdsd.runs.models.judges import classifier_place
    from birdsd.sound.codec.protocol import Codec

    check_formats(told["format"])
    folder = classifier_place(told["run"], Path(told["runs"]))
    settings = ClassifySettings(told["overlap"], told["threshold"], told["merge"], told["strong"])
    done = classify(sources, folder, Path(told["out"]), settings, processes=told["processes"])
    codec = Codec.from_json(read_json(folder / "codec.json"))
    written = write_tables(done, codec, told["format"])
    tables = sum(path.parent != done.out for path in written)
    files = ", ".join(path.name for path in written if path.parent == done.out)
    also = f", and {tables} tables in tables/" if tables else ""
    text = f"{text_of(done)}\nwritten to {told['out']}: {files}{also}"
    return emit(options, done.to_json(), text)


VERBS = (
    Verb("classify", "tell which species a classifier of yours hears, and when", _add, _classify, _EXAMPLES),
)
