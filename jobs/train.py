"""train: shards -> a trained model. The same command resumes; a finished run is left as it is."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from birdsd.cluster.rank.session import Session, since_process_start_s
from birdsd.jobs_api import STOPPED_STATUS, Outcome
from birdsd.runs.auto import AUTO, described, say
from birdsd.runs.extension import could_be_extended
from birdsd.runs.refused import nothing_left_if_refused
from birdsd.runs.run import Run, open_training
from birdsd.schema import TrainConfig
from birdsd.shards.checks import remarks
from birdsd.shards.index import ShardIndex
from birdsd.site import notebooks


def run(config: TrainConfig) -> Outcome:
    """Open the run, restore its newest checkpoint, train until it is finished or told to stop."""
    opened, index = open_training(config)
    if opened.result is not None and opened.export_folder.is_dir():
        return _outcome(opened, opened.result, "nothing to do: this run is finished")
    with nothing_left_if_refused(opened):
        return _train(config, opened, index)


def _train(config: TrainConfig, opened: Run, index: ShardIndex) -> Outcome:
    config = _on_this_machine(config)
    service = notebooks.here()
    began = time.time() - since_process_start_s()
    limit = notebooks.session_limit(config.machine, service, command_began=began)
    with Session(opened, config.machine.watchdog_s, limit=limit) as session:
        advice = notebooks.advice(service, Path(config.runs), limit)
        notes = [*advice, *remarks(index), could_be_extended(opened)]
        for note in filter(None, notes if session.is_first else []):
            print(f"birdsd: {note}", file=sys.stderr)
            session.event({"event": "note", "text": note})
        with session.timed("imports"):
            from birdsd.diffusion.methods import make_method
            from birdsd.training.work import RunWork
        session.seconds["start"] = since_process_start_s()
        method = make_method(config, index)
        work = RunWork(config, index, opened.folder, session.should_stop, session.event, session.beat)
        result = work.by(method)
        status = 0 if result.finished else STOPPED_STATUS
        session.outcome(result.finished, status, result.position)
        ended = not result.finished and session.session_ends
    line = "finished" if result.finished else "stopped and saved; the same command resumes it"
    outcome = _outcome(opened, {**result.to_json(), "session_ends": ended}, line, status)
    if not ended:
        return outcome
    carry = f"birdsd pack {opened.folder.name} --runs {config.runs}"
    text = f"{outcome.text}\n  why     this machine's session ends soon\n  carry   {carry}"
    return Outcome(text, outcome.facts, status)


def _on_this_machine(config: TrainConfig) -> TrainConfig:
    """machine=auto becomes what the plan chooses for the GPUs here; every rank of a run chooses the same. On
    a CPU it stays as it is, and nothing is planned."""
    if config.machine.name != AUTO:
        return config
    import torch

    from birdsd.training.devices.precision import choose_device
    from birdsd.training.devices.world import World

    world = World.from_environment()
    device = choose_device(config.machine.device, world.local_rank)
    if device.type == "cpu":
        say(described(config.machine, device))
        return config
    from birdsd.planning.plan_training import with_chosen_machine

    chosen = with_chosen_machine(config, world.size, min(world.size, torch.cuda.device_count()))
    shown = ("engine", "micro_batch", "gradient_checkpointing", "offload_optimizer", "optimizer_bits")
    layout = " ".join(f"{name}={str(getattr(chosen.machine, name)).lower()}" for name in shown)
    say(f"{described(chosen.machine, device)}; {layout}: the fastest that fits, by `birdsd plan`")
    return chosen


def _outcome(opened: Run, facts: dict, line: str, status: int = 0) -> Outcome:
    facts = {**facts, "run": str(opened.folder), "signature": opened.signature}
    facts["nothing_to_do"] = line.startswith("nothing")
    lines = [f"{opened.folder.name}: {line}", f"  folder  {opened.folder}"]
    if status == 0:
        lines.append(f"  export  {opened.export_folder}")
    return Outcome("\n".join(lines), facts, status)
