"""The command line. It imports nothing heavy: a verb's own imports happen when the verb runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import birdsd
from birdsd import config, plugins, schema
from birdsd.cli.verbs import VERBS, add_verbs
from birdsd.errors import UserError, clipped, likeness, nearest, unknown_name
from birdsd.quiet import libraries_on_stderr, terminal_for_us

EXAMPLES = """examples:
  birdsd presets                                      list what you can choose from
  birdsd audit recordings/ codec=birdsong codec=riffusion
  birdsd run prepare data.recordings=recordings/ data.shards=shards/
  birdsd inspect shards/
  birdsd run train method=autoencoder model=tiny data.shards=shards/
  birdsd run train method=full model=tiny model.autoencoder=RUN data.shards=shards/
  birdsd run generate run=RUN prompt="an American Robin singing" count=4
  birdsd judge generated/                             which species BirdNET hears in them
  birdsd submit train machine=cluster site=SITE nodes=2 model=sd15 data.shards=shards/
  birdsd status; birdsd logs -f RUN; birdsd report RUN

Running the same command again resumes the run; if the run is finished, it says so and does nothing."""

OWN_VERBS = ("run", "presets", "audit", "inspect", *VERBS)


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit status."""
    with terminal_for_us():
        return _main(sys.argv[1:] if arguments is None else list(arguments))


def _main(arguments: list[str]) -> int:
    typed = _verb_checked(arguments)
    if typed and not typed[0].startswith("-") and typed[0] not in OWN_VERBS:
        return _guarded(lambda: int(plugins.load(plugins.VERBS, typed[0])(typed[1:]) or 0))
    parser = _parser()
    options, rest = parser.parse_known_args(typed)
    if rest and hasattr(options, "settings") and not any(item.startswith("-") for item in rest):
        options.settings.extend(rest)  # settings may stand before and after a flag
    elif rest:
        _refuse(parser, typed, rest)
    if not hasattr(options, "call"):
        parser.print_help()
        return 0
    return _guarded(lambda: options.call(options))


def _guarded(work: Callable[[], int]) -> int:
    """The exit status of a verb's work, with a line for what a user can mend."""
    try:
        return work()
    except UserError as error:
        print(f"birdsd: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("birdsd: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; its closing is not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            raise  # not about a file that the user named
        print(f"birdsd: {error.filename}: {error.strerror}", file=sys.stderr)
        return UserError.exit_status


def _refuse(parser: argparse.ArgumentParser, typed: Sequence[str], rest: Sequence[str]) -> NoReturn:
    """End on words that no verb takes: an unknown option gets the nearest of those that there are."""
    unknown = next((word.partition("=")[0] for word in rest if word.startswith("-")), None)
    if unknown is None or typed[0].startswith("-"):
        parser.error(f"unrecognised: {clipped(' '.join(rest), 200)}")
    own: Any = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices[typed[0]]
    options = [name for action in own._actions for name in action.option_strings if name.startswith("--")]
    error = unknown_name(f"option of birdsd {typed[0]}", unknown, options, whole=f"birdsd {typed[0]} --help")
    print(f"birdsd: {error}", file=sys.stderr)
    raise SystemExit(UserError.exit_status)


def _verb_checked(arguments: list[str]) -> list[str]:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in OWN_VERBS:
        if arguments[0] in (others := plugins.names(plugins.VERBS)):
            return arguments
        verbs = (*OWN_VERBS, *others)
        job = nearest(arguments[0], schema.JOBS, 1)[0]
        is_job = likeness(arguments[0], job) >= 0.7
        way = f"{job} is a job: birdsd run {job} ..." if is_job else ""
        error = unknown_name("verb", arguments[0], verbs, way, "`birdsd --help`")
        print(f"birdsd: {error}", file=sys.stderr)
        raise SystemExit(2)
    return arguments


def _parser() -> argparse.ArgumentParser:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "birdsd", description=birdsd.__doc__, epilog=EXAMPLES, formatter_class=text
    )
    parser.add_argument("--version", action="version", version=f"birdsd {birdsd.__version__}")
    verbs = parser.add_subparsers(metavar="VERB")

    run = verbs.add_parser("run", help="run a job on this machine", formatter_class=text, epilog=_jobs_help())
    run.add_argument("job", help="name of the job, see below")
    run.add_argument(
        "settings", nargs="*", help="group=preset or key=value; `birdsd run JOB --keys` lists them"
    )
    run.add_argument("--keys", action="store_true", help="list every key of the job with its value, and exit")
    run.add_argument("--json", action="store_true", help="print the result as JSON")
    run.set_defaults(call=_run)

    listing = verbs.add_parser("presets", help="list the presets, with a one-line description of each")
    listing.add_argument("--json", action="store_true", help="print the result as JSON")
    listing.set_defaults(call=_presets)

    audit = verbs.add_parser(
        "audit",
        help="measure what codecs lose of your own recordings",
        formatter_class=text,
        epilog="example:\n  birdsd audit recordings/ codec=birdsong codec=riffusion --limit 20",
    )
    audit.add_argument("recordings", help="a folder of recordings, or one file")
    audit.add_argument(
        "settings", nargs="*", help="codec=PRESET for each codec to compare (default: birdsong riffusion)"
    )
    audit.add_argument(
        "--out", default="audit", help="folder for the pictures and audit.json (default: audit)"
    )
    audit.add_argument(
        "--limit",
        type=_at_least_one,
        default=40,
        help="use at most N recordings, evenly sampled (default: 40)",
        metavar="N",
    )
    audit.add_argument("--json", action="store_true", help="print the result as JSON")
    audit.set_defaults(call=_audit)

    inspect = verbs.add_parser("inspect", help="show what a folder of shards contains")
    inspect.add_argument("shards", help="folder of shards")
    inspect.add_argument("--verify", action="store_true", help="read every sample and verify all checksums")
    inspect.add_argument("--json", action="store_true", help="print the result as JSON")
    inspect.set_defaults(call=_inspect)
    add_verbs(verbs)
    return parser


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _jobs_help() -> str:
    return "jobs:\n" + "\n".join(f"  {job:10} {config.job_line(job)}" for job in schema.JOBS)


