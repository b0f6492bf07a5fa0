"""A small codec, shards of coloured noise with captions, and the smallest models that are whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from birdsd.config import fill_open
from birdsd.files import write_json
from birdsd.method_facts import named
from birdsd.schema import ModelConfig, OptimConfig, TrainConfig
from birdsd.shards.index import ShardIndex
from birdsd.shards.storage.writer import ShardWriter
from birdsd.sound.codec.codec import SpectrogramCodec

CODEC = SpectrogramCodec(
    name="test", rate_hz=16000, window_ms=16.0, hop_ms=8.0, n_fft=256, bands=32, fmin_hz=62.5, fmax_hz=8000.0,
    frames=64, griffin_lim_iterations=4,
)  # fmt: skip
SPECIES = ("American Robin", "Eurasian Wren")
VAE = {
    "block_out_channels": [8, 16, 16],
    "latent_channels": 4,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
UNET = {
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "attention_head_dim": [1, 1],
    "norm_num_groups": 8,
}
TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}


def picture(species: int, number: int) -> np.ndarray:
    """uint8 [1, 32, 64]: each species has a band of its own, over quiet noise."""
    draw = np.random.default_rng(100 * species + number)
    image = draw.integers(0, 30, (1, CODEC.bands, CODEC.frames), dtype=np.uint8)
    image[:, 6 + 12 * species : 10 + 12 * species] += 180
    return image


def make_shards(
    folder: Path,
    codec: SpectrogramCodec = CODEC,
    species_of: Callable[[int], int] = lambda number: number % 2,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "codec.json", codec.to_json())
    for split, count in (("train", 12), ("validation", 4)):
        with ShardWriter(folder / f"{split}-000000.tar") as writer:
            for number in range(count):
                species = species_of(number)
                facts = {
                    "key": f"{split}{number}",
                    "recording_id": f"XC{number}",
                    "species": [SPECIES[species]],
                    "captions": [f"{SPECIES[species]} singing", f"a song of {SPECIES[species]}"],
                    "licence": "CC BY 4.0" if species else "CC0",
                    "recordist": f"Recordist {number}",
                    "synthetic": False,
                }
                image = np.repeat(picture(species, number), codec.channels, axis=0)
                writer.write(f"{split}{number:04d}", {"npy": image, "json": facts})
    return folder


@pytest.fixture(scope="session")
def index(tmp_path_factory) -> ShardIndex:
    return ShardIndex.open(make_shards(tmp_path_factory.mktemp("shards")))


def train_config(method: str, **changes) -> TrainConfig:
    model = ModelConfig(name="test", unet=UNET, vae=VAE, text=TEXT, vocabulary_size=560, max_tokens=16)
    for name in ("autoencoder", "source", "init"):
        if name in changes:
            setattr(model, name, str(changes.pop(name)))
    config = TrainConfig(
        model=model,
        method=named(method, changes.get("base_method", "")).config(name=method, **changes),
        optim=OptimConfig(),
        seed=3,
    )
    fill_open(config)
    return config


@pytest.fixture(scope="session")
def autoencoder_folder(index, tmp_path_factory) -> Path:
    """An exported autoencoder, trained for a moment, so that its latents are not all alike."""
    from birdsd.diffusion.methods import make_method

    method = make_method(train_config("autoencoder", crop_frames=32), index)
    parts = method.build(torch.device("cpu"), torch.float32)
    train(method, parts, index, steps=30, learning_rate=3e-3)
    return method.export(parts, tmp_path_factory.mktemp("autoencoder") / "export")


@pytest.fixture(scope="session")
def trained(index, autoencoder_folder):
    """(method, parts) of a diffusion model after a few steps."""
    from birdsd.diffusion.methods import make_method

    method = make_method(train_config("full", autoencoder=autoencoder_folder), index)
    parts = method.build(torch.device("cpu"), torch.float32)
    train(method, parts, index, steps=3, learning_rate=1e-3)
    return method, parts


@pytest.fixture(scope="session")
def pipeline_folder(trained, tmp_path_factory) -> Path:
    method, parts = trained
    return method.export(parts, tmp_path_factory.mktemp("run") / "export")


def batch(method, parts, index, start: int, size: int = 6, purpose: str = "train") -> dict[str, torch.Tensor]:
    from birdsd.shards.reader import ShardReader

    reader = ShardReader(index, "train")
    examples = [
        method.make_example(parts, reader.read(position % len(reader)), position, purpose)
        for position in range(start, start + size)
    ]
    stacked = {key: torch.stack([example[key] for example in examples]) for key in examples[0]}
    with torch.no_grad():
        return method.encode_batch(parts, stacked)


def train(method, parts, index, steps: int, learning_rate: float) -> list[float]:
    optimizer = torch.optim.AdamW(
        [p for p in parts.learner.parameters() if p.requires_grad], lr=learning_rate
    )
    losses = []
    for step in range(steps):
        loss = parts.learner(batch(method, parts, index, step * 6)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
