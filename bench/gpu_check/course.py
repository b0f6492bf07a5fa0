"""The stages in order of worth, each item a process of its own with a time limit; what is done stays done."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from bench.gpu_check.record import DONE, FAILED, STOPPED, TIMED_OUT, Record
from bench.gpu_check.settings import Settings

# Less is not worth a start: torch alone takes seconds to import.
_LEAST_S = 10.0
_PATIENCE_S = 5.0  # for an item that was told to end


@dataclass(frozen=True)
class Item:
    """A piece of a stage. `share` of what is left of the stage's time; 0: all of it, as it ends by itself."""

    name: str
    share: float = 0.0


@dataclass(frozen=True)
class Stage:
    """`weight`: its share of the time that is left, next to those of the stages that are still to come."""

    name: str
    weight: float
    items: Sequence[Item]


class Clock(Protocol):
    """Seconds, never back."""

    def __call__(self) -> float: ...


def run(
    stages: Sequence[Stage],
    settings: Settings,
    record: Record,
    say: Callable[[str], None],
    clock: Clock = time.monotonic,
) -> bool:
    """Go through what is not done yet, until the time is up; True where everything is done.

    A stage that ends early leaves its time to the later ones. Once all had their turn, what was cut short
    gets the rest; what failed waits for the next call.
    """
    end = clock() + 60 * settings.minutes
    failed: set[tuple[str, str]] = set()
    for last in (False, True):
        for number, stage in enumerate(stages):
            waiting = [one for one in stages[number:] if _pending(one, record, failed)]
            if stage not in waiting:
                continue
            left = end - clock()
            weights = [one.weight for one in waiting]
            limit = left if last else left * stage.weight / sum(weights)
            _run_stage(stage, limit, settings, record, failed, say, clock)
    return not any(_pending(stage, record, set()) for stage in stages)


def _pending(stage: Stage, record: Record, failed: set[tuple[str, str]]) -> list[Item]:
    """The items that are still to do."""
    return [
        item
        for item in stage.items
        if record.outcome(stage.name, item.name) != DONE and (stage.name, item.name) not in failed
    ]


def _run_stage(
    stage: Stage,
    limit_s: float,
    settings: Settings,
    record: Record,
    failed: set[tuple[str, str]],
    say: Callable[[str], None],
    clock: Clock,
) -> None:
    end = clock() + limit_s
    waiting = _pending(stage, record, failed)
    while waiting:
        item, left = waiting[0], end - clock()
        if left < _LEAST_S:
            say(f"{stage.name}: its time is up before {', '.join(one.name for one in waiting)}")
            return
        shares = sum(one.share for one in waiting)
        limit = left * item.share / shares if item.share else left
        say(f"{stage.name}, {item.name}: at most {limit:.0f} s")
        began = clock()
        outcome, why = carry_out(stage.name, item.name, limit, settings, record)
        seconds = clock() - began
        record.add(stage.name, item.name, {"outcome": outcome, "seconds": round(seconds, 1), "why": why})
        say(f"{stage.name}, {item.name}: {outcome} after {seconds:.0f} s{'. ' + why if why else ''}")
        if outcome == STOPPED:
            raise KeyboardInterrupt
        if outcome == FAILED:
            failed.add((stage.name, item.name))
        waiting = waiting[1:]


def carry_out(stage: str, item: str, limit_s: float, settings: Settings, record: Record) -> tuple[str, str]:
    """One item in a process of its own: (its outcome, and why where it is not done). The rows that it prints
    are recorded as they come."""
    logs = settings.folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{stage}-{item}.txt".replace(" ", "-").replace("/", "-").replace(",", "")
    words = [
        sys.executable,
        "-m",
        "bench.gpu_check.worker",
        stage,
        item,
        f"{limit_s:.1f}",
        settings.to_json(),
    ]
    with open(log, "wb") as errors:
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    assert child.stdout is not None
    try:
        finished = _follow(child.stdout, time.monotonic() + limit_s, lambda row: record.add(stage, item, row))
    except KeyboardInterrupt:
        _end(child)
        return STOPPED, "interrupted"
    if not finished:
        _end(child)
        return TIMED_OUT, f"its {limit_s:.0f} s were up; what it had is kept"
    status = child.wait()
    _end(child)  # what it may have left behind
    return (DONE, "") if status == 0 else (FAILED, f"{_last_line(log, status)} ({log.name})")


def _follow(stream: IO[bytes], end: float, add: Callable[[dict[str, Any]], None]) -> bool:
    """Hand on the rows that come; False where the time is up before the stream ends."""
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=max(0.01, end - time.monotonic()))
        except queue.Empty:
            return False
        if line is None:
            return True
        try:
            row = json.loads(line)
        except ValueError:
            continue  # what a library printed
        if isinstance(row, dict):
            add(row)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask the item and all that it started to end, as Ctrl+C does, and see to it."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        deadline = time.monotonic() + _PATIENCE_S
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    child.wait()


def _last_line(log: Path, status: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"ended with {status}"
