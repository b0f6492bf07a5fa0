"""Running jobs one after the other as child processes; each one's cost and facts are kept.

Each stage leaves a file of its own, FOLDER/stages/NAME-SETTINGS.json, so that several tasks may work in
one folder: the first to take a stage's lock does it, the others wait and find it done.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from birdsd.cluster.rank.signals import SIGNALS
from birdsd.errors import UserError
from birdsd.files import fingerprint, lock_file, locked, read_json, safe_name, write_json
from birdsd.jobs_api import STOPPED_STATUS

FOLDER = "stages"
PROGRAM = (sys.executable, "-m", "birdsd.cli")
_POLL_S = 0.1
# A child that ends with one of these was told to stop; so were we, or soon will be.
_STOPPED_BY_REQUEST = (STOPPED_STATUS, 130, *(-int(s) for s in SIGNALS))


class Stopped(Exception):
    """A stage was stopped before it had finished; the same command resumes it."""


@dataclass(frozen=True)
class Cost:
    """The cost of a stage: wall and CPU seconds of all its processes, and the peak resident memory of the
    largest in MiB, with that of a GPU where there was one. `disturbed`: it was interrupted on purpose.
    `pieces`: the processes it took, one more for each interruption; `partly`: the cost of some of them was
    never recorded, so that these figures are lower bounds."""

    stage: str
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mib: float = 0.0
    gpu_mib: float = 0.0
    disturbed: bool = False
    pieces: int = 0
    partly: bool = False


@dataclass
class Piece:
    """The cost of one process of a stage; `ended` is false while it runs, and stays so if it was killed
    together with us."""

    began: float
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mib: float = 0.0
    gpu_mib: float = 0.0
    disturbed: bool = False
    ended: bool = False


@dataclass
class Record:
    """A stage's file. `facts` are what the job printed when it had finished; None before."""

    stage: str
    job: str
    settings: list[str]
    pieces: list[Piece] = field(default_factory=list)
    facts: dict[str, Any] | None = None

    @property
    def cost(self) -> Cost:
        """The sum of its pieces."""
        done = [piece for piece in self.pieces if piece.ended]
        return Cost(
            self.stage,
            round(sum(piece.wall_s for piece in done), 2),
            round(sum(piece.cpu_s for piece in done), 2),
            max((piece.peak_mib for piece in done), default=0.0),
            max((piece.gpu_mib for piece in done), default=0.0),
            any(piece.disturbed for piece in done),
            len(self.pieces),
            len(done) < len(self.pieces) or not done,
        )

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """The record in a file; None where there is none."""
        if not path.is_file():
            return None
        stored = read_json(path, "record of a stage")
        known = {item.name for item in fields(Piece)}
        pieces = [Piece(**{k: v for k, v in piece.items() if k in known}) for piece in stored.pop("pieces")]
        return cls(**stored, pieces=pieces)


class Stages:
    """Runs `birdsd VERB JOB SETTINGS --json` as a child process, and keeps its cost and facts.

    A stage that is finished already keeps the costs of the time when it did the work. `watch` is called
    several times a second while a stage runs or waits for another task; True stops it.
    """

    def __init__(
        self,
        folder: Path,
        watch: Callable[[], bool] = lambda: False,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.folder, self.watch, self.program = Path(folder), watch, list(program)
        self._mine: dict[str, Record] = {}

    @property
    def costs(self) -> dict[str, Cost]:
        """Those of the stages that were run here, in order."""
        return {name: record.cost for name, record in self._mine.items()}

    def record(self, stage: str, settings: Sequence[str]) -> Record | None:
        """What is known of a stage with these settings, whichever task ran it."""
        return Record.read(self._path(stage, settings))

    def run(
        self,
        stage: str,
        job: str,
        settings: Sequence[str],
        submitted: bool = False,
        disturb: Callable[[], bool] = lambda: True,
    ) -> dict[str, Any]:
        """Run one job here, or `submitted` as a job of its own and waited for; returns its facts.

        `disturb` is called now and then while it runs, until it returns True.
        Raises `UserError` if the job fails, and `Stopped` where it, or we, were told to stop.
        """
        path = self._path(stage, settings)
        with self._hold(path.with_suffix(".lock")) as lock:
            print(f"\n== {stage}", flush=True)
            record = self._mine[stage] = Record.read(path) or Record(stage, job, list(settings))
            piece = Piece(time.time())
            record.pieces.append(piece)
            write_json(path, asdict(record))
            verb = ["submit", job, *settings, "--wait"] if submitted else ["run", job, *settings]
            status, output = self._child([*self.program, *verb, "--json"], piece, disturb, lock)
            if status == 0:
                record.facts = json.loads(output)
                piece.gpu_mib = float(record.facts.get("gpu_peak_mib") or 0.0)
                if record.facts.get("nothing_to_do"):
                    record.pieces.remove(piece)
            write_json(path, asdict(record))
        if status in _STOPPED_BY_REQUEST:
            raise Stopped(stage)
        if status != 0:
            raise UserError(f"the stage '{stage}' ended with status {status}", "its own message is above")
        assert record.facts is not None
        return record.facts

    def _path(self, stage: str, settings: Sequence[str]) -> Path:
        """Machine settings do not change the result of a stage."""
        mark = fingerprint([text for text in settings if not text.startswith("machine")], 8)
        return self.folder / FOLDER / f"{safe_name(stage, 60)}-{mark}.json"

    def _child(
        self, command: list[str], piece: Piece, disturb: Callable[[], bool], lock: IO[str] | None
    ) -> tuple[int, str]:
        """Run it to its end: (exit status, negative for a signal; its output)."""
        start = time.monotonic()
        # A file, not a pipe: nobody reads while it runs, and a full pipe would block it.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            # The child holds the lock too: should we be killed, nobody else begins before it has ended.
            inherited = (lock.fileno(),) if lock is not None else ()
            child = subprocess.Popen(command, stdout=output, text=True, pass_fds=inherited)
            try:
                piece.disturbed = self._wait(child, disturb)
                _, status, usage = os.wait4(child.pid, 0)
            except BaseException:
                # Ctrl-C reaches the child too; it saves before it leaves, and nobody may begin till then.
                child.terminate()
                child.wait()
                raise
            child.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            printed = output.read()
        piece.wall_s = round(time.monotonic() - start, 2)
        piece.cpu_s = round(usage.ru_utime + usage.ru_stime, 2)
        piece.peak_mib = round(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024), 1)
        piece.ended = True
        return child.returncode, printed

    def _wait(self, child: subprocess.Popen[str], disturb: Callable[[], bool]) -> bool:
        """Wait for the child's end; whether it was disturbed before it ended by itself.

        Its exit is only looked at, not reaped, so that the later wait4 still finds its usage."""
        waiting = not disturb()  # otherwise there was nothing to do
        disturbed = terminated = False
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if waiting and disturb():
                waiting, disturbed = False, True
            if self.watch() and not terminated:
                terminated = True
                child.terminate()
            time.sleep(_POLL_S)
        return disturbed

    @contextmanager
    def _hold(self, path: Path) -> Iterator[IO[str] | None]:
        """The lock of a stage; waits while another task holds it. It is released with the last process that
        holds it. Without locks in the file system, a run's own lock is what remains."""
        with lock_file(path) as stream:
            announced = False
            while not locked(stream):
                if not announced:
                    print(f"waiting for another task that is working on {path.stem}", file=sys.stderr)
                announced = True
                if self.watch():
                    raise Stopped(path.stem)
                time.sleep(5 * _POLL_S)
            if self.watch():
                raise Stopped(path.stem)
            yield stream if os.name == "posix" else None
