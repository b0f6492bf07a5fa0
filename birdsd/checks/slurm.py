"""The doctor's checks of Slurm: is it there, and does it allow what the site's preset asks for."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from birdsd.checks.case import ERROR, Case, Findings, error, explained, ok, warning
from birdsd.errors import UserError, listed_names
from birdsd.runs.resources import resources
from birdsd.schema import PrepareConfig, SiteConfig
from birdsd.site import slurm
from birdsd.site.facts import Facts, closed, may_requeue, number, preemption, time_limits, usable_associations
from birdsd.site.gpus import gpus_of_node

_UNUSABLE = ("DOWN", "DRAIN", "FAIL", "FUTURE", "INVAL", "NOT_RESPONDING", "NO_RESPOND", "UNKNOWN")
AGAIN = "write the site's preset again with `birdsd site detect --force`"


def check_controller(case: Case) -> Findings:
    """Slurm's programs are here, and a controller answers."""
    if not case.is_slurm:
        if case.site is None:
            yield ok("slurm", "not on this machine; site=local runs jobs as processes here")
        return
    if isinstance(case.answer, Facts):
        cluster = case.answer.config.get("ClusterName", "?")
        yield ok("slurm", f"the controller of {cluster} answers; Slurm {slurm.version()}")
        if case.site is None:
            yield ok(
                "site", "no site was given, so no limits were compared: --site NAME, or `birdsd site detect`"
            )
        return
    yield explained(ERROR, "slurm", case.answer, "ask your cluster's support whether Slurm is up")


def check_accounting(case: Case) -> Findings:
    """The database of past jobs answers."""
    if case.facts is None:
        return
    if not case.facts.no_accounting:
        yield ok("accounting", "the database answers: states of past jobs are known")
        return
    yield warning(
        "accounting",
        f"past jobs are unknown: {case.facts.no_accounting}",
        "no action needed: states come from squeue and from the run's own heartbeat",
    )


def check_partition(case: Case) -> Findings:
    """The partition exists, is up, and takes the user's jobs."""
    if case.facts is None or case.site is None:
        return
    partition, named = case.partition, case.site.partition
    names = listed_names((p["PartitionName"] for p in case.facts.partitions), named or "")
    if partition is None and named is None:
        yield error(
            "partition", "the site names none and Slurm has no default", f"site.partition= one of {names}"
        )
    elif partition is None:
        yield error("partition", f"there is no partition {named}", f"site.partition= one of {names}")
    elif problem := closed(case.facts, partition):
        yield error(
            "partition", f"{partition['PartitionName']}: {problem}", f"site.partition= one of {names}"
        )
    else:
        yield ok("partition", f"{partition['PartitionName']} is up")


def check_account(case: Case) -> Findings:
    """Account and qos are the user's, and the partition takes them."""
    if case.facts is None or case.site is None or case.partition is None or case.facts.no_accounting:
        return
    facts, site, partition = case.facts, case.site, case.partition
    enforced = "associations" in facts.config.get("AccountingStorageEnforce", "")
    usable = usable_associations(facts, partition)
    accounts = sorted({one["Account"] for one in usable})
    if not usable:
        say = error if enforced and facts.config.get("PrivateData") in (None, "none") else warning
        yield say(
            "account",
            f"accounting shows no account of {facts.user} for {partition['PartitionName']}",
            "ask the site for one, or name one with site.account=",
        )
        return
    account = case.account
    if account not in accounts:
        say = error if enforced else warning
        what = f"account {account} is not yours here" if account else "no account is given, and you have none"
        yield say("account", what, f"site.account= one of {', '.join(accounts)}")
        return
    yield ok("account", f"{account}" + ("" if site.account else ", your default"))
    yield from _check_qos(facts, site, partition, [one for one in usable if one["Account"] == account])


def _check_qos(
    facts: Facts, site: SiteConfig, partition: Mapping[str, str], usable: list[Mapping[str, str]]
) -> Findings:
    held = {name for one in usable for name in one.get("QOS", "").split(",") if name}
    allowed = partition.get("AllowQos", "ALL")
    fitting = sorted(held if allowed == "ALL" else held & set(allowed.split(",")))
    wanted = site.qos or next((one["DefaultQOS"] for one in usable if one.get("DefaultQOS")), "")
    if site.qos and site.qos not in facts.qos:
        yield error("qos", f"there is no qos {site.qos}", f"site.qos= one of {', '.join(fitting)}")
    elif wanted and held and wanted not in fitting:
        say = error if "qos" in facts.config.get("AccountingStorageEnforce", "") else warning
        why = "the partition does not accept it" if wanted in held else "it is not yours"
        yield say("qos", f"qos {wanted}: {why}", f"site.qos= one of {', '.join(fitting) or '(none fits)'}")
    elif wanted:
        yield ok("qos", f"{wanted}" + ("" if site.qos else ", your default"))


def check_time_limit(case: Case) -> Findings:
    """The time limit that is asked for is allowed."""
    if case.facts is None or case.site is None or case.partition is None:
        return
    asked = case.site.time_limit_min
    limits = time_limits(case.facts, case.partition, case.account, case.site.qos)
    if limits and asked > limits[0][0]:
        yield error(
            "time limit",
            f"{asked} min are requested, but {limits[0][1]} is {limits[0][0]} min: such a job is refused or "
            "waits forever",
            f"site.time_limit_min={limits[0][0]}",
        )
    else:
        most = f"; {limits[0][1]}" if limits else "; nothing limits it"
        yield ok("time limit", f"{asked} min{most}")


