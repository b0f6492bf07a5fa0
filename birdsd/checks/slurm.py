"""The doctor's checks of Slurm: it answers, and it allows what the site's preset requests."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from birdsd.checks.context import ERROR, DoctorContext, Findings, error, explained, ok, warning
from birdsd.errors import UserError, listed_names
from birdsd.runs.resources import resources
from birdsd.schema import PrepareConfig, SiteConfig
from birdsd.site import slurm
from birdsd.site.facts import (
    Facts,
    accepts,
    closed,
    may_requeue,
    number,
    preemption,
    time_limits,
    usable_associations,
)
from birdsd.site.gpus import gpus_of_node
from birdsd.site.sbatch_options import sbatch_arguments

_UNUSABLE = ("DOWN", "DRAIN", "FAIL", "FUTURE", "INVAL", "NOT_RESPONDING", "NO_RESPOND", "UNKNOWN")
AGAIN = "write the site's preset again with `birdsd site detect --force`"


def check_controller(context: DoctorContext) -> Findings:
    """Slurm's programs are installed, and a controller answers."""
    if not context.is_slurm:
        if context.site is None:
            yield ok("slurm", "not on this machine; site=local runs jobs as processes here")
        return
    if isinstance(context.answer, Facts):
        cluster = context.answer.config.get("ClusterName", "?")
        yield ok("slurm", f"the controller of {cluster} answers; Slurm {slurm.version()}")
        if context.site is None:
            yield ok(
                "site", "no site was given, so no limits were compared: --site NAME, or `birdsd site detect`"
            )
        return
    yield explained(ERROR, "slurm", context.answer, "ask your cluster's support whether Slurm is up")


def check_accounting(context: DoctorContext) -> Findings:
    """The database of past jobs answers."""
    if context.facts is None:
        return
    if not context.facts.no_accounting:
        yield ok("accounting", "the database answers: states of past jobs are known")
        return
    yield warning(
        "accounting",
        f"past jobs are unknown: {context.facts.no_accounting}",
        "no action needed: states come from squeue and from the run's own heartbeat",
    )


def check_partition(context: DoctorContext) -> Findings:
    """The partition exists, is up, and accepts the user's jobs."""
    if context.facts is None or context.site is None:
        return
    partition, named = context.partition, context.site.partition
    names = listed_names((p["PartitionName"] for p in context.facts.partitions), named or "")
    if partition is None and named is None:
        yield error(
            "partition", "the site names none and Slurm has no default", f"site.partition= one of {names}"
        )
    elif partition is None:
        yield error("partition", f"there is no partition {named}", f"site.partition= one of {names}")
    elif problem := closed(context.facts, partition):
        yield error(
            "partition", f"{partition['PartitionName']}: {problem}", f"site.partition= one of {names}"
        )
    else:
        yield ok("partition", f"{partition['PartitionName']} is up")


def check_account(context: DoctorContext) -> Findings:
    """Account and qos are the user's, and the partition accepts them."""
    if (on_slurm := context.on_slurm) is None or on_slurm[0].no_accounting:
        return
    facts, site, partition = on_slurm
    enforced = "associations" in facts.config.get("AccountingStorageEnforce", "")
    usable = usable_associations(facts, partition)
    accounts = sorted({row["Account"] for row in usable})
    if not usable:
        say = error if enforced and facts.config.get("PrivateData") in (None, "none") else warning
        yield say(
            "account",
            f"accounting shows no account of {facts.user} for {partition['PartitionName']}",
            "ask the site for one, or name one with site.account=",
        )
        return
    account = context.account
    if account not in accounts:
        say = error if enforced else warning
        what = f"account {account} is not yours here" if account else "no account is given, and you have none"
        yield say("account", what, f"site.account= one of {', '.join(accounts)}")
        return
    yield ok("account", f"{account}" + ("" if site.account else ", your default"))
    yield from _check_qos(facts, site, partition, [row for row in usable if row["Account"] == account])


