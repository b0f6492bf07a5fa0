"""An exported model, LoRA, token or aesthetic embedding, written for other programs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from birdsd.diffusion import adapters, export
from birdsd.diffusion.formats import FORMATS, embeddings, loras
from birdsd.diffusion.formats.companions import Exported, carried, heard_in, heard_together
from birdsd.diffusion.formats.single_file import base_obstacles, write_single_file
from birdsd.diffusion.formats.tensors import (
    DTYPES,
    as_dtype,
    read_content,
    write_pickle,
    write_safetensors,
)
from birdsd.errors import AlreadyThere, NotFound, Unsupported, unknown_name
from birdsd.files import explained_write, safe_name, write_json


@dataclass
class Written:
    """The files of one format, the first of them the one to load, and what one must know of them."""

    format: str
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)


def check_formats(kind: str, formats: Sequence[str], dtype: str) -> None:
    """Refuse unknown names, and formats that do not hold what there is, before anything is written."""
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    fitting = [name for name, (_, kinds) in FORMATS.items() if kind in kinds]
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
        if name not in fitting:
            raise Unsupported(
                f"the format '{name}' does not support this kind of model ({kind})",
                f"a {kind} can be exported as {', '.join(fitting)}",
                f"take --format {fitting[0]}",
            )


def write_format(
    exported: Exported, name: str, out: Path, dtype: str = "fp32", base: str | None = None
) -> Written:
    """Write `exported` in the format `name` into `out`/`name`; every file is read back and compared.

    `base` is the model under an adapter where it has moved; only "diffusers" needs it.
    """
    check_formats(exported.kind, [name], dtype)
    export.read_codec(exported.folder)  # without it nobody can make sound of what goes out
    place = Path(out) / name
    with explained_write(place):
        place.mkdir(parents=True, exist_ok=True)
    written = Written(name)
    if name == "diffusers":
        _write_folder(exported, place, dtype, base, written)
    elif exported.kind == "pipeline":
        suffix = ".ckpt" if name == "ckpt" else ".safetensors"
        files, notes = write_single_file(exported, place, name, dtype, suffix)
        written.files, written.notes = files + exported.write_beside(place, exported.name), notes
    else:
        _WRITERS[exported.kind](exported, name, place, dtype, written)
        if name in ("a1111", "comfyui"):
            base_source = base or str((exported.training.get("base") or {}).get("source") or "")
            written.notes += base_obstacles(base_source, name)
    return written


# -- a folder ---------------------------------------------------------------------------------------------


def _write_folder(exported: Exported, place: Path, dtype: str, base: str | None, written: Written) -> None:
    target = place / exported.name
    if target.exists() and not (target / "model_index.json").is_file():
        raise AlreadyThere(
            f"{target} exists and is not a diffusers folder", "it would be replaced", "choose another --out"
        )
    if exported.kind == "pipeline":
        export.write_folder(target, lambda partial: _copy(exported, partial, dtype))
    else:
        merge(exported, target, base)
        if dtype == "fp16":
            merged = Exported(target, exported.name)
            export.write_folder(target, lambda partial: _copy(merged, partial, dtype))
    written.files = [target / "model_index.json"]
    written.files += sorted(
        path for path in target.rglob("*") if path.is_file() and path not in written.files
    )


def _copy(exported: Exported, partial: Path, dtype: str) -> None:
    """The folder itself, with weights in `dtype`."""
    for path in sorted(exported.folder.rglob("*")):
        target = partial / path.relative_to(exported.folder)
        if path.is_dir() or path.name.startswith("."):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            read = read_content(path)
            write_safetensors(target, as_dtype(read.tensors, dtype), read.metadata)
        else:
            shutil.copyfile(path, target)
    facts = {**exported.training, "kind": "pipeline", "weights": export.weights_fingerprint(partial)}
    write_json(partial / "training.json", facts)


def merge(exported: Exported, folder: Path, base: str | None = None) -> Path:
    """A pipeline folder of an adapter with the model that it stands on: LoRA added to the weights, tokens
    in tokenizer and text encoder. It gives the latents of both together."""
    from birdsd.diffusion.generation.generator import Generator

    model = Generator(exported.folder, base=base)
    if model.aesthetics:
        raise Unsupported(
            f"{exported.folder} builds on an aesthetic embedding",
            "that acts on each prompt, and cannot be merged into weights",
            "export its base model",
        )
    pipeline = model.pipeline
    if any(one.kind == "lora" for one in model.adapters):
        with export.quiet_diffusers():
            pipeline.fuse_lora()
            pipeline.unload_lora_weights()
    under, _ = adapters.chain(exported.folder, base)
    lowest = Path(under) / "export" if (Path(under) / "export").is_dir() else Path(under)
    sets = [heard_in(place) for place in (lowest, *(one.folder for one in model.adapters))]
    tokens = {token: n for one in model.adapters for token, n in one.tokens.items()}
    facts = carried(exported.training, "kind", "base", "words", "tokens")
    return export.write_pipeline(
        folder,
        **export.parts_of(pipeline),
        codec=model.codec.to_json(),
        heard=heard_together(sets),
        about={
            **facts,
            **({"sampling": model.sampling} if model.sampling else {}),
            "base": under,
            "words": model.words,
            "tokens": tokens,
            "merged": exported.kind,
        },
    )


# -- LoRA -------------------------------------------------------------------------------------------------


def read_exported_lora(exported: Exported) -> loras.Lora:
    """The updates of an exported LoRA, by the names of its own file."""
    content = read_content(exported.folder / adapters.LORA_FILE)
    layers: dict[str, set[str]] = {part: set() for part in loras.PARTS}
    for name in content.tensors:
        part, _, rest = name.partition(".")
        layers.setdefault(part, set()).add(loras.layer_of(rest))
    return loras.read_lora(content, layers)[1]


def _write_lora(exported: Exported, name: str, place: Path, dtype: str, written: Written) -> None:
    lora = read_exported_lora(exported)
    if name == "peft":
        written.files = loras.write_peft(place / exported.name, lora, exported.metadata, dtype)
        written.files += exported.write_beside(place / exported.name, exported.name)
        return
    path = place / f"{exported.name}.safetensors"
    if name == "diffusers-lora":
        write_safetensors(path, as_dtype(loras.to_diffusers(lora), dtype), exported.metadata)
    else:
        metadata = {**exported.metadata, **loras.kohya_metadata(lora)}
        write_safetensors(path, as_dtype(loras.to_kohya(lora), dtype), metadata)
    written.files = [path, *exported.write_beside(place, exported.name)]
    if name == "a1111":
        written.notes.append(f"in the prompt: <lora:{exported.name}:1>")
    if (words := exported.training.get("words")) and name in ("a1111", "comfyui", "kohya"):
        written.notes += [f"write {word} for {species}" for species, word in words.items()]


# -- tokens and aesthetic embeddings ----------------------------------------------------------------------


def _write_tokens(exported: Exported, name: str, place: Path, dtype: str, written: Written) -> None:
    training = exported.training
    base = str((training.get("base") or {}).get("source") or "")
    species_of_word = {word: species for species, word in (training.get("words") or {}).items()}
    for token in training.get("tokens") or {}:
        vectors = as_dtype(_token(exported, str(token)), dtype)
        rows = vectors[str(token)]
        stem = safe_name(str(token))
        path = place / f"{stem}{'.pt' if name == 'a1111' else '.safetensors'}"
        if name == "a1111":
            form = embeddings.a1111_form(str(token), rows, int(training.get("steps") or 0), Path(base).name)
            write_pickle(path, form, {"*": rows})
        elif name == "embedding":
            write_safetensors(path, vectors, exported.metadata)
        else:
            write_safetensors(path, {embeddings.KOHYA: rows}, exported.metadata)
        species = species_of_word.get(str(token))
        own = {"tokens": {token: len(rows)}, "words": {species: token} if species else {}}
        written.files += [path, *exported.write_beside(place, stem, **own)]
        trigger = {"a1111": stem, "comfyui": f"embedding:{stem}"}.get(name)
        if trigger:
            written.notes.append(f"write {trigger} for {species or token}")


def _token(exported: Exported, token: str) -> Any:
    content = read_content(exported.folder / "embeddings" / f"{safe_name(token)}.safetensors")
    if token not in content.tensors:
        raise NotFound(
            f"{content.path} does not hold {token}", "each token has a file", "export the run again"
        )
    return {token: content.tensors[token]}


def _write_aesthetic(exported: Exported, name: str, place: Path, dtype: str, written: Written) -> None:
    from birdsd.diffusion.generation.aesthetics import PROJECTION, Aesthetic

    loaded = Aesthetic.load(exported.folder)
    for title, vector in loaded.embeddings.items():
        stem = safe_name(title)
        path = place / f"{stem}.pt"
        rows = as_dtype({"": vector}, dtype)[""]
        write_pickle(path, rows, {"": rows})
        matrix = place / f"{stem}.{PROJECTION}.safetensors"
        write_safetensors(matrix, as_dtype({PROJECTION: loaded.text_projection}, "fp32"), exported.metadata)
        written.files += [path, matrix, *exported.write_beside(place, stem, aesthetic=title)]
    written.notes.append("put the .pt files into the aesthetic gradients extension's aesthetic_embeddings")


def _write_classifier(exported: Exported, name: str, place: Path, dtype: str, written: Written) -> None:
    from birdsd.diffusion.classifiers.folder import load_classifier
    from birdsd.diffusion.classifiers.onnx_file import write_onnx

    if dtype != "fp32":
        raise Unsupported(f"--dtype {dtype} with --format onnx", "it is written in fp32", "leave --dtype out")
    path = place / f"{exported.name}.onnx"
    difference = write_onnx(load_classifier(exported.folder), path)
    written.files = [path, *exported.write_beside(place, exported.name)]
    written.notes.append(f"checked in onnxruntime: scores within {difference:.1g} of torch's")


_WRITERS: dict[str, Callable[[Exported, str, Path, str, Written], None]] = {
    "lora": _write_lora,
    "embedding": _write_tokens,
    "aesthetic": _write_aesthetic,
    "classifier": _write_classifier,
}
