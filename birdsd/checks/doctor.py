"""`birdsd doctor`: what could go wrong, before it costs a night in the queue.

Each check is a small function from a `DoctorContext` to findings. The context holds what was named (site,
settings, run); a check says nothing about what was not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from birdsd.checks import caller, folders, resources, saving, slurm, software
from birdsd.checks.context import ERROR, OK, WARNING, DoctorContext, Finding, Findings, explained, warning
from birdsd.errors import UserError
from birdsd.runs.run import Run
from birdsd.schema import SiteConfig

# In the order in which they are printed: the machine, the cluster, the folders, the run.
CHECKS: tuple[Callable[[DoctorContext], Findings], ...] = (
    software.check_python,
    software.check_snapshot,
    software.check_torch,
    software.check_deepspeed,
    software.check_eightbit,
    software.check_judge,
    software.check_notebook,
    caller.check_caller,
    slurm.check_controller,
    slurm.check_accounting,
    slurm.check_partition,
    slurm.check_account,
    slurm.check_time_limit,
    slurm.check_nodes,
    resources.check_limits,
    resources.check_gpu_type,
    resources.check_gpus_in_use,
    resources.check_cpu_jobs,
    resources.check_environment,
    slurm.check_trial,
    slurm.check_hand_over,
    slurm.check_preemption,
    saving.check_lead,
    saving.check_interval,
    folders.check_runs_folder,
    saving.check_space,
    folders.check_scratch,
    folders.check_shards,
    folders.check_models,
    folders.check_checkpoints,
    folders.check_leftovers,
)
_MARKS = {OK: "ok", WARNING: "WARNING", ERROR: "ERROR"}


def diagnose(
    site: SiteConfig | None = None,
    settings: Any = None,
    run: Run | None = None,
    runs_root: Path = Path("runs"),
    deep: bool = False,
    nodes: int = 1,
    tasks_per_node: int = 0,
) -> list[Finding]:
    """Run all checks on what is given; never raises `UserError`.

    `deep` also reads every shard and the newest checkpoint, and asks PyTorch (in a separate process).
    """
    context = DoctorContext(site, settings, run, Path(runs_root), deep, nodes, tasks_per_node)
    findings: list[Finding] = []
    for check in CHECKS:
        topic = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            findings.extend(check(context))
        except UserError as problem:
            findings.append(explained(WARNING, topic, problem))
        except OSError as problem:
            what = f"could not be checked: {problem.filename or ''} {problem.strerror or problem}"
            findings.append(warning(topic, " ".join(what.split()), "check that the file system is healthy"))
    return findings


def text(findings: Iterable[Finding]) -> str:
    """The findings as a table of one line each, and a line with their counts."""
    findings = list(findings)
    width = max((len(finding.topic) for finding in findings), default=0)
    lines = []
    for entry in findings:
        advice = f" -> {_line(entry.what_to_do)}" if entry.what_to_do and entry.level != OK else ""
        lines.append(f"{_MARKS[entry.level]:<7}  {entry.topic:<{width}}  {_line(entry.what)}{advice}")
    count = Counter(entry.level for entry in findings)
    parts = [f"{count[OK]} ok"]
    for level, name in ((WARNING, "warning"), (ERROR, "error")):
        parts.append(f"{count[level]} {name}{'s' * (count[level] != 1)}")
    return "\n".join([*lines, ", ".join(parts)])


def exit_status(findings: Iterable[Finding]) -> int:
    """1 where anything is an error, else 0."""
    return int(any(finding.level == ERROR for finding in findings))


def _line(message: str) -> str:
    return " ".join(message.split())
