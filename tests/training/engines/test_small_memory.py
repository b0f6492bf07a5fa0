"""What a small machine does otherwise teaches the same: optimizer in host memory, moments in 8 bits, saves
without a copy."""

from __future__ import annotations

import json
import signal
import weakref
from contextlib import closing
from shutil import which

import numpy as np
import pytest
import torch
from torch import nn

from birdsd.diffusion.learning.base import Modules
from birdsd.errors import Unsupported, UserError
from birdsd.schema import OptimConfig
from birdsd.shards.index import ShardIndex
from birdsd.training import loop
from birdsd.training.checkpoints import checkpoint as checkpoints
from birdsd.training.checkpoints.checkpoint import Checkpointer
from birdsd.training.checkpoints.tensorfile import TensorBuffer, TensorFile, TensorStream
from birdsd.training.devices.precision import Precision
from birdsd.training.devices.world import World
from birdsd.training.engines.adam8 import MOMENTS, AdamW8bit
from birdsd.training.engines.choice import make_engine
from birdsd.training.engines.offload_engine import LossScale, OffloadEngine
from birdsd.training.engines.torch_engine import TorchEngine, compile_in_place
from birdsd.training.previews import build_from_checkpoint
from tests.support.errors import refuses
from tests.support.toy import OPTIM, OddMethod, ToyLearner, ToyMethod, losses, toy_config
from tests.training.checkpoints.test_failed_saves import fill, small_disk  # noqa: F401 - a fixture
from tests.training.engines.test_out_of_memory import Narrow, NarrowBackward, shortages
from tests.training.engines.test_worlds import LONG, alike, legs, same, zero

CPU = torch.device("cpu")
KILLED = [-signal.SIGKILL]
OFFLOAD = {"machine__offload_optimizer": True}
EIGHT = {"machine__optimizer_bits": 8}
STREAM = {"machine__save_in_background": False}


@pytest.fixture(scope="module")
def straight(children, tmp_path_factory):
    run = tmp_path_factory.mktemp("straight")
    assert children.train(run, **LONG) == [0]
    return run


def checkpoint_of(run, position=500):
    """kind/name -> tensor, of the last checkpoint."""
    folder = run / f"checkpoints/{position:012d}"
    file = TensorFile(folder / "tensors-00000-of-00001.safetensors")
    commit = json.loads((folder / "COMMIT.json").read_text())
    return {key: file.tensor(key) for key in commit["tensors"]}


# -- the optimizer in host memory -----------------------------------------------------------------------


def test_offloaded_it_is_plain_torch_to_the_bit(children, straight, tmp_path):
    assert children.train(tmp_path, **LONG, **OFFLOAD, **STREAM) == [0]
    same(tmp_path, straight)
    ours, theirs = checkpoint_of(tmp_path), checkpoint_of(straight)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_killed_and_stopped_it_goes_on(children, straight, tmp_path):
    assert children.train(tmp_path, kill="170", **LONG, **OFFLOAD) == KILLED
    assert children.train(tmp_path, stop_at=330, **LONG, **OFFLOAD) == [0]
    assert children.train(tmp_path, **LONG, **OFFLOAD) == [0]
    same(tmp_path, straight)


def test_from_engine_to_engine(children, tmp_path):
    pytest.importorskip("deepspeed")
    assert children.train(tmp_path / "straight", method=OddMethod, **LONG) == [0]
    ways = [(1, OFFLOAD), (2, zero(2)), (1, {**OFFLOAD, **STREAM}), (1, {})]
    legs(children, tmp_path / "run", *ways, method=OddMethod)
    alike(tmp_path / "run", tmp_path / "straight", atol=5e-5)


def test_bfloat16_learns_the_same(children, straight, tmp_path):
    changes = {**LONG, "machine__precision": "bf16", **OFFLOAD}
    assert children.train(tmp_path / "straight", **changes) == [0]
    alike(tmp_path / "straight", straight, rtol=1e-2, atol=1e-2)
    assert children.train(tmp_path / "run", stop_at=250, **changes) == [0]
    assert children.train(tmp_path / "run", **changes) == [0]
    same(tmp_path / "run", tmp_path / "straight")


