"""A checkpoint counts only when it is whole; a bad one is set aside and named."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from birdsd.errors import UserError
from birdsd.shards.index import ShardIndex
from birdsd.training import tensorfile
from birdsd.training.checkpoint import Checkpointer, deal
from birdsd.training.loop import train
from birdsd.training.tensorfile import TensorBuffer, difference
from birdsd.training.world import World
from tests.training.toy import ToyMethod, losses, make_shards, toy_config


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
        with pytest.raises(UserError, match=r"no checkpoint.*whole.*000000000040\.bad"):
            go(shards, run)


def test_another_run_s_checkpoint(shards, half, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(half, run)
    (run / "signature.json").write_text('{"signature": "other"}')
    with pytest.raises(UserError, match="signature"):
        go(shards, run)


def test_changed_shards_are_refused(half, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(half, run)
    with pytest.raises(UserError, match=r"train-000002\.tar changed \(count 8 -> 4"):
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


@pytest.mark.parametrize("failing_save", [2, 3])
def test_full_disk(shards, whole, tmp_path, monkeypatch, failing_save):
    saves = []
    written = TensorBuffer.write

    def write(self, path):
        saves.append(path)
        if len(saves) == failing_save:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(self, path)

    monkeypatch.setattr(TensorBuffer, "write", write)
    with pytest.raises(UserError, match="disk is full"):
        go(shards, tmp_path)
    assert not list((tmp_path / "checkpoints").glob("*.partial")), "the unfinished one is gone"
    assert go(shards, tmp_path).resumed_from == 20 * (failing_save - 1)
    assert losses(tmp_path) == losses(whole)


@pytest.mark.parametrize("elements", [0, 1, 1000, (1 << 18) - 30, 1 << 18, 3 * (1 << 18) + 7])
def test_checksums_of_what_is_written(tmp_path, monkeypatch, elements):
    monkeypatch.setattr(tensorfile, "BLOCK_BYTES", 1 << 18)
    buffer = TensorBuffer({"a": (elements,), "b": (2, 3), "scalar": ()})
    buffer.body.copy_(torch.arange(buffer.body.numel()))
    path = tmp_path / "x.safetensors"
    recorded = buffer.write(path).to_json()
    assert difference(path, json.loads(json.dumps(recorded))) is None
    read = load_file(path)
    assert (
        torch.equal(read["b"].flatten(), torch.arange(elements, elements + 6.0)) and read["scalar"].ndim == 0
    )
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)
    assert "not those that were written" in difference(path, recorded)


def test_a_header_of_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorfile, "BLOCK_BYTES", 1 << 10)
    buffer = TensorBuffer({f"a tensor with a long name, number {i}": (3,) for i in range(100)})
    buffer.body.fill_(1)
    assert difference(tmp_path / "x", buffer.write(tmp_path / "x").to_json()) is None


def test_dealt_out_by_bytes():
    sizes = {f"t{i}": size for i, size in enumerate([1000, 10, 500, 490, 20, 980])}
    owners = deal(sizes, 3)
    loads = [sum(sizes[k] for k, o in owners.items() if o == rank) for rank in range(3)]
    assert sum(loads) == 3000 and max(loads) - min(loads) <= 20
    assert owners == deal(dict(reversed(sizes.items())), 3), "the same on every rank"


def test_no_checkpoint_yet(tmp_path):
    assert Checkpointer(tmp_path / "none", World(), "x").newest() is None
