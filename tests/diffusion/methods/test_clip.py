"""The CLIP with its image tower: loaded, refused, trained around a frozen text tower."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional

from birdsd.diffusion.methods import make_method
from birdsd.diffusion.methods.clip import text_states
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.clip import Clip, build_clip, load_clip
from birdsd.diffusion.networks.tokenizer import token_ids
from birdsd.errors import BadValue, Mismatch, NotFound, NothingLeft, NotSet
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import Sample, ShardReader
from birdsd.shards.storage.writer import ShardWriter
from birdsd.training.loop import train as train_loop
from tests.support.errors import refuses
from tests.support.tiny import CODEC, SPECIES, batch, make_shards, train, train_config

CPU = torch.device("cpu")
VISION = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 48, "patch_size": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def source(pipeline_folder, tmp_path_factory) -> Path:
    """A pipeline whose text tower tells captions apart, as one does that has learnt for longer."""
    folder = tmp_path_factory.mktemp("base") / "export"
    shutil.copytree(pipeline_folder, folder)
    encoder, _ = models.load_text(str(pipeline_folder))
    with torch.no_grad():
        encoder.get_input_embeddings().weight.mul_(20)
        for name, weight in encoder.named_parameters():
            if "v_proj.weight" in name:
                weight.mul_(20)
    encoder.save_pretrained(str(folder / "text_encoder"))
    return folder


@pytest.fixture(scope="module")
def text(source):
    return models.load_text(str(source))


@pytest.fixture(scope="module")
def clip(text) -> Clip:
    return build_clip(*text, VISION, seed=5, projection_dim=24)


@pytest.fixture(scope="module")
def clip_folder(clip, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    clip.save(folder)
    return folder


def method_of(index, source, **model):
    config = train_config("clip", init="pretrained", source=source)
    for name, value in model.items():
        setattr(config.model, name, value)
    return make_method(config, index)


@pytest.fixture(scope="module")
def learnt(index, source):
    """(method, parts, losses) of an image tower that has learnt for a moment."""
    method = method_of(index, source)
    parts = method.build(CPU, torch.float32)
    return method, parts, train(method, parts, index, steps=80, learning_rate=3e-3)


def pixels(index: ShardIndex) -> torch.Tensor:
    reader = ShardReader(index, "train")
    return torch.stack([torch.from_numpy(reader.read(n).image) for n in range(6)])


# -- a CLIP as such ---------------------------------------------------------------------------------


def test_a_built_clip_holds_the_text_tower_to_the_bit(text, clip):
    own, kept = text[0].state_dict(), clip.model.text_model.state_dict()
    assert own.keys() == kept.keys() and all(torch.equal(own[name], kept[name]) for name in own)
    again, other = (build_clip(*text, VISION, seed=seed, projection_dim=24) for seed in (5, 6))
    first, same, differs = (c.model.visual_projection.weight for c in (clip, again, other))
    assert torch.equal(first, same) and not torch.equal(first, differs)
    assert clip.text_projection.shape == (24, 32)


def test_transformers_reads_what_was_saved(clip, clip_folder, index):
    from transformers import CLIPModel

    loaded = load_clip(str(clip_folder))
    features = clip.image_features(pixels(index))
    assert torch.equal(loaded.image_features(pixels(index)), features) and features.shape == (6, 24)
    own = CLIPModel.from_pretrained(clip_folder).get_image_features(clip.prepared(pixels(index)))
    assert torch.allclose(own.pooler_output, features, atol=1e-6)
    # not normalised, as the paper's code uses them
    assert not torch.allclose(features.norm(dim=-1), torch.ones(6), atol=0.05)


def test_pictures_are_prepared_as_the_processor_configuration_says(clip_folder, tmp_path, index):
    told = json.loads((clip_folder / "preprocessor_config.json").read_text())
    assert told["size"] == {"height": 48, "width": 48} and not told["do_center_crop"]
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    told |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    picture = pixels(index)[0]
    squeezed = Image.fromarray(CODEC.to_rgb(picture.numpy())).resize((48, 48), Image.Resampling.BICUBIC)
    expected = (np.asarray(squeezed) / 255 - told["image_mean"]) / told["image_std"]
    prepared = load_clip(str(folder)).prepared(picture[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(prepared - expected).max() < 1.5 / 255 / 0.4  # Pillow rounds to whole levels


def test_the_whole_picture_is_seen(clip):
    """CLIP's own square from the middle would not see what sings at either end."""
    quiet = torch.zeros(1, 1, 32, 64, dtype=torch.uint8)
    for frame in (0, 63):
        sings = quiet.clone()
        sings[..., frame] = 255
        assert not torch.allclose(clip.prepared(sings), clip.prepared(quiet), atol=0.1)


