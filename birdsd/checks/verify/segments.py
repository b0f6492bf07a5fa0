"""One segment of `birdsd verify`: real ranks, observed through the files that the run writes, and killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.checks.verify.compare import SavedTensors, compare_states
from birdsd.checks.verify.plan import FINISH, STOP, Segment, Shape, end_of
from birdsd.errors import UserError
from birdsd.jobs_api import STOPPED_STATUS
from birdsd.runs.run import Run, RunStore
from birdsd.training.records import Ledger, read_metrics
from birdsd.training.result import CHECKPOINTS

# A segment that is silent for so long has failed: imports from a busy file server take minutes.
PATIENCE_S = 900.0
_POLL_S = 0.003
# What would make a rank believe that it belongs to another launch, or to a Slurm job that it may requeue.
_FOREIGN = (
    "SLURM_",
    "SUBMITIT_",
    "TORCHELASTIC_",
    "OMPI_",
    "PMI_",
    "PMIX_",
    "BIRDSD_ALLOCATION",
    "BIRDSD_ARRAY",
)
_FOREIGN_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE")


@dataclass
class SegmentResult:
    """How a segment went. Positions and `redone` are in samples; `redone` were seen before, and lost."""

    number: int
    segment: Segment
    begin: int = 0
    reached: int = 0
    redone: int = 0
    ended: str = ""
    problem: str = ""
    too_late: bool = False  # all samples were seen before it could be ended
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)  # of the event "training"
    losses: dict[int, float] = field(default_factory=dict)
    samples: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    difference: float = 0.0  # the largest relative one of its losses
    repeated_save: int = (
        0  # the position that the segment before had saved too; `state_problem` compares the two
    )
    state_problem: str = ""

    def to_json(self) -> dict[str, Any]:
        # Scripts know a segment by its older name.
        left_out, names = ("losses", "samples", "facts"), {"segment": "leg"}
        return {names.get(k, k): v for k, v in asdict(self).items() if k not in left_out}


class Ranks:
    """The processes of one segment, `birdsd run train` each; all are gone when it is closed."""

    def __init__(self, shape: Shape, settings: Sequence[str], logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = [logs / f"rank-{rank:05d}.log" for rank in range(shape.world)]
        command = [sys.executable, "-m", "birdsd.cli", "run", "train", *settings, *shape.settings()]
        port = _free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank, path in enumerate(self.logs):
                with open(path, "wb") as log:
                    self.processes.append(
                        subprocess.Popen(
                            command,
                            env=rank_environment(rank, shape.world, port, logs.name),
                            stdin=subprocess.DEVNULL,
                            stdout=log,
                            stderr=subprocess.STDOUT,
                            start_new_session=True,
                        )
                    )
        except BaseException:
            self.close()
            raise

    @property
    def codes(self) -> list[int | None]:
        return [process.poll() for process in self.processes]

    def kill(self) -> None:
        """SIGKILL to all ranks, and to whatever they started; returns when they are gone."""
        for process in self.processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()

    def ask_to_stop(self, rank: int) -> None:
        """As Slurm's warning does: SIGUSR2, here to one rank alone, and the others must follow."""
        self.processes[rank].send_signal(signal.SIGUSR2)

    def close(self) -> None:
        self.kill()

    def last_words(self) -> str:
        """The end of the log of the rank that failed first, as far as that can be told."""
        codes = self.codes
        harmless = (0, STOPPED_STATUS, None, -signal.SIGKILL)
        rank = min(range(len(codes)), key=lambda rank: (codes[rank] in harmless, rank))
        lines = self.logs[rank].read_text(encoding="utf-8", errors="replace").strip().splitlines()
        line = lines[-1].strip()[:300] if lines else "(it printed nothing)"
        return f"{_status(codes[rank])}, {self.logs[rank]}: {line}"


def _status(code: int | None) -> str:
    if code is None:
        return "still running"
    return signal.Signals(-code).name if code < 0 else f"status {code}"


