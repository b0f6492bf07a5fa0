"""A synthetic aviary: invented "species" with exact labels, so that everything runs without recordings.

Nothing here imitates a real bird, and every name starts with "Synthetic". A species is a kind of note (a
sweep, a trill, harmonics, a burst of noise) with its own range of pitch and rhythm; each recording is another
individual, with its own pitch, tempo, level and background.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import scipy.fft

from birdsd.errors import AlreadyThere, unknown_name
from birdsd.files import read_json, safe_name, write_json, write_text
from birdsd.randomness import generator
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.labels.annotation import Label

LICENCE = "CC0 1.0"
RECORDIST = "birdsd (synthetic)"
_MARK = "aviary.json"
_BOX = ("start_s", "end_s", "low_hz", "high_hz")
_SOURCE = ("recording_id", "licence", "recordist")
_VERSION = 1  # raise it when the same arguments make other sounds
_FADE_S = 0.006
Draw = np.random.Generator


@dataclass(frozen=True)
class Individual:
    """How one bird differs from the mean of its species."""

    pitch: float  # factor on every frequency
    tempo: float  # factor on every speed
    notes: int  # added to or taken from the species' number of notes


@dataclass(frozen=True)
class Note:
    """A note's waveform [n], and the range of frequencies that it was made of."""

    waveform: np.ndarray
    low_hz: float
    high_hz: float
    gap_s: float  # silence after it


Song = Callable[[Individual, Draw, int], list[Note]]


