"""Every method through the training loop: the same weights come out where it is killed, stopped and resumed,
in other worlds, under ZeRO."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from dataclasses import asdict
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from birdsd import config as config_of
from birdsd.config import compose
from birdsd.diffusion.learning.class_images import ClassPictures
from birdsd.diffusion.methods import make_method
from birdsd.shards.index import ShardIndex
from birdsd.shards.order import SampleOrder
from birdsd.training.batches.batches import make_order
from birdsd.training.loop import train
from birdsd.training.records import Ledger, read_metrics
from birdsd.training.schedule import ema_decay_at
from tests.support.taught import WAYS, configured, exported, trained
from tests.support.tiny import batch, make_shards
from tests.support.toy import fork_ranks, losses

KILLED = -signal.SIGKILL
# Patterns of the parameters that learn; all where nothing stands here.
LEARNS = {
    "full-learns": WAYS["full-learns"]["learns"],
    "lora": ["*.lora_?.*"],
    "ti": ["text_encoder.*.rows"],
    "db-lora": ["*.lora_?.*"],
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Three robins to every wren."""
    return make_shards(tmp_path_factory.mktemp("taught"), species_of=lambda number: int(number % 4 == 3))


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


def same_curve(run: Path, other: Path, rtol: float) -> None:
    """The losses of every step and of every validation, and which samples were seen."""
    ours, theirs = losses(run), losses(other)
    assert list(ours) == list(theirs) == list(range(4, 25, 4))
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=rtol)
    validated, expected = ([x for x in read_metrics(r) if x["kind"] == "validation"] for r in (run, other))
    assert [x["position"] for x in validated] == [16]
    assert validated[0]["loss"] == pytest.approx(expected[0]["loss"], rel=rtol or 1e-12)
    assert np.array_equal(Ledger(run).read(), Ledger(other).read())


# -- what learns, and what does not -----------------------------------------------------------------


def named_to_learn(way: str, learner) -> set[str]:
    patterns = LEARNS.get(way, ["*"])
    return {name for name, _ in learner.named_parameters() if any(fnmatchcase(name, p) for p in patterns)}


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_where_they_should_be_checkpointed_or_not(way, shards, pipeline_folder):
    index, gradients = ShardIndex.open(shards), []
    for checkpointing in (False, True):
        config = configured(way, pipeline_folder, gradient_checkpointing=checkpointing)
        method = make_method(config, index)
        parts = method.build(torch.device("cpu"), torch.float32)
        method.setup(parts, list, lambda: None)
        parts.learner(batch(method, parts, index, 0, 4)).mean().backward()
        reached = {name: p.grad for name, p in parts.learner.named_parameters() if p.grad is not None}
        assert reached.keys() == named_to_learn(way, parts.learner)
        assert all(p.grad is None for module in parts.frozen.values() for p in module.parameters())
        gradients.append(reached)
    assert sum(g.abs().sum() for g in gradients[0].values()) > 0
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_moves_what_learns_and_leaves_the_rest_to_the_bit(way, shards, pipeline_folder, tmp_path):
    """After AdamW with weight decay, validation and export. What is given away is the average of the weights,
    computed here once more."""
    held, weights = [], {}

    def watched(method):
        build = method.build
        method.build = lambda *arguments: held.append(build(*arguments)) or held[-1]
        return method

    def seen(position: int) -> None:
        if held and position not in weights:
            weights[position] = {n: p.detach().clone() for n, p in held[0].learner.named_parameters()}

    trained(way, shards, pipeline_folder, tmp_path, watched=watched, seen=seen)
    config = configured(way, pipeline_folder)
    untouched = make_method(config, ShardIndex.open(shards)).build(torch.device("cpu"), torch.float32)
    start = dict(untouched.learner.named_parameters())
    taught, given = (dict(parts.learner.named_parameters()) for parts in held)
    learning = named_to_learn(way, untouched.learner)
    for name, before in start.items():
        if name not in learning:
            assert torch.equal(taught[name], before) and torch.equal(given[name], before), name
        elif "k_proj.bias" not in name:  # softmax does not see that one
            average = before.detach()
            for position in range(4, 25, 4):
                decay = ema_decay_at(position, config.optim)
                average = decay * average + (1 - decay) * weights[position][name]
            torch.testing.assert_close(given[name].detach(), average, rtol=1e-5, atol=1e-6)
            assert not torch.equal(taught[name], before) and not torch.equal(given[name], taught[name]), name
    for parts in held:
        for part, module in parts.frozen.items():
            now, then = module.state_dict(), untouched.frozen[part].state_dict()
            assert now.keys() == then.keys() and all(torch.equal(now[key], then[key]) for key in then), part


# -- resumed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_killed_and_stopped_it_is_the_run_that_was_not(way, straight, shards, pipeline_folder, tmp_path):
    run = tmp_path / "run"
    log = tmp_path / "log.txt"
    killed = fork_ranks(1, lambda _: trained(way, shards, pipeline_folder, run, kill_at=12), log)
    assert killed == [KILLED], log.read_text()[-3000:]
    trained(way, shards, pipeline_folder, run, stop_at=16)
    assert not (run / "export").exists()
    for folder in shards.glob("class-*"):
        shutil.rmtree(folder)  # made anew by the model it starts from, not by what it has become
    trained(way, shards, pipeline_folder, run)
    same_curve(run, straight(way), rtol=0)
    ours, theirs = exported(run), exported(straight(way))
    assert ours.keys() == theirs.keys() and ours
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_which_samples_are_seen_is_decided_by_position_alone(straight, shards, pipeline_folder):
    index = ShardIndex.open(shards)
    plain = SampleOrder(index.shard_sizes("train"), 3).batch(0, 24)
    for way, balanced in (("lora", False), ("ti", True)):
        seen = Ledger(straight(way)).read()
        assert np.array_equal(seen, make_order(configured(way, pipeline_folder), index).batch(0, 24))
        assert np.array_equal(seen, plain) != balanced
        wrens = np.mean(seen % 4 == 3)
        assert wrens == (0.5 if balanced else 0.25)


