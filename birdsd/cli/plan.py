"""The verb `birdsd plan`: its parser, the table, and the JSON."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from birdsd.cli.verb import Verb, emit
from birdsd.errors import unknown_name
from birdsd.format import size, table
from birdsd.planning.plan_training import MFU, Choice, Plan, make_plan
from birdsd.runs.auto import AUTO

_JOBS = ("train", "generate")


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", help="job to plan: train or generate")
    parser.add_argument("settings", nargs="*", help="as for `birdsd run`; nodes=N, tasks_per_node=N")
    parser.add_argument(
        "--gpu", help="plan for this GPU instead of this machine's: memory (8GB) or name (H100)"
    )
    parser.add_argument("--site", help="plan for the GPUs, memory and time limit of this site")


def _run(options: argparse.Namespace) -> int:
    import warnings

    from birdsd.diffusion.export import quiet_diffusers

    if options.job not in _JOBS:
        raise unknown_name("job to plan", options.job, _JOBS)
    with quiet_diffusers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = plan(options.job, options.settings, options.gpu, options.site)
    return emit(options, *result)


VERBS = (
    Verb(
        "plan",
        "estimate memory and time, and choose the fastest settings that fit",
        _add,
        _run,
        "Neither the shards nor the model need to exist yet.\n\nexamples:\n"
        "  birdsd plan train model=sd15 method=lora machine=laptop-4gb\n"
        "  birdsd plan train model=sd15 method=full --gpu 80GB\n"
        "  birdsd plan train model=sd15 method=full machine=cluster nodes=4 --site SITE --json\n"
        "  birdsd plan generate model=sd15 machine=laptop-4gb --gpu 4GB",
    ),
)


def plan(
    job: str, settings: Sequence[str], gpu: str | None = None, site: str | None = None
) -> tuple[dict[str, Any], str]:
    """The facts and the text of `birdsd plan JOB SETTINGS`."""
    if job == "generate":
        from birdsd.planning.plan_clips import plan_clips

        return plan_clips(settings, gpu, site)
    made = make_plan(settings, gpu, site)
    return facts_of(made), text_of(made)


# -- JSON -------------------------------------------------------------------------------------------------


def facts_of(made: Plan) -> dict[str, Any]:
    """Everything of a plan, as plain values; bytes as they are."""
    chosen = made.chosen
    return {
        "job": "train",
        "model": made.config.model.name,
        "method": made.config.method.name,
        "hardware": {
            "described": made.there.described(),
            "gpu_bytes": made.there.gpu_bytes,
            "host_bytes": made.there.host_bytes,
            "gpus": made.there.ranks if made.there.card else 0,
            "nodes": made.there.nodes,
        },
        "parameters": made.asked.budget.step.learning,
        "asked": _choice(made, made.asked),
        "chosen": _choice(made, chosen) if chosen else None,
        "caches": _caches(made),
        "disk": disk(made),
        "notes": made.notes,
    }


def _caches(made: Plan) -> dict[str, int] | None:
    once = made.encoding
    return {**asdict(once), "device_bytes": once.device_bytes} if once else None


def _choice(made: Plan, choice: Choice) -> dict[str, Any]:
    layout, own = choice.layout, choice.budget
    return {
        "settings": {f"machine.{name}": value for name, value in layout.settings().items()},
        "accumulation": accumulation(made, choice),
        "gpu": own.gpu,
        "host": own.host,
        "gpu_bytes": own.gpu_bytes,
        "host_bytes": own.host_bytes,
        "fits": choice.fits,
        "lacks": choice.lacks,
        "estimate": {
            "samples_per_s": 1 / choice.sample_s,
            "hours": made.hours(choice),
            "gpu_hours": made.hours(choice) * max(1, made.there.ranks if made.there.card else 0),
            "allocations": allocations(made, choice),
            "flops_per_sample": own.step.flops // layout.micro_batch,
        },
    }


def accumulation(made: Plan, choice: Choice) -> int:
    """Micro-batches of a rank in a step."""
    batch = int(made.config.optim.global_batch or 1)
    return math.ceil(batch / (choice.layout.gpus * choice.layout.micro_batch))


def allocations(made: Plan, choice: Choice) -> int | None:
    """How many of the site's time limit it takes; None without a limit."""
    limit = made.there.time_limit_min
    return math.ceil(made.hours(choice) * 60 / limit) if limit else None


def disk(made: Plan) -> dict[str, int | None]:
    """Bytes of checkpoints that are kept, while one more is written, and of the shards where they are."""
    each = (16 if made.config.optim.ema_decay else 12) * made.asked.budget.step.learning
    place, shards = made.config.data.shards, None
    if place and Path(place).is_dir():
        shards = sum(path.stat().st_size for path in Path(place).rglob("*.tar"))
    return {"checkpoints": each * (made.config.save.keep + 1), "shards": shards}


# -- the table --------------------------------------------------------------------------------------------