def _envelope(samples: int, rate_hz: int, shape: float = 1.0) -> np.ndarray:
    """A rise and a fall over the whole note, steeper with a small `shape`, with short fades at the ends."""
    rise = np.sin(np.pi * (np.arange(samples) + 0.5) / samples) ** shape
    fade = min(samples // 2, max(1, round(_FADE_S * rate_hz)))
    rise[:fade] *= np.linspace(0.0, 1.0, fade)
    rise[samples - fade :] *= np.linspace(1.0, 0.0, fade)
    return rise


def _tone(frequency_hz: np.ndarray, rate_hz: int, harmonics: tuple[float, ...] = (1.0,)) -> np.ndarray:
    """A tone that follows `frequency_hz` [n], with the given amplitudes of its harmonics below Nyquist."""
    phase = 2.0 * np.pi * np.cumsum(frequency_hz) / rate_hz
    total = np.zeros(len(phase))
    for number, amplitude in enumerate(harmonics, start=1):
        if number * frequency_hz.max() < 0.48 * rate_hz:
            total += amplitude * np.sin(number * phase)
    return total * _envelope(len(phase), rate_hz, 0.5) / sum(harmonics)


def _note(
    frequency_hz: np.ndarray, rate_hz: int, gap_s: float, harmonics: tuple[float, ...] = (1.0,)
) -> Note:
    low, high = float(frequency_hz.min()), float(frequency_hz.max())
    present = [n for n in range(1, len(harmonics) + 1) if n * high < 0.48 * rate_hz]
    return Note(_tone(frequency_hz, rate_hz, harmonics), low, high * max(present, default=1), gap_s)


def _time(duration_s: float, rate_hz: int) -> np.ndarray:
    """0..1 over a note."""
    samples = max(16, round(duration_s * rate_hz))
    return np.arange(samples) / samples


def _sweeps(
    bird: Individual,
    draw: Draw,
    rate_hz: int,
    *,
    start_hz: float,
    end_hz: float,
    note_s: float,
    gap_s: float,
    notes: int,
) -> list[Note]:
    """Notes that glide from one pitch to another."""
    song = []
    for _ in range(max(2, notes + bird.notes)):
        t = _time(note_s / bird.tempo * draw.uniform(0.9, 1.1), rate_hz)
        frequency = bird.pitch * start_hz * (end_hz / start_hz) ** t * draw.uniform(0.98, 1.02)
        song.append(_note(frequency, rate_hz, gap_s / bird.tempo))
    return song


def _trill(
    bird: Individual,
    draw: Draw,
    rate_hz: int,
    *,
    centre_hz: float,
    width_hz: float,
    per_s: float,
    duration_s: float,
    accelerate: float = 1.0,
) -> list[Note]:
    """Short notes in quick succession; `accelerate` is the factor by which they get faster to the end."""
    count = max(4, round(duration_s * per_s) + 2 * bird.notes)
    song = []
    for number in range(count):
        period = 1.0 / (per_s * bird.tempo * accelerate ** (number / count))
        t = _time(0.6 * period, rate_hz)
        frequency = bird.pitch * (centre_hz + width_hz * (0.5 - t)) * draw.uniform(0.99, 1.01)
        song.append(_note(frequency, rate_hz, 0.4 * period))
    return song


def _whistle(
    bird: Individual, draw: Draw, rate_hz: int, *, pitches_hz: tuple[float, ...], note_s: float
) -> list[Note]:
    """Long pure notes at fixed intervals."""
    song = []
    for pitch_hz in pitches_hz:
        t = _time(note_s / bird.tempo * draw.uniform(0.9, 1.1), rate_hz)
        song.append(_note(bird.pitch * pitch_hz * (1.0 - 0.02 * t), rate_hz, 0.09 / bird.tempo))
    return song


def _nasal(
    bird: Individual, draw: Draw, rate_hz: int, *, base_hz: float, note_s: float, notes: int
) -> list[Note]:
    """Calls with a stack of harmonics over an arched low pitch."""
    song = []
    for _ in range(max(1, notes + bird.notes)):
        t = _time(note_s / bird.tempo, rate_hz)
        frequency = bird.pitch * base_hz * (1.0 + 0.12 * np.sin(np.pi * t)) * draw.uniform(0.98, 1.02)
        song.append(_note(frequency, rate_hz, 0.12 / bird.tempo, (0.5, 0.8, 1.0, 0.9, 0.6, 0.4, 0.25)))
    return song


def _warble(
    bird: Individual,
    draw: Draw,
    rate_hz: int,
    *,
    centre_hz: float,
    depth_hz: float,
    per_s: float,
    note_s: float,
    notes: int,
) -> list[Note]:
    """A tone that wavers widely and fast around its pitch."""
    song = []
    for _ in range(max(1, notes + bird.notes)):
        duration = note_s / bird.tempo * draw.uniform(0.9, 1.1)
        t = _time(duration, rate_hz) * duration
        wave = np.sin(2.0 * np.pi * (per_s * bird.tempo * t + draw.uniform()))
        song.append(_note(bird.pitch * (centre_hz + depth_hz * wave), rate_hz, 0.08 / bird.tempo))
    return song


def _rattle(
    bird: Individual,
    draw: Draw,
    rate_hz: int,
    *,
    low_hz: float,
    high_hz: float,
    per_s: float,
    duration_s: float,
) -> list[Note]:
    """Bursts of noise between two frequencies."""
    low, high = bird.pitch * low_hz, min(bird.pitch * high_hz, 0.48 * rate_hz)
    song = []
    for _ in range(max(3, round(duration_s * per_s) + bird.notes)):
        period = 1.0 / (per_s * bird.tempo)
        samples = max(64, round(0.45 * period * rate_hz))
        noise = _shaped_noise(draw, samples, rate_hz, lambda f: ((f >= low) & (f <= high)).astype(float))
        song.append(Note(0.5 * noise * _envelope(samples, rate_hz, 0.5), low, high, 0.55 * period))
    return song


# Each is told apart by where it sings, by its rhythm, and by the shape of its notes.
_SONGS: dict[str, tuple[str, Song]] = {
    "Synthetic Sweeper": (
        "song",
        partial(_sweeps, start_hz=2200, end_hz=5200, note_s=0.22, gap_s=0.08, notes=4),
    ),
    "Synthetic Diver": (
        "song",
        partial(_sweeps, start_hz=8500, end_hz=4200, note_s=0.12, gap_s=0.16, notes=5),
    ),
    "Synthetic Triller": ("song", partial(_trill, centre_hz=5600, width_hz=1800, per_s=26, duration_s=1.1)),
    "Synthetic Whistler": ("song", partial(_whistle, pitches_hz=(2600, 2150), note_s=0.42)),
    "Synthetic Honker": ("call", partial(_nasal, base_hz=720, note_s=0.28, notes=3)),
    "Synthetic Waverer": (
        "song",
        partial(_warble, centre_hz=4000, depth_hz=900, per_s=28, note_s=0.55, notes=2),
    ),
    "Synthetic Rattler": ("call", partial(_rattle, low_hz=2400, high_hz=7600, per_s=11, duration_s=1.0)),
    "Synthetic Clicker": (
        "song",
        partial(_trill, centre_hz=3300, width_hz=2600, per_s=5, duration_s=1.3, accelerate=3.0),
    ),
}
SPECIES: tuple[str, ...] = tuple(_SONGS)
ENVIRONMENTS: tuple[str, ...] = ("synthetic rain", "synthetic wind")


def make_aviary(
    folder: Path,
    recordings_per_species: int = 16,
    seed: int = 0,
    environment: bool = True,
    rate_hz: int = 44100,
) -> Path:
    """Fill `folder` with a folder of wav files per species, `labels.csv` with the exact box of every
    song, and `environment/` with synthetic rain and wind; returns `folder`. Done already, it does nothing.

    Raises `UserError` when the folder holds an aviary that other arguments made.
    """
    folder = Path(folder)
    arguments = {
        "version": _VERSION, "recordings_per_species": recordings_per_species, "seed": seed,
        "environment": environment, "rate_hz": rate_hz, "species": list(SPECIES),
    }  # fmt: skip
    if (folder / _MARK).is_file():
        if read_json(folder / _MARK, "synthetic aviary") == arguments:
            return folder
        raise AlreadyThere(
            f"{folder} holds a synthetic aviary that was made with other settings",
            "it is not overwritten, because shards may have been made of it",
            "choose another folder, or remove this one",
        )
    rows = []
    for species in SPECIES:
        for number in range(recordings_per_species):
            waveform, labels = record(species, seed, number, rate_hz)
            stem = f"{safe_name(species).lower()}_{number:03d}"
            path = folder / safe_name(species).lower() / f"{stem}.wav"
            write_wav(path, waveform, rate_hz)
            for label in labels:
                box = [f"{getattr(label, name):.6f}" for name in _BOX]
                place = path.relative_to(folder).as_posix()
                rows.append([place, species, *box, label.sound_type, stem, LICENCE, RECORDIST])
    if environment:
        _make_environment(folder / "environment", seed, rate_hz)
    _write_table(folder / "labels.csv", ("path", "label", *_BOX, "type", *_SOURCE), rows)
    write_json(folder / _MARK, arguments)
    return folder


def _make_environment(folder: Path, seed: int, rate_hz: int) -> None:
    rows = []
    for name in ENVIRONMENTS:
        for number in range(3):
            stem = f"{safe_name(name)}_{number}"
            place = f"{safe_name(name)}/{stem}.wav"
            write_wav(folder / place, ambience(name, seed, number, rate_hz), rate_hz)
            rows.append([place, name, "environment", stem, LICENCE, RECORDIST])
    _write_table(folder / "labels.csv", ("path", "label", "kind", *_SOURCE), rows)


def _write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())


