"""An EMA of a length that is chosen after training, against the average itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.request import Request
from birdsd.diffusion.methods import make_method
from birdsd.errors import AlreadyThere, BadValue, NotFound
from birdsd.files import read_json
from birdsd.runs.models.averaging import average_run
from birdsd.runs.run import open_training
from birdsd.schema import OptimConfig
from birdsd.training import loop
from birdsd.training.averages import exponential_profile, mixed, mixture_for, power_profile
from birdsd.training.checkpoints.reading import checkpoint_at, positions
from birdsd.training.engines.ema import Ema
from birdsd.training.schedule import ema_decay_at
from tests.support.errors import refuses
from tests.support.tiny import autoencoder_folder, index, train_config  # noqa: F401

OPTIM = OptimConfig(global_batch=4, ema_decay=0.97)


def walk(steps: int) -> torch.Tensor:
    """[steps + 1, 3]: weights that wander."""
    return torch.randn(steps + 1, 3, generator=torch.Generator().manual_seed(0)).cumsum(0)


def averaged(path: torch.Tensor) -> list[torch.Tensor]:
    """The EMA after each step, as the engines compute it."""
    weights = path[0].clone()
    ema, found = Ema([weights]), [path[0].clone()]
    for step in range(1, len(path)):
        weights.copy_(path[step])
        ema.update(ema_decay_at(4 * step, OPTIM))
        found.append(ema.averages[0].clone())
    return found


@pytest.mark.parametrize("steps", [0, 1, 7, 120])
def test_a_snapshot_is_the_mixture_that_its_profile_says(steps):
    path = walk(steps)
    profile = exponential_profile(steps, OPTIM)
    assert profile.sum() == pytest.approx(1)
    assert np.allclose(profile @ path.double().numpy(), averaged(path)[-1].numpy(), atol=1e-4)


@pytest.mark.parametrize("length", [0.05, 0.1, 0.25])
def test_the_length_is_the_deviation_as_a_share_of_the_training(length):
    profile, when = power_profile(20_000, length), np.linspace(0, 1, 20_001)
    mean = float(profile @ when)
    assert float(profile @ (when - mean) ** 2) ** 0.5 == pytest.approx(length, rel=0.01)
    assert profile.sum() == pytest.approx(1) and (np.diff(profile) >= 0).all()


@pytest.mark.parametrize("every", [10, 30])
@pytest.mark.parametrize("length", [0.06, 0.1, 0.2, 0.25])
def test_snapshots_mix_to_an_average_that_nobody_kept(length, every):
    """Three times nearer to it, and more, than the average that training kept."""
    path, steps = walk(210), 210
    known, ema = [4 * step for step in range(every, steps + 1, every)], averaged(path)
    mixture = mixture_for(length, known, OPTIM, average=True)
    assert sum(mixture.shares.values()) == pytest.approx(1) and mixture.error < 0.45
    found = sum(
        share * (ema if kind == "ema" else path)[position // 4].double()
        for (kind, position), share in mixture.shares.items()
    )
    true = torch.from_numpy(power_profile(steps, length)) @ path.double()
    off, before = float((found - true).norm()), float((ema[-1].double() - true).norm())
    assert off < 0.33 * before


def test_too_few_checkpoints_give_no_long_average():
    with refuses(("the 1 checkpoints", "length 0.25"), "save.keep", kind=NotFound):
        mixture_for(0.25, [800], OPTIM, average=True)
    for wrong in (0.0, -0.1, 0.4, float("nan")):
        with refuses("--length", kind=BadValue):
            power_profile(10, wrong)


@pytest.fixture(scope="module")
def run(index, autoencoder_folder, tmp_path_factory):  # noqa: F811
    """A finished run of 24 steps that kept a checkpoint every third."""
    config = train_config("full", autoencoder=autoencoder_folder, min_snr_gamma=5.0)
    told = {"learning_rate": 3e-3, "global_batch": 4, "total_samples": 96, "warmup_samples": 0,
            "ema_decay": 0.6}  # fmt: skip
    for name, value in told.items():
        setattr(config.optim, name, value)
    config.machine.device, config.machine.cache_latents, config.data.shards = "cpu", False, str(index.folder)
    config.save.every_samples, config.save.keep, config.save.validate_every_samples = 12, 20, 0
    config.runs = str(tmp_path_factory.mktemp("averages") / "runs")
    opened, shards = open_training(config)
    loop.train(config, make_method(config, shards), shards, opened.folder, lambda: False)
    return opened


def test_a_runs_model_gets_another_average(run, capsys):
    from birdsd.cli.main import main

    runs = str(run.folder.parent)
    assert main(["ema", run.folder.name, "--length", "0.15", "--runs", runs, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    made, before = Generator(facts["folder"]), Generator(run.export_folder)
    known = positions(run.folder)
    assert len(known) == 8 and facts["positions"] == known and 0 < facts["error"] < 0.5
    optim = OptimConfig(**run.config["optim"])
    checkpoints = [checkpoint_at(run.folder, position) for position in known]
    expected = mixed(checkpoints, mixture_for(0.15, known, optim, average=True))
    state = made.pipeline.unet.state_dict()
    for name, tensor in state.items():
        assert torch.allclose(tensor, expected[f"unet.{name}"], atol=1e-6)
    assert any(not torch.equal(state[k], v) for k, v in before.pipeline.unet.state_dict().items())
    assert made.species == before.species and made.identity != before.identity
    assert read_json(made.folder / "training.json")["averaged"]["length"] == 0.15
    request = Request(("an American Robin",), steps=2)
    assert made.latents(request, request.prompts, [0]).isfinite().all()
    assert average_run(str(run.folder), 0.15)[0]["error"] == facts["error"]  # again, over its own


def test_the_average_never_replaces_anything_else(run, tmp_path):
    with refuses(str(tmp_path), "--out", kind=AlreadyThere):
        average_run(str(run.folder), 0.15, tmp_path)
    with refuses("export", "--out", kind=AlreadyThere):
        average_run(str(run.folder), 0.15, run.export_folder)
    with refuses("--length 3", kind=BadValue):
        average_run(str(run.folder), 3.0, tmp_path / "new")
    assert not (tmp_path / "new").exists()
