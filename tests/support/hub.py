"""A cache of the Hugging Face hub, made by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

from birdsd.files import write_json

MODEL = "someone/bird"
REVISION = "0123456789abcdef0123456789abcdef01234567"


def safetensors(path: Path, shapes: dict[str, list[int]]) -> None:
    """A file of zeros with these tensors, written by hand: eight bytes of length, a header, the numbers."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}  # type: ignore[dict-item]
        offset += size
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(offset))


def pipeline(folder: Path) -> Path:
    """A folder like that of a diffusers pipeline, with weights of a few numbers."""
    for part, stem in (("vae", "diffusion_pytorch_model"), ("unet", "diffusion_pytorch_model"),
                       ("text_encoder", "model")):  # fmt: skip
        write_json(folder / part / "config.json", {})
        safetensors(folder / part / f"{stem}.safetensors", {"a": [2, 3], "b": [4]})
    write_json(folder / "tokenizer" / "vocab.json", {})
    (folder / "tokenizer" / "merges.txt").write_text("#version\n", encoding="utf-8")
    write_json(folder / "scheduler" / "scheduler_config.json", {})
    write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    return folder


def into_cache(cache: Path, folder: Path, model: str = MODEL) -> Path:
    """Lay a folder's files into a cache as the hub's library does: blobs, and a snapshot of links to them."""
    place = cache / f"models--{model.replace('/', '--')}"
    for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        blob = place / "blobs" / f"{number:064d}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(path.read_bytes())
        link = place / "snapshots" / REVISION / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(REVISION, encoding="utf-8")
    return place / "snapshots" / REVISION
