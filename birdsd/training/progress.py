"""What a run says while it trains: a bar where someone watches, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from birdsd.format import span

_LINE_EVERY_S = 30.0


@dataclass
class Pulse:
    """Where a process is in its work. One object, changed as it goes on and shown at every sign of life.

    `phase`: restore, build, train, validate, save, preview or export. Positions are samples seen;
    `seconds` says where the time went, by phase.
    """

    phase: str = "restore"
    position: int = 0
    total: int = 0
    samples_per_s: float = 0.0
    loss: float | None = None
    resumed_from: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def opening_line(facts: dict[str, Any], resumed: bool) -> str:
    """What a run says of itself when its steps begin; `facts` are those of its event "training"."""
    where = f"resumed at {facts['position']} of {facts['total']} samples"
    return (
        f"{facts['precision']} on {facts['device']} ({facts['precision_reason']}); engine {facts['engine']} "
        f"({facts['engine_reason']}); {facts['parameters']:,} trainable parameters; global batch "
        f"{facts['global_batch']} = {facts['world_size']} x {facts['micro_batches']} x up to "
        f"{facts['micro_batch']}; {where if resumed else str(facts['total']) + ' samples'}"
    )


class Progress:
    """Speaks on rank 0 only, to stderr."""

    def __init__(self, total: int, position: int, speaks: bool) -> None:
        self.speaks = speaks
        self._watched = speaks and sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=position,
            unit="sample",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not self._watched,
        )
        self._said = self._began = time.monotonic()
        self._first, self._total = position, total

    def say(self, line: str) -> None:
        """A line of its own."""
        if self.speaks:
            self._bar.write(line, file=sys.stderr)

    def update(self, position: int, values: dict[str, Any]) -> None:
        """Where the run is: loss, samples a second, and when it will be done.

        The rate is that of this process as a whole: single steps wait for saves and for other programs.
        """
        if self._watched:
            self._bar.set_postfix({"loss": f"{values['loss']:.4f}"}, refresh=False)
            self._bar.update(position - self._bar.n)
        elif self.speaks and time.monotonic() - self._said > _LINE_EVERY_S:
            self._said = time.monotonic()
            per_s = (position - self._first) / max(1e-9, self._said - self._began)
            self.say(
                f"{position}/{self._total} samples  loss {values['loss']:.4f}  "
                f"{per_s:.1f}/s  {span((self._total - position) / max(1e-9, per_s))} left"
            )

    def close(self) -> None:
        self._bar.close()


class Stopwatch:
    """Where the seconds went, by name. `entered` is told the name each time that one begins."""

    def __init__(self, entered: Callable[[str], None] = lambda name: None) -> None:
        self.seconds: dict[str, float] = {}
        self._entered = entered

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._entered(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def rounded(self) -> dict[str, float]:
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}
