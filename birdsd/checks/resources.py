"""The doctor's checks of what jobs ask for: within every limit, of whole GPUs, and none that lies idle."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from birdsd.checks.case import Case, Finding, Findings, error, ok, warning
from birdsd.checks.slurm import AGAIN, job_and_tasks, on_one_machine
from birdsd.errors import UserError, listed_names
from birdsd.runs.resources import asked_in_all, needs_gpu, resources
from birdsd.schema import PrepareConfig
from birdsd.site.facts import closed, time_limits
from birdsd.site.filesystem import IN_MEMORY, SHARED, mount_of
from birdsd.site.gpus import has_whole, is_slice, kinds_of
from birdsd.site.limits import GPU, Limit, least, limits
from birdsd.site.partitions import gib

_KEYS = {"cpu": "site.cpus_per_task", "mem": "site.memory_gb_per_node", GPU: "site.gpus_per_node"}


def check_limits(case: Case) -> Findings:
    """No limit of partition, qos, user, account or group is below what a job asks for."""
    if case.facts is None or case.site is None or case.partition is None:
        return
    job, tasks = job_and_tasks(case, case.site)
    try:  # several slices of GPUs among them
        made = resources(case.site, case.nodes, tasks, job, case.settings)
    except UserError as problem:
        yield error("limits", f"{problem.what}: {problem.rule}", problem.way_out)
        return
    site = made.site
    where = {p["PartitionName"]: p for p in case.facts.partitions}
    partition = where.get(site.partition or "") if site.partition != case.site.partition else case.partition
    if partition is None:
        return  # `check_cpu_jobs` says so
    found = limits(case.facts, partition, case.account, site.qos, site.gpu_type or "")
    wanted = asked_in_all(site, case.nodes, tasks)
    exceeded = 0
    for what, count in wanted.items():
        limit = _tightest(found, what, case.nodes)
        if limit is not None and count > limit.most * (case.nodes if limit.per_node else 1):
            exceeded += 1
            yield _exceeds(limit, what, count // (case.nodes if limit.per_node else 1), case.nodes, tasks)
    if not exceeded:
        tight = sorted({limit.told for what in wanted if (limit := _tightest(found, what, case.nodes))})
        said = f"within every one of them ({listed_names(tight)})" if tight else "none is set"
        yield ok("limits", said)


def _tightest(found: list[Limit], what: str, nodes: int) -> Limit | None:
    """The limit that is reached first by a job on so many nodes."""
    held = [one for per_node in (True, False) if (one := least(found, what, per_node)) is not None]
    return min(held, key=lambda one: one.most * (nodes if one.per_node else 1), default=None)


def _exceeds(limit: Limit, what: str, count: int, nodes: int, tasks: int) -> Finding:
    amount: float = count
    most: float = limit.most
    unit = what
    if what == "mem":
        amount, most, unit = gib(count), gib(limit.most), "GiB of memory"
    where = " on a node" if limit.per_node else ""
    here = 1 if limit.per_node else nodes
    if what == "node":
        advice = "ask for fewer nodes"
    elif limit.most < here * (tasks if what != "mem" else 1):
        advice = "ask for fewer nodes" if nodes > 1 else f"{_KEYS[what]}={int(most)} or less"
    else:
        value = (
            most / here if what == "mem" else math.floor(limit.most / here / (tasks if what == "cpu" else 1))
        )
        advice = (
            f"{_KEYS[what]}={value:g}" + (", or ask for fewer nodes" if nodes > 1 else "") + f"; or {AGAIN}"
        )
    return error(
        "limits",
        f"{amount:g} {unit} are requested{where}, and {limit.who} is {most:g} ({limit.text})",
        advice,
    )


def check_gpu_type(case: Case) -> Findings:
    """Whole GPUs are asked for where there are any; slices of them (MIG) one at a time."""
    if case.facts is None or case.site is None or case.partition is None or not case.site.gpus_per_node:
        return
    title, wanted = case.partition["PartitionName"], case.site.gpu_type or ""
    kinds = kinds_of(case.facts.nodes_of(title))
    sliced = any(kind.is_slice for kind in kinds if kind.type.casefold() == wanted.casefold())
    if wanted and (sliced or is_slice(wanted)):
        if has_whole(case.facts.nodes_of(title)):
            whole = listed_names(kind.type or "(no type)" for kind in kinds if not kind.is_slice)
            yield warning(
                "gpus", f"{wanted} is a GPU slice (MIG), but {title} has whole GPUs: {whole}",
                f"site.gpu_type= one of them, or {AGAIN}",
            )  # fmt: skip
        else:
            yield ok("gpus", f"{wanted} is a slice of a GPU (MIG): {title} has nothing else")
    elif not wanted and any(kind.is_slice for kind in kinds) and has_whole(case.facts.nodes_of(title)):
        yield warning(
            "gpus",
            f"{title} has whole GPUs and slices (MIG), but the site names no type: a job may get either",
            f"site.gpu_type= one of {listed_names(kind.type for kind in kinds if kind.type)}",
        )  # fmt: skip
    elif not wanted and len(kinds) > 1:
        types = listed_names(kind.type or "(no type)" for kind in kinds)
        yield ok("gpus", f"{title} has several types ({types}), but the site names none: a job may get any")


def check_cpu_jobs(case: Case) -> Findings:
    """Jobs that need no GPU have a partition that takes them."""
    if case.facts is None or case.site is None or not case.site.gpus_per_node:
        return
    name = case.site.cpu_partition
    if name is None:
        title = case.partition["PartitionName"] if case.partition else "(the default)"
        yield ok(
            "cpu jobs", f"prepare requests no GPU and runs in {title}; site.cpu_partition= names another"
        )
        return
    others = [p["PartitionName"] for p in case.facts.partitions]
    found = next((p for p in case.facts.partitions if p["PartitionName"] == name), None)
    if found is None:
        yield error(
            "cpu jobs",
            f"there is no partition {name}",
            f"site.cpu_partition= one of {listed_names(others, name)}",
        )
    elif problem := closed(case.facts, found):
        yield error(
            "cpu jobs", f"{name}: {problem}", "site.cpu_partition=null keeps them in the site's partition"
        )
    else:
        minutes = min(case.site.time_limit_min, case.site.cpu_time_limit_min or case.site.time_limit_min)
        limit = next(iter(time_limits(case.facts, found, case.account, case.site.qos)), None)
        if limit is not None and minutes > limit[0]:
            yield error(
                "cpu jobs", f"{minutes} min are requested in {name}, and {limit[1]} is {limit[0]} min",
                f"site.cpu_time_limit_min={limit[0]}",
            )  # fmt: skip
            return
        yield ok("cpu jobs", f"prepare requests no GPU and runs in {name}")


def check_gpus_in_use(case: Case) -> Findings:
    """The settings use the GPUs that the site has."""
    if case.site is None or not case.site.gpus_per_node or case.settings is None:
        return
    if getattr(case.settings, "machine", None) is None or isinstance(case.settings, PrepareConfig):
        return
    if not needs_gpu("train", case.settings):
        yield warning(
            "gpus", f"machine.device=cpu: the GPUs of site {case.site.name} are not requested",
            "machine=auto uses them; fine for a trial without GPUs",
        )  # fmt: skip


def check_environment(case: Case) -> Findings:
    """The Python of a job, and the environment that reaches it, are there on compute nodes."""
    if not case.is_slurm:
        return
    exported = os.environ.get("SBATCH_EXPORT") or os.environ.get("SLURM_EXPORT_ENV")
    if exported and exported.upper() != "ALL":
        yield ok("environment", f"SBATCH_EXPORT={exported}: ranks get that of the job script anyway")
    if case.facts is not None and on_one_machine(case.facts):
        return
    if os.environ.get("SLURM_JOB_ID"):
        yield ok("environment", f"this is a job, and {sys.prefix} is seen in it")
        return
    named = case.site.python if case.site else None
    place = Path(named) if named and "/" in named else Path(sys.prefix)
    mount = mount_of(place)
    kind = "conda environment" if (Path(sys.prefix) / "conda-meta").is_dir() else "Python"
    if mount.kind in SHARED:
        yield ok("environment", f"the {kind} in {place} is on {mount.kind} ({mount.point})")
    elif mount.kind in IN_MEMORY or mount.point not in ("/", "/usr"):
        yield warning(
            "environment", f"the {kind} in {place} is on {mount.kind} ({mount.point}), which looks local to "
            "this machine: compute nodes may not see it",
            "install birdsd in a shared folder, or site.python= the interpreter of the compute nodes",
        )  # fmt: skip
    else:
        yield ok(
            "environment", f"the {kind} in {place}; `srun ls {place}` shows whether compute nodes have it"
        )
