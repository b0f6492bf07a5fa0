"""How a call of `train` ended, and the files of a run that tell it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from birdsd.files import read_json

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


def finished_before(run_folder: Path, events: Callable[[dict[str, Any]], None]) -> TrainResult | None:
    """What a run that is finished already came to; None where there is something left to do."""
    finished = run_folder / FINISHED_FILE
    if not (finished.is_file() and (run_folder / "export").is_dir()):
        return None
    facts = read_json(finished, "record of the finished run")
    events({"event": "nothing to do", "position": facts["position"]})
    export = None if facts["export"] is None else Path(facts["export"])
    return TrainResult(**{**facts, "export": export, "resumed_from": facts["position"], "seconds": {}})
