"""What travels beside a file of weights: the codec, what was heard and under which licences.

NAME.codec.json turns pictures into sound, NAME.training.json says what was taught and on which base,
NAME.recordings.csv credits the recordings. A .safetensors file carries the codec in its header as well.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import birdsd
from birdsd.diffusion.export import TrainingSet, read_codec, read_training
from birdsd.errors import NotFound, Unsupported
from birdsd.files import explained_write, read_json, write_json
from birdsd.method_facts import portable_kinds

CODEC, TRAINING, RECORDINGS = ".codec.json", ".training.json", ".recordings.csv"


@dataclass(frozen=True)
class Exported:
    """An exported folder, and the name that its files get."""

    folder: Path
    name: str

    @classmethod
    def open(cls, folder: Path, name: str) -> Exported:
        """The exported folder that `folder` is or holds in export/; `UserError` where there is none."""
        for candidate in (folder / "export", folder):
            kind = read_training(candidate).get("kind")
            if kind in portable_kinds() or (kind is None and (candidate / "model_index.json").is_file()):
                return cls(candidate, name)
            if kind is not None:
                raise Unsupported(
                    f"{folder} holds a model of the kind '{kind}'",
                    f"only these can be exported: {', '.join(portable_kinds())}",
                    "name a run of another method",
                )
        raise NotFound(
            f"{folder} holds no exported model",
            "expected a finished run with export/, or an exported or imported folder",
            "finish the run first (the same `birdsd run train ...` command resumes it)",
        )

    @property
    def training(self) -> dict[str, Any]:
        return read_training(self.folder)

    @property
    def kind(self) -> str:
        return str(self.training.get("kind", "pipeline"))

    @property
    def metadata(self) -> dict[str, str]:
        """For the header of a .safetensors file."""
        return {"birdsd": birdsd.__version__, "codec": json.dumps(read_codec(self.folder))}

    def write_beside(self, place: Path, stem: str, **facts: Any) -> list[Path]:
        """The companions of `place`/`stem`.*; `facts` are added to those of the training."""
        write_json(place / f"{stem}{CODEC}", read_codec(self.folder))
        write_json(place / f"{stem}{TRAINING}", {**self.training, **facts})
        written = [place / f"{stem}{CODEC}", place / f"{stem}{TRAINING}"]
        if (self.folder / "recordings.csv").is_file():
            written.append(place / f"{stem}{RECORDINGS}")
            with explained_write(written[-1]):
                shutil.copyfile(self.folder / "recordings.csv", written[-1])
        return written


def heard_in(folder: Path, stem: str = "") -> TrainingSet:
    """The species and credits of an exported folder, or with `stem` those beside a file; empty where
    nothing is said."""
    training = folder / (f"{stem}{TRAINING}" if stem else "training.json")
    table = folder / (f"{stem}{RECORDINGS}" if stem else "recordings.csv")
    training_facts = dict(read_json(training)) if training.is_file() else {}
    rows: list[dict[str, str]] = []
    if table.is_file():
        with open(table, newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                rows.append(
                    {k: row.get(k) or "" for k in ("recording_id", "species", "licence", "recordist")}
                )
    return TrainingSet(
        tuple(training_facts.get("species") or ()), bool(training_facts.get("synthetic")), tuple(rows)
    )


def heard_together(sets: list[TrainingSet]) -> TrainingSet:
    """What a model and what stands on it have heard."""
    species = dict.fromkeys(name for one in sets for name in one.species)
    rows = {row["recording_id"]: row for one in sets for row in one.recordings}
    return TrainingSet(
        tuple(sorted(species)), any(one.synthetic for one in sets), tuple(rows[key] for key in sorted(rows))
    )


# What `write_companions` writes itself, or what is no longer true of a copy.
_OWN = {"birdsd", "species", "synthetic", "licences", "weights"}


def carried(training: Mapping[str, Any], *without: str) -> dict[str, Any]:
    """The facts of a training that go on into a folder made of it."""
    return {key: value for key, value in training.items() if key not in _OWN and key not in without}
