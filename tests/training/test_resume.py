"""Killed anywhere and started again, a run is the run that was never stopped: bit by bit."""

import json
import signal

import numpy as np
import pytest

from birdsd.shards.index import ShardIndex
from birdsd.shards.order import SampleOrder
from birdsd.training.loop import train
from birdsd.training.records import Ledger, read_metrics
from tests.support.toy import ToyMethod, losses, toy_config

KILLED = [-signal.SIGKILL]


@pytest.fixture(scope="module")
def straight(children, tmp_path_factory):
    run = tmp_path_factory.mktemp("straight")
    assert children.train(run) == [0]
    return run


def same(run, straight):
    assert losses(run) == losses(straight)
    assert np.array_equal(Ledger(run).read(), Ledger(straight).read())
    assert np.array_equal(np.load(run / "export/weights.npy"), np.load(straight / "export/weights.npy"))
    checkpoints = sorted((run / "checkpoints").iterdir())
    assert [p.name for p in checkpoints] == [f"{p:012d}" for p in (100, 120)], "two stay, nothing else"


def test_killed_at_steps(children, straight, tmp_path):
    for position in (10, 50, 60, 110):  # before the first save, between saves, at one, near the end
        assert children.train(tmp_path, kill=str(position)) == KILLED
    assert children.train(tmp_path) == [0]
    same(tmp_path, straight)
    resumed = [line["position"] for line in read_metrics(tmp_path) if line["kind"] == "resume"]
    # The save that was still being written at the kill may or may not count.
    for position, (low, high) in zip(resumed[-3:], [(20, 40), (20, 40), (80, 100)], strict=True):
        assert low <= position <= high


@pytest.mark.parametrize(
    "stage", ["begun", "file written", "state written", "commit written", "renamed", "pruning"]
)
@pytest.mark.parametrize("save", [1, 3])
def test_killed_while_saving(children, straight, tmp_path, stage, save):
    if (stage, save) == ("pruning", 3):
        save = 2
    assert children.train(tmp_path, kill=f"{stage}@{save}") == KILLED
    assert children.train(tmp_path) == [0]
    same(tmp_path, straight)


def test_stopped_on_request(children, straight, tmp_path):
    assert children.train(tmp_path, stop_at=30) == [0]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.endswith("30")] == ["000000000030"]
    assert not (tmp_path / "finished.json").exists()
    assert children.train(tmp_path) == [0]
    same(tmp_path, straight)


def test_finished_run_builds_nothing(shards, straight):
    index, config, events = ShardIndex.open(shards), toy_config(), []
    method = ToyMethod(config, index)
    result = train(config, method, index, straight, events=events.append)
    assert (result.finished, result.position, method.built) == (True, 120, 0)
    assert events == [{"event": "nothing to do", "position": 120}]


def test_killed_during_the_export(children, straight, tmp_path):
    assert children.train(tmp_path) == [0]
    (tmp_path / "finished.json").unlink()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert children.train(tmp_path) == [0]
    assert json.loads((tmp_path / "finished.json").read_text())["finished"]
    assert (tmp_path / "metrics.jsonl").read_bytes() == before, "nothing was trained again"
    same(tmp_path, straight)


def test_ledger_is_the_order(shards, straight):
    order = SampleOrder(ShardIndex.open(shards).shard_sizes("train"), seed=0)
    assert np.array_equal(Ledger(straight).read(), order.batch(0, 120))


def test_validation_noise_is_fixed(straight, children, tmp_path):
    values = {x["position"]: x["loss"] for x in read_metrics(straight) if x["kind"] == "validation"}
    assert list(values) == [40, 80, 120]
    # With a learning rate of next to nothing the weights stand still, and so must the figure.
    children.train(tmp_path, optim__learning_rate=1e-30, optim__weight_decay=0.0)
    still = {x["loss"] for x in read_metrics(tmp_path) if x["kind"] == "validation"}
    assert len(still) == 1


def test_plain_torch_imports_no_deepspeed(shards, tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from tests.support.toy import *\n"
        "from birdsd.training.loop import train\n"
        "c = toy_config(); i = ShardIndex.open(Path(sys.argv[1]))\n"
        "train(c, ToyMethod(c, i), i, Path(sys.argv[2])); assert 'deepspeed' not in sys.modules\n"
        "assert 'diffusers' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(shards), str(tmp_path)], check=True)
