"""Every arm's clips are heard: by the weak check, trained on recordings alone, and by the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from birdsd.evaluation.background import NONE, Background, BackgroundClassifier, background_db, change
from birdsd.evaluation.comparison import (
    IN_ENVIRONMENT,
    KNOWN,
    NEW,
    ArmResult,
    MadeClip,
    differences,
    kappa,
)
from birdsd.evaluation.judged_run import Reference
from birdsd.evaluation.judges import Sound
from birdsd.evaluation.staircase import GENERATED, Named
from birdsd.evaluation.weak_check import Clips, GeneratedClip, WeakCheck, as_clips
from birdsd.sound.audio.recordings import read

if TYPE_CHECKING:
    import numpy as np


@dataclass
class ArmClips:
    """An arm's clips, and their band levels."""

    clips: list[MadeClip]
    levels: list[np.ndarray]
    sounds: list[Sound]

    def of(self, *kinds: str) -> Clips:
        """Those of some kinds, as the learning check takes them."""
        chosen = [number for number, clip in enumerate(self.clips) if clip.kind in kinds]
        return Clips(
            [self.levels[number] for number in chosen],
            [self.clips[number].species for number in chosen],
            [str(number) for number in chosen],
        )


def judge_arms(
    weak: WeakCheck,
    arms: Sequence[ArmResult],
    backgrounds: BackgroundClassifier | None = None,
    reference: Reference | None = None,
) -> list[ArmResult]:
    """The arms with everything that is said of their clips; those without clips stay as they are.

    `reference` holds the judge, where there is one, and the real clips that generated ones are laid beside.
    """
    heard = {arm.name: _hear(weak, arm.clips) for arm in arms if arm.clips}
    judged = []
    for arm in arms:
        if arm.name in heard:
            arm_clips = heard[arm.name]
            new = arm_clips.of(NEW)
            through = as_clips(reference.reconstructed) if reference else []
            near = weak.nearness(new, through) if new.levels else None
            if near is not None:
                arm_clips.clips = _with_distances(arm_clips.clips, near.distance)
            scores = {kind: weak.score(arm_clips.of(kind)) for kind in (NEW, KNOWN, IN_ENVIRONMENT)}
            everything = weak.score(arm_clips.of(NEW, KNOWN))
            arm = replace(
                arm,
                clips=arm_clips.clips,
                scores={kind: score for kind, score in scores.items() if score is not None},
                everything=everything,
                kappa=kappa(everything.confusion) if everything else None,
                nearness=near,
                background=_background(arm_clips, backgrounds) if backgrounds else None,
            )
            arm = _judged(arm, arm_clips, reference) if reference else arm
        judged.append(arm)
    return _compared(judged)


def _compared(arms: Sequence[ArmResult]) -> list[ArmResult]:
    clips = {arm.name: arm.clips for arm in arms if arm.clips}
    control = next((arm.name for arm in arms if arm.control), "")
    gains = differences(clips, control, NEW, better=True)
    # What never knew the others has nothing to forget.
    knew = {arm.name: arm.clips for arm in arms if arm.clips and arm.knew_others}
    losses = differences(knew, control, KNOWN, better=False)
    return [replace(arm, gain=gains.get(arm.name), forgetting=losses.get(arm.name)) for arm in arms]


def _hear(weak: WeakCheck, clips: Sequence[MadeClip]) -> ArmClips:
    codec = weak.codec
    waveforms = []
    for clip in clips:
        waveform = read(clip.sound, codec.rate_hz, channels=codec.channels)
        waveforms.append(GeneratedClip(clip.species, waveform=waveform, rate_hz=codec.rate_hz))
    heard = weak.heard(waveforms)
    named = weak.classifier.probabilities(heard).argmax(axis=1)
    named_clips = [
        replace(clip, named=weak.classifier.species[int(n)]) for clip, n in zip(clips, named, strict=True)
    ]
    sounds = [
        Sound(clip.sound.stem, generated.waveform, generated.rate_hz, generated.species)
        for clip, generated in zip(clips, waveforms, strict=True)
        if generated.waveform is not None
    ]
    return ArmClips(named_clips, heard.levels, sounds)


def _judged(arm: ArmResult, heard: ArmClips, reference: Reference) -> ArmResult:
    """The arm with the judge's word on each clip, its shares by kind, and the measures of the new species."""
    stages = reference.judged(heard.sounds)
    step = stages.step(GENERATED) if stages else None
    new = [number for number, clip in enumerate(arm.clips) if clip.kind == NEW]
    arm = replace(arm, measures=reference.measures(heard.sounds, stages, new) if new else None)
    if step is None:
        return arm
    clips = [
        replace(clip, heard=verdict.named, heard_right=verdict.right, confidence=verdict.confidence)
        for clip, verdict in zip(arm.clips, step.verdicts, strict=True)
    ]
    shares = {}
    for kind in (NEW, KNOWN, IN_ENVIRONMENT):
        own = [number for number, clip in enumerate(clips) if clip.kind == kind]
        named = Named.of([step.verdicts[n] for n in own], [str(n) for n in own], "generated clips")
        if named is not None:
            shares[kind] = named
    return replace(arm, clips=clips, heard=shares)


def _with_distances(clips: Sequence[MadeClip], distances: Sequence[float]) -> list[MadeClip]:
    rest = iter(distances)
    return [replace(clip, distance=next(rest)) if clip.kind == NEW else clip for clip in clips]


def _background(heard: ArmClips, classifier: BackgroundClassifier) -> Background | None:
    """The clips asked for in an environment, each beside the one of the same species and noise without."""
    level = [background_db(levels) for levels in heard.levels]
    plain = {(c.species, c.index): n for n, c in enumerate(heard.clips) if c.kind == NEW}
    in_environment = [
        n for n, c in enumerate(heard.clips) if c.kind == IN_ENVIRONMENT and (c.species, c.index) in plain
    ]
    if not in_environment:
        return None
    pairs = [(plain[heard.clips[n].species, heard.clips[n].index], n) for n in in_environment]
    changes = change([level[before] for before, _ in pairs], [level[after] for _, after in pairs])
    named = classifier.name(heard.levels)
    if not named:
        return Background(len(pairs), *changes)
    right = [named[n] == heard.clips[n].environment for n in in_environment]
    none = [named[n] == NONE for n in plain.values()]
    return Background(
        len(pairs), *changes, sum(right) / len(right), sum(none) / len(none), len(right), len(none)
    )
