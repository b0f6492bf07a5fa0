"""method=upscaler: pairs out of fine shards, what half of the inputs go through, and what is learnt."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from birdsd.cli import main
from birdsd.config import compose
from birdsd.diffusion.formats.upscalers import measured_on
from birdsd.diffusion.methods import make_method
from birdsd.diffusion.networks.adversary import Discriminator
from birdsd.diffusion.upscaling.levels import Levels
from birdsd.diffusion.upscaling.upscaler import Upscaler
from birdsd.errors import BadValue, Mismatch, NotFound, UnknownName, Unsupported, UserError
from birdsd.runs.effects import without_effect
from birdsd.shards.index import ShardIndex
from tests.support.errors import refuses
from tests.support.fine import FINE, fine_shards
from tests.support.remarks import remarked
from tests.support.tiny import CODEC, batch, make_shards, train, train_config

CPU = torch.device("cpu")
SMALL = {"features": 6, "depth": 1, "crop_frames": 32}
CLEAN = {"noise_levels": 0.0, "level_shift_db": 0.0}
ON = {"adversary_weight": 0.5, "adversary_channels": 4, "adversary_start_samples": 8}


@pytest.fixture(scope="module")
def fine_index(tmp_path_factory) -> ShardIndex:
    """Shards of the fine codec: pictures whose halves are those of the small one."""
    return ShardIndex.open(fine_shards(tmp_path_factory.mktemp("fine")))


def built(index: ShardIndex, **changes):
    method = make_method(train_config("upscaler", **{**SMALL, **changes}), index)
    return method, method.build(CPU, torch.float32)


def test_pairs_are_cells_of_the_shards_own_pictures(fine_index) -> None:
    method, parts = built(fine_index, **CLEAN)
    data = batch(method, parts, fine_index, 0, 4)
    assert data["coarse"].shape == (4, 1, 32, 16) and data["fine"].shape == (4, 1, 64, 32)
    cells = Levels.of(FINE).cells(data["fine"], 2)
    torch.testing.assert_close(cells, data["coarse"], atol=0.6, rtol=0)


def test_an_example_is_a_function_of_its_position(fine_index) -> None:
    method, parts = built(fine_index)
    twice = [batch(method, parts, fine_index, 3, 4) for _ in range(2)]
    assert all(torch.equal(twice[0][name], twice[1][name]) for name in twice[0])
    other = batch(method, parts, fine_index, 4, 4)
    assert torch.equal(other["coarse"][:3], twice[0]["coarse"][1:])
    calm = [batch(method, parts, fine_index, at, 4, "validation") for at in (0, 0)]
    assert torch.equal(calm[0]["coarse"], calm[1]["coarse"])
    assert torch.equal(calm[0]["coarse"], calm[0]["coarse"].round()), "no noise in validation"


def test_half_of_the_inputs_go_through_the_runs_own_autoencoder(fine_index, autoencoder_folder) -> None:
    method, parts = built(fine_index, autoencoder=autoencoder_folder, **CLEAN)
    plain, _ = built(fine_index, **CLEAN)
    ours = batch(method, parts, fine_index, 0, 12)["coarse"]
    theirs = batch(plain, _, fine_index, 0, 12)["coarse"]
    changed = (ours - theirs).abs().flatten(1).amax(1) > 0
    assert 2 <= changed.sum() <= 10
    vae = parts.extras["vae"]
    assert not any(p.requires_grad for p in vae.parameters())
    names = {name for name, _ in parts.learner.named_parameters()}
    assert not any("vae" in name or "encoder" in name for name in names), "it is not what learns"
    # What it took away is not for the network to guess: the truth is as loud as the input, cell by cell.
    data = batch(method, parts, fine_index, 0, 12)
    inside = (data["coarse"] > 20) & (data["coarse"] < 200)
    apart = (Levels.of(FINE).cells(data["fine"], 2) - data["coarse"])[inside]
    assert apart.abs().median() < 0.1


def test_it_learns_to_do_better_than_bicubic(fine_index) -> None:
    method, parts = built(fine_index, features=8, depth=2, **CLEAN)
    first = method.measured(parts, "validation", 0.0)
    losses = train(method, parts, fine_index, 60, 4e-3)
    after = method.measured(parts, "validation", 0.0)
    assert after.distance_db < 0.98 * first.distance_db and losses[-1] < 0.97 * losses[0]
    assert after.gain > 0.05 and after.loud_db < after.bicubic_loud_db


def test_its_export_is_used_as_it_is(fine_index, tmp_path) -> None:
    method, parts = built(fine_index, **ON)
    train(method, parts, fine_index, 6, 2e-3)
    folder = method.export(parts, tmp_path / "run" / "export")
    told = json.loads((folder / "training.json").read_text())
    assert told["kind"] == "upscaler" and told["measured_on"] == "validation"
    assert set(told["measured"]) == {"sharpness 0", "sharpness 1"}
    upscalers = [Upscaler.open(folder, CODEC, a) for a in (0.0, 1.0)]
    given = np.random.default_rng(0).integers(1, 256, (1, 32, 20), dtype=np.uint8)
    smooth, sharp = (one.image(given) for one in upscalers)
    assert not np.array_equal(smooth, sharp)
    values = upscalers[0].values(torch.from_numpy(given)[:, None])
    with torch.no_grad():
        said = parts.learner.network(values / 255, True)
    for made, expected in zip((smooth, sharp), said, strict=True):
        expected = method.levels.finished(expected * 255, values, 2)
        assert np.abs(made[0].astype(int) - expected[0, 0].numpy()).max() <= 1
    assert method.preview(parts, ["a bird"], tmp_path / "preview")[0].name == "grid.png"


@pytest.mark.parametrize("error", ["absolute", "spectral"])
def test_the_export_measures_how_much_noise_its_pictures_lack(fine_index, tmp_path, error) -> None:
    method, parts = built(fine_index, features=8, depth=2, error=error, **CLEAN)
    train(method, parts, fine_index, 30, 4e-3)
    folder = method.export(parts, tmp_path / "run" / "export")
    assert not (folder / "upscaler-sharp.safetensors").exists()
    noise_db = json.loads((folder / "config.json").read_text())["noise_db"]
    told = json.loads((folder / "training.json").read_text())["measured"]
    smooth, rough = told["sharpness 0"], told["sharpness 1"]
    assert noise_db > 0.5 and smooth["detail"] < 0.8
    assert rough["detail"] == pytest.approx(0.9, abs=0.02)
    assert rough["distance_db"] > smooth["distance_db"], "what is sharp is drawn"
    used = measured_on(Upscaler.open(folder, CODEC, 1.0), fine_index, "validation", 64)
    assert used.detail == pytest.approx(0.9, abs=0.04), "as the export says"


def test_the_adversary_moves_the_sharper_set_alone_and_the_curve_is_that_of_the_other(fine_index) -> None:
    method, parts = built(fine_index, **{**ON, "adversary_start_samples": 1})
    learner, data = parts.learner, batch(method, parts, fine_index, 1, 4)
    _, alone = built(fine_index)
    assert torch.equal(learner(data), alone.learner({k: v for k, v in data.items() if k != "adversary"}))
    plain = {n: p for n, p in learner.named_parameters() if "plain" in n}
    learner(data).mean().backward()
    alone.learner({k: v for k, v in data.items() if k != "adversary"}).mean().backward()
    others = dict(alone.learner.named_parameters())
    for name, parameter in plain.items():
        torch.testing.assert_close(parameter.grad, others[name].grad)
    assert all(p.grad.any() for n, p in learner.named_parameters()), "the sharper set and the discriminator"
    # Before its start, nothing of it moves.
    learner.zero_grad()
    method.settings.adversary_start_samples = 100
    learner(batch(method, parts, fine_index, 0, 4)).mean().backward()
    assert not any(p.grad.any() for n, p in learner.named_parameters() if "plain" not in n)


def test_a_relativistic_discriminator_compares() -> None:
    """Its loss and the direction, by the published formulas, with each sample's own means."""
    judge = Discriminator(4, 1.0, 0, relativistic=True)
    real, fake = (torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(k)) for k in range(2))
    loss, of_real, of_fake, direction = judge(real, fake, False)
    made = fake.clone().requires_grad_()
    a, b = judge._logits(real), judge._logits(made)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones_like(a), torch.zeros_like(a)
    relative = (a - b.mean(1, keepdim=True), b - a.mean(1, keepdim=True))
    expected = [entropy(x, y, reduction="none") for x, y in zip(relative, (ones, zeros), strict=True)]
    torch.testing.assert_close(loss, sum(expected).mean(1) / 2)
    torch.testing.assert_close(of_real, a.mean(1))
    torch.testing.assert_close(of_fake, b.mean(1))
    theirs = [entropy(x, y) for x, y in zip(relative, (zeros, ones), strict=True)]
    (gradient,) = torch.autograd.grad(sum(theirs) / 2, made)
    torch.testing.assert_close(direction, 2 * gradient, rtol=1e-3, atol=1e-7)  # a mean over two samples
    plain = Discriminator(4, 1.0, 0)(real, fake, False)
    assert torch.equal(plain[1], of_real) and not torch.equal(plain[3], direction)


