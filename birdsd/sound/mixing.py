"""Mixing environmental sound under birds at a given signal-to-noise ratio, and the pool it comes from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from birdsd.errors import UserError
from birdsd.sound.annotation import Problem
from birdsd.sound.layers import FOUND_NAMES
from birdsd.sound.names import clean_name
from birdsd.sound.recordings import AudioInfo, RecordingError, find_recordings, probe, read
from birdsd.sound.tables import TABLE_SUFFIXES, read_table

_FRAME_SAMPLES = 2048
_ACTIVE_RANGE_DB = 15.0  # frames this far below the loud ones belong to the pauses
_FULL_SCALE = 0.99
_LOOP_FADE_S = 0.05


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


def level_db(waveform: np.ndarray) -> float:
    """RMS over all samples in dBFS (full-scale square wave: 0); -inf for silence."""
    mean_square = float(np.mean(np.square(waveform, dtype=np.float64))) if waveform.size else 0.0
    return 10.0 * math.log10(mean_square) if mean_square > 0 else -math.inf


def active_level_db(waveform: np.ndarray) -> float:
    """RMS in dBFS over the frames in which something sounds, so that pauses between songs do not count.

    After ITU-T P.56's idea of an active level: frames no more than 15 dB below the 95th percentile.
    """
    waveform = np.atleast_2d(waveform)
    count = waveform.shape[1] // _FRAME_SAMPLES
    if count < 2:
        return level_db(waveform)
    frames = waveform[:, : count * _FRAME_SAMPLES].reshape(len(waveform), count, _FRAME_SAMPLES)
    power: np.ndarray = np.square(frames).mean(axis=(0, 2))
    active = power >= float(np.percentile(power, 95)) * 10.0 ** (-_ACTIVE_RANGE_DB / 10.0)
    mean = float(power[active].mean())
    return 10.0 * math.log10(mean) if mean > 0 else -math.inf


def mix_at_snr(foreground: np.ndarray, background: np.ndarray, snr_db: float) -> Mixture:
    """Add `background` under `foreground`, both float32 [channels, samples], at `snr_db`.

    The ratio is that of the foreground's active level to the background's mean level. The foreground keeps
    its level, unless the sum would clip: then all of it is turned down, by the factor that is returned.
    Where either is silent there is no ratio, and they are added as they are.
    """
    if foreground.shape != background.shape:
        raise UserError(
            f"cannot mix waveforms of shapes {foreground.shape} and {background.shape}",
            "both must have the same channels and samples",
        )
    if not math.isfinite(snr_db):
        raise UserError(f"the SNR {snr_db} dB is not a finite number", "", "try snr_db_low=3 snr_db_high=30")
    signal_db, noise_db = active_level_db(foreground), level_db(background)
    change_db = signal_db - noise_db - snr_db
    factor = 10.0 ** (change_db / 20.0) if math.isfinite(change_db) else 1.0
    mixture = foreground + np.float32(factor) * background
    peak = float(np.abs(mixture).max(initial=0.0))
    gain = min(1.0, _FULL_SCALE / peak) if peak > 1.0 else 1.0
    return Mixture((mixture * np.float32(gain) if gain < 1.0 else mixture).astype(np.float32), gain)


class EnvironmentPool:
    """Environmental sounds by name: sub-folder = name, or the name of a file that lies loose.

    A labels.*, manifest.* or metadata.* table in the folder, its parent or its parent's parent gives names,
    licences and recordists. Files that cannot be read are in `problems`; `UserError` when none is left.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.problems: list[Problem] = []
        self._infos: dict[Path, AudioInfo] = {}
        self._facts = _table_facts(self.folder)
        self._files: dict[str, list[Path]] = {}
        for path in find_recordings(self.folder):
            try:
                self._infos[path] = probe(path)
            except RecordingError as error:
                self.problems.append(Problem(path, str(error)))
                continue
            self._files.setdefault(self._name(path), []).append(path)
        if not self._files:
            reasons = "".join(f" {problem.path.name}: {problem.reason}" for problem in self.problems[:3])
            raise UserError(
                f"no environmental sound in {self.folder}.{reasons}",
                "it needs sound files, in sub-folders that name the environment (rain, wind, ...)",
                "or turn mixing off with data.mixtures_per_clip=0",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The environments, sorted."""
        return tuple(sorted(self._files))

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

        Shorter files are repeated with a cross-fade. Raises `RecordingError` for a file damaged inside.
        """
        name = self.names[int(generator.integers(len(self.names)))]
        files = self._files[name]
        path = files[int(generator.integers(len(files)))]
        samples = round(duration_s * rate_hz)
        room_s = self._infos[path].duration_s - duration_s
        start_s = float(generator.uniform(0.0, max(0.0, room_s)))
        piece = read(path, rate_hz, start_s=start_s, duration_s=duration_s + 0.01, channels=channels)
        return Background(_looped(piece, samples, rate_hz), name, path, self.licence(path))

    def _name(self, path: Path) -> str:
        label = self._facts.get(path.resolve(), ("", "", ""))[0]
        if not label:
            label = path.parent.name if path.parent != self.folder else path.stem.rstrip("0123456789_- ")
        return clean_name((label or path.stem).replace("_", " ").replace("-", " ")).lower()


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


def _looped(piece: np.ndarray, samples: int, rate_hz: int) -> np.ndarray:
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
