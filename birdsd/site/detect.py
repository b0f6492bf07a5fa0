"""`birdsd site detect`: a site preset from what Slurm reports, each line with its source."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from birdsd.config import own_config_folder
from birdsd.errors import AlreadyThere, NotFound, unknown_name
from birdsd.files import safe_name, write_text
from birdsd.site import slurm
from birdsd.site.facts import (
    Facts,
    accepts,
    ask,
    closed,
    may_requeue,
    preemption,
    time_limits,
    usable_associations,
)
from birdsd.site.gpus import gpus_of_node, has_whole, kinds_of
from birdsd.site.partitions import for_cpu_jobs, hardware

INFINITE_MIN = 2880  # requested where nothing limits a job: two days
LEAD_S, SHORT_KILL_WAIT_S = 120, 30
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
_NOT_PLAIN = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "none"}


def detect(
    partition: str | None = None, name: str | None = None, gpu_type: str | None = None
) -> dict[str, Any]:
    """The facts of the site of this login node; see `describe`."""
    return describe(ask(), partition, name, os.environ, gpu_type)


def describe(
    facts: Facts,
    partition: str | None,
    name: str | None,
    environment: Mapping[str, str],
    gpu_type: str | None = None,
) -> dict[str, Any]:
    """A site preset: its "line", "values" and "sources" by field, and a line for each of the "others".

    Without a `partition` the default one is taken, or the best one with GPUs where the default has none;
    whole GPUs are preferred to slices, and `gpu_type` to others.
    """
    chosen = facts.partition(partition) if partition else _choose(facts, gpu_type)
    title = chosen["PartitionName"]
    cluster = facts.config.get("ClusterName", "slurm")
    values: dict[str, Any] = {"name": safe_name(name or (f"{cluster}-{title}" if partition else cluster))}
    sources = {"name": f"ClusterName={cluster}"}
    values["executor"], sources["executor"] = (
        "slurm",
        f"Slurm {facts.config.get('SLURM_VERSION', '')}".strip(),
    )
    values["partition"], sources["partition"] = title, _why(facts, chosen, partition)

    def put(preset: Mapping[str, tuple[Any, str]]) -> None:
        for key, (value, source) in preset.items():
            values[key], sources[key] = value, source

    put(_account_and_qos(facts, chosen))
    put(hardware(facts, chosen, values["account"], values["qos"], gpu_type))
    put(_time(facts, chosen, values))
    put(for_cpu_jobs(facts, chosen, values["account"], values["qos"], values["time_limit_min"]))
    put(_hand_over(facts, chosen, values["qos"]))
    put(_surroundings(environment))
    gpus, kind = values["gpus_per_node"], values["gpu_type"]
    each = f"with {gpus} {kind + ' ' if kind else ''}GPU{'s' * (gpus != 1)} each" if gpus else "without GPUs"
    size = f"{values['max_nodes']} node{'s' * (values['max_nodes'] != 1)} {each}"
    line = f"{cluster}, partition {title}: {size}, {_hours(values['time_limit_min'])}"
    others = [_one_line(facts, other) for other in facts.partitions if other is not chosen]
    return {"line": line, "values": values, "sources": sources, "others": others}


def to_json(preset: Mapping[str, Any]) -> dict[str, Any]:
    """The facts for scripts: the preset's values, and the source of each."""
    return dict(preset)


def to_yaml(preset: Mapping[str, Any]) -> str:
    """The preset as a YAML file: the first line describes it, and each value has its source."""
    lines = [f"# {preset['line']}"]
    for key, value in preset["values"].items():
        source = " ".join(preset["sources"][key].split())
        lines.append(f"{key}: {_scalar(value)}" + (f" # {source}" if source else ""))
    if preset["others"]:
        lines.append("# The other partitions:")
        lines += [f"#   {other}" for other in preset["others"]]
    return "\n".join(lines) + "\n"


