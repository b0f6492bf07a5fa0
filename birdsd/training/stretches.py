"""A run that was made longer: where its stretches end, kept in RUN/extension.json.

Each stretch is a schedule of its own (see `schedule.learning_rate_at`), so that what was learnt before the
run was made longer stays what it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from birdsd.files import write_json

EXTENSION_FILE = "extension.json"


def read_totals(run_folder: Path) -> list[int]:
    """The values of optim.total_samples that a run has had, in order; [] where it never became longer."""
    try:
        stored = json.loads((Path(run_folder) / EXTENSION_FILE).read_text(encoding="utf-8"))
        return [int(total) for total in stored["totals"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def write_totals(run_folder: Path, totals: Sequence[int]) -> None:
    """Write them down."""
    write_json(Path(run_folder) / EXTENSION_FILE, {"totals": list(totals)})


def whole_batches(total: int, batch: int) -> int:
    """Samples seen at the end of a stretch: whole global batches only, so the last may reach beyond it."""
    return -(-total // batch) * batch
