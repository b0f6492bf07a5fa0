"""What Slurm says of two clusters: the testbed as it was captured, and a university's with typed GPUs,
infinite limits, memory that is handed out and preemption by qos."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from birdsd.site import slurm
from birdsd.site.facts import Facts

TESTBED_CONFIG = """\
Configuration data as of 2026-11-25T01:58:11
AccountingStorageEnforce = associations,qos
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = birdsd-testbed
JobRequeue              = 1
KillWait                = 5 sec
MaxArraySize            = 1001
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
PrivateData             = none
SelectType              = select/cons_tres
SelectTypeParameters    = CR_CPU
SlurmctldParameters     = (null)
SLURM_VERSION           = 22.05.8

Slurmctld(primary) at vm is UP
"""
_PARTITION = (
    "PartitionName={name} AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default={default} "
    "QoS=N/A DefaultTime=01:00:00 DisableRootJobs=NO ExclusiveUser=NO GraceTime={grace} Hidden=NO "
    "MaxNodes=UNLIMITED MaxTime=1-00:00:00 MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=n[1-4] "
    "PriorityJobFactor=1 PriorityTier={tier} RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE "
    "PreemptMode={mode} State=UP TotalCPUs=16 TotalNodes=4 SelectTypeParameters=NONE JobDefaults=(null) "
    "DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=16,mem=16000M,node=4,billing=16,gres/gpu=8\n"
)
TESTBED_PARTITIONS = (
    _PARTITION.format(name="normal", default="YES", grace=20, tier=10, mode="REQUEUE")
    + _PARTITION.format(name="besteffort", default="NO", grace=0, tier=10, mode="REQUEUE")
    + _PARTITION.format(name="urgent", default="NO", grace=0, tier=100, mode="OFF")
)
TESTBED_NODES = "".join(
    f"NodeName=n{number} Arch=x86_64 CoresPerSocket=1  CPUAlloc=0 CPUEfctv=4 CPUTot=4 CPULoad=1.30 "
    "AvailableFeatures=(null) ActiveFeatures=(null) Gres=gpu:2 NodeAddr=127.0.0.1 NodeHostName=vm "
    f"Port=1700{number} Version=22.05.8 OS=Linux 6.18.44 #1 SMP PREEMPT_DYNAMIC @0  RealMemory=4000 "
    "AllocMem=0 FreeMem=18960 Sockets=4 Boards=1 State=IDLE ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A "
    "MCS_label=N/A Partitions=normal,besteffort,urgent  BootTime=2026-11-25T01:40:03 "
    "CfgTRES=cpu=4,mem=4000M,billing=4,gres/gpu=2 AllocTRES= CapWatts=n/a CurrentWatts=0 AveWatts=0\n"
    for number in (1, 2, 3, 4)
)
TESTBED_ASSOCIATIONS = "birdsd-testbed|birdsd|root||low,normal|||||\nbirdsd-testbed|root|root||normal|||||\n"
TESTBED_QOS = "normal|0||||||cluster|00:00:00|\nlow|0||||||cluster|00:00:00|\n"


UNIVERSITY_CONFIG = """\
AccountingStorageEnforce = associations,limits,qos,safe
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = alma
JobRequeue              = 1
KillWait                = 30 sec
PreemptMode             = REQUEUE
PreemptType             = preempt/qos
SelectType              = select/cons_tres
SelectTypeParameters    = CR_CORE_MEMORY
SlurmctldParameters     = enable_configless,preempt_send_user_signal
SLURM_VERSION           = 24.05.3
"""
_CPU = (
    "AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL QoS=N/A GraceTime=0 MaxNodes=UNLIMITED MaxTime=UNLIMITED "
)
UNIVERSITY_PARTITIONS = (
    f"PartitionName=cpu Default=YES {_CPU} State=UP MaxCPUsPerNode=UNLIMITED MaxMemPerNode=UNLIMITED\n"
    f"PartitionName=debug Default=NO {_CPU.replace('MaxTime=UNLIMITED', 'MaxTime=00:30:00')} State=UP\n"
    "PartitionName=gpu Default=NO AllowGroups=ALL AllowAccounts=ornis,physics AllowQos=normal,long,scavenge "
    "QoS=gpu_part GraceTime=0 MaxNodes=8 MaxTime=infinite State=UP MaxCPUsPerNode=UNLIMITED "
    "MaxMemPerNode=500000 SelectTypeParameters=NONE\n"
    f"PartitionName=retired Default=NO {_CPU} State=INACTIVE\n"
)


def _node(
    name: str, gres: str, partitions: str, cpus: int = 128, memory: int = 1031000, state: str = "IDLE"
) -> str:
    return (
        f"NodeName={name} Arch=x86_64 CPUEfctv={cpus} CPUTot={cpus} AvailableFeatures=ib,a100 Gres={gres} "
        f"NodeHostName={name} OS=Linux 5.14.0 #1 SMP Tue Jan 1 RealMemory={memory} MemSpecLimit=8000 "
        f"State={state} Partitions={partitions} \n"
    )


UNIVERSITY_NODES = (
    "".join(_node(f"g{number:02d}", "gpu:a100:4(S:0-1),shard:8", "gpu") for number in range(1, 7))
    + _node("g07", "gpu:v100:2(S:0)", "gpu,debug", cpus=40, memory=380000)
    + _node("g08", "gpu:a100:4(S:0-1)", "gpu", state="DOWN+DRAIN+NOT_RESPONDING")
    + _node("c01", "(null)", "cpu", cpus=64, memory=250000)
)
UNIVERSITY_ASSOCIATIONS = (
    "alma|teaching|robin||normal|normal||||\n"
    "alma|ornis|robin||long,normal,scavenge|normal||||\n"
    "elsewhere|other|robin||normal|||||\n"
)
UNIVERSITY_QOS = (
    "normal|10|1-12:00:00|gres/gpu=10|node=4|||cluster|00:00:00|\n"
    "long|5|7-00:00:00|||||cluster|00:00:00|\n"
    "scavenge|0|||||| cancel|00:01:30|\n"
    "urgent|99||||| scavenge|cluster|00:00:00|\n"
    "gpu_part|0|2-00:00:00|||||cluster|00:00:00|\n"
)


def facts_of_testbed(**changes: Any) -> Facts:
    """What `site.facts.ask` makes of the testbed's answers."""
    answers = (TESTBED_CONFIG, TESTBED_PARTITIONS, TESTBED_NODES, TESTBED_ASSOCIATIONS, TESTBED_QOS)
    return replace(_facts(*answers, "root", "root"), **changes)


def facts_of_university(**changes: Any) -> Facts:
    """What `site.facts.ask` makes of the university's answers."""
    answers = (
        UNIVERSITY_CONFIG, UNIVERSITY_PARTITIONS, UNIVERSITY_NODES, UNIVERSITY_ASSOCIATIONS, UNIVERSITY_QOS,
    )  # fmt: skip
    return replace(_facts(*answers, "robin", "teaching"), **changes)


def _facts(
    config: str, partitions: str, nodes: str, associations: str, qos: str, user: str, default: str
) -> Facts:
    settings = slurm.read_config(config)
    held = slurm.read_associations(associations)
    return Facts(
        settings,
        slurm.records(partitions),
        slurm.records(nodes),
        user,
        [one for one in held if one["Cluster"] == settings["ClusterName"]],
        slurm.read_qos(qos),
        default,
    )
