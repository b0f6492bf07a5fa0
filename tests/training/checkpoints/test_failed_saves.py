"""A save that fails does not lose the run: it is given up, named, and tried again; nothing older goes."""

import errno
import json
import os
import shutil
import subprocess
from contextlib import closing, contextmanager

import pytest
import torch

from birdsd.errors import UserError
from birdsd.schema import OptimConfig
from birdsd.shards.index import ShardIndex
from birdsd.training.checkpoints import checkpoint as checkpoints
from birdsd.training.checkpoints.checkpoint import Checkpointer
from birdsd.training.checkpoints.tensorfile import TensorBuffer
from birdsd.training.devices.precision import Precision
from birdsd.training.devices.world import World
from birdsd.training.engines.torch_engine import TorchEngine
from birdsd.training.loop import train
from tests.support.errors import refuses
from tests.support.toy import OPTIM, ToyLearner, ToyMethod, fork_ranks, losses, toy_config


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB: room for three of the toy's checkpoints."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system to fill")
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk):
    with open(disk / "ballast", "wb", buffering=0) as stream:
        try:
            while stream.write(b"x" * 4096):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC


def on_disk(run, disk):
    """A run whose checkpoints, and nothing else, go to the small disk."""
    run.mkdir()
    (run / "checkpoints").symlink_to(disk)
    return run


def events_of(run, kind):
    lines = (run / "log.txt").read_text().splitlines()
    events = [json.loads(line) for line in lines if line.startswith('{"event"')]
    return [event for event in events if event["event"] == kind]


@pytest.fixture(scope="module")
def straight(children, tmp_path_factory):
    run = tmp_path_factory.mktemp("straight")
    assert children.train(run) == [0]
    return run


@pytest.mark.parametrize("world", [1, 2])
def test_goes_on_over_a_full_disk(children, straight, small_disk, tmp_path, world):
    """Two saves fail; before the third somebody makes room. The curve is that of a run with a large disk."""
    run = on_disk(tmp_path / "run", small_disk)

    def event(e):
        if e["event"] == "saved" and e["position"] == 20:
            fill(small_disk)
        if e["event"] == "save failed" and e["failures"] == 2:
            (small_disk / "ballast").unlink()

    assert children.train(run, world=world, on_event=event) == [0] * world
    failed = events_of(run, "save failed")
    assert [(e["position"], e["failures"]) for e in failed] == [(40, 1), (60, 2)]
    assert all("the disk is full" in e["reason"] for e in failed)
    assert sorted(p.name for p in small_disk.iterdir()) == ["000000000100", "000000000120"]
    ours, theirs = losses(run), losses(straight)
    if world == 1:
        assert ours == theirs
    assert ours.keys() == theirs.keys()


@pytest.mark.parametrize("world", [1, 2])
def test_ends_after_three_in_a_row(children, straight, small_disk, tmp_path, world):
    run = on_disk(tmp_path / "run", small_disk)
    fill_once = iter([fill])
    codes = children.train(
        run, world=world, fails=True, on_event=lambda e: e["event"] == "saved" and next(fill_once)(small_disk)
    )
    assert codes == [1] * world
    assert [e["failures"] for e in events_of(run, "save failed")] == [1, 2, 3]
    said = (run / "log.txt").read_text()
    assert "could not be saved: the disk is full" in said and "save.max_failed_saves is 3" in said
    assert "position 20" in said
    assert sorted(p.name for p in small_disk.iterdir()) == ["000000000020", "ballast"], "nothing unfinished"
    (small_disk / "ballast").unlink()
    assert children.train(run, world=world) == [0] * world
    assert events_of(run, "resumed")[-1]["checkpoint"] == "000000000020"
    assert losses(run).keys() == losses(straight).keys()


