"""Models of the Hugging Face hub, fetched on a login node for compute nodes without internet.

Only what birdsd loads is fetched: the safetensors, configurations and vocabularies of a diffusers
pipeline. Whether a model is complete in the cache is read from the cache's folders, without the hub's
library, so that `birdsd doctor` answers at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsd.errors import BadValue, Damaged, NotFound, UserError
from birdsd.method_facts import facts_of
from birdsd.remarks import Remark

WEIGHTS = ("vae", "unet", "text_encoder")
PARTS = (*WEIGHTS, "tokenizer", "scheduler")
CLIP = "clip"  # not part of a pipeline but a separate model: both towers and their projections
# A pipeline's repository also holds other formats, half precision and whole-model files of many GB.
PATTERNS = (
    "model_index.json",
    *(f"{part}/*.json" for part in PARTS),
    "tokenizer/*.txt",
    "tokenizer/*.model",
    *(f"{part}/*.safetensors" for part in WEIGHTS),
    # A repository that is one part only (an autoencoder, for one) has its files at the top.
    "config.json",
    "diffusion_pytorch_model*.safetensors",
    "diffusion_pytorch_model*.json",
    # A CLIP.
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
)
IGNORED = ("*.fp16.*", "*.non_ema.*", "*.bf16.*", "*fp16*.safetensors", "*non_ema*.safetensors")


@dataclass(frozen=True)
class Wanted:
    """A required model: its hub id or folder, the setting that names it, and the required parts."""

    name: str
    setting: str = ""
    parts: tuple[str, ...] = ()  # none: all that exist


def cache_models(settings: Sequence[str], runs: Path = Path("runs")) -> tuple[dict[str, Any], str]:
    """Download the models that `settings` name, or check them where they are folders; returns facts and a
    text.

    `settings` are hub ids and folders, or the settings of a training (`model=sd15`). Raises `UserError`
    where a model cannot be downloaded or has no weights as safetensors.
    """
    models = []
    for model in wanted(settings, runs):
        folder = Path(model.name).expanduser()
        is_folder = folder.is_dir()
        if not is_folder:
            folder = fetch(model.name)
        problems = missing(folder, model.parts)
        if problems:
            title = f"{model.setting}={model.name}" if model.setting else model.name
            raise Damaged(
                f"{title} is not complete: {'; '.join(problems)}",
                "birdsd loads weights from safetensors only, and unpickles nothing foreign",
                "take a model that has them, e.g. stable-diffusion-v1-5/stable-diffusion-v1-5",
            )
        models.append(
            {
                "name": model.name,
                "setting": model.setting,
                "kind": "folder" if is_folder else "hub",
                "folder": str(folder),
                "parts": list(parts_of(folder)),
                "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            }
        )
    return {"cache": str(cache_folder()), "models": models}, _text(models)


def _text(models: Sequence[dict[str, Any]]) -> str:
    if not models:
        return "these settings need no external model"
    from birdsd.site.filesystem import amount

    lines = []
    for model in models:
        what = "is a folder here, and complete" if model["kind"] == "folder" else "is in the cache"
        lines.append(f"{model['name']} {what} ({', '.join(model['parts'])}; {amount(model['bytes'])})")
        lines.append(f"  {model['folder']}")
    if any(model["kind"] == "hub" for model in models):
        lines.append(
            f"Compute nodes find it there if they can see {cache_folder()}; HF_HOME sets another place."
        )
    return "\n".join(lines)


def wanted(typed: Sequence[str], runs: Path = Path("runs")) -> list[Wanted]:
    """The models that these arguments name: ids and folders as they are, settings by what they load."""
    names = [word for word in typed if "=" not in word and word != "train"]
    settings = [word for word in typed if "=" in word]
    models = [Wanted(name) for name in names]
    if settings or "train" in typed:
        from birdsd import config

        models += needed(config.compose("train", settings), runs)
    return models


def needed(settings: Any, runs: Path = Path("runs")) -> list[Wanted]:
    """The models that a training loads from elsewhere; the user's own runs are given as their folders.

    Raises `UserError` for a setting that names neither a folder, nor a run, nor a hub id.
    """
    from birdsd.runs.run import RunStore

    model = settings.model
    store, models = RunStore(runs), []
    autoencoder = store.model_source(model.autoencoder, "model.autoencoder")
    if model.init != "scratch":
        source = store.model_source(model.source, "model.source")
        facts = facts_of(settings.method)
        replaced = ("vae",) if autoencoder and "autoencoder" in facts.models else ()
        parts = tuple(part for part in facts.source_parts if part not in replaced)
        if source:
            models.append(Wanted(source, "model.source", parts))
    if autoencoder:
        models.append(Wanted(autoencoder, "model.autoencoder", ("vae",)))
    if clip := store.model_source(model.clip, "model.clip"):
        # Whether the method compares anything with it or not, its contents count in the run's signature.
        models.append(Wanted(clip, "model.clip", (CLIP,)))
    return models


def fetch(model_id: str) -> Path:
    """Download a model's files into the hub's cache unless they are there; returns the snapshot's folder."""
    if not _looks_like_id(model_id):
        raise BadValue(
            f"'{model_id}' is neither a folder here nor a hub id",
            "a hub id is like someone/model",
            "check the spelling, or give a folder with a diffusers pipeline",
        )
    import huggingface_hub
    from huggingface_hub import errors

    try:
        # A model that is complete is not downloaded again.
        return Path(
            huggingface_hub.snapshot_download(
                model_id, allow_patterns=list(PATTERNS), ignore_patterns=list(IGNORED)
            )
        )
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise NotFound(
            f"the hub does not give {model_id} to this user",
            "it does not exist, is private, or asks for its licence to be accepted first",
            "accept it on the model's page, log in with `hf auth login`, and run this again",
        ) from error
    except Exception as error:  # connection errors have many classes, by version of the hub's library
        folder = snapshot(model_id)
        if folder is not None and not missing(folder):
            return folder  # complete, as far as birdsd goes; the hub's library may know of more files
        raise _unreachable(model_id, error) from error


