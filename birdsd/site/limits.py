"""The limits on one job: of partition, qos, user and account, each with its source."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from birdsd.site.facts import number, parents

if TYPE_CHECKING:
    from birdsd.site.facts import Facts

GPU = "gres/gpu"
_UNITS_MIB = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2, "P": 1024**3}
# By what they bound: one node of a job, or the whole job. Those of a user or a group bound all its jobs
# together, so no job may be larger.
_OF_QOS = (
    ("MaxTRESPerNode", True), ("MaxTRES", False), ("MaxTRESPerUser", False), ("MaxTRESPerAccount", False),
    ("GrpTRES", False),
)  # fmt: skip
_OF_ASSOCIATION = (("MaxTRESPerNode", True), ("MaxTRES", False), ("GrpTRES", False))


@dataclass(frozen=True)
class Limit:
    """The most of `what` (cpu, node, mem in MiB, gres/gpu) that a job may have, or one node of it; `source`
    set it, e.g. "qos student MaxTRESPerUser"; `text` is its value as written there."""

    what: str
    most: int
    source: str
    text: str
    per_node: bool = False

    @property
    def described(self) -> str:
        """One line."""
        return f"{self.source}: {self.text}"


def tres(text: str) -> dict[str, int]:
    """cpu=16,mem=4G,gres/gpu:a100=8 -> {"cpu": 16, "mem": 4096, "gres/gpu:a100": 8}, memory in MiB.

    What is unset (-1) or no number is left out.
    """
    counts = {}
    for item in text.split(","):
        key, _, value = item.strip().partition("=")
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)B?", value.strip(), re.IGNORECASE)
        if match and key == "mem":
            counts[key] = int(float(match[1]) * _UNITS_MIB[match[2].upper()])
        elif match and match[1].isdigit() and not match[2]:
            counts[key] = int(match[1])
    return counts


def limits(
    facts: Facts, partition: Mapping[str, str], account: str | None, qos: str | None, gpu_type: str = ""
) -> list[Limit]:
    """All limits on one job of the user. GPUs of another type than `gpu_type` are left out."""
    bounds = list(_of_partition(facts, partition))
    for name in dict.fromkeys((qos, partition.get("QoS"))):
        bounds += _written(facts.qos.get(name or "", {}), f"qos {name}", _OF_QOS)
    associations = [row for row in facts.associations if row["Account"] == account]
    # An association for this partition takes the place of the general one.
    here = [row for row in associations if row.get("Partition", "") == partition["PartitionName"]]
    for row in here or [row for row in associations if not row.get("Partition", "")]:
        bounds += _written(row, f"association {account}", _OF_ASSOCIATION)
    for row in parents(facts, account):
        bounds += _written(row, f"account {row['Account']}", _OF_ASSOCIATION)
    kept = []
    for limit in bounds:
        kind, _, typed = limit.what.partition(":")
        if kind != GPU or not typed:
            kept.append(limit)
        elif gpu_type and typed.casefold() == gpu_type.casefold():
            kept.append(replace(limit, what=GPU))
    return kept


def least(bounds: Sequence[Limit], what: str, per_node: bool | None = None) -> Limit | None:
    """The tightest limit on `what`: of a node, of a job, or (None) of either."""
    fitting = [limit for limit in bounds if limit.what == what and per_node in (None, limit.per_node)]
    return min(fitting, key=lambda limit: limit.most, default=None)


def partition_number(facts: Facts, partition: Mapping[str, str], key: str) -> tuple[int, str]:
    """(a partition's own number or else that of the whole cluster, which of them); 0 where neither says."""
    if own := number(partition, key):
        return own, f"partition {key}"
    return number(facts.config, key), f"slurm.conf {key}"


def _of_partition(facts: Facts, partition: Mapping[str, str]) -> Iterator[Limit]:
    for key, what, per_node in (("MaxNodes", "node", False), ("MaxCPUsPerNode", "cpu", True)):
        if most := number(partition, key):
            yield Limit(what, most, f"partition {key}", f"{what}={most}", per_node)
    if per_socket := number(partition, "MaxCPUsPerSocket"):
        nodes = facts.nodes_of(partition["PartitionName"])
        sockets = min((number(node, "Sockets") or 1 for node in nodes), default=1)
        source = "partition MaxCPUsPerSocket"
        yield Limit("cpu", per_socket * sockets, source, f"{per_socket} on each of {sockets} sockets", True)
    memory, source = partition_number(facts, partition, "MaxMemPerNode")
    if memory:
        yield Limit("mem", memory, source, f"mem={memory}M", True)


def _written(record: Mapping[str, str], source: str, keys: Sequence[tuple[str, bool]]) -> Iterator[Limit]:
    for key, per_node in keys:
        for item in record.get(key, "").split(","):
            for what, most in tres(item).items():
                yield Limit(what, most, f"{source} {key}", item.strip(), per_node)
