"""The interface to Slurm: the only module that calls its programs.

Output is read in the formats meant for programs (`squeue -O`, `sacct -P`, `scontrol -o`), with times in
seconds since 1970 and fields separated by a character that no job name can contain. Slurm 22.05 is enough:
JSON output is newer than some clusters, and differs between versions.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from birdsd.errors import BadValue, UserError

# Between fields: ASCII's unit separator, which Slurm refuses in names.
SEPARATOR = "\x1f"
TIMEOUT_S = 20.0
# Exit status of a program that did not answer in time, as of timeout(1).
TIMED_OUT = 124

# Slurm's states of jobs that are queued or active; every other state is final.
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
ACTIVE = (
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "SUSPENDED",
    "STOPPED",
    "SIGNALING",
    "STAGE_OUT",
    "RESIZING",
)

_ID = re.compile(r"[0-9]+(?:[_+][0-9]+)?")
# A user's defaults for these programs would filter and reformat what is read here.
_DEFAULTS_OF_USERS = ("SQUEUE_", "SINFO_", "SACCT_", "SCONTROL_", "SCANCEL_", "SBATCH_", "SRUN_", "SALLOC_")
_SQUEUE = (
    "ArrayJobID,ArrayTaskID,State,Reason,NodeList,StartTime,EndTime,TimeUsed,RestartCnt,SubmitTime,"
    "EligibleTime,exit_code"
)
_SACCT = "JobID,State,Reason,NodeList,Start,End,ElapsedRaw,Submit,Eligible,ExitCode"
_ASSOCIATION = (
    "Cluster,Account,User,Partition,QOS,DefaultQOS,MaxWall,MaxTRES,MaxJobs,GrpTRES,MaxTRESPerNode,ParentName"
)
_QOS = (
    "Name,Priority,MaxWall,MaxTRESPerUser,MaxTRES,MaxJobsPerUser,Preempt,PreemptMode,GraceTime,Flags,"
    "MaxTRESPerNode,MaxTRESPerAccount,GrpTRES"
)
_FEWEST = 10  # columns of both that every accounting has; what is behind them may be missing


class SlurmError(UserError):
    """A program of Slurm failed, was missing, or did not answer in time."""

    code = "slurm"


@dataclass(frozen=True)
class JobState:
    """The state of one job as Slurm reports it. Times are seconds since 1970, None where unknown.

    `state` is Slurm's name (PENDING, RUNNING, TIMEOUT, ...); `start` of a waiting job is an estimate;
    `exit_code` is status:signal; `source` is squeue or sacct.
    """

    id: str
    state: str
    reason: str
    nodes: str
    start: float | None
    end: float | None
    elapsed_s: float
    restarts: int
    submit: float | None
    eligible: float | None
    exit_code: str
    source: str

    @property
    def is_waiting(self) -> bool:
        """Whether it is in the queue, perhaps once more."""
        return self.state in WAITING

    @property
    def is_over(self) -> bool:
        """Whether Slurm is done with it."""
        return self.state not in WAITING and self.state not in ACTIVE


def available() -> bool:
    """Whether Slurm's programs are on the PATH; `ping` tells whether a controller answers."""
    return shutil.which("sinfo") is not None


def command(arguments: Sequence[str], timeout_s: float = TIMEOUT_S) -> str:
    """The standard output of one of Slurm's programs.

    Raises `SlurmError` with the command, its exit status and its message where it fails, is missing, or
    takes longer than `timeout_s`.
    """
    return _run(arguments, timeout_s)[0]


