"""The starts of a submission's jobs, whatever became of them, and the launcher's log.

RUN/submitit/SUBMISSION.starts (of an array SUBMISSION-TASK.starts) is written by the batch script itself,
in plain shell, or by the local supervisor: a rank that ends before birdsd has begun leaves nothing else.

    begin NAME REACHED [JOB]     NAME of the allocation; REACHED by the run when it began, in samples
    end NAME STATUS              of srun, or of the worst rank; absent where the script was killed
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsd.errors import UserError
from birdsd.files import append_bytes, exclusive, safe_name
from birdsd.runs.allocations import BEGAN, END, FOLDER, Submission
from birdsd.site.machine import command_line

SUBMITIT_FOLDER = "submitit"
LOCK_FOLDER = "supervisor"  # locked by the supervisor process of site=local
# As many allocations in a row in which birdsd did not even begin end a submission: one may be a bad node.
_SILENT_ALLOCATIONS = 3
_TAIL_BYTES = 64_000
# Lines of srun and slurmstepd that only repeat that something ended, and birdsd's own.
_BESIDE = re.compile(
    r"^birdsd: |^srun: error: .*: (tasks? [\d,-]+: )?(Exited|Terminated|Killed)|"
    r"^srun: (Terminating|Force|Job step)|\*\*\* (STEP|JOB)|^submitit (INFO|WARNING)|^\s*$"
)
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")
_TELLING = re.compile(
    r"error|not found|no such|cannot|couldn't|denied|exec format|no space|quota|unable|failed", re.IGNORECASE
)


@dataclass(frozen=True)
class Start:
    """One start of an allocation. `reached`: samples of the run's newest checkpoint, or of heartbeats, at
    that time; `recorded`: whether birdsd itself left a record."""

    name: str
    reached: int
    job_id: str
    ended: bool
    recorded: bool


def silent_limit(site: Mapping[str, Any]) -> int:
    """How many starts in a row without a record by birdsd end a submission of this site."""
    return min(_SILENT_ALLOCATIONS, int(site["max_idle_allocations"]))


def starts_file(run_folder: Path, submission_id: str, task: str = "") -> Path:
    """The file that records a submission's starts; `task`: of an array."""
    return Path(run_folder) / SUBMITIT_FOLDER / f"{submission_id}{f'-{task}' if task else ''}.starts"


def over(run_folder: Path, submission: Submission | None) -> set[str]:
    """The names of a submission's allocations whose script has ended, or was followed by another start."""
    if submission is None:
        return set()
    array = int(submission.submit.get("array") or 0)
    tasks = [str(number) for number in range(array)] if array > 1 else [""]
    return {start.name for task in tasks for start in starts(run_folder, submission.id, task) if start.ended}


def starts(run_folder: Path, submission_id: str, task: str = "") -> list[Start]:
    """The starts of a submission, or of a task of its array, oldest first."""
    try:
        text = starts_file(run_folder, submission_id, task).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    rows = [line.split() for line in text.splitlines()]
    ended = {row[1] for row in rows if row[:1] == ["end"] and len(row) > 1}
    begun = [row for row in rows if row[:1] == ["begin"] and len(row) > 2]
    records = []
    for number, row in enumerate(begun):
        # A later start means that this one is over, even if its script was killed.
        over = row[1] in ended or number + 1 < len(begun)
        folder = Path(run_folder) / FOLDER / safe_name(row[1])
        recorded = (folder / BEGAN).is_file() or (folder / END).is_file()
        job = row[3] if len(row) > 3 else row[1].rpartition(".")[0]
        records.append(Start(row[1], int(row[2]) if row[2].isdigit() else 0, job, over, recorded))
    return records


def note(run_folder: Path, submission_id: str, *words: object) -> None:
    """Add a line to the record, as the batch script does."""
    line = " ".join(map(str, words)) + "\n"
    append_bytes(starts_file(run_folder, submission_id), line.encode())


def silent_starts(run_folder: Path, submission: Submission | None) -> list[Start]:
    """The newest consecutive starts of a submission that are over and in which birdsd did not begin.

    For an array, those of the task that has the most.
    """
    if submission is None:
        return []
    array = int(submission.submit.get("array") or 0)
    rows = [starts(run_folder, submission.id, str(n)) for n in range(array)] if array > 1 else []
    return max((silent_row(row) for row in rows or [starts(run_folder, submission.id)]), key=len)


def silent_row(records: Sequence[Start]) -> list[Start]:
    """The last consecutive starts that ended without a record; [] where the newest that ended left one."""
    row: list[Start] = []
    for start in reversed(records):
        if start.recorded:
            break
        if start.ended:
            row.insert(0, start)
    return row


# -- the launcher's logs ----------------------------------------------------------------------------------


def launcher_logs(run_folder: Path, job_ids: Iterable[str], rank: int) -> tuple[Path, ...]:
    """The launcher's logs of a rank, output before errors, of the newest of these jobs that has any.

    The log of rank 0 also has the output of the batch script and srun.
    """
    folder = Path(run_folder) / SUBMITIT_FOLDER
    for job in reversed([job for job in job_ids if job]):
        candidates = [folder / f"{job}_{rank}_log.{kind}" for kind in ("out", "err")]
        if paths := tuple(path for path in candidates if path.is_file() and path.stat().st_size):
            return paths
    return ()


def supervisor_log(run_folder: Path) -> tuple[Path, ...]:
    """The log of the process that starts ranks on this machine, unless it is empty."""
    path = Path(run_folder) / SUBMITIT_FOLDER / "supervisor.log"
    return (path,) if path.is_file() and path.stat().st_size else ()


def last_words(run_folder: Path, job_ids: Iterable[str], limit: int = 300) -> str:
    """The most informative line of the launcher's logs: the last exception of a rank, else the last error."""
    folder, lines = Path(run_folder) / SUBMITIT_FOLDER, list[str]()
    for job in job_ids:
        for path in sorted(folder.glob(f"{job}_*_log.out")) + sorted(folder.glob(f"{job}_*_log.err")):
            lines += _tail(path)
    for path in () if lines else supervisor_log(run_folder):
        lines += _tail(path)
    lines = [line.strip() for line in lines if not _BESIDE.search(line)]
    telling = [line for line in lines if _EXCEPTION.match(line)] or [x for x in lines if _TELLING.search(x)]
    last = (telling or lines or [""])[-1]
    return last if len(last) <= limit else f"{last[: limit - 1]}\u2026"


def _tail(path: Path) -> list[str]:
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - _TAIL_BYTES))
            return stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def has_supervisor(run_folder: Path, process_ids: Sequence[str]) -> bool:
    """Whether one of these processes is the supervisor of a run on this machine."""
    folder = str(Path(run_folder).resolve())
    # An older birdsd calls the same process birdsd.cluster.supervisor.
    modules = ("birdsd.cluster.local", "birdsd.cluster.supervisor")
    commands = [command_line(number) for number in process_ids]
    return any(folder in command and any(name in command for name in modules) for command in commands)


def is_supervised(run_folder: Path, process_ids: Sequence[str]) -> bool:
    """Whether a supervisor works on a run, or is about to, on this machine."""
    if has_supervisor(run_folder, process_ids):
        return True
    try:
        with exclusive(Path(run_folder) / LOCK_FOLDER):
            return False
    except UserError:
        return True