def record(species: str, seed: int, number: int, rate_hz: int = 44100) -> tuple[np.ndarray, list[Label]]:
    """One recording of one individual: float32 [1, samples] of 5-6 s, and the box of each of 1-3 songs."""
    draw = generator(seed, "aviary", species, number)
    bird = Individual(
        2.0 ** draw.uniform(-0.16, 0.16), 2.0 ** draw.uniform(-0.25, 0.25), int(draw.integers(-1, 2))
    )
    sound_type, song = _SONGS[species]
    samples = round(draw.uniform(5.2, 6.0) * rate_hz)
    peak = 10.0 ** (draw.uniform(-18.0, -4.0) / 20.0)
    tilt = draw.uniform(0.25, 0.75)
    noise = _shaped_noise(draw, samples, rate_hz, lambda f: np.maximum(f, 80.0) ** -tilt)
    waveform = noise * (0.25 * peak * 10.0 ** (draw.uniform(-38.0, -18.0) / 20.0))
    songs = [song(bird, draw, rate_hz) for _ in range(int(draw.integers(1, 4)))]
    songs = _that_fit(songs, samples / rate_hz - 0.3, rate_hz)
    # What is left of the time is dealt out at random between the songs.
    free = samples - sum(_length(notes, rate_hz) for notes in songs)
    cuts = np.sort(draw.uniform(0.0, 1.0, len(songs))) * free
    labels, used = [], 0
    for notes, cut in zip(songs, cuts, strict=True):
        start = int(cut) + used
        loudness = peak * draw.uniform(0.75, 1.0)
        at = end = start
        for note in notes:
            waveform[at : at + len(note.waveform)] += loudness * note.waveform
            end = at + len(note.waveform)
            at = end + round(note.gap_s * rate_hz)
        low, high = min(note.low_hz for note in notes), max(note.high_hz for note in notes)
        labels.append(Label(species, start / rate_hz, end / rate_hz, low, high, sound_type))
        used += _length(notes, rate_hz)
    return np.clip(waveform, -1.0, 1.0).astype(np.float32)[np.newaxis], labels


