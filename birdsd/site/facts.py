"""What Slurm reports of a cluster and the user, and what follows: limits, GPUs, preemption, requeue."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from birdsd.errors import unknown_name
from birdsd.site import slurm

_MOST_ACCOUNTS = 50  # a tree of accounts is a few levels deep; this bounds the queries


@dataclass(frozen=True)
class Facts:
    """What Slurm reports of the cluster and the user. `no_accounting`: why there are no accounts, if so."""

    config: Mapping[str, str]
    partitions: Sequence[Mapping[str, str]]
    nodes: Sequence[Mapping[str, str]]
    user: str
    associations: Sequence[Mapping[str, str]] = ()
    qos: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    default_account: str = ""
    no_accounting: str = ""
    accounts: Sequence[Mapping[str, str]] = ()  # the accounts' own associations, and their parents'

    def partition(self, name: str) -> Mapping[str, str]:
        """A partition by its name; an unknown one is a `UserError` that lists them."""
        for partition in self.partitions:
            if partition["PartitionName"] == name:
                return partition
        raise unknown_name("partition", name, (p["PartitionName"] for p in self.partitions))

    def nodes_of(self, partition: str) -> list[Mapping[str, str]]:
        return [node for node in self.nodes if partition in node.get("Partitions", "").split(",")]


def ask(timeout_s: float = slurm.TIMEOUT_S) -> Facts:
    """Ask Slurm. Raises `SlurmError` without a controller; accounts are left out where accounting does not
    answer."""
    user = pwd.getpwuid(os.getuid()).pw_name
    config = slurm.config(timeout_s)
    partitions, nodes = slurm.partitions(timeout_s), slurm.nodes(timeout_s)
    if not config.get("AccountingStorageType", "").endswith("slurmdbd"):
        return Facts(config, partitions, nodes, user, no_accounting="this cluster keeps no accounts")
    try:
        cluster = config.get("ClusterName", "")
        associations = [row for row in slurm.associations(user, timeout_s) if row["Cluster"] in ("", cluster)]
        mine = [row for row in associations if row["User"]]
        return Facts(
            config,
            partitions,
            nodes,
            user,
            mine,
            slurm.qos(timeout_s),
            slurm.default_account(user, timeout_s),
            accounts=_accounts({row["Account"] for row in mine}, cluster, timeout_s),
        )
    except slurm.SlurmError as error:
        return Facts(
            config, partitions, nodes, user, no_accounting=f"the database does not answer ({error.expected})"
        )


def _accounts(names: set[str], cluster: str, timeout_s: float) -> list[Mapping[str, str]]:
    """The associations of these accounts and their parents; those that the site hides are left out."""
    accounts: dict[str, Mapping[str, str]] = {}
    requested: set[str] = set()
    while names and len(requested) < _MOST_ACCOUNTS:
        requested |= names
        hidden: list[dict[str, str]] = []
        with suppress(slurm.SlurmError):
            hidden = slurm.account_associations(sorted(names), timeout_s)
        for record in hidden:
            if not record["User"] and record["Cluster"] in ("", cluster):
                accounts.setdefault(record["Account"], record)
        names = {record["ParentName"] for record in accounts.values() if record.get("ParentName")} - requested
    return list(accounts.values())


# -- access -------------------------------------------------------------------------------------------


def closed(facts: Facts, partition: Mapping[str, str]) -> str:
    """Why the user's jobs cannot run in this partition; "" if they can."""
    if partition.get("State", "UP") != "UP":
        return f"its state is {partition['State']}"
    if partition.get("RootOnly") == "YES" and os.getuid() != 0:
        return "only root may use it"
    allowed = partition.get("AllowAccounts", "ALL")
    accounts = {row["Account"] for row in facts.associations}
    if allowed != "ALL" and accounts and not accounts & set(allowed.split(",")):
        return f"only the accounts {allowed} may use it"
    if accounts and accounts <= set(partition.get("DenyAccounts", "").split(",")):
        return f"it is closed to the accounts {', '.join(sorted(accounts))}"
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


