"""What the stages of a study read from a run: its curve, its size, and where its recordings came from."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from birdsd.files import fingerprint, safe_name
from birdsd.runs.run import Run
from birdsd.training.records import read_metrics


def metrics_by_kind(run: Run) -> dict[str, list[dict[str, Any]]]:
    """The lines of a run's metrics by kind: train, validation, resume."""
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in read_metrics(run.folder):
        by_kind[line["kind"]].append(line)
    return by_kind


def trainable_parameters(run: Run) -> int:
    """How many parameters were trained, from the run's own events."""
    return max((int(event["parameters"]) for event in run.events() if "parameters" in event), default=0)


def source_name(recordings: Path) -> str:
    """A folder name for what is made from some recordings, so that other recordings disturb nothing."""
    place = Path(recordings).resolve()
    return f"{safe_name(place.name)}-{fingerprint(str(place), 6)}"
