"""Which recordings are for training, validation and test: by recording, never by clip.

Splitting by clip leaks (a recording has one bird, one microphone, one background): on this project's
ten species a fixed classifier scores 0.42 split by clip and 0.33 split by recording.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from birdsd.errors import BadValue, Mismatch

SPLITS = ("train", "validation", "test")
# A species with fewer recordings than this is for training only: nothing is left to measure with.
_ENOUGH = 3


def assign_splits(
    species: Mapping[str, Sequence[str]],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    groups: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """recording id -> split, for {recording id: its species}; a function of the ids and the seed.

    `groups` (recording id -> the id of a group, see `birdsd.sound.identity`): those of one group get one
    split, and count as one recording of all their species.

    Stratified: of each species with three recordings or more, validation and test get their fraction and
    at least one, and training keeps at least one. Recordings of several species count for each of
    them, the rarest first (after Sechidis et al. 2011); those without a bird are a stratum too.
    """
    for name, fraction in (("validation", validation_fraction), ("test", test_fraction)):
        if not 0 <= fraction < 1:
            raise BadValue(
                f"data.{name}_fraction is {fraction}", "it must be at least 0 and less than 1", "0.1 is usual"
            )
    if validation_fraction + test_fraction >= 1:
        raise Mismatch(
            f"validation and test take {validation_fraction + test_fraction:g} of the recordings",
            "something must be left for training",
            "set data.validation_fraction=0.1 data.test_fraction=0.1",
        )
    group_of = groups or {}
    together: dict[str, set[str]] = {}
    for recording, names in species.items():
        together.setdefault(group_of.get(recording, recording), set()).update(names)
    chosen = _chosen(together, validation_fraction, test_fraction, seed)
    return {recording: chosen[group_of.get(recording, recording)] for recording in species}


def _chosen(
    species: Mapping[str, Iterable[str]], validation_fraction: float, test_fraction: float, seed: int
) -> dict[str, str]:
    strata: dict[str, list[str]] = {}
    for recording, names in species.items():
        for name in sorted(set(names)) or [""]:
            strata.setdefault(name, []).append(recording)
    chosen: dict[str, str] = {}
    for _, members in sorted(strata.items(), key=lambda item: (len(item[1]), item[0])):
        members = sorted(members, key=lambda recording: _draw(seed, recording))
        wanted = _wanted(len(members), validation_fraction, test_fraction)
        for recording in members:
            if recording in chosen:
                wanted[chosen[recording]] -= 1
        for recording in members:
            if recording not in chosen:
                split = next((s for s in ("validation", "test") if wanted[s] > 0), "train")
                chosen[recording] = split
                wanted[split] -= 1
    return chosen


def _wanted(count: int, validation_fraction: float, test_fraction: float) -> dict[str, int]:
    """How many recordings of a stratum each split should have."""
    wanted = {"validation": 0, "test": 0}
    if count >= _ENOUGH:
        for split, fraction in (("validation", validation_fraction), ("test", test_fraction)):
            if fraction > 0:
                wanted[split] = max(1, round(count * fraction))
        while sum(wanted.values()) >= count:  # large fractions of few recordings
            wanted[max(wanted, key=lambda split: wanted[split])] -= 1
    return {"train": count - sum(wanted.values()), **wanted}


def _draw(seed: int, recording: str) -> bytes:
    """A number that decides who goes first: it depends on nothing but the seed and the recording."""
    return hashlib.blake2b(
        f"{seed}\x1f{recording}".encode("utf-8", "backslashreplace"), digest_size=8
    ).digest()