def accepts(partition: Mapping[str, str], what: str, name: str) -> bool:
    """Whether a partition accepts an account (`what` "Accounts") or a quality of service ("Qos")."""
    allowed = partition.get(f"Allow{what}", "ALL")
    denied = partition.get(f"Deny{what}", "").split(",")
    return (allowed == "ALL" or name in allowed.split(",")) and name not in denied


def usable_associations(facts: Facts, partition: Mapping[str, str]) -> list[Mapping[str, str]]:
    """The user's associations that this partition accepts; those made for it come first."""
    title = partition["PartitionName"]
    usable = [
        row
        for row in facts.associations
        if row.get("Partition", "") in ("", title) and accepts(partition, "Accounts", row["Account"])
    ]
    return sorted(usable, key=lambda row: row.get("Partition", "") != title)


# -- time ---------------------------------------------------------------------------------------------


def time_limits(
    facts: Facts, partition: Mapping[str, str], account: str | None, qos: str | None
) -> list[tuple[int, str]]:
    """(minutes, source) for each limit on the length of a job; infinite ones are left out."""
    sources = [(partition.get("MaxTime", ""), "partition MaxTime")]
    for name in dict.fromkeys((qos, partition.get("QoS"))):
        sources.append((facts.qos.get(name or "", {}).get("MaxWall", ""), f"qos {name} MaxWall"))
    own = [row for row in usable_associations(facts, partition) if row["Account"] == account]
    for row in [row for row in own if row.get("Partition", "")] or own:
        sources.append((row.get("MaxWall", ""), f"association {account} MaxWall"))
    sources += [
        (row.get("MaxWall", ""), f"account {row['Account']} MaxWall") for row in parents(facts, account)
    ]
    bounds = []
    for text, source in sources:
        limit = slurm.seconds(text) if text else None
        if limit:
            bounds.append((int(limit // 60), f"{source}={text}"))
    return sorted(bounds)


# -- preemption and requeue ---------------------------------------------------------------------------


def preemption(facts: Facts, partition: Mapping[str, str], qos: str | None) -> tuple[bool, str, float]:
    """(whether jobs may be preempted, what happens to them, their grace time in seconds)."""
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
        own = facts.qos.get(qos, {})
        mode = own.get("PreemptMode", "cluster") or "cluster"
        mode = partition.get("PreemptMode", whole) if mode == "cluster" else mode
        above = any(qos in other.get("Preempt", "").split(",") for other in facts.qos.values())
        return above and mode.upper() != "OFF", mode.upper(), _seconds(own.get("GraceTime", ""))
    return False, "OFF", 0.0


def _seconds(text: str) -> float:
    """A grace time: plain seconds for partitions, hours:minutes:seconds for a qos."""
    return float(text) if text.isdigit() else slurm.seconds(text) or 0.0


def may_requeue(facts: Facts, partition: Mapping[str, str], qos: str | None) -> tuple[bool, str]:
    """Whether a job may be requeued under the same id, and the reason."""
    if facts.config.get("JobRequeue") == "0":
        return False, "JobRequeue=0: jobs do not come back unless sbatch --requeue is honoured (try requeue)"
    preempted, mode, _ = preemption(facts, partition, qos)
    if preempted and "CANCEL" in mode.upper():
        return False, "JobRequeue=1, but preempted jobs are cancelled (PreemptMode=CANCEL)"
    return True, "JobRequeue=1" + (f"; preempted jobs: PreemptMode={mode}" if preempted else "")


def parents(facts: Facts, account: str | None) -> list[Mapping[str, str]]:
    """The associations of the account itself and of its parents: their limits apply to all below."""
    chain, name = [], account
    accounts = {record["Account"]: record for record in facts.accounts}
    while name and name in accounts and accounts[name] not in chain:
        chain.append(accounts[name])
        name = accounts[name].get("ParentName") or ("root" if name != "root" else None)
    return chain


def number(record: Mapping[str, str], *keys: str) -> int:
    """The first of these keys that holds a number; 0 where none does (UNLIMITED, for one)."""
    return next((int(record[key]) for key in keys if record.get(key, "").isdigit()), 0)
