"""The faults: each is a function that disturbs a drill and lets it finish, in the order of the table."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsd.cluster.resume import resubmit
from birdsd.cluster.submit import _sbatch, active_jobs
from birdsd.runs.allocations import Submission, allocations
from birdsd.training.records import Ledger
from tests.faults.drill import EVERY, TOTAL, Drill, daemon, slurm

ONE_NODE = ("site=testbed", "nodes=1", "tasks_per_node=2")
LOCAL = ("site=local", "tasks_per_node=2")
SAVE_STAGES = ["begun", "file written", "state written", "commit written", "renamed", "pruning"]


@dataclass(frozen=True)
class Fault:
    """`alone`: it touches a node or a daemon, and nothing else may run beside it. `options`: of the Drill.

    `redone`: the most samples that may have to be done again."""

    name: str
    act: Callable[[Drill], None]
    options: dict[str, Any]
    alone: bool = False
    redone: int = EVERY
    quick: bool = False  # among those that `make test` runs
    broken: bool = False  # on shards with samples that cannot be decoded
    straight: tuple[str, ...] = ()  # further settings of the undisturbed run


FAULTS: list[Fault] = []


def fault(name: str, **told: Any) -> Callable[[Callable[[Drill], None]], Callable[[Drill], None]]:
    """Add a scenario to the table."""
    ours = {key: told.pop(key) for key in ("alone", "redone", "quick", "broken", "straight") if key in told}

    def add(act: Callable[[Drill], None]) -> Callable[[Drill], None]:
        FAULTS.append(Fault(name, act, told, **ours))
        return act

    return add


def begin_and_reach(drill: Drill, position: int = 220) -> None:
    drill.begin()
    drill.wait_position(position)


# -- processes killed -----------------------------------------------------------------------------------


@fault("SIGKILL of one rank", quick=True)
def one_rank(drill: Drill) -> None:
    begin_and_reach(drill)
    drill.kill({1})
    drill.finish()


@fault("SIGKILL of all ranks")
def all_ranks(drill: Drill) -> None:
    begin_and_reach(drill)
    drill.kill()
    drill.finish()


@fault("SIGKILL of the job step")
def job_step(drill: Drill) -> None:
    begin_and_reach(drill)
    slurm("scancel", "--signal=KILL", f"{drill.job}.0")
    drill.finish()


@fault("a rank that hangs (SIGSTOP)", settings=("machine.watchdog_s=8",))
def hung(drill: Drill) -> None:
    begin_and_reach(drill)
    drill.kill({1}, signal.SIGSTOP)
    drill.wait("the watchdog", lambda: len([a for a in allocations(drill.here.folder) if a.began]) > 1)
    stacks = [p for p in drill.here.folder.glob("allocations/*/*.stacks") if p.stat().st_size]
    assert any("all_reduce" in p.read_text() or "Thread" in p.read_text() for p in stacks), "no stack dump"
    drill.finish()


def handed_over(drill: Drill) -> int:
    return sum(event["event"] == "handed over" for event in drill.here.events())


@fault("20 random kills in a row", where=LOCAL, redone=40, settings=("save.every_samples=20",),
       drill={"step_s": 0.25})  # fmt: skip
def twenty(drill: Drill) -> None:
    """One rank, or all, at any moment: while starting, stepping or saving."""
    draw = random.Random(3)
    drill.begin()
    for number in range(20):
        drill.wait("the next allocation", lambda n=number: handed_over(drill) >= n and bool(drill.ranks()))
        # Every fourth may come while the ranks still start; the others a little after a new checkpoint.
        if number % 4 != 3:
            goal = min(TOTAL - 100, 22 * (number + 1)) + draw.randrange(10)
            drill.wait_position(goal)
            now = drill.position()
            drill.wait("a step", lambda n=now: drill.position() > n)
        time.sleep(draw.random() * 0.5)
        drill.kill({draw.randrange(2)} if draw.random() < 0.5 else None)
        drill.wait_gone()
    drill.finish(600)


# -- Slurm takes the nodes away --------------------------------------------------------------------------


@fault("scontrol requeue", quick=True)
def requeue(drill: Drill) -> None:
    begin_and_reach(drill)
    slurm("scontrol", "requeue", drill.job)
    drill.finish()


@fault("the user signal (SIGUSR2)", redone=0)
def user_signal(drill: Drill) -> None:
    """What a site sends before a preemption that has preempt_send_user_signal."""
    begin_and_reach(drill)
    slurm("scancel", "--signal=USR2", drill.job)
    drill.finish()
    assert len(allocations(drill.here.folder)) == 2


@fault("a node set down", alone=True)
def node_down(drill: Drill) -> None:
    begin_and_reach(drill)
    node = slurm("squeue", "-h", "-j", drill.job, "-O", "BatchHost").strip()
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=drill")
    try:
        drill.finish()
    finally:
        node_up(node)


@fault("slurmd killed, its ranks live on", alone=True, where=ONE_NODE, drill={"step_s": 1.5}, redone=EVERY)
def slurmd_killed(drill: Drill) -> None:
    """Slurm starts the job elsewhere while the old ranks still train: they must let go of the run."""
    begin_and_reach(drill, 120)
    node = slurm("squeue", "-h", "-j", drill.job, "-O", "BatchHost").strip()
    daemon("kill", node)
    try:
        drill.wait("the requeue", lambda: len(allocations(drill.here.folder)) > 1, 180)
        drill.finish(300)
        told = [event["event"] for event in drill.here.events()]
        drill.notes.append("the old ranks let go" if "superseded" in told else "the old ranks had ended")
    finally:
        daemon("start", node)
        node_up(node)


@fault("a node loses power", alone=True)
def powercut(drill: Drill) -> None:
    begin_and_reach(drill)
    node = slurm("squeue", "-h", "-j", drill.job, "-O", "BatchHost").strip()
    daemon("powercut", node)
    try:
        drill.finish(300)
    finally:
        daemon("start", node)
        node_up(node)


@fault("the time limit, with its warning", drill={"step_s": 1.2}, redone=0,
       where=(*ONE_NODE, "site.time_limit_min=1", "site.signal_lead_s=20"))  # fmt: skip
def time_limit(drill: Drill) -> None:
    drill.begin()
    drill.finish(400)
    assert len(allocations(drill.here.folder)) > 1
    assert any(e.get("signal") == "SIGUSR2" for e in drill.here.events()), "no warning came"


@fault("the time limit, without a warning",
       where=(*ONE_NODE, "site.time_limit_min=1", "site.signal_lead_s=1"), drill={"step_s": 1.5},
       redone=EVERY)  # fmt: skip
def time_limit_unwarned(drill: Drill) -> None:
    drill.begin()
    drill.finish(500)
    assert len(allocations(drill.here.folder)) > 1


@fault("preemption with grace", where=(*ONE_NODE, "site.partition=normal"), alone=True, redone=0, quick=True)
def preempted(drill: Drill) -> None:
    preempt(drill)
    assert any(e.get("signal") == "SIGTERM" for e in drill.here.events()), "no warning came"


@fault("preemption without grace", where=(*ONE_NODE, "site.partition=besteffort"), alone=True)
def preempted_unwarned(drill: Drill) -> None:
    preempt(drill)


def preempt(drill: Drill) -> None:
    """A job of higher priority takes the node for a moment."""
    begin_and_reach(drill)
    node = slurm("squeue", "-h", "-j", drill.job, "-O", "BatchHost").strip()
    where = ["-p", "urgent", "-w", node, "--exclusive"]
    number = slurm("sbatch", "--parsable", *where, "-o", "/dev/null", "--wrap", "sleep 3").strip()
    drill.wait("the preemption", lambda: len([a for a in allocations(drill.here.folder) if a.began]) > 1, 180)
    drill.notes.append(f"by job {number}")
    drill.finish()


@fault("requeue while a save is going on", drill={"slow_save_s": 1.5, "step_s": 0.3}, redone=2 * EVERY)
def requeue_in_save(drill: Drill) -> None:
    drill.begin()
    drill.wait_checkpoints(2)
    marks = drill.folder.glob("saving-*")
    for mark in marks:
        mark.unlink()
    drill.wait("a save", lambda: any(drill.folder.glob("saving-*")))
    slurm("scontrol", "requeue", drill.job)
    drill.finish()


@fault("slurmctld and slurmdbd restarted", alone=True, redone=0)
def controllers(drill: Drill) -> None:
    begin_and_reach(drill, 100)
    for name in ("slurmdbd", "slurmctld"):
        daemon("stop", name)
    drill.wait_position(200)
    for name in ("slurmdbd", "slurmctld"):
        daemon("start", name)
    drill.finish()
    assert len(allocations(drill.here.folder)) == 1


# -- saves ------------------------------------------------------------------------------------------------


@fault("killed at every stage of a save", where=LOCAL, drill={"kill_at": SAVE_STAGES, "step_s": 0.05},
       redone=2 * EVERY, settings=("save.keep=2",))  # fmt: skip
def save_stages(drill: Drill) -> None:
    drill.begin()
    drill.finish(400)
    assert len((drill.folder / "kills-done").read_text()) == len(SAVE_STAGES)


@fault("disk full during a save", where=LOCAL)
def disk_full(drill: Drill) -> None:
    """A file system of its own for the checkpoints, filled up and freed again."""
    run = drill.begin()
    place = run.folder / "checkpoints"
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    try:
        drill.wait_position(160)
        ballast = place / "ballast"
        with open(ballast, "wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(b"\0" * 4096)
            except OSError:
                pass
        drill.wait("the failed save", lambda: any(e["event"] == "save failed" for e in run.events()))
        ballast.unlink()
        drill.finish()
        kept = drill.folder / "checkpoints-kept"
        shutil.copytree(place, kept)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def damaged(damage: Callable[[Path], None]) -> Callable[[Drill], None]:
    def act(drill: Drill) -> None:
        begin_and_reach(drill)
        drill.wait_checkpoints(3)
        drill.kill()
        drill.wait_gone()
        newest = drill.newest_checkpoint()
        damage(newest)
        drill.finish()
        told = [e for e in drill.here.events() if e["event"] == "checkpoint set aside"]
        assert told and told[0]["checkpoint"] == newest.name, "the damage went unseen"

    return act


def flip(folder: Path) -> None:
    path = next(folder.glob("tensors-*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(folder: Path) -> None:
    path = next(folder.glob("tensors-*"))
    os.truncate(path, path.stat().st_size - 1)


def remove(folder: Path) -> None:
    next(folder.glob("tensors-*")).unlink()


for _name, _damage in (("a flipped byte", flip), ("a truncated file", truncate), ("a missing file", remove)):
    fault(f"{_name} in the newest checkpoint", redone=2 * EVERY)(damaged(_damage))


# -- data, clocks, people -----------------------------------------------------------------------------------


@fault("a shard changed between allocations", where=LOCAL)
def changed_shard(drill: Drill) -> None:
    """It refuses to go on, says which shard, and goes on once the shard is back."""
    own = drill.folder / "shards"
    shutil.copytree(drill.shards, own)
    drill.settings[:] = [f"data.shards={own}" if s.startswith("data.shards=") else s for s in drill.settings]
    begin_and_reach(drill)
    victim = own / "train-000001.tar"
    kept = victim.read_bytes()
    drill.kill()
    victim.write_bytes((own / "validation-000000.tar").read_bytes())
    drill.wait("the refusal", lambda: any(e["event"] == "chain stopped" for e in drill.here.events()))
    reason = next(e["reason"] for e in drill.here.events() if e["event"] == "chain stopped")
    assert "train-000001.tar" in reason, reason
    victim.write_bytes(kept)
    drill.wait("the supervisor's end", lambda: not active_jobs(drill.here))
    with drill.surroundings():
        resubmit(drill.here)
    drill.notes.append("refused, then resumed by hand")
    drill.finish()


@fault("a clock that jumps", drill={"clock_jumps": True})
def clock(drill: Drill) -> None:
    begin_and_reach(drill)
    drill.kill({0})
    drill.finish()


@fault("two jobs on one run folder", redone=0, where=ONE_NODE)
def two_jobs(drill: Drill) -> None:
    """`submit` would refuse the second: this one is sent behind its back."""
    begin_and_reach(drill, 100)
    submission = Submission.read(drill.here.folder)
    assert submission is not None
    second = _sbatch(drill.here, submission)[0]
    drill.wait("the refusal", lambda: slurm("sacct", "-nXP", "-j", second, "-o", "State").strip() == "FAILED")
    told = json.loads((drill.here.folder / "allocations" / f"{second}.0" / "end.json").read_text())
    assert told["reason"] == "refused" and drill.here.folder.name in told["message"], told
    drill.finish()


@fault("a corrupt shard", where=LOCAL, broken=True)
def corrupt_shard(drill: Drill) -> None:
    """A sample that cannot be decoded counts as seen with weight zero, before and after the kill alike."""
    begin_and_reach(drill)
    drill.kill()
    drill.finish()
    bad = Ledger(drill.here.folder).bad_samples()
    assert bad, "the damage went unseen"
    drill.notes.append(f"{len(bad)} samples at weight zero")


def node_up(node: str, timeout_s: float = 180.0) -> None:
    """Until Slurm gives out a node again."""
    subprocess.run(
        ["scontrol", "update", f"nodename={node}", "state=resume"], check=False, capture_output=True
    )
    deadline = time.monotonic() + timeout_s
    while "idle" not in (state := slurm("sinfo", "-h", "-n", node, "-o", "%T").lower()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"node {node} is {state}")
        time.sleep(0.5)