class RunObserver:
    """Observes the only run below a folder through its files, while other processes write them."""

    def __init__(self, runs: Path, batch: int) -> None:
        self.runs, self.batch = Path(runs), batch
        self._run: Run | None = None

    @property
    def run(self) -> Run | None:
        if self._run is None:
            self._run = next(iter(RunStore(self.runs).runs("train")), None)
        return self._run

    def announcements(self) -> list[dict[str, Any]]:
        """The events of starts that have restored and built everything, and begin to train."""
        run = self.run
        return [event for event in run.events() if event["event"] == "training"] if run else []

    def losses(self, after: int = 0) -> dict[int, float]:
        """position -> loss of the steps beyond `after`."""
        lines = read_metrics(self.run.folder) if self.run else ()
        return {x["position"]: x["loss"] for x in lines if x["kind"] == "train" and x["position"] > after}

    def samples(self, after: int = 0) -> np.ndarray:
        return Ledger(self.run.folder).read()[after:] if self.run else np.zeros(0, np.int32)

    def saves(self, partial: bool = False) -> list[int]:
        """The positions of the checkpoints, or of those that are being written."""
        end = ".partial" if partial else ""
        names = [path.name for path in (self.run.folder / CHECKPOINTS).glob(f"*{end}")] if self.run else []
        names = [name.removesuffix(end) for name in names if name.endswith(end)]
        return sorted(int(name) for name in names if name.isdigit())

    def checkpoint(self, position: int | None = None) -> Path | None:
        """The checkpoint of a position, or the newest; None where there is none."""
        saves = [save for save in self.saves() if position in (None, save)]
        return self.run.folder / CHECKPOINTS / f"{saves[-1]:012d}" if saves and self.run else None


class InterruptedRun:
    """A run of `total_steps` steps, trained in segments one after the other."""

    def __init__(
        self,
        observer: RunObserver,
        settings: Sequence[str],
        logs: Path,
        total_steps: int,
        save_every: int,
        seed: int,
    ) -> None:
        self.observer, self.settings, self.logs = observer, [*settings, f"runs={observer.runs}"], logs
        self.total_steps, self.save_every = total_steps, save_every
        self.draw = random.Random(f"birdsd verify kills {seed}")
        self._aside = observer.runs / "aside"
        self._before: SegmentResult | None = None

    def run(self, number: int, segment: Segment, segments_left: int) -> SegmentResult:
        """Start the ranks, wait for the moment, and end them as the segment is meant to end.

        What goes wrong is noted in the result.
        """
        result, start = SegmentResult(number, segment), time.monotonic()
        if segment.again:
            result.repeated_save = self._set_aside()
        known = len(self.observer.announcements())
        settings = [*self.settings, f"machine.reader_threads={segment.readers}"]
        with closing(Ranks(segment.shape, settings, self.logs / f"segment-{number:02d}")) as ranks:
            try:
                for _ in self._until(ranks, lambda: len(self.observer.announcements()) > known, 0.05):
                    pass
                result.facts = self.observer.announcements()[-1]
                result.begin = int(result.facts["position"])
                self._end(ranks, segment, result, segments_left)
            except _SegmentError as error:
                result.problem, result.too_late = str(error), set(ranks.codes) == {0}
        result.losses = self.observer.losses(after=result.begin)
        result.samples = self.observer.samples(after=result.begin)
        result.reached = max(result.losses, default=result.begin)
        result.redone = max(0, self._before.reached - result.begin) if self._before else 0
        if result.repeated_save and not result.problem:
            result.state_problem = self._compare_states(result.repeated_save)
        result.seconds = round(time.monotonic() - start, 1)
        self._before = result
        return result

    def _has_saved(self, segment: Segment, result: SegmentResult) -> bool:
        """A repeated segment must save twice: its second save stands on a state that was never restored, and
        in the segment that repeats it, the same save stands on one that was."""
        saves = [position for position in self.observer.saves() if position > result.begin]
        return len(saves) >= 2 if segment.repeated else not segment.again or result.repeated_save in saves

    def _set_aside(self) -> int:
        """Move the last checkpoint that the previous segment saved away, so that it must be made again.

        Returns its position, or 0 where it did not save twice.
        """
        assert self._before is not None
        saves = [position for position in self.observer.saves() if position > self._before.begin]
        folder = self.observer.checkpoint()
        if len(saves) < 2 or folder is None:
            return 0
        shutil.rmtree(self._aside, ignore_errors=True)
        os.rename(folder, self._aside)
        return saves[-1]

    def _compare_states(self, position: int) -> str:
        folder = self.observer.checkpoint(position)
        if folder is None:
            return f"the checkpoint of position {position} was not made again"
        with SavedTensors(self._aside) as ours, SavedTensors(folder) as theirs:
            problem = compare_states(ours, theirs)
        return f"the checkpoint of position {position}: {problem}" if problem else ""

    def _end(self, ranks: Ranks, segment: Segment, result: SegmentResult, segments_left: int) -> None:
        if segment.ending == FINISH:
            self._leave(ranks, 0)
            result.ended = "finished"
            return
        batch, begin = self.observer.batch, result.begin
        end = end_of(
            segment, begin // batch, self.total_steps, segments_left, self.save_every, self.draw,
            before=result.repeated_save // batch,
        )  # fmt: skip
        for condition in (
            lambda: self._has_saved(segment, result),
            self._moment(segment, begin, end * batch),
        ):
            for _ in self._until(ranks, condition, _POLL_S):
                pass
        if segment.ending == STOP:
            ranks.ask_to_stop(self.draw.randrange(segment.shape.world))
            self._leave(ranks, STOPPED_STATUS)
            result.ended = f"SIGUSR2, saved at {self.observer.saves()[-1]}"
            return
        time.sleep(self.draw.uniform(0.0, 0.1 if segment.ending == "step" else 0.03))
        ranks.kill()
        result.ended = self._how_killed(ranks, segment)

    def _moment(self, segment: Segment, begin: int, target: int) -> Callable[[], bool]:
        """A condition: whether it is time to end a segment that began at `begin`."""
        if segment.ending in ("save", "between"):
            partial = segment.ending == "save"
            return lambda: any(position >= target for position in self.observer.saves(partial))
        return lambda: max(self.observer.losses(begin), default=0) >= target

    def _how_killed(self, ranks: Ranks, segment: Segment) -> str:
        """What the kill was seen to hit, which need not be what it was aimed at."""
        if ranks.codes != [-signal.SIGKILL] * segment.shape.world:
            raise _ended_early(ranks)
        if being_written := self.observer.saves(partial=True):
            return f"SIGKILL while it saved {being_written[-1]}"
        reached, saves = max(self.observer.losses(), default=0), self.observer.saves()
        if saves and saves[-1] == reached:
            return f"SIGKILL after the save of {reached}"
        return f"SIGKILL after the step to {reached}"

    def _leave(self, ranks: Ranks, status: int) -> None:
        """Wait until all ranks have exited by themselves, with this status."""
        for _ in self._until(ranks, lambda: None not in ranks.codes, 0.02, may_end=True):
            pass
        if set(ranks.codes) != {status}:
            raise _ended_early(ranks)

    def _until(
        self, ranks: Ranks, condition: Callable[[], bool], poll_s: float, may_end: bool = False
    ) -> Iterator[None]:
        """Yield until `condition()`; a rank that ends, or silence, is a `_SegmentError`."""
        seen: Any = None
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            ended = [code for code in ranks.codes if code is not None]
            if ended and not (may_end and all(code in (0, STOPPED_STATUS) for code in ended)):
                self._give_the_others_time(ranks)
                raise _ended_early(ranks)
            if time.monotonic() > deadline:
                now = [path.stat().st_size for path in ranks.logs], len(self.observer.losses())
                if now == seen:
                    raise _SegmentError(f"no progress for {PATIENCE_S:.0f} s: {ranks.last_words()}")
                seen, deadline = now, time.monotonic() + PATIENCE_S
            yield
            time.sleep(poll_s)

    @staticmethod
    def _give_the_others_time(ranks: Ranks) -> None:
        """Wait a little: their logs may tell more about what went wrong."""
        deadline = time.monotonic() + 5
        while None in ranks.codes and time.monotonic() < deadline:
            time.sleep(0.1)