@pytest.mark.parametrize("method", [Narrow, NarrowBackward])
def test_out_of_memory_is_taken_back(children, tmp_path, method):
    assert children.train(tmp_path / "straight") == [0]
    assert children.train(tmp_path / "run", method=method, **OFFLOAD) == [0]
    assert [e["micro_batch"] for e in shortages(tmp_path / "run")] == [2]
    ours, theirs = losses(tmp_path / "run"), losses(tmp_path / "straight")
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)


def test_several_ranks_are_for_zero(children, tmp_path):
    assert children.train(tmp_path, world=2, fails=True, **OFFLOAD) == [1, 1]
    assert "machine.engine=deepspeed and machine.zero_stage=2" in (tmp_path / "log.txt").read_text()


def step_of(engine, clean: torch.Tensor, weight: float = 1.0):
    batch = {"clean": clean, "noisy": clean + 0.1}
    return engine.step([(lambda n=None: batch, torch.full((len(clean),), weight / len(clean)))], 1e-2, 0.9)


def test_the_device_holds_low_precision_and_no_gradients():
    torch.manual_seed(1)
    learner = ToyLearner()
    learner.norm.requires_grad_(False)
    with closing(
        OffloadEngine(learner, OptimConfig(**OPTIM), Precision("bf16", ""), CPU, World(), 8)
    ) as engine:
        before = learner.inner.weight.detach().clone()
        step_of(engine, torch.rand(4, 12))
        learning = [p for p in learner.parameters() if p.requires_grad]
        assert {p.dtype for p in learning} == {torch.bfloat16} and all(p.grad is None for p in learning)
        assert learner.norm.weight.dtype == torch.bfloat16, "what is frozen too"
        assert not torch.equal(learner.inner.weight, before)
        with engine.ema_weights():
            shown = learner.inner.weight.detach().clone()
        assert not torch.equal(shown, learner.inner.weight)


def test_an_overflow_in_fp16_changes_nothing_but_the_scale():
    torch.manual_seed(1)
    learner = ToyLearner()
    with closing(OffloadEngine(learner, OptimConfig(**OPTIM), Precision("fp16", ""), CPU, World())) as engine:
        engine.learner.forward = lambda batch: (learner.outer.weight.float() * batch["clean"].sum()).sum(1)[
            :4
        ]
        assert engine.extra_state()["loss_scaler"]["scale"] == 65536
        before = learner.outer.weight.detach().clone()
        step_of(engine, torch.full((4, 12), 1e3))
        assert torch.equal(learner.outer.weight, before)
        assert engine.extra_state()["loss_scaler"]["scale"] == 32768
        assert engine.extra_state()["optimizer_step"] == 0
        step_of(engine, torch.full((4, 12), 1e-3))
        assert not torch.equal(learner.outer.weight, before) and engine.extra_state()["optimizer_step"] == 1


def test_the_scale_of_the_loss_goes_as_torchs_own() -> None:
    """With and without overflows, and from one to the other in the middle."""
    ours, theirs = LossScale(), torch.amp.GradScaler("cpu")
    kept = (ours.state_dict(), ours.state_dict())
    weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizers = [torch.optim.SGD([weight], lr=0.1) for weight in weights]
    for number in range(4100):
        factor = float("inf") if number in (3, 4, 2900) else 0.01
        for scaler, weight, optimizer in zip((ours, theirs), weights, optimizers, strict=True):
            optimizer.zero_grad()
            scaler.scale((weight * factor).sum()).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        if number == 2000:
            ours, theirs = LossScale(), torch.amp.GradScaler("cpu")
            left, right = kept
            ours.load_state_dict(right), theirs.load_state_dict(left)
            theirs._lazy_init_scale_growth_tracker(CPU)
        kept = ours.state_dict(), theirs.state_dict()
        assert kept[0] == kept[1], number
    assert torch.equal(*weights)


