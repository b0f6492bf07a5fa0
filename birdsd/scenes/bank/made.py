"""Songs made by a model: as many tries as it takes, up to a limit, each with a seed of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.randomness import generator
from birdsd.scenes.bank.clip import GENERATED, EventClip, Origin, Wanted
from birdsd.scenes.bank.gate import EventVerdict, Gate
from birdsd.scenes.heard.cutting import cut_out

if TYPE_CHECKING:
    from birdsd.diffusion.generation.generator import Generator
    from birdsd.diffusion.generation.request import Request


class Maker:
    """Makes songs with a model. `request` holds the settings of the sampling; its prompts do not count."""

    def __init__(
        self, model: Generator, request: Request, gate: Gate, tries: int = 4, licence: str = ""
    ) -> None:
        self.model, self.request, self.gate, self.tries = model, request, gate, tries
        self.licence = licence

    def clips(
        self, wanted: Sequence[Wanted], progress: Callable[[], object] | None = None
    ) -> dict[str, EventClip]:
        """A clip for each, by its key; the best of its tries where none was confirmed.

        A function of what is wanted and the model alone: a try's noise depends on (voice, take, try). Tries
        that were refused in the mix are not made again.
        """
        found: dict[str, EventClip] = {}
        for number in range(self.tries):
            left = [
                one
                for one in wanted
                if number >= one.refused and (one.key not in found or not found[one.key].came_out)
            ]
            for at in range(0, len(left), self.request.batch_size):
                group = left[at : at + self.request.batch_size]
                for one, clip in zip(group, self._tried(group, number, progress), strict=True):
                    if one.key not in found or _better(clip, found[one.key]):
                        found[one.key] = clip
        spent = {one.key: _tries(found[one.key], self.tries) for one in wanted}
        return {
            key: replace(clip, origin=replace(clip.origin, tries=spent[key])) for key, clip in found.items()
        }

    def further(self, wanted: Wanted, clip: EventClip, most: int) -> Wanted | None:
        """What to ask for once `clip` was not heard in the mix; None after `most` tries, or all it makes."""
        spent = clip.origin.tries
        return replace(wanted, refused=spent) if spent < min(most, self.tries) else None

    def _tried(
        self, group: Sequence[Wanted], number: int, progress: Callable[[], object] | None
    ) -> list[EventClip]:
        seeds = [try_seed(one.voice_seed, one.take, number) for one in group]
        spoilt: dict[int, Any] = {}
        prompts = [one.prompt for one in group]
        pictures = self.model.images(
            self.request, prompts, [0] * len(group), progress or (lambda: None), seeds=seeds, spoilt=spoilt
        )
        codec = self.model.codec
        clips = []
        for at, (one, seed) in enumerate(zip(group, seeds, strict=True)):
            origin = Origin(
                GENERATED,
                str(self.model.folder),
                self.model.identity,
                self.licence,
                "",
                one.prompt,
                seed,
                number + 1,
            )
            cut = None
            if at not in spoilt:
                sound = self.model.sound_of(pictures[at]).mean(axis=0)
                cut = cut_out(sound, codec.rate_hz)
            if cut is None:
                verdict = EventVerdict(self.gate.title, False, 0.0, "nothing heard")
                measured, samples = None, np.zeros(0, np.float32)
            else:  # judged as it will sound: by itself, cut out
                verdict = self.gate.verdict(one.species, cut.samples, codec.rate_hz)
                measured, samples = cut.measured, cut.samples
            of = (one.key, one.species, one.sound_type, codec.rate_hz)
            clips.append(EventClip(*of, origin, verdict, measured, samples))
        return clips


def try_seed(voice_seed: int, take: int, number: int) -> int:
    """The seed of a try, from 0: the same wherever and whenever it is made."""
    return int(generator(voice_seed, "song", take, number).integers(2**31))


def _better(one: EventClip, other: EventClip) -> bool:
    rank = [(clip.came_out, clip.measured is not None, clip.verdict.score or 0.0) for clip in (one, other)]
    return rank[0] > rank[1]


def _tries(clip: EventClip, most: int) -> int:
    return clip.origin.tries if clip.came_out else most
