"""A judge that is quick and sure: it hears where the energy lies. For what is made of verdicts."""

from __future__ import annotations

import numpy as np

from birdsd.evaluation.judges import WindowScores
from birdsd.evaluation.judges.windows import windows_of

NAMES = ("Altus acutus_Synthetic High", "Bassus gravis_Synthetic Low", "Trillo celer_Synthetic Trill",
         "Nemo alienus_Nobody's Bird")  # fmt: skip


class FakeJudge:
    """Names a sound by its strongest frequency; `known` are the species that it has a class for.

    What is all noise (no frequency stands out) it takes for Nobody's Bird.
    """

    title, licence, fingerprint = "Fake judge", "CC0", "0" * 64
    window_s, rate_hz = 1.0, 16000
    names = NAMES

    def __init__(self, known=("Synthetic High", "Synthetic Low", "Synthetic Trill")):
        self.known = known
        self.heard_samples = []

    def class_of(self, species):
        names = [name.split("_")[1] for name in NAMES]
        return names.index(species) if species in names and species in self.known else None

    def why_unknown(self, species):
        return f"no class for {species}"

    def label_of(self, number):
        return NAMES[number].split("_")[1]

    def hear(self, waveform, rate_hz):
        mono = np.atleast_2d(waveform).mean(axis=0)
        self.heard_samples.append(len(mono) / rate_hz)
        windows = windows_of(mono.astype(np.float32), rate_hz, 1.0, 0.1)
        spectrum = np.abs(np.fft.rfft(windows, axis=1)) ** 2
        hz = np.fft.rfftfreq(windows.shape[1], 1 / rate_hz)
        edges = ((4500, 8000), (500, 2000), (2000, 4500))
        shares = np.stack([spectrum[:, (hz >= a) & (hz < b)].sum(1) for a, b in edges], axis=1)
        shares = shares / (spectrum.sum(axis=1, keepdims=True) + 1e-12)
        logits = np.concatenate([12 * shares - 6, np.full((len(windows), 1), 1.5)], axis=1)
        embedding = np.concatenate([shares, np.ones((len(windows), 1))], axis=1)
        return WindowScores(
            np.arange(len(windows)) * 1.0, logits.astype(np.float32), embedding.astype(np.float32)
        )