def write(preset: Mapping[str, Any], path: Path | None = None, force: bool = False) -> Path:
    """Write the preset to `path`, or among the user's own presets; refuses to overwrite without `force`."""
    target = Path(path) if path else own_config_folder() / "site" / f"{preset['values']['name']}.yaml"
    if target.exists() and not force:
        raise AlreadyThere(
            f"{target} exists already",
            "a preset may have been edited by hand",
            "--force overwrites it; --name NAME or --out FILE writes another",
        )
    write_text(target, to_yaml(preset))
    return target


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _NOT_PLAIN
        return value if plain else json.dumps(value, ensure_ascii=False)
    return "null" if value is None else json.dumps(value)


# -- partitions ---------------------------------------------------------------------------------------


def _choose(facts: Facts, gpu_type: str | None = None) -> Mapping[str, str]:
    open_ones = [p for p in facts.partitions if not closed(facts, p)] or list(facts.partitions)
    if not open_ones:
        raise NotFound("Slurm shows no partition", "jobs run in a partition", "ask the site for access")
    nodes = {p["PartitionName"]: facts.nodes_of(p["PartitionName"]) for p in open_ones}
    default = next((p for p in open_ones if p.get("Default") == "YES"), None)
    with_gpus = [p for p in open_ones if kinds_of(nodes[p["PartitionName"]])]
    if gpu_type:
        named = gpu_type.casefold()
        kinds = {p["PartitionName"]: kinds_of(nodes[p["PartitionName"]]) for p in with_gpus}
        fits = [p for p in with_gpus if any(k.type.casefold() == named for k in kinds[p["PartitionName"]])]
        if not fits:
            raise unknown_name("type of GPU", gpu_type, (k.type for row in kinds.values() for k in row))
        with_gpus = fits
    whole = [p for p in with_gpus if has_whole(nodes[p["PartitionName"]])]
    wanted = with_gpus if gpu_type else whole or with_gpus  # slices only if there is nothing else
    if default is not None and (default in wanted or not wanted):
        return default

    def worth(partition: Mapping[str, str]) -> tuple[float, int]:
        limit = slurm.seconds(partition.get("MaxTime", ""))
        count = sum(1 for node in nodes[partition["PartitionName"]] if gpus_of_node(node))
        return min(limit or 60.0 * INFINITE_MIN, 60.0 * INFINITE_MIN), count

    return max(wanted, key=worth) if wanted else open_ones[0]


def _why(facts: Facts, chosen: Mapping[str, str], named: str | None) -> str:
    why = "requested" if named else "the default" if chosen.get("Default") == "YES" else "the best with GPUs"
    problem = closed(facts, chosen)
    return f"scontrol show partition: {why}" + (f"; BUT {problem}" if problem else "")


def _one_line(facts: Facts, partition: Mapping[str, str]) -> str:
    title = partition["PartitionName"]
    kinds = sorted(kinds_of(facts.nodes_of(title)), key=lambda kind: kind.type)
    gpus = ", ".join(f"{kind.per_node} {kind.type or 'GPU'}" for kind in kinds) or "no GPUs"
    preempted, mode, grace = preemption(facts, partition, None)
    parts = [
        f"{title}: {len(facts.nodes_of(title))} nodes ({gpus})",
        f"MaxTime={partition.get('MaxTime', '?')}",
        f"preempted jobs: {mode}, GraceTime={grace:.0f} s" if preempted else "",
        closed(facts, partition),
    ]
    return ", ".join(part for part in parts if part)


# -- account and qos ----------------------------------------------------------------------------------