class _SegmentError(Exception):
    """A segment did not go as planned: a result of verify, not an error."""


def _ended_early(ranks: Ranks) -> _SegmentError:
    if set(ranks.codes) == {0}:
        return _SegmentError("the run ended before this segment could be interrupted")
    return _SegmentError(f"a rank exited by itself: {ranks.last_words()}")


def train_reference(observer: RunObserver, shape: Shape, settings: Sequence[str], logs: Path) -> float:
    """Train one uninterrupted run; returns its seconds. Raises `UserError` where it fails."""
    start = time.monotonic()
    with closing(Ranks(shape, [*settings, f"runs={observer.runs}"], logs)) as ranks:
        while None in ranks.codes:
            time.sleep(0.05)
        if set(ranks.codes) != {0}:
            raise UserError(
                f"the run {logs.name} failed: {ranks.last_words()}",
                "verify needs settings that train",
                "try them with `birdsd run train ...`",
            )
    return time.monotonic() - start


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def rank_environment(rank: int, world: int, port: int, name: str) -> dict[str, str]:
    """The environment of a rank of the segment `name`: this one, without a launcher's variables."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(_FOREIGN) and key not in _FOREIGN_NAMES
    }
    return {
        **kept,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "BIRDSD_ALLOCATION": f"verify-{name}",
    }


def segment_line(result: SegmentResult, segments: int) -> str:
    """A segment as one line of progress."""
    segment = result.segment
    shape = f"world {segment.shape.world}, {segment.shape.engine}, micro-batch {segment.shape.micro_batch}"
    progress = f"{result.begin} -> {result.reached}" if result.facts else "did not start"
    return f"segment {result.number} of {segments}: {shape}: {progress}, {result.problem or result.ended}"
