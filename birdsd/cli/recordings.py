"""`birdsd audit`, `birdsd inspect`: recordings and shards, looked at before training rests on them."""

from __future__ import annotations

import argparse
from pathlib import Path

from birdsd import config
from birdsd.cli.verb import Verb, at_least_one, emit
from birdsd.errors import BadValue


def _add_audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recordings", type=Path, help="a folder of recordings, or one file")
    parser.add_argument(
        "settings", nargs="*", help="codec=PRESET for each codec to compare (default: birdsong riffusion)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("audit"),
        help="folder for the pictures and audit.json (default: audit)",
    )
    parser.add_argument(
        "--limit",
        type=at_least_one,
        default=40,
        metavar="N",
        help="use at most N recordings, evenly sampled (default: 40)",
    )


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
            raise BadValue(
                f"cannot read {setting!r}", "audit takes codec=PRESET and codec.KEY=VALUE after it"
            )
    codecs = [Codec.from_config(config.compose("prepare", settings).codec) for settings in chosen]
    ear = listener_for(options.recordings)
    result = audit.run_audit(options.recordings, codecs, options.out, options.limit, ear)
    return emit(options, result.to_json(), audit.audit_text(result))


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", type=Path, help="folder of shards")
    parser.add_argument("--verify", action="store_true", help="read every sample and verify all checksums")


def _inspect(options: argparse.Namespace) -> int:
    from birdsd.shards import inspect

    facts = inspect.describe(options.shards, verify=options.verify)
    emit(options, facts, inspect.text(facts))
    return 1 if facts.get("damaged") else 0


VERBS = (
    Verb(
        "audit",
        "measure what codecs lose of your own recordings",
        _add_audit,
        _audit,
        "example:\n  birdsd audit recordings/ codec=birdsong codec=riffusion --limit 20",
    ),
    Verb("inspect", "show what a folder of shards contains", _add_inspect, _inspect),
)
