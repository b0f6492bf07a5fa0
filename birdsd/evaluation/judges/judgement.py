"""What a judge says of a set of clips: a verdict for each, and how many of each species it named right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from birdsd.errors import NothingLeft
from birdsd.evaluation.judges.judge import Judge, Sound, sigmoid

CONFIDENT = 0.25  # a score from which users of BirdNET keep a detection
NOTHING_HEARD = "nothing heard"
SILENT_BELOW = 2.0**-16  # half a step of 16 bits, full scale is 1


@dataclass(frozen=True)
class Verdict:
    """Of one clip. A silent clip, or one without usable samples, has nothing heard in it: never right."""

    name: str  # the clip's file or key
    species: str | None  # what it should be; None where nobody said
    known: bool  # the judge has a class for that species
    named: str  # the top-1 of all classes, common name; NOTHING_HEARD where there is no sound
    confidence: float  # the score of the top-1, 0..1
    rank: int | None  # of the right species among all classes, 1 = top
    score: float | None  # of the right species, 0..1
    named_among: str | None  # the best of the set's own species
    right: bool | None
    right_among: bool | None  # None where the right species is not among the set's own
    note: str = ""  # why nothing was heard


@dataclass(frozen=True)
class Share:
    """How many of how many, with Wilson's 95% interval."""

    right: int
    clips: int

    @property
    def share(self) -> float | None:
        """0..1; None of no clips."""
        return self.right / self.clips if self.clips else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval, 0..1."""
        return wilson(self.right, self.clips)

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        low, high = self.interval
        return {"right": self.right, "clips": self.clips, "share": self.share, "low": low, "high": high}

    def __str__(self) -> str:
        if self.share is None:
            return "-"
        low, high = self.interval
        return f"{self.share:.0%} ({low:.0%}-{high:.0%})"


@dataclass(frozen=True)
class Row:
    """The figures of some clips, of one species or of all."""

    species: str
    clips: int
    right: Share
    right_among: Share
    confident: Share  # the right species has a score of at least CONFIDENT
    median_score: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {
            key: value.to_json() if isinstance(value, Share) else value for key, value in vars(self).items()
        }


def _row(title: str, verdicts: Sequence[Verdict]) -> Row:
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    among = [verdict.right_among for verdict in verdicts if verdict.right_among is not None]
    count = len(verdicts)
    return Row(
        title,
        count,
        Share(sum(bool(v.right) for v in verdicts), count),
        Share(among.count(True), len(among)),
        Share(sum(score >= CONFIDENT for score in scores), count),
        float(np.median(scores)) if scores else None,
    )


@dataclass(frozen=True)
class Judgement:
    """Of a set of clips. Species without a class are left out of every figure, never counted as wrong."""

    judge: str
    licence: str
    fingerprint: str
    verdicts: list[Verdict]
    among: list[str]
    unknown: list[str]  # species that the judge has no class for
    embeddings: np.ndarray = field(repr=False)  # float32 [clips, width], in the order of the verdicts

    @property
    def counted(self) -> list[Verdict]:
        """The verdicts that count: of clips whose species is said and known."""
        return [verdict for verdict in self.verdicts if verdict.species is not None and verdict.known]

    @property
    def total(self) -> Row:
        """The figures of all clips that count."""
        return _row("all", self.counted)

    @property
    def rows(self) -> list[Row]:
        """The figures of each species."""
        counted = self.counted
        names = sorted({verdict.species for verdict in counted if verdict.species})
        return [_row(name, [v for v in counted if v.species == name]) for name in names]

    @property
    def clips(self) -> int:
        """How many clips count."""
        return len(self.counted)

    @property
    def right(self) -> Share:
        """Named right, of all classes."""
        return self.total.right

    @property
    def right_among(self) -> Share:
        """Named right, of the set's own species."""
        return self.total.right_among

    @property
    def confident(self) -> Share:
        """With a score of the right species of at least CONFIDENT."""
        return self.total.confident

    @property
    def median_score(self) -> float | None:
        """Of the right species, 0..1."""
        return self.total.median_score

    def to_json(self) -> dict[str, Any]:
        """Plain values only; the embeddings are left out."""
        return {
            "judge": self.judge,
            "licence": self.licence,
            "fingerprint": self.fingerprint,
            "among": self.among,
            "unknown": self.unknown,
            "total": self.total.to_json(),
            "species": [row.to_json() for row in self.rows],
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }


