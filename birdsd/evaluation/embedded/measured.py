"""A folder of generated clips laid beside the real clips of a shard set: in a judge's embedding, by its
verdicts, and in what it does not hear (loudness, noise floor, spectrum).

Real clips are taken as the codec gives them back: cut to the same length as generated ones, and with the same
losses, so that what differs is the model's doing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.errors import NotFound, NothingLeft, listed_names
from birdsd.evaluation.embedded.cache import EmbeddingCache, Heard
from birdsd.evaluation.embedded.quality import Embedded, Quality, quality_of
from birdsd.evaluation.features import band_levels_db, distances, thumbnail
from birdsd.evaluation.judges.judgement import Court, Judgement
from birdsd.evaluation.judges.sounds import SoundFile, find_sounds
from birdsd.evaluation.measures import HeardClip, Measures, Yardstick
from birdsd.evaluation.real_clips import RealClip, as_the_codec_takes, decoded, read_real
from birdsd.files import fingerprint
from birdsd.sound.audio.recordings import RecordingError, read

if TYPE_CHECKING:
    from birdsd.evaluation.judges import Judge
    from birdsd.shards.index import ShardIndex
    from birdsd.sound.codec.protocol import Codec

MOST_TRAINING, MOST_HELD_OUT, MOST_GENERATED = 2_000, 1_000, 2_000
MOST_YARDSTICK = 240  # real clips that loudness and spectrum are measured on
_LENGTH = 0.25  # a generated clip may differ from the codec's length by so much of it


@dataclass(frozen=True)
class MeasuredSet:
    """Everything that is told of generated clips."""

    quality: Quality
    judged: Judgement  # the generated clips
    real: Judgement  # held-out real ones
    measures: Measures
    pairs: list[tuple[str, str, float, float]]  # nearest: generated, training, cosine distance, correlation
    left_out: list[str]
    remarks: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {
            "sentences": self.quality.sentences(), "quality": self.quality.to_json(),
            "judge": self.judged.to_json(), "judge_real": self.real.to_json()["total"],
            "measures": self.measures.to_json(), "left_out": self.left_out, "remarks": self.remarks,
            "nearest": [
                {"generated": one, "training": other, "cosine_distance": near, "correlation": alike}
                for one, other, near, alike in self.pairs
            ],
        }  # fmt: skip

    def text(self) -> str:
        """For a terminal."""
        rates = f"{self.judged.judge}: generated {self.judged.right} named right, held-out {self.real.right}"
        lines = [self.quality.text(), "", rates, "", self.measures.text(), *self.remarks]
        return "\n".join(lines)


def measure_folder(
    folder: Path, index: ShardIndex, judge: Judge, cache: EmbeddingCache, *, resamples: int, seed: int
) -> MeasuredSet:
    """Measure the clips of a folder. Raises `UserError` where nothing can be compared at all."""
    from birdsd.sound.codec.protocol import Codec

    codec = Codec.from_json(index.known_codec("real clips are turned back into sound to be compared with"))
    train = read_real(index, "train", limit=MOST_TRAINING)
    held_out = [
        clip for split in ("validation", "test") for clip in read_real(index, split, limit=MOST_HELD_OUT // 2)
    ]
    if not train:
        raise NotFound(f"{index.folder} has no training clip with one species", "", "name other shards")
    generated, sounds, left_out, remarks = _generated(folder, judge, codec, index.species)
    among = sorted({clip.species for clip in train})
    train, held_out = _with_sound(codec, train), _with_sound(codec, held_out)
    heard = [
        [_heard(cache, codec, clip) for clip in train], [_heard(cache, codec, clip) for clip in held_out],
        [cache.of_file(file.path) for file in generated],
    ]  # fmt: skip
    sets = [
        Embedded.of([one.embedding for one in known], [clip.species for clip in clips],
                    [clip.recording for clip in clips], [clip.name for clip in clips])
        for known, clips in zip(heard[:2], (train, held_out), strict=True)
    ]  # fmt: skip
    names = [os.path.relpath(file.path, folder) for file in generated]
    made = Embedded.of(
        [one.embedding for one in heard[2]], [file.species[0] for file in generated], names, names
    )
    quality = quality_of(sets[0], sets[1], made, resamples=resamples, seed=seed)
    if not any(judge.class_of(name) is not None for name in among):
        remarks.append(f"{judge.title} knows none of the species: its rates say nothing")
    yardstick = Yardstick(codec, _as_heard(codec, held_out), _as_heard(codec, train))
    measures = yardstick.measure(
        [HeardClip(file.species[0], sound) for file, sound in zip(generated, sounds, strict=True)]
    )
    judged = _judged(judge, among, names, [file.species[0] for file in generated], heard[2])
    real = _judged(judge, among, [c.name for c in held_out], [c.species for c in held_out], heard[1])
    pairs = _looked_at(quality, codec, dict(zip(names, sounds, strict=True)), {c.name: c for c in train})
    return MeasuredSet(quality, judged, real, measures, pairs, left_out, remarks)


def _generated(
    folder: Path, judge: Judge, codec: Codec, species: Sequence[str]
) -> tuple[list[SoundFile], list[np.ndarray], list[str], list[str]]:
    """(files of one species in training, their sound as the codec takes it, what was left out, remarks)."""
    found = find_sounds([folder], judge)
    left_out = [f"{path.name}: {reason}" for path, reason in found.left_out]
    files, sounds = list[SoundFile](), list[np.ndarray]()
    for file in found.files:
        if len(file.species) != 1 or file.species[0] not in species:
            named = listed_names(file.species) if file.species else "nothing"
            left_out.append(f"{file.path.name}: it is labelled {named}, not one species of the shards")
        elif len(files) < MOST_GENERATED:
            try:
                sounds.append(as_the_codec_takes(codec, read(file.path, codec.rate_hz), codec.rate_hz))
                files.append(file)
            except RecordingError as error:
                left_out.append(f"{file.path.name}: {error}")
    if not files:
        why = f": {left_out[0]}" if left_out else ""
        raise NothingLeft(
            f"no clip in {folder} is of one of the shards' species{why}",
            f"they are {listed_names(species)}", "sounds=FOLDER of `birdsd run generate`",
        )  # fmt: skip
    other = sum(abs(file.duration_s / codec.clip_s - 1) > _LENGTH for file in files)
    remarks = []
    if other:
        remarks.append(
            f"{other} of {len(files)} clips are not {codec.clip_s:.2g} s long, as the real ones are: "
            "their windows are padded differently, and the distances say that too"
        )
    return files, sounds, left_out, remarks


def _heard(cache: EmbeddingCache, codec: Codec, clip: RealClip) -> Heard:
    content = hashlib.sha256(np.ascontiguousarray(clip.image).tobytes()).hexdigest()
    return cache.hear(
        [content, list(clip.image.shape), fingerprint(codec.to_json())],
        lambda: (decoded(codec, clip), codec.rate_hz),
    )


def _with_sound(codec: Codec, clips: Sequence[RealClip]) -> list[RealClip]:
    """Those that loudness and spectrum are measured on are decoded here, once; the others when they are
    heard."""
    chosen = set(_spread_evenly(len(clips)).tolist())
    return [
        replace(clip, heard=decoded(codec, clip)) if place in chosen else clip
        for place, clip in enumerate(clips)
    ]


def _spread_evenly(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, MOST_YARDSTICK)).round().astype(int))


def _as_heard(codec: Codec, clips: Sequence[RealClip]) -> list[HeardClip]:
    places = _spread_evenly(len(clips))
    return [HeardClip(clips[at].species, decoded(codec, clips[at])) for at in places]


def _judged(
    judge: Judge, among: Sequence[str], names: Sequence[str], species: Sequence[str], heard: Sequence[Heard]
) -> Judgement:
    court = Court(judge, among)
    for name, kind, one in zip(names, species, heard, strict=True):
        court.take(name, kind, one.logits, one.embedding, "silence" if one.silent else "")
    return court.judgement()


def _looked_at(
    quality: Quality, codec: Codec, generated: dict[str, np.ndarray], training: dict[str, RealClip]
) -> list[tuple[str, str, float, float]]:
    """The nearest pairs, each with the greatest correlation of their spectrograms over all shifts."""
    found = []
    for one, other, near in quality.copies.pairs if quality.copies else []:
        here = thumbnail(band_levels_db(codec, codec.encode(generated[one], codec.rate_hz)))
        there = thumbnail(band_levels_db(codec, training[other].image))
        found.append((one, other, near, 1.0 - float(distances(here[None], there[None])[0, 0])))
    return found