def _length(notes: list[Note], rate_hz: int) -> int:
    return sum(len(note.waveform) + round(note.gap_s * rate_hz) for note in notes)


def _that_fit(songs: list[list[Note]], room_s: float, rate_hz: int) -> list[list[Note]]:
    while len(songs) > 1 and sum(_length(notes, rate_hz) for notes in songs) > room_s * rate_hz:
        songs = songs[:-1]
    return songs


def ambience(name: str, seed: int, number: int, rate_hz: int = 44100, duration_s: float = 12.0) -> np.ndarray:
    """Synthetic rain (a hiss with drops) or wind (slow gusts of low noise): float32 [1, samples]."""
    draw = generator(seed, "aviary", name, number)
    samples = round(duration_s * rate_hz)
    t = np.arange(samples) / rate_hz
    if name == "synthetic rain":
        hiss = _shaped_noise(
            draw, samples, rate_hz, lambda f: np.minimum(f / 1500.0, 1.0) / (1.0 + f / 9000.0)
        )
        drops = np.zeros(samples)
        at = draw.integers(0, samples, round(duration_s * draw.uniform(60, 160)))
        np.add.at(drops, at, draw.exponential(1.0, len(at)))
        decay = np.exp(-np.arange(round(0.004 * rate_hz)) / (0.0008 * rate_hz))
        noise = draw.standard_normal(len(decay))
        waveform = 0.05 * hiss + 0.05 * np.convolve(drops, decay * noise)[:samples]
    elif name == "synthetic wind":
        slow = sum(np.sin(2 * np.pi * (f * t + draw.uniform())) for f in draw.uniform(0.08, 0.6, 4))
        edge_hz = draw.uniform(250, 450)
        low = _shaped_noise(draw, samples, rate_hz, lambda f: 1.0 / (1.0 + (f / edge_hz) ** 2))
        waveform = 0.1 * low * 2.0 ** (0.6 * slow)
    else:
        raise unknown_name("synthetic environment", name, ENVIRONMENTS)
    return np.clip(waveform, -0.99, 0.99).astype(np.float32)[np.newaxis]


def _shaped_noise(
    draw: Draw, samples: int, rate_hz: int, gain: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Gaussian noise of RMS 1 with the amplitude spectrum gain(frequency in Hz); float64 [samples]."""
    # A power of two keeps the FFT fast for any length.
    size = 1 << (samples - 1).bit_length()
    spectrum = scipy.fft.rfft(draw.standard_normal(size))
    noise = scipy.fft.irfft(spectrum * gain(np.fft.rfftfreq(size, 1.0 / rate_hz)), size)[:samples]
    return noise / max(1e-12, float(np.sqrt(np.mean(noise**2))))
