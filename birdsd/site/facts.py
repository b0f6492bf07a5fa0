"""What Slurm says of a cluster and of the user, and what follows: limits, GPUs, preemption, requeue."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from birdsd.errors import unknown_name
from birdsd.site import slurm

_MOST_ACCOUNTS = 50  # a tree of accounts is a few levels deep; no site has us ask for ever


@dataclass(frozen=True)
class Facts:
    """What Slurm says of the cluster and of the user. `no_accounting` says why it knows no accounts."""

    config: Mapping[str, str]
    partitions: Sequence[Mapping[str, str]]
    nodes: Sequence[Mapping[str, str]]
    user: str
    associations: Sequence[Mapping[str, str]] = ()
    qos: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    default_account: str = ""
    no_accounting: str = ""
    accounts: Sequence[Mapping[str, str]] = ()  # the accounts' own associations, with those above them

    def partition(self, name: str) -> Mapping[str, str]:
        """A partition by its name; an unknown one is a `UserError` that lists them."""
        for partition in self.partitions:
            if partition["PartitionName"] == name:
                return partition
        raise unknown_name("partition", name, (p["PartitionName"] for p in self.partitions))

    def nodes_of(self, partition: str) -> list[Mapping[str, str]]:
        return [node for node in self.nodes if partition in node.get("Partitions", "").split(",")]


def ask(timeout_s: float = slurm.TIMEOUT_S) -> Facts:
    """Ask Slurm. Raises `SlurmError` without a controller; accounts are left out where they do not answer."""
    user = pwd.getpwuid(os.getuid()).pw_name
    config = slurm.config(timeout_s)
    partitions, nodes = slurm.partitions(timeout_s), slurm.nodes(timeout_s)
    if not config.get("AccountingStorageType", "").endswith("slurmdbd"):
        return Facts(config, partitions, nodes, user, no_accounting="this cluster keeps no accounts")
    try:
        cluster = config.get("ClusterName", "")
        held = [one for one in slurm.associations(user, timeout_s) if one["Cluster"] in ("", cluster)]
        mine = [one for one in held if one["User"]]
        return Facts(
            config,
            partitions,
            nodes,
            user,
            mine,
            slurm.qos(timeout_s),
            slurm.default_account(user, timeout_s),
            accounts=_accounts({one["Account"] for one in mine}, cluster, timeout_s),
        )
    except slurm.SlurmError as error:
        return Facts(
            config, partitions, nodes, user, no_accounting=f"the database does not answer ({error.rule})"
        )


def _accounts(names: set[str], cluster: str, timeout_s: float) -> list[Mapping[str, str]]:
    """The associations of accounts themselves, from these upwards; those that the site hides are left out."""
    found: dict[str, Mapping[str, str]] = {}
    asked: set[str] = set()
    while names and len(asked) < _MOST_ACCOUNTS:
        asked |= names
        held: list[dict[str, str]] = []
        with suppress(slurm.SlurmError):
            held = slurm.account_associations(sorted(names), timeout_s)
        for one in held:
            if not one["User"] and one["Cluster"] in ("", cluster):
                found.setdefault(one["Account"], one)
        names = {one["ParentName"] for one in found.values() if one.get("ParentName")} - asked
    return list(found.values())


# -- who may run where --------------------------------------------------------------------------------


def closed(facts: Facts, partition: Mapping[str, str]) -> str:
    """Why the user's jobs cannot run in this partition; "" if nothing speaks against it."""
    if partition.get("State", "UP") != "UP":
        return f"its state is {partition['State']}"
    if partition.get("RootOnly") == "YES" and os.getuid() != 0:
        return "only root may use it"
    allowed = partition.get("AllowAccounts", "ALL")
    mine = {one["Account"] for one in facts.associations}
    if allowed != "ALL" and mine and not mine & set(allowed.split(",")):
        return f"only the accounts {allowed} may use it"
    if mine and mine <= set(partition.get("DenyAccounts", "").split(",")):
        return f"it is closed to the accounts {', '.join(sorted(mine))}"
    groups = partition.get("AllowGroups", "ALL")
    if groups != "ALL" and os.getuid() != 0 and not _groups() & set(groups.split(",")):
        return f"only the groups {groups} may use it"
    return ""


def _groups() -> set[str]:
    import grp

    names = set()
    for group in {os.getgid(), *os.getgroups()}:
        with suppress(KeyError):
            names.add(grp.getgrgid(group).gr_name)
    return names


