"""Filling a bank: which songs it should hold, dealt out over tasks, and made where they are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from birdsd.randomness import generator
from birdsd.scenes.bank import bank as files
from birdsd.scenes.bank.clip import EventClip, Wanted
from birdsd.scenes.bank.recorded import recordings_by_species, songs_of
from birdsd.scenes.bank.split import split_of
from birdsd.scenes.scene import Event
from birdsd.scenes.schedule import prompt_of
from birdsd.sharing import remove_leftovers

GROUP = 8  # voices of a kind that are made together: the unit that is dealt out
Share = Callable[[Sequence["Group"]], list["Group"]]


@dataclass(frozen=True)
class Group:
    """Some voices of one species and sound type."""

    species: str
    sound_type: str
    voices: tuple[int, ...]


@dataclass
class Filled:
    """What a call did: songs made and given up by species, and how many were there before."""

    made: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    kept: int = 0


def groups(kinds: Sequence[tuple[str, str]], count: int) -> list[Group]:
    """All voices 0..count - 1 of the kinds (species, sound type), `GROUP` at a time; more voices only add."""
    return [
        Group(species, kind, tuple(range(first, min(first + GROUP, count))))
        for first in range(0, count, GROUP)
        for species, kind in kinds
    ]


def kinds_of(species: Sequence[str], types: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """(species, sound type) of all; '' where a species was taught without types."""
    return [(name, kind) for name in species for kind in (types.get(name) or ("",))]


def fill(
    folder: Path, mine: Sequence[Group], takes: int, seed: int,
    make: Callable[[list[Wanted]], Mapping[str, EventClip]],
) -> Filled:  # fmt: skip
    """Make every song of the groups that is not there. `make` gives clips by key."""
    done = Filled()
    remove_leftovers(folder / "clips", alone=False)
    for group in mine:
        wanted: list[Wanted] = []
        places: dict[str, tuple[int, int]] = {}
        for voice in group.voices:
            for take in range(takes):
                name = files.clip_name(group.species, group.sound_type, voice, take)
                if files.has(folder, name):
                    done.kept += 1
                    continue
                key = generator(seed, "bank voice", group.species, group.sound_type, voice)
                prompt = prompt_of(Event(name, group.species, group.sound_type))
                wanted.append(
                    Wanted(name, group.species, group.sound_type, prompt, int(key.integers(2**31)), take)
                )
                places[name] = voice, take
        for name, clip in make(wanted).items() if wanted else ():
            voice, take = places[name]
            split = split_of(voice, group.species, group.sound_type)
            files.keep_clip(folder, name, clip, voice, take, split)
            (done.made if clip.came_out else done.failed)[clip.species] += 1
    return done


def fill_from_recordings(
    folder: Path, recordings: Path, rate_hz: int, count: int, share: Callable[[Sequence[str]], list[str]]
) -> Filled:
    """The songs of labelled recordings: a recording is a voice, its songs are the takes."""
    done = Filled()
    found = recordings_by_species(recordings)
    for species in share(list(found)):
        for voice, recording in enumerate(sorted(found[species], key=lambda one: one.recording_id)[:count]):
            for take, clip in enumerate(songs_of(recording, rate_hz)):
                name = files.clip_name(species, clip.sound_type, voice, take)
                if files.has(folder, name):
                    done.kept += 1
                    continue
                files.keep_clip(folder, name, clip, voice, take, split_of(voice, species))
                (done.made if clip.came_out else done.failed)[species] += 1
    return done
