"""Songs whose place and level are known: sweeps and trills in silence or over a floor, and a bank of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from birdsd.scenes.bank import bank as files
from birdsd.scenes.bank.clip import GENERATED, EventClip, Origin
from birdsd.scenes.bank.gate import EventVerdict
from birdsd.scenes.bank.split import split_of
from birdsd.scenes.heard.cutting import cut_out

RATE_HZ = 16000
SPECIES = ("Synthetic High", "Synthetic Low", "Synthetic Trill")
_PITCH_HZ = {
    "Synthetic High": (5200.0, 6400.0),
    "Synthetic Low": (900.0, 1500.0),
    "Synthetic Trill": (2600.0, 3600.0),
}


def sweep(
    seconds: float, low_hz: float, high_hz: float, level: float = 0.3, rate_hz: int = RATE_HZ
) -> np.ndarray:
    """float32: a rising tone with edges of 5 ms."""
    count = round(seconds * rate_hz)
    hz = np.linspace(low_hz, high_hz, count)
    tone = level * np.sin(2 * np.pi * np.cumsum(hz) / rate_hz)
    edge = round(0.005 * rate_hz)
    tone[:edge] *= np.linspace(0, 1, edge)
    tone[-edge:] *= np.linspace(1, 0, edge)
    return tone.astype(np.float32)


def clip_with(
    song: np.ndarray, at_s: float, total_s: float = 2.0, floor: float = 0.0, seed: int = 0
) -> np.ndarray:
    """The song in a clip, over white noise of RMS `floor`."""
    clip = floor * np.random.default_rng(seed).standard_normal(round(total_s * RATE_HZ))
    start = round(at_s * RATE_HZ)
    clip[start : start + len(song)] += song
    return clip.astype(np.float32)


def a_song(species: str, number: int, judge: str = "Fake judge") -> EventClip:
    """A song of a species, each number another."""
    draw = np.random.default_rng([number, SPECIES.index(species)])
    low, high = _PITCH_HZ[species]
    song = sweep(
        float(draw.uniform(0.3, 1.2)), low * draw.uniform(0.95, 1.05), high, float(draw.uniform(0.05, 0.5))
    )
    cut = cut_out(clip_with(song, 0.4, 2.2, floor=2e-4, seed=number), RATE_HZ)
    assert cut is not None
    origin = Origin(GENERATED, "model/export", "f00d", "CC BY 4.0", "", f"a {species}", number)
    verdict = EventVerdict(judge, True, 0.9, species)
    return EventClip(f"{species}-{number}", species, "", RATE_HZ, origin, verdict, cut.measured, cut.samples)


def make_bank(folder: Path, voices: int = 4) -> Path:
    """A bank of three species."""
    files.begin(folder, {"model": "made by hand", "rate_hz": RATE_HZ, "judge": "Fake judge"})
    for species in SPECIES:
        for voice in range(voices):
            name = files.clip_name(species, "", voice, 0)
            clip = a_song(species, voice)
            files.keep_clip(folder, name, clip, voice, 0, split_of(voice, species, ""))
    return folder


def make_pool(folder: Path, seconds: float = 3.0) -> Path:
    """Two environments of noise, four files each, with a table of licences."""
    rows = ["path,label,licence,recordist"]
    for environment, slope in (("rain", 0.3), ("stream", 0.9)):
        for number in range(4):
            draw = np.random.default_rng([number, len(environment)])
            white = draw.standard_normal(round(seconds * RATE_HZ))
            sound = np.zeros_like(white)
            for at in range(1, len(white)):  # low-passed, so that its spectrum is no flat one
                sound[at] = slope * sound[at - 1] + (1 - slope) * white[at]
            place = folder / environment / f"{environment}{number}.wav"
            place.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(place, (0.05 * (1 + number) * sound).astype(np.float32), RATE_HZ, subtype="FLOAT")
            rows.append(f"{environment}/{place.name},{environment},CC0,Recordist {number}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder
