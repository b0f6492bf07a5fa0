"""What each allocation of a run leaves behind: RUN/allocations/NAME/, and the submission that it belongs to.

    RUN/submission.json            the newest submission: the request, job ids, code snapshot
    RUN/claim.json                 a requeued job asks the remains of its last allocation to exit
    RUN/stop.json                  somebody asked the run to stop (birdsd cancel); gone with the next submit
    RUN/allocations/NAME/          one for each time that processes resumed the run
        allocation.json            who and where; written once, when it begins
        heartbeat.json             where it is; written anew every few seconds by rank 0
        end.json                   how it ended; absent where it was killed
        rank-00000.log             what a rank printed
        libraries-00000.log        what other libraries logged, except errors
        rank-00000.stacks          where a rank hung, if it did

Every file has one writer and is replaced whole, so that a network file system needs no locks for them.
Nothing here imports torch: a login node reads these files to say how a run is.
"""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from birdsd.errors import NotFound, UserError
from birdsd.files import safe_name, write_json
from birdsd.runs.heartbeat import HEARTBEAT, Heartbeat, is_recent

FOLDER, SUBMISSION, STOP, CLAIM = "allocations", "submission.json", "stop.json", "claim.json"
# Holds the id of the submission that a process belongs to; unset where a run is run by hand.
SUBMISSION_VARIABLE = "BIRDSD_SUBMISSION"
BEGAN, END = "allocation.json", "end.json"

T = TypeVar("T")


@dataclass
class Submission:
    """A submission by `birdsd submit`: enough to submit the same again, from any node.

    `settings` are the job's own; `submit` is the resolved SubmitConfig. `job_ids`: Slurm's, or the process
    ids of local supervisors, oldest first. Times are seconds since 1970.
    """

    id: str
    job: str
    settings: list[str]
    submit: dict[str, Any]
    time: float
    cwd: str
    python: str
    snapshot: str = ""
    code_version: str = ""
    job_ids: list[str] = field(default_factory=list)
    run_folder: str = ""  # where the run lay then: what tells a run that was moved since

    @property
    def site(self) -> dict[str, Any]:
        return self.submit["site"]

    @property
    def is_local(self) -> bool:
        return self.site["executor"] == "local"

    def write(self, run_folder: Path) -> None:
        write_json(Path(run_folder) / SUBMISSION, asdict(self))

    @classmethod
    def read(cls, run_folder: Path) -> Submission | None:
        """The newest submission of a run; None where it was only run by hand."""
        return _read(cls, Path(run_folder) / SUBMISSION)


@dataclass
class Began:
    """How an allocation began. `position`: samples of the newest checkpoint before it. `waited_s`: time in
    the queue, where the cluster reports it."""

    time: float
    job_id: str = ""
    restart: int = 0
    part: str = ""
    host: str = ""
    hosts: list[str] = field(default_factory=list)
    pid: int = 0
    boot_id: str = ""
    world_size: int = 1
    nodes: int = 1
    gpus: int = 0
    position: int = 0
    submission: str = ""
    waited_s: float | None = None


