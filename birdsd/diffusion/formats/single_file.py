"""A pipeline in one file, as AUTOMATIC1111 and ComfyUI load it, and such a file as a pipeline again.

The file holds the three networks and nothing of their settings or of the tokenizer: those lie in
NAME.settings beside it, which is also what diffusers' `from_single_file(FILE, config=...)` asks for.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from birdsd.diffusion import export
from birdsd.diffusion.formats import ldm, ldm_shapes, settings
from birdsd.diffusion.formats.companions import Exported
from birdsd.diffusion.formats.tensors import (
    Content,
    as_dtype,
    read_content,
    write_pickle,
    write_safetensors,
)
from birdsd.diffusion.generation import sampling
from birdsd.diffusion.networks import models
from birdsd.errors import Damaged, Mismatch, NotFound
from birdsd.files import read_json, write_text
from birdsd.remarks import Remark

if TYPE_CHECKING:
    from torch import Tensor

SETTINGS = ".settings"


def write_single_file(
    exported: Exported, place: Path, program: str, dtype: str, suffix: str = ".safetensors"
) -> tuple[list[Path], list[str]]:
    """Write NAME.safetensors (or .ckpt) for `program` with its yaml and settings; returns (files, notes)."""
    source = str(exported.folder)
    unet: Any = models.load_unet(source)
    vae: Any = models.load_vae(source)
    text: Any = models.load_text(source)[0]
    states = {"unet": unet.state_dict(), "vae": vae.state_dict(), "text_encoder": text.state_dict()}
    tensors = as_dtype(ldm.to_ldm(states), dtype)
    noise = models.scheduler_config(source)
    original = settings.original_settings(unet.config, vae.config, noise)
    tensors |= _markers(noise)
    path = place / f"{exported.name}{suffix}"
    if suffix == ".safetensors":
        write_safetensors(path, tensors, exported.metadata)
    else:
        write_pickle(path, {"state_dict": tensors}, tensors)
    _check(path, ldm_shapes.checkpoint(unet.config, vae.config, text.config.to_dict()))
    files = [path]
    obstacles = settings.obstacles(unet.config, vae.config, text.config.to_dict(), original, program)
    notes = _notes(program, path, obstacles)
    if program == "a1111" and settings.departs_from_default(original):
        files.append(path.with_suffix(".yaml"))
        write_text(files[-1], yaml.safe_dump(original, sort_keys=False))
        if not obstacles:
            notes.append(f"keep {files[-1].name} beside the file: it says what the network predicts")
    notes += [] if obstacles else about_noise(program, noise)
    files += _copy_settings(exported.folder, place / f"{exported.name}{SETTINGS}")
    return files, notes


def _check(path: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    """The names and shapes of a written file against the original code's structure: programs load with
    strict=False, so that a wrong name would go unnoticed and its layer stay untrained."""
    stored = {name: tuple(t.shape) for name, t in read_content(path).tensors.items() if t.numel()}
    wrong = sorted(name for name in stored.keys() | expected.keys() if stored.get(name) != expected.get(name))
    if wrong:
        path.unlink()
        raise Mismatch(
            f"{wrong[0]} and {len(wrong) - 1} more of {path.name} are {stored.get(wrong[0])}, and should be "
            f"{expected.get(wrong[0])}",
            "a checkpoint has the names and shapes of Stable Diffusion 1's own code; the file was removed",
            "export the model as a diffusers folder",
        )


def _markers(noise: Mapping[str, Any]) -> dict[str, Tensor]:
    """Empty tensors by which some programs recognise what the network predicts."""
    import torch

    marks = {"v_pred": noise.get("prediction_type") == "v_prediction"}
    marks["ztsnr"] = bool(noise.get("rescale_betas_zero_snr"))
    return {name: torch.empty(0) for name, there in marks.items() if there}


def _notes(program: str, path: Path, obstacles: list[str]) -> list[str]:
    if not obstacles:
        return []
    text = (
        f"{_PROGRAMS[program]} cannot run this model: {'; '.join(obstacles)}. diffusers can: "
        f'StableDiffusionPipeline.from_single_file("{path.name}", config="{path.stem}{SETTINGS}")'
    )
    return [Remark(text, "cannot-run", program=program, obstacles=obstacles)]


_PROGRAMS = {"a1111": "AUTOMATIC1111", "comfyui": "ComfyUI", "ckpt": "AUTOMATIC1111 or ComfyUI"}


def base_obstacles(source: str, program: str) -> list[str]:
    """A note where `program` could not run the model under an adapter; [] where it can, or where the model
    is not on this machine."""
    place = Path(source).expanduser()
    folder = place / "export" if (place / "export").is_dir() else place
    files = [folder / part / "config.json" for part in ("unet", "vae", "text_encoder")]
    if not source or not all(path.is_file() for path in files):
        return []
    unet, vae, text = (dict(read_json(path)) for path in files)
    original = settings.original_settings(unet, vae, models.scheduler_config(str(folder)))
    found = settings.obstacles(unet, vae, text, original, program)
    return [f"{_PROGRAMS[program]} cannot run the model under it: {'; '.join(found)}"] if found else []


def about_noise(program: str, noise: Mapping[str, Any]) -> list[str]:
    """What one has to set by hand where a program cannot know it from the file."""
    velocity = noise.get("prediction_type") == "v_prediction"
    zero = bool(noise.get("rescale_betas_zero_snr"))
    if program == "comfyui" and velocity:
        return [
            "this model predicts v: put a ModelSamplingDiscrete node behind Load Checkpoint, with "
            f"sampling=v_prediction and zsnr={'true' if zero else 'false'}; without it the pictures are noise"
        ]
    if program == "a1111" and zero:
        return [
            "this model's noise ends at a signal-to-noise ratio of zero: in Settings, Sampler parameters, "
            "set 'Noise schedule for sampling' to 'Zero Terminal SNR' (new versions do so by themselves)"
        ]
    return []


def _copy_settings(folder: Path, place: Path) -> list[Path]:
    """Configurations and tokenizer, without weights."""
    inside = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    wanted = [folder / "model_index.json"]
    wanted += [path for part in inside for path in sorted((folder / part).glob("*"))]
    kept = [path for path in wanted if path.suffix in (".json", ".txt") and ".index." not in path.name]

    def write(partial: Path) -> None:
        for path in kept:
            target = partial / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)

    export.write_folder(place, write)
    return [place / path.relative_to(folder) for path in kept]


def read_single_file(content: Content, source: str) -> dict[str, Any]:
    """The networks, tokenizer and scheduler of a single-file checkpoint, float32: keyword arguments of
    `export.write_pipeline`. `source` is a diffusers folder or hub id of the same architecture.
    """
    import torch

    networks = empty_networks(source)
    wanted = {
        part: {key: tuple(t.shape) for key, t in network.state_dict().items()}
        for part, network in networks.items()
    }
    states = ldm.from_ldm(content.tensors, wanted, content.path)
    for part, network in networks.items():
        for name, buffer in list(network.named_buffers()):
            if buffer.is_meta and name.endswith("position_ids"):
                owner = network.get_submodule(name.rpartition(".")[0])
                owner.position_ids = torch.arange(buffer.shape[-1])[None]
        network.load_state_dict(states[part], strict=False, assign=True)
        if stuck := [name for name, t in network.state_dict().items() if t.is_meta]:
            raise NotFound(f"{content.path} has nothing for {stuck[0]}", "every weight is needed")
        network.eval()
    noise = models.scheduler_config(source)
    noise = _as_marked(content, noise, networks["vae"])
    return {**networks, "tokenizer": load_tokenizer(source), "scheduler": noise}


def empty_networks(source: str) -> dict[str, Any]:
    """The three networks as `source` describes them, without weights."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    with torch.device("meta"), export.quiet_diffusers():
        unet: Any = UNet2DConditionModel.from_config(
            _config(UNet2DConditionModel.load_config, source, "unet")
        )
        vae: Any = AutoencoderKL.from_config(_config(AutoencoderKL.load_config, source, "vae"))
        text: Any = CLIPTextModel(text_config(source))
    return {"unet": unet, "vae": vae, "text_encoder": text}