def _check_qos(
    facts: Facts, site: SiteConfig, partition: Mapping[str, str], usable: list[Mapping[str, str]]
) -> Findings:
    names = {name for row in usable for name in row.get("QOS", "").split(",") if name}
    fitting = sorted(name for name in names if accepts(partition, "Qos", name))
    wanted = site.qos or next((row["DefaultQOS"] for row in usable if row.get("DefaultQOS")), "")
    if site.qos and site.qos not in facts.qos:
        yield error("qos", f"there is no qos {site.qos}", f"site.qos= one of {', '.join(fitting)}")
    elif wanted and names and wanted not in fitting:
        say = error if "qos" in facts.config.get("AccountingStorageEnforce", "") else warning
        why = "the partition does not accept it" if wanted in names else "it is not yours"
        yield say("qos", f"qos {wanted}: {why}", f"site.qos= one of {', '.join(fitting) or '(none fits)'}")
    elif wanted:
        yield ok("qos", f"{wanted}" + ("" if site.qos else ", your default"))


def check_time_limit(context: DoctorContext) -> Findings:
    """The requested time limit is allowed."""
    if (on_slurm := context.on_slurm) is None:
        return
    facts, site, partition = on_slurm
    minutes, limits = site.time_limit_min, time_limits(facts, partition, context.account, site.qos)
    if limits and minutes > limits[0][0]:
        yield error(
            "time limit",
            f"{minutes} min are requested, but {limits[0][1]} is {limits[0][0]} min: such a job is refused "
            "or waits forever",
            f"site.time_limit_min={limits[0][0]}",
        )
    else:
        most = f"; {limits[0][1]}" if limits else "; no limit is set"
        yield ok("time limit", f"{minutes} min{most}")


def check_nodes(context: DoctorContext) -> Findings:
    """There are enough nodes that match the site's description."""
    if (on_slurm := context.on_slurm) is None:
        return
    facts, site, partition = on_slurm
    title = partition["PartitionName"]
    nodes = facts.nodes_of(title)
    fitting = [node for node in nodes if _fits(node, site)]
    if not fitting:
        shapes = sorted({_shape(node) for node in nodes})
        yield error(
            "nodes",
            f"no node of {title} ({len(nodes)}) has {_requested(site)}; they have {' or '.join(shapes[:4])}",
            f"correct gpus_per_node, gpu_type, cpus_per_task and memory_gb_per_node, or {AGAIN}",
        )  # fmt: skip
        return
    up = [node for node in fitting if not any(word in node.get("State", "") for word in _UNUSABLE)]
    what = f"{len(fitting)} of {title} have {_requested(site)}, {len(up)} of them up"
    if len(fitting) < context.nodes:
        yield error("nodes", f"{context.nodes} are requested, but {what}", f"nodes={len(fitting)} at most")
    elif len(up) < context.nodes:
        yield warning(
            "nodes", f"{context.nodes} are requested, but {what}", "the job waits until more are up"
        )
    else:
        yield ok("nodes", what)
    select = facts.config.get("SelectType", "")
    if site.gpus_per_node and site.gpu_syntax == "gpus" and not select.endswith("cons_tres"):
        yield error(
            "gpus", f"--gpus-per-node needs select/cons_tres, but this is {select}", "site.gpu_syntax=gres"
        )


def _gpus_fit(node: Mapping[str, str], site: SiteConfig) -> bool:
    counts = gpus_of_node(node)
    # Without a type in the request, GPUs of any type are counted together.
    count = counts.get(site.gpu_type, 0) if site.gpu_type else sum(counts.values())
    return count >= site.gpus_per_node


def _fits(node: Mapping[str, str], site: SiteConfig) -> bool:
    cpus = number(node, "CPUEfctv", "CPUTot")
    memory = number(node, "RealMemory") - number(node, "MemSpecLimit")
    return (
        _gpus_fit(node, site)
        and site.cpus_per_task * max(1, site.gpus_per_node) <= cpus
        and site.memory_gb_per_node * 1024 <= memory
    )


def _requested(site: SiteConfig) -> str:
    parts = (
        [f"{site.gpus_per_node} {site.gpu_type or ''} GPUs".replace("  ", " ")] if site.gpus_per_node else []
    )
    if site.cpus_per_task:
        parts.append(f"{site.cpus_per_task * max(1, site.gpus_per_node)} CPUs")
    if site.memory_gb_per_node:
        parts.append(f"{site.memory_gb_per_node:g} GB of memory")
    return ", ".join(parts) or "the requested resources"


