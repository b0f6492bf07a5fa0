"""A training run as its method sees it: carried out by the loop, or in one pass over the pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from birdsd.files import write_json
from birdsd.training.devices.precision import choose_device, set_threads
from birdsd.training.devices.world import World
from birdsd.training.loop import train
from birdsd.training.progress import Pulse, Stopwatch
from birdsd.training.result import FINISHED_FILE, TrainResult, finished_before

if TYPE_CHECKING:
    import torch

    from birdsd.diffusion.learning.base import GoesOn, LearningMethod, Method
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex
    from birdsd.training.checkpoints.checkpoint import Event


@dataclass
class RunWork:
    """One call of `train`: what is learnt from what, where it is written, and who is told of it."""

    config: TrainConfig
    index: ShardIndex
    folder: Path
    should_stop: Callable[[], bool] = lambda: False
    events: Event = lambda event: None
    beat: Callable[[Pulse], None] = lambda pulse: None

    def by(self, method: Method) -> TrainResult:
        """Let `method` carry the run out. A finished run returns at once."""
        before = finished_before(Path(self.folder), self.events)
        return before if before is not None else method.run(self)

    def loop(self, method: LearningMethod) -> TrainResult:
        """See `birdsd.training.loop.train`."""
        return train(self.config, method, self.index, self.folder, self.should_stop, self.events, self.beat)

    def once(self, make: Callable[[Path, torch.device, GoesOn], int | None]) -> TrainResult:
        """Rank 0 does the work, the others wait for it; then the run's last record is written. Stopped, the
        next call begins anew."""
        machine, world = self.config.machine, World.from_environment()
        device = choose_device(machine.device, world.local_rank)
        set_threads(machine.threads, device)
        pulse = Pulse(phase="train", resumed_from=0)
        clock = Stopwatch(lambda name: self.beat(pulse))
        pulse.seconds = clock.seconds
        export = Path(self.folder) / "export"

        def goes_on(position: int, total: int) -> bool:
            pulse.position, pulse.total = position, total
            self.beat(pulse)
            return not self.should_stop()

        try:
            world.start(device, timeout_s=machine.collective_timeout_s)
            seen = None
            if world.is_first:
                with clock("train"):
                    seen = make(export, device, goes_on)
            seen = world.from_first(seen)
            done = seen is not None
            position = seen if done else 0
            total = position if done else pulse.total
            result = TrainResult(
                position, total, done, not done, export if done else None, 0, clock.rounded()
            )
            if world.is_first:
                if done:
                    write_json(export.parent / FINISHED_FILE, result.to_json())
                name = "finished" if done else "stopped"
                self.events({"event": name, "position": position, "seconds": clock.rounded()})
            return result
        finally:
            world.close()
