"""train: shards -> a trained model. The same command resumes; a finished run is left alone and says so."""

from __future__ import annotations

from pathlib import Path

from birdsd.cluster.handover import StopFlag
from birdsd.cluster.jobs import Outcome
from birdsd.cluster.store import Run, RunStore
from birdsd.errors import UserError
from birdsd.schema import TrainConfig
from birdsd.shards.index import ShardIndex


def run(config: TrainConfig) -> Outcome:
    """Open the run, restore its newest checkpoint, train until it is finished or asked to stop."""
    if not config.data.shards:
        raise UserError(
            "data.shards is not set", "training reads prepared shards", "data.shards=FOLDER of `prepare`"
        )
    index = ShardIndex.open(Path(config.data.shards))
    opened = RunStore(Path(config.runs)).open(config, index)
    if opened.result is not None:
        return _outcome(opened, opened.result, "nothing to do: this run is finished")

    from birdsd.training.loop import train

    from birdsd.diffusion.methods import make_method

    stop = StopFlag()
    try:
        result = train(config, make_method(config, index), index, opened.folder, stop, opened.event)
    finally:
        stop.restore()
    facts = result.to_json()
    if result.finished:
        return _outcome(opened, facts, "finished")
    return _outcome(opened, facts, "stopped and saved; the same command goes on from here")


def _outcome(opened: Run, facts: dict, line: str) -> Outcome:
    facts = {**facts, "run": str(opened.folder), "signature": opened.signature}
    facts["nothing_to_do"] = line.startswith("nothing")
    return Outcome(
        f"{opened.folder.name}: {line}\n  folder  {opened.folder}\n  export  {opened.export_folder}", facts
    )
