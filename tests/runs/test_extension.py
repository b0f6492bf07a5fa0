"""A run that is made longer: the same samples, curve and order, one more stretch of the schedule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from birdsd.cluster.resume import resume
from birdsd.config import compose
from birdsd.errors import BadValue, Mismatch, NotFound, UnknownName, UserError
from birdsd.files import read_json
from birdsd.runs.extension import could_be_extended, extend
from birdsd.runs.run import Run, open_training
from birdsd.schema import OptimConfig
from birdsd.training.loop import train
from birdsd.training.records import Ledger, read_metrics
from birdsd.training.schedule import learning_rate_at
from birdsd.training.stretches import read_totals
from tests.support.errors import refuses
from tests.support.toy import OPTIM, ToyMethod, make_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


def settings(shards: Path, runs: Path, total: int, *more: str) -> list[str]:
    told = {**OPTIM, "total_samples": total}
    return [
        *(f"optim.{name}={value}" for name, value in told.items()), f"data.shards={shards}", f"runs={runs}",
        "machine=smoke", "machine.micro_batch=5", "machine.threads=1", "save.every_samples=50",
        "save.validate_every_samples=0", *more,
    ]  # fmt: skip


def trained(shards: Path, runs: Path, total: int, *more: str) -> Run:
    """Begin, or go on with, a run of the toy; what `birdsd run train` does with these settings."""
    config = compose("train", settings(shards, runs, total, *more))
    run, index = open_training(config)
    train(config, ToyMethod(config, index), index, run.folder, events=run.event)
    return run


def losses(run: Run) -> list[tuple[int, float, float]]:
    lines = [line for line in read_metrics(run.folder) if line["kind"] == "train"]
    return [(line["position"], line["loss"], line["learning_rate"]) for line in lines]


def test_at_a_constant_rate_it_is_the_run_that_was_so_long_from_the_start(
    shards: Path, tmp_path: Path
) -> None:
    constant = "optim.decay=constant"
    whole = trained(shards, tmp_path / "whole", 240, constant)
    run = trained(shards, tmp_path / "runs", 120, constant)
    before = np.load(run.export_folder / "weights.npy")
    said = resume(run, ["optim.total_samples=240"])
    assert "120 samples become 240" in said.line and not said.job_ids
    assert run.result is None and read_totals(run.folder) == [120, 240]
    # The very command that began it goes on, in the same folder.
    again = trained(shards, tmp_path / "runs", 120, constant)
    assert again.folder == run.folder and again.signature == run.signature
    assert run.result is not None and run.result["position"] == 240
    assert np.array_equal(Ledger(run.folder).read(), Ledger(whole.folder).read())
    assert losses(run) == losses(whole)
    ours, theirs = (np.load(one.export_folder / "weights.npy") for one in (run, whole))
    assert np.array_equal(ours, theirs) and not np.array_equal(ours, before), "the export was not made anew"
    told = [event for event in run.events() if event["event"] == "extended"]
    assert [(event["from"], event["to"]) for event in told] == [(120, 240)] and told[0]["schedule"]


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_a_schedule_that_came_down_keeps_what_was_and_runs_once_more(
    shards: Path, tmp_path: Path, decay: str
) -> None:
    run = trained(shards, tmp_path / "runs", 120, f"optim.decay={decay}")
    first = losses(run)
    extend(run, 240)
    trained(shards, tmp_path / "runs", 120, f"optim.decay={decay}")
    told = losses(run)
    assert told[: len(first)] == first
    rates = {position: rate for position, _, rate in told}
    assert rates[120] == pytest.approx(0.0, abs=1e-9) and rates[240] == pytest.approx(0.0, abs=1e-9)
    assert rates[150] == pytest.approx(OPTIM["learning_rate"]), "the warm-up of 30 samples is over"
    assert 0 < rates[130] < rates[140] < rates[150] > rates[200] > rates[230]
    whole = trained(shards, tmp_path / "whole", 240, f"optim.decay={decay}")
    assert np.array_equal(Ledger(run.folder).read(), Ledger(whole.folder).read())


def test_made_longer_before_its_end_and_twice(shards: Path, tmp_path: Path) -> None:
    constant = "optim.decay=constant"
    run, index = open_training(config := compose("train", settings(shards, tmp_path / "runs", 120, constant)))
    beats = iter(range(7))
    train(config, ToyMethod(config, index), index, run.folder, should_stop=lambda: next(beats, None) is None)
    assert run.result is None
    extend(run, 180)
    extend(run, 240)
    assert read_totals(run.folder) == [120, 180, 240]
    trained(shards, tmp_path / "runs", 120, constant)
    whole = trained(shards, tmp_path / "whole", 240, constant)
    assert losses(run) == losses(whole)


def test_the_rate_without_an_extension_is_what_it_was() -> None:
    """Bit by bit, also where the total is no multiple of the batch."""
    for decay in ("constant", "cosine", "linear"):
        optim = OptimConfig(**{**OPTIM, "decay": decay, "total_samples": 125})
        longer = replace(optim, total_samples=250)
        for position in range(10, 131, 10):
            assert learning_rate_at(position, longer, [125]) == learning_rate_at(position, optim)
    peaks = [
        learning_rate_at(p, OptimConfig(**{**OPTIM, "total_samples": 260}), [125])
        for p in range(140, 261, 10)
    ]
    assert max(peaks) <= OPTIM["learning_rate"] and peaks[-1] < peaks[5]


@pytest.mark.parametrize(
    ("setting", "kind", "named"),
    [
        ("optim.total_samples=60", BadValue, "optim.total_samples=60"),
        ("optim.total_samples=120", BadValue, "optim.total_samples=120"),
        ("optim.total_samples=115", BadValue, "optim.total_samples=115"),
        ("optim.total_samples=many", BadValue, "optim.total_samples=many"),
        ("optim.total_sample=240", UnknownName, "'optim.total_sample'"),
        ("optim.learning_rate=1", Mismatch, "optim.learning_rate=1"),
        ("seed=3", Mismatch, "seed=3"),
    ],
)
def test_what_cannot_be_added_to_a_finished_run(
    shards: Path, tmp_path: Path, setting: str, kind: type[UserError], named: str
) -> None:
    run = trained(shards, tmp_path / "runs", 120)
    with refuses(named, kind=kind):
        resume(run, [setting])
    assert run.result is not None and not read_totals(run.folder)


def test_without_its_checkpoints_a_finished_run_stays_as_it_is(shards: Path, tmp_path: Path) -> None:
    import shutil

    run = trained(shards, tmp_path / "runs", 120)
    shutil.rmtree(run.folder / "checkpoints")
    with refuses("120", "source=", kind=NotFound):
        extend(run, 240)
    assert run.result is not None and not read_totals(run.folder)


def test_a_kill_in_the_middle_of_extending_is_mended_by_the_same_command(
    shards: Path, tmp_path: Path
) -> None:
    run = trained(shards, tmp_path / "runs", 120)
    finished = (run.folder / "finished.json").read_bytes()
    extend(run, 240)
    (run.folder / "finished.json").write_bytes(finished)  # as if the last step had not been
    extend(run, 240)
    assert run.result is None and read_totals(run.folder) == [120, 240]
    assert read_json(run.folder / "config.json")["optim"]["total_samples"] == 240


def test_the_other_door_says_that_a_run_could_be_made_longer(shards: Path, tmp_path: Path) -> None:
    short = trained(shards, tmp_path / "runs", 120)
    other, _ = open_training(compose("train", settings(shards, tmp_path / "runs", 240)))
    assert other.folder != short.folder
    said = could_be_extended(other)
    assert f"birdsd resume {short.folder.name} optim.total_samples=240" in said
    # One that differs in anything else is no candidate, nor one of the other length.
    another, _ = open_training(compose("train", settings(shards, tmp_path / "runs", 240, "seed=5")))
    assert could_be_extended(another) == ""
    extend(short, 180)
    assert "180 samples" in could_be_extended(other)


def test_a_longer_run_travels_as_what_it_is(shards: Path, tmp_path: Path) -> None:
    """Packed and unpacked, its signature holds, and it goes on to its new end."""
    from birdsd.runs.pack.pack import pack
    from birdsd.runs.pack.unpack import unpack

    run = trained(shards, tmp_path / "runs", 120)
    extend(run, 240)
    pack(run, tmp_path / "run.pack")
    facts, _ = unpack(tmp_path / "run.pack", tmp_path / "there")
    assert "optim.total_samples=120" in facts["command"], facts["command"]
    there = trained(shards, tmp_path / "there", 120)
    assert str(there.folder) == facts["run"] and there.result is not None
    assert there.result["position"] == 240
