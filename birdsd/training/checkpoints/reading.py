"""Checkpoints as they lie on disk: which are there, whether they are whole, and what they hold."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from birdsd.errors import Damaged, Mismatch, NotFound, listed_names
from birdsd.training.checkpoints.tensorfile import TensorFile

COMMIT, STATE = "COMMIT.json", "state.json"


@dataclass
class Checkpoint:
    """A committed checkpoint whose checksums held; those of the tensors may still be `unread`."""

    folder: Path
    commit: dict[str, Any]
    state: dict[str, Any]
    _files: dict[str, TensorFile] = field(default_factory=dict)
    unread: bool = False

    @property
    def position(self) -> int:
        return int(self.state["position"])

    def tensor(self, kind: str, name: str) -> Tensor:
        """A tensor of a parameter: `kind` is weights, exp_avg, exp_avg_sq or ema. It is a view of the file,
        read when used, and not to be written to."""
        return self._file_with(kind, name).tensor(f"{kind}/{name}")

    def check_shape(self, kind: str, name: str, shape: Sequence[int]) -> None:
        """Raises `Mismatch` unless a tensor has this shape."""
        saved = self._file_with(kind, name).shape(f"{kind}/{name}")
        if saved != list(shape):
            raise Mismatch(
                f"checkpoint {self.folder}: {name} has the shape {saved}, in the model it is {list(shape)}",
                "the model of this run is not the one that was saved",
                "use the version of birdsd that started the run, or start a new one",
            )

    def _file_with(self, kind: str, name: str) -> TensorFile:
        file = self.commit["tensors"].get(f"{kind}/{name}")
        if file is None:
            raise NotFound(
                f"checkpoint {self.folder} has no {kind} for the parameter {name}",
                "the model of this run is not the one that was saved",
                "use the version of birdsd that started the run, or start a new one",
            )
        return self._opened(file)

    def _opened(self, file: str) -> TensorFile:
        if file not in self._files:
            self._files[file] = TensorFile(self.folder / file)
        return self._files[file]

    def read_into(self, places: Mapping[str, Tensor]) -> str | None:
        """Read and check the tensors in one pass, into places named KIND/PARAMETER (fp32, contiguous, in host
        memory). Returns what is wrong with them: then `places` hold nothing of use.
        """
        for name in sorted(set(self.commit["tensors"].values())):
            try:
                file = self._opened(name)
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
            if problem := file.difference(self.commit["files"][name], partial(file.read_into, places)):
                return problem
        self.unread = False
        for key, place in places.items():
            kind, parameter = key.split("/", 1)
            self.check_shape(kind, parameter, place.shape)
        return None

    def release(self) -> None:
        """Let go of the files; they are opened again where a tensor is asked for."""
        self._files.clear()

    def has(self, kind: str) -> bool:
        return any(key.startswith(f"{kind}/") for key in self.commit["tensors"])


def read_committed(
    folder: Path, rank: int = 0, size: int = 1, unread: bool = False
) -> tuple[Checkpoint | None, str | None]:
    """The checkpoint in `folder`, or what is wrong with it. Of several ranks each looks at the checksums of
    its share of the files; with `unread` at the state's alone: tensors are left to `Checkpoint.read_into`."""
    try:
        commit = json.loads((folder / COMMIT).read_text(encoding="utf-8"))
        if commit.pop("crc32") != json_sum(commit):
            return None, f"the bytes of {COMMIT} are not those that were written"
        files = {}
        for number, (name, recorded) in enumerate(sorted(commit["files"].items())):
            mine = name == STATE if unread else number % size == rank
            if not mine:
                continue
            files[name] = TensorFile(folder / name)
            if problem := files[name].difference(recorded):
                return None, problem
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except OSError as error:
        return None, f"{error.filename} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"it is damaged ({error})"
    return Checkpoint(folder, commit, state, files, unread), None


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
