"""A job that srun, mpirun or torchrun started several times at once: the ranks of one run, or refused.

Independent copies would wait for one lock, or overwrite each other's files.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from birdsd.config import job_name
from birdsd.errors import NotSet, Unsupported
from birdsd.site.choose import SHARED_JOBS

# Jobs with communicating processes; every other job is a single process, or takes part=i/n.
_OF_RANKS = ("train",)
# Below the ephemeral ports of common systems.
_PORTS = (20000, 32000)


@dataclass(frozen=True)
class Launch:
    """What a launcher tells one of its processes. `address` and `port`: the rendezvous at rank 0; "" where
    unknown."""

    launcher: str
    rank: int
    size: int
    local_rank: int
    address: str = ""
    port: int = 0


def join(job: str, settings: Sequence[str], environ: MutableMapping[str, str] | None = None) -> Launch | None:
    """Make this process the rank that its launcher assigned; returns None where it was started alone.

    Sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, as torchrun does. Raises `UserError`
    where the processes could not find each other, or where the job is for a single process.
    """
    environ = os.environ if environ is None else environ
    launch = launched(environ)
    if launch is None or launch.size < 2:
        return None
    if job not in _OF_RANKS:
        if any(setting.startswith("part=") for setting in settings):
            return None  # each has its own share
        raise Unsupported(
            f"{launch.launcher} started `birdsd run {job}` {launch.size} times",
            "it is a single-process job; copies would overwrite each other's files",
            f"start it once; `birdsd submit {job} array=N` or part=i/n splits the work"
            if job_name(job) in SHARED_JOBS
            else "start it once, e.g. with srun -n 1",
        )
    address = environ.get("MASTER_ADDR") or launch.address
    port = environ.get("MASTER_PORT") or str(launch.port)
    if not address or port in ("", "0"):
        raise NotSet(
            f"{launch.launcher} started `birdsd run {job}` {launch.size} times",
            "without a rendezvous address each process would wait for the others",
            "set MASTER_ADDR and MASTER_PORT to a machine and a free port of rank 0's, or "
            f"`birdsd submit {job} site=... nodes=N tasks_per_node=N`",
        )
    variables = {"RANK": launch.rank, "WORLD_SIZE": launch.size, "LOCAL_RANK": launch.local_rank}
    environ.update({name: str(value) for name, value in variables.items()})
    environ.update({"MASTER_ADDR": address, "MASTER_PORT": port})
    return launch


def launched(environ: Mapping[str, str]) -> Launch | None:
    """The launcher that started this process as one of several, by the variables it set; None for none.

    A shell or a notebook inside an allocation is not a step of several tasks, whatever the allocation has.
    """

    def number(name: str, default: int = 0) -> int:
        text = environ.get(name, "")
        return int(text) if text.isdigit() else default

    variables = [name for name in ("RANK", "WORLD_SIZE") if name in environ]
    if variables and (len(variables) == 1 or not all(environ[name].isdigit() for name in variables)):
        listed = ", ".join(f"{name}={environ[name]!r}" for name in variables)
        raise NotSet(
            f"the environment has {listed}",
            "launchers of several processes set both RANK and WORLD_SIZE, to whole numbers",
            "unset them, or start it with torchrun or srun",
        )
    if number("WORLD_SIZE") and "RANK" in environ:  # torchrun, or our own launch
        numbers = number("RANK"), number("WORLD_SIZE"), number("LOCAL_RANK")
        return Launch("torchrun", *numbers, environ.get("MASTER_ADDR", ""), number("MASTER_PORT"))
    in_step = number("SLURM_STEP_NUM_TASKS") > 1 and "SLURM_STEP_ID" in environ and "SLURM_PROCID" in environ
    for launcher, rank, size, local_rank, local_size in _MPI:
        # mpirun may start its own daemons with srun, and srun --mpi=pmi2 sets some of mpirun's variables.
        if number(size) > 1 and rank in environ and (local_size in environ or not in_step):
            alone = number(local_size) == number(size)  # on one machine, which is this one
            port = _port(f"{launcher} {os.getppid()}") if alone else 0
            address = "127.0.0.1" if alone else ""
            return Launch(launcher, number(rank), number(size), number(local_rank), address, port)
    if in_step:
        numbers = number("SLURM_PROCID"), number("SLURM_STEP_NUM_TASKS"), number("SLURM_LOCALID")
        step = f"{environ.get('SLURM_JOB_ID')}.{environ['SLURM_STEP_ID']}"
        return Launch("srun", *numbers, _first_host(environ), _port(f"srun {step}"))
    return None


# (launcher, rank, size, rank on the machine, size on the machine)
_MPI = (
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("mpirun", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK",
     "MV2_COMM_WORLD_LOCAL_SIZE"),
)  # fmt: skip


def _port(seed: str) -> int:
    """The same port on every process of a launch, and most likely another one for another launch."""
    return random.Random(seed).randint(*_PORTS)


def _first_host(environ: Mapping[str, str]) -> str:
    """The first node of a step, which has rank 0; "" where unknown."""
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    if re.fullmatch(r"[\w.-]+", nodes):
        return nodes
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.split()[0] if done.stdout.split() else ""
    return ""
