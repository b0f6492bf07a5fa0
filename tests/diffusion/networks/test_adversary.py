"""The autoencoder's adversary: the gradients of two optimizers in one pass, a gate, and nothing of it
where it is not asked for or broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from birdsd.config import compose, signature
from birdsd.diffusion.learning.base import Modules
from birdsd.diffusion.method_configs import AutoencoderConfig
from birdsd.diffusion.methods import make_method
from birdsd.diffusion.methods.autoencoder import AutoencoderLearner
from birdsd.diffusion.networks import adversary as module
from birdsd.diffusion.networks.adversary import Discriminator, gate
from birdsd.errors import BadValue, Mismatch
from birdsd.planning.trace import trace_step
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from birdsd.training.devices.world import World
from birdsd.training.loop import train
from birdsd.training.records import read_metrics
from birdsd.training.validation import Validation
from tests.support.errors import refuses
from tests.support.remarks import remarked
from tests.support.tiny import CODEC, batch, make_shards, train_config
from tests.support.toy import losses

CPU = torch.device("cpu")
ON = {"adversary_weight": 0.5, "adversary_channels": 4}
CUT = {"crop_frames": 32}


def built(index: ShardIndex, **changes):
    method = make_method(train_config("autoencoder", **CUT, **changes), index)
    return method, method.build(CPU, torch.float32)


def taught(parts, index: ShardIndex, method) -> dict[str, torch.Tensor]:
    """Teach the discriminator until it tells recordings from the reconstructions of the batch returned."""
    optimizer = torch.optim.Adam(parts.learner.discriminator.parameters(), lr=3e-4)
    data = batch(method, parts, index, 40, 4)
    for step in range(100):
        parts.learner(batch(method, parts, index, 4 * step, 4)).sum().backward()
        optimizer.step()
        parts.learner.zero_grad()
        with torch.no_grad():
            parts.learner(data)
        if (parts.learner.measured["adversary_open"] == 1).all():
            return data
    raise AssertionError("the discriminator has not learnt")


def gradients(learner, data) -> dict[str, torch.Tensor]:
    learner.zero_grad()
    learner(data).mean().backward()
    return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}


def of(name: str, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in found.items() if key.startswith(name)}


# -- gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("further", [{}, {"gradient_weight": 0.3, "texture_weight": 0.4}])
def test_one_pass_gives_the_gradients_of_two_optimizers(index, further):
    """Both losses as GANs are usually taught: apart, through the graph, the other network left alone."""
    method, parts = built(index, **ON, **further)
    learner, data = parts.learner, taught(parts, index, method)
    ours = gradients(learner, data)
    learner.zero_grad()
    image, vae, judge = data["image"], learner.vae, learner.discriminator
    posterior = vae.encode(image).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * data["noise"]).sample
    error = decoded - image
    pixels = error.abs().mean((1, 2, 3))
    if further:
        along = error.diff(dim=2).abs().mean((1, 2, 3)) + error.diff(dim=3).abs().mean((1, 2, 3))
        pixels = pixels + 0.3 * along + 0.4 * module_texture(decoded, image)
    normal = torch.distributions.Normal(posterior.mean, posterior.std)
    nats = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean((1, 2, 3))
    fake, real = judge._logits(decoded), judge._logits(image)
    falling = torch.autograd.grad(pixels.sum(), decoded, retain_graph=True)[0].flatten(1).norm(dim=1)
    rising = torch.autograd.grad(fake.mean(1).sum(), decoded, retain_graph=True)[0].flatten(1).norm(dim=1)
    margin = (real.mean(1) - fake.mean(1)).detach()
    hinge = functional.relu(1 - judge._logits(image)) + functional.relu(1 + judge._logits(decoded.detach()))
    assert (gate(margin, torch.zeros(4), hinge.mean(1).detach()) == 1).all()
    generator = pixels + learner.weights.kl_weight * nats - 0.5 * falling / rising * fake.mean(1)
    expected = torch.autograd.grad(generator.mean(), list(vae.parameters()), retain_graph=True)
    for (name, _), gradient in zip(vae.named_parameters(), expected, strict=True):
        torch.testing.assert_close(ours[f"vae.{name}"], gradient, rtol=1e-3, atol=1e-6)
    share = module._SHARE_OF_NORM / judge.speed
    expected = torch.autograd.grad(share * hinge.mean(), list(judge.parameters()))
    for (name, _), gradient in zip(judge.named_parameters(), expected, strict=True):
        torch.testing.assert_close(ours[f"discriminator.{name}"], gradient, rtol=1e-4, atol=1e-8)


def module_texture(decoded, image):
    """Mean and standard deviation of 8 x 8 blocks, block by block."""
    total = 0
    for row in range(0, image.shape[2], 8):
        for column in range(0, image.shape[3], 8):
            cut = (slice(None), slice(None), slice(row, row + 8), slice(column, column + 8))
            ours, theirs = decoded[cut].flatten(2), image[cut].flatten(2)
            spread = [(x.var(2, unbiased=False) + 1e-6).sqrt() for x in (ours, theirs)]
            total += (ours.mean(2) - theirs.mean(2)).abs().mean(1) + (spread[0] - spread[1]).abs().mean(1)
    return total / (image.shape[2] * image.shape[3] / 64)


def test_what_it_says_of_reconstructions_does_not_teach_the_discriminator(index, monkeypatch):
    method, parts = built(index, **ON)
    data = taught(parts, index, method)
    monkeypatch.setattr(module, "_SHARE_OF_NORM", 0.0)  # its own loss is gone
    alone = gradients(parts.learner, data)
    assert all(not g.any() for g in of("discriminator", alone).values())
    parts.learner.adversary.weight = 0.0
    assert any(
        not torch.equal(g, alone[name]) for name, g in of("vae", gradients(parts.learner, data)).items()
    )


def test_a_sample_teaches_the_same_in_any_company(index):
    method, parts = built(index, **ON)
    data = taught(parts, index, method)
    together = gradients(parts.learner, data)
    apart = [gradients(parts.learner, {k: v[n : n + 1] for k, v in data.items()}) for n in range(4)]
    for name, gradient in together.items():
        mean = torch.stack([one[name] for one in apart]).mean(0)
        torch.testing.assert_close(gradient, mean, rtol=1e-4, atol=1e-6)


def test_the_loss_is_that_without_it_to_the_bit(index):
    method, parts = built(index, **ON)
    data = taught(parts, index, method)
    _, plain = built(index)
    ours, theirs = parts.learner(data), plain.learner(data)
    assert torch.equal(ours, theirs) and ours.requires_grad


def test_before_its_start_nothing_moves_and_nothing_is_computed(index, monkeypatch):
    method, parts = built(index, **ON, adversary_start_samples=100)
    plain_method, plain = built(index)
    sample = ShardReader(index, "train").read(0)
    told = [method.make_example(parts, sample, position)["adversary"].item() for position in (0, 99, 100)]
    assert told == [0.0, 0.0, 1.0]
    assert method.make_example(parts, sample, 0, "validation")["adversary"].item() == 1.0
    before, across = batch(method, parts, index, 0, 4), batch(method, parts, index, 98, 4)
    expected = gradients(plain.learner, batch(plain_method, plain, index, 0, 4))
    mixed = gradients(parts.learner, across)
    assert any(g.any() for g in of("discriminator", mixed).values())
    monkeypatch.setattr(Discriminator, "_logits", None)
    found = gradients(parts.learner, before)
    assert all(not g.any() for g in of("discriminator", found).values())
    assert len(of("discriminator", found)) == 7  # each of them has a gradient, for those who wait for it
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


# -- the gate ---------------------------------------------------------------------------------------


def test_the_gate_is_open_between_knowing_nothing_and_having_won():
    real = torch.tensor([0.0, -0.5, 0.1, 0.5, 1.2, 1.2])
    fake = torch.tensor([0.0, 0.5, 0.0, -0.5, -1.2, -1.2])
    hinge = torch.tensor([2.0, 3.0, 1.9, 1.0, 0.06, 0.001])
    expected = [0.0, 0.0, 0.5, 1.0, 0.5, 0.0]
    assert gate(real, fake, hinge).tolist() == pytest.approx(expected, abs=1e-5)


def break_it(judge: Discriminator, how: str) -> None:
    with torch.no_grad():
        for parameter in judge.parameters():
            parameter.fill_(float("nan") if how == "not finite" else 0.0)


@pytest.mark.parametrize("how", ["dead", "not finite"])
def test_a_broken_discriminator_leaves_the_autoencoder_alone(index, how):
    method, parts = built(index, **ON)
    plain_method, plain = built(index)
    break_it(parts.learner.discriminator, how)
    found = gradients(parts.learner, batch(method, parts, index, 0, 4))
    expected = gradients(plain.learner, batch(plain_method, plain, index, 0, 4))
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert all(g.isfinite().all() for g in found.values())


@pytest.mark.parametrize(
    ("how", "why", "rate"),
    [
        ("dead", "recordings (", 2e-3),
        ("not finite", "finite", 2e-3),
        ("won", "won ", 0.1),  # the autoencoder hardly learns, and it does
        ("fine", "", 0.02),
    ],
)
def test_a_run_goes_on_without_it_and_says_so(index, tmp_path, monkeypatch, how, why, rate):
    build = module.Discriminator.__init__

    def broken(self, *arguments):
        build(self, *arguments)
        if how in ("dead", "not finite"):
            break_it(self, how)

    monkeypatch.setattr(module.Discriminator, "__init__", broken)
    events: list[dict] = []
    run = tmp_path / "run"
    short(index, run, events, 1e-4, **ON, adversary_learning_rate=rate)
    notes = [event["text"] for event in events if event.get("code") == "adversary-left-out"]
    assert len(notes) == sum("adversary" in event["text"] for event in events if event["event"] == "note")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    validated = [json.loads(line, parse_constant=pytest.fail) for line in lines if '"validation"' in line]
    assert [line["position"] for line in validated] == [16, 32, 48]
    last = validated[-1]
    assert (last["adversary_open"] or 0) == (0 if why else 1)
    if not why:
        assert last["adversary_weight"] > 0 and last["adversary_real"] > last["adversary_fake"]
        assert not notes
        return
    assert len(notes) == 1 and why in notes[0]
    assert (last["adversary_real"] is None) == (how == "not finite")
    if how == "won":
        assert last["adversary_real"] > 1 and last["adversary_fake"] < -1
        return
    short(index, tmp_path / "plain", [], 1e-4)
    assert losses(run) == losses(tmp_path / "plain")
    of_plain = [line for line in read_metrics(tmp_path / "plain") if line["kind"] == "validation"]
    assert [line["loss"] for line in validated] == [line["loss"] for line in of_plain]
    assert all(set(line) == {"kind", "position", "loss", "samples"} for line in of_plain)


@pytest.mark.parametrize(
    ("real", "fake", "opened", "why"),
    [
        (-0.022, 0.021, 0.015, "guesses"),  # seen: one of the samples believed it by luck
        (0.011, 0.009, 0.04, "nearly-guesses"),
        (9.0, -9.0, 0.01, "won"),
        (0.0, 0.0, 0.0, "guesses"),
        (0.3, -0.1, 0.05, ""),
        (0.5, -0.5, 1.0, ""),
    ],
)
def test_one_that_guesses_is_named_though_luck_believes_it(real, fake, opened, why):
    adversary = module.Adversary(Discriminator(4, 1.0), 0.5)
    told = adversary.remark({"adversary_real": real, "adversary_fake": fake, "adversary_open": opened})
    if not why:
        assert told == ""
        return
    facts = {"why": why, "opened": opened, "real": real, "fake": fake}
    assert remarked([told], "adversary-left-out").facts == facts
    assert (f"{opened:.1%}" in told) == bool(opened)


def short(index: ShardIndex, run: Path, events: list[dict], rate: float = 4e-3, **changes) -> None:
    config = train_config("autoencoder", **CUT, **changes)
    config.optim.global_batch, config.optim.total_samples, config.optim.warmup_samples = 4, 48, 4
    config.optim.learning_rate = rate
    config.machine.device, config.machine.threads, config.machine.micro_batch = "cpu", 1, 2
    config.save.every_samples, config.save.validate_every_samples, config.save.validation_samples = 24, 16, 4
    train(config, make_method(config, index), index, run, events=events.append)


def test_what_changes_is_said_once_and_taken_back():
    learner = AutoencoderLearner(
        torch.nn.Identity(), AutoencoderConfig("autoencoder", adversary_start_samples=8)
    )
    learner.with_adversary(Discriminator(4, 1.0))
    validation = Validation(None, Modules(learner), [None], World(), 1)
    shut, opened = ({"adversary_open": x, "adversary_real": 0.1, "adversary_fake": 0.2} for x in (0.0, 0.3))
    told = [
        validation.remark(r, at) for at, r in enumerate((shut, shut, shut, opened, opened, shut), start=7)
    ]
    assert [bool(line) for line in told] == [False, False, True, True, False, True]
    assert "(0.10)" in told[2] and "at 10 samples" in told[3]


# -- around it --------------------------------------------------------------------------------------


def test_the_export_is_an_autoencoder_and_nothing_else(index, tmp_path):
    from diffusers import AutoencoderKL
    from safetensors.torch import load_file

    short(index, tmp_path / "run", [], **ON)
    short(index, tmp_path / "plain", [])
    names = [
        set(load_file(str(p / "export/diffusion_pytorch_model.safetensors"))) for p in tmp_path.iterdir()
    ]
    assert names[0] == names[1] and names[0]
    AutoencoderKL.from_pretrained(tmp_path / "run/export", use_safetensors=True)
    method = make_method(
        train_config("autoencoder", **CUT, **ON, init="pretrained", source=tmp_path / "run"), index
    )
    learner = method.build(CPU, torch.float32).learner
    speed = 2e-3 / method.config.optim.learning_rate
    fresh = Discriminator(4, speed, method.config.seed).state_dict()
    assert all(torch.equal(fresh[k], v) for k, v in learner.discriminator.state_dict().items())


def test_how_fast_it_learns_is_its_own_matter():
    """Adam's first step, as large as the learning rate, moves what it computes by its own rate."""
    moved = {}
    for rate in (4e-3, 4e-4):
        judge = Discriminator(4, 2e-3 / rate, seed=1)
        optimizer = torch.optim.Adam(judge.parameters(), lr=rate, eps=1e-30)
        image, decoded = torch.rand(2, 2, 3, 32, 32, generator=torch.manual_seed(0))
        before = judge._logits(image).detach()
        judge(image, decoded, False)[0].mean().backward()
        optimizer.step()
        moved[rate] = (before, judge._logits(image).detach() - before)
    torch.testing.assert_close(moved[4e-3][0], moved[4e-4][0])
    torch.testing.assert_close(moved[4e-3][1], moved[4e-4][1], rtol=1e-2, atol=1e-4)


