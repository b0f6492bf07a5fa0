"""The site of a job, and whether it can provide what is requested."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from birdsd.config import job_name, own_config_folder, presets
from birdsd.errors import BadValue, Mismatch, NotSet, Unsupported, listed_names, unknown_name
from birdsd.schema import SiteConfig, SubmitConfig

HAND_OVERS = ("requeue", "chain", "resubmit", "manual")
GPU_SYNTAXES = ("gpus", "gres")
# Single-process jobs, whose work a job array can split.
SHARED_JOBS = (
    "prepare", "cache", "generate", "bank", "scene", "separate", "sim2real", "compare_methods",
    "finetune_vs_scratch",
)  # fmt: skip
_SECRET = re.compile(r"token|secret|passw|api_?key|credential", re.IGNORECASE)


def choose_site(settings: Sequence[str]) -> list[str]:
    """The settings with a site: the one named, else the user's own if there is only one.

    Without any, a machine with Slurm requires one, and any other uses `local`.
    """
    from birdsd.site import slurm

    if any(setting.split("=", 1)[0] == "site" for setting in settings):
        return list(settings)
    own = [p.name for p in presets().get("site", []) if own_config_folder() in p.path.parents]
    if len(own) == 1:
        return [f"site={own[0]}", *settings]
    if own or slurm.available():
        raise NotSet(
            "no site was given",
            f"this machine has Slurm, and the sites are {listed_names(p.name for p in presets()['site'])}",
            "site=NAME; `birdsd site detect` writes one from what Slurm reports; site=local stays here",
        )
    return ["site=local", *settings]


def check_site(requested: SubmitConfig, job: str) -> None:
    """Refuse requests that cannot work, before anything is queued."""
    site = requested.site
    if site.executor not in ("slurm", "local"):
        raise unknown_name("site.executor", site.executor, ("slurm", "local"))
    if site.hand_over not in HAND_OVERS:
        raise unknown_name("site.hand_over", site.hand_over, HAND_OVERS)
    if site.gpu_syntax not in GPU_SYNTAXES:
        raise unknown_name("site.gpu_syntax", site.gpu_syntax, GPU_SYNTAXES)
    _check_numbers(requested)
    _check_shape(requested, job)
    _check_secrets(site)


def _check_numbers(requested: SubmitConfig) -> None:
    site = requested.site
    for name, value, lowest in (
        ("nodes", requested.nodes, 1),
        ("tasks_per_node", requested.tasks_per_node, 0),
        ("array", requested.array, 0),
        ("site.gpus_per_node", site.gpus_per_node, 0),
        ("site.max_cpus", site.max_cpus, 0),
        ("site.cpu_time_limit_min", site.cpu_time_limit_min, 0),
        ("site.cpu_cpus_per_node", site.cpu_cpus_per_node, 0),
        ("site.cpus_per_task", site.cpus_per_task, 0),
        ("site.time_limit_min", site.time_limit_min, 1),
        ("site.signal_lead_s", site.signal_lead_s, 1),
        ("site.chain_length", site.chain_length, 1),
        ("site.max_idle_allocations", site.max_idle_allocations, 1),
    ):
        if value < lowest:
            raise BadValue(f"{name} is {value}", f"it must be at least {lowest}")
    if site.max_nodes and requested.nodes > site.max_nodes:
        raise BadValue(
            f"nodes is {requested.nodes}",
            f"{site.name} gives at most {site.max_nodes} to a job",
            "ask for fewer",
        )
    if site.signal_lead_s >= 60 * site.time_limit_min:
        raise BadValue(
            f"site.signal_lead_s is {site.signal_lead_s}",
            f"the warning cannot come earlier than the job, whose limit is {site.time_limit_min} min",
            "lower it, or ask for more time",
        )


def _check_shape(requested: SubmitConfig, job: str) -> None:
    site = requested.site
    if site.executor == "local" and requested.nodes > 1:
        raise Mismatch(
            f"nodes is {requested.nodes} and the site {site.name} is this machine",
            "it is one node",
            "use tasks_per_node=N for several processes",
        )
    if job == "train":
        if requested.array:
            raise Mismatch(
                "array is set for train", "one run is one job; an array splits shards or clips",
                "use nodes=N for more GPUs",
            )  # fmt: skip
        return
    if job_name(job) not in SHARED_JOBS:
        raise Unsupported(
            f"{job} cannot be submitted", f"train, {', '.join(SHARED_JOBS)} can", f"birdsd run {job} ..."
        )
    if requested.nodes > 1 or requested.tasks_per_node > 1:
        raise Unsupported(
            f"{job} runs as one process, not on {requested.nodes} nodes x "
            f"{max(1, requested.tasks_per_node)} tasks",
            "to split the work, use a job array",
            "use array=N",
        )
    if site.executor == "local" and requested.array:
        raise Mismatch(
            "array is set and the site is this machine",
            "a job array is Slurm's",
            "leave it out: machine.processes=N uses N cores here",
        )
    requested.tasks_per_node = 1


def _check_secrets(site: SiteConfig) -> None:
    """Refuse secrets: a job's script can be read by others."""
    if wrong := [str(n) for n in site.environment if not re.fullmatch(r"[A-Za-z_]\w*", str(n))]:
        raise BadValue(f"site.environment sets {wrong[0]!r}", "this is not a valid variable name")
    named = [str(name) for name in site.environment if _SECRET.search(str(name))]
    if named:
        raise BadValue(
            f"site.environment sets {', '.join(named)}",
            "that looks like a secret, and a job's script and records can be read by others",
            "keep it in a file that only you can read, and `source` it in site.setup",
        )
    if site.proxy and "@" in site.proxy:
        raise BadValue(
            "site.proxy holds a user name or password",
            "a job's script and records can be read by others",
            "keep it in a file that only you can read, and `source` it in site.setup",
        )


def tasks_per_node(requested: Mapping[str, Any]) -> int:
    """Processes per node: as requested, else one per GPU, else one."""
    return int(requested["tasks_per_node"]) or int(requested["site"]["gpus_per_node"]) or 1