def _shape(node: Mapping[str, str]) -> str:
    gpus = " + ".join(f"{count} {kind} GPUs".replace("  ", " ") for kind, count in gpus_of_node(node).items())
    return f"{gpus or 'no GPUs'}, {number(node, 'CPUEfctv', 'CPUTot')} CPUs, {number(node, 'RealMemory')} MiB"


def check_hand_over(context: DoctorContext) -> Findings:
    """The next allocation can be started in the way that the site's preset says."""
    if context.site is None or not context.is_slurm:
        return
    way = context.site.hand_over
    if way == "manual":
        yield warning(
            "hand over",
            "hand_over=manual: no allocation follows automatically",
            "`birdsd resume RUN` each time",
        )
        return
    if way not in ("requeue", "chain", "resubmit"):
        yield error("hand over", f"hand_over={way} is unknown", "requeue, chain, resubmit or manual")
        return
    if context.facts is None or context.partition is None:
        return
    allowed, reason = may_requeue(context.facts, context.partition, context.site.qos)
    if way == "requeue" and not allowed:
        yield warning(
            "hand over", f"hand_over=requeue, but {reason}", "site.hand_over=chain is the safe way here"
        )
    else:
        yield ok("hand over", f"{way}; {reason}")


def check_preemption(context: DoctorContext) -> Findings:
    """The signal that a preempted job gets, and its grace time."""
    if context.facts is None or context.partition is None:
        return
    happens, mode, grace_s = preemption(
        context.facts, context.partition, context.site.qos if context.site else None
    )
    title = context.partition["PartitionName"]
    if not happens:
        yield ok("preemption", f"nothing preempts jobs in {title}")
        return
    from birdsd.checks.saving import leave_time

    needed_s, how = leave_time(context)
    signal = "the user signal" if sends_user_signal(context.facts) else "SIGTERM"
    what = f"jobs in {title} can be preempted ({mode}): {signal}, then {grace_s:.0f} s (GraceTime)"
    if grace_s <= 0 or (needed_s is not None and needed_s > grace_s):
        need = f", and leaving takes {needed_s:.0f} s ({how})" if needed_s is not None and grace_s > 0 else ""
        yield warning(
            "preemption",
            what + need,
            "each preemption loses the work since the last checkpoint: lower save.every_samples",
        )
    else:
        yield ok("preemption", what)


def sends_user_signal(facts: Facts) -> bool:
    """Whether the site has Slurm send the warning signal on preemption too."""
    listed = [
        slurm.options(facts.config.get(key, "")) for key in ("SlurmctldParameters", "PreemptParameters")
    ]
    return any("preempt_send_user_signal" in names or "send_user_signal" in names for names in listed)


def check_trial(context: DoctorContext) -> Findings:
    """The answer of sbatch to a job as the site describes it; nothing is submitted."""
    if (on_slurm := context.on_slurm) is None:
        return
    job, tasks = job_and_tasks(context, on_slurm[1])
    try:
        site = resources(on_slurm[1], context.nodes, tasks, job, context.settings).site
    except UserError:
        return  # `check_limits` reports that
    try:
        answer = slurm.would_start(sbatch_arguments(vars(site), context.nodes, tasks))
    except slurm.SlurmError as problem:
        yield error("sbatch", f"sbatch would refuse a job for this site: {problem.expected}", AGAIN)
        return
    yield ok("sbatch", f"would take a job of {context.nodes} node{'s' * (context.nodes > 1)}: {answer}")


def job_and_tasks(context: DoctorContext, site: SiteConfig) -> tuple[str, int]:
    """The job of the settings, as far as it matters to a site, and its tasks per node."""
    if isinstance(context.settings, PrepareConfig):
        return "prepare", 1
    return "train", context.tasks_per_node or site.gpus_per_node or 1


def on_one_machine(facts: Facts) -> bool:
    """Whether every node is this machine, as in a test cluster."""
    here = {platform.node(), platform.node().split(".")[0], "localhost"}
    return bool(facts.nodes) and all(node.get("NodeHostName") in here for node in facts.nodes)
