"""What must outlast every move and rename: see `tests.golden` for what is pinned and when it is refreshed."""

from __future__ import annotations

import base64
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from birdsd import config, schema
from birdsd.cluster.script_lines import setup_lines, teardown_lines
from birdsd.errors import UserError
from birdsd.runs.allocations import Submission
from birdsd.runs.run import RunStore
from birdsd.training.records import read_metrics
from tests.golden import differences, explained, plain, read, shape_of
from tests.golden.makers import FORMS, KEYS, KINDS, surroundings
from tests.golden.runs import SETTINGS, made_runs
from tests.support.histories import History

ROOT = Path(__file__).resolve().parents[1]
# Names that live outside this repository, in what queued jobs hold: batch scripts, submitit's pickles, the
# command lines of supervisors. After a move they answer for a release longer. These are never refreshed.
# birdsd.cluster.aftermath and supervisor are the old names of next_allocation and local.
IN_BATCH_SCRIPTS = {"birdsd.cluster.aftermath", "birdsd.cluster.next_allocation"}
SUPERVISORS = {"birdsd.cluster.supervisor", "birdsd.cluster.local"}
# pickle.dumps(RankTask("train", ["model=tiny"], "runs/x", "/home", 3), protocol=4), before anything moved.
RANK_TASK = base64.b64decode(
    "gASVgwAAAAAAAACME2JpcmRzZC5jbHVzdGVyLnRhc2uUjAhSYW5rVGFza5STlCmBlH2UKIwDam9ilIwFdHJhaW6UjAhzZXR0aW5nc5Rd"
    "lIwKbW9kZWw9dGlueZRhjApydW5fZm9sZGVylIwGcnVucy94lIwDY3dklIwFL2hvbWWUjAVhcnJheZRLA3ViLg=="
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the tiny runs are made, once for all kinds."""
    return tmp_path_factory.mktemp("golden")


def answer(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "texts" else pytest.mark.slow) for kind in KINDS]
)
def test_it_is_as_it_was(kind: str, folder: Path) -> None:
    with surroundings(folder):
        lines = differences(read(kind), plain(KINDS[kind](folder)))
    assert not lines, explained(kind, lines)


# -- the pins themselves ----------------------------------------------------------------------------------


def test_a_difference_is_found_and_explained() -> None:
    pinned = {"a": {"x": 1.0, "gone": "str"}, "b": ["one", 2], "same": None}
    found = {"a": {"x": 1.002, "new": True}, "b": ["one", 2.0], "same": None}
    lines = differences(pinned, found)
    assert lines == [
        'gone     a > gone: "str"', "new      a > new: true", "changed  a > x: 1.0 -> 1.002",
        "changed  b[1]: 2 -> 2.0",
    ]  # fmt: skip
    assert not differences(pinned, plain(pinned)) and not differences({"x": 1.0}, {"x": 1.0005})
    said = explained("keys", lines)
    assert all(line in said for line in lines) and "python -m tests.golden keys" in said


def test_a_shape_holds_keys_and_types_and_no_values() -> None:
    told = [{"a": 1, "b": "x", "at": {"12": 0.5, "24": 1}}, {"a": None, "at": {}, "c": [True]}]
    assert shape_of(told) == [{"a": "null|number", "at": {"*": "number"}, "b?": "str", "c?": ["bool"]}]
    assert shape_of({"seconds": {"save": 1.5}}) == shape_of({"seconds": {"wait": 1, "train": 2}})
    assert shape_of({"a": {}}) != shape_of({"b": {}}) != shape_of({"b": []})


def test_every_method_and_every_key_of_it_is_pinned() -> None:
    pinned = {re.sub(r"method\.|=.*", "", one) for keys in KEYS.values() for one in keys}
    every = {key.split(".")[1] for key, _ in config.keys(schema.TrainConfig) if key.startswith("method.")}
    assert pinned | {"name", "base_method", "species_balance"} == every
    named = {settings[0].partition("=")[2] for settings in FORMS.values()}
    assert named == {preset.name for preset in config.presets()["method"]}


# -- what queued jobs hold --------------------------------------------------------------------------------


def test_a_queued_jobs_pickle_is_read() -> None:
    task = pickle.loads(RANK_TASK)
    assert vars(task) == {
        "job": "train", "settings": ["model=tiny"], "run_folder": "runs/x", "cwd": "/home", "array": 3,
    }  # fmt: skip
    from birdsd.cluster.task import RankTask

    assert type(task) is RankTask


def test_batch_scripts_name_no_module_that_is_not_pinned(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.submitted(0, ["7"])
    submission = Submission.read(history.folder)
    assert submission is not None
    script = "\n".join([*setup_lines(submission, history.folder), *teardown_lines()])
    assert set(re.findall(r"-m (birdsd[\w.]*)", script)) <= IN_BATCH_SCRIPTS


def test_the_end_of_a_queued_jobs_script_decides_what_comes_next(tmp_path: Path) -> None:
    """The script runs `-m birdsd.cluster.aftermath RUN STATUS`, or the new name, with today's record."""
    history = History(tmp_path)
    history.submitted(0, ["7"])
    history.finished(12000)
    for module in IN_BATCH_SCRIPTS:
        done = answer(module, str(history.folder), "0")
        assert (done.returncode, done.stdout) == (0, "birdsd: done: finished\n"), done.stderr


@pytest.mark.parametrize("module", sorted(IN_BATCH_SCRIPTS | SUPERVISORS))
def test_modules_that_are_started_by_name_refuse_what_is_no_run(module: str, tmp_path: Path) -> None:
    done = answer(module, str(tmp_path / "nowhere"), "0")
    assert done.returncode == UserError.exit_status
    assert done.stderr.startswith("birdsd: unknown run") and "Traceback" not in done.stderr


_REQUEUED = """
import pickle, sys, submitit
task = pickle.loads(bytes.fromhex(sys.argv[1]))
task.settings, task.run_folder, task.cwd, task.array = sys.argv[4:], sys.argv[2], sys.argv[3], 0
executor = submitit.LocalExecutor(folder=sys.argv[3] + "/submitit")
executor.update_parameters(timeout_min=10)
sys.exit(executor.submit(task).result())
"""


@pytest.mark.slow
def test_a_requeued_run_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    """The old pickle, started by submitit on a run that was killed half-way, ends as the run that was not."""
    with surroundings(folder):
        whole = made_runs(folder)["full"]
    shutil.copytree(folder / "runs", tmp_path / "runs")
    run = tmp_path / "runs" / whole.run.folder.name
    (run / "finished.json").unlink()
    shutil.rmtree(run / "export")
    shutil.rmtree(run / "checkpoints" / f"{24:012d}")
    shutil.rmtree(run / "allocations")
    settings = [
        *SETTINGS,
        "method=full",
        f"model.source={folder / 'base'}",
        f"data.shards={folder / 'shards'}",
    ]
    submission = Submission(
        "s1",
        "train",
        settings,
        asdict(config.compose("submit", ["site=local"])),
        0.0,
        str(tmp_path),
        "python",
    )
    submission.write(run)
    command = [
        sys.executable,
        "-c",
        _REQUEUED,
        RANK_TASK.hex(),
        str(run),
        str(tmp_path),
        *settings,
        "runs=runs",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found = RunStore(tmp_path / "runs").find(str(run))
    assert found.result is not None and found.result["resumed_from"] == 12
    losses = {
        f"{line['kind']} {line['position']}": line["loss"] for line in read_metrics(run) if "loss" in line
    }
    assert losses == whole.losses
