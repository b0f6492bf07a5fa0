"""The segments of `birdsd verify`: world sizes, ZeRO stages, micro-batches, reader threads, and endings."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from birdsd.errors import BadValue

# How a segment ends: killed (SIGKILL of all ranks) after a step, during a save, or between a save and the
# next step; asked to stop; or left to finish.
KILLS = ("step", "save", "between")
STOP, FINISH = "stop", "finish"
_READERS = (1, 2, 3)
_STEPS_PER_SEGMENT, _MARGIN = 3, 4


@dataclass(frozen=True)
class Shape:
    """What the bits of a loss may depend on. `stage` 0 is plain torch; `micro_batch` is per rank."""

    world: int
    stage: int
    micro_batch: int

    @property
    def engine(self) -> str:
        return f"ZeRO-{self.stage}" if self.stage else "torch"

    def settings(self) -> list[str]:
        """The settings of `birdsd run train` for this shape; WORLD_SIZE is set in the environment."""
        chosen = [f"machine.micro_batch={self.micro_batch}"]
        chosen += [f"machine.engine={'deepspeed' if self.stage else 'torch'}"]
        chosen += [f"machine.zero_stage={self.stage}"] if self.stage else ["machine.offload_optimizer=false"]
        return chosen if self.stage == 3 else [*chosen, "machine.offload_parameters=false"]


@dataclass(frozen=True)
class Segment:
    """One start of the run. `again`: it repeats the previous segment, which was killed, in the same shape and
    from a checkpoint before the last one of that segment, so that both save the same position."""

    shape: Shape
    readers: int
    ending: str
    again: bool = False
    repeated: bool = False  # the next segment is `again`

    @property
    def is_killed(self) -> bool:
        return self.ending in KILLS


def check_request(worlds: Sequence[int], stages: Sequence[int], kills: int, steps: int) -> None:
    """Refuse values that cannot be run."""
    for name, values, lowest, highest in (("--worlds", worlds, 1, 4096), ("--stages", stages, 0, 3)):
        if not values or not all(lowest <= value <= highest for value in values):
            raise BadValue(
                f"{name} {','.join(map(str, values))}",
                f"a list of numbers from {lowest} to {highest}",
                "e.g. --worlds 1,2,4 --stages 0,1,2,3",
            )
    if kills < 0 or steps < 1:
        raise BadValue(
            f"--kills {kills} --steps {steps}", "at least 0 kills and 1 step", "--kills 6 --steps 24"
        )


def usual_shape(batch: int, micro_batch: int, world: int = 1, stage: int = 0) -> Shape:
    """The shape that a configuration's own machine.micro_batch (0: all of a rank's share) amounts to."""
    largest = -(-batch // world)
    return Shape(world, stage, min(micro_batch or largest, largest))


def plan_segments(
    worlds: Sequence[int], stages: Sequence[int], kills: int, batch: int, micro_batch: int
) -> list[Segment]:
    """Segments that combine every world with every stage; `kills` end by SIGKILL, and the last finishes.

    Each stage, as far as there are kills, has a segment that is killed and repeated: steps that are done
    twice in the same shape must be bitwise identical. The repeats come on top of the pairs of world and
    stage; a segment that is not killed is asked to stop. The first is plain torch on one rank, if that is
    requested. Micro-batches and reader threads take turns.
    """
    worlds = sorted(dict.fromkeys(worlds), key=lambda world: world != 1)
    stages = sorted(dict.fromkeys(stages), key=bool)
    # Each stage once, then each once more with the next world, and so on.
    pairs = [
        (worlds[(turn + number) % len(worlds)], stage)
        for turn in range(len(worlds))
        for number, stage in enumerate(stages)
    ]
    repeats = min(kills, len(stages))
    segments: list[Segment] = []

    def add(shape: Shape, ending: str = STOP, **kind: bool) -> None:
        segments.append(Segment(shape, _READERS[len(segments) % len(_READERS)], ending, **kind))

    for number, pair in enumerate(pairs):
        shape = _shape(number, usual_shape(batch, micro_batch, *pair))
        if number < repeats:
            add(shape, ("step", "save")[number % 2], repeated=True)
            add(shape, again=True)
        else:
            add(shape)
    while len(segments) < kills + 1 or segments[-1].again:
        number = len(segments)
        add(_shape(number, usual_shape(batch, micro_batch, *pairs[number % len(pairs)])))
    rest = [number for number, segment in enumerate(segments[:-1]) if not segment.is_killed]
    for count in range(kills - repeats):
        number = rest[count * len(rest) // (kills - repeats)]
        segments[number] = replace(segments[number], ending=("between", "save", "step")[count % 3])
    segments[-1] = replace(segments[-1], ending=FINISH)
    return segments


def _shape(number: int, usual: Shape) -> Shape:
    """Another micro-batch by turns, but never a larger one: it might not fit into memory."""
    own = usual.micro_batch
    choices = (own, max(1, 2 * own // 3), max(1, own // 2))
    return replace(usual, micro_batch=choices[(number + number // 3) % 3])


def steps_for(steps: int, segments: int) -> int:
    """`steps`, or as many as the segments need: three for each, and some at the end, since a segment ends a
    step or two after the intended one."""
    return max(steps, _STEPS_PER_SEGMENT * segments + _MARGIN)


def end_of(
    segment: Segment,
    begin: int,
    total: int,
    segments_left: int,
    save_every: int,
    draw: random.Random,
    before: int = 0,
) -> int:
    """The step (from 1) at which a segment that resumed from step `begin` should end; `total` to finish.

    `segments_left` counts this one. A kill during a save comes at a step that saves, one after a step at
    another, so that some work is lost. A segment that is repeated saves twice before its end; the one that
    repeats it continues beyond step `before`, which the segment before it saved.
    """
    if segment.ending == FINISH:
        return total
    first = max(begin, before)
    if segment.repeated:
        first = (begin // save_every + 2) * save_every
    latest = max(first + 1, total - _STEPS_PER_SEGMENT * (segments_left - 1) - _MARGIN // 2)
    if segment.again:
        latest = min(latest, first + save_every)  # later the checkpoint to compare would be pruned
    wanted = first + draw.randint(1, max(1, min(latest - first, 2 * (latest - first) // segments_left - 1)))
    if segment.ending in ("save", "between"):
        wanted = -(-wanted // save_every) * save_every
    elif segment.ending == "step" and wanted % save_every == 0:
        wanted += 1
    return wanted
