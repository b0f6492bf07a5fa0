"""What stands beside "named right": being named is necessary, not sufficient.

BirdNET normalises the level of what it hears and names birds in noise as loud as they are. So loudness, noise
floor, long-term spectrum, fast modulation and the distance to training clips are measured apart, each for
held-out clips as well: a figure says something only beside the same figure of real recordings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.evaluation.features import (
    MODULATION_HZ,
    band_levels_db,
    distances,
    mean_power,
    modulation_db,
    thumbnail,
)
from birdsd.format import table

if TYPE_CHECKING:
    from birdsd.sound.codec.protocol import Codec

QUIET = 0.2  # share of a spectrogram's cells that lie between the notes
FAST_HZ = 25.0  # trills are faster than this
COPY = 0.05  # share of held-out clips that lie nearer to training than the threshold, by definition
_FLOOR = (
    f"level below which the quietest {QUIET:.0%} of the spectrogram's cells lie, median: a recording has a "
    "floor of noise, a smear on black has none"
)
_SPECTRUM = (
    "log-spectral distance of the mean spectrum to that of the held-out clips of the species, each at its "
    "own loudness; in the column of held-out clips that of the training clips"
)
_FAST = "share of the envelope's modulation that is fast, as trills are"
_NEAREST = "median distance to the nearest training clip of the species: 0 is a copy"
_COPIES = (
    "5% of held-out clips by definition, and more of smoother ones (through the autoencoder); far more than "
    "that means that training clips were memorised"
)
SPECTRUM_RANGE_DB = 60.0  # below its loudest band a mean spectrum says nothing about the bird


@dataclass(frozen=True)
class HeardClip:
    """A clip as a person hears it: sound [channels, samples] at the codec's rate, and its species.

    `embedding`: the judge's, float32 [width], where there is a judge.
    """

    species: str
    waveform: np.ndarray
    embedding: np.ndarray | None = None


@dataclass(frozen=True)
class Measure:
    """One figure of generated clips beside that of held-out ones; None where nothing can be said.

    `says` explains it in a sentence. Species count equally; those that one side lacks are left out.
    `reconstructed`: that of held-out clips through the autoencoder, whose decoder draws generated ones too.
    """

    key: str
    title: str
    unit: str
    says: str
    real: float | None
    generated: float | None
    reconstructed: float | None = None

    def cells(self) -> tuple[str, str]:
        """(held-out, generated) as shown."""
        return _shown(self.real, self.unit), _shown(self.generated, self.unit)

    def reconstructed_cell(self) -> str:
        """`reconstructed` as shown."""
        return _shown(self.reconstructed, self.unit)


@dataclass(frozen=True)
class Measures:
    """All of them, with how many clips of each kind they rest on."""

    held_out: int
    generated: int
    training: int
    rows: list[Measure]
    reconstructed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def columns(self) -> list[str]:
        """What the cells of a row are of."""
        return ["held-out", *["through the autoencoder"] * bool(self.reconstructed), "generated"]

    def cells(self, row: Measure) -> list[str]:
        """The figures of a row as shown, a cell for each of `columns`."""
        held_out, generated = row.cells()
        return [held_out, *[row.reconstructed_cell()] * bool(self.reconstructed), generated]

    def has(self, key: str) -> bool:
        return any(row.key == key for row in self.rows)

    def row(self, key: str) -> Measure:
        return next(row for row in self.rows if row.key == key)

    def text(self) -> str:
        """A table for a terminal."""
        lines = table([["other measures", *self.columns()], *([r.title, *self.cells(r)] for r in self.rows)])
        lines.append(
            f"({self.held_out} held-out, {self.generated} generated, {self.training} training clips; "
            "distances: 0 is a copy; generated clips much nearer than held-out ones"
            f"{' through the autoencoder' if self.reconstructed else ''} are copies)"
        )
        return "\n".join(lines)


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:.0%}" if unit == "%" else f"{value:.2f}" if not unit else f"{value:.1f} {unit}"


@dataclass(frozen=True)
class _Facts:
    """What is measured on one clip."""

    loudness_db: float
    floor_db: float
    spectrum: np.ndarray  # mean power of every band, [bands]
    fast_db: float  # share of the envelope's fast modulation
    picture: np.ndarray


class Yardstick:
    """Held-out and training clips, measured once; generated clips of any number of models are laid beside.

    All clips are measured as sound that is encoded again, real ones like generated ones. The spectrum's
    distance is to the held-out clips of the same species; beside it stands that of training clips, real ones
    too. Distances to the nearest training clip are within the species, in pictures (one minus the
    correlation, over all shifts) and in the judge's embedding (cosine) where clips have one. `reconstructed`
    are held-out clips through the autoencoder: smoother, and for that alone nearer to training clips.
    """

    def __init__(
        self,
        codec: Codec,
        held_out: Sequence[HeardClip],
        training: Sequence[HeardClip],
        reconstructed: Sequence[HeardClip] = (),
    ) -> None:
        self.codec = codec
        self.reconstructed = [(clip, _facts(codec, clip)) for clip in reconstructed]
        self.held_out = [(clip, _facts(codec, clip)) for clip in held_out]
        self.training = [(clip, _facts(codec, clip)) for clip in training]

    def measure(self, generated: Sequence[HeardClip]) -> Measures:
        """The figures of generated clips beside those of held-out clips of the same species."""
        measured = [(clip, _facts(self.codec, clip)) for clip in generated]
        wanted = {clip.species for clip in generated}
        held_out, known, through = (
            [pair for pair in part if pair[0].species in wanted] if wanted else list(part)
            for part in (self.held_out, self.training, self.reconstructed)
        )
        sides = (held_out, measured, through)
        absolute = self.codec.keeps_level

        def beside(key: str) -> list[float | None]:
            return [_by_species(side, key) for side in sides]

        loud, floor = (beside(key) if absolute else [None] * 3 for key in ("loudness_db", "floor_db"))
        spectrum = [_spectral(side, held_out) for side in (known, measured, through)]
        pictures = [_nearness(known, side) for side in sides]
        embeddings = [_embedded(known, side) for side in sides]
        rows = [
            Measure("loudness", "loudness", "dBFS", "RMS level over the codec's band, median", *loud),
            Measure("floor", "noise floor", "dBFS", _FLOOR, *floor),
            Measure("spectrum", "mean spectrum, distance", "dB", _SPECTRUM, *spectrum),
            Measure("fast", f"modulation from {FAST_HZ:g} Hz on", "dB", _FAST, *beside("fast_db")),
            *_nearest_rows("pictures", "nearest training clip, pictures", *pictures),
            *_nearest_rows("embedding", "nearest training clip, judge's embedding", *embeddings),
        ]
        return Measures(len(held_out), len(measured), len(known), rows, len(through))


_Measured = tuple[HeardClip, _Facts]


def _facts(codec: Codec, clip: HeardClip) -> _Facts:
    image = codec.encode(clip.waveform, codec.rate_hz)
    power = mean_power(codec, image)
    levels = band_levels_db(codec, image)
    lowest = 10 ** (codec.quietest_db / 10)
    edges = np.asarray(MODULATION_HZ[:-1])
    rhythm = np.asarray(modulation_db(levels, codec.frame_s))
    fast = (10 ** (rhythm[edges >= FAST_HZ] / 10)).sum()
    loudness = max(codec.level_db(clip.waveform), codec.quietest_db)
    return _Facts(
        loudness, 10 * float(np.log10(max(float(np.quantile(power, QUIET)), lowest))),
        power.mean(axis=1), 10 * float(np.log10(fast + 1e-6)), thumbnail(levels),
    )  # fmt: skip


def _by_place(clips: Sequence[_Measured]) -> dict[str, list[_Measured]]:
    found: dict[str, list[_Measured]] = {}
    for clip, facts in clips:
        found.setdefault(clip.species, []).append((clip, facts))
    return found


def _by_species(clips: Sequence[_Measured], key: str) -> float | None:
    """The mean over species of the median over clips."""
    medians = [
        float(np.median([getattr(facts, key) for _, facts in own])) for own in _by_place(clips).values()
    ]
    return float(np.mean(medians)) if medians else None


def _spectral(clips: Sequence[_Measured], others: Sequence[_Measured]) -> float | None:
    """Mean over species of the RMS difference of two mean spectra in dB, apart from their loudness."""
    here, there = _by_place(clips), _by_place(others)
    found = []
    for species in sorted(here.keys() & there.keys()):
        difference = _mean_spectrum(here[species]) - _mean_spectrum(there[species])
        found.append(float(np.sqrt(np.mean((difference - difference.mean()) ** 2))))
    return float(np.mean(found)) if found else None


def _mean_spectrum(clips: Sequence[_Measured]) -> np.ndarray:
    """Level of every band in dB, the loudest 0; each clip counts alike, however loud it is."""
    shares = [facts.spectrum / max(float(facts.spectrum.sum()), 1e-30) for _, facts in clips]
    level = 10 * np.log10(np.mean(shares, axis=0) + 1e-30)
    return np.asarray((level - level.max()).clip(-SPECTRUM_RANGE_DB, None))


def _nearness(training: Sequence[_Measured], clips: Sequence[_Measured]) -> list[float]:
    """The distance of each clip to the nearest training clip of its species, in pictures."""
    known = {name: np.stack([facts.picture for _, facts in own]) for name, own in _by_place(training).items()}
    return [
        float(distances(facts.picture[None], known[clip.species]).min())
        for clip, facts in clips
        if clip.species in known
    ]


def _embedded(training: Sequence[_Measured], clips: Sequence[_Measured]) -> list[float]:
    """The same by the cosine of the judge's embeddings; of clips that have one."""
    known = {
        species: [clip.embedding for clip, _ in own if clip.embedding is not None]
        for species, own in _by_place(training).items()
    }
    return [
        float(1 - (_unit(np.stack(known[clip.species])) @ _unit(clip.embedding)).max())
        for clip, _ in clips
        if clip.embedding is not None and known.get(clip.species)
    ]


def _unit(vectors: np.ndarray) -> np.ndarray:
    values = np.asarray(vectors, dtype=np.float64)
    return np.asarray(values / (np.linalg.norm(values, axis=-1, keepdims=True) + 1e-12))


def _nearest_rows(key: str, title: str, *sides: list[float]) -> list[Measure]:
    """The median distance, and how many are nearer than nearly all held-out clips are: of held-out, generated
    and reconstructed clips."""
    real, generated, _ = sides
    if not real and not generated:
        return []
    threshold = float(np.quantile(real, COPY)) if real else None

    def nearer(values: list[float]) -> float | None:
        if threshold is None or not values:
            return None
        return float(np.mean([value < threshold for value in values]))

    medians = [float(np.median(values)) if values else None for values in sides]
    copies = "\u2026 nearer than 95% of held-out clips"
    return [
        Measure(f"nearest_{key}", title, "", _NEAREST, *medians),
        Measure(f"copies_{key}", copies, "%", _COPIES, *map(nearer, sides)),
    ]
