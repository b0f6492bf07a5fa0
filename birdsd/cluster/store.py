"""Runs and where they live: `RUNS/MODEL-METHOD-SIGNATURE/`.

The same settings give the same signature, and so the same folder: that is how "run it again"
resumes, here or on another machine. A folder holds `config.json`, `signature.json`,
`events.jsonl`, and what training writes there (checkpoints, metrics, previews, export).
"""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import birdsd
from birdsd.config import as_dict, signature
from birdsd.errors import UserError, unknown_name
from birdsd.files import explained_write, fingerprint, read_json, safe_name, sha256_file, write_json
from birdsd.schema import TrainConfig
from birdsd.shards.index import ShardIndex, listed


@dataclass(frozen=True)
class Run:
    """One training run and its folder."""

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
        """What the finished run wrote as its last act; None while there is something left to do."""
        path = self.folder / "finished.json"
        return read_json(path) if path.is_file() else None

    def events(self) -> list[dict[str, Any]]:
        """What happened so far, in order; a line torn by a kill is left out."""
        found = []
        path = self.folder / "events.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def event(self, event: dict[str, Any]) -> None:
        """Append one line to events.jsonl. One write of one line with O_APPEND does not interleave."""
        line = json.dumps({"time": round(time.time(), 3), **event}, ensure_ascii=False, default=str) + "\n"
        path = self.folder / "events.jsonl"
        with explained_write(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)


class RunStore:
    """All runs below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def open(self, config: TrainConfig, index: ShardIndex) -> Run:
        """The run of this configuration on these shards, made or found again by its signature.

        Raises `UserError` where the same run exists on the same folder of shards but the shards
        have changed since: going on would teach something else than what was begun.
        """
        models = {
            "autoencoder": content_identity(config.model.autoencoder),
            "source": content_identity(config.model.source),
        }
        # The recipe is everything but the data, so that a run whose shards changed can be found.
        recipe = signature(config, **models)
        mark = signature(config, **models, data=index.fingerprint)
        title = config.name or f"{config.model.name}-{config.method.name}"
        run = Run(self.root / f"{safe_name(title)}-{mark}", mark)
        folder = str(index.folder.resolve())
        if not run.folder.is_dir():
            self._refuse_changed_shards(safe_name(title), recipe, folder, index)
        with explained_write(run.folder):
            run.folder.mkdir(parents=True, exist_ok=True)
        write_json(run.folder / "config.json", as_dict(config))
        write_json(run.folder / "shards.json", {"folder": folder, "inventory": index.inventory()})
        # Last, since a folder counts as a run once this file is there.
        write_json(
            run.folder / "signature.json",
            {"signature": mark, "recipe": recipe, **models, "data": index.fingerprint},
        )
        run.event(
            {"event": "opened", "birdsd": birdsd.__version__, "host": platform.node(), "pid": os.getpid()}
        )
        return run

    def _refuse_changed_shards(self, title: str, recipe: str, folder: str, index: ShardIndex) -> None:
        for run in self.runs():
            if run.folder.name != f"{title}-{run.signature}":
                continue
            if read_json(run.folder / "signature.json").get("recipe") != recipe:
                continue
            known = read_json(run.folder / "shards.json")
            if known["folder"] == folder:
                changes = index.changes_since(known["inventory"]) or ["codec.json changed"]
                raise UserError(
                    f"the shards in {folder} have changed since {run.folder.name} began: {listed(changes)}",
                    "a run goes on only with the samples it began with",
                    "restore the shards, or begin a new run beside it with name=ANOTHER_NAME",
                )

    def runs(self) -> list[Run]:
        """Every run below the root, oldest folder name first."""
        marks = sorted(self.root.glob("*/signature.json"))
        return [Run(path.parent, read_json(path)["signature"]) for path in marks]

    def find(self, text: str) -> Run:
        """The run that `text` names: a folder, a folder's name, or the start of a signature."""
        folder = Path(text)
        if (folder / "signature.json").is_file():
            return Run(folder, read_json(folder / "signature.json")["signature"])
        runs = self.runs()
        matches = [run for run in runs if run.folder.name == text] or [
            run for run in runs if run.signature.startswith(text) or run.folder.name.startswith(text)
        ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            names = ", ".join(run.folder.name for run in matches)
            raise UserError(f"'{text}' fits several runs: {names}", "", "give more of the name")
        raise unknown_name(
            "run", text, (run.folder.name for run in runs), f"Runs are looked for in {self.root}."
        )

    def model_source(self, text: str | None, key: str) -> str | None:
        """What `model.autoencoder` or `model.source` names: a folder, a run (by name or signature), or a
        hub id (`someone/model`, whose first part is no folder here). A name that is none of these is a
        `UserError`, before anything is made or asked of a hub.
        """
        if not text:
            return None
        place = Path(text).expanduser()
        if place.exists():
            return str(place)
        names = [run.folder.name for run in self.runs()]
        if any(name.startswith(text) for name in names) or any(
            r.signature.startswith(text) for r in self.runs()
        ):
            return str(self.find(text).folder)
        is_path = text.startswith((".", "/", "~")) or Path(text).parts[0] in (self.root.name, "runs")
        if is_path or text.count("/") != 1 or Path(text.split("/")[0]).is_dir():
            raise UserError(
                f"{key}={text} does not exist",
                "it is a folder, a run's name or signature, or a hub id like someone/model",
                f"runs in {self.root}: {', '.join(names) or '(there are none)'}",
            )
        return text


def content_identity(source: str | None) -> str:
    """What a model folder holds, as a fingerprint that is the same wherever the folder lies.

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
