"""The staircase: does the judge still hear the species after each stage on the way to generated sound?

The same held-out clips are judged as they were recorded, after the codec, and after codec and autoencoder;
below them stand the generated clips. So the stage that loses the bird is seen at once. All clips have the
same length and are padded alike. It measures; nothing may be chosen by it on test recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.evaluation.judges.judge import Sound
from birdsd.evaluation.judges.judgement import CONFIDENT, judge_sounds, wilson
from birdsd.evaluation.real_clips import FIGURES, RealClip, decoded
from birdsd.format import table
from birdsd.remarks import Remark

if TYPE_CHECKING:
    from birdsd.evaluation.judges.judge import Judge
    from birdsd.evaluation.judges.judgement import Verdict
    from birdsd.sound.codec.protocol import Codec

RECORDING, CODEC, AUTOENCODER, GENERATED = "recording", "codec", "autoencoder", "generated"
TITLES = {
    RECORDING: "recording",
    CODEC: "codec and back",
    AUTOENCODER: "codec, autoencoder and back",
    GENERATED: "generated",
}


@dataclass(frozen=True)
class Rate:
    """`hits` of `clips`, with Wilson's 95% interval over `units` independent observations."""

    hits: int
    clips: int
    low: float
    high: float

    @classmethod
    def of(cls, hits: Iterable[bool | None], units: int) -> Rate:
        counted = [bool(hit) for hit in hits]
        share = sum(counted) / len(counted) if counted else 0.0
        low, high = wilson(share * units, units)
        return cls(sum(counted), len(counted), low, high)

    @property
    def share(self) -> float:
        return self.hits / self.clips if self.clips else 0.0

    def text(self) -> str:
        """e.g. '85% (73-92)'."""
        return f"{self.share:.0%} ({100 * self.low:.0f}-{100 * self.high:.0f})"


@dataclass(frozen=True)
class Named:
    """How a set of clips is named: by the best of all classes, by the best of the run's species, and with
    a confidence of `CONFIDENT` or more for the right species; counted over clips whose species it knows."""

    right: Rate
    among: Rate
    confident: Rate
    median_score: float
    units: int
    unit: str  # what counts as one observation: a recording, or a generated clip

    @classmethod
    def of(cls, verdicts: Sequence[Verdict], groups: Sequence[str], unit: str) -> Named | None:
        """Of verdicts and the group (recording) of each; None where no clip has a species that it knows."""
        counted = [(v, g) for v, g in zip(verdicts, groups, strict=True) if v.known and v.species is not None]
        if not counted:
            return None
        units = len({(v.species, g) for v, g in counted})
        scores = [v.score or 0.0 for v, _ in counted]
        return cls(
            Rate.of([v.right for v, _ in counted], units),
            Rate.of([v.right_among for v, _ in counted], units),
            Rate.of([score >= CONFIDENT for score in scores], units),
            float(np.median(scores)), units, unit,
        )  # fmt: skip

    @property
    def clips(self) -> int:
        return self.right.clips

    def counted(self) -> str:
        """e.g. '29 of 10 recordings'."""
        return f"{self.clips} of {self.units} {self.unit}" if self.units != self.clips else str(self.clips)


@dataclass(frozen=True)
class Step:
    """One stage: its figures, and the verdict on every clip, in the order of the clips that were given."""

    stage: str
    named: Named | None
    per_species: dict[str, Named]
    verdicts: list[Verdict]
    embeddings: np.ndarray = field(repr=False)  # float32 [clips, width]

    @property
    def title(self) -> str:
        return TITLES[self.stage]


