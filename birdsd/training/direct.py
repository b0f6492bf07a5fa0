"""Methods that need no loop: one pass over the pictures, and the export is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.files import write_json
from birdsd.training.devices.precision import choose_device, set_threads
from birdsd.training.devices.world import World
from birdsd.training.progress import Pulse, Stopwatch
from birdsd.training.result import FINISHED_FILE, TrainResult, finished_before

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig
    from birdsd.training.checkpoints.checkpoint import Event


def run_direct(
    config: TrainConfig,
    method: Any,
    run_folder: Path,
    should_stop: Callable[[], bool] = lambda: False,
    events: Event = lambda event: None,
    beat: Callable[[Pulse], None] = lambda pulse: None,
) -> TrainResult:
    """What `train` is for other methods: run `method.direct` and write the run's last record.

    Rank 0 does the work, the others wait for it. Nothing is saved on the way: stopped, the next call begins
    anew. A finished run returns at once.
    """
    run_folder = Path(run_folder)
    if (before := finished_before(run_folder, events)) is not None:
        return before
    world = World.from_environment()
    device = choose_device(config.machine.device, world.local_rank)
    set_threads(config.machine.threads, device)
    pulse = Pulse(phase="train", resumed_from=0)
    clock = Stopwatch(lambda name: beat(pulse))
    pulse.seconds = clock.seconds

    def goes_on(position: int, total: int) -> bool:
        pulse.position, pulse.total = position, total
        beat(pulse)
        return not should_stop()

    try:
        world.start(device, timeout_s=config.machine.collective_timeout_s)
        seen = None
        if world.is_first:
            with clock("train"):
                seen = method.direct(run_folder / "export", device, goes_on)
        seen = world.from_first(seen)
        done = seen is not None
        position = seen if done else 0
        total = position if done else pulse.total
        export = run_folder / "export" if done else None
        result = TrainResult(position, total, done, not done, export, 0, clock.rounded())
        if world.is_first:
            if done:
                write_json(run_folder / FINISHED_FILE, result.to_json())
            name = "finished" if done else "stopped"
            events({"event": name, "position": position, "seconds": clock.rounded()})
        return result
    finally:
        world.close()
