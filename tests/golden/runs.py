"""Tiny runs of real jobs, and the shape of what the verbs say of them in JSON."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from birdsd.checks.verify.check import check_all
from birdsd.checks.verify.compare import Limits
from birdsd.checks.verify.verify import VerifyResult
from birdsd.cli import main
from birdsd.cli.plan import plan
from birdsd.config import compose
from birdsd.files import fingerprint, read_json
from birdsd.jobs_api import load_job
from birdsd.runs.run import Run, RunStore
from birdsd.runs.status.detail import detail
from birdsd.runs.status.overview import overview
from birdsd.shards.inspect import describe
from birdsd.training.records import read_metrics
from tests.checks.verify.test_verify import BATCH, USUAL, course, write_run
from tests.golden import shape_of
from tests.support.histories import History
from tests.support.tiny import make_shards
from tests.support.untrained import make_model

# One of each kind of thing that can be learnt: all of a model, an update, rows of a table, an autoencoder.
METHODS = {
    "full": ("method=full",),
    "lora": ("method=lora", "method.rank=2"),
    "textual_inversion": ("method=textual_inversion", "method.vectors=1"),
    "autoencoder": ("method=autoencoder", "method.crop_frames=32"),
}
SETTINGS = (
    "model=tiny", "model.init=pretrained", "optim.total_samples=24", "optim.global_batch=6",
    "optim.warmup_samples=6", "save.every_samples=12", "save.validate_every_samples=24",
    "save.validation_samples=4", "machine.threads=1", "machine.precision=fp32", "machine.device=cpu",
)  # fmt: skip


_NAMED_AFTER_A_TIME = ("events/", "allocations/", "tensorboard/")


@dataclass
class Made:
    """A finished run, and the loss at each of its positions, by kind."""

    run: Run
    facts: dict[str, Any]

    @property
    def losses(self) -> dict[str, float]:
        lines = [line for line in read_metrics(self.run.folder) if "loss" in line]
        return {f"{line['kind']} {line['position']}": line["loss"] for line in lines}

    @property
    def checkpoint(self) -> Path:
        return max((self.run.folder / "checkpoints").glob("[0-9]*"))


@cache
def made_runs(folder: Path) -> dict[str, Made]:
    """The tiny runs below `folder`, trained once."""
    shards, model = make_shards(folder / "shards"), make_model(folder / "base")
    places = (f"model.source={model}", f"data.shards={shards}", f"runs={folder / 'runs'}")
    found = {}
    for name, settings in METHODS.items():
        with contextlib.redirect_stderr(io.StringIO()):
            facts = load_job("train")(compose("train", [*SETTINGS, *settings, *places])).facts
        found[name] = Made(RunStore(folder / "runs").find(facts["run"]), facts)
    return found


def shapes(folder: Path) -> dict[str, Any]:
    """By verb or file: keys and types of its JSON."""
    found: dict[str, Any] = {}
    for name, made in made_runs(folder).items():
        kept = made.run.folder
        found[f"run {name}: result of train --json"] = shape_of(made.facts)
        for path in sorted(made.checkpoint.glob("*.json")):
            found[f"run {name}: checkpoint {path.name}"] = shape_of(read_json(path))
        found[f"run {name}: tensors of a checkpoint"] = _tensors(made.checkpoint)
        for path in sorted(kept.glob("*.json")) if name == "full" else ():
            found[f"run {name}: {path.name}"] = shape_of(read_json(path))
        for kind in ("train", "validation"):
            lines = [line for line in read_metrics(kept) if line["kind"] == kind]
            found[f"run {name}: {kind} in metrics.jsonl"] = shape_of(lines)
        events: dict[str, list[dict[str, Any]]] = {}
        for event in made.run.events():
            events.setdefault(str(event["event"]), []).append(event)
        for event, lines in events.items():
            found[f"run {name}: event {event}"] = shape_of(lines)
        found[f"run {name}: files"] = sorted(_files(kept))
    found |= _of_verbs(folder)
    return found


def _tensors(checkpoint: Path) -> dict[str, Any]:
    """How many there are of each kind, and a hash of all names: a run that is under way goes on with them."""
    names = sorted(read_json(checkpoint / "COMMIT.json")["tensors"])
    kinds = Counter("/".join(name.split("/")[:2]).split(".")[0] for name in names)
    return {**kinds, "names": fingerprint(names)}


def _files(run: Path) -> set[str]:
    """Files of a run, without those that are named after a time or a process."""
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(_NAMED_AFTER_A_TIME)}


def _of_verbs(folder: Path) -> dict[str, Any]:
    runs = folder / "runs"
    run = made_runs(folder)["full"].run
    told = _history(folder / "queued")
    settings = ["model=tiny", "method=lora", "model.init=pretrained", f"model.source={folder / 'base'}",
                f"data.shards={folder / 'shards'}", f"runs={runs}"]  # fmt: skip
    inspected = shape_of(describe(folder / "shards", verify=True))
    return {
        "status --json": shape_of([one.to_json() for one in overview(runs, everything=True)]),
        "status RUN --json": shape_of(_json(detail(run).to_json())),
        "status RUN --json, submitted": shape_of(_json(detail(told).to_json())),
        "plan train --json": shape_of(plan("train", [*settings, "machine=laptop-4gb"], "h100")[0]),
        "plan train --json, on a CPU": shape_of(plan("train", [*settings, "machine=smoke"])[0]),
        "plan generate --json": shape_of(plan("generate", [f"run={run.folder}"], "h100")[0]),
        "doctor --json": shape_of(_said("doctor", "train", *settings, "--json")),
        "doctor --run RUN --json": shape_of(_said("doctor", "--run", str(run.folder), "--json")),
        "inspect --verify --json": inspected,
        "verify --json": shape_of(_json(verified(folder / "verify").to_json())),
    }


def _history(folder: Path) -> Run:
    """A run that was submitted to Slurm, and stopped once."""
    history = History(folder)
    history.submitted(0, ["7"])
    history.ran("7.0", 1, took={"start": 0.1, "train": 0.5, "save": 0.1}, to=6000)
    history.saved(6000)
    return history.run


def verified(folder: Path) -> VerifyResult:
    """What a verification says that found nothing wrong."""
    reference, changed, results = write_run(folder / "reference"), write_run(folder / "runs"), course()
    checks = check_all(reference, changed, [one.segment for one in results], results, USUAL, Limits())
    assert all(check.passed for check in checks)
    return VerifyResult([], 6, BATCH, "cpu", "fp32", 1.0, results, checks, [], 2.0)


def _json(value: Any) -> Any:
    """As `--json` prints it."""
    return json.loads(json.dumps(value, default=str))


def _said(*words: str) -> Any:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        main.main(list(words))
    return json.loads(out.getvalue())
