"""What a judge heard in a stretch of sound, kept by its content: nothing is listened to twice.

The key is made of the bytes of the file (or of the codec's image), the stretch, whatever was done to the
sound, and the judge. A file that moves or is renamed is known again; one that is recorded anew is not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from birdsd.evaluation.judges.judge import Judge
from birdsd.evaluation.judges.judgement import SILENT_BELOW
from birdsd.files import atomic_write, fingerprint, sha256_file
from birdsd.sound.audio.recordings import read

_KEPT = 20_000  # in memory: 600 MB of BirdNET's at most


class Heard(NamedTuple):
    """Of one stretch: the embedding, float32 [width], the logits, float32 [classes], whether it is silent."""

    embedding: np.ndarray
    logits: np.ndarray
    silent: bool


class EmbeddingCache:
    """Listens with a judge, and remembers in `folder` (None: only in memory)."""

    def __init__(self, judge: Judge, folder: Path | None = None) -> None:
        self.judge, self.folder = judge, folder
        self.listened = 0  # how often the judge itself was asked
        self._known: dict[str, Heard] = {}

    def hear(self, key: object, sound: Callable[[], tuple[np.ndarray, int]]) -> Heard:
        """What `key` (any JSON-able value that determines the sound) stands for; `sound` gives its waveform
        and rate where nobody has listened yet. Several windows become one: the mean embedding, the highest
        logits."""
        mark = fingerprint([self.judge.fingerprint, self.judge.title, key], 32)
        if mark not in self._known:
            heard = self._read(mark)
            if heard is None:
                waveform, rate_hz = sound()
                found = self.judge.hear(waveform, rate_hz)
                heard = Heard(found.clip_embedding, found.clip_logits, float(np.ptp(waveform)) < SILENT_BELOW)
                self.listened += 1
                self._write(mark, heard)
            if len(self._known) < _KEPT:
                self._known[mark] = heard
            return heard
        return self._known[mark]

    def of_file(
        self,
        path: Path,
        start_s: float = 0.0,
        duration_s: float | None = None,
        altered: object = None,
        alter: Callable[[np.ndarray, int], np.ndarray] | None = None,
    ) -> Heard:
        """A stretch of a sound file. `alter` (waveform, rate) -> waveform changes it first; `altered` says
        how, for the key."""

        def sound() -> tuple[np.ndarray, int]:
            rate_hz = self.judge.rate_hz
            waveform = read(path, rate_hz, start_s=start_s, duration_s=duration_s)
            return (waveform if alter is None else alter(waveform, rate_hz)), rate_hz

        return self.hear([content_of(path), round(start_s, 6), duration_s, altered], sound)

    def _place(self, mark: str) -> Path | None:
        return self.folder / mark[:2] / f"{mark[2:]}.npy" if self.folder else None

    def _read(self, mark: str) -> Heard | None:
        place = self._place(mark)
        if place is None or not place.is_file():
            return None
        try:
            stored = np.load(place, allow_pickle=False)
        except (OSError, ValueError, EOFError):  # cut short: it is made again
            return None
        width = int(stored[0]) if stored.ndim == 1 and len(stored) > 2 else -1
        if width < 1 or len(stored) < width + 3:
            return None
        return Heard(stored[2 : width + 2], stored[width + 2 :], bool(stored[1]))

    def _write(self, mark: str, heard: Heard) -> None:
        if (place := self._place(mark)) is None:
            return
        head = np.array([len(heard.embedding), float(heard.silent)], dtype=np.float32)
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(place, "wb") as stream:
            np.save(stream, np.concatenate([head, heard.embedding, heard.logits]).astype(np.float32))


def content_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, computed once for as long as its size and time stay."""
    facts = os.stat(path)
    return _hashed(str(path), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=65_536)
def _hashed(path: str, size: int, modified: int) -> str:
    return sha256_file(Path(path))
