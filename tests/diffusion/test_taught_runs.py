"""Textual inversion and DreamBooth through the training loop: the same weights come out where it is stopped
and resumed, in other worlds, under ZeRO."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from birdsd.diffusion.methods import make_method
from birdsd.shards.index import ShardIndex
from tests.diffusion.conftest import make_shards, train_config
from tests.training.toy import fork_ranks, losses

OPTIM = {"learning_rate": 1e-2, "global_batch": 4, "total_samples": 32, "warmup_samples": 4, "ema_decay": 0.5}
WAYS = {
    "ti": {"name": "textual_inversion", "vectors": 2, "initial_word": "song"},
    "db-lora": {"name": "dreambooth", "rank": 2, "class_samples": 4, "class_steps": 2},
    "db-full": {"name": "dreambooth", "base_method": "full", "class_samples": 4, "class_steps": 2},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("taught"))


def trained(way: str, shards: Path, source: Path, run: Path, stop_at: int = 0, **machine) -> None:
    from birdsd.training import loop

    settings = dict(WAYS[way])
    config = train_config(settings.pop("name"), init="pretrained", source=source, **settings)
    for name, value in OPTIM.items():
        setattr(config.optim, name, value)
    for name, value in {"device": "cpu", "threads": 1, "micro_batch": 2, **machine}.items():
        setattr(config.machine, name, value)
    config.save.every_samples, config.save.validate_every_samples, config.save.validation_samples = 8, 16, 4
    config.save.preview_every_samples = 16
    index = ShardIndex.open(shards)
    reached = []
    loop.train(
        config,
        make_method(config, index),
        index,
        run,
        should_stop=lambda: bool(stop_at) and bool(reached) and reached[-1] >= stop_at,
        beat=lambda pulse: reached.append(pulse.position),
    )


def exported(run: Path) -> dict[str, torch.Tensor]:
    """What the method gives away, without the parts that are the base's own."""
    from safetensors.torch import load_file

    given = ("embeddings", "unet", "export")
    files = [f for f in sorted((run / "export").rglob("*.safetensors")) if f.parent.name in given]
    return {f"{file.stem}/{name}": value for file in files for name, value in load_file(str(file)).items()}


@pytest.fixture(scope="module")
def straight(shards, pipeline_folder, tmp_path_factory):
    """way -> a run without interruption, made when it is first asked for."""
    made: dict[str, Path] = {}

    def run(way: str) -> Path:
        if way not in made:
            made[way] = tmp_path_factory.mktemp(way) / "run"
            trained(way, shards, pipeline_folder, made[way])
        return made[way]

    return run


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_is_the_run_that_was_not_stopped(way, straight, shards, pipeline_folder, tmp_path):
    run = tmp_path / "run"
    trained(way, shards, pipeline_folder, run, stop_at=12)
    assert not (run / "export").exists()
    for folder in shards.glob("class-*"):
        shutil.rmtree(folder)  # made anew by the model it starts from, not by what it has become
    trained(way, shards, pipeline_folder, run)
    assert losses(run) == losses(straight(way)) and len(losses(run)) == 8
    ours, theirs = exported(run), exported(straight(way))
    assert ours.keys() == theirs.keys() and ours
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("way", "limit"), [("ti", 40_000), ("db-lora", 400_000)])
def test_a_checkpoint_holds_what_learns_and_no_more(way, limit, straight):
    folder = straight(way) / "checkpoints/000000000032"
    assert sum(path.stat().st_size for path in folder.iterdir()) < limit


@pytest.mark.slow
@pytest.mark.parametrize(("way", "stage"), [("ti", 0), ("db-lora", 0), ("ti", 3), ("db-lora", 2)])
def test_two_ranks_learn_the_same(way, stage, straight, shards, pipeline_folder, tmp_path, monkeypatch):
    """Stopped and resumed on the way, with class pictures that the two make together."""
    machine = {"engine": "deepspeed", "zero_stage": stage} if stage else {}
    if stage:
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")
        pytest.importorskip("deepspeed")  # before the forks: it takes longer than the runs
    reference = straight(way)
    for folder in shards.glob("class-*"):
        shutil.rmtree(folder)
    run = tmp_path / "run"

    def rank(stop_at: int) -> None:
        trained(way, shards, pipeline_folder, run, stop_at=stop_at, **machine)
        sys.stdout.flush()
        os._exit(0)  # DeepSpeed's threads do not matter to anyone any more

    for stop_at in (12, 0):
        log = tmp_path / f"log{stop_at}.txt"
        assert fork_ranks(2, lambda _, at=stop_at: rank(at), log) == [0, 0], log.read_text()[-3000:]
    ours, theirs = losses(run), losses(reference)
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-4)
    ours, theirs = exported(run), exported(reference)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-4)
