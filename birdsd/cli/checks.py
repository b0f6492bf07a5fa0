"""`birdsd doctor`, `birdsd site detect`, `birdsd verify`."""

from __future__ import annotations

import argparse
from pathlib import Path

from birdsd.cli.verb import Verb, emit, find_run


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", nargs="?", help="a job whose settings to check as well")
    parser.add_argument("settings", nargs="*", help="the job's settings, as for `birdsd submit`")
    parser.add_argument("--site", help="check this site: a preset, or a YAML file")
    parser.add_argument("--run", help="check this run: its folder, locks and checkpoints")
    parser.add_argument("--deep", action="store_true", help="also read every shard, and test PyTorch")


def _doctor(options: argparse.Namespace) -> int:
    from birdsd import config
    from birdsd.checks import doctor

    job, settings = options.job, list(options.settings)
    if job is not None and "=" in job:
        job, settings = "train", [job, *settings]
    where, what = config.split_settings(job, settings) if job else ([], [])
    if options.site:
        where.insert(0, f"site={options.site}")
    submit = config.compose(config.schema.SUBMIT, where) if where else None
    settled = config.compose(job, what) if job else None
    run = find_run(options) if options.run else None
    site, nodes, tasks = (submit.site, submit.nodes, submit.tasks_per_node) if submit else (None, 1, 0)
    findings = doctor.diagnose(site, settled, run, options.runs, options.deep, nodes, tasks)
    emit(options, [finding.to_json() for finding in findings], doctor.text(findings))
    return doctor.exit_status(findings)


def _add_site(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(metavar="WHAT", required=True)
    detect = what.add_parser("detect", help="write a site preset from what Slurm reports")
    detect.add_argument("--partition", help="the partition to use (default: the one with GPUs)")
    detect.add_argument("--gpu-type", help="the type of GPU to use, if there are several")
    detect.add_argument("--name", help="the preset's name (default: the cluster's)")
    detect.add_argument("--out", type=Path, help="the file to write (default: among your own presets)")
    detect.add_argument("--force", action="store_true", help="overwrite the file")
    detect.add_argument("--json", action="store_true", help="print the facts as JSON, and write nothing")


def _detect(options: argparse.Namespace) -> int:
    from birdsd.site import detect

    facts = detect.detect(options.partition, options.name, options.gpu_type)
    if options.json:
        return emit(options, detect.to_json(facts), "")
    path = detect.write(facts, options.out, options.force)
    print(f"{detect.to_yaml(facts)}\nwritten to {path}; use it with site={path.stem}")
    return 0


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "settings",
        nargs="*",
        help="settings of `birdsd run train`; without data, a small synthetic data set is created",
    )
    parser.add_argument(
        "--worlds", type=_numbers, default=[1, 2], help="numbers of ranks to try (default: 1,2)"
    )
    parser.add_argument(
        "--stages", type=_numbers, default=[0], help="ZeRO stages to try; 0 is plain torch (default: 0)"
    )
    parser.add_argument("--kills", type=int, default=3, help="number of kills (default: 3)")
    parser.add_argument("--steps", type=int, default=24, help="number of training steps (default: 24)")
    parser.add_argument("--seed", type=int, default=0, help="random seed for when to kill (default: 0)")
    parser.add_argument("--out", type=Path, help="working folder (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="keep the temporary working folder")


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 1,2,4") from error
    if min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"{min(numbers)} is below 0")
    return numbers


def _verify(options: argparse.Namespace) -> int:
    from birdsd.checks.verify.verify import verify
    from birdsd.cli.tables.verify import result_text

    result = verify(
        options.settings, options.worlds, options.stages, options.kills, options.steps, options.seed,
        options.out, options.keep,
    )  # fmt: skip
    emit(options, result.to_json(), result_text(result))
    return result.exit_status


VERBS = (
    Verb(
        "doctor",
        "check for problems before they cost a night in the queue",
        _add_doctor,
        _doctor,
        "examples:\n  birdsd doctor\n  birdsd doctor --site mycluster\n"
        "  birdsd doctor train model=sd15 data.shards=shards/ --site mycluster --deep\n"
        "  birdsd doctor --run RUN",
        takes_runs=True,
    ),
    Verb("site", "create a preset for a cluster: `birdsd site detect`", _add_site, _detect, as_json=False),
    Verb(
        "verify",
        "check that interrupted and resized training gives identical results",
        _add_verify,
        _verify,
        "example:\n  birdsd verify machine=smoke --worlds 1,2,4 --stages 0,1,2,3 --kills 6",
    ),
)
