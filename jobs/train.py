"""train: shards -> a trained model. The same command resumes; a finished run is left alone and says so."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

from birdsd.cluster.handover import StopFlag
from birdsd.cluster.jobs import Outcome
from birdsd.cluster.store import Run, RunStore
from birdsd.errors import UserError
from birdsd.files import exclusive
from birdsd.schema import TrainConfig
from birdsd.shards.index import ShardIndex

# EX_TEMPFAIL of sysexits.h: what comes after in a script must not take the run for finished.
STOPPED_STATUS = 75


def run(config: TrainConfig) -> Outcome:
    """Open the run, restore its newest checkpoint, train until it is finished or asked to stop."""
    if not config.data.shards:
        raise UserError(
            "data.shards is not set", "training reads prepared shards", "data.shards=FOLDER of `prepare`"
        )
    index = ShardIndex.open(Path(config.data.shards))
    store = RunStore(Path(config.runs))
    config.model.autoencoder = store.model_source(config.model.autoencoder, "model.autoencoder")
    config.model.source = store.model_source(config.model.source, "model.source")
    opened = store.open(config, index)
    if opened.result is not None and opened.export_folder.is_dir():
        return _outcome(opened, opened.result, "nothing to do: this run is finished")

    from birdsd.diffusion.methods import make_method
    from birdsd.training.loop import train

    stop = StopFlag()
    first = os.environ.get("RANK", "0") == "0"
    try:
        with exclusive(opened.folder) if first else nullcontext():
            result = train(config, make_method(config, index), index, opened.folder, stop, opened.event)
    finally:
        stop.restore()
    facts = result.to_json()
    if result.finished:
        return _outcome(opened, facts, "finished")
    return _outcome(opened, facts, "stopped and saved; the same command goes on from here", STOPPED_STATUS)


def _outcome(opened: Run, facts: dict, line: str, status: int = 0) -> Outcome:
    facts = {**facts, "run": str(opened.folder), "signature": opened.signature}
    facts["nothing_to_do"] = line.startswith("nothing")
    lines = [f"{opened.folder.name}: {line}", f"  folder  {opened.folder}"]
    if status == 0:
        lines.append(f"  export  {opened.export_folder}")
    return Outcome("\n".join(lines), facts, status)
