"""What one job requests from a site: GPUs only where it uses them, CPUs and memory in proportion to them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from birdsd import config
from birdsd.errors import Mismatch, Unsupported, UserError
from birdsd.remarks import Remark
from birdsd.runs.auto import AUTO
from birdsd.schema import SiteConfig
from birdsd.site.gpus import is_slice

if TYPE_CHECKING:
    from birdsd.runs.allocations import Submission
    from birdsd.runs.run import Run

# These jobs need no GPU, whatever the machine: reading recordings is signal processing.
CPU_JOBS = ("prepare", "separate")
# Options of sbatch that request GPUs, or something per GPU.
_OF_GPUS = {
    "gres", "gpus", "gpus_per_node", "gpus_per_task", "gpus_per_socket", "cpus_per_gpu", "mem_per_gpu",
    "gpu_bind", "gpu_freq", "tres_per_task",
}  # fmt: skip


@dataclass(frozen=True)
class Resources:
    """The site with this job's requests, and remarks for the user, a line each."""

    site: SiteConfig
    remarks: tuple[str, ...]


def needs_gpu(job: str, settled: Any) -> bool:
    """Whether a job with these settings uses a GPU if there is one."""
    machine = getattr(settled, "machine", None)
    return job not in CPU_JOBS and getattr(machine, "device", "auto") != "cpu"


def uses_gpus(run: Run) -> bool:
    """Whether a run's job, as it was last opened, uses the GPUs that may be there."""
    with suppress(UserError, KeyError, TypeError):
        return run.job not in CPU_JOBS and run.config["machine"]["device"] != "cpu"
    return True


