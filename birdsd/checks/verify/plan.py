"""Which legs `birdsd verify` runs: worlds, ZeRO stages, micro-batches, reader threads, and how each ends."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from birdsd.errors import UserError

# How a leg ends: killed (SIGKILL of all ranks) after a step, during a save, or between a save and the
# next step; asked to stop; or left alone until all samples were seen.
KILLS = ("step", "save", "between")
STOP, FINISH = "stop", "finish"
_READERS = (1, 2, 3)
_STEPS_PER_LEG, _MARGIN = 3, 4


@dataclass(frozen=True)
class Shape:
    """What the bits of a loss may depend on; `stage` 0 is plain torch. `micro_batch` is the one in use."""

    world: int
    stage: int
    micro_batch: int

    @property
    def engine(self) -> str:
        return f"ZeRO-{self.stage}" if self.stage else "torch"

    def settings(self) -> list[str]:
        """The settings of `birdsd run train` that make this shape; WORLD_SIZE comes by the environment."""
        chosen = [f"machine.micro_batch={self.micro_batch}"]
        chosen += [f"machine.engine={'deepspeed' if self.stage else 'torch'}"]
        chosen += [f"machine.zero_stage={self.stage}"] if self.stage else ["machine.offload_optimizer=false"]
        return chosen if self.stage == 3 else [*chosen, "machine.offload_parameters=false"]


@dataclass(frozen=True)
class Leg:
    """One start of the run. `again`: it repeats the leg before, which was killed, in the same shape and from
    a checkpoint before that leg's last one, so that both save the same position."""

    shape: Shape
    readers: int
    ending: str
    again: bool = False
    repeated: bool = False  # the leg after it is `again`

    @property
    def is_killed(self) -> bool:
        return self.ending in KILLS


def check_request(worlds: Sequence[int], stages: Sequence[int], kills: int, steps: int) -> None:
    """Refuse what cannot be tried."""
    for name, values, lowest, highest in (("--worlds", worlds, 1, 4096), ("--stages", stages, 0, 3)):
        if not values or not all(lowest <= value <= highest for value in values):
            raise UserError(
                f"{name} {','.join(map(str, values))}",
                f"a list of numbers from {lowest} to {highest}",
                "e.g. --worlds 1,2,4 --stages 0,1,2,3",
            )
    if kills < 0 or steps < 1:
        raise UserError(
            f"--kills {kills} --steps {steps}", "at least 0 kills and 1 step", "--kills 6 --steps 24"
        )


def usual_shape(batch: int, micro_batch: int, world: int = 1, stage: int = 0) -> Shape:
    """The shape that a configuration's own machine.micro_batch (0: all of a rank's share) comes to."""
    largest = -(-batch // world)
    return Shape(world, stage, min(micro_batch or largest, largest))


def plan_legs(
    worlds: Sequence[int], stages: Sequence[int], kills: int, batch: int, micro_batch: int, seed: int
) -> list[Leg]:
    """Legs in which every world meets every stage, `kills` of them end by SIGKILL, and the last finishes.

    Each stage, as far as the kills go, has a leg that is killed and repeated: what is done twice in the same
    shape must be the same to the last bit. Such repeats come on top of the pairs of world and stage; a leg
    that is not killed is asked to stop. The first is plain torch on one rank, if that is asked for.
    """
    draw = random.Random(f"birdsd verify {seed}")
    pairs = [(world, stage) for world in dict.fromkeys(worlds) for stage in dict.fromkeys(stages)]
    draw.shuffle(pairs)
    pairs.sort(key=lambda pair: pair != (1, 0))
    repeated = _repeated(pairs, kills, draw)
    legs: list[Leg] = []
    for number, pair in enumerate(pairs):
        usual = usual_shape(batch, micro_batch, *pair)
        shape = usual if number == 0 else _varied(usual, draw)
        if pair in repeated:
            kind = ("step", "save")[repeated.index(pair) % 2]
            legs.append(Leg(shape, draw.choice(_READERS), kind, repeated=True))
            legs.append(Leg(shape, draw.choice(_READERS), STOP, again=True))
        else:
            legs.append(Leg(shape, draw.choice(_READERS), STOP))
    while len(legs) < kills + 1 or legs[-1].again:
        shape = _varied(usual_shape(batch, micro_batch, *draw.choice(pairs)), draw)
        legs.append(Leg(shape, draw.choice(_READERS), STOP))
    rest = [number for number, leg in enumerate(legs[:-1]) if not leg.is_killed]
    for count, number in enumerate(draw.sample(rest, kills - len(repeated))):
        legs[number] = replace(legs[number], ending=("between", "save", "step")[count % 3])
    legs[-1] = replace(legs[-1], ending=FINISH)
    return legs


def _repeated(pairs: list[tuple[int, int]], kills: int, draw: random.Random) -> list[tuple[int, int]]:
    """For each stage, as far as the kills go, the pair whose leg is repeated: worlds by turns."""
    chosen: list[tuple[int, int]] = []
    stages = list(dict.fromkeys(stage for _, stage in pairs))
    for stage in stages[:kills]:
        used = [world for world, _ in chosen]
        fitting = [pair for pair in pairs if pair[1] == stage]
        draw.shuffle(fitting)
        chosen.append(min(fitting, key=lambda pair: (pair != (1, 0), used.count(pair[0]))))
    return chosen


def _varied(usual: Shape, draw: random.Random) -> Shape:
    """Another micro-batch: never a larger one, since that is what fits into memory."""
    own = usual.micro_batch
    choices = sorted({own, max(1, 2 * own // 3), max(1, own // 2)})
    return Shape(usual.world, usual.stage, draw.choice(choices))


def steps_for(steps: int, legs: int) -> int:
    """As many steps as were asked for, or as the legs need: three for each, and some at the end, since a leg
    is ended a step or two after the moment that was meant."""
    return max(steps, _STEPS_PER_LEG * legs + _MARGIN)


def end_of(
    leg: Leg, begin: int, total: int, legs_left: int, save_every: int, draw: random.Random, before: int = 0
) -> int:
    """The step (1 is the first) at which a leg that went on from step `begin` is to end; `total` to finish.

    `legs_left` counts this one. A kill during a save comes at a step that saves, one after a step at
    another, so that something has to be done again. A leg that is repeated saves twice before its end; one
    that repeats goes on beyond step `before`, which the leg before it saved.
    """
    if leg.ending == FINISH:
        return total
    first = max(begin, before)
    if leg.repeated:
        first = (begin // save_every + 2) * save_every
    latest = max(first + 1, total - _STEPS_PER_LEG * (legs_left - 1) - _MARGIN // 2)
    if leg.again:
        latest = min(latest, first + save_every)  # later the checkpoint to compare would be pruned
    wanted = first + draw.randint(1, max(1, min(latest - first, 2 * (latest - first) // legs_left - 1)))
    if leg.ending in ("save", "between"):
        wanted = -(-wanted // save_every) * save_every
    elif leg.ending == "step" and wanted % save_every == 0:
        wanted += 1
    return wanted
