"""Mixing environmental sound under birds at a given signal-to-noise ratio, and the pool it comes from."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from birdsd.errors import BadValue, Mismatch, NothingLeft, UserError
from birdsd.sound.audio.formats import foreign_reason, sort_files
from birdsd.sound.audio.levels import active_level_db, in_band, level_db, sounding, sounding_level_db
from birdsd.sound.audio.recordings import (
    AudioInfo,
    RecordingError,
    blocks,
    find_recordings,
    probe,
    read,
    walk,
)
from birdsd.sound.labels.annotation import Problem
from birdsd.sound.labels.layers import FOUND_NAMES
from birdsd.sound.labels.tables import TABLE_SUFFIXES, read_table
from birdsd.sound.species.names import clean_name

__all__ = [
    "Background",
    "EnvironmentPool",
    "Mixture",
    "active_level_db",
    "level_db",
    "looped",
    "mix_at_snr",
]

_FULL_SCALE = 0.99
_LOOP_FADE_S = 0.05
_LEAST_SOUND_S = 0.5  # in a file of the pool: less is no surrounding, however often it is repeated
_LEAST_SHARE = 0.5  # of a piece that must sound, for its name to be in a caption
_DRAWS = 12  # of other pieces where one does not sound enough
_SURELY_DBFS = -80.0
# What counts in a background before a codec is known: an offset and hum below it are no rain.
_BAND_HZ = (62.5, math.inf)


class Mixture(NamedTuple):
    """The sum, and the factor on all of it that kept it within full scale (1.0: none was needed)."""

    waveform: np.ndarray
    gain: float


class Background(NamedTuple):
    """A piece of environmental sound, float32 [channels, samples], and where it is from."""

    waveform: np.ndarray
    name: str
    path: Path
    licence: str


def mix_at_snr(
    foreground: np.ndarray,
    background: np.ndarray,
    snr_db: float,
    rate_hz: int = 0,
    band_hz: tuple[float, float] | None = None,
) -> Mixture:
    """Add `background` under `foreground`, both float32 [channels, samples], at `snr_db`.

    The ratio is that of the foreground's active level to the background's mean level (without stretches of
    silence), of what lies in `band_hz` (low, high) at `rate_hz`, or of everything. The foreground keeps its
    level, unless the sum would clip: then all of it is turned down, by the factor that is returned. Where
    either is silent there is no ratio, and they are added as they are.
    """
    if foreground.shape != background.shape:
        raise Mismatch(
            f"cannot mix waveforms of shapes {foreground.shape} and {background.shape}",
            "both must have the same channels and samples",
        )
    if not math.isfinite(snr_db):
        raise BadValue(f"the SNR {snr_db} dB is not a finite number", "", "try snr_db_low=3 snr_db_high=30")
    bird, rest = (x if band_hz is None else in_band(x, rate_hz, *band_hz) for x in (foreground, background))
    signal_db, noise_db = active_level_db(bird), sounding_level_db(rest)
    change_db = signal_db - noise_db - snr_db
    factor = 10.0 ** (change_db / 20.0) if math.isfinite(change_db) else 1.0
    mixture = foreground + np.float32(factor) * background
    peak = float(np.abs(mixture).max(initial=0.0))
    gain = min(1.0, _FULL_SCALE / peak) if peak > 1.0 else 1.0
    return Mixture((mixture * np.float32(gain) if gain < 1.0 else mixture).astype(np.float32), gain)


class EnvironmentPool:
    """Environmental sounds by name: sub-folder = name, or the name of a file that lies loose.

    A labels.*, manifest.* or metadata.* table in the folder, its parent or its parent's parent gives names,
    licences and recordists. Files that cannot be read, and those in which nothing sounds, are in `problems`;
    `UserError` when none is left.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.problems: list[Problem] = []
        self._infos: dict[Path, AudioInfo] = {}
        self._facts = _table_facts(self.folder)
        self._files: dict[str, list[Path]] = {}
        files = sort_files([self.folder] if self.folder.is_file() else walk(self.folder))
        self.problems += [Problem(path, foreign_reason(path)) for path in files.foreign]
        for path in find_recordings(self.folder):
            try:
                self._infos[path] = probe(path)
                silent = _silent(self._infos[path], path.stat().st_mtime_ns)
            except RecordingError as error:
                silent = str(error)
            if silent:
                self.problems.append(Problem(path, silent))
                continue
            self._files.setdefault(self._name(path), []).append(path)
        if not self._files:
            reasons = "".join(f" {problem.path.name}: {problem.reason}" for problem in self.problems[:3])
            raise NothingLeft(
                f"no environmental sound in {self.folder}.{reasons}",
                "it needs sound files, in sub-folders that name the environment (rain, wind, ...)",
                "or turn mixing off with data.mixtures_per_clip=0",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The environments, sorted."""
        return tuple(sorted(self._files))

    def files(self, name: str) -> list[Path]:
        """The files of an environment; [] for an unknown one."""
        return list(self._files.get(name, ()))

    def licence(self, path: Path) -> str:
        """The licence of one of the pool's files, '' where no table says."""
        return self._facts.get(path.resolve(), ("", "", ""))[1]

    def recordist(self, path: Path) -> str:
        """Whom to name for one of the pool's files, '' where no table says."""
        return self._facts.get(path.resolve(), ("", "", ""))[2]

    def draw(
        self, generator: np.random.Generator, duration_s: float, rate_hz: int, channels: int = 1
    ) -> Background:
        """A piece of `duration_s`: an environment, then a file of it, then a start, each uniformly at random.

        Where little sounds in it, another piece is drawn. Shorter files are repeated with a cross-fade,
        without silence at their ends. Raises `RecordingError` for a file damaged inside, and where no draw
        finds a piece that sounds.
        """
        samples = round(duration_s * rate_hz)
        for _ in range(_DRAWS):
            name = self.names[int(generator.integers(len(self.names)))]
            files = self._files[name]
            path = files[int(generator.integers(len(files)))]
            room_s = self._infos[path].duration_s - duration_s
            start_s = float(generator.uniform(0.0, max(0.0, room_s)))
            piece = read(path, rate_hz, start_s=start_s, duration_s=duration_s + 0.01, channels=channels)
            if room_s < 0:
                piece = _trimmed(piece, rate_hz)
            piece = looped(piece, samples, rate_hz)
            if _sounding(piece, rate_hz).mean() >= _LEAST_SHARE:
                return Background(piece, name, path, self.licence(path))
        raise RecordingError(
            f"{path} has long stretches of silence, as have others in {self.folder}",
            f"of {_DRAWS} pieces of {duration_s:.3g} s none sounded for half of its length",
            "leave such files out of the environment, or cut the silence out of them",
        )

    def _name(self, path: Path) -> str:
        label = self._facts.get(path.resolve(), ("", "", ""))[0]
        if not label:
            label = path.parent.name if path.parent != self.folder else path.stem.rstrip("0123456789_- ")
        return clean_name((label or path.stem).replace("_", " ").replace("-", " ")).lower()


def _sounding(waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """bool [frames]: where more than a converter's last bits is to be heard."""
    # Most of a pool is loud: second differences, in which an offset and hum are 80 dB softer, say so at once.
    step = max(1, round(rate_hz / 16000))
    changes = np.zeros_like(waveform)
    if waveform.shape[1] > 2 * step:
        once = waveform[:, step:] - waveform[:, :-step]
        changes[:, 2 * step :] = (once[:, step:] - once[:, :-step]) / 4
    quick = sounding(changes, _SURELY_DBFS)
    return quick if quick.all() else sounding(in_band(waveform, rate_hz, *_BAND_HZ))


@lru_cache(maxsize=65536)
def _silent(info: AudioInfo, mtime_ns: int) -> str:
    """Why a file is no background, '' for one that is; it is read only until enough was heard."""
    path = info.path
    heard_s = 0.0
    for _, part in blocks(path, info.rate_hz, 1.0):
        heard = _sounding(part, info.rate_hz)
        heard_s += float(heard.mean()) * part.shape[1] / info.rate_hz
        if heard_s >= min(_LEAST_SOUND_S, 0.5 * info.duration_s):
            return ""
    if heard_s == 0:
        return f"{path.name} is silent: nothing in it is louder than -90 dBFS, so it cannot be a background"
    return f"{path.name} sounds for {heard_s:.2f} s only, too little for a background"


def _trimmed(piece: np.ndarray, rate_hz: int) -> np.ndarray:
    """A piece [channels, samples] without silence at its ends."""
    heard = np.flatnonzero(_sounding(piece, rate_hz))
    frames = len(_sounding(piece, rate_hz))
    if not len(heard) or (heard[0] == 0 and heard[-1] == frames - 1):
        return piece
    frame = piece.shape[1] // frames
    end = piece.shape[1] if heard[-1] == frames - 1 else (int(heard[-1]) + 1) * frame
    return piece[:, int(heard[0]) * frame : end]


def _table_facts(folder: Path) -> dict[Path, tuple[str, str, str]]:
    """(name, licence, recordist) by file, from the first table in or above the folder that has some."""
    inside = folder.resolve()
    for place in (inside, inside.parent, inside.parent.parent):
        for table in (place / f"{name}{suffix}" for name in FOUND_NAMES for suffix in sorted(TABLE_SUFFIXES)):
            if not table.is_file():
                continue
            try:
                rows = read_table(table).rows
            except UserError:  # not a table of files: load_recordings says so where it matters
                continue
            facts = {
                (place / row.file).resolve(): (
                    row.environment or next(iter((*row.names.species, *row.names.no_bird)), ""),
                    row.licence,
                    row.recordist,
                )
                for row in rows
                if row.file
            }
            if any(path.is_relative_to(inside) for path in facts):
                return facts
    return {}


def looped(piece: np.ndarray, samples: int, rate_hz: int) -> np.ndarray:
    """Exactly `samples` samples, by repeating a shorter piece with a cross-fade of equal power."""
    fade = min(round(_LOOP_FADE_S * rate_hz), piece.shape[1] // 4)
    if piece.shape[1] < samples and fade:
        rise = np.sin(0.5 * np.pi * (np.arange(fade) + 0.5) / fade).astype(np.float32)
        body, tail = piece[:, :-fade].copy(), piece[:, -fade:]
        body[:, :fade] = body[:, :fade] * rise + tail * rise[::-1]
        piece = np.concatenate([piece[:, :-fade], np.tile(body, -(-samples // body.shape[1]))], axis=1)
    elif piece.shape[1] < samples:
        piece = np.tile(piece, -(-samples // piece.shape[1]))
    return piece[:, :samples]
