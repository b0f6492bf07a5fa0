"""The checks of `birdsd verify`: segments as planned, the same samples, losses, bits and weights."""

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
from birdsd.checks.verify.plan import Segment, Shape
from birdsd.checks.verify.segments import RunObserver, SegmentResult
from birdsd.remarks import Remark


@dataclass(frozen=True)
class Check:
    """One check and its result."""

    name: str
    passed: bool
    found: str


def check_all(
    reference: RunObserver,
    changed: RunObserver,
    segments: Sequence[Segment],
    results: Sequence[SegmentResult],
    usual: Shape,
    limits: Limits,
) -> list[Check]:
    """All checks; `usual` is the shape of the reference. Fills in each segment's largest loss difference."""
    return [
        check_segments(segments, results),
        check_samples(reference, changed, results),
        check_losses(reference.losses(), changed.losses(), results, limits.loss),
        check_bits(reference.losses(), results, usual),
        check_weights(reference, changed, limits.weights),
    ]


def check_segments(segments: Sequence[Segment], results: Sequence[SegmentResult]) -> Check:
    """Whether every segment went as planned, so that every world size was combined with every stage."""
    kills = sum(result.segment.is_killed for result in results)
    for result in results:
        if result.problem:
            return Check("segments", False, f"segment {result.number}: {result.problem}")
    pairs = {(segment.shape.world, segment.shape.stage) for segment in segments}
    met = {(r.segment.shape.world, r.segment.shape.stage) for r in results if r.reached > r.begin}
    if missing := sorted(pairs - met):
        world, stage = missing[0]
        text = f"no step at world {world}, stage {stage}"
        return Check("segments", False, Remark(text, "shape-untried", world=world, stage=stage))
    stops = len(results) - kills - 1
    how = f"{kills} killed, {stops} stopped, the last one finished"
    met_all = f"{len(pairs)} combination{'s' * (len(pairs) > 1)} of world and stage"
    return Check("segments", True, f"{len(results)} segments, {how}; {met_all}")


def check_samples(reference: RunObserver, changed: RunObserver, results: Sequence[SegmentResult]) -> Check:
    """Whether every global batch held the same samples: in the ledger, and in what was lost to kills."""
    batch, expected, ledger = reference.batch, reference.samples(), changed.samples()
    if problem := compare_ledgers(expected, ledger, batch):
        return Check("samples", False, f"the ledger: {problem}")
    if len(ledger) < len(expected):
        return Check("samples", False, f"the ledger ends at position {len(ledger)} of {len(expected)}")
    for result in results:
        if problem := compare_ledgers(expected, result.samples, batch, result.begin):
            return Check("samples", False, f"segment {result.number}: {problem}")
    redone = sum(result.redone for result in results)
    seen = f"{len(ledger) // batch} global batches hold the same samples, in the same order"
    return Check("samples", True, f"{seen}; none is missing or duplicated ({redone} samples were recomputed)")


def check_losses(
    expected: dict[int, float], final: dict[int, float], results: Sequence[SegmentResult], tolerance: float
) -> Check:
    """Whether the losses are those of the reference run, also for steps that were lost to a kill."""
    total = compare_losses(expected, final, tolerance, whole=True)
    problem, worst = total.problem, total.worst
    for result in results:
        compared = compare_losses(expected, result.losses, tolerance)
        result.difference, worst = compared.worst, max(worst, compared.worst)
        if compared.problem and not problem:
            problem = f"segment {result.number}: {compared.problem}"
    near = f"{total.steps} steps, at most {worst:.1e} apart (limit {tolerance:.2g})"
    return Check("losses", not problem, problem or near)


def check_bits(expected: dict[int, float], results: Sequence[SegmentResult], usual: Shape) -> Check:
    """Where only the reader threads changed, the losses must be bitwise identical: to those of the reference
    up to the first other change, and in a repeated segment to those of the killed one. The checkpoints of
    both must hold the same state."""
    first = 0
    for result in results:
        if result.segment.shape != usual:
            break
        compared = compare_losses(expected, result.losses, 0.0)
        if compared.problem:
            return Check("bits", False, f"segment {result.number}: {compared.problem}")
        first = max(first, len([p for p in expected if p <= result.reached]))
    steps, saves, engines = 0, 0, set()
    for before, after in pairwise(results):
        if not after.segment.again or after.begin < before.begin:
            continue
        common = {p: loss for p, loss in after.losses.items() if p in before.losses}
        compared = compare_losses(before.losses, common, 0.0)
        if problem := compared.problem or after.state_problem:
            return Check("bits", False, f"segments {before.number} and {after.number}: {problem}")
        steps, saves = steps + len(common), saves + bool(after.repeated_save)
        engines |= {after.segment.shape.engine} if common else set()
    if not first + steps:
        return Check("bits", True, "nothing to compare: no segment was repeated")
    parts = [f"the first {first} steps match the uninterrupted run"] if first else []
    if steps:
        names = ", ".join(sorted(engines))
        parts.append(f"{steps} repeated steps and {saves} repeated checkpoints ({names})")
    return Check("bits", True, "bitwise identical: " + ", ".join(parts))


def rounding(reference: RunObserver, probe: RunObserver) -> tuple[float, float]:
    """How far apart two reference runs are: the largest relative difference of a loss, and of the weights."""
    losses = compare_losses(reference.losses(), probe.losses(), float("inf"))
    return losses.worst, max(_weight_differences(reference, probe, float("inf"))[0].values(), default=0.0)


def _weight_differences(
    reference: RunObserver, other: RunObserver, tolerance: float
) -> tuple[dict[str, float], str]:
    folders = [observer.checkpoint() if observer.run else None for observer in (reference, other)]
    if folders[0] is None or folders[1] is None or folders[0].name != folders[1].name:
        names = [folder.name if folder else "none" for folder in folders]
        return {}, f"the last checkpoints are {names[0]} and {names[1]}"
    with SavedTensors(folders[0]) as ours, SavedTensors(folders[1]) as theirs:
        return compare_weights(ours, theirs, tolerance)


def check_weights(reference: RunObserver, changed: RunObserver, tolerance: float) -> Check:
    """Whether the last checkpoints hold the same weights, and the same moving averages."""
    differences, problem = _weight_differences(reference, changed, tolerance)
    near = ", ".join(f"{kind} {value:.1e}" for kind, value in differences.items())
    return Check("weights", not problem, problem or f"apart by {near} of their norm (limit {tolerance:.2g})")