@pytest.mark.parametrize("changes", [{}, OFFLOAD, {**OFFLOAD, **STREAM}], ids=["torch", "offload", "stream"])
def test_an_engine_is_gone_before_the_export(shards, tmp_path, monkeypatch, changes):
    """What is exported is built anew: both at once would be too much for a small host."""
    held = []

    def made(*arguments):
        engine = make_engine(*arguments)
        held.extend(weakref.ref(thing) for thing in (engine, *engine.flat.chunks))
        return engine

    class Exporting(ToyMethod):
        def export(self, parts, folder):
            assert held and not any(thing() for thing in held)
            return super().export(parts, folder)

    monkeypatch.setattr(loop, "make_engine", made)
    index, config = ShardIndex.open(shards), toy_config(**changes)
    assert loop.train(config, Exporting(config, index), index, tmp_path).finished


def test_in_host_memory_a_learner_is_brought_to_the_device_for_use() -> None:
    class Method:
        def build(self, device, dtype):
            return Modules(ToyLearner(), device=device)

    class Saved:
        def has(self, kind):
            return False

        def tensor(self, kind, name):
            return dict(ToyLearner().named_parameters())[name].detach()

        def check_shape(self, kind, name, shape):
            assert self.tensor(kind, name).shape == shape

    meta = torch.device("meta")
    for for_use, kind in ((False, "cpu"), (True, "meta")):
        parts = build_from_checkpoint(Method(), Saved(), meta, 0, for_use)
        assert {p.device.type for p in parts.learner.parameters()} == {kind}


# -- moments in 8 bits ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("bitsandbytes", reason="moments in 8 bits need bitsandbytes")


@pytest.mark.parametrize("where", [{}, OFFLOAD], ids=["device", "offloaded"])
def test_eight_bits_learn_nearly_the_same_and_resume_to_the_bit(library, children, straight, tmp_path, where):
    changes = {**LONG, **EIGHT, **where}
    assert children.train(tmp_path / "straight", **changes) == [0]
    alike(tmp_path / "straight", straight, rtol=5e-2, atol=5e-2)
    assert losses(tmp_path / "straight") != losses(straight)
    assert children.train(tmp_path / "run", kill="270", **changes) == KILLED
    assert children.train(tmp_path / "run", stop_at=390, **changes, **STREAM) == [0]
    assert children.train(tmp_path / "run", **changes) == [0]
    same(tmp_path / "run", tmp_path / "straight")


def test_two_ranks_of_eight_bits(library, children, tmp_path):
    assert children.train(tmp_path / "one", **LONG, **EIGHT) == [0]
    assert children.train(tmp_path / "two", world=2, **LONG, **EIGHT) == [0, 0]
    alike(tmp_path / "two", tmp_path / "one", rtol=1e-2, atol=1e-2)


def eight(parameters) -> AdamW8bit:
    groups = [{"params": [p], "weight_decay": 0.0, "packed": packed} for p, packed in parameters]
    optimizer = AdamW8bit(groups, OptimConfig(**OPTIM))
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    return optimizer


def test_what_is_packed_takes_a_quarter_and_comes_back_the_same(library):
    draw = torch.Generator().manual_seed(5)
    chunk, small = nn.Parameter(torch.zeros(1 << 16)), nn.Parameter(torch.zeros(300))
    optimizer = eight([(chunk, True), (small, False)])
    for _ in range(20):
        for parameter in (chunk, small):
            scale = torch.rand(parameter.shape, generator=draw) ** 8  # moments of very different sizes
            parameter.grad = torch.randn(parameter.shape, generator=draw) * scale
        optimizer.step()
    for kind in MOMENTS:
        held = optimizer.state[chunk][kind]
        assert (held.codes.nbytes + held.scales.nbytes) * 3.9 < 4 * chunk.numel()
        codes, scales, moment = held.codes.clone(), held.scales.clone(), optimizer.moment(chunk, kind)
        optimizer.restore(chunk, kind, moment)
        again = optimizer.state[chunk][kind]
        assert torch.equal(again.codes, codes) and torch.equal(again.scales, scales)
        assert torch.equal(optimizer.moment(chunk, kind), moment)
        assert isinstance(optimizer.state[small][kind], torch.Tensor)


def test_packed_it_follows_adamw(library):
    torch.manual_seed(2)
    ours, theirs = nn.Parameter(torch.zeros(4096)), nn.Parameter(torch.zeros(4096))
    optimizer = eight([(ours, True)])
    exact = torch.optim.AdamW([theirs], lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    for _ in range(50):
        ours.grad = torch.randn(4096) * torch.rand(4096)
        theirs.grad = ours.grad.clone()
        optimizer.step(), exact.step()
    moved = theirs.detach().abs().mean()
    assert (ours - theirs).detach().abs().mean() < 0.1 * moved


def test_without_bitsandbytes_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.functional", None)
    with refuses("machine.optimizer_bits=8", "birdsd[eightbit]", kind=Unsupported):
        eight([(nn.Parameter(torch.zeros(4)), True)])


# -- saving without a copy ------------------------------------------------------------------------------


@pytest.mark.parametrize("piece_bytes", [4, 100, 1 << 20])
def test_a_stream_writes_what_a_buffer_does(tmp_path, piece_bytes):
    shapes = {"a": (70, 3), "b": (), "c": (0,), "d": (5000,), "e": (2, 2)}
    values = {name: torch.randn(shape) for name, shape in shapes.items()}
    most = []

    def given(tensors):
        most.append(sum(t.nbytes for t in tensors.values()))
        for name, tensor in tensors.items():
            tensor.copy_(values[name])

    buffer = TensorBuffer(shapes)
    for name, tensor in buffer.tensors.items():
        tensor.copy_(values[name])
    sums = [
        buffer.write(tmp_path / "buffer"),
        TensorStream(shapes, given, piece_bytes).write(tmp_path / "stream"),
    ]
    assert sums[0] == sums[1]
    assert (tmp_path / "buffer").read_bytes() == (tmp_path / "stream").read_bytes()
    assert max(most) <= max(piece_bytes, 4 * 5000)


def test_the_checkpoints_are_the_same_bytes(children, straight, tmp_path):
    assert children.train(tmp_path, **LONG, **STREAM) == [0]
    name = "checkpoints/000000000500/tensors-00000-of-00001.safetensors"
    assert (tmp_path / name).read_bytes() == (straight / name).read_bytes()


@pytest.mark.parametrize("stage", ["begun", "file written", "commit written", "renamed"])
def test_killed_while_saving(children, straight, tmp_path, stage):
    assert children.train(tmp_path, kill=f"{stage}@3", **LONG, **STREAM) == KILLED
    assert children.train(tmp_path, **LONG, **STREAM) == [0]
    same(tmp_path, straight)


@pytest.mark.parametrize("room", [True, False])
def test_a_full_disk_is_tried_again(small_disk, monkeypatch, room):  # noqa: F811
    """The engine stands still meanwhile, so that it is asked once more."""
    monkeypatch.setattr(checkpoints, "RETRY_PAUSES_S", (0.01,) * 5)
    events = []

    def event(told):
        events.append(told["event"])
        if room and len(events) == 2:
            (small_disk / "ballast").unlink()

    torch.manual_seed(3)
    fill(small_disk)
    with closing(
        TorchEngine(ToyLearner(), OptimConfig(**OPTIM), Precision("fp32", ""), CPU, World())
    ) as engine:
        saver = Checkpointer(small_disk, World(), "", events=event, in_background=False)
        saver.save(engine, 10, {})
        if room:
            saver.wait(must_be_saved=True)
            assert events == ["save failed", "save failed", "saved"]
            assert saver.newest().position == 10
        else:
            with refuses("position 10", "save.max_failed_saves", kind=UserError):
                saver.wait(must_be_saved=True)


def test_several_ranks_copy(children, tmp_path):
    assert children.train(tmp_path, world=2, fails=True, **STREAM) == [1, 1]
    assert "machine.save_in_background=false on 2 ranks" in (tmp_path / "log.txt").read_text()


# -- compiled -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (which("g++") or which("clang++")), reason="torch.compile needs a C++ compiler")
def test_compiled_it_learns_the_same(children, tmp_path):
    assert children.train(tmp_path / "straight") == [0]
    assert children.train(tmp_path / "run", stop_at=60, machine__compile=True) == [0]
    assert children.train(tmp_path / "run", machine__compile=True, **OFFLOAD) == [0]
    ours, theirs = losses(tmp_path / "run"), losses(tmp_path / "straight")
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-4)
    assert ours != theirs  # it was compiled indeed


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with refuses("machine.compile=true", "machine.compile=false", kind=Unsupported):
        compile_in_place(ToyLearner(), CPU)
