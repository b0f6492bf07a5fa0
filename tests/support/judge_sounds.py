"""What the tests of judges share: a judge made of nothing but rules, and sounds for BirdNET."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.evaluation.judges import WindowScores, birdnet
from birdsd.evaluation.judges.species import NamedClasses, SpeciesNames
from birdsd.evaluation.judges.windows import windows_of

needs_birdnet = pytest.mark.skipif(
    not birdnet.installed(), reason=f"{birdnet.TITLE} is not installed: {birdnet.INSTALL}"
)
LABELS = (
    "Sayornis nigricans_Black Phoebe",
    "Setophaga coronata_Yellow-rumped Warbler",
    "Setophaga townsendi_Townsend's Warbler",
    "Passer domesticus_House Sparrow",
)
PITCHES_HZ = (1000.0, 2000.0, 4000.0, 8000.0)  # the pitch by which the rule below names each of them


def tone(pitch_hz: float, seconds: float = 1.0, rate_hz: int = 32000, level: float = 0.3) -> np.ndarray:
    """float32 [samples]"""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    return (level * np.sin(2 * np.pi * pitch_hz * time)).astype(np.float32)


class PitchJudge(NamedClasses):
    """Names the class whose pitch is the loudest, so that tests know every answer beforehand."""

    title, licence, fingerprint = "Pitch", "CC0", "0" * 64
    window_s, rate_hz = 3.0, 32000
    names = LABELS

    def __init__(self) -> None:
        self._species = SpeciesNames(LABELS)

    def hear(self, waveform: np.ndarray, rate_hz: int) -> WindowScores:
        assert rate_hz == self.rate_hz
        mono = np.atleast_2d(waveform).mean(axis=0)
        windows = windows_of(mono, rate_hz, self.window_s, 1.0)
        spectra = np.abs(np.fft.rfft(windows))
        places = [round(pitch * self.window_s) for pitch in PITCHES_HZ]
        levels = np.stack([spectra[:, place - 30 : place + 31].max(axis=1) for place in places], axis=1)
        logits = (20 * levels / (levels.max(axis=1, keepdims=True) + 1e-9) - 10).astype(np.float32)
        return WindowScores(np.arange(len(windows)) * self.window_s, logits, levels.astype(np.float32))
