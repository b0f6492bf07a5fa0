"""Runs with a past, written through the records that real allocations write."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from birdsd.config import compose
from birdsd.files import append_bytes, write_json
from birdsd.runs.allocations import BEGAN, END, FOLDER, Began, Ended, Submission, write_record
from birdsd.runs.heartbeat import HEARTBEAT, Heartbeat
from birdsd.runs.run import Run
from birdsd.schema import SubmitConfig
from birdsd.site.slurm import JobState

T0 = 1_700_000_000.0  # when every story begins
HOUR = 3600.0


@cache
def _config() -> dict[str, Any]:
    return asdict(compose("train", ["optim.total_samples=12000"]))


class History:
    """A run's folder, filled event by event. Times are hours after T0."""

    def __init__(self, root: Path, name: str = "tiny-full-0123456789ab", job: str = "train") -> None:
        self.folder = Path(root) / name
        self.job = job
        self.folder.mkdir(parents=True)
        write_json(self.folder / "config.json", _config())
        write_json(self.folder / "signature.json", {"signature": name.rpartition("-")[2], "job": job})

    @property
    def run(self) -> Run:
        return Run(self.folder, self.folder.name.rpartition("-")[2])

    def event(self, at: float, **event: Any) -> None:
        line = json.dumps({"time": T0 + at * HOUR, **event}) + "\n"
        append_bytes(self.folder / "events" / "n1-1-1.jsonl", line.encode())

    def submitted(
        self, at: float, job_ids: list[str], *, id: str = "s1", executor: str = "slurm", **submit: Any
    ) -> None:
        config = SubmitConfig(**submit)
        config.site.name, config.site.executor = "uni", executor
        Submission(
            id,
            self.job,
            ["model=tiny"],
            asdict(config),
            T0 + at * HOUR,
            "/home",
            "python",
            "",
            "abc",
            job_ids,
        ).write(self.folder)
        for job_id in job_ids:
            self.event(at, event="submitted", submission=id, job_id=job_id)

    def ran(
        self,
        name: str,
        at: float,
        *,
        took: dict[str, float],
        to: int = 0,
        start: int = 0,
        end: str | None = "stopped",
        last: float | None = None,
        phase: str = "train",
        message: str = "",
        part: str = "",
        submission: str = "s1",
        gpus: int = 4,
        job_id: str | None = None,
    ) -> Path:
        """An allocation. `took`: hours by phase; `last`: of its last word (default: when they are over)."""
        job, _, restart = name.rpartition(".")
        folder = self.folder / FOLDER / name
        seconds = {key: hours * HOUR for key, hours in took.items()}
        # Python had run for a while when the allocation began to write: "start" holds the imports too.
        worked = sum(hours for key, hours in took.items() if key != "imports")
        before = took.get("start", 0.0) - took.get("imports", 0.0) if "start" in took else 0.0
        last = at + worked - before if last is None else last
        write_record(folder, BEGAN, Began(
            time=T0 + at * HOUR, job_id=job if job_id is None else job_id,
            restart=int(restart) if restart.isdigit() else 0,
            part=part, host="n1", world_size=4, nodes=2, gpus=gpus, position=start, submission=submission,
        ))  # fmt: skip
        resumed = None if phase in ("start", "restore") else start
        write_record(folder, HEARTBEAT, Heartbeat(
            T0 + last * HOUR, 9, phase, to, 12000, 100.0, seconds, 0.25, resumed
        ))  # fmt: skip
        os.utime(folder / HEARTBEAT, (T0 + last * HOUR,) * 2)
        if end is not None:
            write_record(folder, END, Ended(T0 + last * HOUR, end, 0, to, message, seconds))
        return folder

    def saved(self, position: int) -> None:
        write_json(self.folder / "checkpoints" / f"{position:012d}" / "COMMIT.json", {"position": position})

    def finished(self, position: int) -> None:
        write_json(self.folder / "finished.json", {"position": position, "total": position, "finished": True})


def job_state(id: str, state: str, **more: Any) -> JobState:
    """What Slurm would say; times in hours after T0."""
    hours = {key: T0 + more.pop(key) * HOUR for key in ("start", "end", "submit", "eligible") if key in more}
    known = {
        "reason": "",
        "nodes": "",
        "elapsed_s": 0.0,
        "restarts": 0,
        "exit_code": "0:0",
        "source": "squeue",
    }
    none = {"start": None, "end": None, "submit": None, "eligible": None}
    return JobState(id=id, state=state, **{**known, **none, **hours, **more})
