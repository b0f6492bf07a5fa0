"""Models from elsewhere to start from: without safety checker, in fp16, with a file missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from birdsd.diffusion.adapters import Adapter
from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.request import Request
from birdsd.diffusion.methods import make_method
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.token_vectors import add_tokens, fold_rows, install_rows
from birdsd.errors import AlreadyThere, Mismatch, NotFound, NothingLeft
from birdsd.files import read_json, write_json
from birdsd.method_facts import names
from birdsd.shards.index import ShardIndex
from tests.support.errors import refuses
from tests.support.tiny import make_shards, train, train_config

CPU = torch.device("cpu")
REQUEST = Request(("a robin",), steps=2, seed=1)


def named(folder: Path, **parts) -> None:
    """Let model_index.json name parts, or with None not mention them."""
    told = {**read_json(folder / "model_index.json"), **parts}
    write_json(
        folder / "model_index.json", {name: value for name, value in told.items() if value is not None}
    )


def halved(folder: Path, ending: str) -> None:
    told = read_json(folder / "training.json")
    write_json(folder / "training.json", {name: told[name] for name in told if name != "weights"})
    for file in folder.rglob("*.safetensors"):
        tensors = {name: value.half() for name, value in load_file(str(file)).items()}
        file.unlink()
        save_file(tensors, str(file.with_name(file.stem + ending)), metadata={"format": "pt"})


AS_FOUND = {
    "named and not there": lambda folder: named(
        folder,
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    ),
    "named as long ago": lambda folder: named(
        folder, feature_extractor=["transformers", "CLIPFeatureExtractor"]
    ),
    "not mentioned": lambda folder: named(
        folder, safety_checker=None, feature_extractor=None, requires_safety_checker=None, image_encoder=None
    ),
    "fp16": lambda folder: halved(folder, ".safetensors"),
    "fp16 by another name": lambda folder: halved(folder, ".fp16.safetensors"),
}


@pytest.fixture(scope="module")
def pictures(pipeline_folder) -> np.ndarray:
    return Generator(pipeline_folder).images(REQUEST, REQUEST.prompts, [0])


@pytest.mark.parametrize("case", AS_FOUND)
def test_it_generates_and_learns_on_a_cpu(case, pictures, pipeline_folder, index, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(pipeline_folder, folder)
    AS_FOUND[case](folder)
    made = Generator(folder).images(REQUEST, REQUEST.prompts, [0])
    if "fp16" not in case:
        assert np.array_equal(made, pictures)
    assert np.abs(made.astype(int) - pictures).max() <= 2
    for name in ("lora", "full"):
        method = make_method(train_config(name, init="pretrained", source=folder), index)
        parts = method.build(CPU, torch.float32)
        assert {p.dtype for p in parts.learner.parameters()} == {torch.float32}
        assert np.isfinite(train(method, parts, index, 1, 1e-3)).all()
        whole = {p.dtype for module in parts.frozen.values() for p in module.parameters()}
        assert whole == {torch.float32}


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer"])
def test_a_part_that_is_missing_is_named(part, pipeline_folder, index, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(pipeline_folder, folder)
    shutil.rmtree(folder / part)
    with refuses(f"holds no {part}", kind=NotFound):
        make_method(train_config("lora", init="pretrained", source=folder), index).build(CPU, torch.float32)


@pytest.mark.parametrize("method", names())
def test_no_picture_to_learn_from(method, pipeline_folder, tmp_path):
    folder = make_shards(tmp_path / "shards")
    (folder / "train-000000.tar").unlink()
    with refuses("shards", f"method={method}", kind=NothingLeft):
        make_method(train_config(method, init="pretrained", source=pipeline_folder), ShardIndex.open(folder))


def test_a_word_that_the_base_was_taught_before_is_not_taught_again(pipeline_folder, index, tmp_path):
    """A base with a learnt token folded in, as `birdsd export` makes it."""
    folder = tmp_path / "base"
    shutil.copytree(pipeline_folder, folder)
    text, tokenizer = models.load_text(str(folder))
    first = add_tokens(tokenizer, {"<american-robin>": 1})
    install_rows(text, first, torch.zeros(1, 32))
    fold_rows(text)
    text.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    settings = {"init": "pretrained", "source": folder, "initial_word": "song", "vectors": 1}
    with refuses("<american-robin>", kind=AlreadyThere):
        make_method(train_config("textual_inversion", **settings), index).build(CPU, torch.float32)


@pytest.fixture(scope="module")
def inversion(pipeline_folder, index, tmp_path_factory) -> Path:
    settings = {"init": "pretrained", "source": pipeline_folder, "initial_word": "song", "vectors": 1}
    method = make_method(train_config("textual_inversion", **settings), index)
    return method.export(method.build(CPU, torch.float32), tmp_path_factory.mktemp("ti") / "export")


def test_vectors_of_another_width_are_refused_at_generation(inversion, pipeline_folder, tmp_path):
    folder = tmp_path / "wide"
    shutil.copytree(inversion, folder)
    file = folder / "embeddings/american-robin.safetensors"
    save_file({"<american-robin>": torch.zeros(1, 768)}, str(file), metadata={"format": "pt"})
    with refuses(("<american-robin>", "768 wide"), "32 wide", kind=Mismatch):
        Generator(pipeline_folder, adapters=[Adapter.open(folder)])
    file.unlink()
    with refuses("embeddings/american-robin.safetensors", kind=NotFound):
        Generator(pipeline_folder, adapters=[Adapter.open(folder)])


def test_one_token_twice_is_refused_at_generation(inversion, pipeline_folder):
    with refuses("<american-robin>", kind=AlreadyThere):
        Generator(pipeline_folder, adapters=[Adapter.open(inversion), Adapter.open(inversion)])
