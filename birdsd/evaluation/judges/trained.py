"""A classifier of your own (method=classifier) as a judge."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from birdsd.diffusion.classifiers.folder import Classifier, load_classifier
from birdsd.diffusion.classifiers.place import WEIGHTS
from birdsd.errors import BadValue, NothingLeft, listed_names
from birdsd.evaluation.judges.judge import WindowScores
from birdsd.evaluation.judges.species import NamedClasses, SpeciesNames
from birdsd.evaluation.judges.windows import windows_of
from birdsd.files import read_json, sha256_file
from birdsd.sound.audio.channels import mix_down
from birdsd.sound.audio.recordings import resampled

_SHORTEST = 1 / 3  # of a window; less at the end of a sound is dropped


class TrainedJudge(NamedClasses):
    """The judge; `folder` holds a classifier.json."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.classifier: Classifier = load_classifier(self.folder)
        self.names: Sequence[str] = self.classifier.classes
        self._species = SpeciesNames(self.names)

    @property
    def title(self) -> str:
        """The run's name: a run's export is only called export."""
        place = self.folder.resolve()
        return f"classifier {place.parent.name if place.name == 'export' else place.name}"

    @cached_property
    def licence(self) -> str:
        """Those of the recordings that it learnt from."""
        path = self.folder / "training.json"
        known = read_json(path).get("licences", {}) if path.is_file() else {}
        return f"trained on recordings under {listed_names(known)}" if known else "unknown"

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the weights."""
        return sha256_file(self.folder / WEIGHTS)

    @property
    def window_s(self) -> float:
        """A clip of its codec."""
        return float(self.classifier.codec.clip_s)

    @property
    def rate_hz(self) -> int:
        """That of its codec."""
        return int(self.classifier.codec.rate_hz)

    def hear(self, waveform: np.ndarray, rate_hz: int) -> WindowScores:
        """Listen to float [samples] or [channels, samples], window by window; each becomes the picture that a
        clip of the shards would be."""
        codec, grid = self.classifier.codec, self.classifier.grid
        waveform = np.atleast_2d(np.asarray(waveform, dtype=np.float32))
        if not waveform.size or rate_hz <= 0:
            raise NothingLeft("a sound to be judged has no samples", "", "leave it out")
        if not np.isfinite(waveform).all():
            raise BadValue("a sound to be judged has NaN or infinite samples", "", "make it again")
        mono = resampled(mix_down(waveform, rate_hz), rate_hz, codec.rate_hz)
        windows = windows_of(mono, codec.rate_hz, self.window_s, _SHORTEST * self.window_s)
        heard = self.classifier.hear(
            [grid.power(codec.encode(np.stack([one] * codec.channels), codec.rate_hz)) for one in windows]
        )
        starts_s = np.arange(len(windows)) * self.window_s
        return WindowScores(starts_s, heard.logits, heard.embeddings, heard.frames)
