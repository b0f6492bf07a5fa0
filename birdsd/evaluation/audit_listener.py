"""The judge's row of an audit: are the species still heard after each codec?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from birdsd.errors import UserError
from birdsd.evaluation.available_judge import available_judge
from birdsd.evaluation.judges import Sound, judge_sounds
from birdsd.sound.audit.hearing import AuditListener, Hearing
from birdsd.sound.labels.load import load_recordings

if TYPE_CHECKING:
    from birdsd.evaluation.judges import Judge, Verdict

UNLABELLED = (
    "no recording that was judged has exactly one species by its folder or its labels, so nobody can say "
    "whether it is still heard"
)


class JudgeListener:
    """Judges every stretch whose species is said and known, before and after each codec."""

    def __init__(self, judge: Judge, species: Mapping[Path, str]) -> None:
        self.judge, self.species = judge, species
        self.among = sorted(set(species.values()))
        self.unknown = [name for name in self.among if judge.class_of(name) is None]
        self._heard: list[list[Verdict]] = []

    def take(self, path: Path, sound: np.ndarray, copies: Sequence[np.ndarray], rate_hz: int) -> None:
        """Judge a stretch [channels, samples] and its copies."""
        species = self.species.get(path.resolve())
        if species is None or species in self.unknown:
            return
        sounds = [Sound(path.name, waveform, rate_hz, species) for waveform in (sound, *copies)]
        self._heard.append(judge_sounds(self.judge, sounds, self.among, progress=False).verdicts)

    def hearing(self) -> Hearing:
        """The counts; why there are none where nothing counted."""
        known = [name for name in self.among if name not in self.unknown]
        credit = (self.judge.title, self.judge.licence)
        if not self._heard:
            why = UNLABELLED if known or not self.among else f"{self.judge.title} knows none of these species"
            return Hearing(*credit, species=known, unknown=self.unknown, missing=why)
        counts = [
            (sum(bool(v.right) for v in column), sum(bool(v.right_among) for v in column))
            for column in zip(*self._heard, strict=True)
        ]
        return Hearing(*credit, len(self._heard), known, self.unknown, counts[0], counts[1:])


class _Deaf:
    """Says why nothing was heard."""

    def __init__(self, why: str) -> None:
        self.why = why

    def take(self, path: Path, sound: np.ndarray, copies: Sequence[np.ndarray], rate_hz: int) -> None:
        """Nothing is heard."""

    def hearing(self) -> Hearing:
        """The reason."""
        return Hearing(missing=self.why)


def listener_for(recordings: Path, judge: Judge | None = None) -> AuditListener:
    """Who listens to an audit of `recordings`: the judge at hand (or the one given) with the species that
    folders and labels say, or one that says why there is no row."""
    if judge is None:
        judge, why = available_judge()
        if judge is None:
            return _Deaf(why)
    try:
        found = load_recordings(Path(recordings)).recordings
    except UserError as error:
        return _Deaf(f"the species of the recordings are not known: {error}")
    species = {r.path.resolve(): r.species[0] for r in found if len(r.species) == 1}
    return JudgeListener(judge, species) if species else _Deaf(UNLABELLED)
