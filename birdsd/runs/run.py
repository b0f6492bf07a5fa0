"""Runs and where they live: `RUNS/MODEL-METHOD-SIGNATURE/`.

The same settings give the same signature, and so the same folder: that is how "run it again"
resumes, here or on another machine. A folder holds `config.json`, `signature.json`,
`events/`, and what training writes there (checkpoints, metrics, previews, export). A job that is not
a training has such a folder too once it is submitted: `RUNS/JOB-SIGNATURE/`.
"""

from __future__ import annotations

import heapq
import json
import os
import platform
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsd.config import as_dict, as_listed, signature
from birdsd.errors import BadValue, Mismatch, NotFound, NotSet, listed_names, unknown_name
from birdsd.files import (
    append_bytes,
    explained_write,
    fingerprint,
    read_json,
    safe_name,
    sha256_file,
    write_json,
)
from birdsd.schema import MODEL_KEYS, TrainConfig
from birdsd.shards.checks import check_pictures
from birdsd.shards.index import ShardIndex, listed
from birdsd.training.stretches import read_totals

# What `RUN/shards` keeps of the shards, so that sounds can be decoded and class pictures be found again.
SHARDS_FOLDER = "shards"

SIGNATURE_FILE, EVENTS = "signature.json", "events"
# The run folder of a submitted training, for its ranks: a run may have been renamed or copied.
RUN_FOLDER_VARIABLE = "BIRDSD_RUN_FOLDER"
# Two machines may give out the same process id, and one machine may after a restart.
_WRITER = safe_name(f"{platform.node()}-{time.time():.0f}")


