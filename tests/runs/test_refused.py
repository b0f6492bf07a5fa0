"""A training that is refused for a user's mistake leaves no run behind that says "failed"."""

from __future__ import annotations

from pathlib import Path

import pytest

from birdsd.config import compose
from birdsd.errors import UnknownName, UserError
from birdsd.files import exclusive
from birdsd.jobs_api import load_job
from birdsd.runs.refused import nothing_left_if_refused
from birdsd.runs.run import Run, RunStore
from birdsd.training.records import LEDGER_FILE
from tests.support.errors import refuses
from tests.support.tiny import make_shards


def settings(folder: Path, *more: str) -> list[str]:
    base = folder / "base"
    base.mkdir(exist_ok=True)
    return [
        "model=tiny", "method=lora", "model.init=pretrained", f"model.source={base}", "machine=smoke",
        f"data.shards={folder / 'shards'}", f"runs={folder / 'runs'}", *more,
    ]  # fmt: skip


@pytest.fixture
def shards(tmp_path) -> Path:
    return make_shards(tmp_path / "shards")


def test_nothing_is_left_of_a_run_that_is_refused(shards, tmp_path) -> None:
    wrong = compose("train", settings(tmp_path, "method.targets=[atention]"))
    with refuses("method.targets", kind=UnknownName):
        load_job("train")(wrong)
    assert RunStore(tmp_path / "runs").runs() == [] and list((tmp_path / "runs").iterdir()) == []


def test_what_was_begun_or_is_somebody_elses_stays(shards, tmp_path) -> None:
    """A folder with a submission or an allocation, one with a first step, one that is locked; and one that
    ends with a defect of ours, which has a traceback to look for."""
    for name in ("allocation", "step", "locked", "defect", "refused"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        if name == "allocation":
            (folder / "allocations").mkdir()
        with pytest.raises((UserError, RuntimeError)), nothing_left_if_refused(Run(folder, "x")):
            if name == "step":
                (folder / LEDGER_FILE).write_text("")
            if name == "defect":
                raise RuntimeError
            if name != "locked":
                raise UserError("no")
            with exclusive(folder):
                with pytest.raises(UserError), nothing_left_if_refused(Run(folder, "x")):
                    raise UserError("somebody is at work on it")
                assert folder.is_dir()
            raise RuntimeError
        assert folder.is_dir() == (name != "refused"), name


def test_that_of_several_ranks_stays(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError), nothing_left_if_refused(Run(tmp_path, "x")):
        raise UserError("no")
    assert tmp_path.is_dir()