@contextmanager
def saver(folder, world, events):
    """A checkpointer and an engine with a state of its own."""
    torch.manual_seed(3)
    engine = TorchEngine(
        ToyLearner(), OptimConfig(**OPTIM), Precision("fp32", ""), torch.device("cpu"), world
    )
    with closing(engine):
        yield Checkpointer(folder, world, "", events=events), engine


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("room", [True, False])
def test_the_last_save_is_tried_again(small_disk, tmp_path, monkeypatch, world, room):
    """Before an exit: from host memory, on all ranks together, until it is on disk or for good in vain."""
    monkeypatch.setattr(checkpoints, "RETRY_PAUSES_S", (0.01,) * 5)
    log = tmp_path / "log.txt"

    def work(rank):
        ours = World.from_environment()
        ours.start(torch.device("cpu"))

        def event(e):
            print(json.dumps(e), flush=True)
            if e["event"] == "save failed" and e["failures"] == 4 and room:
                (small_disk / "ballast").unlink()

        with saver(small_disk, ours, event) as (checkpointer, engine):
            checkpointer.save(engine, 10, {})
            checkpointer.wait(must_be_saved=True)
            if rank == 0:
                fill(small_disk)
            ours.from_first(None)
            engine.flat.chunks[0].data.add_(1)
            checkpointer.save(engine, 20, {})
            checkpointer.wait()  # the first failure ends nothing
            assert not checkpointer.failed
            if room:
                checkpointer.wait(must_be_saved=True)
                engine.flat.chunks[0].data.zero_()
                newest = checkpointer.newest()
                assert newest.position == 20
                engine.load_state(newest.tensor, newest.state)
                torch.manual_seed(3)
                assert torch.equal(engine.learner.inner.weight, ToyLearner().inner.weight + 1)
            else:
                with refuses("failure 6", "position 10", kind=UserError):
                    checkpointer.wait(must_be_saved=True)
                checkpointer.wait()  # said once
                assert checkpointer.newest().position == 10
        ours.close()

    assert fork_ranks(world, work, log) == [0] * world, log.read_text()
    failures = [json.loads(line)["failures"] for line in log.read_text().splitlines() if '"failures"' in line]
    assert failures == list(range(1, 5 if room else 7))


def test_room_is_made_of_what_nobody_needs(small_disk, monkeypatch):
    """What was set aside and what killed saves left goes; committed checkpoints and others' things stay."""
    monkeypatch.setattr(checkpoints, "RETRY_PAUSES_S", (0.0,))
    events = []
    with saver(small_disk, World(), events.append) as (checkpointer, engine):
        for position in (10, 20):
            checkpointer.save(engine, position, {})
            checkpointer.wait(must_be_saved=True)
        leftovers = ["000000000005.bad", "000000000006.bad-1", "000000000015.77.old", "000000000017.partial"]
        for name in (*leftovers, "mine.bad"):
            (small_disk / name).mkdir()
            (small_disk / name / "tensors").write_bytes(b"x" * 8192)
        fill(small_disk)
        checkpointer.save(engine, 30, {})
        checkpointer.wait(must_be_saved=True)
    kinds = [e["event"] for e in events]
    assert kinds == ["saved", "saved", "made room", "save failed", "saved"]
    assert events[2]["removed"] == leftovers
    assert sorted(p.name for p in small_disk.iterdir()) == [
        "000000000020", "000000000030", "ballast", "mine.bad",
    ]  # fmt: skip


def go(shards, run, event, **changes):
    index, config = ShardIndex.open(shards), toy_config(**changes)
    return train(config, ToyMethod(config, index), index, run, events=event)


def test_a_file_system_that_comes_back(shards, straight, tmp_path):
    """Not a full disk: the folder is gone, and something else is in its place."""
    folder, away, failed = tmp_path / "checkpoints", tmp_path / "away", []

    def event(e):
        if e["event"] == "saved" and e["position"] == 40:
            shutil.move(folder, away)
            folder.write_text("in the way")
        if e["event"] == "save failed":
            failed.append(e)
            folder.unlink()
            shutil.move(away, folder)

    assert go(shards, tmp_path, event).finished
    assert [(e["position"], e["failures"]) for e in failed] == [(60, 1)] and failed[0]["reason"]
    assert losses(tmp_path) == losses(straight)


@pytest.mark.parametrize("failing_save", [2, 3])
def test_disk_full_for_a_moment(shards, straight, tmp_path, monkeypatch, failing_save):
    """Without a small disk: the failure is made up, what follows is not."""
    saves, failed = [], []
    written = TensorBuffer.write

    def write(self, path):
        saves.append(path)
        if len(saves) == failing_save:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(self, path)

    monkeypatch.setattr(TensorBuffer, "write", write)
    assert go(shards, tmp_path, lambda e: e["event"] == "save failed" and failed.append(e)).finished
    assert [e["position"] for e in failed] == [20 * failing_save]
    assert losses(tmp_path) == losses(straight)


def test_a_defect_is_no_full_disk(shards, tmp_path, monkeypatch):
    """What no further try can mend ends the run at the next step, with its traceback."""

    def write(self, path):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(TensorBuffer, "write", write)
    with pytest.raises(
        RuntimeError, match="position 20 could not be saved: ZeroDivisionError: a defect"
    ) as e:
        go(shards, tmp_path, lambda e: None)
    assert isinstance(e.value.__cause__, ZeroDivisionError)
    assert not list((tmp_path / "checkpoints").iterdir())
