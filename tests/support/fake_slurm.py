"""A Slurm that only answers: its programs in a folder for the PATH, with what they say in files beside them.

For sites that a testbed cannot be: their partitions, nodes, qos and associations as Slurm prints them.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PROGRAMS = ("scontrol", "sacctmgr", "sinfo", "sbatch", "squeue", "sacct", "srun")
_SCRIPT = """#!/bin/bash
D="$(dirname "$0")"
case "$(basename "$0") $*" in
 "scontrol ping") echo "Slurmctld(primary) at c1 is UP";;
 "scontrol"*"show config") cat "$D/config";;
 "scontrol"*"show partition"*) cat "$D/partitions";;
 "scontrol"*"show node"*) cat "$D/nodes";;
 "sacctmgr"*"show associations user="*) cat "$D/mine";;
 "sacctmgr"*"show associations account="*) cat "$D/accounts";;
 "sacctmgr"*"show qos"*) cat "$D/qos";;
 "sacctmgr"*"show user"*) echo lab;;
 "sinfo --version") echo "slurm 23.11.4";;
 "sbatch --test-only"*) echo "sbatch: Job 1 to start at 2026-11-01T00:00:00 using 1 processors" >&2;;
 *) echo "fake: $0 $*" >&2; exit 1;;
esac
"""


def node(name: str, gres: str, cpus: int = 64, memory_mib: int = 512_000, partition: str = "gpu") -> str:
    """A line of `scontrol -o show node`."""
    return (
        f"NodeName={name} CPUEfctv={cpus} CPUTot={cpus} AvailableFeatures=(null) Gres={gres or '(null)'} "
        f"RealMemory={memory_mib} Sockets=2 State=IDLE Partitions={partition} \n"
    )


@dataclass
class Site:
    """What a made-up cluster says. `qos` holds (name, MaxWall, MaxTRESPerUser, MaxTRES, MaxTRESPerNode,
    MaxTRESPerAccount, GrpTRES), `mine` (MaxWall, MaxTRES, GrpTRES, MaxTRESPerNode) of the user's association,
    and `accounts` (account, parent, MaxTRES, GrpTRES)."""

    nodes: Sequence[str]
    qos: Sequence[Sequence[str]] = (("normal", "", "", "", "", "", ""),)
    mine: Sequence[str] = ("", "", "", "")
    accounts: Sequence[Sequence[str]] = ()
    gpu_partition: str = ""
    partitions: Sequence[str] = ()
    config: Sequence[str] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """Put the programs into `folder` and return it, for the PATH."""
        folder.mkdir(parents=True)
        for name in _PROGRAMS:
            path = folder / name
            path.write_text(_SCRIPT, encoding="utf-8")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        (folder / "config").write_text(
            "AccountingStorageType = accounting_storage/slurmdbd\nClusterName = made\nJobRequeue = 1\n"
            "KillWait = 30 sec\nPreemptType = preempt/none\nSelectType = select/cons_tres\n"
            "SelectTypeParameters = CR_CORE_MEMORY\nSLURM_VERSION = 23.11.4\n"
            + "".join(f"{line}\n" for line in self.config),
            encoding="utf-8",
        )
        usual = "AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL QoS=N/A GraceTime=0 MaxNodes=UNLIMITED"
        first = f"PartitionName=gpu Default=YES {usual} MaxTime=2-00:00:00 State=UP {self.gpu_partition}\n"
        others = "".join(f"PartitionName={line} \n" for line in self.partitions)
        (folder / "partitions").write_text(first + others, encoding="utf-8")
        (folder / "nodes").write_text("".join(self.nodes), encoding="utf-8")
        lines = [
            f"{name}|0|{wall}|{user}|{job}||||00:00:00||{each_node}|{account}|{group}\n"
            for name, wall, user, job, each_node, account, group in self.qos
        ]
        (folder / "qos").write_text("".join(lines), encoding="utf-8")
        wall, job, group, each_node = self.mine
        names = ",".join(row[0] for row in self.qos)
        mine = f"made|lab|robin||{names}|{self.qos[0][0]}|{wall}|{job}||{group}|{each_node}|\n"
        (folder / "mine").write_text(mine, encoding="utf-8")
        held = [f"made|{name}|||||| {job}||{group}||{parent}\n" for name, parent, job, group in self.accounts]
        (folder / "accounts").write_text("".join(held) + mine, encoding="utf-8")
        return folder
