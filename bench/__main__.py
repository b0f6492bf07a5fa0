"""`make bench`: every ratio, in one run, beside the floor that it should reach.

python -m bench                 all of them
python -m bench codec reader    some of them
python -m bench --quick         smaller inputs; the ratios are rougher
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

AREAS = (
    "prepare", "codec", "reader", "loop", "methods", "memory", "checkpoint", "zero", "status", "start",
    "busy", "judge", "scenes",
)  # fmt: skip


def main() -> int:
    """Measure the areas that the command line names; 1 where a floor is missed."""
    parser = argparse.ArgumentParser(
        "bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("areas", nargs="*", help=f"of {', '.join(AREAS)}; all without any")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    if unknown := set(options.areas) - set(AREAS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(AREAS)}")
    rows = []
    for area in options.areas or AREAS:
        start = time.monotonic()
        found = importlib.import_module(f"bench.{area}").run(quick=options.quick)
        print(f"# {area}: {time.monotonic() - start:.0f} s", file=sys.stderr)
        rows.extend(found)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(f"{'area':8} {'what':58} {'ratio':>8} {'floor':>8}")
    for row in rows:
        sign = ">=" if row.higher_is_better else "<="
        mark = "" if row.reached else "   MISSED"
        print(f"{row.area:8} {row.what:58} {row.ratio:8.2f} {sign}{row.floor:6.2f}{mark}  {row.note}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    # One thread a side unless an area says otherwise: set before numpy and torch are imported.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    sys.exit(main())
