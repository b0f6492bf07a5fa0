"""The weak check of learning: what a plain classifier of our own says, where no better judge is at hand.

A logistic regression on log-mel statistics is trained on *training recordings only*. It scores the
held-out recordings (what the check itself is worth) and the generated clips (does a clip sound like
the species that was asked for, to a classifier that never saw a generated clip). Beside both stands chance.
It is lenient: it knows the run's species only, and has to name one of them whatever it hears. On the same
clips BirdNET named 4% where it named 53%. So it stands beside the judge (birdsd.evaluation.judges) where
there is one, and is called the weak check everywhere. The distance to the nearest training clip shows
whether the model learnt the birds or the recordings.

Recordings and generated clips go through the same codec. A generated clip that comes as a waveform is
encoded again, so that what is judged is what is heard; one that comes as an image is judged as drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.errors import BadValue, NothingLeft, unknown_name
from birdsd.evaluation.features import band_levels_db, distances, nearest, statistics, thumbnail
from birdsd.evaluation.judges.judgement import wilson
from birdsd.evaluation.real_clips import as_the_codec_takes
from birdsd.format import table
from birdsd.randomness import generator

if TYPE_CHECKING:
    from birdsd.evaluation.judges import Sound
    from birdsd.shards.index import ShardIndex
    from birdsd.sound.codec.protocol import Codec

REGULARISATION = 0.02  # sklearn's C; fixed, so that nobody tunes it on the answer
RESAMPLES = 2000


@dataclass(frozen=True)
class GeneratedClip:
    """A clip that a model made when asked for `species`: the codec's image [C, H, W], or a
    waveform [C, N]."""

    species: str
    image: np.ndarray | None = None
    waveform: np.ndarray | None = None
    rate_hz: int = 0


@dataclass(frozen=True)
class Clips:
    """Clips with one known species each; `group` is the recording (or the clip itself when generated)."""

    levels: list[np.ndarray]  # in dB, [bands, frames], see `band_levels_db`
    species: list[str]
    group: list[str]
    number: list[int] = field(default_factory=list)  # sample number in the split
    left_out: int = 0  # samples with no or several species, or undecodable


@dataclass(frozen=True)
class Score:
    """How often the classifier named the right species."""

    clips: int
    accuracy: float  # share of the clips named right: the same measure for held-out and generated clips
    low: float  # 95% interval of it, over units
    high: float
    unit: str  # what counts as one independent observation: a recording, or a generated clip
    units: int
    units_right: int  # units whose clips together (mean log probability) name the right species
    p_value: float  # of so many right units by guessing, binomial, one-sided
    per_species: dict[str, float | None]  # of clips
    clips_per_species: dict[str, int]
    units_per_species: dict[str, int]
    confusion: list[list[int]]  # clips; row = true or asked for, column = named

    @property
    def better_than_chance(self) -> bool:
        """Whether guessing is ruled out at the 1% level."""
        return self.p_value < 0.01

    def verdict(self) -> str:
        """One sentence: the interval, what was counted, and whether it beats guessing."""
        found = "better than chance" if self.better_than_chance else "NOT distinguishable from chance"
        pooled = f"{self.units_right} of {self.units} {self.unit} right, " if self.units != self.clips else ""
        chances = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.2g}"
        return (
            f"{self.accuracy:.0%} of {self.clips} clips named right (95% interval {self.low:.0%} to "
            f"{self.high:.0%}); {pooled}{chances} against guessing: {found}"
        )


@dataclass(frozen=True)
class CopyCheck:
    """How close generated clips come to training clips, beside how close held-out recordings come.

    Where it is known what the autoencoder leaves of held-out clips, generated ones are compared with these
    (`threshold`): the decoder smooths both, and what is smoother is nearer to everything.
    """

    generated_median: float
    held_out_median: float
    threshold: float  # the distance below which 5% of the held-out clips lie
    closer_than_held_out: float  # share of generated clips below it: 0.05 expected, much more is memorising
    variety_generated: float  # median distance between clips of one species: near 0 = always the same clip
    variety_held_out: float
    training_sample: list[int]  # the nearest training sample of every generated clip
    distance: list[float]
    reconstructed_median: float | None = None  # of held-out clips through the autoencoder

    @property
    def copies(self) -> bool:
        """Whether more generated clips than luck allows (1% level) come closer to training clips
        than 5% of the held-out ones do."""
        from scipy.stats import binomtest

        close = sum(d < self.threshold for d in self.distance)
        return bool(binomtest(close, len(self.distance), 0.05, alternative="greater").pvalue < 0.01)

    def verdict(self) -> str:
        """One sentence on copies of training clips, and on variety."""
        found = "SIGNS OF COPYING" if self.copies else "no sign of copying"
        through, them = "", "the held-out ones"
        if self.reconstructed_median is not None:
            through, them = f", through the autoencoder {self.reconstructed_median:.2f}", "the latter"
        return (
            "distance to the nearest training clip (0 = a copy, 1 = nothing in common), median: generated "
            f"{self.generated_median:.2f}, held-out {self.held_out_median:.2f}{through}; "
            f"{self.closer_than_held_out:.0%} of the generated clips are nearer than the nearest 5% of "
            f"{them}: {found}. Distance between two clips of one species, median: generated "
            f"{self.variety_generated:.2f}, held-out {self.variety_held_out:.2f}"
        )


@dataclass(frozen=True)
class LearningCheck:
    """The result; `text()` for a terminal, `to_json()` for a file."""

    species: list[str]
    chance: float
    training_clips: int
    training_recordings: int
    left_out: int
    held_out: Score | None
    generated: Score | None
    nearness: CopyCheck | None

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return asdict(self)

    def text(self) -> str:
        """A table with a row per species, the totals, and what they are worth."""
        scores = (self.held_out, self.generated)
        rows = [["species", "held-out clips", "generated clips"]]
        rows += [[name, *(_cell(score, name) for score in scores)] for name in self.species]
        rows.append(["all", *(f"{s.accuracy:.0%} of {s.clips}" if s else "-" for s in scores)])
        rows.append(["chance", *2 * [f"{100 * self.chance:.3g}%"]])
        lines = table(rows)
        for title, one_score in zip(("held-out", "generated"), scores, strict=True):
            if one_score:
                lines.append(f"{title}: {one_score.verdict()}")
        if self.nearness:
            lines.append(f"copies: {self.nearness.verdict()}")
        lines.append(
            f"weak check: logistic regression on log-mel statistics of {self.training_clips} clips of "
            f"{self.training_recordings} training recordings; no generated clip is among them"
        )
        return "\n".join(lines)


def _cell(score: Score | None, species: str) -> str:
    share = score.per_species.get(species) if score else None
    return f"{share:.0%} of {score.clips_per_species[species]}" if score and share is not None else "-"


def read_clips(index: ShardIndex, codec: Codec, split: str, limit: int = 2000) -> Clips:
    """The clips of a split that have exactly one species, at most `limit` of them, spread evenly."""
    from birdsd.shards.reader import ShardReader

    count = index.count(split) if split in index.splits else 0
    clips = Clips([], [], [])
    left_out = 0
    if not count:
        return clips
    reader = ShardReader(index, split, want=("image", "metadata"))
    for number in np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int)):
        sample = reader.read(int(number))
        if sample.image is None or len(sample.metadata.get("species", ())) != 1:
            left_out += 1
            continue
        clips.levels.append(band_levels_db(codec, sample.image))
        clips.species.append(sample.metadata["species"][0])
        clips.group.append(str(sample.metadata.get("recording_id") or sample.key))
        clips.number.append(int(number))
    return Clips(clips.levels, clips.species, clips.group, clips.number, left_out)


class SpeciesClassifier:
    """The weak check's classifier: standardised statistics, logistic regression with balanced classes."""

    def __init__(self, clips: Clips, hop_s: float) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.hop_s = hop_s
        self.species = sorted(set(clips.species))
        if len(self.species) < 2:
            raise NothingLeft(
                f"the species check found {len(self.species)} species in the training clips",
                "a classifier needs at least two species with labelled training recordings",
                "add recordings of another species, or skip the check",
            )
        self._model = make_pipeline(
            StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=2000, class_weight="balanced")
        )
        self._model.fit(self._statistics(clips), [self.species.index(s) for s in clips.species])

    def _statistics(self, clips: Clips) -> np.ndarray:
        return np.stack([statistics(levels, self.hop_s) for levels in clips.levels])

    def probabilities(self, clips: Clips) -> np.ndarray:
        """The probability of every species for every clip, float64 [clips, species]."""
        return np.asarray(self._model.predict_proba(self._statistics(clips)))


