"""The doctor's checks of what jobs request: within all limits, whole GPUs, and no idle ones."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from birdsd.checks.context import DoctorContext, Finding, Findings, error, ok, warning
from birdsd.checks.slurm import AGAIN, job_and_tasks, on_one_machine
from birdsd.errors import UserError, listed_names
from birdsd.runs.resources import needs_gpu, resources, total_request
from birdsd.schema import PrepareConfig
from birdsd.site.facts import closed, time_limits
from birdsd.site.filesystem import IN_MEMORY, SHARED, mount_of
from birdsd.site.gpus import has_whole, is_slice, kinds_of
from birdsd.site.limits import GPU, Limit, least, limits
from birdsd.site.partitions import gib

_KEYS = {"cpu": "site.cpus_per_task", "mem": "site.memory_gb_per_node", GPU: "site.gpus_per_node"}


def check_limits(context: DoctorContext) -> Findings:
    """A job's request is within the limits of partition, qos, user, account and group."""
    if (on_slurm := context.on_slurm) is None:
        return
    facts, usual, partition = on_slurm
    nodes = context.nodes
    job, tasks = job_and_tasks(context, usual)
    try:  # several slices of GPUs among them
        site = resources(usual, nodes, tasks, job, context.settings).site
    except UserError as problem:
        yield error("limits", f"{problem.problem}: {problem.expected}", problem.hint)
        return
    if site.partition != usual.partition:
        others = [p for p in facts.partitions if p["PartitionName"] == site.partition]
        if not others:
            return  # `check_cpu_jobs` reports that
        partition = dict(others[0])
    bounds = limits(facts, partition, context.account, site.qos, site.gpu_type or "")
    wanted = total_request(site, nodes, tasks)
    exceeded = 0
    for what, count in wanted.items():
        limit = _tightest(bounds, what, nodes)
        share = nodes if limit is not None and limit.per_node else 1
        if limit is not None and count > limit.most * share:
            exceeded += 1
            yield _exceeds(limit, what, count // share, nodes, tasks)
    if not exceeded:
        tight = sorted({limit.described for what in wanted if (limit := _tightest(bounds, what, nodes))})
        message = f"within every one of them ({listed_names(tight)})" if tight else "none is set"
        yield ok("limits", message)


def _tightest(bounds: list[Limit], what: str, nodes: int) -> Limit | None:
    """The limit that is reached first by a job on so many nodes."""
    tightest = [limit for per_node in (True, False) if (limit := least(bounds, what, per_node)) is not None]
    return min(tightest, key=lambda limit: limit.most * (nodes if limit.per_node else 1), default=None)


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
        f"{amount:g} {unit} are requested{where}, and {limit.source} is {most:g} ({limit.text})",
        advice,
    )


def check_gpu_type(context: DoctorContext) -> Findings:
    """Whole GPUs are requested where there are any; slices (MIG) one at a time."""
    if (on_slurm := context.on_slurm) is None or not on_slurm[1].gpus_per_node:
        return
    facts, site, partition = on_slurm
    title, wanted = partition["PartitionName"], site.gpu_type or ""
    kinds, whole_here = kinds_of(facts.nodes_of(title)), has_whole(facts.nodes_of(title))
    sliced = any(kind.is_slice for kind in kinds if kind.type.casefold() == wanted.casefold())
    if wanted and (sliced or is_slice(wanted)):
        if whole_here:
            whole = listed_names(kind.type or "(no type)" for kind in kinds if not kind.is_slice)
            yield warning(
                "gpus", f"{wanted} is a GPU slice (MIG), but {title} has whole GPUs: {whole}",
                f"site.gpu_type= one of them, or {AGAIN}",
            )  # fmt: skip
        else:
            yield ok("gpus", f"{wanted} is a slice of a GPU (MIG): {title} has nothing else")
    elif not wanted and any(kind.is_slice for kind in kinds) and whole_here:
        yield warning(
            "gpus",
            f"{title} has whole GPUs and slices (MIG), but the site names no type: a job may get either",
            f"site.gpu_type= one of {listed_names(kind.type for kind in kinds if kind.type)}",
        )  # fmt: skip
    elif not wanted and len(kinds) > 1:
        types = listed_names(kind.type or "(no type)" for kind in kinds)
        yield ok("gpus", f"{title} has several types ({types}), but the site names none: a job may get any")


def check_cpu_jobs(context: DoctorContext) -> Findings:
    """Jobs without GPUs have a partition that accepts them."""
    facts, site = context.facts, context.site
    if facts is None or site is None or not site.gpus_per_node:
        return
    name = site.cpu_partition
    if name is None:
        title = context.partition["PartitionName"] if context.partition else "(the default)"
        yield ok(
            "cpu jobs", f"prepare requests no GPU and runs in {title}; site.cpu_partition= names another"
        )
        return
    others = [p["PartitionName"] for p in facts.partitions]
    record = next((p for p in facts.partitions if p["PartitionName"] == name), None)
    if record is None:
        yield error(
            "cpu jobs",
            f"there is no partition {name}",
            f"site.cpu_partition= one of {listed_names(others, name)}",
        )
    elif problem := closed(facts, record):
        yield error(
            "cpu jobs", f"{name}: {problem}", "site.cpu_partition=null keeps them in the site's partition"
        )
    else:
        minutes = min(site.time_limit_min, site.cpu_time_limit_min or site.time_limit_min)
        limit = next(iter(time_limits(facts, record, context.account, site.qos)), None)
        if limit is not None and minutes > limit[0]:
            yield error(
                "cpu jobs", f"{minutes} min are requested in {name}, and {limit[1]} is {limit[0]} min",
                f"site.cpu_time_limit_min={limit[0]}",
            )  # fmt: skip
            return
        yield ok("cpu jobs", f"prepare requests no GPU and runs in {name}")


def check_gpus_in_use(context: DoctorContext) -> Findings:
    """The settings use the GPUs that the site has."""
    if context.site is None or not context.site.gpus_per_node or context.settings is None:
        return
    if getattr(context.settings, "machine", None) is None or isinstance(context.settings, PrepareConfig):
        return
    if not needs_gpu("train", context.settings):
        yield warning(
            "gpus", f"machine.device=cpu: the GPUs of site {context.site.name} are not requested",
            "machine=auto uses them; fine for a trial without GPUs",
        )  # fmt: skip


def check_environment(context: DoctorContext) -> Findings:
    """A job's Python and environment are available on compute nodes."""
    if not context.is_slurm:
        return
    exported = os.environ.get("SBATCH_EXPORT") or os.environ.get("SLURM_EXPORT_ENV")
    if exported and exported.upper() != "ALL":
        yield ok("environment", f"SBATCH_EXPORT={exported}: ranks get that of the job script anyway")
    if context.facts is not None and on_one_machine(context.facts):
        return
    if os.environ.get("SLURM_JOB_ID"):
        yield ok("environment", f"this is a job, and {sys.prefix} is seen in it")
        return
    named = context.site.python if context.site else None
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