def test_fp16_files_work_on_a_cpu(clip, clip_folder, tmp_path, index):
    clip_of_half = copy.deepcopy(clip.model).half()
    clip_of_half.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["visual_projection.weight"].dtype == torch.float16
    loaded = load_clip(str(tmp_path))
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    # there is no preprocessor_config.json: OpenAI's numbers stand in for it
    assert (
        loaded.mean[0] == pytest.approx(0.48145466) and loaded.image_features(pixels(index)).isfinite().all()
    )


def test_a_clip_without_image_tower_is_refused(source, clip_folder, tmp_path):
    for folder in (source / "text_encoder", source):
        with refuses(f"model.clip={folder}", "vision_model", "method=clip", kind=NotFound):
            load_clip(str(folder))
    with refuses("model.clip", kind=NotSet):
        load_clip(None)
    with refuses("config.json", kind=NotFound):
        load_clip(str(tmp_path))
    torn = tmp_path / "torn"
    shutil.copytree(clip_folder, torn)
    weights = {k: v for k, v in load_file(torn / "model.safetensors").items() if "vision_model" not in k}
    save_file(weights, torn / "model.safetensors", metadata={"format": "pt"})
    with refuses("vision_model", kind=NotFound):
        load_clip(str(torn))


# -- method=clip ------------------------------------------------------------------------------------


def test_the_loss_is_a_cross_entropy_against_fixed_candidates(learnt, index):
    """Written out once more: CLIP's image-to-text half, the candidates in the wording that was drawn."""
    method, parts, _ = learnt
    encoder, tokenizer = parts.frozen["text_encoder"], parts.tokenizer
    learner = parts.learner
    reader = ShardReader(index, "train")
    for position in (3, 8):
        drawn = method.make_example(parts, reader.read(position), position)
        texts = [texts[int(drawn["wording"]) % len(texts)] for texts in method.wordings.values()]
        with torch.no_grad():
            states = text_states(encoder, tokenizer, texts)
            candidates = functional.normalize(learner.text_projection(states), dim=-1)
            image = method.encode_batch(parts, {k: v[None] for k, v in drawn.items()})["image"]
            features = learner.visual_projection(learner.vision_model(image).pooler_output)
            logits = learner.logit_scale.exp() * functional.normalize(features, dim=-1) @ candidates.T
            expected = -logits.log_softmax(-1)[0, int(drawn["label"])]
            loss = learner(method.encode_batch(parts, {k: v[None] for k, v in drawn.items()}))
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_loss_of_a_sample_does_not_depend_on_its_batch(learnt, index):
    method, parts, _ = learnt
    whole = batch(method, parts, index, 0)
    with torch.no_grad():
        together = parts.learner(whole)
        alone = torch.cat([parts.learner({k: v[n : n + 1] for k, v in whole.items()}) for n in range(6)])
    assert together.shape == (6,) and torch.allclose(together, alone, atol=1e-5)
    assert len(set(together.tolist())) > 1


def test_it_learns_and_the_text_tower_stays(learnt, index, source):
    method, parts, losses = learnt
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:3])
    assert method.named_right(parts) == 1.0
    untouched, _ = models.load_text(str(source))
    for name, value in parts.frozen["text_encoder"].state_dict().items():
        assert torch.equal(value, untouched.state_dict()[name])
    names = {name.split(".")[0] for name, p in parts.learner.named_parameters() if p.requires_grad}
    assert names == {"vision_model", "visual_projection", "text_projection", "logit_scale"}
    parts.learner(batch(method, parts, index, 0)).mean().backward()
    assert all(p.grad is not None for p in parts.learner.parameters())
    assert all(p.grad is None for p in parts.frozen["text_encoder"].parameters())


