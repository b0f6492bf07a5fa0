"""`birdsd cache-models`, `export`, `ema`, `import`, `ui`: models, before and after training."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from birdsd.cli.verb import Verb, emit
from birdsd.diffusion.formats import FORMATS
from birdsd.errors import BadValue, Mismatch, NotFound, unknown_name
from birdsd.format import size
from birdsd.shards.exports import BIRDNET
from birdsd.shards.exports import FORMATS as SOUND_FORMATS
from birdsd.ui import server


@contextmanager
def _quietly() -> Iterator[None]:
    """Other libraries' messages go to stderr, and transformers says nothing."""
    from birdsd.quiet import libraries_on_stderr, silent_transformers

    with libraries_on_stderr(), silent_transformers():
        yield


def _add_cache_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="+", help="hub ids, folders, or the settings of a training run (model=sd15)"
    )


def _cache_models(options: argparse.Namespace) -> int:
    from birdsd.runs.models.hub import cache_models

    return emit(options, *cache_models(options.models))


# -- export -----------------------------------------------------------------------------------------------


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", metavar="RUN|SOUNDS", help="a run, an exported or imported folder, or recordings"
    )
    parser.add_argument(
        "--format",
        nargs="+",
        required=True,
        dest="formats",
        metavar="NAME",
        help="one or more of " + ", ".join((*FORMATS, *SOUND_FORMATS)),
    )
    parser.add_argument(
        "--out", type=Path, help="output folder (default: RUN/exports; of sounds SOUNDS-FORMAT)"
    )
    model = parser.add_argument_group("a model")
    model.add_argument("--dtype", help="fp32 (default, bitwise identical) or fp16")
    model.add_argument("--base", help="base model of a LoRA or token, if it has moved")
    sounds = parser.add_argument_group("labelled recordings")
    sounds.add_argument("--labels", type=Path, help="label files, if they are elsewhere")
    sounds.add_argument(
        "--environment", type=Path, help="sounds without birds (default: SOUNDS/environment, if there is one)"
    )
    sounds.add_argument("--seconds", type=float, help="length of a clip (default: 3)")
    sounds.add_argument("--clips", type=int, help="most clips per recording, 0: all (default: 5)")
    sounds.add_argument("--test", type=float, help="share of the recordings for test/ (default: 0.2)")
    sounds.add_argument("--seed", type=int, help="of the split (default: 0)")


_OF_MODELS, _OF_SOUNDS = ("dtype", "base"), ("labels", "environment", "seconds", "clips", "test", "seed")


def _export(options: argparse.Namespace) -> int:
    of_sounds = [name for name in options.formats if name in SOUND_FORMATS]
    unknown = next((name for name in options.formats if name not in (*FORMATS, *SOUND_FORMATS)), None)
    if unknown and of_sounds:
        raise unknown_name("format", unknown, (*FORMATS, *SOUND_FORMATS))
    if of_sounds and len(of_sounds) < len(options.formats):
        raise Mismatch(
            f"--format {' '.join(options.formats)} mixes models and sounds",
            f"sounds are exported as {', '.join(SOUND_FORMATS)}",
            "export them one after the other",
        )
    for name in _OF_MODELS if of_sounds else _OF_SOUNDS:
        if getattr(options, name) is not None:
            kind = "recordings" if of_sounds else "a model"
            raise Mismatch(f"--{name} has no effect", f"{kind} are exported without it", "leave it out")
    if of_sounds:
        return _export_sounds(options, of_sounds)
    with _quietly():
        result = export_run(
            options.run, options.formats, out=options.out, dtype=options.dtype or "fp32", base=options.base,
            runs=options.runs,
        )  # fmt: skip
    return emit(options, *result)


def _export_sounds(options: argparse.Namespace, formats: Sequence[str]) -> int:
    from birdsd.evaluation.judges.labels import birdnet_label
    from birdsd.shards.exports.birdnet import export_birdnet
    from birdsd.shards.exports.cut import Asked
    from birdsd.shards.exports.huggingface import export_huggingface

    sounds = Path(options.run).expanduser()
    if not sounds.exists():
        raise NotFound(f"{sounds} does not exist", "", "name a folder of labelled recordings")
    given = {"seconds": options.seconds, "most": options.clips, "test_fraction": options.test,
             "seed": options.seed}  # fmt: skip
    kept = {name: value for name, value in given.items() if value is not None}
    exports = []
    for name in dict.fromkeys(formats):
        out = options.out or Path(f"{sounds.resolve().name}-{name}")
        place = out / name if options.out and len(set(formats)) > 1 else out
        label = birdnet_label() if name == BIRDNET else str
        asked = Asked(sounds, options.labels, options.environment, **kept, class_label=label)
        exports.append((export_birdnet if name == BIRDNET else export_huggingface)(asked, place))
    facts = {"sounds": str(sounds), "exports": [one.to_json() for one in exports]}
    return emit(options, facts, "\n\n".join(one.text() for one in exports))


