"""What an audit found, and what it recommends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from birdsd.remarks import Remark
from birdsd.sound.audit.fidelity import BANDS_HZ, Fidelity
from birdsd.sound.audit.hearing import Hearing
from birdsd.sound.codec.protocol import Codec

# Where a median begins to be worth a sentence.
_LITTLE_LEFT_DB = -6.0
_SMEARED_DB = -10.0
_LOUDNESS_DB = 1.0
_LOST_SHARE = 0.01
_EVEN_DB = 1.0  # smaller differences between codecs are not called a win


@dataclass(frozen=True)
class Stretch:
    """A part of a recording, and what each codec did to it, in the order of the codecs."""

    path: Path
    start_s: float
    duration_s: float
    fidelity: tuple[Fidelity, ...]


@dataclass(frozen=True)
class Summary:
    """Medians over stretches, in dB; None where no recording had sound there. Counts say how many had."""

    overall_db: float
    bands_db: tuple[float | None, ...]
    bands_count: tuple[int, ...]
    trills_db: float | None
    trills_count: int
    loudness_error_db: float
    below_band_share: float
    above_band_share: float
    waveform_db: float
    picture_db: float | None


@dataclass(frozen=True)
class AuditResult:
    """What `run_audit` found; `audit_text` says it in words, `to_json` for machines."""

    codecs: tuple[Codec, ...]
    summaries: tuple[Summary, ...]
    stretches: tuple[Stretch, ...]
    problems: tuple[tuple[Path, str], ...]
    pictures: tuple[Path, ...]
    hearing: Hearing | None = None  # what a judge hears before and after; None: nobody listened

    @property
    def best(self) -> int:
        """The codec whose round trip is closest, over everything and on fast trills alike."""
        return min(range(len(self.summaries)), key=lambda i: _score(self.summaries[i]))

    @property
    def recommendation(self) -> list[Remark]:

        return recommend(self)

    def to_json(self) -> dict[str, Any]:
        return {
            "bands_hz": [list(band) for band in BANDS_HZ],
            "codecs": [
                {"settings": codec.to_json(), "clip_s": codec.clip_s, **asdict(summary)}
                for codec, summary in zip(self.codecs, self.summaries, strict=True)
            ],
            "best": self.codecs[self.best].name,
            "recommendation": self.recommendation,
            "stretches": [
                {
                    "path": str(stretch.path),
                    "start_s": stretch.start_s,
                    "duration_s": stretch.duration_s,
                    "codecs": [asdict(fidelity) for fidelity in stretch.fidelity],
                }
                for stretch in self.stretches
            ],
            "problems": [{"path": str(path), "reason": reason} for path, reason in self.problems],
            "pictures": [str(path) for path in self.pictures],
            "judge": self.hearing.to_json() if self.hearing else None,
        }


def _score(summary: Summary) -> float:
    return summary.overall_db + (summary.overall_db if summary.trills_db is None else summary.trills_db)


def recommend(result: AuditResult) -> list[Remark]:
    """Sentences: which codec, by how much, and what each loses and why."""
    best = result.codecs[result.best]
    mine = result.summaries[result.best]
    sentences: list[Remark] = []
    for codec, summary in zip(result.codecs, result.summaries, strict=True):
        if codec is best:
            continue
        gain = summary.overall_db - mine.overall_db
        trills = None if summary.trills_db is None else summary.trills_db - (mine.trills_db or 0.0)
        if gain < _EVEN_DB and (trills is None or trills < _EVEN_DB):
            text = f"codec={best.name} and codec={codec.name} are equally good on these recordings."
            sentences.append(Remark(text, "equally-good", codecs=[best.name, codec.name]))
            continue
        more = "" if trills is None else f", and {trills:.0f} dB closer on fast trills"
        text = (
            f"Use codec={best.name}: its round trip is {gain:.0f} dB closer than codec={codec.name}'s{more}."
        )
        sentences.append(Remark(text, "closer", codec=best.name, than=codec.name, gain_db=gain))
    if len(result.codecs) > 1 and best.image_channels > best.channels:
        text = (
            f"codec={best.name} has the phase in its images, too: right for what is only stored; a model has "
            "to learn it beside the level."
        )
        sentences.append(Remark(text, "phase-in-images", codec=best.name))
    for codec, summary in zip(result.codecs, result.summaries, strict=True):
        sentences += [
            Remark(f"codec={codec.name} {loss}", code, codec=codec.name)
            for code, loss in _losses(codec, summary)
        ]
    if not sentences:
        text = f"codec={best.name} suits these recordings: nothing stands out as lost."
        sentences.append(Remark(text, "nothing-lost", codec=best.name))
    return sentences


def _losses(codec: Codec, summary: Summary) -> Iterator[tuple[str, str]]:
    """(code of the remark, what the codec does) for everything that stands out."""
    remedies = {kind: f": {text}" for kind, text in codec.remedies().items()}
    if summary.above_band_share > _LOST_SHARE:
        share = 100 * summary.above_band_share
        yield (
            "drops-above",
            f"drops {share:.0f} % of the energy, which lies above {codec.fmax_hz / 1000:g} kHz"
            f"{remedies.get('band', '')}.",
        )
    if summary.below_band_share > 0.1:
        yield (
            "drops-below",
            f"drops {100 * summary.below_band_share:.0f} % of the energy, which lies below "
            f"{codec.fmin_hz:g} Hz; where that is wind, it is no loss.",
        )
    if summary.trills_db is not None and summary.trills_db > _SMEARED_DB:
        text = f"smears fast trills ({summary.trills_db:.1f} dB){remedies.get('trills', '')}."
        yield "smears-trills", text
    for (low, high), value, count in zip(BANDS_HZ, summary.bands_db, summary.bands_count, strict=True):
        if value is not None and value > _LITTLE_LEFT_DB and count >= 3 and low < codec.fmax_hz:
            yield "leaves-little", f"leaves little of {low / 1000:g}-{high / 1000:g} kHz ({value:.1f} dB)."
    if summary.loudness_error_db > _LOUDNESS_DB:
        error = f"{summary.loudness_error_db:.1f} dB (median)"
        yield "changes-loudness", f"changes the loudness by {error}{remedies.get('level', '')}."
