"""Notebook services are told apart, and a run saves and stops before its machine's session ends."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from birdsd.checks.context import DoctorContext
from birdsd.checks.software import check_notebook
from birdsd.cli import main
from birdsd.config import compose
from birdsd.errors import BadValue
from birdsd.jobs_api import STOPPED_STATUS
from birdsd.runs.allocations import allocations
from birdsd.runs.run import RunStore
from birdsd.schema import MachineConfig
from birdsd.site import notebooks
from tests.support.errors import refuses
from tests.support.tiny import make_shards
from tests.support.untrained import make_model

NOON = time.mktime((2026, 3, 4, 12, 0, 0, 0, 0, -1))
HOUR = 3600.0


def machine(**settings) -> MachineConfig:
    return MachineConfig(name="test", **settings)


# -- services ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "folders", "name", "keeps"),
    [
        ({"PAPERSPACE_FQDN": "x"}, ["storage", "notebooks"], "Paperspace", "storage/birdsd"),
        ({}, ["storage", "notebooks"], "Paperspace", "storage/birdsd"),
        ({"PAPERSPACE_CLUSTER_ID": "x"}, ["notebooks"], "Paperspace", "notebooks/birdsd"),
        ({"COLAB_GPU": "1"}, ["content/drive/MyDrive"], "Colab", "content/drive/MyDrive/birdsd"),
        ({"COLAB_RELEASE_TAG": "x"}, ["content"], "Colab", None),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, ["kaggle/working"], "Kaggle", "kaggle/working/birdsd"),
    ],
)
def test_a_service_is_known_by_what_it_sets_up(variables, folders, name, keeps, tmp_path: Path) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    service = notebooks.here(variables, tmp_path)
    assert service is not None
    assert service.name == name
    assert service.work_folder == (tmp_path / keeps if keeps else None)


@pytest.mark.parametrize("variables", [{}, {"KAGGLE_KEY": "x", "PAPERSPACE_API_KEY": "x"}])
def test_an_ordinary_machine_is_none(variables, tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    assert notebooks.here(variables, tmp_path) is None


def test_what_would_be_lost_is_told(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    service = notebooks.here({"PAPERSPACE_FQDN": "x"}, tmp_path)
    lost, hours = notebooks.advice(service, Path("runs"), None)
    assert f"runs={tmp_path}/storage/birdsd/runs" in lost
    assert "machine.session_hours=6" in hours
    limit = notebooks.session_limit(machine(session_hours=6), None)
    (said,) = notebooks.advice(service, tmp_path / "storage" / "runs", limit)
    assert "training stops 10 min before" in said
    assert notebooks.advice(None, Path("runs"), None) == []
    drive = notebooks.here({"COLAB_GPU": "1"}, tmp_path)
    assert "drive.mount" in notebooks.advice(drive, Path("runs"), None)[0]


def test_the_doctor_knows_notebooks(tmp_path: Path, monkeypatch) -> None:
    assert list(check_notebook(DoctorContext())) == []
    (tmp_path / "storage").mkdir()
    service = notebooks.here({"PAPERSPACE_FQDN": "x"}, tmp_path)
    monkeypatch.setattr(notebooks, "here", lambda: service)
    settings = compose("train", [f"runs={tmp_path}/elsewhere"])
    lost, hours = check_notebook(DoctorContext(settings=settings))
    assert (lost.level, hours.level) == ("warning", "warning")
    assert "storage/birdsd/runs" in lost.what_to_do
    settings = compose("train", [f"runs={tmp_path}/storage/runs", "machine.session_hours=6"])
    assert [found.level for found in check_notebook(DoctorContext(settings=settings))] == ["ok"]


# -- the session's end ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("began", "hours_until_near"),
    [("10:00", 3.5), ("2026-03-04 10:00", 3.5), ("2026-03-04T10:00", 3.5), ("13:00", -17.5), (None, 5.5)],
)
def test_a_session_counts_from_its_beginning(began, hours_until_near) -> None:
    limit = notebooks.session_limit(
        machine(session_hours=6, session_lead_min=30, session_began=began), clock=lambda: NOON
    )
    assert limit is not None
    assert limit.stops - NOON == hours_until_near * HOUR


def test_on_a_service_it_counts_from_the_machines_start(tmp_path: Path, monkeypatch) -> None:
    service = notebooks.here({"PAPERSPACE_FQDN": "x"}, tmp_path)
    monkeypatch.setattr(notebooks, "machine_started", lambda: NOON - 2 * HOUR)
    limit = notebooks.session_limit(machine(session_hours=6), service, clock=lambda: NOON)
    assert limit is not None
    assert limit.ends == NOON + 4 * HOUR
    assert "Paperspace" in limit.in_words()
    elsewhere = notebooks.session_limit(machine(session_hours=6), None, lambda: NOON, NOON - 60)
    assert elsewhere is not None
    assert elsewhere.ends == NOON - 60 + 6 * HOUR
    assert notebooks.session_limit(machine(), service) is None


def test_this_machine_has_started() -> None:
    started = notebooks.machine_started()
    assert started is not None
    assert started <= time.time()


@pytest.mark.parametrize(
    "settings",
    [
        {"session_hours": -1},
        {"session_hours": float("nan")},
        {"session_hours": 1, "session_lead_min": 60},
        {"session_hours": 1, "session_lead_min": -1},
        {"session_hours": 1, "session_began": "25:99"},
        {"session_hours": 1, "session_began": "2126-01-01 00:00"},
        {"session_hours": 1, "session_began": "soon"},
    ],
)
def test_impossible_sessions_are_refused(settings) -> None:
    with refuses("session_", kind=BadValue):
        notebooks.session_limit(machine(**settings), clock=lambda: NOON)


def test_a_session_is_no_part_of_the_signature(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards")
    from birdsd.shards.index import ShardIndex

    store, index = RunStore(tmp_path / "runs"), ShardIndex.open(shards)
    asked = ["machine.session_hours=6", "machine.session_lead_min=15", "machine.session_began=00:00"]
    plain, limited = (store.open(compose("train", words), index, write=False) for words in ([], asked))
    assert plain == limited


def test_a_run_saves_and_stops_before_the_session_ends(tmp_path: Path, capsys, monkeypatch) -> None:
    """The clock is ours: it goes on by an hour at every look, so that the session ends after a few steps."""
    hours = iter(range(1000))
    real = notebooks.session_limit

    def limit(machine, service, command_began):
        return real(machine, service, lambda: NOON + HOUR * next(hours), NOON)

    monkeypatch.setattr(notebooks, "session_limit", limit)
    shards, model = make_shards(tmp_path / "shards"), make_model(tmp_path / "base")
    settings = [
        "method=lora", "model=tiny", "model.init=pretrained", f"model.source={model}", "machine.threads=1",
        f"data.shards={shards}", "optim.total_samples=600", "optim.global_batch=6", "save.every_samples=1000",
        "save.validate_every_samples=0", f"runs={tmp_path / 'runs'}", "machine.session_hours=6",
        "machine.session_lead_min=60",
    ]  # fmt: skip
    assert main.main(["run", "train", *settings, "--json"]) == STOPPED_STATUS
    said = capsys.readouterr()
    facts = json.loads(said.out[said.out.index("{\n") :])  # DeepSpeed's log may stand before it
    assert facts["session_ends"]
    assert 0 < facts["position"] < 60
    assert "training stops 60 min before" in said.err
    (run,) = RunStore(tmp_path / "runs").runs()
    assert (run.folder / "checkpoints" / f"{facts['position']:012d}" / "COMMIT.json").is_file()
    ended = allocations(run.folder)[-1].ended
    assert ended is not None
    assert (ended.reason, ended.status) == ("stopped", STOPPED_STATUS) and "session" in ended.message
    # The session is over: the same command says so again, and undoes nothing.
    assert main.main(["run", "train", *settings]) == STOPPED_STATUS
    assert f"birdsd pack {run.folder.name} --runs" in capsys.readouterr().out
