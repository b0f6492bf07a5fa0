"""Portable checkpoints: fp32 weights, moments and EMA by parameter name, for every engine and world.

A save goes NAME.partial/ -> files, fsynced -> COMMIT.json -> one rename to NAME/. Only a folder with
a sound COMMIT.json counts. The copy to host memory is the only stall: a thread does the rest, and
the next save, or the exit, waits for it.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

import birdsd
from birdsd.errors import UserError
from birdsd.files import explained_write, fsync_folder, write_json
from birdsd.training.engine import Engine
from birdsd.training.tensorfile import TensorBuffer, difference, sum_file
from birdsd.training.world import World

COMMIT, STATE = "COMMIT.json", "state.json"
_PARTIAL, _OLD, _BAD = ".partial", ".old", ".bad"

Event = Callable[[dict[str, Any]], None]


def stage(name: str) -> None:
    """A named point of a save. It does nothing; the tests of kills put one here."""


@dataclass
class Checkpoint:
    """A committed checkpoint whose checksums held."""

    folder: Path
    commit: dict[str, Any]
    state: dict[str, Any]
    _open: dict[str, Any] = field(default_factory=dict)

    @property
    def position(self) -> int:
        return int(self.state["position"])

    def tensor(self, kind: str, name: str) -> Tensor:
        """A tensor of a parameter: `kind` is weights, exp_avg, exp_avg_sq or ema. Read when asked for."""
        from safetensors import safe_open

        file = self.commit["tensors"].get(f"{kind}/{name}")
        if file is None:
            raise UserError(
                f"checkpoint {self.folder} has no {kind} for the parameter {name}",
                "the model of this run is not the one that was saved",
                "use the version of birdsd that began the run, or begin a new one",
            )
        if file not in self._open:
            self._open[file] = safe_open(self.folder / file, framework="pt")
        return self._open[file].get_tensor(f"{kind}/{name}")

    def has(self, kind: str) -> bool:
        return any(key.startswith(f"{kind}/") for key in self.commit["tensors"])


class Checkpointer:
    """Saves and restores the checkpoints of one run, in `folder`. Every method is collective."""

    def __init__(
        self, folder: Path, world: World, signature: str, keep: int = 2, events: Event = lambda e: None
    ) -> None:
        self.folder, self.world, self.signature = Path(folder), world, signature
        self.keep, self.events = max(2, keep), events
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._buffer: TensorBuffer | None = None
        self._owners: dict[str, int] = {}

    # -- restoring ----------------------------------------------------------------------------------

    def newest(self) -> Checkpoint | None:
        """The newest committed checkpoint whose checksums hold, the same on every rank.

        A bad one is set aside as NAME.bad..., named in an event, and the one before it is used. Raises
        `UserError` where there were checkpoints and none is whole, or where they are another run's.
        """
        self._tidy()
        while (name := self.world.from_first(self._newest_name())) is not None:
            checkpoint, problem = self._read(self.folder / name)
            problems = [p for p in self.world.gather(problem) if p]
            if not problems and checkpoint is not None:
                self._check_signature(checkpoint)
                return checkpoint
            self._set_aside(name, problems[0])
        bad = self.world.from_first(sorted(p.name for p in self.folder.glob(f"*{_BAD}*")))
        if bad:
            raise UserError(
                f"no checkpoint in {self.folder} is whole: {', '.join(bad)}",
                "going on from nothing would silently lose what was learnt",
                "restore one from a copy, or delete them to begin the run again",
            )
        return None

    def _newest_name(self) -> str | None:
        if not self.folder.is_dir():
            return None
        # Also those that lost their COMMIT: they are set aside and named, not taken for never written.
        names = [p.name for p in self.folder.iterdir() if p.name.isdigit()]
        return max(names, key=int, default=None)

    def _read(self, folder: Path) -> tuple[Checkpoint | None, str | None]:
        """The checkpoint, or what is wrong with it. The files' checksums are dealt out over the ranks."""
        try:
            commit = json.loads((folder / COMMIT).read_text(encoding="utf-8"))
            if commit.pop("crc32") != _json_sum(commit):
                return None, f"the bytes of {COMMIT} are not those that were written"
            for number, (name, recorded) in enumerate(sorted(commit["files"].items())):
                mine = number % self.world.size == self.world.rank
                if mine and (problem := difference(folder / name, recorded)):
                    return None, problem
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        except OSError as error:
            return None, f"{error.filename} cannot be read ({error.strerror})"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return None, f"it is damaged ({error})"
        return Checkpoint(folder, commit, state), None

    def _check_signature(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.commit["signature"]
        if saved != self.signature:
            raise UserError(
                f"checkpoint {checkpoint.folder} is of a run with signature {saved}, not {self.signature}",
                "settings that decide what is learnt must not change within a run",
                "restore the settings, or begin a new run in a new folder",
            )

    def _set_aside(self, name: str, problem: str) -> None:
        if self.world.is_first:
            target, number = self.folder / f"{name}{_BAD}", 0
            while target.exists():
                number += 1
                target = self.folder / f"{name}{_BAD}-{number}"
            os.rename(self.folder / name, target)
            fsync_folder(self.folder)
            self.events(
                {"event": "checkpoint set aside", "checkpoint": name, "as": target.name, "reason": problem}
            )
        self.world.from_first(None)  # the others look again only after the rename

    def _tidy(self) -> None:
        """Remove what a killed save or a killed pruning left."""
        if self.world.is_first and self.folder.is_dir():
            for leftover in [*self.folder.glob(f"*{_PARTIAL}"), *self.folder.glob(f"*{_OLD}")]:
                shutil.rmtree(leftover, ignore_errors=True)
        self.world.from_first(None)

    # -- saving -------------------------------------------------------------------------------------

    def save(self, engine: Engine, position: int, state: Mapping[str, Any]) -> float:
        """Copy the state to host memory and begin to write it; returns the seconds that training stood still.

        Waits for the save before it. Errors of the writing come out of `wait`, or of the next save.
        """
        self.wait()
        start = time.perf_counter()
        buffer = self._fill(engine)
        details = {
            "birdsd": birdsd.__version__,
            "signature": self.signature,
            "position": position,
            "world_size": self.world.size,
            "engine": engine.name,
        }
        full_state = {**state, "position": position, **engine.extra_state()}
        stalled_s = time.perf_counter() - start
        self._thread = threading.Thread(
            target=self._write,
            args=(buffer, f"{position:012d}", details, full_state),
            name="birdsd-checkpoint",
        )
        self._thread.start()
        return stalled_s

    def wait(self) -> None:
        """Wait until what was saved is on disk; raises what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.raise_error()

    @property
    def failed(self) -> bool:
        """Whether a save went wrong; every rank learns of it."""
        return self._error is not None

    def raise_error(self) -> None:
        """Raise what went wrong with the last save, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _fill(self, engine: Engine) -> TensorBuffer:
        if self._buffer is None:
            keys = {
                f"{kind}/{name}": engine.shapes[name]
                for kind in engine.kinds
                for name in engine.parameter_names
            }
            self._owners = deal({key: shape.numel() for key, shape in keys.items()}, self.world.size)
            mine = {key: shape for key, shape in keys.items() if self._owners[key] == self.world.rank}
            self._buffer = TensorBuffer(mine, pinned=engine.device.type == "cuda")
        into: dict[str, dict[str, Tensor]] = {kind: {} for kind in engine.kinds}
        for key, tensor in self._buffer.tensors.items():
            kind, name = key.split("/", 1)
            into[kind][name] = tensor
        engine.copy_state(into)
        return self._buffer

    def _write(self, buffer: TensorBuffer, name: str, details: dict[str, Any], state: dict[str, Any]) -> None:
        """In the background, on every rank; what goes wrong is kept for `wait`."""
        try:
            self._error = self._write_and_commit(buffer, name, details, state)
        except BaseException as error:  # a peer that died, for one
            self._error = error

    def _write_and_commit(
        self, buffer: TensorBuffer, name: str, details: dict[str, Any], state: dict[str, Any]
    ) -> BaseException | None:
        """Each rank writes its file, rank 0 commits; returns the error that all ranks agree on."""
        start = time.perf_counter()
        partial = self.folder / f"{name}{_PARTIAL}"
        file = _file_of(self.world.rank, self.world.size)
        outcome: Any = None
        try:
            with explained_write(partial / file):
                partial.mkdir(parents=True, exist_ok=True)
                stage("begun")
                outcome = buffer.write(partial / file).to_json()
                stage("file written")
        except BaseException as error:
            outcome = _portable(error)
        outcomes = self.world.gather(outcome, writers=True)
        failure = next((o for o in outcomes if isinstance(o, BaseException)), None)
        if failure is None and self.world.is_first:
            try:
                with explained_write(partial):
                    self._commit(partial, name, outcomes, details, state)
            except BaseException as error:
                failure = _portable(error)
        # The others may think that all is well only if rank 0 could commit.
        failure = self.world.gather(failure, writers=True)[0]
        if self.world.is_first:
            if failure is not None:
                shutil.rmtree(partial, ignore_errors=True)
            else:
                seconds = round(time.perf_counter() - start, 3)
                self.events({"event": "saved", "position": details["position"], "seconds": seconds})
        return failure

    def _commit(
        self, partial: Path, name: str, outcomes: list[Any], details: dict[str, Any], state: dict[str, Any]
    ) -> None:
        write_json(partial / STATE, state)
        stage("state written")
        files = {_file_of(rank, self.world.size): outcome for rank, outcome in enumerate(outcomes)}
        files[STATE] = sum_file(partial / STATE).to_json()
        tensors = {key: _file_of(owner, self.world.size) for key, owner in self._owners.items()}
        commit = {**details, "time": time.time(), "files": files, "tensors": tensors}
        write_json(partial / COMMIT, {**commit, "crc32": _json_sum(commit)})
        stage("commit written")
        fsync_folder(partial)
        target = self.folder / name
        if target.exists():  # the same position again: whatever it is, the new one is whole
            os.rename(target, self.folder / f"{name}.{os.getpid()}{_OLD}")
        os.rename(partial, target)
        fsync_folder(self.folder)
        stage("renamed")
        self._prune()

    def _prune(self) -> None:
        names = sorted((p.name for p in self.folder.iterdir() if p.name.isdigit()), key=int)
        for name in names[: -self.keep]:
            # Renamed first: a folder that lost half its files must not look committed.
            os.rename(self.folder / name, self.folder / f"{name}{_OLD}")
            stage("pruning")
        for old in self.folder.glob(f"*{_OLD}"):
            with suppress(OSError):
                shutil.rmtree(old)


def deal(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """Deal tensors out over the ranks by bytes: the largest first, each to the rank with least so far."""
    loads = [0] * ranks
    owners = {}
    for key in sorted(sizes, key=lambda k: (-sizes[k], k)):
        owner = min(range(ranks), key=lambda r: (loads[r], r))
        owners[key] = owner
        loads[owner] += sizes[key]
    return owners


def _portable(error: BaseException) -> BaseException:
    """An error that can be sent to other ranks."""
    return error if isinstance(error, UserError) else RuntimeError(f"{type(error).__name__}: {error}")


def _file_of(rank: int, size: int) -> str:
    return f"tensors-{rank:05d}-of-{size:05d}.safetensors"


def _json_sum(value: object) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
