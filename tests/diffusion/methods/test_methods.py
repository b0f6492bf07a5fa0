"""The two methods: what is drawn by position, what learns, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from birdsd.diffusion.methods import make_method
from birdsd.diffusion.methods.autoencoder import normalise_latents
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.models import to_range
from birdsd.errors import Mismatch, NotFound, NotSet, UnknownName
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import Sample, ShardReader
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.errors import refuses
from tests.support.tiny import CODEC, VAE, batch, make_shards, train, train_config

CPU = torch.device("cpu")


def build(method, index):
    return method, method.build(CPU, torch.float32)


def pixels(index: ShardIndex, split: str = "train") -> torch.Tensor:
    reader = ShardReader(index, split)
    return torch.stack([torch.from_numpy(reader.read(n).image) for n in range(len(reader))])


# -- both -------------------------------------------------------------------------------------------


def test_an_unknown_method_names_the_nearest(index):
    with refuses("'autoencodr'", "'autoencoder'", kind=UnknownName):
        make_method(train_config("autoencodr"), index)


def test_shards_without_a_codec_are_refused(tmp_path):
    folder = make_shards(tmp_path / "shards")
    (folder / "codec.json").unlink()
    with refuses("codec.json", kind=NotFound):
        make_method(train_config("full"), ShardIndex.open(folder))


CROPPED = {"autoencoder": {"crop_frames": 32}}


@pytest.mark.parametrize("name", ["full", "autoencoder"])
def test_an_example_is_a_function_of_seed_purpose_and_position(name, index, autoencoder_folder):
    method, parts = build(
        make_method(train_config(name, autoencoder=autoencoder_folder, **CROPPED.get(name, {})), index), index
    )
    sample = ShardReader(index, "train").read(0)
    for position in (11, 5):  # something else in between changes nothing
        method.make_example(parts, sample, position)
    first, again = (method.make_example(parts, sample, 7) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    others = [method.make_example(parts, sample, 8), method.make_example(parts, sample, 7, "validation")]
    method.config.seed += 1
    others.append(method.make_example(parts, sample, 7))
    assert all(not torch.equal(first["noise"], other["noise"]) for other in others)
    assert all({k: v.shape for k, v in first.items()} == {k: v.shape for k, v in o.items()} for o in others)


def test_stereo_becomes_left_right_and_mean():
    values = to_range(torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 2, 1, 1)).flatten()
    assert values.tolist() == pytest.approx([-1, 1, 0])
    assert to_range(torch.zeros(1, 1, 2, 2, dtype=torch.uint8)).shape == (1, 3, 2, 2)


def test_stereo_shards_train(tmp_path, autoencoder_folder):
    stereo = SpectrogramCodec.from_json({**CODEC.to_json(), "channels": 2})
    index = ShardIndex.open(make_shards(tmp_path / "stereo", stereo))
    method, parts = build(make_method(train_config("full", autoencoder=autoencoder_folder), index), index)
    assert np.isfinite(train(method, parts, index, 1, 1e-3)).all()


def test_pictures_that_are_not_the_codecs_are_named(index):
    method, parts = build(make_method(train_config("autoencoder"), index), index)
    with refuses(("sample odd ", "[1, 8, 8]"), kind=Mismatch):
        method.make_example(parts, Sample("odd", np.zeros((1, 8, 8), np.uint8)), 0)


# -- autoencoder ------------------------------------------------------------------------------------


def test_the_autoencoder_learns(index):
    method, parts = build(
        make_method(train_config("autoencoder", crop_frames=32, gradient_weight=0.1), index), index
    )
    losses = train(method, parts, index, 60, 3e-3)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])


def test_the_loss_is_error_divergence_and_error_of_the_differences(index):
    config = train_config("autoencoder", crop_frames=32, kl_weight=0.5, gradient_weight=2.0)
    method, parts = build(make_method(config, index), index)
    data = batch(method, parts, index, 0)
    with torch.no_grad():
        posterior = parts.learner.vae.encode(data["image"]).latent_dist
        drawn = torch.distributions.Normal(posterior.mean, posterior.std)
        nats = torch.distributions.kl_divergence(drawn, torch.distributions.Normal(0.0, 1.0))
        latents = posterior.mean + posterior.std * data["noise"]
        error = parts.learner.vae.decode(latents).sample - data["image"]
        along = [(error[:, :, 1:] - error[:, :, :-1]), (error[..., 1:] - error[..., :-1])]
        expected = error.abs().mean((1, 2, 3)) + 0.5 * nats.mean((1, 2, 3))
        expected = expected + 2.0 * sum(change.abs().mean((1, 2, 3)) for change in along)
        torch.testing.assert_close(parts.learner(data), expected, rtol=1e-5, atol=1e-6)


def test_crops_come_from_all_of_the_picture_at_the_right_place(index):
    method, parts = build(make_method(train_config("autoencoder", crop_frames=32), index), index)
    ramp = np.broadcast_to(np.arange(CODEC.frames, dtype=np.uint8), (1, CODEC.bands, CODEC.frames))
    crops = [method.make_example(parts, Sample("ramp", ramp), n)["pixels"] for n in range(200)]
    assert {int(crop[0, 0, 0]) for crop in crops} == set(range(33))
    assert all((crop[0, 0].diff() == 1).all() and crop.shape == (1, 32, 32) for crop in crops)


def test_normalising_latents_changes_no_picture(index, autoencoder_folder):
    vae = models.build_vae(VAE, seed=4).eval()
    images = to_range(pixels(index))
    with torch.no_grad():
        before = vae.decode(vae.encode(images).latent_dist.mode()).sample
        spread = vae.encode(images).latent_dist.std
        mean, std = torch.tensor([1.0, -2.0, 0.0, 0.5]).double(), torch.tensor([0.1, 2.0, 1.0, 7.0]).double()
        old = vae.encode(images).latent_dist.mean
        normalise_latents(vae, mean, std)
        posterior = vae.encode(images).latent_dist
        scale = std.float()[None, :, None, None]
        assert torch.allclose(posterior.mean, (old - mean.float()[None, :, None, None]) / scale, atol=1e-4)
        assert torch.allclose(posterior.std, spread / scale, rtol=1e-3)
        assert torch.allclose(vae.decode(posterior.mode()).sample, before, atol=1e-4)
    assert vae.config.scaling_factor == 1.0


def test_an_exported_autoencoder_has_normal_latents(index, autoencoder_folder):
    vae = models.load_vae(str(autoencoder_folder))
    with torch.no_grad():
        posterior = vae.encode(to_range(pixels(index))).latent_dist
    drawn = posterior.mean.square() + posterior.var
    assert posterior.mean.mean((0, 2, 3)).abs().max() < 1e-2
    assert (drawn.mean((0, 2, 3)) * vae.config.scaling_factor**2).tolist() == pytest.approx(
        [1.0] * 4, abs=2e-2
    )
    assert (autoencoder_folder / "codec.json").is_file()


def test_a_crop_wider_than_the_picture_is_refused(index):
    with refuses("crop_frames=100", kind=Mismatch):
        make_method(train_config("autoencoder", crop_frames=100), index)


def test_the_autoencoders_preview_has_pictures_and_sound(index, tmp_path):
    method, parts = build(make_method(train_config("autoencoder"), index), index)
    parts.learner.train()
    paths = method.preview(parts, [], tmp_path / "preview")
    assert sorted({path.suffix for path in paths}) == [".png", ".wav"] and all(
        p.stat().st_size for p in paths
    )
    assert parts.learner.training


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("full", {"init": "scratch"}),
        ("full", {"init": "pretrained"}),
        ("lora", {"init": "pretrained", "rank": 2}),
        ("textual_inversion", {"init": "pretrained", "vectors": 1, "initial_word": "song"}),
        ("autoencoder", {"init": "pretrained"}),
    ],
)
def test_what_the_autoencoder_loses_is_measured_and_said_first(
    name, ways, index, pipeline_folder, autoencoder_folder
):
    source = {"autoencoder": autoencoder_folder} if ways["init"] == "scratch" else {"source": pipeline_folder}
    config = train_config(name, **ways, **source)
    config.machine.cache_latents = False  # measured anew each time
    method, parts = build(make_method(config, index), index)
    vae = models.load_vae(str(next(iter(source.values()))))
    images = to_range(pixels(index, "validation"))
    with torch.no_grad():
        decoded = vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
    share = (decoded - images).abs().mean().item() / 2  # of the range -1..1
    alive = []
    lines = method.setup(parts, list, lambda: alive.append(1))
    assert f" {share:.1%} " in lines[0] and len(alive) == 4
    assert f"{share * 100:.1f} dB" in lines[0]  # the codec's range is 100 dB
    assert str(next(iter(source.values()))) in lines[0]
    others = method.setup(parts, lambda numbers: [], lambda: None)  # one rank says it for all
    assert not any("loses" in line for line in others)


# -- full -------------------------------------------------------------------------------------------


def test_full_from_scratch_learns_text_and_unet_and_leaves_the_autoencoder(index, autoencoder_folder):
    method, parts = build(make_method(train_config("full", autoencoder=autoencoder_folder), index), index)
    before = models.weights_key(parts.frozen["vae"])
    losses = train(method, parts, index, 40, 3e-3)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    grown = {
        name.split(".")[0]
        for name, p in parts.learner.named_parameters()
        if p.grad is not None and p.grad.any()
    }
    assert grown == {"unet", "text_encoder"}
    assert models.weights_key(parts.frozen["vae"]) == before
    assert all(not p.requires_grad for p in parts.frozen["vae"].parameters())
    assert all(p.dtype == torch.float32 for p in parts.learner.parameters())


def test_full_from_scratch_without_an_autoencoder_says_what_to_do(index):
    with refuses("model.autoencoder", "method=autoencoder", kind=NotSet):
        make_method(train_config("full"), index).build(CPU, torch.float32)


def test_caching_latents_does_not_change_what_is_learnt(tmp_path, autoencoder_folder):
    index = ShardIndex.open(make_shards(tmp_path / "shards"))
    method, parts = build(make_method(train_config("full", autoencoder=autoencoder_folder), index), index)
    sample = ShardReader(index, "train").read(5)
    fresh = method.encode_batch(parts, {k: v[None] for k, v in method.make_example(parts, sample, 9).items()})
    assert method.cached_latents("train") is None
    method.fill_cache(CPU, torch.float32, ["train"], list, lambda: None)
    stored = method.cached_latents("train")
    assert stored[5].dtype == np.float16 and stored[5].shape == (8, 8, 16) and len(stored) == 12
    sample.latent = stored[5]
    cached = method.encode_batch(
        parts, {k: v[None] for k, v in method.make_example(parts, sample, 9).items()}
    )
    # One picture or eight in a batch: the last bit of float32, which float16 mostly rounds away.
    assert torch.allclose(fresh["latents"], cached["latents"], atol=2e-3)
    assert torch.equal(fresh["noise"], cached["noise"])


def test_latents_of_another_autoencoder_are_not_taken(index, trained):
    method, parts = trained
    sample = ShardReader(index, "train").read(0)
    sample.latent = np.zeros((4, 4, 4), np.float16)
    with refuses("[4, 4, 4]", kind=Mismatch):
        method.make_example(parts, sample, 0)


def test_latents_are_scaled_and_drawn_from_their_distribution(index, trained):
    method, parts = trained
    moments = torch.cat([torch.full((1, 4, 8, 16), 2.0), torch.full((1, 4, 8, 16), float(np.log(0.25)))], 1)
    noise = torch.ones(1, 4, 8, 16)
    entries = {"moments": moments, "posterior_noise": noise, "noise": noise, "timesteps": torch.tensor([3])}
    ready = method.encode_batch(parts, {**entries, "input_ids": torch.zeros(1, 16, dtype=torch.int64)})
    factor = parts.frozen["vae"].config.scaling_factor
    assert torch.allclose(ready["latents"], torch.full((1, 4, 8, 16), 2.5 * factor))


def test_captions_are_chosen_and_dropped_as_asked(index, trained):
    method, parts = trained
    sample = ShardReader(index, "train").read(0)
    ids = [tuple(method.make_example(parts, sample, n)["input_ids"].tolist()) for n in range(300)]
    counts = sorted(ids.count(kind) for kind in set(ids))
    assert len(counts) == 3 and 12 <= counts[0] <= 55 and counts[1] > 90  # 10% empty, the two wordings alike
    kept = {
        tuple(method.make_example(parts, sample, n, "validation")["input_ids"].tolist()) for n in range(100)
    }
    assert len(kept) == 2


def test_timesteps_cover_the_schedule(index, trained):
    method, parts = trained
    sample = ShardReader(index, "train").read(0)
    steps = [int(method.make_example(parts, sample, n)["timesteps"]) for n in range(400)]
    assert min(steps) < 30 and max(steps) > 969 and 430 < np.mean(steps) < 570


@pytest.mark.parametrize("text_learns", [False, True])
def test_going_on_from_a_pretrained_pipeline(index, pipeline_folder, text_learns):
    config = train_config("full", init="pretrained", source=pipeline_folder, train_text_encoder=text_learns)
    method, parts = build(make_method(config, index), index)
    loaded = models.load_unet(str(pipeline_folder)).state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in parts.learner.unet.state_dict().items())
    assert ("text_encoder" in parts.frozen) != text_learns
    train(method, parts, index, 1, 1e-3)
    names = {name.split(".")[0] for name, p in parts.learner.named_parameters() if p.grad is not None}
    assert names == ({"unet", "text_encoder"} if text_learns else {"unet"})


def test_pretrained_without_a_source_is_refused(index):
    with refuses("model.source", kind=NotSet):
        make_method(train_config("full", init="pretrained"), index).build(CPU, torch.float32)


def test_v_prediction_trains(index, autoencoder_folder):
    config = train_config(
        "full",
        autoencoder=autoencoder_folder,
        prediction="v_prediction",
        zero_terminal_snr=True,
        min_snr_gamma=5.0,
    )
    method, parts = build(make_method(config, index), index)
    assert np.isfinite(train(method, parts, index, 2, 1e-3)).all()


def test_gradient_checkpointing_gives_the_same_gradients(index, autoencoder_folder):
    gradients = []
    for checkpointing in (False, True):
        config = train_config("full", autoencoder=autoencoder_folder)
        config.machine.gradient_checkpointing = checkpointing
        method, parts = build(make_method(config, index), index)
        parts.learner(batch(method, parts, index, 0)).mean().backward()
        gradients.append([p.grad for p in parts.learner.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_the_preview_shows_every_prompt(trained, tmp_path):
    method, parts = trained
    paths = method.preview(parts, ["../a wren", "a robin"], tmp_path / "preview")
    assert len(paths) == 3 and all(path.parent == tmp_path / "preview" for path in paths)
