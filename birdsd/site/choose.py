"""Which site a job goes to, and whether what it is asked for can work there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from birdsd.config import own_config_folder, presets
from birdsd.errors import UserError, listed_names, unknown_name
from birdsd.schema import SiteConfig, SubmitConfig

HAND_OVERS = ("requeue", "chain", "resubmit", "manual")
GPU_SYNTAXES = ("gpus", "gres")
# Jobs of one process each, whose work an array of them shares out.
SHARED_JOBS = ("prepare", "cache", "generate", "bank", "scene", "methods", "four_ways")
_SECRET = re.compile(r"token|secret|passw|api_?key|credential", re.IGNORECASE)


def choose_site(settings: Sequence[str]) -> list[str]:
    """The settings with a site among them: the one named, else the only one of the user's own.

    Without any, a machine with Slurm asks for one, and any other takes `local`.
    """
    from birdsd.site import slurm

    if any(setting.split("=", 1)[0] == "site" for setting in settings):
        return list(settings)
    own = [p.name for p in presets().get("site", []) if own_config_folder() in p.path.parents]
    if len(own) == 1:
        return [f"site={own[0]}", *settings]
    if own or slurm.available():
        raise UserError(
            "no site was given",
            f"this machine has Slurm, and the sites are {listed_names(p.name for p in presets()['site'])}",
            "site=NAME; `birdsd site detect` writes one from what Slurm reports; site=local stays here",
        )
    return ["site=local", *settings]


def check_site(asked: SubmitConfig, job: str) -> None:
    """Refuse what cannot work before anything is queued."""
    site = asked.site
    if site.executor not in ("slurm", "local"):
        raise unknown_name("site.executor", site.executor, ("slurm", "local"))
    if site.hand_over not in HAND_OVERS:
        raise unknown_name("site.hand_over", site.hand_over, HAND_OVERS)
    if site.gpu_syntax not in GPU_SYNTAXES:
        raise unknown_name("site.gpu_syntax", site.gpu_syntax, GPU_SYNTAXES)
    _check_numbers(asked)
    _check_shape(asked, job)
    _check_secrets(site)


def _check_numbers(asked: SubmitConfig) -> None:
    site = asked.site
    for name, value, lowest in (
        ("nodes", asked.nodes, 1),
        ("tasks_per_node", asked.tasks_per_node, 0),
        ("array", asked.array, 0),
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
            raise UserError(f"{name} is {value}", f"it must be at least {lowest}")
    if site.max_nodes and asked.nodes > site.max_nodes:
        raise UserError(
            f"nodes is {asked.nodes}", f"{site.name} gives at most {site.max_nodes} to a job", "ask for fewer"
        )
    if site.signal_lead_s >= 60 * site.time_limit_min:
        raise UserError(
            f"site.signal_lead_s is {site.signal_lead_s}",
            f"the warning cannot come earlier than the job, whose limit is {site.time_limit_min} min",
            "lower it, or ask for more time",
        )


def _check_shape(asked: SubmitConfig, job: str) -> None:
    site = asked.site
    if site.executor == "local" and asked.nodes > 1:
        raise UserError(
            f"nodes is {asked.nodes} and the site {site.name} is this machine",
            "it is one node",
            "use tasks_per_node=N for several processes",
        )
    if job == "train":
        if asked.array:
            raise UserError(
                "array is set for train", "one run is one job; an array splits shards or clips",
                "use nodes=N for more GPUs",
            )  # fmt: skip
        return
    if job not in SHARED_JOBS:
        raise UserError(
            f"{job} cannot be submitted", f"train, {', '.join(SHARED_JOBS)} can", f"birdsd run {job} ..."
        )
    if asked.nodes > 1 or asked.tasks_per_node > 1:
        raise UserError(
            f"{job} runs as one process, not on {asked.nodes} nodes x {max(1, asked.tasks_per_node)} tasks",
            "to split the work, use a job array",
            "use array=N",
        )
    if site.executor == "local" and asked.array:
        raise UserError(
            "array is set and the site is this machine",
            "a job array is Slurm's",
            "leave it out: machine.processes=N uses N cores here",
        )
    asked.tasks_per_node = 1


def _check_secrets(site: SiteConfig) -> None:
    """What goes into a job's script can be read by others."""
    if wrong := [str(n) for n in site.environment if not re.fullmatch(r"[A-Za-z_]\w*", str(n))]:
        raise UserError(f"site.environment sets {wrong[0]!r}", "this is not a valid variable name")
    named = [str(name) for name in site.environment if _SECRET.search(str(name))]
    if named:
        raise UserError(
            f"site.environment sets {', '.join(named)}",
            "that looks like a secret, and a job's script and records can be read by others",
            "keep it in a file that only you can read, and `source` it in site.setup",
        )
    if site.proxy and "@" in site.proxy:
        raise UserError(
            "site.proxy holds a user name or password",
            "a job's script and records can be read by others",
            "keep it in a file that only you can read, and `source` it in site.setup",
        )


def tasks_per_node(asked: Mapping[str, Any]) -> int:
    """Processes a node: as asked, else one a GPU, else one."""
    return int(asked["tasks_per_node"]) or int(asked["site"]["gpus_per_node"]) or 1
