"""Portable checkpoints: fp32 weights, moments and EMA by parameter name, for every engine and world.

A save goes NAME.partial/ -> files, fsynced -> COMMIT.json -> one rename to NAME/. Only a folder with
a sound COMMIT.json counts. The copy to host memory is the only stall: a thread does the rest, and
the next save, or the exit, waits for it. Where there is no memory for a copy, training stands still until
the file is written. A save that a full disk or a failing file system stops is
given up and named, and the next one tries again; several in a row end the run.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import birdsd
from birdsd.errors import Damaged, Mismatch, UserError
from birdsd.files import explained_write, fsync_folder, write_json
from birdsd.training.checkpoints.reading import COMMIT, STATE, Checkpoint, json_sum, read_committed
from birdsd.training.checkpoints.tensorfile import TensorBuffer, TensorFile, TensorStream
from birdsd.training.devices.world import World
from birdsd.training.engines.base import Engine

_PARTIAL, _OLD, _BAD = ".partial", ".old", ".bad"
# Pauses before each further try of a save that must not be lost.
RETRY_PAUSES_S = (2.0, 4.0, 6.0, 8.0, 10.0)

Event = Callable[[dict[str, Any]], None]


def stage(name: str) -> None:
    """A named point of a save. It does nothing; the tests of kills put one here."""


class SetAside(Exception):
    """A checkpoint that was about to be loaded is damaged, and was set aside: begin with the one before."""


@dataclass(frozen=True)
class _Failure:
    """Why a save failed, the same on every rank."""

    reason: str
    passing: bool = False  # of the disk or the file system: the next try may go well
    disk_full: bool = False


@dataclass(frozen=True)
class _Save:
    """A state in host memory, or where to get it, until it is on disk."""

    tensors: TensorBuffer | TensorStream
    details: dict[str, Any]
    state: dict[str, Any]

    @property
    def position(self) -> int:
        return int(self.details["position"])

    @property
    def name(self) -> str:
        return f"{self.position:012d}"


class Checkpointer:
    """Saves and restores the checkpoints of one run, in `folder`. Every method is collective."""

    def __init__(
        self,
        folder: Path,
        world: World,
        signature: str,
        keep: int = 2,
        events: Event = lambda e: None,
        max_failed_saves: int = 3,
        in_background: bool = True,
    ) -> None:
        if not in_background and world.size > 1:
            raise Mismatch(
                f"machine.save_in_background=false on {world.size} ranks",
                "saving without a copy works with one process only; with several, each copies just its share",
                "leave machine.save_in_background=true",
            )
        self.in_background = in_background
        self.folder, self.world, self.signature = Path(folder), world, signature
        self.keep, self.events = max(2, keep), events
        self.max_failed_saves = max(1, max_failed_saves)
        self.spared: int | None = None  # the position of one that is kept beside the newest
        self._thread: threading.Thread | None = None
        self._written = threading.Event()
        self._written.set()
        self._buffer: Future[TensorBuffer] | None = None
        self._owners: dict[str, int] = {}
        self._restored: Checkpoint | None = None
        self._unsaved: _Save | None = None
        self._failure: _Failure | None = None
        self._failures = 0  # in a row
        self._raised: BaseException | None = None  # on this rank

    # -- restoring ----------------------------------------------------------------------------------

    def newest(self, unread: bool = False) -> Checkpoint | None:
        """The newest committed checkpoint whose checksums hold, the same on every rank. With `unread` the
        tensors' are left for `load`, which reads them but once.

        A bad one is set aside as NAME.bad..., named in an event, and the one before it is used. Raises
        `UserError` where there were checkpoints and none is whole, or where they are another run's.
        """
        self._join()
        self._tidy()
        while (name := self.world.from_first(self._newest_name())) is not None:
            checkpoint, problem = read_committed(self.folder / name, self.world.rank, self.world.size, unread)
            problems = [p for p in self.world.gather(problem) if p]
            if not problems and checkpoint is not None:
                self._check_signature(checkpoint)
                self._restored = checkpoint
                return checkpoint
            self._set_aside(name, problems[0])
        bad = self.world.from_first(sorted(p.name for p in self.folder.glob(f"*{_BAD}*")))
        if bad:
            raise Damaged(
                f"no checkpoint in {self.folder} is intact: {', '.join(bad)}",
                "starting over would silently lose the training so far",
                "restore one from a copy, or delete them to start the run again",
            )
        return None

    def load(self, checkpoint: Checkpoint, engine: Engine) -> None:
        """Give an engine the state of a checkpoint. Raises `SetAside`, on all ranks, where its tensors are
        read here for the first time and are not those that were written: the engine is of no use then."""
        if not checkpoint.unread:
            engine.load_state(checkpoint.tensor, checkpoint.state)
            return
        problems = [p for p in self.world.gather(checkpoint.read_into(engine.places())) if p]
        if problems:
            self._set_aside(checkpoint.folder.name, problems[0])
            raise SetAside(checkpoint.folder)
        engine.take_up(checkpoint.state)

    def _newest_name(self) -> str | None:
        if not self.folder.is_dir():
            return None
        # Also those that lost their COMMIT: they are set aside and named, not taken for never written.
        names = [p.name for p in self.folder.iterdir() if p.name.isdigit()]
        return max(names, key=int, default=None)

    def _check_signature(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.commit["signature"]
        if saved != self.signature:
            raise Mismatch(
                f"checkpoint {checkpoint.folder} is of a run with signature {saved}, not {self.signature}",
                "settings that determine what is learnt must not change within a run",
                "restore the settings, or start a new run in a new folder",
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

    def let_go(self) -> None:
        """Give back the host memory for saves, once the last one is on disk."""
        self._join()
        self._buffer = self._unsaved = None

    # -- saving -------------------------------------------------------------------------------------

    def prepare(self, engine: Engine) -> None:
        """Get the host memory for saves in the background, so that the first save does not wait for it."""
        if self._buffer is None and self.in_background:
            beside = ThreadPoolExecutor(1, thread_name_prefix="birdsd-checkpoint-memory")
            self._buffer = beside.submit(self._make_buffer, engine)
            beside.shutdown(wait=False)

    def _deal(self, engine: Engine) -> dict[str, torch.Size]:
        """The tensors that this rank writes."""
        keys = {
            f"{kind}/{name}": engine.shapes[name] for kind in engine.kinds for name in engine.parameter_names
        }
        self._owners = deal({key: shape.numel() for key, shape in keys.items()}, self.world.size)
        return {key: shape for key, shape in keys.items() if self._owners[key] == self.world.rank}

    def _make_buffer(self, engine: Engine) -> TensorBuffer:
        mine = self._deal(engine)
        pinned = engine.device.type == "cuda"
        if pinned:
            torch.cuda.set_device(engine.device)  # a thread begins on the first GPU
        buffer = TensorBuffer(mine, pinned)
        if not pinned:
            buffer.touch()
        return buffer

    def save(self, engine: Engine, position: int, state: Mapping[str, Any]) -> float:
        """Copy the state to host memory and begin to write it; returns the seconds that training stood still.

        Waits for the save before it. Raises only what `wait` raises.
        """
        start = time.perf_counter()
        self._join()
        self.wait()
        if self._restored is not None:
            # As long as its files are mapped, deleting them frees no space.
            self._restored.release()
            self._restored = None
        tensors = self._filled(engine)
        details = {
            "birdsd": birdsd.__version__,
            "signature": self.signature,
            "position": position,
            "world_size": self.world.size,
            "engine": engine.name,
        }
        self._unsaved = _Save(tensors, details, {**state, "position": position, **engine.extra_state()})
        stalled_s = time.perf_counter() - start
        if not self.in_background:
            self._work(self._unsaved)
            return time.perf_counter() - start
        self._written.clear()
        self._thread = threading.Thread(target=self._work, args=(self._unsaved,), name="birdsd-checkpoint")
        self._thread.start()
        return stalled_s

    def _filled(self, engine: Engine) -> TensorBuffer | TensorStream:
        if not self.in_background:
            return TensorStream(self._deal(engine), lambda tensors: _copy(engine, tensors))
        self.prepare(engine)
        assert self._buffer is not None
        buffer = self._buffer.result()
        _copy(engine, buffer.tensors)
        return buffer

    def wait(self, must_be_saved: bool = False) -> None:
        """Wait until the last save is on disk, or has failed. Old ones may still be going.

        Raises where saves failed for good: `max_failed_saves` in a row, or not for want of a disk. With
        `must_be_saved`, before an exit, a failed save is tried again from host memory, several times, and
        raises unless it goes well in the end. All ranks must ask for the same.
        """
        self._written.wait()
        if must_be_saved:
            self._join()
            for pause_s in RETRY_PAUSES_S:
                if self._unsaved is None or self._failure is None or not self._failure.passing:
                    break
                time.sleep(pause_s)
                self._work(self._unsaved)
        if self.failed or (must_be_saved and self._failure is not None):
            raise self._give_up()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def failed(self) -> bool:
        """Whether saves failed for good; `wait` then raises. A rank may know it before the others do."""
        failure = self._failure
        return failure is not None and (not failure.passing or self._failures >= self.max_failed_saves)

    def _give_up(self) -> Exception:
        """The error to raise, once: it must not come again while the run is taken down."""
        failure, save, failures = self._failure, self._unsaved, self._failures
        assert failure is not None and save is not None
        self._failure, self._unsaved, self._failures = None, None, 0
        what = f"the state at position {save.position} could not be saved: {failure.reason}"
        error: Exception
        if failure.passing:
            newest = None
            with suppress(OSError):
                newest = self._newest_name()
            goes_on = f"from position {int(newest)}" if newest else "from the start, as nothing was saved yet"
            error = UserError(
                f"{what}; that was failure {failures} in a row",
                f"save.max_failed_saves is {self.max_failed_saves}; no older checkpoint was lost",
                f"make room, or check the file system, and run the same command again: it goes on {goes_on}",
            )
        else:
            error = RuntimeError(what)
        error.__cause__ = self._raised
        return error

    def _work(self, save: _Save) -> None:
        """In the background, or on a further try. Who waits for the save need not wait for old ones to go."""
        try:
            went_well = self._write(save)
        finally:
            self._written.set()
        if went_well and self.world.is_first:
            with suppress(OSError):  # the next save tries again
                self._prune()

    def _write(self, save: _Save) -> bool:
        """On every rank alike; what comes of it is kept for `wait`."""
        self._raised = None
        try:
            failure = self._write_and_commit(save)
        except Exception as error:  # a peer that died, for one: no further try, as the ranks may not agree
            self._raised, failure = error, _Failure(_failure_of(error).reason)
        if failure is None:
            self._failure, self._unsaved, self._failures = None, None, 0
            return True
        self._failures += 1
        if self.world.is_first:
            self.events(
                {
                    "event": "save failed",
                    "position": save.position,
                    "reason": failure.reason,
                    "failures": self._failures,
                }
            )
        self._failure = failure
        return False

    def _write_and_commit(self, save: _Save) -> _Failure | None:
        """Each rank writes its file, rank 0 commits; returns the failure that all ranks agree on."""
        start = time.perf_counter()
        partial = self.folder / f"{save.name}{_PARTIAL}"
        file = _file_of(self.world.rank, self.world.size)
        outcome: Any = None
        try:
            with explained_write(partial / file):
                partial.mkdir(parents=True, exist_ok=True)
                stage("begun")
                outcome = save.tensors.write(partial / file).to_json()
                stage("file written")
        except Exception as error:
            self._raised, outcome = error, _failure_of(error)
        outcomes = self.world.gather(outcome, writers=True)
        failures = [o for o in outcomes if isinstance(o, _Failure)]
        # The one that no further try can mend, if there is one.
        failure = min(failures, key=lambda f: f.passing, default=None)
        if failure is None and self.world.is_first:
            try:
                with explained_write(partial):
                    self._commit(partial, outcomes, save)
            except Exception as error:
                self._raised, failure = error, _failure_of(error)
        if failure is not None and self.world.is_first:
            shutil.rmtree(partial, ignore_errors=True)
            if failure.disk_full:
                self._make_room()
        # Only if rank 0 could commit is all well, and only after it tidied may the others try again.
        failure = self.world.gather(failure, writers=True)[0]
        if self.world.is_first and failure is None:
            seconds = round(time.perf_counter() - start, 3)
            self.events({"event": "saved", "position": save.position, "seconds": seconds})
        return failure

    def _commit(self, partial: Path, outcomes: list[Any], save: _Save) -> None:
        write_json(partial / STATE, save.state)
        stage("state written")
        files = {_file_of(rank, self.world.size): outcome for rank, outcome in enumerate(outcomes)}
        files[STATE] = TensorFile(partial / STATE).sum().to_json()
        tensors = {key: _file_of(owner, self.world.size) for key, owner in self._owners.items()}
        commit = {**save.details, "time": time.time(), "files": files, "tensors": tensors}
        write_json(partial / COMMIT, {**commit, "crc32": json_sum(commit)})
        stage("commit written")
        fsync_folder(partial)
        target = self.folder / save.name
        if target.exists():  # the same position again: whatever it is, the new one is whole
            os.rename(target, self.folder / f"{save.name}.{os.getpid()}{_OLD}")
        os.rename(partial, target)
        fsync_folder(self.folder)
        stage("renamed")

    def _prune(self) -> None:
        names = sorted((p.name for p in self.folder.iterdir() if p.name.isdigit()), key=int)
        for name in [one for one in names[: -self.keep] if int(one) != self.spared]:
            # Renamed first: a folder that lost half its files must not look committed.
            os.rename(self.folder / name, self.folder / f"{name}{_OLD}")
            stage("pruning")
        for old in self.folder.glob(f"*{_OLD}"):
            with suppress(OSError):
                shutil.rmtree(old)

    def _make_room(self) -> None:
        """The disk is full: remove what nobody needs. Of the checkpoints that count, `keep` stay as ever."""
        marked = [p for mark in (_PARTIAL, _OLD, _BAD) for p in self.folder.glob(f"*{mark}*")]
        ours = sorted(p for p in marked if p.name.split(".")[0].isdigit())
        for leftover in ours:
            shutil.rmtree(leftover, ignore_errors=True)
        with suppress(OSError):
            self._prune()
        if ours:
            self.events({"event": "made room", "removed": [p.name for p in ours]})


def _copy(engine: Engine, tensors: Mapping[str, Tensor]) -> None:
    """The engine's state into tensors that are named KIND/PARAMETER."""
    into: dict[str, dict[str, Tensor]] = {kind: {} for kind in engine.kinds}
    for key, tensor in tensors.items():
        kind, name = key.split("/", 1)
        into[kind][name] = tensor
    engine.copy_state(into)


def deal(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """Deal tensors out over the ranks by bytes: the largest first, each to the rank with least so far."""
    loads = [0] * ranks
    owners = {}
    for key in sorted(sizes, key=lambda k: (-sizes[k], k)):
        owner = min(range(ranks), key=lambda r: (loads[r], r))
        owners[key] = owner
        loads[owner] += sizes[key]
    return owners


def _failure_of(error: BaseException) -> _Failure:
    """What went wrong, in a form that can be sent to other ranks."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    if cause is None:
        return _Failure(f"{type(error).__name__}: {error}")
    reason = error.problem if isinstance(error, UserError) else str(error)
    return _Failure(reason, passing=True, disk_full=cause.errno in (errno.ENOSPC, errno.EDQUOT))


def _file_of(rank: int, size: int) -> str:
    return f"tensors-{rank:05d}-of-{size:05d}.safetensors"
