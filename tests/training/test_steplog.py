"""Steps that wait to be written down: nothing is lost, nothing is written twice, nothing of a bad step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from birdsd.diffusion.networks.finite import NotFinite
from birdsd.training.devices.world import World
from birdsd.training.engines.base import StepResult
from birdsd.training.records import Ledger, Metrics, read_metrics
from birdsd.training.steplog import StepLog
from tests.support.errors import refuses

BATCH = 4


def steplog(folder: Path, world: World | None = None) -> StepLog:
    return StepLog(Metrics(folder), Ledger(folder), world or World(), BATCH)


def take(steps: StepLog, number: int, loss: float, norm: float | None = None) -> None:
    steps.saw(np.arange(number * BATCH, (number + 1) * BATCH))
    told = None if norm is None else torch.tensor(norm)
    steps.took((number + 1) * BATCH, 1e-3 * (number + 1), StepResult(torch.tensor(loss), told))


def test_steps_are_written_once_and_in_order(tmp_path: Path) -> None:
    steps = steplog(tmp_path)
    assert not steps
    take(steps, 0, 0.5, norm=2.0)
    take(steps, 1, 0.25)
    assert steps and not list(read_metrics(tmp_path))
    losses = steps.losses()
    lines = steps.write(losses)
    assert losses == [0.5, 0.25] and not steps
    take(steps, 2, 0.125)
    lines += steps.write(steps.losses())
    assert lines == list(read_metrics(tmp_path))
    told = [(line["kind"], line["position"], line["loss"], line["learning_rate"]) for line in lines]
    assert told == [("train", 4, 0.5, 1e-3), ("train", 8, 0.25, 2e-3), ("train", 12, 0.125, 3e-3)]
    assert lines[0]["gradient_norm"] == 2.0 and "gradient_norm" not in lines[1]
    assert Ledger(tmp_path).read().tolist() == list(range(12))


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_of_a_loss_that_is_not_finite_nothing_is_written(tmp_path: Path, loss: float) -> None:
    steps = steplog(tmp_path)
    take(steps, 0, 0.5)
    take(steps, 1, loss)
    with refuses("step 2 (positions 4 to 7)", "learning_rate", kind=NotFinite):
        steps.write(steps.losses())
    assert not list(read_metrics(tmp_path)) and not len(Ledger(tmp_path).read())


def test_ranks_but_the_first_write_nothing(tmp_path: Path) -> None:
    class Second(World):
        is_first = False

    steps = steplog(tmp_path, Second())
    take(steps, 0, 0.5)
    assert [line["loss"] for line in steps.write(steps.losses())] == [0.5] and not steps
    assert not list(tmp_path.iterdir())


def test_time_that_others_took_is_no_part_of_the_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("birdsd.training.steplog.time.perf_counter", lambda: now[0])
    steps = steplog(tmp_path)
    now[0] = 100.0  # a validation
    steps.restart_clock()
    take(steps, 0, 0.5)
    take(steps, 1, 0.5)
    now[0] = 102.0
    assert steps.write(steps.losses())[-1]["samples_per_s"] == steps.samples_per_s == 2 * BATCH / 2