def check_nodes(case: Case) -> Findings:
    """There are enough nodes as the site describes them, and its numbers fit on one."""
    if case.facts is None or case.site is None or case.partition is None:
        return
    site, title = case.site, case.partition["PartitionName"]
    nodes = case.facts.nodes_of(title)
    fitting = [node for node in nodes if _fits(node, site)]
    if not fitting:
        shapes = sorted({_shape(node) for node in nodes})
        yield error(
            "nodes",
            f"no node of {title} ({len(nodes)}) has {_wish(site)}; they have {' or '.join(shapes[:4])}",
            f"correct gpus_per_node, gpu_type, cpus_per_task and memory_gb_per_node, or {AGAIN}",
        )  # fmt: skip
        return
    up = [node for node in fitting if not any(word in node.get("State", "") for word in _UNUSABLE)]
    said = f"{len(fitting)} of {title} have {_wish(site)}, {len(up)} of them up"
    if len(fitting) < case.nodes:
        yield error("nodes", f"{case.nodes} are requested, but {said}", f"nodes={len(fitting)} at most")
    elif len(up) < case.nodes:
        yield warning("nodes", f"{case.nodes} are requested, but {said}", "the job waits until more are up")
    else:
        yield ok("nodes", said)
    select = case.facts.config.get("SelectType", "")
    if site.gpus_per_node and site.gpu_syntax == "gpus" and not select.endswith("cons_tres"):
        yield error(
            "gpus", f"--gpus-per-node needs select/cons_tres, but this is {select}", "site.gpu_syntax=gres"
        )


def _gpus_fit(node: Mapping[str, str], site: SiteConfig) -> bool:
    held = gpus_of_node(node)
    # Without a type in the request, GPUs of any type are counted together.
    count = held.get(site.gpu_type, 0) if site.gpu_type else sum(held.values())
    return count >= site.gpus_per_node


def _fits(node: Mapping[str, str], site: SiteConfig) -> bool:
    cpus = number(node, "CPUEfctv", "CPUTot")
    memory = number(node, "RealMemory") - number(node, "MemSpecLimit")
    return (
        _gpus_fit(node, site)
        and site.cpus_per_task * max(1, site.gpus_per_node) <= cpus
        and site.memory_gb_per_node * 1024 <= memory
    )


def _wish(site: SiteConfig) -> str:
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


def check_hand_over(case: Case) -> Findings:
    """The next allocation can come in the way that the site's preset says."""
    if case.site is None or not case.is_slurm:
        return
    way = case.site.hand_over
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
    if case.facts is None or case.partition is None:
        return
    allowed, reason = may_requeue(case.facts, case.partition, case.site.qos)
    if way == "requeue" and not allowed:
        yield warning(
            "hand over", f"hand_over=requeue, but {reason}", "site.hand_over=chain is the safe way here"
        )
    else:
        yield ok("hand over", f"{way}; {reason}")


def check_preemption(case: Case) -> Findings:
    """What a preempted job is told, and how long it then has."""
    if case.facts is None or case.partition is None:
        return
    happens, mode, grace_s = preemption(case.facts, case.partition, case.site.qos if case.site else None)
    title = case.partition["PartitionName"]
    if not happens:
        yield ok("preemption", f"nothing preempts jobs in {title}")
        return
    from birdsd.checks.saving import leave_time

    needed_s, how = leave_time(case)
    told = "the user signal" if sends_user_signal(case.facts) else "SIGTERM"
    what = f"jobs in {title} can be preempted ({mode}): {told}, then {grace_s:.0f} s (GraceTime)"
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
    return any("preempt_send_user_signal" in one or "send_user_signal" in one for one in listed)


def check_trial(case: Case) -> Findings:
    """What sbatch itself says to a job as the site describes it; nothing is submitted."""
    if case.facts is None or case.site is None or case.partition is None:
        return
    job, tasks = job_and_tasks(case, case.site)
    try:
        site = resources(case.site, case.nodes, tasks, job, case.settings).site
    except UserError:
        return  # `check_limits` says so
    try:
        said = slurm.would_start(_request(site, case.nodes, tasks))
    except slurm.SlurmError as problem:
        yield error("sbatch", f"sbatch would refuse a job for this site: {problem.rule}", AGAIN)
        return
    yield ok("sbatch", f"would take a job of {case.nodes} node{'s' * (case.nodes > 1)}: {said}")


def job_and_tasks(case: Case, site: SiteConfig) -> tuple[str, int]:
    """Which job the settings are of, as far as that matters to a site, and its tasks a node."""
    if isinstance(case.settings, PrepareConfig):
        return "prepare", 1
    return "train", case.tasks_per_node or site.gpus_per_node or 1


def _request(site: SiteConfig, nodes: int, tasks_per_node: int) -> list[str]:
    options = [f"--nodes={nodes}", f"--time={site.time_limit_min}"]
    tasks = tasks_per_node or site.gpus_per_node or 1
    options.append(f"--ntasks-per-node={tasks}")
    for name in ("partition", "account", "qos", "constraint"):
        if value := getattr(site, name):
            options.append(f"--{name}={value}")
    if gpus := min(site.gpus_per_node, tasks):
        count = f"{site.gpu_type}:{gpus}" if site.gpu_type else str(gpus)
        options.append(f"--gres=gpu:{count}" if site.gpu_syntax == "gres" else f"--gpus-per-node={count}")
    if site.cpus_per_task:
        options.append(f"--cpus-per-task={site.cpus_per_task}")
    if site.memory_gb_per_node:
        options.append(f"--mem={round(site.memory_gb_per_node * 1024)}M")
    for key, value in site.sbatch.items():
        options.append(f"--{key}" if value is True else f"--{key}={value}")
    return options


def on_one_machine(facts: Facts) -> bool:
    """Whether every node is this very machine, as in a cluster for tests."""
    here = {platform.node(), platform.node().split(".")[0], "localhost"}
    return bool(facts.nodes) and all(node.get("NodeHostName") in here for node in facts.nodes)