def judge_sounds(
    judge: Judge, sounds: Iterable[Sound], among: Sequence[str], progress: bool = True
) -> Judgement:
    """Judge clips; `among` are the set's own species, of which the best is named beside the best of all.

    A clip that is silent, empty or not finite counts: nothing was heard in it.
    """
    from tqdm import tqdm

    court = Court(judge, among)
    total = len(sounds) if isinstance(sounds, Sequence) else None
    for sound in tqdm(sounds, total=total, desc=judge.title, unit="clip", disable=None if progress else True):
        why = _unusable(sound)
        # What nothing sounds like: the embedding of silence, so that every clip has one.
        silence = np.zeros(1, dtype=np.float32), judge.rate_hz
        heard = judge.hear(*(silence if why else (sound.waveform, sound.rate_hz)))
        court.take(sound.name, sound.species, heard.clip_logits, heard.clip_embedding, why)
    return court.judgement()


def _unusable(sound: Sound) -> str:
    """Why there is nothing to be heard in a sound; '' where there is."""
    waveform = np.asarray(sound.waveform)
    if not waveform.size:
        return "no samples"
    if not np.isfinite(waveform).all():
        return "NaN or infinite samples"
    return "silence" if is_silent(waveform) else ""


def is_silent(waveform: np.ndarray) -> bool:
    """Whether no sample of any channel moves by more than half a 16-bit step: BirdNET normalises the level,
    so that it would judge even the rounding noise of an empty clip."""
    moves = np.ptp(np.atleast_2d(waveform), axis=-1)
    return bool((moves < SILENT_BELOW).all())


class Court:
    """Collects verdicts, sound after sound."""

    def __init__(self, judge: Judge, among: Sequence[str]) -> None:
        self.judge = judge
        self._among: dict[str, int] = {}
        self._called: dict[int, str] = {}  # class -> the spelling that it is shown in, the first that came
        self._unknown: set[str] = set()
        for name in among:
            number = self._class_of(name)
            if number is not None:
                self._among[self._called[number]] = number
        self._verdicts: list[Verdict] = []
        self._embeddings: list[np.ndarray] = []

    def take(
        self, name: str, species: str | None, logits: np.ndarray, embedding: np.ndarray, nothing: str = ""
    ) -> Verdict:
        """Add the verdict on one sound by its logits [classes] and its embedding [width], both of the whole
        clip; `nothing` says why there is nothing to be heard in it."""
        number = self._class_of(species) if species else None
        top = int(logits.argmax())
        best = max(self._among, key=lambda name: logits[self._among[name]], default=None)
        known = number is not None
        among_right = best is not None and self._among[best] == number and not nothing
        verdict = Verdict(
            name=name,
            species=species if number is None else self._called[number],
            known=known,
            named=NOTHING_HEARD if nothing else self.judge.label_of(top),
            confidence=0.0 if nothing else float(sigmoid(logits[top])),
            rank=int((logits > logits[number]).sum()) + 1 if known and not nothing else None,
            score=(0.0 if nothing else float(sigmoid(logits[number]))) if known else None,
            named_among=None if nothing else best,
            right=(top == number and not nothing) if known else None,
            right_among=None if number not in self._among.values() else among_right,
            note=nothing,
        )
        self._verdicts.append(verdict)
        self._embeddings.append(embedding)
        return verdict

    def _class_of(self, species: str) -> int | None:
        number = self.judge.class_of(species)
        if number is None:
            self._unknown.add(species)
        else:
            self._called.setdefault(number, species)
        return number

    def judgement(self) -> Judgement:
        """All that was taken so far."""
        if not self._verdicts:
            raise NothingLeft("there is no sound to judge", "", "name sound files or folders of them")
        judge = self.judge
        return Judgement(
            judge.title, judge.licence, judge.fingerprint, self._verdicts, list(self._among),
            sorted(self._unknown), np.stack(self._embeddings),
        )  # fmt: skip


def wilson(right: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95% interval of a share (Wilson 1927): honest also for few trials and shares near 0 or 1."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = right / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
