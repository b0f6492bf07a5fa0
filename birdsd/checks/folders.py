"""The doctor's checks of a run's folders: the runs folder, scratch, shards, models, leftovers."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from birdsd.checks.context import ERROR, DoctorContext, Findings, error, explained, ok, warning
from birdsd.checks.slurm import on_one_machine
from birdsd.checks.software import ask
from birdsd.errors import UserError
from birdsd.remarks import Remark
from birdsd.runs import allocations
from birdsd.runs.models import hub
from birdsd.site.filesystem import (
    IN_MEMORY,
    SHARED,
    amount,
    clock_ahead_s,
    existing,
    free_space,
    is_locked,
    mount_of,
    trial_folder,
    trouble_with_locks,
    trouble_with_renames,
)

_READ_CHECKPOINT = """
import json, pathlib, sys
from birdsd.training.checkpoints.tensorfile import TensorFile
folder = pathlib.Path(sys.argv[1])
for name, recorded in json.loads((folder / "COMMIT.json").read_text())["files"].items():
    if problem := TensorFile(folder / name).difference(recorded):
        sys.exit(problem)
"""
_READING_S = 3600
_CLOCK_S, _CLOCK_BAD_S = 2.0, 30.0  # heartbeats that seem older than a minute count as silence
_SHOWN = 3


# -- folders ------------------------------------------------------------------------------------------


def check_runs_folder(context: DoctorContext) -> Findings:
    """Compute nodes see the folder of runs, and checkpoints can be put in place there."""
    mount, place = mount_of(context.place), context.place
    elsewhere = context.is_slurm and not (context.facts is not None and on_one_machine(context.facts))
    what = f"{place} is on {mount.kind} ({mount.point})"
    if elsewhere and mount.kind not in SHARED and mount.kind != "unknown":
        local = "lives in this machine's memory" if mount.kind in IN_MEMORY else "looks local to this machine"
        yield warning(
            "runs folder", f"{what}, which {local}", "runs= a folder that compute nodes can see too"
        )
    elif mount.kind in IN_MEMORY:
        yield warning("runs folder", f"{what}: it is lost at the next reboot", "runs= a folder on a disk")
    else:
        yield ok("runs folder", what)
    try:
        with trial_folder(place) as folder:
            if problem := trouble_with_renames(folder):
                yield error("renames", f"in {place}: {problem}", "runs= a folder where files can be renamed")
            else:
                yield ok("renames", "a file is written, fsynced and renamed as a checkpoint needs it")
            if problem := trouble_with_locks(folder):
                yield warning(
                    "locks",
                    f"in {place}: {problem}",
                    "never start two jobs on the same run yourself: nothing would stop them",
                )
            else:
                yield ok("locks", "a second process on the same run is refused")
            yield from _clock(clock_ahead_s(folder))
    except OSError as problem:
        yield error(
            "runs folder", f"cannot write in {existing(place)}: {problem.strerror}", "runs= another folder"
        )


def _clock(ahead_s: float) -> Findings:
    if abs(ahead_s) <= _CLOCK_S:
        yield ok("clock", "the file server's is this machine's")
        return
    what = (
        f"the file server's is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    )
    say = error if abs(ahead_s) > _CLOCK_BAD_S else warning
    yield say(
        "clock", what, "tell the site (its clocks should be synchronised): ages of heartbeats will be wrong"
    )


def check_scratch(context: DoctorContext) -> Findings:
    """The node-local scratch exists and can be written."""
    if context.site is None or not context.site.scratch:
        return
    named = context.site.scratch
    folder = os.path.expandvars(named)
    if "$" in folder:
        if os.environ.get("SLURM_JOB_ID"):
            yield error("scratch", f"{named} is not set in this job", "site.scratch= a folder, or null")
        else:
            yield ok("scratch", f"{named} is set in jobs only: run this in a job to try it")
        return
    place = Path(folder)
    if not place.is_dir():
        say = warning if context.is_slurm and not os.environ.get("SLURM_JOB_ID") else error
        yield say(
            "scratch", f"{place} does not exist on this machine", "run this in a job, or site.scratch=null"
        )
        return
    try:
        with trial_folder(place):
            pass
    except OSError as problem:
        yield error("scratch", f"cannot write in {place}: {problem.strerror}", "site.scratch= another folder")
        return
    yield ok(
        "scratch", f"{place} can be written; {amount(free_space(place).bytes)} free ({mount_of(place).kind})"
    )


# -- what a run reads ---------------------------------------------------------------------------------


def check_shards(context: DoctorContext) -> Findings:
    """The shards can be read, and are those that the run started with."""
    settings, recorded = context.training, None
    folder = settings.data.shards if settings is not None else None
    if context.run is not None:
        with suppress(OSError, ValueError, KeyError):
            known = json.loads((context.run.folder / "shards.json").read_text(encoding="utf-8"))
            folder, recorded = folder or known["folder"], known["inventory"]
    if not folder:
        if settings is not None:
            yield error(
                "shards", "data.shards is not set", "data.shards= the folder that `birdsd run prepare` made"
            )
        return
    from birdsd.shards.checks import check_pictures, lacking
    from birdsd.shards.index import ShardIndex, listed

    try:
        index = ShardIndex.open(folder)
        if recorded is not None and (changes := index.changes_since(recorded)):
            yield error(
                "shards", f"{folder} has changed since the run started: {listed(changes)}",
                "restore the shards: a run continues only with the samples it started with",
            )  # fmt: skip
            return
        shards = [shard for split in index.splits for shard in index.shards(split)]
        for shard in shards if context.deep else shards[:_SHOWN]:
            index.table(shard)  # an index that does not fit its shard is refused here
        remarks = [*map(str, lacking(index)), *check_pictures(index)]
    except UserError as problem:
        yield explained(ERROR, "shards", problem)
        return
    for remark in remarks:
        yield warning("samples", remark, f"birdsd inspect {folder} --verify")
    what = f"{len(shards)} in {folder}: " + ", ".join(f"{index.count(s)} {s}" for s in index.splits)
    if "train" not in index.splits:
        yield error(
            "shards", f"{what}; none of them are for training", "prepare some, or name shards train-*.tar"
        )
        return
    besides = "" if index.is_own else "every sample can be read, and "
    if not context.deep:
        yield ok("shards", f"{what}; --deep verifies every checksum")
        return
    problems = list(index.verify())
    if problems:
        yield error("shards", f"{what}; {listed(problems)}", "restore these shards, or prepare them again")
    else:
        yield ok("shards", f"{what}; {besides}all checksums match")


def check_models(context: DoctorContext) -> Findings:
    """The base models are here, also for compute nodes without internet."""
    if context.training is None:
        return
    try:
        wanted = hub.needed(context.training, context.root)
    except UserError as problem:
        yield explained(ERROR, "models", problem)
        return
    offline = context.site.offline if context.site is not None else bool(os.environ.get("HF_HUB_OFFLINE"))
    for model in wanted:
        what = f"{model.setting}={model.name}"
        is_folder = Path(model.name).expanduser().is_dir()
        folder = Path(model.name) if is_folder else hub.snapshot(model.name)
        problems = hub.missing(folder, model.parts) if folder is not None else []
        if is_folder and problems:
            yield error(
                "models", f"{what}: {'; '.join(problems)}", "finish that run first, or name another folder"
            )
        elif folder is None or problems:
            why = "; ".join(problems) or f"not in {hub.cache_folder()}"
            say = error if offline else warning
            yield say(
                "models", f"{what}: {why}", f"`birdsd cache-models {model.name}` on a node with internet"
            )
        else:
            yield ok("models", what + ("" if is_folder else f" is complete in {hub.cache_folder()}"))
    if context.site is not None and context.site.offline:
        yield ok("offline", "jobs are told that there is no internet (HF_HUB_OFFLINE=1, trackers offline)")


# -- what a run has left ------------------------------------------------------------------------------


def check_checkpoints(context: DoctorContext) -> Findings:
    """The newest checkpoint is complete; damaged or partial ones are reported."""
    if context.run is None:
        return
    folder = context.run.folder / "checkpoints"
    bad = sorted(path.name for path in folder.glob("*.bad*"))
    if bad:
        yield warning(
            "checkpoints", f"set aside as damaged: {', '.join(bad[:_SHOWN])}",
            "check the disk; remove them once you have examined them",
        )  # fmt: skip
    names = [path for path in folder.glob("*") if path.name.isdigit()]
    if not names:
        yield ok("checkpoints", "none yet: the run starts from the beginning")
        return
    newest = max(names, key=lambda path: int(path.name))
    if problem := _damage(newest, context.deep):
        yield error(
            "checkpoints", Remark(f"{newest.name}: {problem}", problem.code, **problem.facts),
            "no action needed: the run sets it aside and resumes from the previous one, if there is one",
        )  # fmt: skip
    else:
        how = "its checksums hold" if context.deep else "all its files exist; --deep reads them"
        yield ok("checkpoints", f"the latest is at {newest.name} samples; {how}")


def _damage(folder: Path, deep: bool) -> Remark | None:
    """What is wrong with a committed checkpoint; None for nothing. Only `deep` reads the weights."""
    try:
        files: dict[str, Any] = json.loads((folder / "COMMIT.json").read_text(encoding="utf-8"))["files"]
        for name, recorded in sorted(files.items()):
            size = (folder / name).stat().st_size
            if size != recorded["size"]:
                return Remark(
                    f"{name} has {size} bytes instead of {recorded['size']}", "another-size", file=name
                )
    except OSError as problem:
        name = os.path.basename(str(problem.filename))
        return Remark(f"{name} cannot be read ({problem.strerror})", "unreadable", file=name)
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        return Remark(f"COMMIT.json is damaged ({problem})", "bad-commit", file="COMMIT.json")
    if not deep:
        return None
    # The code that restores a checkpoint also validates it, in a separate process as it imports torch.
    found = ask([sys.executable, "-c", _READ_CHECKPOINT, str(folder)], _READING_S)[1]
    return Remark(found, "other-bytes") if found else None


def check_leftovers(context: DoctorContext) -> Findings:
    """Leftovers of kills and requests in the run's folder."""
    if context.run is None:
        return
    folder = context.run.folder
    alive = [allocation.name for allocation in allocations.allocations(folder) if allocation.seems_alive]
    if alive:
        yield ok("at work", f"{', '.join(alive)} sent a heartbeat in the last minute")
    if stuck := sorted(folder.rglob("*.save_tmp")):
        yield warning(
            "leftovers", f"{_named(stuck, folder)}: submitit cannot requeue while it exists",
            f"remove {'it' if len(stuck) == 1 else 'them'}",
        )  # fmt: skip
    partial = sorted([*folder.rglob("*.partial"), *(folder / "checkpoints").glob("*.old")])
    if partial and not alive:
        yield ok("leftovers", f"{_named(partial, folder)}: the next allocation cleans up")
    if (stop := folder / allocations.STOP).is_file():
        who, since = "somebody", ""
        with suppress(OSError, ValueError, AttributeError):
            request = json.loads(stop.read_text(encoding="utf-8"))
            who = str(request.get("by") or who)
            since = time.strftime(" on %Y-%m-%d at %H:%M", time.localtime(float(request["time"])))
        yield warning("stop", f"{who} asked this run to stop{since}", "`birdsd resume RUN` revokes that")
    for lock in [folder / ".lock", *folder.glob("*/.lock")]:
        if is_locked(lock) and not alive:
            pid = lock.read_text(encoding="utf-8", errors="replace").strip() or "(unknown)"
            yield warning(
                "lock",
                f"process {pid} holds {lock.relative_to(folder)}",
                "wait for it, or stop it: a second process is refused",
            )


def _named(paths: list[Path], folder: Path) -> str:
    names = ", ".join(str(path.relative_to(folder)) for path in paths[:_SHOWN])
    return names + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")