def test_it_goes_on_from_an_earlier_one(fine_index, tmp_path) -> None:
    method, parts = built(fine_index, **ON)
    train(method, parts, fine_index, 4, 1e-2)
    folder = method.export(parts, tmp_path / "export")
    _, further = built(fine_index, init="pretrained", source=folder, **ON)
    for a in (0.0, 1.0):
        one, other = (p.learner.network.weights(a) for p in (parts, further))
        assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    with refuses(("model.source", "blocks=1"), "blocks=2", kind=Mismatch):
        built(fine_index, init="pretrained", source=folder, depth=2)


# -- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "what", "kind"),
    [
        ({"crop_frames": 256}, "crop_frames=256", BadValue),
        ({"crop_frames": 33}, "crop_frames=33", BadValue),
        ({"crop_frames": -2}, "crop_frames=-2", BadValue),
        ({"scale": 3}, "method.scale", Mismatch),
        ({"scale": 8}, "method.scale", BadValue),
        ({"architecture": "swin"}, "method.architecture", UnknownName),
        ({"features": 0}, "method.features=0", BadValue),
        ({"loud_weight": -1.0}, "loud_weight", BadValue),
        ({"noise_levels": -1.0}, "noise_levels", BadValue),
        ({"error": "squared"}, "method.error", UnknownName),
        ({"autoencoder_share": 1.5}, "autoencoder_share", BadValue),
        ({"adversary_weight": 0.5, "crop_frames": 4}, "adversary_weight", Mismatch),
        ({"init": "pretrained", "source": "not/there"}, "model.source=not/there", NotFound),
    ],
)
def test_what_cannot_be_taught_is_refused(fine_index, changes, what: str, kind: type[UserError]) -> None:
    with pytest.raises(kind) as caught:
        built(fine_index, **changes)
    assert what in caught.value.problem or what in caught.value.expected


