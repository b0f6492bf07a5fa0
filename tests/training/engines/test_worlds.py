"""What is learnt does not depend on how the work is cut: micro-batches, ranks, engines, ZeRO stages."""

import json
import signal
import time

import numpy as np
import pytest
import torch

from birdsd.training.devices.world import World
from birdsd.training.records import Ledger
from tests.support.toy import OddMethod, ToyMethod, fork_ranks, losses

KILLED = -signal.SIGKILL
# 50 steps, so that what begins as a rounding has the time to grow.
LONG = {"optim__total_samples": 500, "save__every_samples": 100, "save__validate_every_samples": 250}


@pytest.fixture(scope="module")
def straight(children, tmp_path_factory):
    run = tmp_path_factory.mktemp("straight")
    assert children.train(run, **LONG) == [0]
    return run


@pytest.fixture(scope="module")
def deepspeed():
    """Imported before the forks: it takes longer than the runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        return pytest.importorskip("deepspeed")


def zero(stage, **offload):
    """Changes of the configuration; stage None is plain torch."""
    if stage is None:
        return {}
    chosen = {"engine": "deepspeed", "zero_stage": stage, **offload}
    return {f"machine__{name}": value for name, value in chosen.items()}


def alike(run, straight, rtol=1e-5, atol=1e-6):
    """The curve, the samples, and the exported weights, which are the EMA."""
    ours, theirs = losses(run), losses(straight)
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=rtol)
    assert np.array_equal(Ledger(run).read(), Ledger(straight).read())
    weights = [np.load(r / "export/weights.npy") for r in (run, straight)]
    np.testing.assert_allclose(*weights, atol=atol)


def same(run, straight):
    """Bit by bit."""
    assert losses(run) == losses(straight)
    assert np.array_equal(*[np.load(r / "export/weights.npy") for r in (run, straight)])


def legs(children, run, *ways, method=ToyMethod):
    """One run, carried out in each of `ways` in turn: (world, changes), for the same share of its samples."""
    for number, (world, changes) in enumerate(ways, start=1):
        stop_at = 100 * (number * 5 // len(ways)) if number < len(ways) else 0
        codes = children.train(run, world=world, stop_at=stop_at, method=method, **LONG, **changes)
        assert codes == [0] * world


@pytest.mark.parametrize("micro_batch", [1, 3, 0])
def test_any_micro_batch(children, straight, tmp_path, micro_batch):
    assert children.train(tmp_path, machine__micro_batch=micro_batch, **LONG) == [0]
    alike(tmp_path, straight)


@pytest.mark.parametrize("world", [2, 3])
def test_any_world(children, straight, tmp_path, world):
    assert children.train(tmp_path, world=world, machine__micro_batch=2, **LONG) == [0] * world
    alike(tmp_path, straight)
    commit = json.loads((tmp_path / "checkpoints/000000000500/COMMIT.json").read_text())
    assert commit["world_size"] == world and len(commit["files"]) == world + 1


def test_more_ranks_than_samples(children, tmp_path):
    small = {"optim__global_batch": 2, "optim__total_samples": 12, "save__every_samples": 4}
    assert children.train(tmp_path / "one", **small) == [0]
    assert children.train(tmp_path / "three", world=3, **small) == [0, 0, 0]
    alike(tmp_path / "three", tmp_path / "one")


def test_two_ranks_killed_and_stopped(children, tmp_path):
    """Bitwise for the same world; one rank alone is asked to stop, and both leave at the same step."""
    assert children.train(tmp_path / "straight", world=2, **LONG) == [0, 0]
    run = tmp_path / "run"
    assert children.train(run, world=2, kill="250", **LONG) == [KILLED, KILLED]
    assert children.train(run, world=2, stop_at=370, **LONG) == [0, 0]
    assert (run / "checkpoints/000000000370/COMMIT.json").is_file()
    assert children.train(run, world=2, **LONG) == [0, 0]
    same(run, tmp_path / "straight")


def test_a_peer_that_never_comes(tmp_path):
    """A collective that one rank does not join ends the others, after as long as they were told to wait."""

    def work(rank):
        world = World.from_environment()
        world.start(torch.device("cpu"), timeout_s=1)
        if rank == 1:
            while not (tmp_path / "given up").exists():
                time.sleep(0.05)
            return
        with pytest.raises(RuntimeError, match=r"(?i)timed out|timeout"):
            world.exchange(np.zeros(1, np.int64))
        (tmp_path / "given up").touch()

    assert fork_ranks(2, work, tmp_path / "log.txt") == [0, 0], (tmp_path / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_is_plain_torch_and_resumes(deepspeed, children, straight, tmp_path, stage):
    changes = {**LONG, **zero(stage)}
    assert children.train(tmp_path / "straight", **changes) == [0]
    alike(tmp_path / "straight", straight)
    run = tmp_path / "run"
    assert children.train(run, kill="250", **changes) == [KILLED]
    assert children.train(run, stop_at=390, **changes) == [0]
    assert children.train(run, **changes) == [0]
    same(run, tmp_path / "straight")


@pytest.mark.slow
def test_from_engine_to_engine(deepspeed, children, straight, tmp_path):
    ways = [(2, zero(3)), (1, zero(None)), (2, zero(1)), (3, zero(None)), (1, zero(2))]
    legs(children, tmp_path, *ways)
    alike(tmp_path, straight)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_ranks_of_zero_resume_bitwise(deepspeed, children, straight, tmp_path, stage):
    changes = {**LONG, **zero(stage), "world": 2}
    assert children.train(tmp_path / "straight", **changes) == [0, 0]
    alike(tmp_path / "straight", straight)
    assert children.train(tmp_path / "run", stop_at=250, **changes) == [0, 0]
    assert children.train(tmp_path / "run", **changes) == [0, 0]
    same(tmp_path / "run", tmp_path / "straight")


@pytest.fixture(scope="module")
def odd(children, tmp_path_factory):
    run = tmp_path_factory.mktemp("odd")
    assert children.train(run, method=OddMethod, **LONG) == [0]
    return run


@pytest.mark.slow
def test_four_ranks_of_zero_3_and_back(deepspeed, children, odd, tmp_path):
    """Where the ranks divide no tensor's size, each rank's last piece is padded."""
    legs(children, tmp_path, (4, zero(3)), (1, zero(None)), (4, zero(3)), method=OddMethod)
    alike(tmp_path, odd, atol=5e-5)


@pytest.mark.slow
def test_offloaded_and_back(deepspeed, children, odd, tmp_path):
    """Optimizer and parameters wait in host memory, at other world sizes in turn, and in none."""
    both = zero(3, offload_parameters=True, offload_optimizer=True)
    ways = [
        (2, both),
        (1, zero(None)),
        (1, zero(3, offload_parameters=True)),
        (2, zero(2, offload_optimizer=True)),
        (1, both),
    ]
    legs(children, tmp_path, *ways, method=OddMethod)
    alike(tmp_path, odd, atol=5e-5)


BFLOAT16 = {
    "torch": zero(None),
    "zero1": zero(1),
    "zero2": zero(2),
    "zero3": zero(3),
    "zero2, optimizer offloaded": zero(2, offload_optimizer=True),
    "zero3, all offloaded": zero(3, offload_parameters=True, offload_optimizer=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", BFLOAT16)
def test_bfloat16_learns_the_same(deepspeed, children, straight, tmp_path, way):
    changes = {**LONG, "machine__precision": "bf16", **BFLOAT16[way]}
    assert children.train(tmp_path / "straight", **changes) == [0]
    alike(tmp_path / "straight", straight, rtol=1e-2, atol=1e-2)
    assert children.train(tmp_path / "run", stop_at=250, **changes) == [0]
    assert children.train(tmp_path / "run", **changes) == [0]
    same(tmp_path / "run", tmp_path / "straight")
