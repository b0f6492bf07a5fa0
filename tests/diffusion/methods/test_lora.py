"""LoRA: what learns, what it weighs, and that anyone's diffusers reads it back to the same latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open

from birdsd.diffusion.adapters import Adapter
from birdsd.diffusion.generation import generate as room
from birdsd.diffusion.generation.generate import Generator, Request
from birdsd.diffusion.methods import make_method
from birdsd.errors import BadValue, Mismatch, NotFound, NotSet, UnknownName, Unsupported
from birdsd.files import read_json, write_json
from tests.support.errors import refuses
from tests.support.tiny import batch, train, train_config

CPU = torch.device("cpu")
REQUEST = Request(("an American Robin singing",), steps=3, seed=5)


def make(index, source, **changes):
    method = make_method(train_config("lora", source=source, init="pretrained", **changes), index)
    return method, method.build(CPU, torch.float32)


@pytest.fixture(scope="module")
def taught(index, pipeline_folder, tmp_path_factory):
    """(method, parts, export) of a LoRA with alpha 6 on rank 4, text encoder included."""
    method, parts = make(
        index, pipeline_folder, rank=4, alpha=6.0, targets=["attention", "convolutions", "text_encoder"]
    )
    train(method, parts, index, steps=3, learning_rate=1e-2)
    return method, parts, method.export(parts, tmp_path_factory.mktemp("lora") / "export")


def test_only_the_updates_learn_and_the_base_stays_to_the_bit(index, pipeline_folder):
    method, parts = make(index, pipeline_folder, rank=2)
    before = {n: p.detach().clone() for n, p in parts.learner.named_parameters()}
    learning = {name for name, p in parts.learner.named_parameters() if p.requires_grad}
    assert learning and all("lora" in name for name in learning)
    train(method, parts, index, steps=2, learning_rate=1e-2)
    moved = {n for n, p in parts.learner.named_parameters() if not torch.equal(p, before[n])}
    assert moved == learning


def test_it_begins_as_the_base_itself(index, pipeline_folder):
    method, parts = make(index, pipeline_folder)
    plain = make_method(
        train_config("full", source=pipeline_folder, init="pretrained", train_text_encoder=False), index
    )
    of_base = plain.build(CPU, torch.float32)
    with torch.no_grad():
        ours = parts.learner(batch(method, parts, index, 0))
        theirs = of_base.learner(batch(plain, of_base, index, 0))
    torch.testing.assert_close(ours, theirs)


def test_the_same_seed_draws_the_same_updates(index, pipeline_folder):
    first, second = (dict(make(index, pipeline_folder)[1].learner.named_parameters()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_export_is_small_and_diffusers_reads_the_same_model_from_it(taught, pipeline_folder):
    from diffusers import StableDiffusionPipeline

    _, parts, folder = taught
    with safe_open(str(folder / "pytorch_lora_weights.safetensors"), "pt") as stored:
        stored_values = sum(stored.get_tensor(key).numel() for key in stored.keys())  # noqa: SIM118
    assert stored_values == sum(p.numel() for p in parts.learner.parameters() if p.requires_grad)
    told = read_json(folder / "training.json")
    assert told["kind"] == "lora" and told["base"]["source"] == str(pipeline_folder)
    pipeline = StableDiffusionPipeline.from_pretrained(
        str(pipeline_folder), safety_checker=None, requires_safety_checker=False
    )
    pipeline.load_lora_weights(str(folder))
    latents, steps = torch.randn(2, 4, 8, 16), torch.tensor([10, 900])
    tokens = torch.arange(32).reshape(2, 16)
    parts.learner.eval()
    with torch.no_grad():
        states = pipeline.text_encoder(tokens)[0]
        torch.testing.assert_close(parts.learner.text_encoder(tokens)[0], states)
        ours = parts.learner.unet(latents, steps, states).sample
        torch.testing.assert_close(ours, pipeline.unet(latents, steps, states).sample)


def test_the_generator_puts_it_on_its_base(taught, pipeline_folder):
    _, _, folder = taught
    base, model = Generator(pipeline_folder), Generator(folder)
    on_top = Generator(pipeline_folder, adapters=[Adapter.open(folder)])
    off = Generator(pipeline_folder, adapters=[Adapter.open(folder, weight=0.0)])
    shown = [one.images(REQUEST, REQUEST.prompts, [0]) for one in (base, model, on_top, off)]
    assert (shown[1] == shown[2]).all() and not (shown[0] == shown[1]).all()
    assert np.abs(shown[0].astype(int) - shown[3]).max() <= 1
    assert len({base.identity, model.identity, off.identity}) == 3 and model.identity == on_top.identity


def test_a_clip_of_it_can_be_made_again(taught, tmp_path):
    model = Generator(taught[2])
    clip = room.generate(model, REQUEST, tmp_path / "a", progress=False)[0]
    again = room.regenerate(model, room.Recipe.read(clip.recipe), tmp_path / "b")[0]
    assert again.sound.read_bytes() == clip.sound.read_bytes()


def test_a_base_that_changed_or_went_is_named(taught, tmp_path, pipeline_folder):
    import shutil

    folder = tmp_path / "lora"
    shutil.copytree(taught[2], folder)
    told = read_json(folder / "training.json")
    write_json(folder / "training.json", {**told, "base": {"source": str(tmp_path / "gone"), "identity": ""}})
    with refuses("lora", "base=FOLDER", kind=NotFound):
        Generator(folder)
    assert Generator(folder, base=str(pipeline_folder)).identity == Generator(taught[2]).identity
    write_json(
        folder / "training.json", {**told, "base": {"source": str(pipeline_folder), "identity": "other"}}
    )
    with refuses("lora", "other", kind=Mismatch):
        Generator(folder)


def test_a_lora_for_another_architecture_is_refused(taught, index, autoencoder_folder, tmp_path):
    config = train_config("full", autoencoder=autoencoder_folder)
    config.model.unet = {**config.model.unet, "block_out_channels": [16, 48]}
    config.model.text = {**config.model.text, "hidden_size": 48}
    other = make_method(config, index)
    place = other.export(other.build(CPU, torch.float32), tmp_path / "other")
    with refuses(("[4, 32]", "[48, 48]"), kind=Mismatch):
        Generator(place, adapters=[Adapter.open(taught[2])])


@pytest.mark.parametrize(
    ("changes", "named", "kind"),
    [
        ({"rank": -1}, "method.rank=-1", BadValue),
        ({"alpha": -1.0}, "method.alpha=-1.0", BadValue),
        ({"targets": ["attentions"]}, "'attentions'", UnknownName),
    ],
)
def test_wrong_settings(index, pipeline_folder, changes, named, kind):
    with refuses(named, kind=kind):
        make(index, pipeline_folder, **changes)


def test_it_needs_a_model_to_start_from(index):
    with refuses("model.source", kind=NotSet):
        make_method(train_config("lora"), index).build(CPU, torch.float32)


def test_training_on_top_of_an_addition_says_how(index, taught):
    with refuses("(lora)", "birdsd export", kind=Unsupported):
        make(index, taught[2])[0].build(CPU, torch.float32)