@dataclass
class Ended:
    """How an allocation ended: `reason` is finished, stopped, error or refused; `status` is the job's exit
    status."""

    time: float
    reason: str
    status: int
    position: int = 0
    message: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Allocation:
    """One folder of RUN/allocations."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def began(self) -> Began | None:
        return _read(Began, self.folder / BEGAN)

    @property
    def heartbeat(self) -> Heartbeat | None:
        return _read(Heartbeat, self.folder / HEARTBEAT)

    @property
    def ended(self) -> Ended | None:
        return _read(Ended, self.folder / END)

    @property
    def seems_alive(self) -> bool:
        """Whether its heartbeat is recent by this machine's clock; unreliable where clocks differ."""
        if (self.folder / END).is_file():
            return False
        return is_recent(self.folder / HEARTBEAT)

    def log(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.log"

    def libraries_log(self, rank: int) -> Path:
        return self.folder / f"libraries-{rank:05d}.log"

    def stacks(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.stacks"

    @property
    def logs(self) -> list[Path]:
        return sorted(self.folder.glob("rank-*.log"))


def allocations(run_folder: Path) -> list[Allocation]:
    """The allocations of a run, in the order in which they began."""
    existing = [Allocation(path) for path in (Path(run_folder) / FOLDER).glob("*") if path.is_dir()]
    return sorted(existing, key=lambda allocation: (_begin_time(allocation), allocation.name))


def _begin_time(allocation: Allocation) -> float:
    began = allocation.began
    return began.time if began else float("inf")


def allocation_of_environment(run_folder: Path) -> Allocation:
    """The allocation that this process belongs to, the same on all its ranks."""
    return Allocation(Path(run_folder) / FOLDER / allocation_name())


def allocation_name() -> str:
    """JOBID.RESTART under Slurm; host and process id of the launcher, or of this process, elsewhere."""
    if named := os.environ.get("BIRDSD_ALLOCATION"):
        return safe_name(named)
    if job := slurm_job_id():
        return safe_name(f"{job}.{os.environ.get('SLURM_RESTART_COUNT', '0')}")
    return safe_name(f"local-{platform.node()}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")


def slurm_job_id() -> str:
    """The id by which squeue and scontrol know this job, with the array's task; "" outside a job."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def boot_id() -> str:
    """An id of this boot of this machine; "" where the system has none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def committed_checkpoints(run_folder: Path) -> list[Path]:
    """The folders of a run's committed checkpoints, newest first. Their checksums are not verified."""
    commits = (Path(run_folder) / "checkpoints").glob("*/COMMIT.json")
    folders = [path.parent for path in commits if path.parent.name.isdigit()]
    return sorted(folders, key=lambda path: int(path.name), reverse=True)


def newest_position(run_folder: Path) -> int:
    """Samples of the newest committed checkpoint; 0 without one."""
    return next((int(path.name) for path in committed_checkpoints(run_folder)), 0)


def stop_requested(run_folder: Path) -> bool:
    """Whether somebody asked this run to stop."""
    return (Path(run_folder) / STOP).is_file()


def request_stop(run_folder: Path, who: str) -> None:
    """Ask a run to stop at its next step boundary, wherever it runs."""
    write_json(Path(run_folder) / STOP, {"time": time.time(), "by": who})


def withdraw_stop(run_folder: Path) -> None:
    """Withdraw a request to stop."""
    (Path(run_folder) / STOP).unlink(missing_ok=True)


def claim(run_folder: Path) -> None:
    """Claim the run for this job's newer allocation. A node that Slurm lost contact with may still be
    training for a job that was restarted elsewhere: it sees the claim, and exits."""
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    write_json(
        Path(run_folder) / CLAIM, {"job_id": slurm_job_id(), "restart": int(restart), "time": time.time()}
    )


def is_superseded(run_folder: Path) -> bool:
    """Whether a newer allocation of this very job has claimed the run."""
    try:
        newest = json.loads((Path(run_folder) / CLAIM).read_text(encoding="utf-8"))
        restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        return (
            bool(newest["job_id"]) and newest["job_id"] == slurm_job_id() and int(newest["restart"]) > restart
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_record(folder: Path, name: str, record: Any) -> None:
    """Replace one of an allocation's files."""
    write_json(folder / name, asdict(record))


def _read(kind: type[T], path: Path) -> T | None:
    """A record, or None where the file is missing, torn or of another kind. Unknown fields are left out."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
        return kind(**{key: entry for key, entry in value.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def no_submission(run_name: str) -> UserError:
    """The error for a run that was never submitted."""
    return NotFound(
        f"{run_name} was never submitted",
        "it was started with `birdsd run` and has no site to run on",
        "`birdsd submit JOB ... site=...` with the same settings resumes it",
    )