def export_run(
    run: str,
    formats: Sequence[str],
    *,
    out: Path | None = None,
    dtype: str = "fp32",
    base: str | None = None,
    runs: Path = Path("runs"),
) -> tuple[dict[str, Any], str]:
    """Write a run's model, or that of a folder, in each of `formats`; returns the facts and a text.

    Nothing is written where one of the formats does not hold it.
    """
    from birdsd.diffusion.formats.companions import Exported
    from birdsd.diffusion.formats.exporter import check_formats, write_format

    folder = model_folder(run, runs)
    exported = Exported.open(folder, _name(folder))
    check_formats(exported.kind, formats, dtype)
    place = out if out is not None else _beside(folder)
    under = resolved(base, runs, "--base")
    written = [write_format(exported, name, place, dtype, under) for name in dict.fromkeys(formats)]
    facts = {
        "run": str(folder),
        "kind": exported.kind,
        "dtype": dtype,
        "formats": {
            export.format: {
                "file": str(export.files[0]),
                "files": [str(path) for path in export.files],
                "bytes": export.bytes,
                "notes": export.notes,
            }
            for export in written
        },
    }
    lines = []
    for export in written:
        lines.append(f"{export.format:16} {export.files[0]}  ({size(export.bytes)} with its companion files)")
        lines += [f"{'':16} {note}" for note in export.notes]
    return facts, "\n".join(lines)


def _name(folder: Path) -> str:
    """The files' name: the run's, not that of its export/."""
    from birdsd.files import safe_name

    whole = folder.resolve()
    return safe_name(whole.parent.name if whole.name == "export" else whole.name)


def _beside(folder: Path) -> Path:
    return (folder.parent if folder.name == "export" else folder) / "exports"


def model_folder(text: str, runs: Path) -> Path:
    """The folder that `text` names: a folder itself, or a run by its name or signature."""
    from birdsd.runs.run import RunStore

    place = Path(text).expanduser()
    if place.is_dir():
        return place
    if place.exists():
        raise BadValue(f"{place} is a file", "expected a run or a folder", "birdsd import FILE reads files")
    return RunStore(runs).find(text).folder


def resolved(text: str | None, runs: Path, option: str) -> str | None:
    """A model named on the command line as a folder or hub id; runs may be named by name or signature."""
    from birdsd.runs.run import RunStore

    return RunStore(runs).model_source(text, option)


# -- ema --------------------------------------------------------------------------------------------------


def _add_ema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a finished run of method=full")
    parser.add_argument(
        "--length", type=float, required=True, help="EMA length relative to the training, from 0.05 to 0.25"
    )
    parser.add_argument("--out", type=Path, help="folder to create (default: RUN/averages/LENGTH)")


def _ema(options: argparse.Namespace) -> int:
    from birdsd.runs.models.averaging import average_run

    with _quietly():
        result = average_run(options.run, options.length, options.out, options.runs)
    return emit(options, *result)


# -- import -----------------------------------------------------------------------------------------------


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="file to import, or a diffusers or peft folder")
    parser.add_argument(
        "--base", help="base model of a LoRA or token; for a checkpoint, a model with its architecture"
    )
    parser.add_argument(
        "--codec", help="codec.json, or a run or folder with one, if there is none next to the file"
    )
    parser.add_argument("--clip", help="the CLIP that an aesthetic embedding was computed with")
    parser.add_argument("--token", help="new name for a token that already exists")
    parser.add_argument("--out", type=Path, help="folder to create (default: imported/NAME)")


def _import(options: argparse.Namespace) -> int:
    with _quietly():
        result = import_path(
            options.file, base=options.base, codec=options.codec, clip=options.clip, token=options.token,
            out=options.out, runs=options.runs,
        )  # fmt: skip
    return emit(options, *result)


