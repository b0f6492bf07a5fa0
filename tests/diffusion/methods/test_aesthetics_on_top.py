"""Aesthetic gradients on top of what was taught before: tuned is the fine-tuned encoder, new tokens included.

What is expected is put together without birdsd's own loading: diffusers reads the tokens, LoRA's products are
added to the stock weights here, and the published algorithm is written out in `test_aesthetics`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.request import Request
from birdsd.diffusion.methods import make_method
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.clip import build_clip
from birdsd.shards.index import ShardIndex
from birdsd.training.work import RunWork
from tests.support.aesthetics import VISION, published
from tests.support.tiny import SPECIES, make_shards, train, train_config

CLASS = {"class_samples": 2, "class_steps": 1}
TAUGHT = {
    "tokens": {"name": "textual_inversion", "vectors": 2, "initial_word": "song"},
    "dreambooth": {"name": "dreambooth", "base_method": "full", **CLASS},
    "dreambooth on lora": {
        "name": "dreambooth", "rank": 2, "alpha": 6.0, "targets": ["attention", "text_encoder"], **CLASS,
    },
    "lora": {"name": "lora", "rank": 2, "targets": ["text_encoder"]},
}  # fmt: skip
STEPS, RATE = 4, 1e-3


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> ShardIndex:
    return ShardIndex.open(make_shards(tmp_path_factory.mktemp("taught")))


@pytest.fixture(scope="module")
def clip_folder(pipeline_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    build_clip(*models.load_text(str(pipeline_folder)), VISION, seed=5, projection_dim=24).save(folder)
    return folder


def stock(folder: Path):
    return (
        CLIPTextModel.from_pretrained(folder / "text_encoder").eval(),
        CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=16),
    )


def encoder_of(way: str, base: Path, export: Path, method, parts):
    """(text encoder, tokenizer, the prompt as it is encoded)."""
    if way == "tokens":
        pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
        for file in sorted((export / "embeddings").iterdir()):
            pipeline.load_textual_inversion(str(file))
        return pipeline.text_encoder, pipeline.tokenizer, "a <american-robin> <american-robin>_1 singing"
    prompt = f"a {method.words(parts)[SPECIES[0]]} singing" if way != "lora" else f"an {SPECIES[0]} singing"
    if way == "dreambooth":
        return *stock(export), prompt
    encoder, tokenizer = stock(base)
    update = load_file(str(export / "pytorch_lora_weights.safetensors"))
    scale = 6.0 / 2 if way == "dreambooth on lora" else 1.0
    with torch.no_grad():
        for name, layer in encoder.named_modules():
            if name.rpartition(".")[2] in ("q_proj", "k_proj", "v_proj", "out_proj"):
                key = next(k for k in update if k.startswith("text_encoder") and f"{name}.lora_A" in k)
                layer.weight += scale * update[key.replace("lora_A", "lora_B")] @ update[key]
    return encoder, tokenizer, prompt


@pytest.mark.parametrize("way", TAUGHT)
def test_the_fine_tuned_encoder_is_what_is_tuned(way, own, pipeline_folder, clip_folder, tmp_path):
    settings = {"init": "pretrained", "source": pipeline_folder, **TAUGHT[way]}
    method = make_method(train_config(settings.pop("name"), **settings), own)
    parts = method.build(torch.device("cpu"), torch.float32)
    method.setup(parts, list, lambda: None)
    train(method, parts, own, steps=3, learning_rate=1e-2)
    export = method.export(parts, tmp_path / "taught" / "export")

    config = train_config("aesthetic_gradients", init="pretrained", source=tmp_path / "taught")
    config.model.clip, config.machine.device = str(clip_folder), "cpu"
    RunWork(config, own, tmp_path / "run").by(make_method(config, own))
    rows = load_file(str(tmp_path / "run/export/aesthetic.safetensors"))
    projection = load_file(str(clip_folder / "model.safetensors"))["text_projection.weight"]

    model = Generator(tmp_path / "run")
    prompt = f"an {SPECIES[0]} singing"
    encoder, tokenizer, told = encoder_of(way, pipeline_folder, export, method, parts)

    def expected(of, text: str) -> torch.Tensor:
        return published(of, tokenizer, projection, rows[SPECIES[0]], text, STEPS, RATE)

    def untuned(of, text: str) -> torch.Tensor:
        return published(of, tokenizer, projection, rows[SPECIES[0]], text, 0, RATE)

    request = Request((prompt,), aesthetic_steps=STEPS, aesthetic_rate=RATE)
    positive, negative = model.conditioning(request, [prompt])
    torch.testing.assert_close(positive, expected(encoder, told), rtol=0, atol=1e-5)
    torch.testing.assert_close(negative, untuned(encoder, ""), rtol=0, atol=1e-5)
    assert (positive - untuned(encoder, told)).abs().max() > 1e-3
    if way != "tokens":  # both public versions start from the stock encoder
        assert (positive - expected(stock(pipeline_folder)[0], told)).abs().max() > 1e-3

    behaviour = {"aesthetic_behaviour": "a1111", "negative_prompt": "rain"}
    request = Request((prompt,), aesthetic_steps=STEPS, aesthetic_rate=RATE, **behaviour)
    positive, negative = model.conditioning(request, [prompt])
    for made, text in ((positive, told), (negative, "rain")):
        blended = 0.1 * untuned(encoder, text) + 0.9 * expected(encoder, text)
        torch.testing.assert_close(made, blended, rtol=0, atol=1e-5)
