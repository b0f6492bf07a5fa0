"""What a job requests from Slurm, as options of sbatch: written once, for `birdsd submit` and the doctor.

`site` holds the values of a SiteConfig by name, as a stored submission has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The warning must come this many times earlier than leaving takes.
LEAD_FACTOR = 1.5


def recommended_lead_s(leaving_s: float) -> int:
    """Seconds before the time limit at which a run should be warned that needs `leaving_s` to leave."""
    return int(2 * leaving_s) + 30


def gpu_options(site: Mapping[str, Any], tasks_per_node: int) -> dict[str, str]:
    """The option for the GPUs of a node: one per task, but no more than there are."""
    gpus = min(int(site["gpus_per_node"]), tasks_per_node)
    if not gpus:
        return {}
    count = f"{site['gpu_type']}:{gpus}" if site["gpu_type"] else str(gpus)
    return {"gres": f"gpu:{count}"} if site["gpu_syntax"] == "gres" else {"gpus-per-node": count}


def extra_options(site: Mapping[str, Any]) -> dict[str, Any]:
    """A site's further options of sbatch: True stands alone, False and null are left out, and a list is
    joined by commas."""
    return {
        str(key): ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        for key, value in site["sbatch"].items()
        if value is not None and value is not False
    }


def sbatch_arguments(site: Mapping[str, Any], nodes: int, tasks_per_node: int) -> list[str]:
    """The command-line options of sbatch for a job of this site, as `sbatch --test-only` takes them."""
    options: dict[str, Any] = {
        "nodes": nodes,
        "time": site["time_limit_min"],
        "ntasks-per-node": tasks_per_node,
        **{name: site[name] for name in ("partition", "account", "qos", "constraint") if site[name]},
        **gpu_options(site, tasks_per_node),
    }
    if site["cpus_per_task"]:
        options["cpus-per-task"] = site["cpus_per_task"]
    if site["memory_gb_per_node"]:
        options["mem"] = f"{round(site['memory_gb_per_node'] * 1024)}M"
    options.update(extra_options(site))
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in options.items()]