@dataclass(frozen=True)
class Staircase:
    """All stages. `missing` says of a stage why it is not there; `unknown` are species without a class."""

    judge: str
    licence: str
    fingerprint: str
    species: list[str]
    unknown: list[str]
    held_out: str  # the split that the real clips come from; "" without any
    steps: list[Step]
    missing: dict[str, str]

    def step(self, stage: str) -> Step | None:
        """A stage, where it is there and has clips that count."""
        return next((step for step in self.steps if step.stage == stage and step.named), None)

    @property
    def credit(self) -> str:
        """The judge with the licence of its model, which is shown wherever it speaks."""
        return f"{self.judge} ({self.licence})"

    @property
    def known(self) -> list[str]:
        """The species that it has a class for."""
        return [name for name in self.species if name not in self.unknown]

    @property
    def loses_most(self) -> Step | None:
        """The stage that loses most against the one before it; None where none loses anything."""
        counted = [step for step in self.steps if step.named]
        found, most = None, 0.0
        for before, after in pairwise(counted):
            assert before.named and after.named
            lost = before.named.right.share - after.named.right.share
            if lost > most:
                found, most = after, lost
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values only: figures by stage and by species, and every verdict."""
        from dataclasses import asdict

        def figures(named: Named | None) -> dict[str, Any] | None:
            return None if named is None else {**asdict(named), "clips": named.clips}

        return {
            "judge": self.judge, "licence": self.licence, "fingerprint": self.fingerprint,
            "species": self.species, "unknown": self.unknown, "held_out": self.held_out,
            "missing": self.missing,
            "stages": [
                {
                    "stage": step.stage,
                    "figures": figures(step.named),
                    "per_species": {name: figures(count) for name, count in step.per_species.items()},
                    "verdicts": [asdict(verdict) for verdict in step.verdicts],
                }
                for step in self.steps
            ],
        }  # fmt: skip

    def text(self) -> str:
        """A table for a terminal, a row for each stage, and what it does not hold."""
        if not self.known:
            return f"{self.credit} knows none of these species, so only the weak check applies"
        rows = [["stage", "right of all", f"right of {len(self.known)}", f"score >= {CONFIDENT:g}",
                 "median", "clips"]]  # fmt: skip
        for step in self.steps:
            if (named := step.named) is not None:
                shares = [share.text() for share in (named.right, named.among, named.confident)]
                rows.append([step.title, *shares, f"{named.median_score:.2f}", named.counted()])
        head = f"{self.credit}, percent with Wilson's 95% interval:"
        return "\n".join([head, *table(rows), *self.remarks()])

    def remarks(self) -> list[str]:
        """Which clips were used, which stage loses most, what is left out and why."""
        remarks: list[str] = []
        if self.held_out == FIGURES:
            text = "real clips: test recordings; settings are chosen on validation recordings only"
            remarks.append(Remark(text, "held-out-for-figures", split=self.held_out))
        elif self.held_out:
            text = (
                f"real clips: {self.held_out} recordings, as there are no test recordings: where settings "
                "were chosen by these, the figures of real clips are optimistic"
            )
            remarks.append(Remark(text, "no-test-recordings", split=self.held_out))
        if (worst := self.loses_most) is not None:
            text = f"the stage that loses most: {worst.title}"
            remarks.append(Remark(text, "loses-most", stage=worst.stage, title=worst.title))
        if self.unknown:
            text = f"the judge has no class for {', '.join(self.unknown)}: left out of all figures"
            remarks.append(Remark(text, "species-without-class", species=self.unknown))
        remarks += [
            Remark(f"no row '{TITLES[stage]}': {why}", "stage-missing", stage=stage)
            for stage, why in self.missing.items()
        ]
        return remarks


Reconstruct = Callable[
    [np.ndarray], np.ndarray
]  # an image uint8 [C, H, W] through an autoencoder, same shape


def staircase(
    codec: Codec,
    real: Sequence[RealClip],
    judge: Judge,
    among: Sequence[str],
    *,
    reconstructed: Iterable[Sound] | None = None,
    generated: Sequence[Sound] = (),
    held_out: str = "",
    why: dict[str, str] | None = None,
    progress: bool = True,
) -> Staircase:
    """Judge every stage on the same clips.

    `real`: held-out clips of the split `held_out`; `among`: the run's species; `generated`: sounds with the
    species that each was asked for; `reconstructed`: what the autoencoder leaves of `real`, in their order.
    `why` says of a stage that cannot be measured why not. Clips of a species that the judge has no class for
    are heard too, and are in no figure.
    """
    unknown = [name for name in among if judge.class_of(name) is None]
    if len(unknown) == len(among):  # nothing that it says would count
        return Staircase(
            judge.title, judge.licence, judge.fingerprint, list(among), unknown, held_out if real else "",
            [], {},
        )  # fmt: skip
    missing = dict(why or {})
    groups = [clip.recording for clip in real]
    steps = []

    def add(stage: str, sounds: Iterable[Sound], of: Sequence[str], unit: str) -> None:
        steps.append(_step(judge, stage, sounds, of, unit, among, progress))

    originals = [clip for clip in real if clip.original is not None]
    if not real:
        missing.setdefault(CODEC, Remark("no recording with one species was held out", "nothing-held-out"))
    elif len(originals) < len(real):
        missing.setdefault(RECORDING, f"{len(real) - len(originals)} of {len(real)} recordings are missing")
    else:
        add(RECORDING, (
            Sound(clip.name, clip.original, clip.rate_hz, clip.species)
            for clip in originals if clip.original is not None
        ), groups, "recordings")  # fmt: skip
    if real:
        add(CODEC, (
            Sound(clip.name, decoded(codec, clip), codec.rate_hz, clip.species) for clip in real
        ), groups, "recordings")  # fmt: skip
        if reconstructed is None:
            missing.setdefault(AUTOENCODER, "no autoencoder was given")
        else:
            add(AUTOENCODER, reconstructed, groups, "recordings")
    staircase = Staircase(
        judge.title, judge.licence, judge.fingerprint, list(among), unknown, held_out if real else "",
        steps, missing,
    )  # fmt: skip
    return with_generated(staircase, judge, generated, progress)


def with_generated(
    staircase: Staircase, judge: Judge, generated: Sequence[Sound], progress: bool = True
) -> Staircase:
    """The staircase with generated sounds as its last stage, each with the species that was asked for."""
    steps = [step for step in staircase.steps if step.stage != GENERATED]
    missing = {stage: why for stage, why in staircase.missing.items() if stage != GENERATED}
    if not staircase.known:
        return staircase
    if not generated:
        return replace(
            staircase, steps=steps, missing={**missing, GENERATED: "no generated clip with one species"}
        )
    groups = [str(number) for number in range(len(generated))]
    last = _step(judge, GENERATED, generated, groups, "generated clips", staircase.species, progress)
    return replace(staircase, steps=[*steps, last], missing=missing)


def _step(
    judge: Judge, stage: str, sounds: Iterable[Sound], groups: Sequence[str], unit: str,
    among: Sequence[str], progress: bool,
) -> Step:  # fmt: skip
    heard = judge_sounds(judge, sounds, among, progress)
    verdicts = list(heard.verdicts)
    places: dict[str, list[int]] = {}
    for number, verdict in enumerate(verdicts):
        if verdict.known and verdict.species is not None:
            places.setdefault(verdict.species, []).append(number)
    per_species = {
        one: named
        for one, own in sorted(places.items())
        if (named := Named.of([verdicts[n] for n in own], [groups[n] for n in own], unit)) is not None
    }
    return Step(stage, Named.of(verdicts, groups, unit), per_species, verdicts, heard.embeddings)


def reconstructions(codec: Codec, real: Iterable[RealClip], reconstruct: Reconstruct) -> Iterator[Sound]:
    """What the autoencoder leaves of each clip."""
    for clip in real:
        yield Sound(clip.name, codec.decode(reconstruct(clip.image)), codec.rate_hz, clip.species)


def reconstructor(source: str, codec: Codec) -> Reconstruct:
    """The autoencoder of a finished run or an exported folder: an image there and back, as `generate` would.

    The image is encoded to the mode of its latents, decoded, and rounded as generated pictures are.
    """
    import torch

    from birdsd.diffusion.generation.sampling import as_levels
    from birdsd.diffusion.networks.models import load_vae, to_range

    vae: Any = load_vae(source)
    vae.eval()

    def back(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            pixels = to_range(torch.from_numpy(np.ascontiguousarray(image))[None]).to(vae.dtype)
            drawn = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        return codec.from_rgb(as_levels(drawn.float().cpu())[0])

    return back