def _run(arguments: Sequence[str], timeout_s: float) -> tuple[str, str]:
    """Standard output and standard error."""
    try:
        done = subprocess.run(
            list(arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env=_environment(),
            check=False,
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"{arguments[0]} is not installed here",
            "this needs the programs of a Slurm cluster",
            "run it on a login node of the cluster, or take site=local",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise _failure(arguments, TIMED_OUT, f"no answer in {timeout_s:g} s") from error
    except OSError as error:
        raise _failure(arguments, 126, error.strerror or str(error)) from error
    errors = done.stderr.decode("utf-8", "replace")
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        raise _failure(arguments, done.returncode, errors.strip() or output)
    return output, errors


def _environment() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith(_DEFAULTS_OF_USERS)}
    return {**kept, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "LC_ALL": "C"}


def _failure(arguments: Sequence[str], status: int, errors: str) -> SlurmError:
    lines = [line.strip() for line in errors.strip().splitlines() if line.strip()]
    message = "; ".join(lines[-4:]) or "it printed nothing"
    return SlurmError(f"`{' '.join(arguments)}` failed with status {status}", message)


# -- jobs -------------------------------------------------------------------------------------------


def jobs(ids: Sequence[str], timeout_s: float = TIMEOUT_S) -> dict[str, JobState]:
    """The states of these jobs, by id: one call of squeue, and one of sacct for jobs that squeue has
    forgotten.

    An id is "12", or "12_3" for a task of an array. The id of a whole array stands for its most active
    task, and its tasks are included under their own ids. Jobs unknown to both are absent; without Slurm the
    result is empty. Never raises.
    """
    wanted = list(dict.fromkeys(text for text in map(str, ids) if _ID.fullmatch(text)))
    if not wanted or not available():
        return {}
    known: dict[str, JobState] = {}
    with suppress(SlurmError):
        known = _squeue(wanted, timeout_s)
    missing = [text for text in wanted if text not in known]
    if missing:
        with suppress(SlurmError):
            known.update(_sacct(missing, timeout_s))
    return known


def _squeue(ids: Sequence[str], timeout_s: float) -> dict[str, JobState]:
    form = ",".join(f"{name}:{SEPARATOR}" for name in _SQUEUE.split(","))
    # All states: a job that has just ended is in the controller's memory for some minutes still.
    arguments = [
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        f"--jobs={','.join(ids)}",
        f"--Format={form}",
    ]
    try:
        text = command(arguments, timeout_s)
    except SlurmError as error:
        # One malformed id makes the whole query fail; an unknown one only if it is queried alone.
        named = re.search(r"Invalid job id: (\d+)", str(error))
        rest = [name for name in ids if named and re.split("[_+]", name)[0] != named[1]]
        if rest and len(rest) < len(ids):
            return _squeue(rest, timeout_s)
        if "Invalid job id" in str(error):
            return {}
        raise
    return _by_id(ids, read_squeue(text))


def read_squeue(text: str) -> list[JobState]:
    """The jobs in squeue's output, in the format that `jobs` requests."""
    states = []
    for row in _rows(text, _SQUEUE):
        array, task, state, reason, nodes, start, end, used, restarts, submit, eligible, status = row
        name = f"{array}_{task}" if task.isdigit() else array
        states.append(
            JobState(
                id=name,
                state=_state(state),
                reason=_text(reason),
                nodes=_text(nodes),
                start=when(start),
                end=when(end),
                elapsed_s=seconds(used) or 0.0,
                restarts=int(restarts) if restarts.isdigit() else 0,
                submit=when(submit),
                eligible=when(eligible),
                exit_code=_exit_code(status),
                source="squeue",
            )
        )
    return states


def _sacct(ids: Sequence[str], timeout_s: float) -> dict[str, JobState]:
    # Duplicates are earlier lives of a requeued job: they count its restarts.
    arguments = ["sacct", "--noheader", "--parsable2", f"--delimiter={SEPARATOR}", "--allocations"]
    arguments += ["--duplicates", f"--jobs={','.join(ids)}", f"--format={_SACCT}"]
    return _by_id(ids, read_sacct(command(arguments, timeout_s)))


def read_sacct(text: str) -> list[JobState]:
    """The newest life of each job in sacct's output, in the format that `jobs` requests."""
    newest: dict[str, JobState] = {}
    for row in _rows(text, _SACCT):
        name, state, reason, nodes, start, end, elapsed, submit, eligible, status = row
        if not _ID.fullmatch(name):
            continue  # a range of tasks that wait together; squeue knows those one by one
        before = newest.get(name)
        job = JobState(
            id=name,
            state=_state(state),
            # For a job that has run, accounting keeps the reason why it waited.
            reason=_text(reason) if _state(state) in WAITING else "",
            nodes=_text(nodes),
            start=when(start),
            end=when(end),
            elapsed_s=float(elapsed) if elapsed.isdigit() else 0.0,
            restarts=before.restarts + 1 if before else 0,
            submit=when(submit),
            eligible=when(eligible),
            exit_code=_exit_code(status),
            source="sacct",
        )
        if before and (before.submit or 0.0) > (job.submit or 0.0):
            job = replace(before, restarts=job.restarts)  # not always in order
        newest[name] = job
    return list(newest.values())


def _by_id(ids: Sequence[str], states: Iterable[JobState]) -> dict[str, JobState]:
    """The jobs by id, and the id of a whole array for its most active task."""
    known = {job.id: job for job in states}
    for name in ids:
        tasks = [job for key, job in known.items() if re.split("[_+]", key)[0] == name]
        if name not in known and tasks:
            known[name] = replace(min(tasks, key=_rest), id=name)
    return known


def _rest(job: JobState) -> tuple[int, float]:
    """A sort key, small for active jobs: running before waiting before failed before done."""
    if job.is_over:
        return (3 if job.state == "COMPLETED" else 2), -(job.end or 0.0)
    return (1 if job.is_waiting else 0), job.start or 0.0


def show_job(name: str) -> dict[str, str]:
    """The output of `scontrol show job` for a job that is not long over; for an array, of its first task."""
    rows = records(command(["scontrol", "--oneliner", "show", "job", _checked(name)]))
    return rows[0] if rows else {}


def would_start(options: Sequence[str], timeout_s: float = TIMEOUT_S) -> str:
    """The answer of `sbatch --test-only` to a job with these options: when and where it could start.

    Raises `SlurmError`, whose rule is the reason, where Slurm would refuse it.
    """
    output = " ".join(_run(["sbatch", "--test-only", *options, "--wrap=true"], timeout_s)[1].split())
    match = re.search(r"to start at (\S+) (using .*)", output)
    moment = when(match[1]) if match else None
    if match is None or moment is None:
        return output
    return f"at {datetime.fromtimestamp(moment):%Y-%m-%d %H:%M}, {match[2]}"


def requeue(name: str) -> None:
    """Put a running or just ended job back in the queue, under the same id."""
    command(["scontrol", "requeue", _checked(name)])


def cancel(name: str) -> None:
    """Take a job out of the queue, or end it: SIGTERM, then SIGKILL after the site's KillWait."""
    command(["scancel", _checked(name)])


def signal(name: str, which: str, batch: bool = False) -> None:
    """Send a signal ("USR2") to all tasks of a job; with `batch` to its batch script alone."""
    if not re.fullmatch(r"[A-Z0-9]+", which):
        raise BadValue(f"'{which}' is not a signal", "a signal is a name such as USR2 or TERM")
    command(["scancel", f"--signal={which}", *(["--batch"] if batch else []), _checked(name)])


def _checked(name: str) -> str:
    if not _ID.fullmatch(str(name)):
        raise BadValue(f"'{name}' is not a Slurm job id", "an id is a number, or 12_3 for a task of an array")
    return str(name)


# -- the cluster ------------------------------------------------------------------------------------


def ping(timeout_s: float = TIMEOUT_S) -> list[str]:
    """The controllers that answer, by host; raises `SlurmError` where none does."""
    text = command(["scontrol", "ping"], timeout_s)
    up = re.findall(r"Slurmctld\([^)]*\) at (\S+) is UP", text)
    if not up:
        raise SlurmError("no controller of Slurm answers", " ".join(text.split()))
    return up


def version() -> str:
    """The version of Slurm's programs here, e.g. 22.05.8."""
    match = re.search(r"\d+\.\d+(?:\.\d+)?\S*", command(["sinfo", "--version"]))
    return match.group() if match else ""


def config(timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """The output of `scontrol show config`, by name."""
    return read_config(command(["scontrol", "show", "config"], timeout_s))


def read_config(text: str) -> dict[str, str]:
    """The settings in the output of `scontrol show config`."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs if re.fullmatch(r"[\w:]+", key.strip())}


def partitions(timeout_s: float = TIMEOUT_S) -> list[dict[str, str]]:
    """Every partition that the user may see, as `scontrol show partition` describes it."""
    return records(command(["scontrol", "--oneliner", "show", "partition"], timeout_s))


def nodes(timeout_s: float = TIMEOUT_S) -> list[dict[str, str]]:
    """Every node, as `scontrol show node` describes it."""
    return records(command(["scontrol", "--oneliner", "show", "node"], timeout_s))


def associations(user: str, timeout_s: float = TIMEOUT_S) -> list[dict[str, str]]:
    """What accounting allows the user: one entry an association (cluster, account, partition).

    Raises `SlurmError` where the cluster keeps no accounts or its database does not answer.
    """
    text = command(
        ["sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}",
         f"format={_ASSOCIATION}"],
        timeout_s,
    )  # fmt: skip
    return read_associations(text)


def read_associations(text: str) -> list[dict[str, str]]:
    """The associations in sacctmgr's output in the form that `associations` asks for."""
    return [dict(zip(_ASSOCIATION.split(","), row, strict=True)) for row in _padded(text, _ASSOCIATION)]


def account_associations(accounts: Sequence[str], timeout_s: float = TIMEOUT_S) -> list[dict[str, str]]:
    """The associations of these accounts: their own, whose user is "", and those of all their users."""
    named = f"account={','.join(accounts)}"
    text = command(
        ["sacctmgr", "--noheader", "--parsable2", "show", "associations", named, f"format={_ASSOCIATION}"],
        timeout_s,
    )
    return read_associations(text)


def default_account(user: str, timeout_s: float = TIMEOUT_S) -> str:
    """The account that a user's jobs are charged to where none is named; "" if there is none."""
    text = command(
        ["sacctmgr", "--noheader", "--parsable2", "show", "user", user, "format=DefaultAccount"], timeout_s
    )
    return text.strip().split("\n")[0]


def qos(timeout_s: float = TIMEOUT_S) -> dict[str, dict[str, str]]:
    """Every quality of service by name, with its limits; raises `SlurmError` without accounting."""
    text = command(["sacctmgr", "--noheader", "--parsable2", "show", "qos", f"format={_QOS}"], timeout_s)
    return read_qos(text)


def read_qos(text: str) -> dict[str, dict[str, str]]:
    """The qualities of service in sacctmgr's output in the form that `qos` asks for."""
    return {row[0]: dict(zip(_QOS.split(","), row, strict=True)) for row in _padded(text, _QOS)}


# -- reading ----------------------------------------------------------------------------------------


def records(text: str) -> list[dict[str, str]]:
    """The lines of `scontrol -o` as dictionaries. A value may hold spaces, but not a word like Name=."""
    rows = []
    for line in text.splitlines():
        pairs = [part.partition("=") for part in re.split(r"\s+(?=[A-Z][\w/:.]*=)", line.strip())]
        record = {key: value.strip() for key, equals, value in pairs if equals}
        if record:
            rows.append(record)
    return rows


def _rows(text: str, form: str, separator: str = SEPARATOR) -> list[list[str]]:
    """The fields of each line; a line of another shape is a warning, not data."""
    rows, width = [], form.count(",") + 1
    for line in text.split("\n"):
        fields = [field.strip() for field in line.split(separator)]
        if len(fields) == width + 1 and not fields[-1]:
            fields.pop()  # squeue ends each field with the separator, the others only part them by it
        if len(fields) == width:
            rows.append(fields)
    return rows


def _padded(text: str, form: str) -> list[list[str]]:
    """The fields of each line of sacctmgr; the last columns may be missing."""
    width = form.count(",") + 1
    rows = []
    for line in text.split("\n"):
        fields = [field.strip() for field in line.split("|")]
        if _FEWEST <= len(fields) <= width:
            rows.append(fields + [""] * (width - len(fields)))
        elif len(fields) == width + 1 and not fields[-1]:
            rows.append(fields[:width])
    return rows


def _text(value: str) -> str:
    return "" if value in ("None", "N/A", "(null)", "None assigned", "NULL", "Unknown") else value


def _state(value: str) -> str:
    """CANCELLED by 1000 -> CANCELLED"""
    return value.split(" ")[0].rstrip("+") or "UNKNOWN"


def _exit_code(value: str) -> str:
    """status:signal; squeue tells the number that wait(2) gives: 256 -> 1:0, 9 -> 0:9."""
    return f"{int(value) >> 8}:{int(value) & 127}" if value.isdigit() else _text(value) or "0:0"


def when(text: str) -> float | None:
    """A time of Slurm's in seconds since 1970; None for N/A and Unknown."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text) or None
    with suppress(ValueError):  # a version without this time format
        return datetime.fromisoformat(text).timestamp()
    return None


def seconds(text: str) -> float | None:
    """A duration: [days-]hours:minutes:seconds, minutes[:seconds], or "30 sec"; None for infinite."""
    text = text.strip()
    if match := re.fullmatch(r"(\d+) (sec|min|hours?|days?)", text):
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2][0]]
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        return None
    days, first, second, third = (int(part) if part else None for part in match.groups())
    parts = [first or 0, second or 0, third or 0]
    if days is None and third is None:  # minutes[:seconds]
        parts = [0, *parts[:2]]
    return float((days or 0) * 86400 + parts[0] * 3600 + parts[1] * 60 + parts[2])


def options(text: str) -> Mapping[str, str]:
    """The items of a list such as `preempt_send_user_signal,bf_interval=2`, those without a value as ""."""
    pairs = (item.partition("=") for item in text.split(",") if item and item != "(null)")
    return {key.strip(): value for key, _, value in pairs}
