"""How a call of `train` ended, and the files of a run that tell it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FINISHED_FILE, CHECKPOINTS = "finished.json", "checkpoints"


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended. `seconds` says where this call's time went."""

    position: int
    total: int
    finished: bool
    stopped: bool
    export: Path | None
    resumed_from: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "export": None if self.export is None else str(self.export)}
