"""Windows of sound as a codec's pictures: what classifiers without a judge learn from."""

from __future__ import annotations

import numpy as np

from birdsd.schema import MachineConfig
from birdsd.sound.audio.recordings import read
from birdsd.sound.codec.protocol import Codec
from birdsd.studies.sim2real.augment import augmented
from birdsd.studies.sim2real.sounds import Sample


class Pictures:
    """Reads and encodes a sample once; the classifiers of an experiment share them. `machine`: what learns
    from them."""

    def __init__(self, codec: Codec, machine: MachineConfig) -> None:
        self.codec, self.machine = codec, machine
        self._known: dict[Sample, np.ndarray] = {}

    def of(self, sample: Sample) -> np.ndarray:
        """uint8 [C, bands, frames]; a window that is shorter than a clip ends in silence."""
        if sample not in self._known:
            codec = self.codec
            sound = read(
                sample.path, codec.rate_hz, start_s=sample.start_s, duration_s=sample.duration_s,
                channels=codec.channels,
            )  # fmt: skip
            if sample.variant:
                sound = augmented(sound, codec.rate_hz, sample.stretch, sample.variant)
            self._known[sample] = codec.encode(sound, codec.rate_hz)
        return self._known[sample]