def test_an_autoencoder_of_another_grid_is_refused_by_both_names(index, autoencoder_folder) -> None:
    """The shards of the autoencoder's own codec are no finer than it."""
    with pytest.raises(Mismatch) as caught:
        built(index, autoencoder=autoencoder_folder)
    assert caught.value.problem.count("'test'") == 2 and str(autoencoder_folder) in caught.value.problem


def test_a_codec_without_levels_is_refused(tmp_path) -> None:
    power = dataclasses.replace(CODEC, intensity="power")
    with refuses("'test'", "intensity=decibel", kind=Unsupported):
        built(ShardIndex.open(make_shards(tmp_path / "shards", power)))


def test_settings_that_change_nothing_are_said() -> None:
    words = ["method=upscaler", "method.adversary_weight=0", "method.growth=8", "method.adversary_channels=8"]
    lines = without_effect("train", words, compose("train", words))
    assert {line.partition("=")[0] for line in lines} == {"method.growth", "method.adversary_channels"}
    words = ["method=upscaler", "optim.total_samples=100", "method.adversary_weight=0.25"]
    (line,) = without_effect("train", words, compose("train", words))
    facts = remarked([line], "no-effect").facts
    assert facts["key"] == "method.adversary_weight" and "adversary_start_samples" in facts["why"]


# -- generation ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upscaler(fine_index, tmp_path_factory) -> Path:
    method, parts = built(fine_index, **ON)
    return method.export(parts, tmp_path_factory.mktemp("upscaler") / "export")


def made(place: Path, *words: str) -> list[Path]:
    assert main.main(["run", "generate", f"out={place}", "machine=smoke", *words]) == 0
    return sorted(place.glob("*.json"))


