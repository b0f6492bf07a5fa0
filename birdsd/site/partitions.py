"""What a job gets in a partition: GPUs, and CPUs and memory in proportion to them, within all limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from birdsd.errors import unknown_name
from birdsd.site.facts import Facts, accepts, closed, number, time_limits, usable_associations
from birdsd.site.gpus import SEVENTHS, Kind, cards_of_node, kinds_of, slice_sevenths
from birdsd.site.limits import GPU, Limit, least, limits, partition_number

Found = dict[str, tuple[Any, str]]


def hardware(
    facts: Facts, partition: Mapping[str, str], account: str | None, qos: str | None, gpu_type: str | None
) -> Found:
    """The fields of a site preset that describe its nodes: (value, source). `gpu_type`: the type of GPU
    that the user wants, where there are several."""
    nodes = facts.nodes_of(partition["PartitionName"])
    kinds = kinds_of(nodes)
    kind = _wanted(kinds, gpu_type)
    if gpu_type is None:  # a kind that the limits rule out is no option
        had = (
            k
            for k in kinds
            if _gpus(k, kinds, nodes, limits(facts, partition, account, qos, k.type), None)[0]
        )
        kind = next(had, kind)
    bounds = limits(facts, partition, account, qos, kind.type if kind else "")
    gpus, source = _gpus(kind, kinds, nodes, bounds, gpu_type)
    if kind is not None and gpus:
        nodes = list(kind.nodes)
    select = facts.config.get("SelectType", "")
    also = "would take gpus too" if select.endswith("cons_tres") else "has no --gpus-per-node"
    gpu_name = kind.type or None if kind and gpus else None
    cpus = _cpus(nodes, kind, gpus, bounds)
    memory = _memory(facts, partition, nodes, kind, gpus, bounds, cpus[0] * max(1, gpus))
    return {
        "constraint": (None, _features(nodes)),
        "gpus_per_node": (gpus, source),
        "gpu_syntax": ("gres", f"always right; SelectType={select} {also}"),
        "gpu_type": (gpu_name, "as in Gres" if gpu_name else "Slurm gives the GPUs no type" if gpus else ""),
        "cpus_per_task": cpus,
        "memory_gb_per_node": memory,
        "max_nodes": _most_nodes(nodes, kind, gpus, bounds),
        "max_cpus": _of_a_job(bounds, "cpu"),
        "max_memory_gb": _of_a_job(bounds, "mem"),
    }


def _wanted(kinds: Sequence[Kind], requested: str | None) -> Kind | None:
    if requested is None:
        return kinds[0] if kinds else None
    for kind in kinds:
        if kind.type.casefold() == requested.casefold():
            return kind
    raise unknown_name("type of GPU in this partition", requested, (kind.type for kind in kinds))


def _gpus(
    kind: Kind | None,
    kinds: Sequence[Kind],
    nodes: Sequence[Mapping[str, str]],
    bounds: Sequence[Limit],
    requested: str | None,
) -> tuple[int, str]:
    """GPUs per node, and the source: their kind, the alternatives, and a limit that reduces their number."""
    if kind is None:
        return 0, "no node of the partition has any"
    gpus = kind.per_node
    gres = kind.nodes[0].get("Gres", "")
    source = f"scontrol show node: Gres={gres} on {len(kind.nodes)} of {len(nodes)} nodes"
    source += f"; --gpu-type {requested}" if requested else ""
    if kind.is_slice:
        gpus = 1
        source += (
            "; REMARK: these are slices of GPUs (MIG), and a job takes one: slices cannot train together"
        )
    others = [other.described for other in kinds if other is not kind]
    if others:
        source += f"; others have {', '.join(others[:4])}" + (", ..." if len(others) > 4 else "")
        source += " (slices)" if all(other.is_slice for other in kinds if other is not kind) else ""
        source += "" if requested else "; --gpu-type NAME takes another"
    if not kind.type and any(other.type for other in kinds):
        source += "; REMARK: the chosen ones have no type, so Slurm may give a job the others too"
    for what in (GPU, "cpu"):  # each GPU's task needs a CPU
        limit = least(bounds, what)
        if limit is not None and limit.most < gpus:
            gpus, source = limit.most, f"{limit.described}; {source}"
            source += "" if gpus else "; REMARK: such jobs get no GPU"
    return gpus, source


def _share(node: Mapping[str, str], kind: Kind) -> int:
    """Into how many shares a node is divided: its GPUs, or the slices of this kind that they would make."""
    cards = max(1, cards_of_node(node))
    return max(1, cards * SEVENTHS // slice_sevenths(kind.type)) if kind.is_slice else cards


def _cpus(
    nodes: Sequence[Mapping[str, str]], kind: Kind | None, gpus: int, bounds: Sequence[Limit]
) -> tuple[int, str]:
    """CPUs per task: a GPU's share of the smallest node, or all of it; less where a limit requires it."""
    if not nodes:
        return 0, "there is no node to ask"
    if kind is None or not gpus:
        cpus = min(number(node, "CPUEfctv", "CPUTot") for node in nodes)
        source = f"{cpus} CPUs per node, for one task per node"
    else:
        least_of = min(nodes, key=lambda node: number(node, "CPUEfctv", "CPUTot") / _share(node, kind))
        cores, parts = number(least_of, "CPUEfctv", "CPUTot"), _share(least_of, kind)
        cpus = max(1, cores // parts)
        source = f"{cores} CPUs per node / {parts} {'slices' if kind.is_slice else 'GPUs'}"
    limit = least(bounds, "cpu")
    if limit is not None and limit.most < cpus * max(1, gpus):
        cpus = max(1, limit.most // max(1, gpus))
        source = f"{limit.described}" + (f", for {gpus} GPUs" if gpus > 1 else "") + f"; without it {source}"
    return cpus, source


def _memory(
    facts: Facts,
    partition: Mapping[str, str],
    nodes: Sequence[Mapping[str, str]],
    kind: Kind | None,
    gpus: int,
    bounds: Sequence[Limit],
    cpus: int,
) -> tuple[float, str]:
    """GiB per node: in proportion to the GPUs, less where a limit requires it; 0 where memory is not
    allocated."""

    def part(node: Mapping[str, str]) -> int:
        whole = number(node, "RealMemory") - number(node, "MemSpecLimit")
        return whole if kind is None or not gpus else whole * gpus // _share(node, kind)

    memory = min(map(part, nodes), default=0)
    source = "RealMemory of the smallest node"
    if kind is not None and gpus and any(_share(node, kind) != gpus for node in nodes):
        source = f"the share of {gpus} {kind.type or 'GPU'} in RealMemory"
    per_cpu, limit_source = partition_number(facts, partition, "MaxMemPerCPU")
    if (limit := least(bounds, "mem")) is not None and limit.most < memory:
        memory, source = limit.most, limit.described
    if per_cpu and per_cpu * cpus < memory:
        memory, source = per_cpu * cpus, f"{limit_source}={per_cpu} and {cpus} CPUs"
    usual, whose = partition_number(facts, partition, "DefMemPerCPU")
    usually = f"; without a word a job would get {whose}={usual} MiB" if usual else ""
    parameters = facts.config.get("SelectTypeParameters", "") + partition.get("SelectTypeParameters", "")
    if "MEMORY" not in parameters.upper():
        return 0, f"not handed out here; {source}: {memory} MiB"
    return gib(memory), f"{source}: {memory} MiB{usually}"


def gib(mib: int) -> float:
    """MiB in GiB, rounded down: whole ones, below ten to a tenth."""
    return mib // 1024 if mib >= 10 * 1024 else mib * 10 // 1024 / 10


def _most_nodes(
    nodes: Sequence[Mapping[str, str]], kind: Kind | None, gpus: int, bounds: Sequence[Limit]
) -> tuple[int, str]:
    if kind is not None and gpus and kind.is_slice:
        return 1, "slices of GPUs cannot train together"
    counts = [(len(nodes), f"{len(nodes)} nodes are in the partition" + (" with these GPUs" if gpus else ""))]
    # CPUs and memory are divided among the nodes of a job, but each task needs a CPU.
    each = {"node": 1, "cpu": max(1, gpus), **({GPU: gpus} if gpus else {})}
    for what, count in each.items():
        limit = least(bounds, what, per_node=False)
        if limit is not None:
            counts.append((max(1, limit.most // count), limit.described))
    return min(counts)


def _of_a_job(bounds: Sequence[Limit], what: str) -> tuple[float, str]:
    limit = least(bounds, what, per_node=False)
    if limit is None:
        return 0, "no limit on all nodes of a job together"
    return (gib(limit.most) if what == "mem" else limit.most), f"{limit.described}, over all nodes of a job"


def _features(nodes: Sequence[Mapping[str, str]]) -> str:
    features = {name for node in nodes for name in node.get("AvailableFeatures", "").split(",")}
    names = sorted(features - {"", "(null)"})
    return f"nodes have the features {', '.join(names[:12])}" if names else "the nodes have no features"


# -- jobs without a GPU ----------------------------------------------------------------------------------


def for_cpu_jobs(
    facts: Facts, chosen: Mapping[str, str], account: str | None, qos: str | None, minutes: int
) -> Found:
    """The partition for jobs without GPUs: one without any that accepts the same account and qos, with the
    longest time limit. Empty where the chosen partition has no GPUs itself."""
    if not kinds_of(facts.nodes_of(chosen["PartitionName"])):
        return {"cpu_partition": (None, "the partition itself has no GPUs")}
    fitting = []
    for other in facts.partitions:
        nodes = facts.nodes_of(other["PartitionName"])
        if other is chosen or not nodes or kinds_of(nodes) or closed(facts, other):
            continue
        accounts = [row["Account"] for row in usable_associations(facts, other)]
        if (qos is None or accepts(other, "Qos", qos)) and (account is None or account in accounts):
            limit = next(iter(time_limits(facts, other, account, qos)), None)
            length, source = min(limit or (minutes, ""), (minutes, "as for jobs with GPUs"))
            fitting.append((length, other.get("Default") == "YES", len(nodes), source, other))
    if not fitting:
        why = "no partition without GPUs takes this account and qos: CPU jobs stay in the partition"
        return {"cpu_partition": (None, why)}
    length, _, count, time_source, other = max(fitting, key=lambda row: row[:3])
    nodes = facts.nodes_of(other["PartitionName"])
    bounds = limits(facts, other, account, qos)
    cpus, cpus_source = _cpus(nodes, None, 0, bounds)
    memory, memory_source = _memory(facts, other, nodes, None, 0, bounds, cpus)
    name = other["PartitionName"]
    return {
        "cpu_partition": (name, f"{count} nodes without GPUs, for jobs that need none (prepare)"),
        "cpu_time_limit_min": (length, time_source),
        "cpu_cpus_per_node": (cpus, f"{name}: {cpus_source}"),
        "cpu_memory_gb_per_node": (memory, f"{name}: {memory_source}"),
    }
