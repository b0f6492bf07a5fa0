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


# Given as they are, where the site names them.
_NAMED = ("partition", "account", "qos", "constraint")


def submitit_parameters(
    site: Mapping[str, Any], nodes: int, tasks_per_node: int, folder: str
) -> dict[str, Any]:
    """What a job of this site that begins in `folder` requests, as submitit's AutoExecutor takes it."""
    # After a node failure the job must be requeued wherever the site allows it.
    requeue = "requeue" if site["hand_over"] == "requeue" else "no-requeue"
    gpus = gpu_options(site, tasks_per_node)
    parameters: dict[str, Any] = {
        "nodes": nodes,
        "tasks_per_node": tasks_per_node,
        "timeout_min": int(site["time_limit_min"]),
        **{f"slurm_{name}": str(site[name]) for name in _NAMED if site[name]},
        "slurm_signal_delay_s": int(site["signal_lead_s"]),
        "slurm_srun_args": _srun_arguments(site),
        "slurm_additional_parameters": {
            "chdir": folder, **gpus, requeue: True, "export": "ALL", **extra_options(site),
        },
    }  # fmt: skip
    if site["cpus_per_task"]:
        parameters["cpus_per_task"] = int(site["cpus_per_task"])
    if site["memory_gb_per_node"]:
        parameters["mem_gb"] = float(site["memory_gb_per_node"])
    return parameters


def sbatch_arguments(site: Mapping[str, Any], nodes: int, tasks_per_node: int) -> list[str]:
    """The command-line options of sbatch for a job of this site, as `sbatch --test-only` takes them."""
    options: dict[str, Any] = {
        "nodes": nodes,
        "time": site["time_limit_min"],
        "ntasks-per-node": tasks_per_node,
        **{name: site[name] for name in _NAMED if site[name]},
        **gpu_options(site, tasks_per_node),
    }
    if site["cpus_per_task"]:
        options["cpus-per-task"] = site["cpus_per_task"]
    if site["memory_gb_per_node"]:
        options["mem"] = f"{round(site['memory_gb_per_node'] * 1024)}M"
    options.update(extra_options(site))
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in options.items()]


def _srun_arguments(site: Mapping[str, Any]) -> list[str]:
    # One dead rank must not leave the others waiting for it; and ranks get the script's environment, even
    # where SBATCH_EXPORT or SLURM_EXPORT_ENV says NONE.
    arguments = ["--kill-on-bad-exit=1", "--export=ALL"]
    if site["cpus_per_task"]:
        arguments.append(f"--cpus-per-task={int(site['cpus_per_task'])}")  # not inherited since 22.05
    return [*arguments, *map(str, site["srun"])]
