"""A canvas as data: which prompt is asked for when, side by side or going over into each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from birdsd.errors import BadValue, Mismatch, NotSet, clipped
from birdsd.scenes.checks import check_duration
from birdsd.scenes.placed import PlacedScene
from birdsd.sound.captions import captions, prompt_for

REGIONS, ANIMATION = "regions", "animation"
STEP_S = 5.0  # from one prompt of an animation to the next, where nobody says
_SHADES = 16  # of a text going over into another
_MOST_PROMPTS = 200


@dataclass(frozen=True)
class Mark:
    """From `at_s` on a region has this prompt; in an animation it is heard purely at that time."""

    at_s: float
    prompt: str
    species: tuple[str, ...] = ()
    environment: str = ""


@dataclass(frozen=True)
class Stretch:
    """What is asked for from `from_s` to `to_s`: a prompt, or one going over into another (`then`)."""

    from_s: float
    to_s: float
    prompt: str
    then: str = ""
    species: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For a label track. A morph is no species."""
        what = f"{self.prompt} > {self.then}" if self.then else " and ".join(self.species) or self.prompt
        return f"asked for: {what}"


@dataclass(frozen=True)
class Canvas:
    """Marks in the order of time; the first region begins with the canvas. Times in seconds."""

    kind: str
    duration_s: float
    marks: tuple[Mark, ...]
    seed: int = 0
    loop: bool = False

    @property
    def prompts(self) -> list[str]:
        """The prompts without repetition."""
        return list(dict.fromkeys(mark.prompt for mark in self.marks))

    def weights(self, times_s: np.ndarray) -> np.ndarray:
        """float64 [len(times_s), marks]: how much of each mark's prompt is asked for; rows add up to 1.

        In sixteenths: so many texts, and no more, does a transition consist of.
        """
        starts = np.array([mark.at_s for mark in self.marks])
        before = np.searchsorted(starts, times_s, side="right") - 1
        rows = np.arange(len(times_s))
        out = np.zeros((len(times_s), len(starts)))
        if self.kind == REGIONS or len(starts) == 1:
            out[rows, np.maximum(before, 0)] = 1
            return out
        after = before + 1
        if self.loop:
            around = self.duration_s
            left = np.where(before < 0, starts[-1] - around, starts[before])
            right = np.where(after >= len(starts), starts[0] + around, starts[after % len(starts)])
            before, after = before % len(starts), after % len(starts)
        else:
            before, after = np.maximum(before, 0), np.minimum(after, len(starts) - 1)
            left, right = starts[before], starts[after]
        share = np.where(right > left, (times_s - left) / np.maximum(right - left, 1e-12), 0.0)
        share = np.round(np.clip(share, 0, 1) * _SHADES) / _SHADES
        np.add.at(out, (rows, before), 1 - share)
        np.add.at(out, (rows, after), share)
        return out

    def stretches(self) -> list[Stretch]:
        """What is asked for from when to when, in the order of time."""
        if self.kind == REGIONS or len(self.marks) == 1:
            ends = [*(mark.at_s for mark in self.marks[1:]), self.duration_s]
            starts = [0.0, *(mark.at_s for mark in self.marks[1:])]
            return [
                Stretch(start, end, mark.prompt, species=mark.species)
                for mark, start, end in zip(self.marks, starts, ends, strict=True)
            ]
        first, last = self.marks[0], self.marks[-1]
        told = [
            Stretch(one.at_s, other.at_s, one.prompt, other.prompt if other.prompt != one.prompt else "")
            for one, other in pairwise(self.marks)
        ]
        then = first.prompt if self.loop and first.prompt != last.prompt else ""
        if last.at_s < self.duration_s:
            told.append(Stretch(last.at_s, self.duration_s, last.prompt, then))
        if first.at_s > 0:
            prompt = last.prompt if then else first.prompt
            told.insert(0, Stretch(0.0, first.at_s, prompt, first.prompt if then else ""))
        return told

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Canvas:
        marks = tuple(Mark(**{**one, "species": tuple(one["species"])}) for one in told["marks"])
        return cls(**{**told, "marks": marks})


