"""A checkpoint counts only when it is whole; a bad one is set aside and named."""

import errno
import json
import os
import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from birdsd.errors import Damaged, Mismatch, NotFound
from birdsd.schema import OptimConfig
from birdsd.shards.index import ShardIndex
from birdsd.training.checkpoints import tensorfile
from birdsd.training.checkpoints.checkpoint import Checkpointer, deal
from birdsd.training.checkpoints.tensorfile import TensorBuffer, TensorFile
from birdsd.training.devices import copies
from birdsd.training.devices.precision import Precision
from birdsd.training.devices.world import World
from birdsd.training.engines.torch_engine import TorchEngine
from birdsd.training.loop import train
from tests.support.errors import refuses
from tests.support.toy import OPTIM, ToyLearner, ToyMethod, losses, make_shards, toy_config


def go(shards, run, stop_at=0, events=None, **changes):
    index, config = ShardIndex.open(shards), toy_config(**changes)
    seen = {"position": 0}

    def event(e):
        seen["position"] = max(seen["position"], e.get("position", 0))
        if events is not None:
            events.append(e)

    steps = iter(range(10**6))
    stop = (lambda: next(steps) * 10 >= stop_at) if stop_at else (lambda: False)
    return train(config, ToyMethod(config, index), index, run, stop, event)


@pytest.fixture(scope="module")
def half(shards, tmp_path_factory):
    """A run stopped half-way, at 60, with the checkpoint of 40 before it."""
    run = tmp_path_factory.mktemp("half")
    assert go(shards, run, stop_at=60).stopped
    return run


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole")
    assert go(shards, run).finished
    return run


def damage_flip(folder):
    path = next(folder.glob("tensors-*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_truncate(folder):
    path = next(folder.glob("tensors-*"))
    os.truncate(path, path.stat().st_size - 1)


def damage_missing(folder):
    next(folder.glob("tensors-*")).unlink()


def damage_state(folder):
    path = folder / "state.json"
    path.write_text(path.read_text().replace('"position": 60', '"position": 61'))


def damage_commit(folder):
    path = folder / "COMMIT.json"
    path.write_text(path.read_text().replace('"position": 60', '"position": 61'))


def damage_commit_torn(folder):
    os.truncate(folder / "COMMIT.json", 100)


DAMAGES = [damage_flip, damage_truncate, damage_missing, damage_state, damage_commit, damage_commit_torn]


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_newest_is_set_aside(shards, half, whole, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(half, run)
    damage(run / "checkpoints/000000000060")
    events = []
    result = go(shards, run, events=events)
    assert result.resumed_from == 40 and result.finished
    (event,) = [e for e in events if e["event"] == "checkpoint set aside"]
    assert event["checkpoint"] == "000000000060" and event["reason"]
    assert (run / "checkpoints/000000000060.bad").is_dir()
    assert losses(run) == losses(whole), "from the one before, the same curve"


def test_no_whole_checkpoint_is_not_a_fresh_start(shards, half, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(half, run)
    for name in ("000000000040", "000000000060"):
        damage_flip(run / "checkpoints" / name)
    for _ in range(2):  # also when it is tried again
        with refuses("000000000040.bad", kind=Damaged):
            go(shards, run)


def test_another_run_s_checkpoint(shards, half, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(half, run)
    (run / "signature.json").write_text('{"signature": "other"}')
    with refuses(("000000000060", "other"), kind=Mismatch):
        go(shards, run)


def test_changed_shards_are_refused(half, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(half, run)
    with refuses(("train-000002.tar", "count 8 -> 4"), kind=Mismatch):
        go(make_shards(tmp_path / "other", samples=36), run)


def test_any_safetensors_reader_reads_it(whole):
    folder = whole / "checkpoints/000000000120"
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    assert {k.split("/")[0] for k in tensors} == {"weights", "exp_avg", "exp_avg_sq", "ema"}
    assert tensors["weights/inner.weight"].shape == (24, 12) and tensors["weights/inner.weight"].std() > 0
    exported = np.load(whole / "export/weights.npy")
    names = ["inner.weight", "inner.bias", "norm.weight", "norm.bias", "outer.weight", "outer.bias"]
    ema = np.concatenate([tensors[f"ema/{name}"].flatten() for name in names])
    assert np.array_equal(exported, ema), "the export is the average"
    assert not any(p.suffix in {".pt", ".pth", ".ckpt", ".pkl"} for p in whole.rglob("*"))


@pytest.mark.parametrize("elements", [0, 1, 1000, (1 << 18) - 30, 1 << 18, 3 * (1 << 18) + 7])
def test_checksums_of_what_is_written(tmp_path, monkeypatch, elements):
    monkeypatch.setattr(tensorfile, "BLOCK_BYTES", 1 << 18)
    buffer = TensorBuffer({"a": (elements,), "b": (2, 3), "scalar": ()})
    buffer.body.copy_(torch.arange(buffer.body.numel()))
    path = tmp_path / "x.safetensors"
    recorded = buffer.write(path).to_json()
    assert TensorFile(path).difference(json.loads(json.dumps(recorded))) is None
    read = load_file(path)
    assert (
        torch.equal(read["b"].flatten(), torch.arange(elements, elements + 6.0)) and read["scalar"].ndim == 0
    )
    places = {"b": torch.zeros(2, 3), "scalar": torch.zeros(()), "a": torch.zeros(elements + 1)}
    assert TensorFile(path).read_into(places).to_json() == recorded, "one pass sums as much"
    assert all(torch.equal(places[name], read[name]) for name in ("b", "scalar"))
    assert not places["a"].any(), "another size is passed over"
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)
    file = TensorFile(path)
    problem = file.difference(recorded)
    assert path.name in problem and file.difference(recorded, lambda: file.read_into({})) == problem


def test_read_in_one_pass_where_the_system_cannot_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "preadv", raising=False)
    buffer = TensorBuffer({"a": (1000,), "b": (70_000,)})
    buffer.body.copy_(torch.arange(buffer.body.numel()))
    recorded = buffer.write(tmp_path / "x").to_json()
    place = torch.zeros(70_000)
    file = TensorFile(tmp_path / "x")
    assert file.difference(recorded, lambda: file.read_into({"b": place})) is None
    assert torch.equal(place, buffer.tensors["b"])
    os.truncate(tmp_path / "x", 1 << 14)
    assert file.difference(recorded, lambda: file.read_into({"b": place})), "it ends too early"


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8,
        b"\x10" + bytes(7) + b"not JSON        ",
        b"\x08" + bytes(7) + b"[1, 2]  ",
        b"\x10" + bytes(7) + b'{"a": [1, 2]}   ',
        b"\x40" + bytes(7) + b'{"a": {"data_offsets": [0, 99999999999999]}}'.ljust(64),
        b"\x40" + bytes(7) + b'{"a": {"data_offsets": [-8, 4000]}}'.ljust(64),
        b"\x40" + bytes(7) + b'{"a": {"data_offsets": ["0", null]}}'.ljust(64),
    ],
)
def test_what_is_read_before_it_is_checked_may_be_anything(tmp_path, header):
    buffer = TensorBuffer({"a": (1000,)})
    buffer.body.fill_(1)
    recorded = buffer.write(tmp_path / "x").to_json()
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(header + data[len(header) :])
    file = TensorFile(tmp_path / "x")
    problem = file.difference(recorded, lambda: file.read_into({"a": torch.zeros(1000)}))
    assert problem is not None and problem == file.difference(recorded), "and said as of any other damage"


def toy_engine(seed=0, **changes):
    torch.manual_seed(seed)
    optim = OptimConfig(**{**OPTIM, **changes})
    return TorchEngine(ToyLearner(), optim, Precision("fp32", ""), torch.device("cpu"), World())


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon"}, {"ema_decay": 0.0}])
def test_read_in_one_pass_or_in_two(tmp_path, changes):
    """What `load` leaves is what `load_state` leaves: weights, moments, average and step."""
    saved = toy_engine(**changes)
    batch = {"noisy": torch.randn(4, 12), "clean": torch.randn(4, 12)}
    for _ in range(3):
        saved.step([(lambda: batch, torch.full((4,), 0.25))], 1e-2, 0.9)
    checkpointer = Checkpointer(tmp_path, World(), "")
    checkpointer.save(saved, 10, {})
    checkpointer.wait()
    states = []
    for unread in (False, True):
        engine = toy_engine(seed=1, **changes)
        checkpoint = checkpointer.newest(unread)
        assert checkpoint.unread is unread
        checkpointer.load(checkpoint, engine)
        states.append((engine.places(), engine.extra_state()))
    (one, other), (plain, placed) = zip(*states, strict=True)
    assert plain == placed == saved.extra_state() and plain["optimizer_step"] == 3
    assert all(torch.equal(one[key], other[key]) for key in one) and len(one) == len(other)
    assert all(torch.equal(one[key], value) for key, value in saved.places().items())


def test_another_model_s_checkpoint_is_not_read_into_place(tmp_path):
    engine = toy_engine()
    checkpointer = Checkpointer(tmp_path, World(), "")
    checkpointer.save(engine, 10, {})
    checkpointer.wait()
    places = engine.places()
    with refuses(("outer.bias", "[2, 3]"), kind=Mismatch):
        checkpointer.newest(unread=True).read_into({**places, "weights/outer.bias": torch.zeros(2, 3)})
    with refuses(("weights", "more"), kind=NotFound):
        checkpointer.newest(unread=True).read_into({**places, "weights/more": torch.zeros(2)})


def test_a_header_of_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorfile, "BLOCK_BYTES", 1 << 10)
    buffer = TensorBuffer({f"a tensor with a long name, number {i}": (3,) for i in range(100)})
    buffer.body.fill_(1)
    recorded = buffer.write(tmp_path / "x").to_json()
    assert TensorFile(tmp_path / "x").difference(recorded) is None


@pytest.mark.parametrize("threads", [1, 3])
def test_copied_in_pieces(monkeypatch, threads):
    monkeypatch.setattr(copies, "_threads", lambda: threads)
    monkeypatch.setattr(copies, "_WORTH_THREADS_BYTES", 0)
    monkeypatch.setattr(copies, "_PIECE_ELEMENTS", 100)
    sources = [torch.randn(shape) for shape in [(30, 40), (), (0,), (99,), (7, 15, 1), (100,), (3, 201)]]
    targets = [torch.full_like(source, torch.nan) for source in sources]
    copies.copy_tensors(list(zip(targets, sources, strict=True)))
    assert all(map(torch.equal, targets, sources))


@pytest.mark.skipif(
    sys.platform != "linux" or tuple(map(int, platform.release().split(".")[:2])) < (5, 14),
    reason="the system cannot say beforehand that a page cannot be read",
)
def test_a_file_that_cannot_be_read_to_its_end(tmp_path):
    """A mapped page that the disk does not give would end the process; it is an error like any other."""
    buffer = TensorBuffer({"a": (1 << 16,)})
    buffer.body.fill_(1)
    recorded = buffer.write(tmp_path / "x").to_json()
    file = TensorFile(tmp_path / "x")
    assert file.difference(recorded) is None
    os.truncate(tmp_path / "x", 1 << 10)
    problem = file.difference(recorded) or ""
    assert problem.startswith("x ") and problem.endswith(f"({os.strerror(errno.EIO)})")


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="looks into /proc")
def test_deleted_checkpoints_free_their_space(tmp_path):
    """The one that a run resumed from is mapped until the first save, not for as long as the run lasts."""
    engine = toy_engine()
    checkpointer = Checkpointer(tmp_path, World(), "")
    checkpointer.prepare(engine)
    checkpointer.save(engine, 10, {})
    checkpointer.wait()
    restored = checkpointer.newest()
    engine.load_state(restored.tensor, restored.state)
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    for position in (20, 30, 40):
        checkpointer.save(engine, position, {})
    checkpointer.wait(must_be_saved=True)
    engine.close()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000000030", "000000000040"]


def test_dealt_out_by_bytes():
    sizes = {f"t{i}": size for i, size in enumerate([1000, 10, 500, 490, 20, 980])}
    owners = deal(sizes, 3)
    loads = [sum(sizes[k] for k, o in owners.items() if o == rank) for rank in range(3)]
    assert sum(loads) == 3000 and max(loads) - min(loads) <= 20
    assert owners == deal(dict(reversed(sizes.items())), 3), "the same on every rank"


def test_no_checkpoint_yet(tmp_path):
    assert Checkpointer(tmp_path / "none", World(), "x").newest() is None