def _account_and_qos(facts: Facts, partition: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    usable = usable_associations(facts, partition)
    if not usable:
        why = facts.no_accounting or f"sacctmgr knows no association of {facts.user} for this partition"
        return {"account": (None, why), "qos": (None, why)}
    accounts = list(dict.fromkeys(row["Account"] for row in usable))
    account = facts.default_account if facts.default_account in accounts else accounts[0]
    others = [name for name in accounts if name != account]
    source = "sacctmgr: " + ("your default" if account == facts.default_account else "one of yours")
    source += f"; also {', '.join(others)}" if others else ""
    qos, why = _qos(facts, partition, next(row for row in usable if row["Account"] == account))
    return {"account": (account, source), "qos": (qos, why)}


def _qos(facts: Facts, partition: Mapping[str, str], row: Mapping[str, str]) -> tuple[str | None, str]:
    names = [name for name in row.get("QOS", "").split(",") if name]
    allowed = partition.get("AllowQos", "ALL")
    fitting = [name for name in names if accepts(partition, "Qos", name)]
    rest = ", ".join(fitting) or "none"
    if row.get("DefaultQOS") in fitting:
        return row["DefaultQOS"], f"sacctmgr: the default of your association; it has {rest}"
    if "normal" in fitting:
        return "normal", f"sacctmgr: Slurm's default; your association has {rest}"
    if fitting:
        return fitting[0], f"sacctmgr: your association has {rest}" + (
            f"; the partition allows {allowed}" if allowed != "ALL" else ""
        )
    return None, f"sacctmgr: none that this partition allows ({allowed}) is yours"


# -- time ---------------------------------------------------------------------------------------------


def _time(
    facts: Facts, partition: Mapping[str, str], values: Mapping[str, Any]
) -> dict[str, tuple[Any, str]]:
    limits = time_limits(facts, partition, values["account"], values["qos"])
    minutes, source = (
        limits[0] if limits else (INFINITE_MIN, "no limit is set: two days, so that jobs get a turn")
    )
    kill_wait = slurm.seconds(facts.config.get("KillWait", "")) or 0.0
    lead = LEAD_S
    why = f"KillWait={kill_wait:.0f} s; `birdsd doctor --run RUN` compares it with the time of a save"
    if kill_wait < SHORT_KILL_WAIT_S:
        lead, why = lead + 30, f"more than usual, as KillWait is only {kill_wait:.0f} s"
    if lead > 15 * minutes:
        lead, why = max(10, 15 * minutes), f"a quarter of the time limit; {why}"
    return {"time_limit_min": (minutes, source), "signal_lead_s": (lead, why)}


def _hours(minutes: int) -> str:
    return f"at most {minutes / 60:.0f} h" if minutes >= 120 else f"at most {minutes} min"


def _hand_over(facts: Facts, partition: Mapping[str, str], qos: str | None) -> dict[str, tuple[Any, str]]:
    allowed, reason = may_requeue(facts, partition, qos)
    return {"hand_over": ("requeue" if allowed else "chain", reason)}


# -- around -------------------------------------------------------------------------------------------


def _surroundings(environment: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    has_modules = [name for name in ("LMOD_VERSION", "MODULESHOME", "MODULEPATH") if environment.get(name)]
    modules = f"`module` works here ({has_modules[0]} is set)" if has_modules else "no `module` was found"
    proxy, proxy_said = _proxy(environment)
    return {
        "modules": ([], f"{modules}; name what your Python needs, e.g. [cuda/12.4]"),
        "offline": (True, "compute nodes are taken to have no internet: `birdsd cache-models` on this node"),
        "proxy": (proxy, proxy_said),
        "scratch": _scratch(environment),
    }


def _proxy(environment: Mapping[str, str]) -> tuple[str | None, str]:
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        text = environment.get(name, "")
        if text:
            address = urlsplit(text if "//" in text else f"http://{text}")
            place = address.netloc.rpartition("@")[2]
            hidden = "; its user name and password were left out" if "@" in address.netloc else ""
            return f"{address.scheme}://{place}", f"${name}{hidden}"
    return None, "no $http_proxy"


def _scratch(environment: Mapping[str, str]) -> tuple[str | None, str]:
    from birdsd.site.filesystem import is_shared

    for name in ("SLURM_TMPDIR", "TMPDIR"):
        if environment.get(name):
            return f"${name}", "set here; each node resolves it for itself"
    for folder in ("/scratch", "/local", "/localscratch"):
        if os.path.isdir(folder) and not is_shared(Path(folder)):
            return folder, "exists on this node and is local"
    return None, "neither $SLURM_TMPDIR nor $TMPDIR is set, and there is no local /scratch or /local"
