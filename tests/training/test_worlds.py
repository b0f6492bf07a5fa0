"""What is learnt does not depend on how the work is cut: micro-batches, ranks, engines, ZeRO stages."""

import json
import signal

import numpy as np
import pytest

from birdsd.training.records import Ledger
from tests.training.toy import losses

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def straight(children, tmp_path_factory):
    run = tmp_path_factory.mktemp("straight")
    assert children.train(run) == [0]
    return run


@pytest.fixture(scope="module")
def deepspeed():
    """Imported before the forks: it takes longer than the runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        return pytest.importorskip("deepspeed")


def alike(run, straight, rtol=1e-6):
    ours, theirs = losses(run), losses(straight)
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=rtol)
    assert np.array_equal(Ledger(run).read(), Ledger(straight).read())
    weights = [np.load(r / "export/weights.npy") for r in (run, straight)]
    np.testing.assert_allclose(*weights, atol=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 3, 0])
def test_any_micro_batch(children, straight, tmp_path, micro_batch):
    assert children.train(tmp_path, machine__micro_batch=micro_batch) == [0]
    alike(tmp_path, straight)


@pytest.mark.parametrize("world", [2, 3])
def test_any_world(children, straight, tmp_path, world):
    assert children.train(tmp_path, world=world, machine__micro_batch=2) == [0] * world
    alike(tmp_path, straight)
    commit = json.loads((tmp_path / "checkpoints/000000000120/COMMIT.json").read_text())
    assert commit["world_size"] == world and len(commit["files"]) == world + 1


def test_more_ranks_than_samples(children, tmp_path):
    small = {"optim__global_batch": 2, "optim__total_samples": 12, "save__every_samples": 4}
    assert children.train(tmp_path / "one", **small) == [0]
    assert children.train(tmp_path / "three", world=3, **small) == [0, 0, 0]
    alike(tmp_path / "three", tmp_path / "one")


def test_two_ranks_killed_and_stopped(children, tmp_path):
    """Bitwise for the same world; one rank alone is asked to stop, and both leave at the same step."""
    assert children.train(tmp_path / "straight", world=2) == [0, 0]
    run = tmp_path / "run"
    assert children.train(run, world=2, kill="50") == [KILLED, KILLED]
    assert children.train(run, world=2, stop_at=70) == [0, 0]
    assert (run / "checkpoints/000000000070/COMMIT.json").is_file()
    assert children.train(run, world=2) == [0, 0]
    assert losses(run) == losses(tmp_path / "straight")
    assert np.array_equal(*[np.load(r / "export/weights.npy") for r in (run, tmp_path / "straight")])


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_is_plain_torch_and_resumes(deepspeed, children, straight, tmp_path, stage):
    zero = {"machine__engine": "deepspeed", "machine__zero_stage": stage}
    assert children.train(tmp_path / "straight", **zero) == [0]
    alike(tmp_path / "straight", straight)
    run = tmp_path / "run"
    assert children.train(run, kill="50", **zero) == [KILLED]
    assert children.train(run, stop_at=90, **zero) == [0]
    assert children.train(run, **zero) == [0]
    assert losses(run) == losses(tmp_path / "straight")


@pytest.mark.slow
def test_from_engine_to_engine(deepspeed, children, straight, tmp_path):
    """ZeRO-3 on two ranks -> torch on one -> ZeRO-1 on two -> torch on three -> ZeRO-2 on one."""
    legs = [(2, 3, 30), (1, None, 50), (2, 1, 70), (3, None, 90), (1, 2, 0)]
    for world, stage, stop_at in legs:
        engine = {} if stage is None else {"machine__engine": "deepspeed", "machine__zero_stage": stage}
        assert children.train(tmp_path, world=world, stop_at=stop_at, **engine) == [0] * world
    alike(tmp_path, straight)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_ranks_of_zero_resume_bitwise(deepspeed, children, straight, tmp_path, stage):
    zero = {"machine__engine": "deepspeed", "machine__zero_stage": stage, "world": 2}
    assert children.train(tmp_path / "straight", **zero) == [0, 0]
    alike(tmp_path / "straight", straight)
    assert children.train(tmp_path / "run", stop_at=50, **zero) == [0, 0]
    assert children.train(tmp_path / "run", **zero) == [0, 0]
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "zero1", "zero2", "zero3", "offload"])
def test_bfloat16_learns_the_same(deepspeed, children, straight, tmp_path, engine):
    changes = {"machine__precision": "bf16"}
    if engine == "offload":
        changes = {
            "machine__engine": "deepspeed",
            "machine__zero_stage": 2,
            "machine__offload_optimizer": True,
        }
    elif engine != "torch":
        changes.update(machine__engine="deepspeed", machine__zero_stage=int(engine[-1]))
    assert children.train(tmp_path / "straight", **changes) == [0]
    ours, theirs = losses(tmp_path / "straight"), losses(straight)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=2e-2)
    assert children.train(tmp_path / "run", stop_at=50, **changes) == [0]
    assert children.train(tmp_path / "run", **changes) == [0]
    assert losses(tmp_path / "run") == ours
