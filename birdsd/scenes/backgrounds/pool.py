"""Backgrounds out of recordings: other files one after the other, never one tiled with hard cuts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from birdsd.errors import NotFound, NothingLeft, unknown_name
from birdsd.files import fingerprint, sha256_file
from birdsd.randomness import generator
from birdsd.scenes.backgrounds.joined import joined
from birdsd.scenes.backgrounds.spool import frame_power
from birdsd.scenes.bank.recorded import forbids_changes
from birdsd.scenes.bank.split import SPLITS, split_of
from birdsd.sound.audio.levels import FRAME_SAMPLES, active_level_db, active_power_db
from birdsd.sound.audio.recordings import probe, read
from birdsd.sound.mixing import EnvironmentPool

FADE_S = 1.0
_MOST_DB = 30.0  # louder than it was recorded
_PART_S = 15.0  # of a file at most at a time: memory does not grow with it
_HELD_FILES, _HELD_SAMPLES = 16, 1 << 19  # decoded files in memory, each no longer: 32 MB at most
_LEVEL_DB = -30.0  # files are brought to one level, so that none is heard to begin


@dataclass(frozen=True)
class UsedFile:
    """A recording that a background is made of."""

    path: Path
    sha256: str
    licence: str
    recordist: str


class Pool:
    """Recordings of environments by name, those of one `split` where it is given and there are three files or
    more of an environment."""

    def __init__(self, folder: Path, split: str = "") -> None:
        self._pool, self.split = EnvironmentPool(folder), split
        self.folder = Path(folder)
        self._files: dict[str, list[Path]] = {}
        self._used: dict[tuple[Path, int, int], UsedFile] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return self._pool.names

    @property
    def identity(self) -> str:
        """A fingerprint of which files there are."""
        held = [(name, path.name, path.stat().st_size) for name in self.names for path in self.files(name)]
        return fingerprint([self.split, sorted(held)])

    def files(self, environment: str) -> list[Path]:
        """The files that may be used for an environment, in a fixed order. `UserError` for an unknown one."""
        if environment not in self._files:
            self._files[environment] = self._usable(environment)
        return self._files[environment]

    def _usable(self, environment: str) -> list[Path]:
        if environment not in self.names:
            raise unknown_name("environment of the pool", environment, self.names)
        files = sorted(self._pool.files(environment), key=lambda path: path.name)
        files = [path for path in files if not forbids_changes(self._pool.licence(path))]
        if not files:
            raise NothingLeft(
                f"every recording of '{environment}' in {self.folder} forbids derivatives (ND)",
                "a mix is one", "leave this environment out",
            )  # fmt: skip
        if self.split and len(files) >= len(SPLITS):
            files = [path for n, path in enumerate(files) if split_of(n, environment) == self.split]
        return files

    def used(self, path: Path) -> UsedFile:
        """What is to be said of a file, as it is now."""
        known = (path, *_state(path))
        if known not in self._used:
            licence, recordist = self._pool.licence(path), self._pool.recordist(path)
            self._used[known] = UsedFile(path, _sha256(*known), licence, recordist)
        return self._used[known]

    def sound(
        self, environment: str, samples: int, rate_hz: int, seed: int
    ) -> tuple[list[UsedFile], Iterator[np.ndarray]]:
        """The files that a background of so many samples takes, and its sound in mono float32 parts."""
        files = self.files(environment)
        plan = list(_plan(files, samples / rate_hz, seed))
        used = [self.used(path) for path in dict.fromkeys(path for path, _, _ in plan)]
        return used, joined(_parts(plan, rate_hz), round(FADE_S * rate_hz), samples)


def one_file(path: Path, samples: int, rate_hz: int) -> tuple[list[UsedFile], Iterator[np.ndarray]]:
    """The same of one named file, from its beginning, repeated where it is shorter."""
    if not path.is_file():
        raise NotFound(f"the background {path} does not exist", "", "name a sound file with path")
    plan = list(_plan([path], samples / rate_hz, None))
    return [UsedFile(path, _sha256(path, *_state(path)), "", "")], joined(
        _parts(plan, rate_hz), round(FADE_S * rate_hz), samples
    )


def _plan(files: list[Path], duration_s: float, seed: int | None) -> Iterator[tuple[Path, float, float]]:
    """(file, start, length) of enough parts for `duration_s`: all files in a drawn order, then in another.
    Without a seed: from the beginning of each."""
    left_s, last = duration_s + FADE_S, None
    for turn in itertools.count():
        order = (
            files
            if seed is None
            else [files[n] for n in generator(seed, "pool", turn).permutation(len(files))]
        )
        if len(order) > 1 and order[0] == last:
            order = [*order[1:], order[0]]
        for at, path in enumerate(order):
            length_s = _length_s(path)
            start_s = 0.0
            if seed is not None and turn == 0 and at == 0:
                # Somewhere in the first file, with enough of it left to be worth it.
                room_s = max(0.0, length_s - min(left_s, max(length_s / 2, 5.0)))
                start_s = float(generator(seed, "pool", "start").uniform(0, room_s)) if room_s else 0.0
            while length_s - start_s > min(1.0, length_s / 2) and left_s > 0:
                part_s = min(_PART_S, length_s - start_s, left_s + FADE_S)
                yield path, start_s, part_s
                left_s -= max(part_s - FADE_S, 2 / 3 * part_s if part_s < 3 * FADE_S else 0.0)
                # What fades in is what comes behind, not what fades out: unlike, as equal power wants it.
                start_s += part_s
            last = path
            if left_s <= 0:
                return


def _parts(plan: list[tuple[Path, float, float]], rate_hz: int) -> Iterator[np.ndarray]:
    for path, start_s, length_s in plan:
        part, level_db = _part(path, rate_hz, start_s, length_s)
        # A pause in a recording stays one: nobody wants to hear its recorder's hiss at full level.
        gain_db = min(_LEVEL_DB - level_db, _MOST_DB) if np.isfinite(level_db) else 0.0
        yield part * np.float32(10 ** (gain_db / 20))


def _part(path: Path, rate_hz: int, start_s: float, length_s: float) -> tuple[np.ndarray, float]:
    """float32 [samples], not to be written to, of a file that `_length_s` knows, and its active level in
    dBFS. Short files stay in memory: the next scene wants them too."""
    if _length_s(path) * rate_hz > _HELD_SAMPLES:
        part = read(path, rate_hz, start_s=start_s, duration_s=length_s)[0]
        return part, active_level_db(part)
    whole, power = _whole(path, *_state(path), rate_hz)
    first = round(start_s * rate_hz)
    part = whole[first : first + max(1, round(length_s * rate_hz))]
    frames = len(part) // FRAME_SAMPLES
    if first or frames < 2:
        return part, active_level_db(part)
    return part, active_power_db(power[:frames])


@lru_cache(maxsize=_HELD_FILES)
def _whole(path: Path, size: int, changed_ns: int, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """The sound, and the powers of its frames."""
    sound = read(path, rate_hz)[0]
    sound.flags.writeable = False
    return sound, frame_power(sound)


def _length_s(path: Path) -> float:
    try:
        state = _state(path)
    except OSError:
        return probe(path).duration_s  # which says what is wrong with it
    return _probed_s(path, *state)


def _state(path: Path) -> tuple[int, int]:
    """The size and the time of change: what is known of a file holds as long as they do."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns


@lru_cache(maxsize=4096)
def _probed_s(path: Path, size: int, changed_ns: int) -> float:
    return probe(path).duration_s


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    return sha256_file(path)[:16]
