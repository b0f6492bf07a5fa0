"""A finished run before the judge: the staircase, and what is measured beside being named.

Settings are chosen on validation recordings; what is said here comes from test recordings, so nothing that
this module returns may decide a setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.errors import UserError
from birdsd.evaluation.judge_at_hand import judge_at_hand
from birdsd.evaluation.measures import HeardClip, Measures, measure
from birdsd.evaluation.real_clips import RealClip, decoded, held_out_split, read_real
from birdsd.evaluation.staircase import (
    AUTOENCODER,
    CODEC,
    GENERATED,
    Staircase,
    Step,
    reconstructor,
    staircase,
)

if TYPE_CHECKING:
    from birdsd.evaluation.judges import Judge, Sound, Verdict
    from birdsd.shards.index import ShardIndex
    from birdsd.sound.codec import SpectrogramCodec

MOST_REAL = 300  # held-out clips that are judged: at a fifth of a second each for three stages
MOST_TRAINING = 240  # training clips that distances are taken to


@dataclass(frozen=True)
class JudgedRun:
    """What the judge and the measures say of a run's generated sounds.

    `staircase` is None without a judge, and `absent` says why there is none. `real` are the held-out clips,
    of the split `held_out` ("" without any), each with the codec's sound.
    """

    staircase: Staircase | None
    absent: str
    measures: Measures
    real: list[RealClip]
    held_out: str

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
            "held_out": self.held_out,
            "staircase": self.staircase.to_json() if self.staircase else None,
            "measures": self.measures.to_json(),
        }


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
    from birdsd.sound.codec import SpectrogramCodec

    if not index.codec:
        raise UserError(
            f"the shards in {index.folder} have no codec.json",
            "their images are turned back into sound to be judged",
            "copy the codec.json that belongs to them beside them",
        )
    codec = SpectrogramCodec.from_json(index.codec)
    absent = ""
    if judge is None:
        judge, absent = judge_at_hand()
    split = held_out_split(index) or ""
    real = _decoded(codec, read_real(index, split, recordings=recordings, limit=MOST_REAL) if split else [])
    judged = None
    if judge is not None:
        reconstruct = reconstructor(str(autoencoder), codec) if autoencoder and real else None
        why = {} if autoencoder else {AUTOENCODER: "the run has no autoencoder of its own"}
        judged = staircase(
            codec, real, judge, index.species, reconstruct=reconstruct, generated=generated, held_out=split,
            why=why, progress=progress,
        )  # fmt: skip
    training = _decoded(codec, read_real(index, "train", limit=MOST_TRAINING))
    return JudgedRun(judged, absent, _measures(codec, judge, judged, real, generated, training), real, split)


def _decoded(codec: SpectrogramCodec, clips: Sequence[RealClip]) -> list[RealClip]:
    return [replace(clip, heard=decoded(codec, clip)) for clip in clips]


def _stage(judged: Staircase | None, stage: str) -> Step | None:
    return next((step for step in judged.steps if step.stage == stage), None) if judged else None


def _measures(
    codec: SpectrogramCodec,
    judge: Judge | None,
    judged: Staircase | None,
    real: Sequence[RealClip],
    generated: Sequence[Sound],
    training: Sequence[RealClip],
) -> Measures:
    known = set(judged.known) if judged else set()

    def embedding(stage: str, number: int, species: str) -> np.ndarray | None:
        step = _stage(judged, stage)
        return step.embeddings[number] if step and species in known else None

    def heard(clip: RealClip) -> np.ndarray | None:
        if judge is None or clip.species not in known or clip.heard is None:
            return None
        return judge.hear(clip.heard, codec.rate_hz).clip_embedding

    return measure(
        codec,
        [
            HeardClip(clip.species, decoded(codec, clip), embedding(CODEC, n, clip.species))
            for n, clip in enumerate(real)
        ],
        [
            HeardClip(sound.species, at_rate(codec, sound), embedding(GENERATED, n, sound.species))
            for n, sound in enumerate(generated)
            if sound.species
        ],
        [HeardClip(clip.species, decoded(codec, clip), heard(clip)) for clip in training],
    )


def at_rate(codec: SpectrogramCodec, sound: Sound) -> np.ndarray:
    """A sound as the codec takes it: float32 [channels, samples] at the codec's rate."""
    waveform = np.atleast_2d(np.asarray(sound.waveform, dtype=np.float32))
    if sound.rate_hz != codec.rate_hz:
        import soxr

        waveform = soxr.resample(waveform.T, sound.rate_hz, codec.rate_hz, quality="HQ").T
    if len(waveform) != codec.channels:
        waveform = waveform.mean(axis=0, keepdims=True).repeat(codec.channels, axis=0)
    return np.nan_to_num(waveform)
