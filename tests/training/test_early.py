"""Early stopping: where it ends, what is exported, and that a resumed run ends there too."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from birdsd.training.checkpoints.reading import checkpoint_at, positions
from birdsd.training.early import EarlyStop, validated
from birdsd.training.records import read_metrics
from birdsd.training.result import finished_before
from tests.support.classified import HIGH, LOW, song_shards, taught
from tests.support.toy import fork_ranks, losses

SETTINGS = {
    "patience": 2,
    "validate_every_samples": 16,
    "every_samples": 32,
    "total_samples": 400,
    "loss": "cross_entropy",
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In validation the birds are called by each other's names, so that what is learnt makes it worse."""
    folder = tmp_path_factory.mktemp("early")
    song_shards(folder, ((HIGH,), (LOW,)), (("train", 16),))
    return song_shards(folder, ((HIGH,), (LOW,)), (("validation", 8),), called={HIGH: LOW, LOW: HIGH})


@pytest.fixture(scope="module")
def straight(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught(shards, tmp_path_factory.mktemp("straight") / "run", **SETTINGS)


def given(run: Path) -> dict[str, torch.Tensor]:
    return load_file(str(run / "export/model.safetensors"))


def test_it_is_a_function_of_what_was_validated() -> None:
    seen = [(10, 3.0), (20, 2.0), (30, 2.5), (40, 2.0), (50, 2.2)]
    stop = EarlyStop(3)
    over = []
    for position, loss in seen:
        stop.saw(position, loss)
        over.append(stop.over)
    assert over == [False] * 4 + [True] and stop.best == 20
    again = EarlyStop(3, seen)
    assert (again.best, again.over) == (20, True) and "at 20" in again.line(50)
    never = EarlyStop(0, seen)
    assert never.best is None and not never.over


def test_the_run_ends_and_its_best_point_is_exported(straight: Path) -> None:
    seen = validated(straight)
    best = min(seen, key=lambda one: one[1])[0]
    assert seen[-1][0] == best + 2 * 16 < 400 and list(losses(straight))[-1] == seen[-1][0]
    assert best in positions(straight), "kept beside the newest two"
    ours, kept = given(straight), checkpoint_at(straight, best)
    for name in set(ours) - {"centre", "spread"}:  # buffers, as `build` makes them
        value = ours[name]
        assert torch.equal(value, kept.tensor("ema", f"network.{name}")), name
    result = finished_before(straight, lambda event: None)
    assert result.finished and result.position == result.total == seen[-1][0]


def test_killed_or_stopped_it_ends_at_the_same_step(straight: Path, shards: Path, tmp_path: Path) -> None:
    end = validated(straight)[-1][0]
    for number, at in enumerate((24, end - 8)):
        run = tmp_path / f"run{number}"

        def killed(position: int, at: int = at) -> bool:
            if position >= at:
                os.kill(os.getpid(), signal.SIGKILL)
            return False

        codes = fork_ranks(
            1, lambda _, run=run, killed=killed: taught(shards, run, killed, **SETTINGS), tmp_path / "log"
        )
        assert codes == [-signal.SIGKILL]
        taught(shards, run, lambda position, at=at: position >= at + 8, **SETTINGS)
        taught(shards, run, **SETTINGS)
        assert losses(run) == losses(straight) and validated(run) == validated(straight)
        ours, theirs = given(run), given(straight)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_killed_in_the_export_it_still_gives_its_best(straight: Path, shards: Path, tmp_path: Path) -> None:
    from birdsd.diffusion.methods.classifier import ClassifierMethod

    def dies(_: int) -> None:
        ClassifierMethod.export = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        taught(shards, tmp_path / "run", **SETTINGS)

    assert fork_ranks(1, dies, tmp_path / "log") == [-signal.SIGKILL]
    taught(shards, tmp_path / "run", **SETTINGS)
    ours, theirs = given(tmp_path / "run"), given(straight)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [x["kind"] for x in read_metrics(tmp_path / "run")].count("validation") == len(validated(straight))
