"""Texture and features: what the autoencoder can be held to besides its pixels."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from birdsd.diffusion.learning.picture_errors import (
    Features,
    check_features,
    mean_error,
    spectral_error,
    texture_error,
)
from birdsd.diffusion.methods import make_method
from birdsd.errors import Mismatch, NotFound, NotSet
from birdsd.planning.trace import trace_step
from birdsd.shards.index import ShardIndex
from birdsd.sound.codec.codec import SpectrogramCodec
from birdsd.training.loop import train
from tests.support.errors import refuses
from tests.support.tiny import CODEC, batch, make_shards, train_config
from tests.support.toy import fork_ranks, losses

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tower(index, pipeline_folder, tmp_path_factory) -> Path:
    """An exported CLIP with an image tower that has learnt nothing yet."""
    method = make_method(train_config("clip", init="pretrained", source=pipeline_folder), index)
    parts = method.build(CPU, torch.float32)
    return method.export(parts, tmp_path_factory.mktemp("clip") / "run" / "export").parent


def config_with(tower: Path | None, **changes):
    config = train_config("autoencoder", feature_weight=0.5, **changes)
    config.model.clip = str(tower) if tower else None
    return config


# -- spectral error -----------------------------------------------------------------------------------------


def test_the_spectral_error_is_the_log_spectral_distance_and_silence_has_a_gradient() -> None:
    error = torch.randn(2, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    wanted = np.sqrt(np.square(error.numpy()).mean(axis=2)).mean(axis=(1, 2))
    np.testing.assert_allclose(spectral_error(error), wanted, rtol=1e-5)
    error[:, :, :, 2] = 0.0  # a frame without an error: the square root's own gradient would be no number
    error.requires_grad_()
    spectral_error(error).sum().backward()
    assert error.grad is not None and error.grad.isfinite().all() and error.grad.any()


# -- texture ----------------------------------------------------------------------------------------


def test_a_floor_of_other_noise_beats_black_and_is_worse_by_the_pixel():
    draw = torch.Generator().manual_seed(0)
    floor, other = ((torch.randn(2, 3, 32, 32, generator=draw) * 0.2 - 0.5).clamp(-1, 1) for _ in range(2))
    flat = torch.full_like(floor, -0.5)
    dark = flat - 0.2
    assert (mean_error(other - floor) > mean_error(flat - floor)).all()
    for black in (flat, dark):
        assert (texture_error(other, floor) < 0.5 * texture_error(black, floor)).all()
    assert (texture_error(dark, floor) > texture_error(flat, floor) + 0.1).all()
    assert texture_error(floor, floor).abs().max() == 0


def test_texture_of_one_colour_and_of_narrow_pictures_has_gradients():
    for shape in ((1, 3, 16, 16), (1, 3, 16, 4)):
        decoded = torch.zeros(shape, requires_grad=True)
        texture_error(decoded, torch.ones(shape)).sum().backward()
        assert decoded.grad.isfinite().all() and decoded.grad.any()


def test_texture_joins_the_loss_where_it_has_a_weight(index):
    values = []
    for weight in (0.0, 2.0):
        method = make_method(train_config("autoencoder", texture_weight=weight), index)
        parts = method.build(CPU, torch.float32)
        data = batch(method, parts, index, 0, 4)
        values.append(parts.learner(data))
    posterior = parts.learner.vae.encode(data["image"]).latent_dist
    decoded = parts.learner.vae.decode(posterior.mean + posterior.std * data["noise"]).sample
    expected = 2.0 * texture_error(decoded, data["image"])
    torch.testing.assert_close(values[1] - values[0], expected, rtol=1e-4, atol=1e-6)


# -- features ---------------------------------------------------------------------------------------


def test_a_cut_is_compared_in_its_place_in_the_whole_picture(index, tower):
    method = make_method(config_with(tower, crop_frames=16), index)
    parts = method.build(CPU, torch.float32)
    data = batch(method, parts, index, 0, 4)
    assert data["whole"].shape == (4, 3, 32, 64) and len(set(data["first"].tolist())) > 1
    decoded = torch.rand(4, 3, 32, 16, generator=torch.manual_seed(1)) * 2 - 1
    pasted = data["whole"].clone()
    for number, first in enumerate(data["first"].tolist()):
        assert torch.equal(pasted[number, :, :, first : first + 16], data["image"][number])
        pasted[number, :, :, first : first + 16] = decoded[number]
    features = parts.learner.features
    error = parts.learner._feature_error(data, decoded)
    torch.testing.assert_close(error, features.error(pasted, data["whole"]))
    assert (error > 0).all() and features.error(data["whole"], data["whole"]).max() == 0


def test_it_teaches_the_autoencoder_and_stays_as_it_is(index, tower):
    method = make_method(config_with(tower, kl_weight=0.0), index)
    parts = method.build(CPU, torch.float32)
    learner = parts.learner
    before = {name: value.clone() for name, value in learner.features.state_dict().items()}
    data = batch(method, parts, index, 0, 4)
    found = []
    for weight in (0.5, 0.0):
        learner.weights.feature_weight = weight
        learner.zero_grad()
        loss = learner(data)
        loss.sum().backward()
        found.append((loss.detach(), learner.vae.decoder.conv_out.weight.grad.clone()))
    assert (found[0][0] > found[1][0]).all() and not torch.equal(found[0][1], found[1][1])
    assert all(p.grad is None and not p.requires_grad for p in learner.features.parameters())
    assert all(torch.equal(before[name], value) for name, value in learner.features.state_dict().items())


def test_what_it_sees_is_what_its_clip_was_shown(index, tower):
    """The tower's own preparation, differentiable: the same states as `Clip.prepared` gives."""
    from birdsd.diffusion.networks.clip import load_clip

    clip = load_clip(str(tower))
    pixels = torch.randint(0, 256, (2, 1, 32, 64), dtype=torch.uint8, generator=torch.manual_seed(0))
    image = (pixels.float() / 127.5 - 1).expand(-1, 3, -1, -1)
    torch.testing.assert_close(clip.squeezed(image), clip.prepared(pixels))
    assert len(Features(clip)._states(image)) == clip.model.config.vision_config.num_hidden_layers + 1


