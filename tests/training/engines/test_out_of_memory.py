"""Out of memory in the middle of a run: taken back, halved, and the run goes on as if nothing had been."""

import json

import numpy as np
import pytest
import torch

from birdsd.errors import UserError
from birdsd.shards.index import ShardIndex
from birdsd.training.batches.batches import Examples
from birdsd.training.batches.global_batch import BatchPlan
from birdsd.training.engines.out_of_memory import (
    MICRO_BATCH_FILE,
    OutOfMemory,
    is_out_of_memory,
    oom_event,
    resplit,
)
from birdsd.training.loop import train
from birdsd.training.records import Ledger, read_metrics
from tests.support.errors import refuses
from tests.support.toy import ToyMethod, losses, toy_config

SPENT = "CUDA out of memory. Tried to allocate 2.00 GiB"


class _Spent(torch.autograd.Function):
    """Has no room for the gradient."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        raise torch.OutOfMemoryError(SPENT)


class Narrow(ToyMethod):
    """Room for `room` samples at a time from the third step on: beyond them `place` runs out of memory."""

    room, place, rank = 2, "forward", None

    def build(self, device, dtype):
        parts = super().build(device, dtype)
        method, calls, forward = self, [], parts.learner.forward

        def short(batch):
            import os

            mine = method.rank is None or os.environ.get("RANK", "0") == str(method.rank)
            calls.append(len(batch["clean"]))
            return mine and len(calls) > 7 and len(batch["clean"]) > method.room

        def narrow(batch):
            if short(batch) and torch.is_grad_enabled():
                if method.place == "forward":
                    raise torch.OutOfMemoryError(SPENT)
                batch = {**batch, "noisy": _Spent.apply(batch["noisy"].requires_grad_())}
            return forward(batch)

        parts.learner.forward = narrow
        return parts

    def encode_batch(self, parts, batch):
        if self.place == "prepare" and len(batch["clean"]) > self.room:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")
        return batch


class NarrowBackward(Narrow):
    place = "backward"


class NarrowPrepare(Narrow):
    place = "prepare"


class NarrowOther(Narrow):
    rank = 1  # the other rank has room enough


class NarrowOtherBackward(NarrowOther):
    place = "backward"


class NoRoom(Narrow):
    room = 0


def alike(run, straight):
    ours, theirs = losses(run), losses(straight)
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)
    ledger = Ledger(run).read()
    assert len(ledger) == 120 and np.array_equal(ledger, Ledger(straight).read())
    weights = [np.load(r / "export/weights.npy") for r in (run, straight)]
    np.testing.assert_allclose(*weights, atol=1e-6)


def shortages(run):
    lines = (run / "log.txt").read_text().splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return [e for e in events if e["event"] == "out of memory"]


@pytest.fixture(scope="module")
def straight(children, tmp_path_factory):
    run = tmp_path_factory.mktemp("straight")
    assert children.train(run) == [0]
    return run


@pytest.mark.parametrize("method", [Narrow, NarrowBackward, NarrowPrepare])
def test_halved_and_redone(children, straight, tmp_path, method):
    assert children.train(tmp_path, method=method, machine__micro_batch=10) == [0]
    alike(tmp_path, straight)
    found = shortages(tmp_path)
    assert [(e["before"], e["micro_batch"]) for e in found] == [(10, 5), (5, 2)]
    assert len({e["position"] for e in found}) == 1, "the same step was done again"
    said = (tmp_path / "log.txt").read_text()
    assert all(oom_event(e["reason"], e["position"], e["before"], e["micro_batch"])[0] in said for e in found)


@pytest.mark.parametrize("method", [Narrow, NarrowOther, NarrowOtherBackward])
def test_two_ranks_shrink_together(children, straight, tmp_path, method):
    assert children.train(tmp_path, world=2, method=method, machine__micro_batch=0) == [0, 0]
    alike(tmp_path, straight)
    assert [(e["before"], e["micro_batch"]) for e in shortages(tmp_path)] == [(5, 2)]


def test_the_next_start_remembers(children, straight, tmp_path):
    """On the same machine with the same settings; with others it tries what was asked for."""
    assert children.train(tmp_path, method=Narrow, stop_at=90, machine__micro_batch=10) == [0]
    assert json.loads((tmp_path / MICRO_BATCH_FILE).read_text())["micro_batch"] == 2
    before = len(shortages(tmp_path))
    assert children.train(tmp_path, method=Narrow, machine__micro_batch=10) == [0]
    assert before == 2 and len(shortages(tmp_path)) == before
    alike(tmp_path, straight)


def test_one_sample_is_the_least(shards, tmp_path):
    index, config = ShardIndex.open(shards), toy_config(machine__micro_batch=3)
    with refuses("CUDA out of memory", "machine.gradient_checkpointing=true", kind=UserError) as caught:
        train(config, NoRoom(config, index), index, tmp_path)
    said = str(caught.value)
    assert "1 x 10 pieces of 1" in said and SPENT in said
    for way in ("gradient_checkpointing", "offload_optimizer", "birdsd plan", "machine.micro_batch=1"):
        assert way in said


class NarrowBeside(ToyMethod):
    """No room for more than three samples in validation, and for no preview at all."""

    def encode_batch(self, parts, batch):
        if len(batch["clean"]) > 3 and not any(p.grad is None for p in parts.learner.parameters()):
            import inspect

            if any(frame.function == "_losses" for frame in inspect.stack()):
                raise torch.OutOfMemoryError(SPENT)
        return batch

    def preview(self, parts, prompts, folder):
        if folder.name == "export":
            return super().preview(parts, prompts, folder)
        raise torch.OutOfMemoryError(SPENT)


def test_validation_is_halved_and_a_preview_left_out(children, straight, tmp_path):
    changes = {"save__preview_every_samples": 40, "machine__micro_batch": 8}
    assert children.train(tmp_path / "run", method=NarrowBeside, **changes) == [0]
    alike(tmp_path / "run", straight)
    ours, theirs = (
        [line["loss"] for line in read_metrics(run) if line["kind"] == "validation"]
        for run in (tmp_path / "run", straight)
    )
    assert len(ours) == 3
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    told = (tmp_path / "run" / "log.txt").read_text()
    assert told.count('"event": "preview skipped"') == 3 and "position 40" in told


@pytest.fixture(scope="module")
def deepspeed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        return pytest.importorskip("deepspeed")


@pytest.mark.parametrize(
    ("world", "stage", "method"),
    [
        (1, 2, Narrow),
        (1, 2, NarrowBackward),
        (1, 3, Narrow),
        (2, 1, NarrowOther),
        (2, 2, NarrowOther),
        (2, 3, NarrowPrepare),
    ],
)
@pytest.mark.slow
def test_deepspeed(deepspeed, children, straight, tmp_path, world, stage, method):
    changes = {"machine__engine": "deepspeed", "machine__zero_stage": stage, "machine__micro_batch": 4}
    assert children.train(tmp_path, world=world, method=method, **changes) == [0] * world
    alike(tmp_path, straight)
    assert [(e["before"], e["micro_batch"]) for e in shortages(tmp_path)] == [(4, 2)]


@pytest.mark.slow
def test_deepspeed_in_a_collective(deepspeed, children, straight, tmp_path):
    """Nobody can leave a collective that its peers are in: the same command goes on, with less at a time."""
    changes = {"machine__engine": "deepspeed", "machine__zero_stage": 2, "machine__collective_timeout_s": 5}
    run = {"world": 2, "method": NarrowOtherBackward, **changes}
    assert children.train(tmp_path, fails=True, **run) == [1, 1]
    assert MICRO_BATCH_FILE in (tmp_path / "log.txt").read_text(), "where the smaller micro-batch is kept"
    assert children.train(tmp_path, **run) == [0, 0]
    alike(tmp_path, straight)


def test_what_allocators_say():
    for error in (torch.OutOfMemoryError(), MemoryError(), RuntimeError("CUDA error: out of memory"),
                  RuntimeError("DefaultCPUAllocator: can't allocate memory"),
                  RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")):  # fmt: skip
        assert is_out_of_memory(error)
    for error in (RuntimeError("shapes do not fit"), ValueError("out of memory"), OutOfMemory("x")):
        assert not is_out_of_memory(error)


def test_recut_keeps_every_sample_once():
    for batch, world, old, new in ((10, 1, 4, 2), (10, 3, 4, 1), (2, 3, 1, 1), (7, 2, 4, 2)):
        for rank in range(world):
            plan = BatchPlan(batch, world, rank, old)
            made = [
                Examples({"n": torch.tensor(m.offsets)}, torch.tensor(m.weights), [], {})
                for m in plan.micro_batches()
            ]
            for micro in made:  # one sample could not be decoded
                micro.weights[micro.tensors["n"] == 1] = 0
            cut = resplit(made, BatchPlan(batch, world, rank, new))
            assert len(cut) == BatchPlan(batch, world, rank, new).count
            seen = [int(n) for m in cut for n, w in zip(m.tensors["n"], m.weights, strict=True) if w]
            assert seen == [n for n in plan.slice if n != 1]
            assert all(len(m.weights) <= new for m in cut)