def test_pitch_matters_to_it():
    judge = Discriminator(4, 1.0)
    image = torch.zeros(1, 3, 64, 64)
    logits = judge._logits(image).reshape(8, 8)
    assert (logits[2] - logits[5]).abs().min() > 1e-3
    torch.testing.assert_close(logits[:, 3], logits[:, 4])


def test_settings_of_old_mean_the_runs_that_they_meant():
    for settings, mark in (
        (["model=small"], "380f606e1ec6"),
        (["method.gradient_weight=0.1", "model=small"], "e7144fd1cd75"),
    ):
        config = compose("train", ["method=autoencoder", *settings])
        assert signature(config, autoencoder="", source="") == mark
        config.method.adversary_weight = 0.5
        assert signature(config, autoencoder="", source="") != mark


def test_a_plan_counts_it(index):
    plain = train_config("autoencoder")
    judged = train_config("autoencoder", **ON, adversary_start_samples=100)
    before, after = (trace_step(config, CODEC.to_json(), 2) for config in (plain, judged))
    assert after.learning - before.learning == sum(p.numel() for p in Discriminator(4, 1.0).parameters())
    assert after.activations > before.activations and after.flops > before.flops


@pytest.mark.parametrize(
    ("changes", "named", "kind"),
    [
        ({"adversary_weight": -1.0}, "adversary_weight=-1", BadValue),
        ({"texture_weight": -0.5}, "texture_weight=-0.5", BadValue),
        ({**ON, "adversary_channels": 0}, "adversary_channels=0", BadValue),
        ({**ON, "adversary_learning_rate": 0.0}, "adversary_learning_rate=0", BadValue),
        ({**ON, "crop_frames": 4}, "method.adversary_weight is set, and pictures are 4 pixels", Mismatch),
    ],
)
def test_what_it_cannot_do_is_refused(index, changes, named, kind):
    with refuses(named, kind=kind):
        make_method(train_config("autoencoder", **changes), index)


def test_bfloat16_learns_much_the_same(tmp_path):
    index = ShardIndex.open(make_shards(tmp_path / "shards"))
    method, parts = built(index, **ON)
    data = taught(parts, index, method)
    exact = gradients(parts.learner, data)
    with torch.autocast("cpu", torch.bfloat16):
        rough = gradients(parts.learner, data)
    ours, theirs = (torch.cat([g.flatten() for g in of("vae", f).values()]) for f in (exact, rough))
    assert functional.cosine_similarity(ours, theirs, dim=0) > 0.9
    assert all(g.isfinite().all() for g in rough.values())
