"""`make gpu-check`: one command that takes a borrowed GPU through everything, in order of worth, and stops
when its time is up.

python -m bench.gpu_check --minutes 10              on the first GPU; again: it goes on where it was
python -m bench.gpu_check --cpu                     every stage on the CPU, with a tiny model, to try it out
python -m bench.gpu_check --stages memory speed     some of them
python -m bench.gpu_check --out results --work /scratch/gpu-check

Results are written as they are found, to results.jsonl and results.md in --out. What takes gigabytes lies in
--work.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from bench.gpu_check.course import Item, Stage, run
from bench.gpu_check.record import TABLES, Record
from bench.gpu_check.settings import REHEARSAL, Settings

# In order of worth; each with its share of the time that is left, next to those of the stages to come.
WEIGHTS = {"facts": 1.0, "tests": 6.0, "memory": 4.0, "speed": 5.0, "learning": 4.0, "verify": 2.0}


def main() -> int:
    """0 where every stage is done, 1 where something failed or is left to do, 130 where it was interrupted,
    2 without a GPU."""
    options = _options()
    settings = Settings(
        options.minutes, options.cpu, str(options.out), str(options.work or ""), str(options.data)
    )
    if not settings.cpu:
        import torch

        if not torch.cuda.is_available():
            print(
                "gpu-check: PyTorch sees no GPU here; `--cpu` tries every stage out on the CPU",
                file=sys.stderr,
            )
            return 2
    if options.again:
        shutil.rmtree(settings.folder, ignore_errors=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    record = Record(settings.folder, heading(settings))
    began = time.monotonic()
    try:
        done = run(stages(settings, options.stages), settings, record, say)
    except KeyboardInterrupt:
        say(f"interrupted; what there is stands in {settings.folder / TABLES}, the same command goes on")
        return 130
    said = "every stage is done" if done else "not everything is done: the same command goes on"
    say(f"{said}, after {(time.monotonic() - began) / 60:.1f} minutes; see {settings.folder / TABLES}")
    return 0 if done else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "bench.gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="all stages together take no longer")
    parser.add_argument("--cpu", action="store_true", help="on the CPU, tiny, to try it out")
    parser.add_argument("--stages", nargs="*", choices=list(WEIGHTS), default=list(WEIGHTS))
    parser.add_argument("--out", type=Path, default=Path(Settings.out), help="for results, a few megabytes")
    parser.add_argument("--work", type=Path, help="for models and runs, gigabytes (default: below --out)")
    parser.add_argument("--data", type=Path, default=Path(Settings.data), help="shards of real birds")
    parser.add_argument("--again", action="store_true", help="forget earlier results in --out")
    return parser.parse_args()


def stages(settings: Settings, names: list[str]) -> list[Stage]:
    """Those that were asked for, in order of worth. Rehearsed, each is one item: the imports of many
    processes would take longer than the work."""
    found = []
    for name in [one for one in WEIGHTS if one in names]:
        module: Any = importlib.import_module(f"bench.gpu_check.{name}")
        items = (Item(REHEARSAL),) if settings.cpu else module.ITEMS
        found.append(Stage(name, WEIGHTS[name], items))
    return found


def heading(settings: Settings) -> str:
    """What was measured, when, and how."""
    from bench.gpu_check.facts import card_name

    command = f"python -m bench.gpu_check {' '.join(sys.argv[1:])}".strip()
    return f"{card_name(settings)}, {time.strftime('%Y-%m-%d')}, `{command}`"


def say(line: str) -> None:
    """Progress, on stderr."""
    print(f"gpu-check: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
