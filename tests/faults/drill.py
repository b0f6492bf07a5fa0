"""One run that is disturbed on purpose, on the testbed cluster or through the local executor."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from birdsd.cluster.resume import resubmit
from birdsd.cluster.submit import Submitted, submit
from birdsd.files import environment
from birdsd.runs.allocations import Allocation, Submission, allocations, newest_position
from birdsd.runs.run import Run
from birdsd.shards.index import ShardIndex
from birdsd.shards.order import SampleOrder
from birdsd.training.records import UNKNOWN, Ledger, read_metrics
from birdsd.values import as_setting

ROOT = Path(__file__).resolve().parents[2]
INJECT = ROOT / "tests" / "faults" / "inject"
_ENVIRONMENT = threading.Lock()
BATCH, EVERY, TOTAL = 10, 50, 600
SETTINGS = [
    "model=tiny",
    "method=full",
    "machine=smoke",
    "machine.micro_batch=5",
    "machine.threads=1",
    "optim.learning_rate=1e-2",
    f"optim.global_batch={BATCH}",
    f"optim.total_samples={TOTAL}",
    "optim.warmup_samples=30",
    "optim.ema_decay=0.9",
    f"save.every_samples={EVERY}",
    "save.validate_every_samples=0",
    "save.keep=3",
]


@dataclass
class Outcome:
    """How a drill ended. Work is counted in samples; `equal`: losses and weights are those of the
    undisturbed run, bit by bit."""

    finished: bool
    lost: int
    doubled: int
    equal: bool
    most_redone: int
    allocations: int
    notes: list[str] = field(default_factory=list)

    @property
    def survived(self) -> bool:
        return self.finished and self.equal and self.lost == self.doubled == 0


class Drill:
    """A run in a folder of its own. `drill`: what happens inside the processes (see inject/)."""

    def __init__(
        self,
        folder: Path,
        shards: Path,
        settings: tuple[str, ...] = (),
        where: tuple[str, ...] = ("site=testbed", "nodes=2", "tasks_per_node=1"),
        drill: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self.shards = folder, shards
        folder.mkdir(parents=True, exist_ok=True)
        told = folder / "drill.json"
        told.write_text(json.dumps({"step_s": 0.1, **(drill or {})}))
        self.setup = [f"export PYTHONPATH={INJECT}:{ROOT}", f"export BIRDSD_DRILL={told}"]
        self.where = [*where, "site.max_idle_allocations=8"]
        self.on_resume: list[str] = []  # what a resume by hand sets anew
        self.environment = {
            "PYTHONPATH": f"{INJECT}:{ROOT}",
            "BIRDSD_DRILL": str(told),
            "OMP_NUM_THREADS": "1",
        }
        self.settings = [*SETTINGS, f"runs={folder / 'runs'}", f"data.shards={shards}", *settings]
        self.redone: list[int] = []
        self.notes: list[str] = []
        self.run: Run | None = None
        self.over = False

    # -- beginning and watching -----------------------------------------------------------------------

    def begin(self, cwd: Path | None = None) -> Run:
        """Submit the run, from the folder `cwd` where one is given."""
        where = [*self.where, as_setting("site.setup", self.setup)]
        with self.surroundings(cwd):
            submitted = submit("train", [*self.settings, *where])
            self.run = Run(submitted.run.folder.absolute(), submitted.run.signature)
        assert submitted.job_ids, submitted.line
        threading.Thread(target=self._watch_for_redone_work, daemon=True).start()
        return self.run

    def begin_held(self, cwd: Path | None = None) -> Run:
        """Submit the run, and let none of its jobs begin before `release`."""
        self.where.append("site.sbatch.hold=true")
        self.on_resume.append("site.sbatch.hold=false")
        return self.begin(cwd)

    def release(self) -> None:
        """Let the jobs of `begin_held` begin, wherever the run's folder is now."""
        for number in self.job_ids:
            slurm("scontrol", "release", number)

    def resume(self, *settings: str, cwd: Path | None = None) -> Submitted:
        """What `birdsd resume` does."""
        with self.surroundings(cwd):
            sent = resubmit(self.here, [*self.on_resume, *settings])
        assert sent.job_ids, sent.line
        return sent

    @contextmanager
    def surroundings(self, cwd: Path | None = None) -> Iterator[None]:
        """The environment that a local supervisor, started inside, hands on to its ranks."""
        with _ENVIRONMENT, environment(self.environment):
            before = Path.cwd()
            os.chdir(cwd or before)
            try:
                yield
            finally:
                os.chdir(before)

    def _watch_for_redone_work(self) -> None:
        """A run that resumes makes its ledger end where it resumes from: what it loses is work done twice."""
        before = 0
        while not self.over:
            now = self.position()
            if now < before:
                self.redone.append(before - now)
            before = now
            time.sleep(0.03)

    def submission(self) -> Submission:
        """The newest submission."""
        submission = Submission.read(self.here.folder)
        assert submission is not None
        return submission

    @property
    def job(self) -> str:
        return self.job_ids[-1]

    @property
    def job_ids(self) -> list[str]:
        return self.submission().job_ids

    @property
    def here(self) -> Run:
        assert self.run is not None
        return self.run

    def position(self) -> int:
        """Samples that the ledger holds now."""
        path = self.here.folder / "ledger.bin"
        return path.stat().st_size // 4 if path.is_file() else 0

    def wait(self, what: str, condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
        """Until `condition` holds; a drill that waits too long says what for."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout_s:.0f} s for {what}\n{self.told()}")
            time.sleep(0.1)

    def wait_position(self, position: int, allocation: int = 1) -> None:
        """Until the run has come to `position` in its `allocation`-th allocation (from 1)."""

        def there() -> bool:
            begun = [a for a in allocations(self.here.folder) if a.began]
            return len(begun) >= allocation and self.position() >= position

        self.wait(f"sample {position}", there)

    def wait_checkpoints(self, count: int) -> None:
        self.wait(
            f"{count} checkpoints",
            lambda: len(list(self.here.folder.glob("checkpoints/*/COMMIT.json"))) >= count,
        )

    def wait_gone(self) -> None:
        """Until no rank of the run is alive."""
        self.wait("the ranks to be gone", lambda: not self.ranks())

    def ranks(self) -> dict[int, psutil.Process]:
        """The living processes of the run, by rank."""
        found = {}
        for process in psutil.process_iter(["cmdline", "environ"]):
            words = process.info["cmdline"] or []
            if "submitit.core._submit" in words and any(str(self.here.folder.resolve()) in w for w in words):
                told = process.info["environ"] or {}
                rank = told.get("SLURM_PROCID") or told.get("SUBMITIT_LOCAL_GLOBALID")
                if rank is not None and "srun" not in words[0]:
                    found[int(rank)] = process
        return found

    def last(self) -> Allocation:
        return allocations(self.here.folder)[-1]

    # -- disturbing -------------------------------------------------------------------------------------

    def kill(self, ranks: set[int] | None = None, with_signal: int = signal.SIGKILL) -> None:
        """Send a signal to some ranks, or to all."""
        for rank, process in self.ranks().items():
            if ranks is None or rank in ranks:
                process.send_signal(with_signal)

    def newest_checkpoint(self) -> Path:
        return self.here.folder / "checkpoints" / f"{newest_position(self.here.folder):012d}"

    # -- ending -----------------------------------------------------------------------------------------

    def finish(self, timeout_s: float = 240.0) -> None:
        """Wait until the run is finished."""
        self.wait("the run to finish", lambda: self.here.result is not None, timeout_s)

    def told(self) -> str:
        """The end of what the run said, for whoever has to find out."""
        lines = [json.dumps(event)[:300] for event in self.here.events()[-12:]]
        for allocation in allocations(self.here.folder)[-2:]:
            for log in allocation.logs:
                lines += [f"-- {allocation.name}/{log.name}", log.read_text(errors="replace")[-1500:]]
        for log in sorted((self.here.folder / "submitit").glob("*0_log.*"))[-2:]:
            lines += [f"-- {log.name}", log.read_text(errors="replace")[-1500:]]
        lines.append(squeue())
        return "\n".join(lines)

    def outcome(self, straight: Path) -> Outcome:
        """Compare with the undisturbed run in the folder `straight`."""
        run = self.here.folder
        config = self.here.config
        order = SampleOrder(ShardIndex.open(self.shards).shard_sizes("train"), config["seed"])
        expected = order.batch(0, TOTAL)
        self.over = True
        seen = Ledger(run).read()
        # A sample that could not be decoded was seen all the same.
        seen = np.where((seen < 0) & (seen != UNKNOWN), -1 - seen, seen)
        wrong = int((seen[: len(expected)] != expected[: len(seen)]).sum())
        lost = int((seen == UNKNOWN).sum()) + max(0, len(expected) - len(seen)) + wrong
        positions = [line["position"] for line in read_metrics(run) if line["kind"] == "train"]
        doubled = max(0, len(seen) - len(expected)) + len(positions) - len(set(positions))
        finished = self.here.result is not None
        equal = finished and losses(run) == losses(straight) and same_weights(run, straight)
        return Outcome(
            finished, lost, doubled, equal, max([0, *self.redone]), len(allocations(run)), list(self.notes)
        )


def losses(run: Path) -> dict[int, float]:
    return {line["position"]: line["loss"] for line in read_metrics(run) if line["kind"] == "train"}


def same_weights(run: Path, straight: Path) -> bool:
    ours, theirs = (np.load(folder / "export" / "weights.npy") for folder in (run, straight))
    return bool(np.array_equal(ours, theirs))


def squeue() -> str:
    done = subprocess.run(["squeue", "-o", "%i %T %M %r %N"], capture_output=True, text=True, check=False)
    return done.stdout


def slurm(*words: str) -> str:
    """Run one of Slurm's commands and return what it printed."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def daemon(action: str, name: str) -> None:
    """`start`, `stop` or `kill` one of the testbed's daemons."""
    script = ROOT / "slurm" / "testbed" / "daemon.sh"
    subprocess.run(["bash", str(script), action, name], check=True, capture_output=True, timeout=60)


def straight_run(folder: Path, shards: Path, settings: tuple[str, ...] = (), ranks: int = 2) -> Path:
    """The undisturbed run: the same number of ranks, once from beginning to end; its folder."""
    drill = Drill(folder, shards, settings, ("site=local", f"tasks_per_node={ranks}"), {"step_s": 0.0})
    run = drill.begin()
    drill.finish()
    return run.folder


def as_json(outcome: Outcome) -> dict[str, Any]:
    return {**dataclasses.asdict(outcome), "survived": outcome.survived}
