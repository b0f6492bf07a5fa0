"""`make faults`: every fault on the testbed cluster, and the table of what came of it.

python -m tests.faults                  all of them
python -m tests.faults preemption disk  those whose names hold a word
python -m tests.faults --json FILE      also write the outcomes down
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.drill import Drill, Outcome, as_json, straight_run
from tests.faults.launching import FAULTS
from tests.faults.scenarios import Fault
from tests.support.testbed import testbed_missing
from tests.support.toy import make_shards

BROKEN = (3, 17, 29)


class Suite:
    """Runs faults in `work`, each in a folder of its own, against undisturbed runs made once."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._straight: dict[tuple[bool, tuple[str, ...]], tuple[Path, Path]] = {}
        self._lock = threading.Lock()

    def straight(self, broken: bool, settings: tuple[str, ...] = ()) -> tuple[Path, Path]:
        """(shards, folder of the undisturbed run) with or without samples that cannot be decoded."""
        key = broken, settings
        with self._lock:
            if key not in self._straight:
                name = "broken" if broken else "sound"
                shards = self.work / f"shards-{name}"
                if not shards.is_dir():
                    make_shards(shards, broken=BROKEN if broken else ())
                place = self.work / f"straight-{name}-{len(self._straight)}"
                self._straight[key] = shards, straight_run(place, shards, settings)
            return self._straight[key]

    def run(self, fault: Fault) -> Outcome:
        """One fault from its beginning to the comparison."""
        shards, straight = self.straight(fault.broken, fault.straight)
        number = FAULTS.index(fault)
        drill = Drill(self.work / f"{number:02d}", shards, **fault.options)
        fault.act(drill)
        return drill.outcome(straight)


def verdict(fault: Fault, outcome: Outcome) -> bool:
    """Survived, and with no more work done twice than may be."""
    return outcome.survived and outcome.most_redone <= fault.redone


def line(fault: Fault, outcome: Outcome | None, seconds: float, problem: str = "") -> str:
    """One row of the table."""
    if outcome is None:
        return f"{fault.name:40} {'NO':>8}  {problem.splitlines()[0] if problem else ''}"
    said = "yes" if verdict(fault, outcome) else "NO"
    redone = f"{outcome.most_redone} (<= {fault.redone})"
    return (
        f"{fault.name:40} {said:>8} {outcome.lost:>6} {outcome.doubled:>8} {redone:>14} "
        f"{'bitwise' if outcome.equal else 'DIFFER':>9} {outcome.allocations:>6} {seconds:>6.0f} s  "
        f"{'; '.join(outcome.notes)}"
    )


HEADER = (
    f"{'fault':40} {'survived':>8} {'lost':>6} {'doubled':>8} {'recomputed':>14} {'weights':>9} {'alloc.':>6}"
)


def main() -> int:
    """Run them, two at a time where they do not touch each other's nodes."""
    parser = argparse.ArgumentParser("faults", description=__doc__)
    parser.add_argument("words", nargs="*", help="only faults whose names hold one of these words")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, help="keep the work in this folder")
    options = parser.parse_args()
    if missing := testbed_missing():
        print(f"faults: {missing}", file=sys.stderr)
        return 2
    chosen = [f for f in FAULTS if not options.words or any(word in f.name for word in options.words)]
    work = options.work or Path(tempfile.mkdtemp(prefix="birdsd-faults-"))
    suite, told = Suite(work), []
    print(HEADER, flush=True)

    def one(fault: Fault) -> None:
        start, outcome, problem = time.monotonic(), None, ""
        try:
            outcome = suite.run(fault)
        except (Exception, SystemExit) as error:
            problem = f"{type(error).__name__}: {error}"
            (work / f"{FAULTS.index(fault):02d}.problem").write_text(problem)
        print(line(fault, outcome, time.monotonic() - start, problem), flush=True)
        facts = {"problem": problem} if outcome is None else as_json(outcome)
        told.append({"fault": fault.name, "ok": outcome is not None and verdict(fault, outcome), **facts})

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, [f for f in chosen if not f.alone]))
    for fault in chosen:
        if fault.alone:
            one(fault)
    good = sum(entry["ok"] for entry in told)
    lost, doubled = _total(told, "lost"), _total(told, "doubled")
    print(f"\n{good} of {len(told)} survived; samples: {lost} lost, {doubled} doubled")
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    if good == len(told) and not options.work:
        shutil.rmtree(work, ignore_errors=True)
    else:
        print(f"the runs lie in {work}")
    return 0 if good == len(told) else 1


def _total(told: list[dict], key: str) -> int:
    return sum(entry.get(key, 0) for entry in told)


if __name__ == "__main__":
    sys.exit(main())