def text_of(made: Plan) -> str:
    """The table for people."""
    step, config = made.asked.budget.step, made.config
    model = f"{config.model.name}, method={config.method.name}, {config.model.init}"
    lines = [
        f"train {model}: {_count(step.learning)} trainable parameters, "
        f"{made.codec['bands']} x {made.codec['frames']} images, global batch {config.optim.global_batch}, "
        f"{made.samples:,} samples",
        f"on    {made.there.described()}",
        *(f"note  {note}" for note in made.notes),
        "",
    ]
    columns = [("requested", made.asked)]
    if made.chosen and made.chosen.layout != made.asked.layout:
        columns.append(("chosen", made.chosen))
    lines += _table(made, columns)
    if made.chosen is None:
        lines += ["", *_nothing_fits(made)]
        return "\n".join(lines)
    choice = made.chosen
    same = choice.layout == made.asked.layout
    auto = config.machine.name == AUTO and made.there.card is not None
    title = (
        "machine=auto uses the fastest settings that fit"
        if auto
        else "the requested settings are the fastest that fit"
    )
    lines += ["", f"{title if same else 'chosen'}: {choice.layout.described()}"]
    if not same:
        lines.append(f"why     {_why(made, choice)}")
        now = {**vars(config.machine), "precision": made.asked.layout.precision}
        changed = {k: v for k, v in choice.layout.settings().items() if v != now[k]}
        typed = " ".join(f"machine.{k}={str(v).lower()}" for k, v in changed.items())
        lines.append(f"so      {typed}" + ("  (or machine=auto on that machine)" if made.there.card else ""))
    count = accumulation(made, choice)
    lines.append(
        f"step    {choice.layout.gpus} x {count} x {choice.layout.micro_batch} samples "
        f"(ranks x micro-batches x samples)"
    )
    times = allocations(made, choice)
    limit = f", {times} allocations of {made.there.time_limit_min} min" if times else ""
    ranks = made.there.ranks if made.there.card else 0
    hours = made.hours(choice)
    basis = f"{MFU:.0%} MFU" if ranks else "the throughput of one EPYC core"
    guess = f"estimated from {basis}, not measured"
    gpus = f", {hours * ranks:,.1f} GPU hours" if ranks else ""
    lines.append(f"time    about {hours:,.1f} h{gpus}{limit}: {guess}")
    if (once := made.encoding) is not None:
        each = f"{size(once.latent_bytes)} per clip, {size(once.text_row_bytes)} per caption"
        lines.append(
            f"caches  computed once before training, using {size(once.device_bytes)}; {each} on disk"
        )
    kept = disk(made)
    shards = f", shards {size(kept['shards'])}" if kept["shards"] else ""
    lines.append(f"disk    checkpoints {size(kept['checkpoints'] or 0)}{shards}")
    return "\n".join(lines)


def _table(made: Plan, columns: list[tuple[str, Choice]]) -> list[str]:
    rows = [["", *(title for title, _ in columns)]]
    for title, side, there in (
        ("GPU (each)", "gpu", made.there.gpu_bytes),
        ("host (each node)", "host", made.there.host_bytes),
    ):
        budgets: list[dict[str, int]] = [getattr(choice.budget, side) for _, choice in columns]
        names = dict.fromkeys(name for budget in budgets for name in budget)
        if not names:
            continue
        rows.append([title, *("" for _ in columns)])
        for name in names:
            if any(budget.get(name, 0) for budget in budgets):
                rows.append([f"  {name}", *(size(budget.get(name, 0)) for budget in budgets)])
        rows.append([f"  total, of {size(there)}", *(size(sum(budget.values())) for budget in budgets)])
    rows.append(["fits", *("yes" if choice.fits else "no" for _, choice in columns)])
    return table(rows)


def _why(made: Plan, choice: Choice) -> str:
    if not made.asked.fits:
        return f"the requested settings would need {made.asked.lacks}"
    faster = made.asked.sample_s / choice.sample_s
    return f"it also fits, and is estimated to be {faster:.1f} times as fast"


def _nothing_fits(made: Plan) -> list[str]:
    least = min(made.tried, key=lambda choice: (choice.budget.gpu_bytes, choice.budget.host_bytes))
    lines = [
        "NOTHING FITS",
        f"least   {least.layout.described()}: {least.lacks}",
        "ways    method=lora, method=textual_inversion or method.learns=[unet.*attn2*]: fewer weights learn;",
        "        optim.ema_decay=0: no EMA (this changes the result); more GPUs, or more host memory",
    ]
    for name, count in sorted((least.budget.host | least.budget.gpu).items(), key=lambda item: -item[1])[:4]:
        lines.append(f"        {size(count):>10}  {name}")
    return lines


def _count(parameters: int) -> str:
    if parameters >= 1_000_000:
        return f"{parameters / 1e6:,.1f} M"
    return f"{parameters:,}"
