"""The small methods, each trained for a few steps."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch

from birdsd.diffusion.methods import make_method
from birdsd.shards.index import ShardIndex
from tests.support.tiny import train_config

# A gradient of nothing but roundings (that of a key's bias is always 0) would move its weight by the whole
# learning rate if epsilon did not hold it: another world rounds otherwise.
OPTIM = {
    "learning_rate": 1e-2, "global_batch": 4, "total_samples": 24, "warmup_samples": 4, "ema_decay": 0.5,
    "epsilon": 1e-4, "weight_decay": 0.1,
}  # fmt: skip
CLASS = {"name": "dreambooth", "class_samples": 4, "class_steps": 2}
WAYS = {
    "full": {"name": "full"},
    "full-learns": {"name": "full", "learns": ["unet.*attn2*", "text_encoder.*q_proj*"]},
    "lora": {"name": "lora", "rank": 2, "targets": ["feed_forward", "text_encoder"]},
    "ti": {"name": "textual_inversion", "vectors": 2, "initial_word": "song", "species_balance": 1.0},
    "db-lora": {**CLASS, "rank": 2},
    "db-full": {**CLASS, "base_method": "full"},
    "clip": {"name": "clip"},
    "cnn": {
        "name": "classifier", "width": 8, "mixup": 0.5, "shift_s": 0.1, "gain_db": 6.0, "equaliser_db": 3.0,
        "band_masks": 1, "time_masks": 1, "dropout": 0.25, "class_weights": 0.5, "smoothing": 0.1,
    },
    "crnn": {"name": "classifier", "network": "crnn", "width": 8, "loss": "focal"},
    "autoencoder": {"name": "autoencoder", "crop_frames": 32, "init": "scratch"},
    "autoencoder-on": {"name": "autoencoder", "gradient_weight": 0.1},
    # The first two of its six steps are without it.
    "adversary": {
        "name": "autoencoder", "crop_frames": 32, "init": "scratch", "texture_weight": 0.5,
        "adversary_weight": 0.5, "adversary_start_samples": 8, "adversary_channels": 4,
        "adversary_learning_rate": 0.1,
    },
    # The first two of its six steps are without its adversary, and without its second set of weights.
    "upscaler": {
        "name": "upscaler", "crop_frames": 32, "init": "scratch", "features": 4, "depth": 1,
        "adversary_weight": 0.5, "adversary_start_samples": 8, "adversary_channels": 4,
        "adversary_learning_rate": 0.1,
    },
}  # fmt: skip
# Where the text encoder stays as it is, and one without previews: for the tests of caches.
FURTHER_WAYS = {
    "full-unet": {"name": "full", "train_text_encoder": False},
    "lora-attention": {"name": "lora", "rank": 2},
    "ti-unseen": WAYS["ti"],
    "db-unet": {**WAYS["db-full"], "train_text_encoder": False},
}


def configured(way: str, source: Path, **machine):
    settings = {"init": "pretrained", "source": source, **{**WAYS, **FURTHER_WAYS}[way]}
    config = train_config(settings.pop("name"), **settings)
    for name, value in OPTIM.items():
        setattr(config.optim, name, value)
    for name, value in {"device": "cpu", "threads": 1, "micro_batch": 2, **machine}.items():
        setattr(config.machine, name, value)
    config.save.every_samples, config.save.validate_every_samples, config.save.validation_samples = 8, 16, 4
    if way in ("ti", "clip"):  # under ZeRO a preview shows what a checkpoint put together
        config.save.preview_every_samples, config.save.preview_prompts = 16, ["a robin"]
    return config


def trained(
    way: str,
    shards: Path,
    source: Path,
    run: Path,
    stop_at: int = 0,
    kill_at: int = 0,
    watched=lambda method: method,
    seen=lambda position: None,
    **machine,
) -> None:
    from birdsd.training import loop

    config, index = configured(way, source, **machine), ShardIndex.open(shards)
    reached = [0]

    def beat(pulse) -> None:
        reached.append(pulse.position)
        seen(pulse.position)
        if kill_at and pulse.position >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.train(
        config,
        watched(make_method(config, index)),
        index,
        run,
        should_stop=lambda: bool(stop_at) and reached[-1] >= stop_at,
        beat=beat,
    )


def exported(run: Path) -> dict[str, torch.Tensor]:
    """What the method gives away."""
    from safetensors.torch import load_file

    files = sorted((run / "export").rglob("*.safetensors"))
    return {
        f"{file.relative_to(run)}/{name}": value
        for file in files
        for name, value in load_file(str(file)).items()
    }
