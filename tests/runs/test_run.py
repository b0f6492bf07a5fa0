"""Runs are found again by what they are, and never go on with other shards than they began with."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from birdsd.cluster.rank.signals import StopFlag
from birdsd.config import compose
from birdsd.errors import BadValue, InUse, Mismatch, NotFound, UnknownName, UserError
from birdsd.files import exclusive, fingerprint
from birdsd.runs.run import RunStore, content_identity
from birdsd.studies.stage_runner import Stages
from tests.support.errors import refuses
from tests.support.toy import make_shards


@dataclasses.dataclass
class Shards:
    """As much of a ShardIndex as the store asks for."""

    folder: Path
    held: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.held)

    def inventory(self) -> dict[str, Any]:
        return self.held

    def changes_since(self, recorded: dict[str, Any]) -> list[str]:
        return [f"{name} changed" for name in self.held if recorded.get(name) != self.held[name]]


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return Shards(tmp_path, {"train-000000.tar": {"size": 10}})


def test_the_same_settings_find_the_same_run(tmp_path: Path, shards: Shards) -> None:
    store = RunStore(tmp_path / "runs")
    first = store.open(compose("train", ["seed=1"]), shards)
    again = store.open(compose("train", ["seed=1", "machine=laptop-4gb", "save.keep=5"]), shards)
    other = store.open(compose("train", ["seed=2"]), shards)
    assert again == first
    assert other.folder != first.folder
    assert {run.folder.name for run in store.runs()} == {first.folder.name, other.folder.name}
    assert store.find(first.signature) == first
    assert store.find(str(first.folder)) == first
    assert store.find(first.folder.name) == first


def test_an_ambiguous_or_unknown_run_lists_the_names(tmp_path: Path, shards: Shards) -> None:
    store = RunStore(tmp_path / "runs")
    run = store.open(compose("train", ["seed=1"]), shards)
    store.open(compose("train", ["seed=2"]), shards)
    with refuses(("'tiny'", run.folder.name), kind=BadValue):
        store.find("tiny")
    with refuses("", f"'{run.folder.name}'", kind=UnknownName):
        store.find(run.folder.name[:-1] + "_")


def test_changed_shards_are_refused_and_said(tmp_path: Path, shards: Shards) -> None:
    store = RunStore(tmp_path / "runs")
    store.open(compose("train", []), shards)
    changed = Shards(tmp_path, {"train-000000.tar": {"size": 11}})
    with refuses("train-000000.tar", "name=ANOTHER_NAME", kind=Mismatch):
        store.open(compose("train", []), changed)
    fresh = store.open(compose("train", ["name=after"]), changed)
    assert fresh.folder.name.startswith("after-")
    assert store.open(compose("train", ["name=after"]), changed) == fresh


def test_a_hostile_name_stays_inside_the_root(tmp_path: Path, shards: Shards) -> None:
    run = RunStore(tmp_path / "runs").open(compose("train", ["name=../../etc/-rf $(x)"]), shards)
    assert run.folder.resolve().parent == (tmp_path / "runs").resolve()


def test_events_of_several_writers_stay_whole_lines(tmp_path: Path, shards: Shards) -> None:
    run = RunStore(tmp_path).open(compose("train", []), shards)
    writers = [
        threading.Thread(target=lambda n=n: [run.event({"n": n, "text": "x" * 500}) for _ in range(50)])
        for n in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sum(event.get("n") is not None for event in run.events()) == 200


def test_events_of_many_processes_are_told_in_order(tmp_path: Path, shards: Shards) -> None:
    run = RunStore(tmp_path).open(compose("train", []), shards)
    for writer, times in {"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0]}.items():
        lines = [json.dumps({"time": time, "event": f"{writer}{time}"}) for time in times]
        (run.folder / "events").mkdir(exist_ok=True)
        (run.folder / "events" / f"{writer}.jsonl").write_text("\n".join([*lines, '{"time": 9, "torn']))
    (run.folder / "events" / "c.jsonl").write_text(
        '{"time": 4.5, "event": "c1"}\n{"time": 0.5, "event": "c2"}\n'
    )
    told = [event["event"] for event in run.events()]
    assert told == ["a1.0", "b2.0", "a3.0", "b4.0", "c1", "c2", "a5.0"]


def test_content_identity_is_of_the_weights_not_of_the_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "vae").mkdir(parents=True)
        (tmp_path / name / "vae" / "model.safetensors").write_bytes(b"weights")
    assert content_identity(str(tmp_path / "a")) == content_identity(str(tmp_path / "b"))
    (tmp_path / "b" / "vae" / "model.safetensors").write_bytes(b"Weights")
    assert content_identity(str(tmp_path / "a")) != content_identity(str(tmp_path / "b"))
    assert content_identity("someone/some-model") == "someone/some-model"
    assert content_identity(None) == ""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2", "SIGINT"])
def test_a_signal_only_sets_the_flag(name: str) -> None:
    before = signal.getsignal(getattr(signal, name))
    stop = StopFlag()
    try:
        assert not stop()
        os.kill(os.getpid(), getattr(signal, name))
        assert stop()
    finally:
        stop.restore()
    assert signal.getsignal(getattr(signal, name)) == before


def test_a_stage_reports_facts_costs_and_failure(tmp_path: Path, capfd) -> None:
    stages = Stages(tmp_path)
    with refuses(("'broken'", "status 2"), kind=UserError):
        stages.run("broken", "train", ["data.shards=/nowhere"])
    assert "/nowhere" in capfd.readouterr().err
    done: list[int] = []
    with refuses(("'broken'", "status 2"), kind=UserError):
        stages.run("broken", "train", ["data.shards=/nowhere"], disturb=lambda: bool(done.append(1)))
    assert done, "it was called while the stage ran"


def test_a_stage_keeps_its_costs_and_says_whether_it_was_disturbed(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards")
    stages = Stages(tmp_path)
    calls = iter([False, True])
    settings = [f"data.shards={shards}", "--keys"]
    stages.run("keys", "train", settings, disturb=lambda: next(calls, True))
    record = Stages(tmp_path).record("keys", settings)
    assert record is not None and Stages(tmp_path).record("keys", [*settings, "seed=1"]) is None
    kept = record.cost
    assert kept.disturbed and kept.peak_mib > 1 and kept.wall_s > 0


def test_ctrl_c_twice_interrupts() -> None:
    script = (
        "import os, signal; from birdsd.cluster.rank.signals import StopFlag; StopFlag();"
        "os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "KeyboardInterrupt" in done.stderr


def test_a_model_is_named_by_folder_run_or_hub_id_and_a_typo_never_reaches_a_hub(
    tmp_path: Path, shards: Shards
) -> None:
    store = RunStore(tmp_path / "runs")
    run = store.open(compose("train", []), shards)
    assert store.model_source(run.folder.name, "model.autoencoder") == str(run.folder)
    assert store.model_source(run.signature, "model.autoencoder") == str(run.folder)
    assert store.model_source(str(run.folder), "model.autoencoder") == str(run.folder)
    assert store.model_source("someone/model", "model.source") == "someone/model"
    assert store.model_source(None, "model.source") is None
    for typo in ("runs/typo", "./typo", "typo", "/no/where", "~/typo"):
        with refuses(f"model.autoencoder={typo}", kind=NotFound):
            store.model_source(typo, "model.autoencoder")


def test_a_folder_in_use_is_refused_and_free_again_after_a_kill(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from birdsd.files import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with refuses(f"process {holder.pid} ", kind=InUse), exclusive(tmp_path):
        raise AssertionError("two hold it")
    holder.kill()
    holder.wait()
    with exclusive(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
