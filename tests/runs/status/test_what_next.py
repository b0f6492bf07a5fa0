"""What `birdsd status` suggests for a finished run runs as it is printed, for every method and job."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from birdsd.runs.allocations import Submission
from birdsd.runs.run import RunStore
from birdsd.runs.status.detail import detail
from birdsd.runs.status.what_next import after
from tests.support.histories import History
from tests.support.tiny import SPECIES, make_shards
from tests.support.untrained import make_model

# As little as still is a training; the commands themselves stay as they were printed.
SHORT = (
    "optim.total_samples=8",
    "optim.global_batch=4",
    "save.validate_every_samples=0",
    "machine.threads=1",
)


def birdsd(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "birdsd.cli", *words], capture_output=True, text=True, cwd=folder, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, (words, done.stderr[-3000:])
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder as a user has one, with shards and a model."""
    folder = tmp_path_factory.mktemp("place")
    make_shards(folder / "shards")
    make_model(folder / "runs" / "base-model")
    return folder


def finished(place: Path, *settings: str) -> str:
    """Train and return the name of the run."""
    before = {run.folder.name for run in RunStore(place / "runs").runs()}
    birdsd(place, "run", "train", "data.shards=shards", *settings, *SHORT)
    (name,) = {run.folder.name for run in RunStore(place / "runs").runs()} - before
    return name


def suggested(place: Path, name: str, says: str) -> list[str]:
    """The words of the command that `birdsd status RUN` prints beside these, as a shell takes them."""
    text = birdsd(place, "status", name)
    line = next(line for line in text.splitlines() if line.startswith("  birdsd") and line.endswith(says))
    return shlex.split(line.strip().removesuffix(says))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ("method=lora", "method.rank=2", "method.targets=[attention]"),
        ("method=textual_inversion", "method.vectors=1"),
        ("method=full",),
        ("method=dreambooth", "method.class_samples=4", "method.class_steps=1", "method.rank=2"),
    ],
    ids=lambda settings: settings[0],
)
def test_sounds_from_what_was_taught(place: Path, settings: tuple[str, ...]) -> None:
    name = finished(place, *settings, "model.init=pretrained", "model.source=runs/base-model")
    command = suggested(place, name, "generates sounds with it")
    assert command[:3] == ["birdsd", "run", "generate"]
    if "full" not in settings[0]:
        assert f"add={name}" in command and "run=runs/base-model" in command
    told = birdsd(place, *command[1:], "steps=2", "machine.threads=1", f"out=sounds-{name}")
    clips = [line for line in told.splitlines() if ".wav" in line]
    assert len(clips) == 4 and all(any(name in line for name in SPECIES) for line in clips)


@pytest.mark.slow
def test_from_an_autoencoder_to_a_model_that_makes_sound(place: Path) -> None:
    name = finished(place, "method=autoencoder", "model=tiny")
    command = suggested(place, name, "trains a diffusion model on it")
    assert "generate" not in command and f"model.autoencoder={name}" in command
    before = {run.folder.name for run in RunStore(place / "runs").runs()}
    birdsd(place, *command[1:], *SHORT)
    (made,) = {run.folder.name for run in RunStore(place / "runs").runs()} - before
    assert "4 clips" in birdsd(place, *suggested(place, made, "generates sounds with it")[1:], "steps=2")


@pytest.mark.slow
def test_from_a_clip_to_aesthetic_gradients_to_sounds(place: Path) -> None:
    name = finished(place, "method=clip", "model.init=pretrained", "model.source=runs/base-model")
    command = suggested(place, name, "computes the aesthetic embedding of each species")
    assert f"model.clip={name}" in command and "method=aesthetic_gradients" in command
    before = {run.folder.name for run in RunStore(place / "runs").runs()}
    birdsd(place, *command[1:])
    (made,) = {run.folder.name for run in RunStore(place / "runs").runs()} - before
    sounds = suggested(place, made, "generates sounds with it")
    assert f"add={made}" in sounds
    assert "4 clips" in birdsd(place, *sounds[1:], "steps=2", "out=sounds-clip")


def array(folder: Path, job: str, config: dict, settings: list[str]) -> History:
    from birdsd.files import write_json

    history = History(folder / "runs", f"{job}-0123456789ab", job=job)
    write_json(history.folder / "config.json", config)
    history.submitted(0, ["12"], array=1)
    last = Submission.read(history.folder)
    assert last is not None
    last.settings = settings
    last.write(history.folder)
    history.ran("12_0.0", 0.1, took={"train": 0.1}, end="finished", part="0/1", job_id="12_0")
    return history


def test_after_prepare_the_shards_are_looked_at_and_learnt_from(place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    history = array(place, "prepare", {"data": {"shards": "shards"}}, [])
    told = dict(after(RunStore(Path("runs")).find(history.folder.name), "prepare"))
    assert "16" in birdsd(place, *shlex.split(told["shows what they contain"])[1:])
    learn = shlex.split(told["trains an autoencoder on them"])
    assert learn[:3] == ["birdsd", "run", "train"] and "data.shards=shards" in learn
    birdsd(place, *learn[1:], "--keys")
    assert [command for says, command in detail(history.run).next_steps if says == "shows what they contain"]


def test_after_caching_comes_the_training_that_it_was_for(place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    history = array(place, "cache", {"data": {"shards": "shards"}}, ["method=lora", "data.shards=shards"])
    ((_, command),) = after(history.run, "cache")
    assert command == "birdsd run train method=lora data.shards=shards"


@pytest.mark.parametrize("job", ["methods", "four_ways"])
def test_a_comparison_ends_in_its_page(tmp_path: Path, monkeypatch, job: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out of it").mkdir()
    (tmp_path / "out of it" / "report.html").write_text("<p>")
    history = array(tmp_path, job, {"out": "out of it"}, [])
    ((_, command),) = after(history.run, job)
    assert subprocess.run(shlex.split(command), capture_output=True, cwd=tmp_path).returncode == 0


def test_a_run_whose_records_are_gone_gets_no_suggestion(tmp_path: Path) -> None:
    history = History(tmp_path)
    (history.folder / "config.json").unlink()
    assert after(history.run, "train") == []
