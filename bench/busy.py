"""Training beside another busy program: what a CPU run does by itself, beside torch left alone.

Children train the `tiny` model, each in its turn for a few seconds: one as a CPU run does it, which looks at
the load and has its threads sleep while others are busy (`training.devices.cores`); one without that; and one
with a single thread, which waits for nobody. The neighbour is a process that counts for ever. Nothing else
should run on the machine; what did is told in the first row's note.

Fair share: with a thread of ours for each of C cores and one of the neighbour's, C / (C + 1) of what we do
alone.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.common import LeftOut, Row, Size
from birdsd.training.devices.cores import USERS_CHOICE, Neighbours, read_load, usable_cores

ROOT = Path(__file__).resolve().parents[1]
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", *USERS_CHOICE)
WAYS = ("minds", "torch alone", "one thread")
MADE = "made"  # the folder of the shards and the models that all of them take


def run(size: Size) -> list[Row]:
    """Rows of speed, quiet and busy."""
    cores = usable_cores()
    if cores < 2 or sys.platform != "linux":
        raise LeftOut("needs two cores and Linux")
    noticed_s, gone_s = size.of((2.5, 5.0), (2.5, 5.0), (0.0, 0.0))
    rounds, seconds = size.of((8, 4.0), (3, 2.0), (1, 0.1))
    speeds, others = _speeds(rounds, seconds, noticed_s, gone_s, size)
    share = cores / (cores + 1)

    def ratio(over: tuple[str, str], under: tuple[str, str]) -> float:
        return statistics.median(a / b for a, b in zip(speeds[over], speeds[under], strict=True))

    def said(way: str) -> str:
        quiet, busy = (statistics.median(speeds[way, load]) for load in ("quiet", "busy"))
        return f"{way}: {quiet:.0f} samples/s quiet, {busy:.0f} busy"

    minds, left = (WAYS[0], WAYS[1])
    quiet = ratio((left, "quiet"), (minds, "quiet"))
    kept = ratio((minds, "busy"), (left, "quiet")) / share
    left_kept = ratio((left, "busy"), (left, "quiet")) / share
    strangers = f"others used {others:.2f} cores when it was to be quiet"
    peer = f"which keeps {left_kept:.2f} of its share; {said(left)}"
    beside = (minds, "busy")
    return [
        Row("busy", "quiet: a step that minds neighbours / one that does not", quiet, 1.05, False, strangers),
        Row("busy", "beside a busy program: samples/s / fair share", kept, 0.6, note=said(minds)),
        Row("busy", "... / torch left alone beside it", ratio(beside, (left, "busy")), 1.2, note=peer),
        Row("busy", "... / one thread beside it", ratio(beside, (WAYS[2], "busy")), 0.6, note=said(WAYS[2])),
    ]


def _speeds(
    rounds: int, seconds: float, noticed_s: float, gone_s: float, size: Size
) -> tuple[dict[tuple[str, str], list[float]], float]:
    """Samples a second by way and load, round by round; and the cores that others used in the quiet.

    A run looks once a second, and takes three looks to believe that its neighbour is gone: it is given
    `noticed_s` and `gone_s` for that.
    """
    from bench.methods import SMALLEST, Bench

    speeds: dict[tuple[str, str], list[float]] = {}
    strangers = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="birdsd-bench-"))
        Bench(Path(folder) / MADE, pairs=0, **size.of({}, {}, SMALLEST))
        children = {way: stack.enter_context(_child(way, folder, size)) for way in WAYS}
        trainings = {way: ready() for way, ready in children.items()}
        for _ in range(rounds):
            time.sleep(gone_s)
            before = read_load()
            time.sleep(0.5)
            strangers.append(read_load().others_since(before))
            for way, training in trainings.items():
                speeds.setdefault((way, "quiet"), []).append(training(seconds))
            with _neighbour():
                time.sleep(noticed_s)
                for way, training in trainings.items():
                    speeds.setdefault((way, "busy"), []).append(training(seconds))
    return speeds, statistics.median(strangers)


@contextmanager
def _neighbour() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@contextmanager
def _child(way: str, folder: str, size: Size) -> Iterator[Any]:
    """A training that starts. Called, it waits until it is ready, and gives what to call with seconds:
    that trains so long, and says how many samples a second it made."""
    environment = {k: v for k, v in os.environ.items() if k not in _THREAD_VARIABLES}
    if size is Size.SMOKE and way != WAYS[0]:  # spinning, three at once take minutes to be ready
        environment["OMP_WAIT_POLICY"] = "passive"
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.busy", way, folder, size.name],
        cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None

    def train(seconds: float) -> float:
        print(seconds, file=process.stdin, flush=True)
        return float(json.loads(process.stdout.readline()))

    def ready() -> Any:
        assert process.stdout.readline() == "ready\n", "the training did not start; its words are above"
        return train

    try:
        yield ready
    finally:
        process.stdin.close()
        process.wait()


def _train(way: str, folder: Path, size: Size) -> None:
    """The child: reads seconds, line by line, and answers with samples a second."""
    from birdsd.quiet import terminal_for_us

    with terminal_for_us():
        from bench.methods import SMALLEST, WAYS, Bench

    if way != "minds":
        Neighbours.look = lambda self: None  # type: ignore[method-assign]
    machine = ["machine=smoke", *(["machine.threads=1"] if way == "one thread" else [])]
    place = folder / way.replace(" ", "-")
    place.mkdir()
    answers = sys.stdout
    sys.stdout = sys.stderr
    with terminal_for_us():
        more = size.of({}, {}, SMALLEST)
        bench = Bench(place, pairs=0, machine=machine, made=folder / MADE, **more)
        steps = bench.ours(WAYS["full"])
        for _ in range(3):
            next(steps)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        begin, done = time.perf_counter(), 0
        while time.perf_counter() - begin < float(line):
            next(steps)
            done += 1
        print(json.dumps(bench.batch * done / (time.perf_counter() - begin)), file=answers, flush=True)


if __name__ == "__main__":
    _train(sys.argv[1], Path(sys.argv[2]), Size[sys.argv[3]])