@dataclass(frozen=True)
class Run:
    """One run of a job and its folder."""

    folder: Path
    signature: str

    @property
    def export_folder(self) -> Path:
        return self.folder / "export"

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, as it was written when the run was opened."""
        return read_json(self.folder / "config.json")

    @property
    def result(self) -> dict[str, Any] | None:
        """The result that a finished run wrote last; None while it is unfinished."""
        path = self.folder / "finished.json"
        return read_json(path) if path.is_file() else None

    @property
    def job(self) -> str:
        """The job that the folder belongs to."""
        return read_json(self.folder / SIGNATURE_FILE).get("job", "train")

    def events(self) -> list[dict[str, Any]]:
        """The events so far, of all its processes; a line torn by a kill is left out.

        Events of one process stay in the order of writing, whatever the clocks said.
        """
        streams = []
        for path in sorted((self.folder / EVENTS).glob("*.jsonl")):
            events, latest = [], 0.0
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, TypeError, KeyError):
                    event = json.loads(line)
                    latest = max(latest, float(event["time"]))
                    events.append((latest, event))
            streams.append(events)
        return [event for _, event in heapq.merge(*streams, key=lambda pair: pair[0])]

    def event(self, event: dict[str, Any]) -> None:
        """Append one line to this process's own file in events/: no two writers share one, since
        appending together is safe on a local disk and not on NFS or Lustre."""
        line = json.dumps({"time": round(time.time(), 3), **event}, ensure_ascii=False, default=str) + "\n"
        append_bytes(self.folder / EVENTS / f"{_WRITER}-{os.getpid()}.jsonl", line.encode())


class RunStore:
    """All runs below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def open(self, config: TrainConfig, index: ShardIndex, write: bool = True) -> Run:
        """The run of this configuration on these shards, created or found by its signature. Without
        `write` nothing is created.

        Raises `UserError` where the run exists but its shards have changed since: it would continue on
        different data.
        """
        models = identities(config)
        # The recipe is everything but the data, so that a run whose shards changed can be found.
        recipe = signature(config, **models)
        mark = signature(config, **models, data=index.fingerprint)
        title = config.name or f"{config.model.name}-{config.method.name}"
        folder = str(index.folder.resolve())
        try:
            run = self._place(safe_name(title), mark)
        except Mismatch:
            # Of everything that may have changed under a job, shards can be named.
            self._refuse_changed_shards(safe_name(title), recipe, folder, index)
            raise
        if not run.folder.is_dir():
            self._refuse_changed_shards(safe_name(title), recipe, folder, index)
        if not write:
            return run
        with explained_write(run.folder):
            run.folder.mkdir(parents=True, exist_ok=True)
        if totals := read_totals(run.folder):
            config.optim.total_samples = totals[-1]  # it was extended since its signature was computed
        write_json(run.folder / "config.json", as_dict(config))
        write_json(run.folder / "shards.json", {"folder": folder, "inventory": index.inventory()})
        # Last, since a folder counts as a run once this file is there.
        write_json(
            run.folder / SIGNATURE_FILE,
            {"signature": mark, "job": "train", "recipe": recipe, **models, "data": index.fingerprint},
        )
        return run

    def _place(self, title: str, mark: str) -> Run:
        """The folder of the run with a signature: under its own name, and for a submitted job in the
        folder that the job belongs to, whatever its name is by now.

        Raises `UserError` for a submitted job whose settings now mean another run.
        """
        named = os.environ.get(RUN_FOLDER_VARIABLE)
        if named and (Path(named) / SIGNATURE_FILE).is_file():
            signature = str(read_json(Path(named) / SIGNATURE_FILE)["signature"])
            if signature != mark:
                raise Mismatch(
                    f"the settings of {Path(named).name} now lead to run {mark} instead of {signature}",
                    "a run continues only with the settings, shards and models that it started with",
                    "restore what changed (a preset, a base model), or start a new run",
                )
            return Run(Path(named), mark)
        return Run(self.root / f"{title}-{mark}", mark)

    def open_job(self, job: str, config: Any, write: bool = True) -> Run:
        """The folder of a job other than train, created or found by its settings."""
        plain = as_listed(config)  # so that it does not depend on which keys the method has
        plain.pop("machine", None), plain.pop("part", None)
        mark = fingerprint(plain, length=12)
        run = Run(self.root / f"{safe_name(job)}-{mark}", mark)
        if not write:
            return run
        with explained_write(run.folder):
            run.folder.mkdir(parents=True, exist_ok=True)
        write_json(run.folder / "config.json", as_dict(config))
        write_json(run.folder / SIGNATURE_FILE, {"signature": mark, "job": job})
        return run

    def _refuse_changed_shards(self, title: str, recipe: str, folder: str, index: ShardIndex) -> None:
        for run in self.runs("train"):
            if run.folder.name != f"{title}-{run.signature}":
                continue
            if read_json(run.folder / SIGNATURE_FILE).get("recipe") != recipe:
                continue
            recorded = read_json(run.folder / "shards.json")
            if recorded.get("unpacked"):
                changes = index.changes_since(recorded["inventory"]) or ["codec.json"]
                raise Mismatch(
                    f"the shards in {folder} are not those of {run.folder.name}, which was unpacked here: "
                    f"{listed(changes)}",
                    "a run continues only with the samples that it started with",
                    "name identical ones (`birdsd pack RUN --with-shards` includes them), or start a "
                    "new run beside it with name=ANOTHER_NAME",
                )
            if recorded["folder"] == folder:
                changes = index.changes_since(recorded["inventory"]) or ["codec.json changed"]
                raise Mismatch(
                    f"the shards in {folder} have changed since {run.folder.name} started: {listed(changes)}",
                    "a run continues only with the samples that it started with",
                    "restore the shards, or start a new run beside it with name=ANOTHER_NAME",
                )

    def runs(self, job: str | None = None) -> list[Run]:
        """All runs below the root, sorted by folder name; with `job` those of one job."""
        marks = [(path, read_json(path)) for path in sorted(self.root.glob(f"*/{SIGNATURE_FILE}"))]
        return [
            Run(path.parent, mark["signature"])
            for path, mark in marks
            if job in (None, mark.get("job", "train"))
        ]

    def find(self, text: str) -> Run:
        """The run that `text` names: a folder, a folder's name, or the start of a signature."""
        folder = Path(text)
        if (folder / SIGNATURE_FILE).is_file():
            return Run(folder, read_json(folder / SIGNATURE_FILE)["signature"])
        runs = self.runs()
        matches = [run for run in runs if run.folder.name == text] or [
            run for run in runs if run.signature.startswith(text) or run.folder.name.startswith(text)
        ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            names = listed_names(run.folder.name for run in matches)
            raise BadValue(f"'{text}' matches several runs: {names}", "", "use a longer prefix")
        existing = (run.folder.name for run in runs)
        raise unknown_name(
            "run", text, existing, f"Runs are looked for in {self.root}.", "`birdsd status --all`"
        )

    def model_source(self, text: str | None, key: str) -> str | None:
        """What `model.autoencoder` or `model.source` names: a folder, a run (by name or signature), or a
        hub id (`someone/model`, whose first part is no folder here). Any other name is a `UserError`,
        before anything is created or downloaded."""
        if not text:
            return None
        place = Path(text).expanduser()
        if place.exists():
            return str(place)
        names = [run.folder.name for run in self.runs("train")]
        if any(r.folder.name.startswith(text) or r.signature.startswith(text) for r in self.runs("train")):
            return str(self.find(text).folder)
        is_path = text.startswith((".", "/", "~")) or Path(text).parts[0] in (self.root.name, "runs")
        if is_path or text.count("/") != 1 or Path(text.split("/")[0]).is_dir():
            raise NotFound(
                f"{key}={text} does not exist",
                "it is a folder, a run's name or signature, or a hub id like someone/model",
                f"runs in {self.root}: {listed_names(names, text)}",
            )
        return text


def open_training(config: TrainConfig, write: bool = True) -> tuple[Run, ShardIndex]:
    """The run of a training configuration, and its shards; `model.*` are resolved to folders or hub ids."""
    if not config.data.shards:
        raise NotSet(
            "data.shards is not set", "training reads prepared shards", "data.shards=FOLDER of `prepare`"
        )
    index = ShardIndex.open(Path(config.data.shards))
    check_pictures(index, ("train", "validation"))
    store = RunStore(Path(config.runs))
    for key in MODEL_KEYS:
        setattr(config.model, key, store.model_source(getattr(config.model, key), f"model.{key}"))
    run = store.open(config, index, write)
    if write and (run.folder / "shards").is_dir():
        adopt_class_pictures(run.folder, index.folder)
    return run, index


def identities(config: TrainConfig) -> dict[str, str]:
    """Fingerprints of the models of a training's settings, by key, as they enter the signature."""
    named = {key: getattr(config.model, key) for key in MODEL_KEYS}
    # The first two count also where they are not named: so they did before there was a third.
    return {
        key: content_identity(source)
        for key, source in named.items()
        if source or key in ("autoencoder", "source")
    }


def content_identity(source: str | None) -> str:
    """A fingerprint of a model folder's contents, independent of its location.

    A hub id stands for itself; of a run's folder the export counts, not its checkpoints.
    """
    if not source:
        return ""
    folder = Path(source)
    if not folder.is_dir():
        return source
    if (folder / "export").is_dir():
        folder = folder / "export"
    # The JSON files beside the weights count too: a scaling factor or a schedule changes what is learnt.
    weights = sorted(
        [*folder.rglob("*.safetensors"), *folder.glob("*/*config.json"), *folder.glob("config.json")]
    )
    return fingerprint([[str(path.relative_to(folder)), sha256_file(path)] for path in weights])


def adopt_class_pictures(run_folder: Path, shards_folder: Path) -> int:
    """Copy the class images of an unpacked run to where they are looked for, beside the shards; returns
    how many were missing there. Several ranks may do so at once."""
    brought = 0
    for folder in sorted((Path(run_folder) / SHARDS_FOLDER).glob("class-*")):
        for path in sorted(folder.iterdir()):
            target = Path(shards_folder) / folder.name / path.name
            if target.exists() or not re.fullmatch(r"\d+\.png|facts\.json", path.name):
                continue
            with explained_write(target):
                target.parent.mkdir(exist_ok=True)
                partial = target.with_name(f".{path.name}.{os.getpid()}.partial")
                shutil.copyfile(path, partial)
                os.replace(partial, target)
            brought += 1
    return brought
