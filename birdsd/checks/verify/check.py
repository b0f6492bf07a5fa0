"""What `birdsd verify` asks of the legs, one check a line: done, the same samples, losses and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from birdsd.checks.verify.compare import (
    Limits,
    SavedTensors,
    compare_ledgers,
    compare_losses,
    compare_weights,
)
from birdsd.checks.verify.plan import Leg, Shape
from birdsd.checks.verify.segments import LegResult, Watch


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what was seen."""

    name: str
    passed: bool
    found: str


def check_all(
    straight: Watch,
    changed: Watch,
    legs: Sequence[Leg],
    results: Sequence[LegResult],
    usual: Shape,
    limits: Limits,
) -> list[Check]:
    """Every check; `usual` is the shape of the straight run. Fills in the legs' largest differences."""
    return [
        check_course(legs, results),
        check_samples(straight, changed, results),
        check_losses(straight.losses(), changed.losses(), results, limits.loss),
        check_bits(straight.losses(), results, usual),
        check_weights(straight, changed, limits.weights),
    ]


def check_course(legs: Sequence[Leg], results: Sequence[LegResult]) -> Check:
    """Whether every leg went as it was meant to, and so every world met every stage."""
    kills = sum(result.leg.is_killed for result in results)
    for result in results:
        if result.problem:
            return Check("legs", False, f"leg {result.number}: {result.problem}")
    pairs = {(leg.shape.world, leg.shape.stage) for leg in legs}
    met = {(r.leg.shape.world, r.leg.shape.stage) for r in results if r.reached > r.begin}
    if missing := sorted(pairs - met):
        return Check("legs", False, f"no step at world {missing[0][0]}, stage {missing[0][1]}")
    stops = len(results) - kills - 1
    how = f"{kills} killed, {stops} stopped, the last one finished"
    met_all = f"{len(pairs)} combination{'s' * (len(pairs) > 1)} of world and stage"
    return Check("legs", True, f"{len(results)} segments, {how}; {met_all}")


def check_samples(straight: Watch, changed: Watch, results: Sequence[LegResult]) -> Check:
    """Whether every global batch held the same samples: in the ledger, and in what kills made undone."""
    batch, expected, ledger = straight.batch, straight.samples(), changed.samples()
    if problem := compare_ledgers(expected, ledger, batch):
        return Check("samples", False, f"the ledger: {problem}")
    if len(ledger) < len(expected):
        return Check("samples", False, f"the ledger ends at position {len(ledger)} of {len(expected)}")
    for result in results:
        if problem := compare_ledgers(expected, result.samples, batch, result.begin):
            return Check("samples", False, f"leg {result.number}: {problem}")
    redone = sum(result.redone for result in results)
    seen = f"{len(ledger) // batch} global batches hold the same samples, in the same order"
    return Check("samples", True, f"{seen}; none is missing or doubled ({redone} samples were recomputed)")


def check_losses(
    expected: dict[int, float], final: dict[int, float], results: Sequence[LegResult], tolerance: float
) -> Check:
    """Whether the losses are those of the straight run, also those of steps that a kill made undone."""
    found = compare_losses(expected, final, tolerance, whole=True)
    problem, worst = found.problem, found.worst
    for result in results:
        compared = compare_losses(expected, result.losses, tolerance)
        result.difference, worst = compared.worst, max(worst, compared.worst)
        if compared.problem and not problem:
            problem = f"leg {result.number}: {compared.problem}"
    near = f"{found.steps} steps, at most {worst:.1e} apart (limit {tolerance:.2g})"
    return Check("losses", not problem, problem or near)


def check_bits(expected: dict[int, float], results: Sequence[LegResult], usual: Shape) -> Check:
    """Where nothing but the reader threads changed, the losses must be bitwise identical: up to the
    first change as in the straight run, and in a leg that is repeated as in the one that was killed; the
    checkpoints of both must hold the same state."""
    first = 0
    for result in results:
        if result.leg.shape != usual:
            break
        compared = compare_losses(expected, result.losses, 0.0)
        if compared.problem:
            return Check("bits", False, f"leg {result.number}: {compared.problem}")
        first = max(first, len([p for p in expected if p <= result.reached]))
    steps, saves, engines = 0, 0, set()
    for before, after in pairwise(results):
        if not after.leg.again or after.begin < before.begin:
            continue
        common = {p: loss for p, loss in after.losses.items() if p in before.losses}
        compared = compare_losses(before.losses, common, 0.0)
        if problem := compared.problem or after.state_problem:
            return Check("bits", False, f"segments {before.number} and {after.number}: {problem}")
        steps, saves = steps + len(common), saves + bool(after.repeated_save)
        engines |= {after.leg.shape.engine} if common else set()
    if not first + steps:
        return Check("bits", True, "nothing to compare: no segment was repeated")
    parts = [f"the first {first} steps match the uninterrupted run"] if first else []
    if steps:
        names = ", ".join(sorted(engines))
        parts.append(f"{steps} steps and {saves} checkpoints that were made twice alike ({names})")
    return Check("bits", True, "bitwise identical: " + ", ".join(parts))


def rounding(straight: Watch, probe: Watch) -> tuple[float, float]:
    """How far apart two straight runs are: the worst relative difference of a loss, and of the weights."""
    losses = compare_losses(straight.losses(), probe.losses(), float("inf"))
    return losses.worst, max(_weight_differences(straight, probe, float("inf"))[0].values(), default=0.0)


def _weight_differences(straight: Watch, other: Watch, tolerance: float) -> tuple[dict[str, float], str]:
    folders = [watch.checkpoint() if watch.run else None for watch in (straight, other)]
    if folders[0] is None or folders[1] is None or folders[0].name != folders[1].name:
        names = [folder.name if folder else "none" for folder in folders]
        return {}, f"the last checkpoints are {names[0]} and {names[1]}"
    with SavedTensors(folders[0]) as ours, SavedTensors(folders[1]) as theirs:
        return compare_weights(ours, theirs, tolerance)


def check_weights(straight: Watch, changed: Watch, tolerance: float) -> Check:
    """Whether the last checkpoints hold the same weights, and the same averages of them."""
    differences, problem = _weight_differences(straight, changed, tolerance)
    near = ", ".join(f"{kind} {value:.1e}" for kind, value in differences.items())
    return Check("weights", not problem, problem or f"apart by {near} of their norm (limit {tolerance:.2g})")
