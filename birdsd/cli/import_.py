"""`birdsd import`: a file that another program wrote, as a folder that birdsd generates with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from birdsd.errors import UserError


def add_import(verbs: Any) -> None:
    """Add the verb's parser to the command line."""
    parser = verbs.add_parser(
        "import",
        help="import a checkpoint, LoRA, token or aesthetic embedding from another program",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  birdsd import model.safetensors --base stable-diffusion-v1-5/stable-diffusion-v1-5 \\\n"
        "      --codec shards/codec.json\n"
        "  birdsd import my-lora.safetensors --base RUN\n"
        "  birdsd import wren.pt --base RUN --token '<wren>'\n"
        "  birdsd import style.pt --clip openai/clip-vit-large-patch14 --base RUN",
    )
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
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder that holds the runs (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


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
    from birdsd.cli.export import model_folder, resolved
    from birdsd.diffusion.formats.importer import Asked, import_file
    from birdsd.files import safe_name

    path = Path(file).expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist", "", "check the path")
    if codec is not None and not Path(codec).expanduser().exists():
        codec = str(model_folder(codec, runs))
    asked = Asked(path, resolved(base, runs, "--base"), codec, resolved(clip, runs, "--clip"), token)
    name = path.name if path.is_dir() else path.stem
    made = import_file(asked, out if out is not None else Path("imported") / safe_name(name))
    facts = {"folder": str(made.folder), "kind": made.kind, "form": made.form, "made": made.made}
    first = f"{made.folder}: {made.kind}, from {path.name} ({made.form})"
    if not made.made:
        first = f"{made.folder} already contains this file"
    facts["also"] = [{"folder": str(one.folder), "kind": one.kind, "form": one.form} for one in made.also]
    lines = [first, *(f"{one.folder}: {one.kind}, from the same file" for one in made.also)]
    add = f" add=[{','.join(str(one.folder) for one in made.also)}]" if made.also else ""
    return facts, "\n".join([*lines, f'  birdsd run generate run={made.folder}{add} prompt="..."'])