def _unreachable(model_id: str, error: Exception) -> UserError:
    named = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _is_on(os.environ.get(name, ""))]
    reason = f"{named[0]} is set" if named else (str(error).strip().splitlines() or [type(error).__name__])[0]
    return NotFound(
        f"{model_id} is not complete in {cache_folder()} and cannot be fetched: {reason}",
        "fetching needs a machine with internet",
        ("unset it" if named else "set https_proxy if this site has a proxy")
        + ", or run this on another machine and copy its cache folder here, or copy the model's folder and "
        "name that instead of the id",
    )


def _is_on(text: str) -> bool:
    return text.strip().lower() in ("1", "true", "yes", "on")


def _looks_like_id(text: str) -> bool:
    parts = text.split("/")
    return len(parts) == 2 and all(parts) and not text.startswith((".", "/", "~")) and " " not in text


# -- the cache ----------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """The cache folder of the hub's library, as HF_HUB_CACHE, HF_HOME or XDG_CACHE_HOME set it."""
    for name, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser() / below
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def snapshot(model_id: str) -> Path | None:
    """The cached snapshot of a model's `main` branch; None where it was never downloaded."""
    folder = cache_folder() / f"models--{model_id.replace('/', '--')}"
    with suppress(OSError):
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
        if revision and (folder / "snapshots" / revision).is_dir():
            return folder / "snapshots" / revision
    return None


def parts_of(folder: Path) -> tuple[str, ...]:
    """Which parts of a pipeline a folder has; a folder that is itself one part is named by its class."""
    folder = _pipeline(folder)
    parts = tuple(part for part in PARTS if (folder / part).is_dir())
    return parts or ((only,) if (only := _only_part(folder)) else ())


def missing(folder: Path, parts: Iterable[str] = ()) -> list[str]:
    """What is missing for these parts to be loaded from a pipeline's folder, a phrase each; without
    `parts`, for all parts in the folder."""
    folder = _pipeline(folder)
    existing = parts_of(folder)
    required = tuple(parts) or existing
    if CLIP in required and CLIP not in existing:
        text = f"clip: no config.json of a CLIP with its image tower in {folder}"
        return [Remark(text, "no-image-tower", folder=str(folder))]
    if not existing:
        text = f"{folder} is not a diffusers folder (it has none of {', '.join(PARTS)})"
        return [Remark(text, "no-parts", folder=str(folder))]
    problems: list[str] = []
    for part in required:
        place = folder / part
        if part == _only_part(folder) and not place.is_dir():
            place = folder
        code = "part-incomplete" if place.is_dir() else "part-missing"
        problems += [Remark(f"{part}: {phrase}", code, part=part) for phrase in _lacking(place, part)]
    return problems


def _pipeline(folder: Path) -> Path:
    """The export of a run's folder; any other folder as it is."""
    folder = Path(folder).expanduser()
    return folder / "export" if (folder / "export").is_dir() else folder


def _only_part(folder: Path) -> str:
    classes = {"AutoencoderKL": "vae", "UNet2DConditionModel": "unet"}
    with suppress(OSError, ValueError, AttributeError):
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # As `diffusion.clip` tells one: a text tower alone has neither of the two sections.
        if {"text_config", "vision_config"} <= settings.keys():
            return CLIP
        return classes.get(settings.get("_class_name", ""), "")
    return ""


def _lacking(place: Path, part: str) -> list[str]:
    if not place.is_dir():
        return ["it is missing"]
    if part == "scheduler":
        return [] if (place / "scheduler_config.json").is_file() else ["no scheduler_config.json"]
    if part == "tokenizer":
        whole = (place / "tokenizer.json").is_file()
        pair = (place / "vocab.json").is_file() and (place / "merges.txt").is_file()
        return [] if whole or pair else ["neither tokenizer.json nor vocab.json with merges.txt"]
    problems = [] if (place / "config.json").is_file() else ["no config.json"]
    stem = "model" if part in ("text_encoder", CLIP) else "diffusion_pytorch_model"
    table = place / f"{stem}.safetensors.index.json"
    names = [f"{stem}.safetensors"]
    if table.is_file():
        with suppress(OSError, ValueError, KeyError, AttributeError):
            names = sorted(set(json.loads(table.read_text(encoding="utf-8"))["weight_map"].values()))
    # is_file is false of a link into the cache whose file was never finished.
    return problems + [f"no {name}" for name in names if not (place / name).is_file()]


def weights_shapes(folder: Path) -> dict[str, dict[str, list[int]]]:
    """The shapes of a model's tensors, by part and name, from the headers of its safetensors files; parts
    without any are left out."""
    folder, by_network = _pipeline(folder), {}
    for part in (*WEIGHTS, CLIP):
        place = folder / part if (folder / part).is_dir() else folder
        if place == folder and _only_part(folder) != part:
            continue
        paths = [path for path in sorted(place.glob("*.safetensors")) if ".fp16." not in path.name]
        by_network[part] = {name: shape for path in paths for name, shape in _shapes(path).items()}
    return {part: shapes for part, shapes in by_network.items() if shapes}


def _shapes(path: Path) -> dict[str, list[int]]:
    """The shapes of a safetensors file's tensors by name; none where it cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError), open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length <= 100 << 20:
            header = json.loads(stream.read(length))
            return {
                name: [int(side) for side in entry["shape"]]
                for name, entry in header.items()
                if name != "__metadata__"
            }
    return {}
