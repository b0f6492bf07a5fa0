"""How long `birdsd status` takes as a whole process, with 200 runs that have a past."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.common import Row, Size
from birdsd.files import append_bytes, write_json
from birdsd.runs.allocations import BEGAN, END, FOLDER, Began, Ended, write_record
from birdsd.runs.heartbeat import HEARTBEAT, Heartbeat

RUNS, ALLOCATIONS = 200, 6
ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "scipy", "pandas", "hydra", "diffusers")


def run(size: Size) -> list[Row]:
    """How fast `birdsd status` answers with hundreds of runs."""
    with tempfile.TemporaryDirectory(prefix="birdsd-bench-") as folder:
        root = Path(folder) / "runs"
        runs = size.of(RUNS, RUNS, 3)
        for number in range(runs):
            _write_run(root / f"small-full-{number:012x}", number)
        repeats = size.of(9, 3, 1)
        table, everything = (
            _process_s(root, options, repeats) for options in ([], ["--all", "--json"])
        )  # fmt: skip
        modules = _imported(root)
    note = f"s, median of {repeats}; no torch" if not modules else f"imports {', '.join(modules)}"
    return [
        Row("status", f"`birdsd status`, a process, {runs} runs, seconds", table, 1.0,
            higher_is_better=False, note=note),
        Row("status", f"`birdsd status --all --json`, {runs * ALLOCATIONS} allocations, seconds", everything,
            1.0, higher_is_better=False, note=f"s, median of {repeats}"),
    ]  # fmt: skip


def _process_s(root: Path, options: list[str], repeats: int) -> float:
    times = []
    for number in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "birdsd.cli", "status", "--runs", str(root), *options],
            check=True, stdout=subprocess.DEVNULL, cwd=ROOT,
        )  # fmt: skip
        if number:  # the first one reads the files from disk
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _imported(root: Path) -> list[str]:
    script = (
        "import sys, json, birdsd.cli.main; sys.argv = ['birdsd', 'status', '--runs', sys.argv[1]]; "
        f"birdsd.cli.main.main(); print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return list(json.loads(done.stdout.strip().split("\n")[-1]))


def _write_run(folder: Path, number: int) -> None:
    """A third are finished, a third stopped, a third were killed; all by hand, so that no Slurm is asked."""
    folder.mkdir(parents=True)
    now = time.time() - 86400
    write_json(folder / "config.json", {"optim": {"total_samples": 12000, "global_batch": 16}})
    for k in range(ALLOCATIONS):
        allocation = folder / FOLDER / f"local-n1-{k}"
        seconds = {"start": 10.0, "imports": 5.0, "restore": 2.0, "build": 8.0, "train": 3000.0, "save": 9.0}
        began = now + k * 4000
        write_record(allocation, BEGAN, Began(began, host="n1", world_size=4, gpus=4, position=k * 2000))
        done = (k + 1) * 2000
        beat = Heartbeat(began + 3050, 600, "train", done, 12000, 0.7, seconds, 0.1, k * 2000)
        write_record(allocation, HEARTBEAT, beat)
        os.utime(allocation / HEARTBEAT, (began + 3050,) * 2)
        reason = "finished" if number % 3 == 0 and k == ALLOCATIONS - 1 else "stopped"
        if number % 3 != 2:
            write_record(allocation, END, Ended(began + 3051, reason, 0, done, "", seconds))
        events = [{"time": began + s, "event": "saved", "position": s} for s in range(0, 3000, 100)]
        told = "".join(json.dumps(event) + "\n" for event in events)
        append_bytes(folder / "events" / f"n1-{k}.jsonl", told.encode())
    write_json(folder / "checkpoints" / "000000012000" / "COMMIT.json", {"position": 12000})
    if number % 3 == 0:
        write_json(folder / "finished.json", {"position": 12000, "total": 12000})
    write_json(folder / "signature.json", {"signature": folder.name.rpartition("-")[2], "job": "train"})


if __name__ == "__main__":
    for row in run(Size.QUICK if "--quick" in sys.argv else Size.FULL):
        print(f"{row.what}: {row.ratio:.2f} (at most {row.floor}); {row.note}")
