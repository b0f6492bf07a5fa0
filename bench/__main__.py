"""`make bench`: every ratio, in one run, beside the floor that it should reach.

python -m bench                 all of them
python -m bench codec reader    some of them
python -m bench --quick         smaller inputs; the ratios are rougher
python -m bench --smoke         each once at its smallest: whether it runs, not how fast
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.common import LeftOut, Row, Size

AREAS = (
    "prepare", "codec", "reader", "loop", "methods", "memory", "checkpoint", "zero", "status", "start",
    "busy", "judge", "classify", "resampling", "scenes", "space", "separation", "upscaling",
)  # fmt: skip


# They start processes of their own, and wait for them.
OF_PROCESSES = ("start", "busy", "status")


def main(words: list[str] | None = None) -> int:
    """Measure the areas that the command line names; 1 where one fails or a floor is missed."""
    parser = argparse.ArgumentParser(
        "bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("areas", nargs="*", help=f"of {', '.join(AREAS)}; all without any")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the rows to this file, as they come")
    options = parser.parse_args(words)
    if unknown := set(options.areas) - set(AREAS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(AREAS)}")
    size = Size.SMOKE if options.smoke else Size.QUICK if options.quick else Size.FULL
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(f"{'area':8} {'what':58} {'ratio':>8} {'floor':>8}", flush=True)
    areas = options.areas or AREAS
    return measure(areas, size, options.json) if size is not Size.SMOKE else smoke(areas, options.json)


def smoke(areas: Sequence[str], into: Path | None = None) -> int:
    """`measure` at the smallest size, whose ratios mean nothing: so the areas that start processes run in one
    of their own, beside the others. 1 where one of them fails."""
    beside = [area for area in areas if area in OF_PROCESSES]
    rest = [area for area in areas if area not in beside]
    if not beside or not rest:
        return measure(areas, Size.SMOKE, into)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "rows.json"
        child = subprocess.Popen([sys.executable, "-m", "bench", "--smoke", "--json", str(part), *beside])
        try:
            status = measure(rest, Size.SMOKE, into)
            ended = child.wait()
        finally:
            child.kill()
        broken = [{"area": ", ".join(beside), "failed": f"their process ended with {ended}"}]
        rows = json.loads(part.read_text()) if part.is_file() else broken
        if into:
            _write(into, json.loads(into.read_text()) + rows)
    return 1 if status or ended else 0


def measure(areas: Iterable[str], size: Size, into: Path | None = None) -> int:
    """Print each row of `areas` as it comes, and write all to `into`; 1 where one of them fails, or, unless
    it is SMOKE, misses its floor. What comes after a failure is measured all the same."""
    kept: list[dict[str, object]] = []
    failed, missed = [], 0
    for area in areas:
        start, cpu_s = time.monotonic(), _cpu_s()
        try:
            for row in importlib.import_module(f"bench.{area}").run(size):
                print(_line(row, size), flush=True)
                missed += not row.reached
                kept.append(asdict(row))
                _write(into, kept)
        except LeftOut as why:
            print(f"{area:8} left out: {why}", flush=True)
            kept.append({"area": area, "left_out": str(why)})
        except Exception as error:
            traceback.print_exc()
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"{area:8} FAILED: {said}", flush=True)
            kept.append({"area": area, "failed": said})
            failed.append(area)
        _write(into, kept)
        took = f"{time.monotonic() - start:.0f} s, {_cpu_s() - cpu_s:.0f} s of processor time"
        print(f"# {area}: {took}", file=sys.stderr, flush=True)
    if failed:
        print(f"\n{len(failed)} of the areas failed: {', '.join(failed)}")
    if size is not Size.SMOKE and missed:
        print(f"\n{missed} of {sum('ratio' in row for row in kept)} rows miss their floor")
    return 1 if failed or (missed and size is not Size.SMOKE) else 0


def _line(row: Row, size: Size) -> str:
    sign = ">=" if row.higher_is_better else "<="
    mark = "   MISSED" if not row.reached and size is not Size.SMOKE else ""
    return f"{row.area:8} {row.what:58} {row.ratio:8.2f} {sign}{row.floor:6.2f}{mark}  {row.note}"


def _write(into: Path | None, rows: list[dict[str, object]]) -> None:
    if into:
        into.write_text(json.dumps(rows, indent=2) + "\n")


def _cpu_s() -> float:
    """Of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    # One thread a side unless an area says otherwise: set before numpy and torch are imported.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    sys.exit(main())
