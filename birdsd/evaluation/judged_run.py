"""A finished run before the judge: the staircase, and what is measured beside being named.

Settings are chosen on validation recordings; what is said here comes from test recordings, so nothing that
this module returns may decide a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.errors import UserError
from birdsd.evaluation.available_judge import WEAK_ONLY, available_judge
from birdsd.evaluation.measures import HeardClip, Measures, Yardstick
from birdsd.evaluation.real_clips import RealClip, as_the_codec_takes, decoded, held_out_split, read_real
from birdsd.evaluation.staircase import (
    AUTOENCODER,
    CODEC,
    GENERATED,
    Reconstruct,
    Staircase,
    Step,
    reconstructions,
    reconstructor,
    staircase,
    with_generated,
)

if TYPE_CHECKING:
    from birdsd.evaluation.judges import Judge, Sound, Verdict
    from birdsd.shards.index import ShardIndex
    from birdsd.sound.codec.protocol import Codec

MOST_REAL = 300  # held-out clips that are judged: at a fifth of a second each for three stages
MOST_TRAINING = 240  # training clips that distances are taken to


@dataclass(frozen=True)
class JudgedRun:
    """What the judge and the measures say of a run's generated sounds.

    `staircase` is None without a judge, and `absent` says why there is none. `real` are the held-out clips,
    of the split `held_out` ("" without any), each with the codec's sound; `reconstructed` is what the
    autoencoder leaves of them, where it was heard.
    """

    staircase: Staircase | None
    absent: str
    measures: Measures
    real: list[RealClip]
    held_out: str
    reconstructed: list[Sound] = field(default_factory=list)

    def verdicts(self, stage: str) -> list[Verdict] | None:
        """Of a stage's clips in their order; None where it was not judged."""
        step = _stage(self.staircase, stage)
        return step.verdicts if step else None

    def text(self) -> str:
        """For a terminal: the staircase (or why there is none), and the measures."""
        return f"{self.staircase.text() if self.staircase else self.absent}\n\n{self.measures.text()}"

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {
            "judge": self.staircase.judge if self.staircase else None,
            "no_judge": self.absent,
            "held_out_split": self.held_out,
            "staircase": self.staircase.to_json() if self.staircase else None,
            "measures": self.measures.to_json(),
        }


@dataclass(frozen=True)
class Reference:
    """The real clips of a shard set, judged and measured once: any number of models is laid beside them.

    `real_stages` are the stages that real clips go through; None without a judge. `reconstructed` is what the
    autoencoder leaves of the held-out clips, where it was heard.
    """

    codec: Codec
    judge: Judge | None
    absent: str
    held_out: str
    real: list[RealClip]
    real_stages: Staircase | None
    yardstick: Yardstick
    reconstructed: list[Sound] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        index: ShardIndex,
        *,
        autoencoder: Path | str | None = None,
        recordings: Path | None = None,
        judge: Judge | None = None,
        progress: bool = True,
    ) -> Reference:
        """See `staircase_of`."""
        from birdsd.sound.codec.protocol import Codec

        codec = Codec.from_json(index.known_codec("their images are turned back into sound to be judged"))
        absent = ""
        if judge is None:
            judge, why_not = available_judge()
            absent = f"{WEAK_ONLY}{why_not}" if why_not else ""
        split = held_out_split(index) or ""
        found = read_real(index, split, recordings=recordings, limit=MOST_REAL) if split else []
        real, stages = _decoded(codec, found), None
        reconstructed: list[Sound] = []
        if judge is not None:
            # Loading a network takes seconds: not for species of which the judge says nothing.
            heard = any(judge.class_of(clip.species) is not None for clip in real)
            reconstruct, why = _reconstruct(autoencoder if heard else None, codec)
            through = _kept(reconstructions(codec, real, reconstruct), reconstructed) if reconstruct else None
            stages = staircase(
                codec, real, judge, index.species,
                reconstructed=through, held_out=split, why=why, progress=progress,
            )  # fmt: skip
            stages = replace(stages, missing={k: v for k, v in stages.missing.items() if k != GENERATED})
        training = _decoded(codec, read_real(index, "train", limit=MOST_TRAINING))
        known = set(stages.known) if stages else set()
        embedded, after = _embeddings(stages, CODEC), _embeddings(stages, AUTOENCODER)
        yardstick = Yardstick(
            codec,
            [
                HeardClip(clip.species, decoded(codec, clip), embedded(number, clip.species))
                for number, clip in enumerate(real)
            ],
            [
                HeardClip(
                    clip.species, decoded(codec, clip),
                    judge.hear(decoded(codec, clip), codec.rate_hz).clip_embedding
                    if judge is not None and clip.species in known
                    else None,
                )
                for clip in training
            ],
            [
                HeardClip(sound.species, at_rate(codec, sound), after(number, sound.species))
                for number, sound in enumerate(reconstructed)
                if sound.species
            ],
        )  # fmt: skip
        return cls(codec, judge, absent, split, real, stages, yardstick, reconstructed)

    def hear(self, generated: Sequence[Sound], progress: bool = True) -> JudgedRun:
        """Judge and measure generated sounds, each with the species that was asked for."""
        stages = self.judged(generated, progress)
        measures = self.measures(generated, stages)
        return JudgedRun(stages, self.absent, measures, self.real, self.held_out, self.reconstructed)

    def judged(self, generated: Sequence[Sound], progress: bool = True) -> Staircase | None:
        """The staircase with these sounds as its last stage; None without a judge."""
        if self.judge is None or self.real_stages is None:
            return None
        return with_generated(self.real_stages, self.judge, generated, progress)

    def measures(
        self, generated: Sequence[Sound], judged: Staircase | None, only: Sequence[int] | None = None
    ) -> Measures:
        """What stands beside being named; `judged` holds the embeddings of the same sounds. `only`: of those
        with these numbers."""
        wanted = None if only is None else set(only)
        embedded = _embeddings(judged, GENERATED)
        return self.yardstick.measure(
            [
                HeardClip(sound.species, at_rate(self.codec, sound), embedded(number, sound.species))
                for number, sound in enumerate(generated)
                if sound.species and (wanted is None or number in wanted)
            ]
        )