def test_generated_pictures_become_fine_and_are_made_again(
    pipeline_folder, upscaler, tmp_path, monkeypatch, capsys
) -> None:
    from PIL import Image

    from birdsd.sound.audio.recordings import read

    monkeypatch.chdir(tmp_path)
    asked = (f"run={pipeline_folder}", "prompt=an American Robin singing", "steps=2", "seed=1")
    (coarse,) = made(tmp_path / "coarse", *asked)
    (fine,) = made(tmp_path / "fine", *asked, f"upscale={upscaler}", "upscale.sharpness=0.5")
    assert fine.name != coarse.name
    pictures = [np.asarray(Image.open(one.with_suffix(".png"))) for one in (coarse, fine)]
    assert [one.shape for one in pictures] == [(32, 64, 3), (64, 128, 3)]
    expected = Upscaler.open(upscaler, CODEC, 0.5).picture(pictures[0])
    assert np.array_equal(expected, pictures[1]), "the diffusion model stays what it is"
    sounds = [read(one.with_suffix(".wav"), 16000) for one in (coarse, fine)]
    assert sounds[0].shape == sounds[1].shape and not np.allclose(*sounds)
    recipe = json.loads(fine.read_text())
    assert recipe["upscale"] == {"model": str(upscaler), "sharpness": 0.5}
    assert made(tmp_path / "fine", *asked, f"upscale={upscaler}", "upscale_sharpness=0.5") == [fine]
    assert "already existed" in capsys.readouterr().out
    (again,) = made(tmp_path / "again", f"recipe={fine}")
    for suffix in (".png", ".wav"):
        assert again.with_suffix(suffix).read_bytes() == fine.with_suffix(suffix).read_bytes()


def test_a_loop_is_upscaled_round_its_end(pipeline_folder, upscaler) -> None:
    from birdsd.diffusion.generation.generator import Generator

    model = Generator(pipeline_folder)
    before = model.identity
    picture = np.random.default_rng(0).uniform(1, 255, (32, 64, 3)).astype(np.float32)
    assert model.finished(picture) is picture and model.heard_codec is model.codec
    plain = model.sound_of(picture)
    model.upscale_with(Upscaler.open(upscaler, CODEC))
    assert model.identity != before and model.codec.bands == 32 and model.heard_codec.bands == 64
    turned = model.finished(np.roll(picture, 5, axis=1), loop=True)
    assert np.array_equal(turned, np.roll(model.finished(picture, loop=True), 10, axis=1))
    assert model.sound_of(picture, loop=True).shape == plain.shape


@pytest.mark.parametrize("wrong", ["not-there", "empty", "autoencoder"])
def test_what_is_no_upscaler_is_refused(
    wrong: str, pipeline_folder, autoencoder_folder, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    named = autoencoder_folder if wrong == "autoencoder" else wrong
    words = ["run", "generate", f"run={pipeline_folder}", "prompt=a bird", "steps=1", f"upscale={named}"]
    assert main.main(words) == 2
    assert str(named) in capsys.readouterr().err and not (tmp_path / "generated").exists()


def test_anothers_file_is_measured_on_the_models_own_shards_before_it_is_used(
    fine_index, tmp_path, monkeypatch, capsys
) -> None:
    """A run whose codec has a finer grid, and its records, which name its shards."""
    from birdsd.runs.models import upscaling
    from birdsd.schema import ClipsConfig
    from tests.diffusion.formats.test_upscalers import ROUGH, stored
    from tests.support.fine import noisy

    class Model:
        codec, device = ROUGH, "cpu"

    run = tmp_path / "run"
    (run / "export").mkdir(parents=True)
    shards = make_shards(tmp_path / "shards", ROUGH)
    (run / "config.json").write_text(json.dumps({"data": {"shards": str(shards)}}))
    (run / "signature.json").write_text(json.dumps({"signature": "x"}))
    from birdsd.diffusion.upscaling.networks import Shape

    path = stored(tmp_path / "photos.pth", noisy(Shape("compact", 4, 1, 2, 3)))
    config = ClipsConfig(upscale=str(path))
    upscaling.load_upscaler(config, run / "export", Model())
    said = capsys.readouterr().err
    assert "photos.pth: log-spectral distance" in said and "bicubic's" in said and "4 pictures" in said
    (run / "config.json").unlink()
    upscaling.load_upscaler(config, run / "export", Model())
    said = capsys.readouterr().err
    assert "photos.pth" in said and "bicubic's" not in said and "pictures" not in said
    with refuses("upscale_sharpness=0.5", kind=Mismatch):
        upscaling.load_upscaler(ClipsConfig(upscale=str(path), upscale_sharpness=0.5), run, Model())