def score(classifier: SpeciesClassifier, clips: Clips, unit: str) -> Score | None:
    """Score clips; those of one group (recording) count as one observation for the interval and the p-value.

    Clips of one recording are no independent evidence: counting each of them would make every interval
    too narrow. None when there is no clip.
    """
    if not clips.levels:
        return None
    from scipy.stats import binomtest

    names = classifier.species
    probability = classifier.probabilities(clips)
    truth = np.asarray([names.index(s) for s in clips.species])
    right = probability.argmax(axis=1) == truth
    confusion = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(confusion, (truth, probability.argmax(axis=1)), 1)
    # A recording with clips of two species is two observations.
    keys = [f"{t}/{g}" for g, t in zip(clips.group, truth, strict=True)]
    _, first, unit_of = np.unique(keys, return_index=True, return_inverse=True)
    evidence = np.zeros((len(first), len(names)))
    np.add.at(evidence, unit_of, np.log(probability + 1e-12))
    unit_truth = truth[first]
    units_right = int((evidence.argmax(axis=1) == unit_truth).sum())
    units_per = np.bincount(unit_truth, minlength=len(names))
    # Who always names the commonest species is right more often than 1/K when they are not equally
    # many: the test is against the better of the two guesses.
    guess = max(1 / len(names), float(units_per.max()) / len(first))
    low, high = _interval(right, unit_of, unit_truth)
    return Score(
        clips=len(truth), accuracy=float(right.mean()), low=low, high=high,
        unit=unit, units=len(first), units_right=units_right,
        p_value=float(binomtest(units_right, len(first), guess, alternative="greater").pvalue),
        per_species={n: _mean(right[truth == i]) for i, n in enumerate(names)},
        clips_per_species={n: int((truth == i).sum()) for i, n in enumerate(names)},
        units_per_species={n: int(units_per[i]) for i, n in enumerate(names)},
        confusion=confusion.tolist(),
    )  # fmt: skip


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _interval(right: np.ndarray, unit_of: np.ndarray, unit_truth: np.ndarray) -> tuple[float, float]:
    """95% interval of the share of right clips, over units: the wider of a bootstrap and Wilson's.

    The bootstrap draws whole units within their species. With few units it is too narrow (all right:
    no width at all); Wilson's, with as many trials as there are units, then sets the width.
    """
    units = len(unit_truth)
    hits, sizes = np.bincount(unit_of, right, units), np.bincount(unit_of, minlength=units)
    draw = generator(0, "learning check", units)
    drawn = np.concatenate(
        [own[draw.integers(0, len(own), (RESAMPLES, len(own)))] for own in
         (np.flatnonzero(unit_truth == t) for t in np.unique(unit_truth))], axis=1,
    )  # fmt: skip
    shares = hits[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = wilson(float(right.mean()) * units, units)
    return min(low, float(np.quantile(shares, 0.025))), max(high, float(np.quantile(shares, 0.975)))


def _variety(pictures: np.ndarray, clips: Clips, most: int = 24) -> float:
    """The median distance between two clips of one species, one clip of each group."""
    first: dict[tuple[str, str], int] = {}
    for i, key in enumerate(zip(clips.species, clips.group, strict=True)):
        first.setdefault(key, i)
    found: list[float] = []
    for name in sorted(set(clips.species)):
        own = pictures[[i for (species, _), i in first.items() if species == name][:most]]
        table = distances(own, own)
        found += table[np.triu_indices(len(own), k=1)].tolist()
    return float(np.median(found)) if found else 0.0


def nearness(
    training: Clips, held_out: Clips, generated: Clips, reconstructed: Clips | None = None
) -> CopyCheck | None:
    """How close generated and held-out clips come to training clips; None where either is missing.
    `reconstructed`: held-out clips through the autoencoder, as `CopyCheck` says."""
    if not generated.levels or not held_out.levels:
        return None
    known, unseen, new = (
        np.stack([thumbnail(v) for v in part.levels]) for part in (training, held_out, generated)
    )
    which, distance = nearest(new, known)
    _, expected = nearest(unseen, known)
    through = None
    if reconstructed is not None and reconstructed.levels:
        _, through = nearest(np.stack([thumbnail(v) for v in reconstructed.levels]), known)
    threshold = float(np.quantile(expected if through is None else through, 0.05))
    return CopyCheck(
        generated_median=float(np.median(distance)),
        held_out_median=float(np.median(expected)),
        threshold=threshold,
        closer_than_held_out=float((distance < threshold).mean()),
        variety_generated=_variety(new, generated),
        variety_held_out=_variety(unseen, held_out),
        training_sample=[training.number[int(i)] for i in which],
        distance=[float(d) for d in distance],
        reconstructed_median=None if through is None else float(np.median(through)),
    )


@dataclass(frozen=True)
class WeakCheck:
    """A classifier, the recordings that it learnt from and those held out: it scores any sets of clips."""

    classifier: SpeciesClassifier
    codec: Codec
    training: Clips
    held_out: Clips
    left_out: int

    @classmethod
    def of(cls, index: ShardIndex, limit: int = 2000) -> WeakCheck:
        """Train a classifier on the training recordings of some shards; at most `limit` clips a split.

        Raises `UserError` when the shards have no codec, or fewer than two species.
        """
        from birdsd.sound.codec.protocol import Codec

        codec = Codec.from_json(index.known_codec("the weak check reads sound out of images"))
        training = read_clips(index, codec, "train", limit)
        classifier = SpeciesClassifier(training, codec.frame_s)
        parts = [read_clips(index, codec, split, limit) for split in ("validation", "test")]
        # A species without any training recording cannot be named by it: its clips are left out.
        rows = [
            row
            for part in parts
            for row in zip(part.levels, part.species, part.group, strict=True)
            if row[1] in classifier.species
        ]
        seen = sum(len(part.levels) for part in parts)
        return cls(
            classifier,
            codec,
            training,
            Clips([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]),
            training.left_out + sum(part.left_out for part in parts) + seen - len(rows),
        )

    def heard(self, generated: Sequence[GeneratedClip]) -> Clips:
        """Generated clips as the classifier hears them; a `UserError` for a species that it does not know."""
        for clip in generated:
            if clip.species not in self.classifier.species:
                raise unknown_name("species of a generated clip", clip.species, self.classifier.species)
        levels = [band_levels_db(self.codec, _image(self.codec, clip)) for clip in generated]
        return Clips(levels, [clip.species for clip in generated], [str(i) for i in range(len(levels))])

    def score(self, generated: Clips) -> Score | None:
        """How often the classifier names what was asked for, in generated clips."""
        return score(self.classifier, generated, "generated clips")

    def nearness(self, generated: Clips, reconstructed: Sequence[GeneratedClip] = ()) -> CopyCheck | None:
        """How close generated clips come to training clips, beside how close held-out ones come, as they are
        and `reconstructed`."""
        known = [clip for clip in reconstructed if clip.species in self.classifier.species]
        return nearness(self.training, self.held_out, generated, self.heard(known) if known else None)


def learning_check(
    index: ShardIndex,
    generated: Sequence[GeneratedClip],
    *,
    reconstructed: Sequence[GeneratedClip] = (),
    limit: int = 2000,
) -> LearningCheck:
    """Score held-out recordings (validation, test) and generated clips by training recordings alone.
    `reconstructed`: what the autoencoder leaves of held-out clips, where that is known.

    Raises `UserError` when the shards have no codec, fewer than two species, or when a clip was asked
    for a species that is not in the training split. Without held-out recordings `held_out` is None.
    """
    weak = WeakCheck.of(index, limit)
    clips = weak.heard(generated)
    return LearningCheck(
        species=weak.classifier.species,
        chance=1 / len(weak.classifier.species),
        training_clips=len(weak.training.levels),
        training_recordings=len(set(weak.training.group)),
        left_out=weak.left_out,
        held_out=score(weak.classifier, weak.held_out, "recordings"),
        generated=weak.score(clips),
        nearness=weak.nearness(clips, reconstructed),
    )


def as_clips(sounds: Iterable[Sound]) -> list[GeneratedClip]:
    """Those of one species, as the weak check takes them."""
    return [
        GeneratedClip(sound.species, waveform=sound.waveform, rate_hz=sound.rate_hz)
        for sound in sounds
        if sound.species
    ]


def _image(codec: Codec, clip: GeneratedClip) -> np.ndarray:
    """The clip as an image of the codec, whatever it came as."""
    if clip.image is not None:
        return clip.image if clip.image.ndim == 3 else clip.image[None]
    if clip.waveform is None or clip.rate_hz <= 0:
        raise BadValue(
            f"a generated clip of {clip.species} has neither an image nor a waveform with its rate",
            "the species check needs one of the two",
        )
    return codec.encode(as_the_codec_takes(codec, clip.waveform, clip.rate_hz), codec.rate_hz)
