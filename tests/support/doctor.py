"""Sites, and contexts of the doctor with given facts of Slurm."""

from __future__ import annotations

from typing import Any

from birdsd.checks.context import DoctorContext, Finding
from birdsd.schema import SiteConfig

TESTBED = SiteConfig(name="testbed", partition="normal", gpus_per_node=2, gpu_syntax="gres", cpus_per_task=1)
ALMA = SiteConfig(
    name="alma", partition="gpu", account="ornis", qos="normal", gpus_per_node=4, gpu_syntax="gres",
    gpu_type="a100", cpus_per_task=32, memory_gb_per_node=480, time_limit_min=2160,
)  # fmt: skip


def case(site: SiteConfig, facts: Any, **given: Any) -> DoctorContext:
    """A context with these facts of Slurm."""
    return DoctorContext(site, known_facts=facts, **given)


def levels(findings: Any) -> dict[str, str]:
    """The worst level of each topic."""
    order = {"ok": 0, "warning": 1, "error": 2}
    worst: dict[str, str] = {}
    for one in findings:
        assert isinstance(one, Finding) and one.what
        assert one.level == "ok" or one.what_to_do, f"{one.what}: what is to be done?"
        worst[one.topic] = max(worst.get(one.topic, "ok"), one.level, key=lambda level: order[level])
    return worst


def only(findings: Any, level: str, *words: str) -> Finding:
    """The one finding of this level; it says these words."""
    (found,) = [one for one in findings if one.level == level]
    for word in words:
        assert word in f"{found.what} -> {found.what_to_do}"
    return found