@pytest.mark.parametrize(("way", "limit"), [("ti", 40_000), ("db-lora", 400_000)])
def test_a_checkpoint_holds_what_learns_and_no_more(way, limit, straight):
    folder = straight(way) / "checkpoints/000000000024"
    assert sum(path.stat().st_size for path in folder.iterdir()) < limit


# -- other worlds -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deepspeed():
    """For the ranks: this process needs none."""
    if find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        yield


def ranks(world: int, log: Path, *arguments, **options) -> list[int]:
    """`trained` in `world` processes: their exit codes. One that lost its killed peer ends with 1."""

    def work(_: int) -> None:
        trained(*arguments, **options)
        sys.stdout.flush()
        os._exit(0)  # DeepSpeed's threads do not matter to anyone any more

    codes = fork_ranks(world, work, log)
    assert set(codes) <= ({KILLED, 1} if "kill_at" in options else {0}), log.read_text()[-3000:]
    return codes


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", [way for way in WAYS if way != "autoencoder-on"]
)  # the same but for its start
def test_any_world_and_stage_of_zero_learns_the_same(
    way, deepspeed, straight, shards, pipeline_folder, tmp_path
):
    """One run: two ranks of plain torch are killed, two of ZeRO-3 go on, one of ZeRO-1, two of ZeRO-2."""
    run, told = tmp_path / "run", (way, shards, pipeline_folder, tmp_path / "run")
    assert KILLED in ranks(2, tmp_path / "log0.txt", *told, kill_at=12)
    for world, stage, stop_at in ((2, 3, 16), (1, 1, 20), (2, 2, 0)):
        zero = {"engine": "deepspeed", "zero_stage": stage, "stop_at": stop_at}
        ranks(world, tmp_path / f"log{stage}.txt", *told, **zero)
    came_from = [line["from"]["engine"] for line in read_metrics(run) if line["kind"] == "resume"]
    assert came_from[-2:] == ["deepspeed-zero3", "deepspeed-zero1"]
    same_curve(run, straight(way), rtol=1e-5)
    ours, theirs = exported(run), exported(straight(way))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5)


def variants() -> dict[str, dict[str, object]]:
    """The machine presets, and smoke with all that may be otherwise, on this machine's CPU in float32."""
    presets = [preset.name for preset in config_of.presets()["machine"] if preset.name != "auto"]
    found = {name: asdict(compose("train", [f"machine={name}"]).machine) for name in presets}
    smoke = found["smoke"]
    found["smoke, frugal"] = {
        **smoke, "micro_batch": 1, "gradient_checkpointing": True, "offload_optimizer": True,
        "save_in_background": False,
    }  # fmt: skip
    found["smoke, nothing kept"] = {**smoke, "micro_batch": 3, "cache_latents": False, "prefetch_batches": 1}
    return {
        name: {**settings, "device": "cpu", "precision": "fp32", "threads": 1}
        for name, settings in found.items()
    }


@pytest.mark.parametrize("preset", variants())
def test_every_machine_follows_the_same_trajectory(
    preset, deepspeed, straight, shards, pipeline_folder, tmp_path
):
    ranks(1, tmp_path / "log.txt", "full", shards, pipeline_folder, tmp_path / "run", **variants()[preset])
    same_curve(tmp_path / "run", straight("full"), rtol=1e-4)
    ours, theirs = exported(tmp_path / "run"), exported(straight("full"))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=2e-4)


@pytest.mark.parametrize("way", ["full-learns", "clip", "autoencoder", "adversary", "upscaler", "lora"])
def test_offloaded_in_low_precision_it_is_previewed(way, shards, pipeline_folder, tmp_path):
    """The learner is in 16 bit then, what is frozen in it too."""
    config = configured(way, pipeline_folder, offload_optimizer=True, precision="bf16")
    config.save.preview_every_samples, config.save.preview_prompts = 16, ["a robin"]
    config.optim.total_samples = 16
    index = ShardIndex.open(shards)
    train(config, make_method(config, index), index, tmp_path / "run")
    assert list((tmp_path / "run/previews").glob("*/*.*"))


def test_class_pictures_survive_a_kill_and_are_made_once_by_all_ranks(pipeline_folder, tmp_path):
    shards = make_shards(tmp_path / "shards")
    trained("db-lora", shards, pipeline_folder, tmp_path / "alone")
    (folder,) = shards.glob("class-*")
    whole = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
    kept = sorted((shards / "cache").glob("pictures-*/*.npy"))
    assert len(kept) == 4  # their latents
    shutil.rmtree(folder)
    told = ("db-lora", shards, pipeline_folder, tmp_path / "run")

    def dies(rank: int) -> None:
        write = ClassPictures._write

        def once(self, *arguments):
            write(self, *arguments)
            while (
                len(list(self.folder.glob("[0-9]*.png"))) < 2
            ):  # the other rank's: it must not miss this one
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

        ClassPictures._write = once
        trained(*told)

    assert fork_ranks(2, dies, tmp_path / "log.txt") == [KILLED, KILLED]
    first = {path: path.stat().st_mtime_ns for path in folder.glob("[0-9]*.png")}
    assert sorted(path.name for path in first) == ["00000.png", "00002.png"]  # each rank's own batch of two
    ranks(2, tmp_path / "log2.txt", *told)
    assert sorted((shards / "cache").glob("pictures-*/*.npy")) == kept
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")} == whole
    assert {path: path.stat().st_mtime_ns for path in first} == first
