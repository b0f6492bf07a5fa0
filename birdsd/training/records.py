"""What a run writes down as it goes: the curve (metrics.jsonl) and which samples it saw (ledger.bin).

Both hold each step once, however often the run was stopped: what was written beyond the position
that a run resumes from is dropped when it resumes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.errors import Damaged
from birdsd.files import append_bytes, atomic_write, explained_write

if TYPE_CHECKING:
    from birdsd.shards.index import ShardIndex
    from birdsd.training.checkpoints.checkpoint import Event

METRICS_FILE, LEDGER_FILE = "metrics.jsonl", "ledger.bin"
# In the ledger: sample n that could not be decoded is -1 - n; a position that was never written down.
UNKNOWN = np.iinfo(np.int32).min


def read_metrics(run_folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics, in order; a line torn by a kill or a full disk is skipped.

    Each has `kind` ("train", "validation" or "resume") and `position`, the samples seen.
    """
    path = Path(run_folder) / METRICS_FILE
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and "position" in value:
                yield value


class Metrics:
    """Appends to metrics.jsonl; one write per batch of whole lines."""

    def __init__(self, run_folder: Path) -> None:
        self.path = Path(run_folder) / METRICS_FILE

    def rewind(self, position: int) -> None:
        """Drop what lies beyond `position`, and anything torn."""
        if not self.path.is_file():
            return
        kept = [line for line in read_metrics(self.path.parent) if line["position"] <= position]
        with atomic_write(self.path) as stream:
            stream.write(_lines(kept))

    def append(self, lines: list[dict[str, Any]]) -> None:
        """Add lines at the end."""
        if lines:
            append_bytes(self.path, _lines(lines))


class Ledger:
    """The number of the sample at every position, as int32 in a file: position i is at byte 4 * i."""

    def __init__(self, run_folder: Path) -> None:
        self.path = Path(run_folder) / LEDGER_FILE

    def rewind(self, position: int) -> None:
        """Make the ledger end at `position`; entries that a crash of the machine lost become UNKNOWN."""
        with explained_write(self.path), open(self.path, "ab") as stream:
            count = stream.tell() // 4
            stream.truncate(4 * min(count, position))
        if count < position:
            append_bytes(self.path, np.full(position - count, UNKNOWN, np.int32).tobytes())

    def append(self, numbers: np.ndarray) -> None:
        """Add the samples of the positions that follow; -1 - n for one that could not be decoded."""
        append_bytes(self.path, np.ascontiguousarray(numbers, np.int32).tobytes())

    def read(self) -> np.ndarray:
        """All entries, int32 [positions]."""
        return np.fromfile(self.path, np.int32) if self.path.is_file() else np.zeros(0, np.int32)

    def bad_samples(self) -> set[int]:
        """The numbers of the samples that could not be decoded so far."""
        entries = self.read()
        return {int(-1 - n) for n in np.unique(entries[(entries < 0) & (entries != UNKNOWN)])}


class BadSamples:
    """Names each sample that cannot be decoded once, and stops the run where there are too many of them."""

    def __init__(self, index: ShardIndex, limit: int, events: Event) -> None:
        self._index, self._limit, self._events = index, limit, events
        self._known: set[int] = set()

    def rewind(self, known: set[int]) -> None:
        """Those that were named before."""
        self._known = known

    def note(self, seen: np.ndarray, problems: dict[int, str]) -> None:
        """`seen`: the samples of a step, -1 - n for a bad one; `problems`: why, by number, where known."""
        fresh = {int(-1 - n) for n in seen[seen < 0]} - self._known
        if not fresh:
            return
        self._known |= fresh
        for number in sorted(fresh):
            key = self._index.key("train", number)
            reason = problems.get(number, "see the log of the rank that read it")
            self._events({"event": "sample not decoded", "key": key, "reason": reason})
        if len(self._known) > self._limit:
            raise Damaged(
                f"{len(self._known)} samples could not be decoded, the last of them {key}: {reason}",
                f"save.max_bad_samples allows {self._limit}",
                "look at the shards with `birdsd inspect SHARDS`, restore them, or raise the limit",
            )


def _lines(values: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()
