"""A command that a launcher started several times: ranks of one run, or refused; a shell is alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from birdsd.cluster.rank.ranks import join, launched
from birdsd.errors import NotSet, Unsupported
from birdsd.runs.allocations import allocations
from birdsd.runs.run import RunStore
from tests.faults.drill import INJECT, ROOT, SETTINGS
from tests.support.errors import refuses
from tests.support.toy import make_shards

# What Slurm 22.05 set in these places on the testbed, as far as it matters.
IN_STEP = {
    "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "n1", "SLURM_JOB_NODELIST": "n[1-2]",
}  # fmt: skip
IN_BATCH_SCRIPT = {
    "SLURM_JOB_ID": "12", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
}  # fmt: skip
IN_SALLOC = {"SLURM_JOB_ID": "12", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "n1"}
# An salloc that puts its shell on the node (LaunchParameters=use_interactive_step), or srun --pty.
IN_INTERACTIVE_STEP = {**IN_STEP, "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}  # fmt: skip
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "n7", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "environ",
    [{}, IN_BATCH_SCRIPT, IN_SALLOC, IN_INTERACTIVE_STEP, {"RANK": "0", "WORLD_SIZE": "1"},
     {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}],
)  # fmt: skip
@pytest.mark.parametrize("job", ["train", "generate", "demo"])
def test_one_process_is_left_alone(environ: dict[str, str], job: str) -> None:
    told = dict(environ)
    assert join(job, [], told) is None and told == environ


@pytest.mark.parametrize(
    ("environ", "address", "local"),
    [
        (IN_STEP, "n1", "0"),
        ({**IN_STEP, "PMI_RANK": "1", "PMI_SIZE": "2"}, "n1", "0"),
        ({**IN_STEP, **OPEN_MPI}, "127.0.0.1", "1"),
        (OPEN_MPI, "127.0.0.1", "1"),
        (HYDRA, "127.0.0.1", "1"),
        (TORCHRUN, "n7", "1"),
    ],
)
def test_several_become_ranks_of_one_run(environ: dict[str, str], address: str, local: str) -> None:
    mine, other = dict(environ), dict(environ)
    for name in ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "RANK"):
        if name in other:
            other[name] = "0"
    assert join("train", [], mine) and join("train", [], other)
    assert (mine["RANK"], mine["WORLD_SIZE"], mine["LOCAL_RANK"]) == ("1", "2", local)
    assert (other["RANK"], other["WORLD_SIZE"]) == ("0", "2")
    assert mine["MASTER_ADDR"] == other["MASTER_ADDR"] == address
    assert mine["MASTER_PORT"] == other["MASTER_PORT"] and int(mine["MASTER_PORT"]) > 1024


def test_another_step_of_a_job_meets_at_another_port() -> None:
    one, two = launched(IN_STEP), launched({**IN_STEP, "SLURM_STEP_ID": "1"})
    assert one and two and one.port != two.port


@pytest.mark.parametrize("job", ["prepare", "cache", "generate", "grid", "demo", "methods"])
@pytest.mark.parametrize("environ", [IN_STEP, OPEN_MPI, TORCHRUN])
def test_other_jobs_refuse_to_be_copies(job: str, environ: dict[str, str]) -> None:
    with refuses(f"`birdsd run {job}` 2 ", kind=Unsupported):
        join(job, ["seed=1"], dict(environ))
    assert join(job, ["part=0/2"], dict(environ)) is None, "each has its own share"


def test_mpirun_on_several_machines_needs_a_place_to_meet() -> None:
    spread = {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
    with refuses("mpirun", "MASTER_ADDR", kind=NotSet):
        join("train", [], dict(spread))
    with refuses(
        "torchrun", "MASTER_PORT", kind=NotSet
    ):  # torchrun --master-port 0: each would wait for ever
        join("train", [], {**TORCHRUN, "MASTER_PORT": "0"})
    told = {**spread, "MASTER_ADDR": "n1", "MASTER_PORT": "29501"}
    assert join("train", [], told) and told["RANK"] == "1"


@pytest.mark.slow
def test_torchrun_trains_one_run_of_two_ranks(tmp_path: Path) -> None:
    """The real launcher, and what it starts: both end, and the run's record names two ranks."""
    shards = make_shards(tmp_path / "shards")
    drill = tmp_path / "drill.json"
    drill.write_text('{"step_s": 0.0}')
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    surroundings = {"PYTHONPATH": f"{INJECT}:{ROOT}", "BIRDSD_DRILL": str(drill), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, "-m", "birdsd.cli", "run", "train", *SETTINGS, f"data.shards={shards}",
         f"runs={tmp_path / 'runs'}"],
        env={**os.environ, **surroundings}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    run = RunStore(tmp_path / "runs").runs("train")[0]
    assert run.result is not None
    assert [a.began.world_size for a in allocations(run.folder) if a.began] == [2]
    assert done.stdout.count(": finished") == 1, "one run says one word"
