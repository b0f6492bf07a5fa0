"""Where a classifier lies. No torch is imported here."""

from __future__ import annotations

from pathlib import Path

CLASSIFIER, WEIGHTS, FORMAT = "classifier.json", "model.safetensors", "birdsd-classifier-1"


def is_classifier(folder: Path) -> Path | None:
    """The folder of a classifier: `folder` itself, or the export of a run's folder; None for any other."""
    for place in (Path(folder), Path(folder) / "export"):
        if (place / CLASSIFIER).is_file():
            return place
    return None
