"""Checkpoints as they lie on disk: which are there, whether they are whole, and what they hold."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from birdsd.errors import Damaged, NotFound, listed_names
from birdsd.training.checkpoints.tensorfile import TensorFile

COMMIT, STATE = "COMMIT.json", "state.json"


@dataclass
class Checkpoint:
    """A committed checkpoint whose checksums held."""

    folder: Path
    commit: dict[str, Any]
    state: dict[str, Any]
    _files: dict[str, TensorFile] = field(default_factory=dict)

    @property
    def position(self) -> int:
        return int(self.state["position"])

    def tensor(self, kind: str, name: str) -> Tensor:
        """A tensor of a parameter: `kind` is weights, exp_avg, exp_avg_sq or ema. It is a view of the file,
        read when used, and not to be written to."""
        file = self.commit["tensors"].get(f"{kind}/{name}")
        if file is None:
            raise NotFound(
                f"checkpoint {self.folder} has no {kind} for the parameter {name}",
                "the model of this run is not the one that was saved",
                "use the version of birdsd that started the run, or start a new one",
            )
        if file not in self._files:
            self._files[file] = TensorFile(self.folder / file)
        return self._files[file].tensor(f"{kind}/{name}")

    def release(self) -> None:
        """Let go of the files; they are opened again where a tensor is asked for."""
        self._files.clear()

    def has(self, kind: str) -> bool:
        return any(key.startswith(f"{kind}/") for key in self.commit["tensors"])


def read_committed(folder: Path, rank: int = 0, size: int = 1) -> tuple[Checkpoint | None, str | None]:
    """The checkpoint in `folder`, or what is wrong with it. Of several ranks each looks at the checksums of
    its share of the files."""
    try:
        commit = json.loads((folder / COMMIT).read_text(encoding="utf-8"))
        if commit.pop("crc32") != json_sum(commit):
            return None, f"the bytes of {COMMIT} are not those that were written"
        files = {}
        for number, (name, recorded) in enumerate(sorted(commit["files"].items())):
            if number % size != rank:
                continue
            files[name] = TensorFile(folder / name)
            if problem := files[name].difference(recorded):
                return None, problem
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except OSError as error:
        return None, f"{error.filename} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"it is damaged ({error})"
    return Checkpoint(folder, commit, state, files), None


def positions(folder: Path) -> list[int]:
    """The positions of the committed checkpoints of the run in `folder`, in samples, the oldest first."""
    places = (Path(folder) / "checkpoints").glob(f"*/{COMMIT}")
    return sorted(int(place.parent.name) for place in places if place.parent.name.isdigit())


def checkpoint_at(folder: Path, position: int) -> Checkpoint:
    """A checkpoint of the run in `folder`; `UserError` where there is none at this position, or where it is
    damaged."""
    known = positions(folder)
    if position not in known:
        raise NotFound(
            f"the run {folder} has no checkpoint at {position}",
            f"there are {listed_names(map(str, known))}" if known else "it has none",
            "save.keep says how many are kept, the latest ones",
        )
    place = Path(folder) / "checkpoints" / f"{position:012d}"
    checkpoint, problem = read_committed(place)
    if checkpoint is None:
        raise Damaged(f"the checkpoint {place} cannot be used: {problem}", "", "name another one")
    return checkpoint


def json_sum(value: object) -> int:
    """A checksum of a JSON value."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