def _run(options: argparse.Namespace) -> int:
    settings = config.compose(options.job, options.settings)
    if options.keys:
        _print_keys(options.job, settings, options.json)
        return 0
    from birdsd.cluster.rank.ranks import join
    from birdsd.jobs_api import load_job
    from birdsd.runs.effects import without_effect

    launch = join(options.job, options.settings)
    for line in () if options.json else without_effect(options.job, options.settings, settings):
        print(f"birdsd: {clipped(line, 300)}", file=sys.stderr)
    with libraries_on_stderr() if options.json else nullcontext():
        outcome = load_job(options.job)(settings)
    if launch is None or launch.rank == 0:  # one word of one run
        _print(outcome.facts if options.json else outcome.text)
    return outcome.exit_status


def _print_keys(job: str, settings: Any, as_json: bool) -> None:
    if as_json:
        _print(config.as_dict(settings))
        return
    known = config.presets()
    for group, preset in schema.GROUP_DEFAULTS[job].items():
        print(f"{group}={preset}    (one of {', '.join(p.name for p in known.get(group, []))})")
    for key, _ in config.keys(type(settings)):
        value: Any = settings
        for part in key.split("."):
            value = getattr(value, part)
        print(f"{key}={'null' if value is None else value}")


def _presets(options: argparse.Namespace) -> int:
    known = config.presets()
    if options.json:
        _print({group: {preset.name: preset.line for preset in found} for group, found in known.items()})
        return 0
    for group, found in known.items():
        print(group)
        for preset in found:
            print(f"  {group + '=' + preset.name:28} {preset.line}")
    print(_jobs_help())
    return 0


def _audit(options: argparse.Namespace) -> int:
    from birdsd.evaluation.audit_listener import listener_for
    from birdsd.sound.audit import audit
    from birdsd.sound.codec.protocol import Codec

    chosen: list[list[str]] = []
    for setting in options.settings or ["codec=birdsong", "codec=riffusion"]:
        if setting.startswith("codec="):
            chosen.append([setting])
        elif setting.startswith("codec.") and chosen:
            chosen[-1].append(setting)  # a change to the codec named just before it
        else:
            raise UserError(
                f"cannot read {setting!r}", "audit takes codec=PRESET and codec.KEY=VALUE after it"
            )
    codecs = [Codec.from_config(config.compose("prepare", settings).codec) for settings in chosen]
    recordings = Path(options.recordings)
    result = audit.run_audit(recordings, codecs, Path(options.out), options.limit, listener_for(recordings))
    _print(result.to_json() if options.json else audit.audit_text(result))
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from birdsd.shards import inspect

    facts = inspect.describe(Path(options.shards), verify=options.verify)
    _print(facts if options.json else inspect.text(facts))
    return 1 if facts.get("damaged") else 0


def _print(value: object) -> None:
    print(value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False))
