"""`birdsd export`: a run's model in the forms that other programs load."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from birdsd.diffusion.formats import FORMATS
from birdsd.errors import UserError


def add_export(verbs: Any) -> None:
    """Add the verb's parser to the command line."""
    parser = verbs.add_parser(
        "export",
        help="export a run's model for AUTOMATIC1111, ComfyUI, diffusers, peft or kohya",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="formats:\n"
        + "".join(f"  {name:16} {what} ({', '.join(kinds)})\n" for name, (what, kinds) in FORMATS.items())
        + "\nexamples:\n"
        "  birdsd export RUN --format a1111                    as the web UI loads it, with codec and yaml\n"
        "  birdsd export RUN --format kohya diffusers-lora     a LoRA in two naming schemes\n"
        "  birdsd export RUN --format diffusers                a folder, a LoRA merged into its base model\n"
        "  birdsd export RUN --format comfyui --dtype fp16     half the size",
    )
    parser.add_argument("run", help="a run, or an exported or imported folder")
    parser.add_argument(
        "--format",
        nargs="+",
        required=True,
        dest="formats",
        metavar="NAME",
        help="one or more of " + ", ".join(FORMATS),
    )
    parser.add_argument("--out", type=Path, help="output folder (default: RUN/exports)")
    parser.add_argument("--dtype", default="fp32", help="fp32 (default, bitwise identical) or fp16")
    parser.add_argument("--base", help="base model of a LoRA or token, if it has moved")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder that holds the runs (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


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
            one.format: {
                "file": str(one.files[0]),
                "files": [str(path) for path in one.files],
                "bytes": one.bytes,
                "notes": one.notes,
            }
            for one in written
        },
    }
    lines = []
    for one in written:
        lines.append(f"{one.format:16} {one.files[0]}  ({_size(one.bytes)} with its companion files)")
        lines += [f"{'':16} {note}" for note in one.notes]
    return facts, "\n".join(lines)


def _name(folder: Path) -> str:
    """What the files are called: after the run, not after its export/."""
    from birdsd.files import safe_name

    whole = folder.resolve()
    return safe_name(whole.parent.name if whole.name == "export" else whole.name)


def _beside(folder: Path) -> Path:
    return (folder.parent if folder.name == "export" else folder) / "exports"


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def model_folder(text: str, runs: Path) -> Path:
    """The folder that `text` names: a folder itself, or a run by its name or signature."""
    from birdsd.runs.run import RunStore

    place = Path(text).expanduser()
    if place.is_dir():
        return place
    if place.exists():
        raise UserError(f"{place} is a file", "expected a run or a folder", "birdsd import FILE reads files")
    return RunStore(runs).find(text).folder


def resolved(text: str | None, runs: Path, option: str) -> str | None:
    """A model named on the command line as a folder or hub id; runs may be named by name or signature."""
    from birdsd.runs.run import RunStore

    return RunStore(runs).model_source(text, option)