def import_path(
    file: str,
    *,
    base: str | None = None,
    codec: str | None = None,
    clip: str | None = None,
    token: str | None = None,
    out: Path | None = None,
    runs: Path = Path("runs"),
) -> tuple[dict[str, Any], str]:
    """Import a file or folder; returns the facts and a text."""
    from birdsd.diffusion.formats.importer import Asked, import_file
    from birdsd.files import safe_name

    path = Path(file).expanduser()
    if not path.exists():
        raise NotFound(f"{path} does not exist", "", "check the path")
    if codec is not None and not Path(codec).expanduser().exists():
        codec = str(model_folder(codec, runs))
    asked = Asked(path, resolved(base, runs, "--base"), codec, resolved(clip, runs, "--clip"), token)
    name = path.name if path.is_dir() else path.stem
    imported = import_file(asked, out if out is not None else Path("imported") / safe_name(name))
    facts = {
        "folder": str(imported.folder),
        "kind": imported.kind,
        "form": imported.form,
        "made": imported.made,
    }
    first = f"{imported.folder}: {imported.kind}, from {path.name} ({imported.form})"
    if not imported.made:
        first = f"{imported.folder} already contains this file"
    facts["also"] = [
        {"folder": str(other.folder), "kind": other.kind, "form": other.form} for other in imported.also
    ]
    lines = [first, *(f"{other.folder}: {other.kind}, from the same file" for other in imported.also)]
    add = f" add=[{','.join(str(other.folder) for other in imported.also)}]" if imported.also else ""
    return facts, "\n".join([*lines, f'  birdsd run generate run={imported.folder}{add} prompt="..."'])


# -- ui ---------------------------------------------------------------------------------------------------


def _add_ui(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", help="a run or model folder (default: the latest finished model)")
    parser.add_argument("settings", nargs="*", help="initial settings, as for `birdsd run generate`")
    parser.add_argument(
        "--port", type=int, help=f"port to serve on (default: the first free one from {server.FIRST_PORT})"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")


def _ui(options: argparse.Namespace) -> int:
    run, settings = options.run, list(options.settings)
    if run is not None and "=" in run and not Path(run).exists():
        run, settings = None, [run, *settings]
    server.serve(server.settled(run, settings, options.runs), options.port, not options.no_browser)
    return 0


VERBS = (
    Verb(
        "cache-models",
        "download models on a login node, for compute nodes without internet access",
        _add_cache_models,
        _cache_models,
        "examples:\n  birdsd cache-models stable-diffusion-v1-5/stable-diffusion-v1-5\n"
        "  birdsd cache-models model=sd15",
    ),
    Verb(
        "export",
        "export a run's model for other programs, or labelled recordings for BirdNET-Analyzer or datasets",
        _add_export,
        _export,
        "formats:\n"
        + "".join(f"  {name:16} {what} ({', '.join(kinds)})\n" for name, (what, kinds) in FORMATS.items())
        + "".join(f"  {name:16} {what}\n" for name, what in SOUND_FORMATS.items())
        + "\nexamples:\n"
        "  birdsd export RUN --format a1111                    as the web UI loads it, with codec and yaml\n"
        "  birdsd export RUN --format kohya diffusers-lora     a LoRA in two naming schemes\n"
        "  birdsd export RUN --format diffusers                a folder, a LoRA merged into its base model\n"
        "  birdsd export RUN --format comfyui --dtype fp16     half the size\n"
        "  birdsd export RUN --format onnx                     a classifier, for programs without torch\n"
        "  birdsd export recordings/ --format birdnet          folders of clips, by species\n"
        "  birdsd export recordings/ --format huggingface --out mine",
        takes_runs=True,
    ),
    Verb(
        "ema",
        "rebuild a finished run's model with a different EMA length, from its kept checkpoints",
        _add_ema,
        _ema,
        "The length is the standard deviation of the averaging profile, relative to the training, as\n"
        "in EDM2; longer is smoother. It is combined from the stored checkpoints: train with save.keep=8\n"
        "or more, no further apart than the run's own average is long, 1 / (1 - optim.ema_decay) steps.\n\n"
        "examples:\n  birdsd ema RUN --length 0.1\n  birdsd ema RUN --length 0.05 --out models/short\n"
        "  birdsd run generate run=runs/RUN/averages/0.1 prompt='a House Sparrow'",
        takes_runs=True,
    ),
    Verb(
        "import",
        "import a checkpoint, LoRA, token or aesthetic embedding from another program",
        _add_import,
        _import,
        "examples:\n"
        "  birdsd import model.safetensors --base stable-diffusion-v1-5/stable-diffusion-v1-5 \\\n"
        "      --codec shards/codec.json\n"
        "  birdsd import my-lora.safetensors --base RUN\n"
        "  birdsd import wren.pt --base RUN --token '<wren>'\n"
        "  birdsd import style.pt --clip openai/clip-vit-large-patch14 --base RUN",
        takes_runs=True,
    ),
    Verb(
        "ui",
        "open a local web page to generate, play and save sounds",
        _add_ui,
        _ui,
        "examples:\n  birdsd ui\n  birdsd ui RUN guidance=4 steps=50\n"
        "  birdsd ui BASE add=LORA:0.8 --port 8000 --no-browser",
        takes_runs=True,
        as_json=False,
    ),
)