def test_an_example_is_a_function_of_position_and_turned_round_in_training_only(learnt):
    method, parts, _ = learnt
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8), (1, 32, 64))
    told = np.frombuffer(json.dumps({"captions": [f"{SPECIES[0]} singing"]}).encode(), np.uint8)
    sample = Sample("ramp", ramp, raw_metadata=[("json", told)])
    first, again = (method.make_example(parts, sample, 7) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    starts = {int(method.make_example(parts, sample, n)["pixels"][0, 0, 0]) for n in range(200)}
    assert len(starts) > 50
    turned = method.make_example(parts, sample, 9)["pixels"][0, 0].int()
    assert sorted(turned.tolist()) == list(range(64)) and ((turned.diff() - 1) % 64 == 0).all()
    assert torch.equal(
        method.make_example(parts, sample, 9, "validation")["pixels"], torch.from_numpy(ramp.copy())
    )


def test_a_sample_whose_metadata_is_broken_gets_no_weight_instead_of_an_end(learnt):
    method, parts, _ = learnt
    broken = Sample(
        "torn", np.zeros((1, 32, 64), np.uint8), raw_metadata=[("json", np.frombuffer(b"{", np.uint8))]
    )
    assert set(method.make_example(parts, broken, 0)) == {"pixels", "label", "wording"} and broken.weight == 0


def test_candidates_are_what_is_heard_in_the_shards(learnt):
    method, _, _ = learnt
    assert {label: texts[0] for label, texts in method.wordings.items()} == {
        f"{name} singing": f"{name} singing" for name in SPECIES
    }
    assert method.wordings[f"{SPECIES[0]} singing"][1:] == [f"a song of {SPECIES[0]}"]


def test_one_thing_alone_cannot_be_told_apart(tmp_path, source):
    folder = make_shards(tmp_path / "shards")
    for path in folder.glob("*.tar"):
        path.unlink()
    with ShardWriter(folder / "train-000000.tar") as writer:
        facts = {"key": "a", "recording_id": "XC1", "species": ["Wren"], "captions": ["a Wren"]}
        writer.write("train0000", {"npy": np.zeros((1, 32, 64), np.uint8), "json": facts})
    with refuses("a Wren", kind=NothingLeft):
        method_of(ShardIndex.open(folder), source)


def test_a_resumed_run_is_the_same(index, source, tmp_path):
    def run(folder: Path, stop_after: int = 0) -> dict[str, torch.Tensor]:
        method = method_of(index, source)
        optim, machine = method.config.optim, method.config.machine
        optim.global_batch, optim.total_samples, optim.warmup_samples = 4, 24, 4
        machine.device, machine.precision, machine.engine, machine.micro_batch = "cpu", "fp32", "torch", 4
        method.config.save.every_samples = 8
        asked: list[int] = []

        def should_stop() -> bool:
            asked.append(1)
            return 0 < stop_after < len(asked)

        result = train_loop(method.config, method, index, folder, should_stop)
        assert result.finished == (stop_after == 0)
        return load_file(folder / "export" / "model.safetensors") if result.finished else {}

    straight = run(tmp_path / "straight")
    assert not run(tmp_path / "stopped", stop_after=3)
    resumed = run(tmp_path / "stopped")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_the_export_reads_back(learnt, index, tmp_path):
    from transformers import CLIPModel, CLIPTokenizer

    method, parts, _ = learnt
    folder = method.export(parts, tmp_path / "run" / "export")
    told = json.loads((folder / "training.json").read_text())
    assert told["kind"] == "clip" and told["held_out_named_right"] == 1.0
    assert (folder / "codec.json").is_file() and (folder / "recordings.csv").is_file()
    loaded, own = load_clip(str(tmp_path / "run")), parts.learner
    with torch.no_grad():
        prepared = parts.extras["clip"].prepared(pixels(index))
        features = own.visual_projection(own.vision_model(prepared).pooler_output)
    assert torch.allclose(loaded.image_features(pixels(index)), features, atol=1e-6)
    whole, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    with torch.no_grad():
        found = whole.get_text_features(token_ids(tokenizer, SPECIES)).pooler_output
        states = text_states(parts.frozen["text_encoder"], parts.tokenizer, SPECIES)
        assert torch.allclose(found, own.text_projection(states), atol=1e-5)
        assert whole.logit_scale.item() == pytest.approx(own.logit_scale.item())
        told = whole(token_ids(tokenizer, [f"{name} singing" for name in SPECIES]), prepared)
    assert told.logits_per_image.argmax(1).tolist() == [0, 1, 0, 1, 0, 1]


def test_a_preview_shows_what_fits_each_prompt(learnt, tmp_path):
    method, parts, _ = learnt
    paths = method.preview(parts, [f"{name} singing" for name in SPECIES], tmp_path)
    assert [path.suffix for path in paths] == [".png", ".wav", ".wav"]
    grid = np.asarray(Image.open(paths[0]))[..., 0]
    upper, lower = grid[:32], grid[-32:]
    assert upper[6:10].mean() > 150 > upper[18:22].mean() and lower[18:22].mean() > 150 > lower[6:10].mean()


def test_it_may_begin_with_another_clips_image_tower(index, source, clip, clip_folder, tmp_path):
    parts = method_of(index, source, clip=str(clip_folder)).build(CPU, torch.float32)
    begun = parts.learner.visual_projection.weight
    assert torch.equal(begun, clip.model.visual_projection.weight) and begun.requires_grad
    wide = models.build_text_encoder(
        {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8},
        vocabulary=560,
        max_tokens=16,
    )
    build_clip(wide, models.load_text(str(source))[1], VISION, 0).save(tmp_path)
    with refuses("48 wide", "32 wide", kind=Mismatch):
        method_of(index, source, clip=str(tmp_path)).build(CPU, torch.float32)
    with refuses("hidden size (32)", "'hidden_size': 32", kind=BadValue):
        build_clip(wide, parts.tokenizer, {**VISION, "num_attention_heads": 5}, 0)
