"""The verbs about jobs (submit, resume, status, logs, cancel, report, doctor, site, verify, cache-models)
and about models (export, ema, import, ui), those that carry a run elsewhere (pack, unpack), and `judge`.

Parsers only; what a verb needs is imported when it runs, so that a login node answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

VERBS = (
    "submit", "resume", "status", "logs", "cancel", "report", "doctor", "site", "verify", "cache-models",
    "export", "ema", "import", "ui", "pack", "unpack", "plan", "judge", "prompts",
)  # fmt: skip
_TEXT = argparse.RawDescriptionHelpFormatter
RUN_HELP = "name, signature or folder of the run; a unique prefix will do"


def add_verbs(verbs: Any) -> None:
    """Add the parsers of `VERBS` to the command line."""
    _add_submit(verbs)
    _add_watching(verbs)
    _add_checking(verbs)
    _add_formats(verbs)


def _add_submit(verbs: Any) -> None:
    submit = verbs.add_parser(
        "submit",
        help="submit a job to Slurm, or run it in background processes on this machine",
        formatter_class=_TEXT,
        epilog="examples:\n"
        "  birdsd submit train machine=cluster site=mycluster nodes=2 model=sd15 data.shards=shards/\n"
        "  birdsd submit train machine=smoke site=local tasks_per_node=2 data.shards=shards/ --wait\n"
        "  birdsd submit prepare site=mycluster array=8 data.recordings=recordings/ data.shards=shards/\n"
        "  birdsd submit cache site=mycluster array=8 model=sd15 method=lora data.shards=shards/\n"
        "  birdsd submit train ... --dry-run           only print the sbatch script",
    )
    submit.add_argument("job", help="name of the job; `birdsd run --help` lists them")
    submit.add_argument(
        "settings",
        nargs="*",
        help="as for `birdsd run`, plus site=SITE nodes=N tasks_per_node=N array=N site.KEY=VALUE",
    )
    submit.add_argument(
        "--dry-run", action="store_true", help="print the sbatch script without submitting it"
    )
    submit.add_argument("--wait", action="store_true", help="follow the log until the run ends")
    submit.add_argument("--json", action="store_true", help="print the result as JSON")
    submit.set_defaults(call=_submit)

    resume = verbs.add_parser(
        "resume",
        help="submit a run again, with the same settings or to another site",
        formatter_class=_TEXT,
        epilog="examples:\n  birdsd resume RUN\n  birdsd resume RUN site=othercluster nodes=4\n"
        "  birdsd resume RUN site.time_limit_min=600\n"
        "  birdsd resume RUN data.shards=NEW_LOCATION         after moving the shards\n"
        "  birdsd resume RUN optim.total_samples=200000       train a finished run for longer",
    )
    resume.add_argument("run", help=RUN_HELP)
    resume.add_argument(
        "settings",
        nargs="*",
        help="settings to change: site=..., nodes=..., machine=..., machine.KEY=VALUE, data.shards=..., "
        "optim.total_samples=MORE",
    )
    _add_runs(resume)
    resume.set_defaults(call=_resume)


def _add_watching(verbs: Any) -> None:
    status = verbs.add_parser("status", help="show all runs, or one in detail")
    status.add_argument("run", nargs="?", help=f"{RUN_HELP}; without it, a table of all runs")
    status.add_argument("--all", action="store_true", help="include finished and cancelled runs, however old")
    _add_runs(status)
    status.set_defaults(call=_status)

    logs = verbs.add_parser(
        "logs",
        help="show a run's log",
        formatter_class=_TEXT,
        epilog="examples:\n  birdsd logs RUN -f\n  birdsd logs RUN --rank 3 -n 200\n"
        "  birdsd logs RUN --stacks",
    )
    logs.add_argument("run", help=RUN_HELP)
    logs.add_argument("--rank", type=int, help="show this rank (default: rank 0; with --stacks, all ranks)")
    logs.add_argument("--allocation", help="show this allocation (default: the latest)")
    logs.add_argument("-f", "--follow", action="store_true", help="follow, across allocations")
    logs.add_argument("-n", "--lines", type=int, default=40, help="number of lines to show (default: 40)")
    logs.add_argument("--stacks", action="store_true", help="show the stack dumps of ranks that hung")
    _add_runs(logs, as_json=False)
    logs.set_defaults(call=_logs)

    cancel = verbs.add_parser("cancel", help="ask a run to save and stop, and remove its jobs from the queue")
    cancel.add_argument("run", help=RUN_HELP)
    cancel.add_argument(
        "--now", action="store_true", help="scancel at once, without waiting for a checkpoint"
    )
    _add_runs(cancel)
    cancel.set_defaults(call=_cancel)

    report = verbs.add_parser("report", help="write a self-contained HTML report of a run")
    report.add_argument("run", help=RUN_HELP)
    report.add_argument("--out", type=Path, help="file to write (default: RUN/report.html)")
    report.add_argument("--price", type=float, help="price per GPU hour, for the cost table")
    report.add_argument("--currency", default="EUR", help="currency of --price (default: EUR)")
    _add_runs(report)
    report.set_defaults(call=_report)


def _add_checking(verbs: Any) -> None:
    doctor = verbs.add_parser(
        "doctor",
        help="check for problems before they cost a night in the queue",
        formatter_class=_TEXT,
        epilog="examples:\n  birdsd doctor\n  birdsd doctor --site mycluster\n"
        "  birdsd doctor train model=sd15 data.shards=shards/ --site mycluster --deep\n"
        "  birdsd doctor --run RUN",
    )
    doctor.add_argument("job", nargs="?", help="a job whose settings to check as well")
    doctor.add_argument("settings", nargs="*", help="the job's settings, as for `birdsd submit`")
    doctor.add_argument("--site", help="check this site: a preset, or a YAML file")
    doctor.add_argument("--run", help="check this run: its folder, locks and checkpoints")
    doctor.add_argument("--deep", action="store_true", help="also read every shard, and test PyTorch")
    _add_runs(doctor)
    doctor.set_defaults(call=_doctor)

    site = verbs.add_parser("site", help="create a preset for a cluster: `birdsd site detect`")
    what = site.add_subparsers(metavar="WHAT", required=True)
    detect = what.add_parser("detect", help="write a site preset from what Slurm reports")
    detect.add_argument("--partition", help="the partition to use (default: the one with GPUs)")
    detect.add_argument("--gpu-type", help="the type of GPU to use, if there are several")
    detect.add_argument("--name", help="the preset's name (default: the cluster's)")
    detect.add_argument("--out", type=Path, help="the file to write (default: among your own presets)")
    detect.add_argument("--force", action="store_true", help="overwrite the file")
    detect.add_argument("--json", action="store_true", help="print the facts as JSON, and write nothing")
    detect.set_defaults(call=_detect)

    verify = verbs.add_parser(
        "verify",
        help="check that interrupted and resized training gives identical results",
        formatter_class=_TEXT,
        epilog="example:\n  birdsd verify machine=smoke --worlds 1,2,4 --stages 0,1,2,3 --kills 6",
    )
    verify.add_argument(
        "settings",
        nargs="*",
        help="settings of `birdsd run train`; without data, a small synthetic data set is created",
    )
    verify.add_argument(
        "--worlds", type=_numbers, default=[1, 2], help="numbers of ranks to try (default: 1,2)"
    )
    verify.add_argument(
        "--stages", type=_numbers, default=[0], help="ZeRO stages to try; 0 is plain torch (default: 0)"
    )
    verify.add_argument("--kills", type=int, default=3, help="number of kills (default: 3)")
    verify.add_argument("--steps", type=int, default=24, help="number of training steps (default: 24)")
    verify.add_argument("--seed", type=int, default=0, help="random seed for when to kill (default: 0)")
    verify.add_argument("--out", type=Path, help="working folder (default: a temporary one)")
    verify.add_argument("--keep", action="store_true", help="keep the temporary working folder")
    verify.add_argument("--json", action="store_true", help="print the result as JSON")
    verify.set_defaults(call=_verify)

    cache = verbs.add_parser(
        "cache-models",
        help="download models on a login node, for compute nodes without internet access",
        formatter_class=_TEXT,
        epilog="examples:\n  birdsd cache-models stable-diffusion-v1-5/stable-diffusion-v1-5\n"
        "  birdsd cache-models model=sd15",
    )
    cache.add_argument(
        "models", nargs="+", help="hub ids, folders, or the settings of a training run (model=sd15)"
    )
    cache.add_argument("--json", action="store_true", help="print the result as JSON")
    cache.set_defaults(call=_cache_models)


def _add_formats(verbs: Any) -> None:
    from birdsd.cli.ema import add_ema
    from birdsd.cli.export import add_export
    from birdsd.cli.import_ import add_import

    add_export(verbs)
    verbs.choices["export"].set_defaults(call=_export)
    add_ema(verbs)
    verbs.choices["ema"].set_defaults(call=_ema)
    add_import(verbs)
    verbs.choices["import"].set_defaults(call=_import)
    from birdsd.cli.ui import add_ui

    add_ui(verbs)
    from birdsd.cli.judge import add_judge
    from birdsd.cli.pack import add_packing
    from birdsd.cli.plan import add_plan
    from birdsd.cli.prompts import add_prompts

    add_packing(verbs)
    add_plan(verbs)
    add_judge(verbs)
    add_prompts(verbs)


def _add_runs(parser: argparse.ArgumentParser, as_json: bool = True) -> None:
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder that holds the runs (default: runs)"
    )
    if as_json:
        parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 1,2,4") from error
    if min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"{min(numbers)} is below 0")
    return numbers


def _print(value: Any, as_json: bool, text: str) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str) if as_json else text)


# -- what they call ---------------------------------------------------------------------------------------


def _submit(options: argparse.Namespace) -> int:
    from birdsd.cluster.submit import submit

    submitted = submit(options.job, options.settings, options.dry_run)
    _say_notes(submitted)
    if options.dry_run:
        _print(submitted.to_json(), options.json, submitted.script)
        return 0
    if not options.wait:
        name = submitted.run.folder.name
        more = f"\n  birdsd status {name}\n  birdsd logs -f {name}" if submitted.job_ids else ""
        _print(submitted.to_json(), options.json, submitted.line + more)
        return 0
    from birdsd.cluster.wait import wait_for

    print(submitted.line, file=sys.stderr, flush=True)
    outcome = wait_for(submitted.run)
    facts = {**outcome.facts, "nothing_to_do": not submitted.job_ids}
    _print(facts, options.json, outcome.text)
    return outcome.exit_status


def _resume(options: argparse.Namespace) -> int:
    from birdsd.cluster.resume import resubmit

    submitted = resubmit(_run(options), options.settings)
    _say_notes(submitted)
    _print(submitted.to_json(), options.json, submitted.line)
    return 0


def _say_notes(submitted: Any) -> None:
    for note in submitted.notes:
        print(f"birdsd: {note}", file=sys.stderr, flush=True)


def _status(options: argparse.Namespace) -> int:
    from birdsd.cli.tables.status import detail_text, text
    from birdsd.runs.status.detail import detail
    from birdsd.runs.status.overview import overview

    if options.run:
        told = detail(_run(options))
        _print(told.to_json(), options.json, detail_text(told))
        return 0
    found = overview(options.runs, everything=options.all or options.json)
    _print([one.to_json() for one in found], options.json, text(found, options.all))
    return 0


def _logs(options: argparse.Namespace) -> int:
    from birdsd.runs.status.logs import show

    return show(
        _run(options), options.rank, options.allocation, options.follow, options.lines, options.stacks
    )


def _cancel(options: argparse.Namespace) -> int:
    from birdsd.cluster.cancel import cancel

    facts, text = cancel(_run(options), options.now)
    _print(facts, options.json, text)
    return 0


def _report(options: argparse.Namespace) -> int:
    from birdsd.pages.run.page import write

    written = write(_run(options), options.out, options.price, options.currency)
    _print(written.facts, options.json, str(written.path))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from birdsd import config
    from birdsd.checks import doctor

    settings = list(options.settings)
    job = options.job
    if job is not None and "=" in job:
        job, settings = "train", [job, *settings]
    where, what = config.split_settings(job, settings) if job else ([], [])
    if options.site:
        where.insert(0, f"site={options.site}")
    asked = config.compose(config.schema.SUBMIT, where) if where else None
    settled = config.compose(job, what) if job else None
    run = _run(options) if options.run else None
    site, nodes, tasks = (asked.site, asked.nodes, asked.tasks_per_node) if asked else (None, 1, 0)
    findings = doctor.diagnose(site, settled, run, options.runs, options.deep, nodes, tasks)
    _print([f.to_json() for f in findings], options.json, doctor.text(findings))
    return doctor.exit_status(findings)


def _detect(options: argparse.Namespace) -> int:
    from birdsd.site import detect

    facts = detect.detect(options.partition, options.name, options.gpu_type)
    if options.json:
        _print(detect.to_json(facts), True, "")
        return 0
    path = detect.write(facts, options.out, options.force)
    print(f"{detect.to_yaml(facts)}\nwritten to {path}; use it with site={path.stem}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from birdsd.checks.verify.verify import verify
    from birdsd.cli.tables.verify import result_text

    result = verify(
        options.settings, options.worlds, options.stages, options.kills, options.steps, options.seed,
        options.out, options.keep,
    )  # fmt: skip
    _print(result.to_json(), options.json, result_text(result))
    return result.exit_status


def _cache_models(options: argparse.Namespace) -> int:
    from birdsd.runs.models.hub import cache_models

    facts, text = cache_models(options.models)
    _print(facts, options.json, text)
    return 0


def _export(options: argparse.Namespace) -> int:
    from birdsd.cli.export import export_run
    from birdsd.quiet import libraries_on_stderr, silent_transformers

    with libraries_on_stderr(), silent_transformers():
        facts, text = export_run(
            options.run, options.formats, out=options.out, dtype=options.dtype, base=options.base,
            runs=options.runs,
        )  # fmt: skip
    _print(facts, options.json, text)
    return 0


def _ema(options: argparse.Namespace) -> int:
    from birdsd.quiet import libraries_on_stderr, silent_transformers
    from birdsd.runs.models.averaging import average_run

    with libraries_on_stderr(), silent_transformers():
        facts, text = average_run(options.run, options.length, options.out, options.runs)
    _print(facts, options.json, text)
    return 0


def _import(options: argparse.Namespace) -> int:
    from birdsd.cli.import_ import import_path
    from birdsd.quiet import libraries_on_stderr, silent_transformers

    with libraries_on_stderr(), silent_transformers():
        facts, text = import_path(
            options.file, base=options.base, codec=options.codec, clip=options.clip, token=options.token,
            out=options.out, runs=options.runs,
        )  # fmt: skip
    _print(facts, options.json, text)
    return 0


def _run(options: argparse.Namespace) -> Any:
    from birdsd.runs.run import RunStore

    return RunStore(options.runs).find(options.run)
