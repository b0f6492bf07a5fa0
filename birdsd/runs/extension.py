"""Extending a run: `birdsd resume RUN optim.total_samples=MORE`, before or after its end.

The run keeps its folder and its signature: its samples, its curve and its order continue from its newest
checkpoint. One more stretch is added to the schedule and noted in the run's events; the export is written
again at the end.
"""

from __future__ import annotations

import os

from birdsd.config import changed, signature
from birdsd.errors import BadValue, Mismatch, NotFound, UserError
from birdsd.files import exclusive, fsync_folder, read_json, write_json
from birdsd.method_facts import stored
from birdsd.runs.allocations import newest_position
from birdsd.runs.run import SIGNATURE_FILE, Run, RunStore
from birdsd.schema import MODEL_KEYS
from birdsd.training.records import LEDGER_FILE
from birdsd.training.result import FINISHED_FILE
from birdsd.training.stretches import read_totals, whole_batches, write_totals

KEY = "optim.total_samples"


def extend(run: Run, total: int) -> str:
    """Let a run end at `total` samples; returns a line about it.

    Raises `UserError` for a run that cannot continue, that is in use, or that is that long already.
    """
    config = run.config
    optim = config.get("optim") or {}
    facts = stored(config)
    if run.job != "train" or (facts is not None and not facts.trains):
        raise Mismatch(f"{run.folder.name} learns from no stream of samples", f"{KEY} does not apply to it")
    batch = int(optim["global_batch"] or 1)
    totals = read_totals(run.folder) or [int(optim["total_samples"])]
    before, result = totals[-1], run.result
    reached = int(result["position"]) if result is not None else newest_position(run.folder)
    # After a kill between the two writes below, the same command completes them.
    half_done = total == before and result is not None and reached < whole_batches(total, batch)
    if not half_done:
        if whole_batches(total, batch) <= whole_batches(before, batch):
            what = "shorter than" if total < before else "as long as"
            raise BadValue(
                f"{KEY}={total} is {what} {run.folder.name} is, {before} samples",
                "training can only be extended",
                f"{KEY}= more than {whole_batches(before, batch)}; a shorter run is a separate run",
            )
        totals = [*totals, total]
    if result is not None and newest_position(run.folder) < reached:
        raise NotFound(
            f"the last checkpoint of {run.folder.name}, at sample {reached}, is gone",
            "a run resumes from its weights and optimizer states, which the export does not contain",
            "restore it from a copy, or start a run from the export: model.init=pretrained model.source=RUN",
        )
    with exclusive(run.folder):
        write_totals(run.folder, totals)
        write_json(run.folder / "config.json", {**config, "optim": {**optim, "total_samples": total}})
        if result is not None:
            os.replace(run.folder / FINISHED_FILE, run.folder / f"finished-{reached:012d}.json")
            fsync_folder(run.folder)
    schedule = in_words(str(optim.get("decay")), whole_batches(totals[-2], batch), total)
    run.event({"event": "extended", "from": totals[-2], "to": total, "schedule": schedule})
    return f"{run.folder.name}: {totals[-2]} samples become {total}; {schedule}"


def in_words(decay: str, begin: int, end: int) -> str:
    """The learning rate in the added stretch, in words."""
    if decay == "constant":
        return "the learning rate stays constant, as if the run had been that long from the start"
    return (
        f"from sample {begin} to {end} the {decay} schedule runs again: up over the warm-up, and "
        "down to its end"
    )


def could_be_extended(run: Run) -> str:
    """A hint at an existing run that differs from this new one in its length only; "" if there is none."""
    mark = read_json(run.folder / SIGNATURE_FILE)
    if (run.folder / LEDGER_FILE).is_file() or mark.get("job", "train") != "train":
        return ""
    models = {name: mark[name] for name in MODEL_KEYS if name in mark}
    wanted = int(run.config["optim"]["total_samples"])
    for other in RunStore(run.folder.parent).runs("train"):
        try:
            length = int(other.config["optim"]["total_samples"])
            own = (read_totals(other.folder) or [length])[0]
            as_long = changed("train", run.config, [f"{KEY}={own}"])
        except (UserError, KeyError, TypeError, ValueError):
            continue
        if signature(as_long, **models, data=mark["data"]) != other.signature or own == wanted:
            continue
        longer = f"; `birdsd resume {other.folder.name} {KEY}={wanted}` extends that one instead"
        return (
            f"{other.folder.name} differs only in its length, {length} samples; this starts another run"
            f"{longer if wanted > length else ''}"
        )
    return ""