def test_without_an_image_tower_for_these_pictures_it_is_refused(index, tower, pipeline_folder, tmp_path):
    with refuses("model.clip", "method=clip", kind=NotSet):
        make_method(config_with(None), index)
    with refuses("model.clip=", "CLIP", kind=NotFound):
        make_method(config_with(pipeline_folder), index)
    with refuses("codec.json", kind=NotFound):
        check_features(str(tmp_path), index.codec)
    other = SpectrogramCodec.from_json({**CODEC.to_json(), "floor_db": -80.0})
    quiet = ShardIndex.open(make_shards(tmp_path / "quiet", other))
    with refuses("floor_db is -100.0, not -80.0", kind=Mismatch):
        make_method(config_with(tower), quiet)
    slow = {**index.codec, "name": "slow", "griffin_lim_iterations": 500, "phase": "random"}
    assert check_features(str(tower), slow) == str(tower)


def test_a_plan_counts_the_tower_without_its_weights(index, tower):
    plain, seen = (
        trace_step(c, CODEC.to_json(), 2) for c in (train_config("autoencoder"), config_with(tower))
    )
    method = make_method(config_with(tower), index)
    held = sum(t.nbytes for t in method.build(CPU, torch.float32).learner.features.state_dict().values())
    assert seen.frozen_bytes - plain.frozen_bytes == pytest.approx(held, rel=0.01)
    assert seen.learning == plain.learning and seen.flops > plain.flops


@pytest.mark.slow
def test_under_zero_3_with_an_adversary_beside_it_the_same_is_learnt(index, tower, tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    pytest.importorskip("deepspeed")

    def run(folder: Path, **machine) -> None:
        config = config_with(tower, crop_frames=32, adversary_weight=0.5, adversary_channels=4)
        config.method.adversary_learning_rate, config.optim.learning_rate = 0.05, 1e-2
        config.optim.global_batch, config.optim.total_samples, config.optim.warmup_samples = 4, 24, 4
        config.optim.epsilon = 1e-4
        for name, value in {"device": "cpu", "threads": 1, "micro_batch": 2, **machine}.items():
            setattr(config.machine, name, value)
        config.save.every_samples, config.save.validate_every_samples = 8, 12
        shards = ShardIndex.open(shards_folder)
        train(config, make_method(config, shards), shards, folder)

    # Each rank opens its own: an open index has a lock, which cannot be sent to another process.
    shards_folder = index.folder

    def rank(_: int) -> None:
        run(tmp_path / "zero", engine="deepspeed", zero_stage=3)
        sys.stdout.flush()
        os._exit(0)

    run(tmp_path / "torch")
    assert fork_ranks(2, rank, tmp_path / "log.txt") == [0, 0], (tmp_path / "log.txt").read_text()[-3000:]
    ours, theirs = losses(tmp_path / "zero"), losses(tmp_path / "torch")
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)