def usable_associations(facts: Facts, partition: Mapping[str, str]) -> list[Mapping[str, str]]:
    """The user's associations that this partition accepts; those made for it come first."""
    allowed = partition.get("AllowAccounts", "ALL")
    denied = partition.get("DenyAccounts", "").split(",")
    title = partition["PartitionName"]
    usable = [
        one
        for one in facts.associations
        if one.get("Partition", "") in ("", title)
        and (allowed == "ALL" or one["Account"] in allowed.split(","))
        and one["Account"] not in denied
    ]
    return sorted(usable, key=lambda one: one.get("Partition", "") != title)


# -- time ---------------------------------------------------------------------------------------------


def time_limits(
    facts: Facts, partition: Mapping[str, str], account: str | None, qos: str | None
) -> list[tuple[int, str]]:
    """(minutes, who says so) for each limit on the length of a job; infinite ones are left out."""
    said = [(partition.get("MaxTime", ""), "partition MaxTime")]
    for name in dict.fromkeys((qos, partition.get("QoS"))):
        said.append((facts.qos.get(name or "", {}).get("MaxWall", ""), f"qos {name} MaxWall"))
    mine = [one for one in usable_associations(facts, partition) if one["Account"] == account]
    for one in [one for one in mine if one.get("Partition", "")] or mine:
        said.append((one.get("MaxWall", ""), f"association {account} MaxWall"))
    said += [(one.get("MaxWall", ""), f"account {one['Account']} MaxWall") for one in parents(facts, account)]
    found = []
    for text, who in said:
        limit = slurm.seconds(text) if text else None
        if limit:
            found.append((int(limit // 60), f"{who}={text}"))
    return sorted(found)


# -- being preempted, coming back ---------------------------------------------------------------------


def preemption(facts: Facts, partition: Mapping[str, str], qos: str | None) -> tuple[bool, str, float]:
    """(whether others may take a job's nodes, what happens to it, its grace time in seconds)."""
    kind = facts.config.get("PreemptType", "preempt/none")
    whole = facts.config.get("PreemptMode", "OFF")
    if kind.endswith("partition_prio"):
        mode = partition.get("PreemptMode", whole)
        tier = number(partition, "PriorityTier")
        nodes = {node["NodeName"] for node in facts.nodes_of(partition["PartitionName"])}
        above = any(
            number(other, "PriorityTier") > tier
            and nodes & {node["NodeName"] for node in facts.nodes_of(other["PartitionName"])}
            for other in facts.partitions
        )
        return above and mode != "OFF", mode, _seconds(partition.get("GraceTime", ""))
    if kind.endswith("qos") and qos:
        mine = facts.qos.get(qos, {})
        mode = mine.get("PreemptMode", "cluster") or "cluster"
        mode = partition.get("PreemptMode", whole) if mode == "cluster" else mode
        above = any(qos in other.get("Preempt", "").split(",") for other in facts.qos.values())
        return above and mode.upper() != "OFF", mode.upper(), _seconds(mine.get("GraceTime", ""))
    return False, "OFF", 0.0


def _seconds(text: str) -> float:
    """A grace time: partitions tell plain seconds, a qos hours:minutes:seconds."""
    return float(text) if text.isdigit() else slurm.seconds(text) or 0.0


def may_requeue(facts: Facts, partition: Mapping[str, str], qos: str | None) -> tuple[bool, str]:
    """Whether a job may come back under the same id, and what says so."""
    if facts.config.get("JobRequeue") == "0":
        return False, "JobRequeue=0: jobs do not come back unless sbatch --requeue is honoured (try requeue)"
    preempted, mode, _ = preemption(facts, partition, qos)
    if preempted and "CANCEL" in mode.upper():
        return False, "JobRequeue=1, but preempted jobs are cancelled (PreemptMode=CANCEL)"
    return True, "JobRequeue=1" + (f"; preempted jobs: PreemptMode={mode}" if preempted else "")


def parents(facts: Facts, account: str | None) -> list[Mapping[str, str]]:
    """The associations of the account itself and of those above it: their limits hold for all below."""
    chain, name = [], account
    held = {one["Account"]: one for one in facts.accounts}
    while name and name in held and held[name] not in chain:
        chain.append(held[name])
        name = held[name].get("ParentName") or ("root" if name != "root" else None)
    return chain


def number(record: Mapping[str, str], *keys: str) -> int:
    """The first of these keys that holds a number; 0 where none does (UNLIMITED, for one)."""
    return next((int(record[key]) for key in keys if record.get(key, "").isdigit()), 0)
