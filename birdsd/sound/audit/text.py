"""An audit in words: the table, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from birdsd.sound.audit.fidelity import BANDS_HZ

if TYPE_CHECKING:
    from birdsd.sound.audit.hearing import Hearing
    from birdsd.sound.audit.result import AuditResult


def report(result: AuditResult) -> str:
    """The whole result, as printed."""
    paths = {stretch.path for stretch in result.stretches}
    total_s = sum(stretch.duration_s for stretch in result.stretches)
    lines = [
        f"{len(paths)} recordings, {total_s:.0f} s of sound. Round trip sound -> image -> sound;",
        "error relative to the original in dB (median; lower is better, 0 dB: nothing is left):",
        "",
        *_table(result),
        *_heard(result.hearing),
        "",
        *result.recommendation,
    ]
    if result.problems:
        lines += ["", f"{len(result.problems)} recordings were left out:"]
        lines += [f"  {reason}" for _, reason in result.problems]
    if result.pictures:
        lines += ["", "Pictures and sounds: " + ", ".join(str(path) for path in result.pictures)]
    return "\n".join(lines)


def _table(result: AuditResult) -> Iterator[str]:
    width = max(12, *(len(codec.name) + 2 for codec in result.codecs))
    yield f"{'':26}" + "".join(f"{codec.name:>{width}}" for codec in result.codecs) + "   recordings with it"

    def row(label: str, values: list[str], count: str = "") -> str:
        return (
            f"{label:26}"
            + "".join(f"{value:>{width}}" for value in values)
            + (f"   {count}" if count else "")
        )

    rows = result.summaries
    yield row("everything", [_db(s.overall_db) for s in rows], str(len(result.stretches)))
    for number, (low, high) in enumerate(BANDS_HZ):
        label = f"{low / 1000:g}-{high / 1000:g} kHz"
        yield row(label, [_db(s.bands_db[number]) for s in rows], str(rows[0].bands_count[number]))
    yield row("fast trills (20-100/s)", [_db(s.trills_db) for s in rows], str(rows[0].trills_count))
    yield row("spectral convergence", [_db(s.picture_db) for s in rows])
    yield row("  phases, iterations", [codec.phase_note or "-" for codec in result.codecs])
    yield row("waveform", [_db(s.waveform_db) for s in rows])
    yield row("loudness error", [f"{s.loudness_error_db:.1f} dB" for s in rows])
    yield row("energy below its band", [f"{100 * s.below_band_share:.1f} %" for s in rows])
    yield row("energy above its band", [f"{100 * s.above_band_share:.1f} %" for s in rows])
    if (heard := result.hearing) is not None and heard.stretches:
        shares = [[count / heard.stretches for count in counts] for counts in (heard.before, *heard.after)]
        for at, label in enumerate(("species still heard", f"  of the folder's {len(heard.species)}")):
            before = f"{heard.stretches}; before the codec {shares[0][at]:.0%}"
            yield row(label, [f"{after[at]:.0%}" for after in shares[1:]], before)
    yield row("sound in one image", [f"{codec.clip_s:.2f} s" for codec in result.codecs])


def _heard(hearing: Hearing | None) -> Iterator[str]:
    """Who heard the species, or why there is no such row."""
    if hearing is None:
        return
    if hearing.stretches:
        yield (
            f"species still heard: of all classes of {hearing.judge} ({hearing.licence}) the right one has "
            "the highest score"
        )
    else:
        yield f"no row 'species still heard': {hearing.missing}"
    if hearing.unknown and hearing.stretches:
        yield f"  it has no class for {', '.join(hearing.unknown)}: left out of that row"


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