def animation(
    prompts: Sequence[str],
    times_s: Sequence[float] = (),
    duration_s: float | None = None,
    *,
    seed: int = 0,
    loop: bool = False,
    clip_s: float = STEP_S,
) -> Canvas:
    """From prompt to prompt: each is heard purely at its time. Without times they lie evenly, 5 s apart or as
    the duration has it; a single prompt lasts the duration, or a clip of `clip_s`."""
    texts = [" ".join(str(text).split()) for text in prompts]
    if not texts or not all(texts):
        raise NotSet("prompts is empty", "an animation goes from prompt to prompt", 'prompts=["...", "..."]')
    if len(texts) > _MOST_PROMPTS:
        raise BadValue(f"{len(texts)} prompts", f"at most {_MOST_PROMPTS} are possible")
    if times_s and len(times_s) != len(texts):
        raise Mismatch(
            f"{len(texts)} prompts and {len(times_s)} times",
            "each prompt has a time, in seconds, at which it alone is heard",
            "give as many times as prompts, or none",
        )
    if not times_s:
        gaps = len(texts) if loop else max(1, len(texts) - 1)
        whole = duration_s or (clip_s if len(texts) == 1 else STEP_S * gaps)
        times_s = [whole * number / gaps for number in range(len(texts))]
        duration_s = whole
    times = [float(time) for time in times_s]
    if not all(math.isfinite(time) and time >= 0 for time in times):
        raise BadValue(f"times={clipped(str(times))}", "they are seconds from the beginning, 0 or more")
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise BadValue(f"times={clipped(str(times))}", "each must be later than the one before it")
    if duration_s is None:
        step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else clip_s
        duration_s = times[-1] + (step if loop or len(times) == 1 else 0.0)
    check_duration(duration_s, "the animation's duration")
    if times[-1] > duration_s:
        raise BadValue(
            f"the prompt '{clipped(texts[-1])}' is to be heard at {times[-1]:g} s",
            f"the animation lasts {duration_s:g} s", f"duration_s={times[-1]:g}, or an earlier time",
        )  # fmt: skip
    if loop and len(times) > 1 and times[-1] - times[0] >= duration_s:
        raise Mismatch(
            f"a loop of {duration_s:g} s with prompts at {times[0]:g} s and {times[-1]:g} s",
            "its end is its beginning, and both cannot have a prompt of their own", "a longer duration_s",
        )  # fmt: skip
    marks = tuple(Mark(time, text) for time, text in zip(times, texts, strict=True))
    return Canvas(ANIMATION, float(duration_s), marks, seed, loop)


def regions(placed: PlacedScene) -> Canvas:
    """A solved scene as regions: wherever birds begin or end, or the background changes, another prompt.
    Where backgrounds overlap in their fades, the later one is named from the middle on."""
    edges = {0.0, placed.duration_s}
    edges |= {edge for event in placed.events for edge in (event.onset_s, event.end_s)}
    middles = [
        (one.from_s + one.fade_in_s / 2, one.to_s - one.fade_out_s / 2, one) for one in placed.backgrounds
    ]
    edges |= {edge for start, end, _ in middles for edge in (start, end)}
    times = sorted(edge for edge in edges if 0 <= edge <= placed.duration_s)
    marks: list[Mark] = []
    for start, end in pairwise(times):
        if end - start < 1e-6:
            continue
        at = (start + end) / 2
        singing = [one for one in placed.events if one.onset_s <= at < one.end_s]
        places = [one.environment for low, high, one in middles if low <= at < high and one.source != "none"]
        mark = _mark(start, singing, " and ".join(dict.fromkeys(places)))
        if not marks or marks[-1].prompt != mark.prompt:
            marks.append(mark)
    return Canvas(REGIONS, placed.duration_s, tuple(marks), placed.seed, placed.loop)


def _mark(start_s: float, singing: Sequence[Any], environment: str) -> Mark:
    species = tuple(dict.fromkeys(event.species for event in singing))
    if not species:
        return Mark(start_s, captions([], environment=environment, count=1)[0], (), environment)
    types = {event.sound_type for event in singing}
    if len(types) == 1 and (kind := types.pop()):
        prompt = captions(species, sound_type=kind, environment=environment, count=2)[-1]
    else:
        prompt = prompt_for(species, environment)
    return Mark(start_s, prompt, species, environment)