def staircase_of(
    index: ShardIndex,
    generated: Sequence[Sound],
    *,
    autoencoder: Path | str | None = None,
    recordings: Path | None = None,
    judge: Judge | None = None,
    progress: bool = True,
) -> JudgedRun:
    """Judge a run by the shards it learnt from and the sounds it made (each with the species asked for).

    `autoencoder` is its exported folder, `recordings` what the shards were prepared from; without them those
    stages say that they are missing. `judge`: the installed one unless given. Raises `UserError` where the
    shards have no codec.
    """
    reference = Reference.of(
        index, autoencoder=autoencoder, recordings=recordings, judge=judge, progress=progress
    )
    return reference.hear(generated, progress)


def _decoded(codec: Codec, clips: Sequence[RealClip]) -> list[RealClip]:
    return [replace(clip, heard=decoded(codec, clip)) for clip in clips]


def _stage(judged: Staircase | None, stage: str) -> Step | None:
    return next((step for step in judged.steps if step.stage == stage), None) if judged else None


def _reconstruct(autoencoder: Path | str | None, codec: Codec) -> tuple[Reconstruct | None, dict[str, str]]:
    """The autoencoder, or None and why that stage is missing: a page is not lost for it."""
    if autoencoder is None:
        return None, {}
    try:
        return reconstructor(str(autoencoder), codec), {}
    except UserError as error:
        return None, {AUTOENCODER: str(error)}


def _kept(sounds: Iterable[Sound], into: list[Sound]) -> Iterator[Sound]:
    """The sounds, each of which is kept as it passes."""
    for sound in sounds:
        into.append(sound)
        yield sound


def _embeddings(judged: Staircase | None, stage: str) -> Callable[[int, str], np.ndarray | None]:
    """(number of a stage's clip, its species) -> its embedding, where it was judged and counts."""
    step = _stage(judged, stage)
    known = set(judged.known) if judged else set()

    def of(number: int, species: str) -> np.ndarray | None:
        return step.embeddings[number] if step is not None and species in known else None

    return of


def at_rate(codec: Codec, sound: Sound) -> np.ndarray:
    """A sound as the codec takes it: float32 [channels, samples] at the codec's rate, all of it finite."""
    return np.nan_to_num(as_the_codec_takes(codec, sound.waveform, sound.rate_hz))