def layer_shapes(network: Any) -> dict[str, tuple[int, ...]]:
    """The layers that have a weight, by name, with its shape."""
    weights = {name: getattr(module, "weight", None) for name, module in network.named_modules()}
    return {name: tuple(weight.shape) for name, weight in weights.items() if weight is not None}


def text_config(source: str) -> Any:
    """The text encoder's settings of a diffusers folder or hub id."""
    from transformers import CLIPTextConfig

    return _config(CLIPTextConfig.from_pretrained, source, "text_encoder")


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a diffusers folder or hub id."""
    from transformers import CLIPTokenizer

    return _config(CLIPTokenizer.from_pretrained, source, "tokenizer")


def _config(load: Any, source: str, part: str) -> Any:
    folder, subfolder = models.locate(source, part)
    try:
        return load(folder, **({"subfolder": subfolder} if subfolder else {}))
    except Exception as error:  # the libraries raise OSError, ValueError, KeyError, ...
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Damaged(
            f"cannot read the settings of the {part} in {source}: {reason}",
            "a checkpoint holds weights alone; settings and tokenizer come from a model of its architecture",
            "name a diffusers folder with --base; without internet it must be on this machine",
        ) from error


def _as_marked(content: Content, noise: dict[str, Any], vae: Any) -> dict[str, Any]:
    """The noise schedule that the file itself or the yaml beside it asks for."""
    found = dict(noise)
    beside = content.path.with_suffix(".yaml")
    if beside.is_file():
        try:
            original = yaml.safe_load(beside.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise Damaged(
                f"{beside} is not valid YAML: {error}", "", "remove it, or fetch it again"
            ) from error
        scheduler = settings.scheduler_of(original, beside)
        vae.register_to_config(scaling_factor=scheduler.pop("scaling_factor"))
        found |= scheduler
    if "v_pred" in content.tensors:
        found["prediction_type"] = "v_prediction"
    if "ztsnr" in content.tensors:
        found |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        sampling.check_noise(found, str(content.path))
    elif found.get("prediction_type", "epsilon") == "epsilon":
        found["rescale_betas_zero_snr"] = False  # that of the base, which cannot be this file's
    return found