def resources(site: SiteConfig, nodes: int, tasks_per_node: int, job: str, settled: Any) -> Resources:
    """The resources that a job requests on so many nodes and tasks per node (0: one per GPU of the site).

    Raises `UserError` where the site's limits leave less than one CPU per task, and for several GPU slices.
    """
    if site.executor != "slurm":
        return Resources(site, ())
    tasks = tasks_per_node or site.gpus_per_node or 1
    share = min(1.0, tasks / site.gpus_per_node) if site.gpus_per_node else 1.0
    requested = replace(site, memory_gb_per_node=site.memory_gb_per_node * share)
    # The CPUs of a task are those of a GPU: more tasks than GPUs share what a node has.
    node_cpus = site.cpus_per_task * max(1, site.gpus_per_node)
    requested.cpus_per_task = max(1, min(site.cpus_per_task, node_cpus // tasks))
    remarks = []
    if needs_gpu(job, settled):
        requested.gpus_per_node = min(site.gpus_per_node, tasks)
        if is_slice(site.gpu_type or "") and nodes * requested.gpus_per_node > 1:
            raise Unsupported(
                f"{nodes * requested.gpus_per_node} GPUs of type {site.gpu_type} in one job",
                "these are slices of GPUs (MIG), which cannot train together",
                "nodes=1 tasks_per_node=1, or site.gpu_type= whole GPUs",
            )
        remarks += _of_auto(site, requested, settled)
    else:
        requested = _without_gpus(requested, tasks)
        if site.gpus_per_node or site.gpu_type:
            why = f"{job} uses none" if job in CPU_JOBS else "machine.device=cpu"
            remarks.append(f"no GPU is requested ({why}): partition {requested.partition or '(the default)'}")
    _within_limits(requested, nodes, tasks, remarks)
    if requested.memory_gb_per_node > 1:
        requested.memory_gb_per_node = float(int(requested.memory_gb_per_node))
    return Resources(requested, tuple(remarks))


@lru_cache(maxsize=8)
def settings_of(job: str, settings: tuple[str, ...]) -> Any:
    """The resolved configuration of a job, read-only and cached: composing takes a tenth of a second, and
    a submission needs it several times."""
    return config.compose(job, settings)


def site_for(submission: Submission) -> dict[str, Any]:
    """A submission's site with its job's requests, as plain values."""
    site = SiteConfig(**submission.site)
    settled = settings_of(submission.job, tuple(submission.settings))
    nodes, tasks = int(submission.submit["nodes"]), int(submission.submit["tasks_per_node"])
    return asdict(resources(site, nodes, tasks, submission.job, settled).site)


def _of_auto(site: SiteConfig, requested: SiteConfig, settled: Any) -> list[str]:
    """With machine=auto: the choice for the site's nodes, whatever this machine (perhaps a login node)
    has."""
    machine = getattr(settled, "machine", None)
    if getattr(machine, "name", "") != AUTO or getattr(machine, "device", "") != AUTO:
        return []
    if not requested.gpus_per_node:
        return [f"machine=auto: CPUs, as site {site.name} has no GPUs"]
    kind = f"{site.gpu_type} " if site.gpu_type else ""
    count = f"{requested.gpus_per_node} {kind}GPU{'s' * (requested.gpus_per_node > 1)} per node"
    return [f"machine=auto: the GPUs of site {site.name}, {count}"]


def _without_gpus(site: SiteConfig, tasks: int) -> SiteConfig:
    """The site for a job without GPUs: none requested, in the partition for such jobs."""
    kept = {key: value for key, value in site.sbatch.items() if str(key).replace("-", "_") not in _OF_GPUS}
    site = replace(site, gpus_per_node=0, gpu_type=None, sbatch=kept)
    if not site.cpu_partition or site.cpu_partition == site.partition:
        return site
    # A constraint names features of the other partition's nodes.
    site = replace(site, partition=site.cpu_partition, constraint=None)
    if site.cpu_time_limit_min:
        site.time_limit_min = min(site.time_limit_min, site.cpu_time_limit_min)
        site.signal_lead_s = min(site.signal_lead_s, max(1, 15 * site.time_limit_min))
    if site.cpu_cpus_per_node:
        site.cpus_per_task = min(site.cpus_per_task, max(1, site.cpu_cpus_per_node // tasks))
    if site.cpu_memory_gb_per_node:
        site.memory_gb_per_node = min(site.memory_gb_per_node, site.cpu_memory_gb_per_node)
    return site


def _within_limits(site: SiteConfig, nodes: int, tasks: int, remarks: list[str]) -> None:
    """Divide what the site allows one job among its nodes and tasks."""
    ranks = nodes * tasks
    if site.max_cpus and site.max_cpus < ranks:
        raise Mismatch(
            f"{nodes} nodes x {tasks} tasks need {ranks} CPUs",
            f"site {site.name} gives {site.max_cpus} to a job (site.max_cpus)",
            "ask for fewer nodes or tasks_per_node",
        )
    if site.max_cpus and site.cpus_per_task * ranks > site.max_cpus:
        fewer = site.max_cpus // ranks
        text = f"{fewer} CPUs per task instead of {site.cpus_per_task}: site.max_cpus={site.max_cpus}"
        remarks.append(Remark(text, "fewer-cpus", cpus_per_task=fewer, asked=site.cpus_per_task))
        site.cpus_per_task = fewer
    if site.max_memory_gb and site.memory_gb_per_node * nodes > site.max_memory_gb:
        less = site.max_memory_gb / nodes
        remarks.append(
            f"{less:g} GB per node instead of {site.memory_gb_per_node:g}: "
            f"site.max_memory_gb={site.max_memory_gb:g}"
        )
        site.memory_gb_per_node = less


def total_request(site: SiteConfig, nodes: int, tasks_per_node: int) -> Mapping[str, int]:
    """The total that a job of this site requests over all nodes: node, cpu, mem (MiB) and gres/gpu."""
    tasks = tasks_per_node or site.gpus_per_node or 1
    return {
        "node": nodes,
        "cpu": nodes * tasks * site.cpus_per_task,
        "mem": round(nodes * site.memory_gb_per_node * 1024),
        "gres/gpu": nodes * min(site.gpus_per_node, tasks),
    }
