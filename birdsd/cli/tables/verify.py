"""The table and the verdict of `birdsd verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from birdsd.format import table

if TYPE_CHECKING:
    from birdsd.checks.verify.segments import SegmentResult
    from birdsd.checks.verify.verify import VerifyResult

_HEADER = (
    "segment",
    "world",
    "engine",
    "micro",
    "readers",
    "from",
    "to",
    "redone",
    "loss differs",
    "how it ended",
)


def result_text(result: VerifyResult) -> str:
    """The table of the segments, the checks, and the verdict."""
    lines = [
        f"{result.steps} steps of {result.global_batch} samples, {result.precision} on {result.device}; "
        f"uninterrupted in {result.reference_s:.0f} s, then in {len(result.segments)} segments (in samples):",
        "",
        *table([_HEADER, *(_row(segment) for segment in result.segments)], left=[len(_HEADER) - 1]),
    ]
    lines.append("")
    lines += [
        f"{'ok   ' if check.passed else 'WRONG'} {check.name:8} {check.found}" for check in result.checks
    ]
    lines += [f"note  {note}" for note in result.notes]
    verdict = "PASS: the interrupted run is identical to the uninterrupted one"
    if result.incomplete:
        verdict = "INCOMPLETE: everything tried so far passed, but the run ended too early; use more --steps"
    elif not result.passed:
        verdict = "FAIL: do not start a long run with these settings on this machine"
    lines += ["", f"{verdict} ({result.seconds:.0f} s)"]
    if result.folder:
        lines.append(f"runs and logs: {result.folder}")
    return "\n".join(lines)


def _row(result: SegmentResult) -> tuple[str, ...]:
    segment = result.segment
    return (
        str(result.number),
        str(segment.shape.world),
        segment.shape.engine,
        str(segment.shape.micro_batch),
        str(segment.readers),
        str(result.begin),
        str(result.reached),
        str(result.redone),
        f"{result.difference:.1e}" if result.difference else "0",
        result.problem or result.ended,
    )
