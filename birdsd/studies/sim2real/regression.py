"""`classifier=regression`: the weak check's logistic regression on log-mel statistics of a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from birdsd.evaluation.features import band_levels_db
from birdsd.evaluation.weak_check import Clips, SpeciesClassifier
from birdsd.studies.sim2real.classify import Predict, classes_of, with_copies
from birdsd.studies.sim2real.pictures import Pictures
from birdsd.studies.sim2real.sounds import Sample


class RegressionClassifier:
    """It converges whatever the number of steps, and draws nothing: seeds differ in nothing."""

    def __init__(self, pictures: Pictures, copies: int = 4) -> None:
        self.pictures, self.copies = pictures, copies
        self.title = "logistic regression on log-mel statistics"
        self.identity = f"regression-{pictures.codec.fingerprint()[:12]}-{copies}"

    def fit(
        self,
        pools: Sequence[Sequence[Sample]],
        validation: Sequence[Sample],
        species: Sequence[str],
        *,
        augment: bool,
        seed: int,
        steps: int,
    ) -> tuple[Predict, dict[str, float | int | None]]:
        """See `classify.Classifier.fit`."""
        samples = [one for pool in pools for one in (with_copies(pool, self.copies) if augment else pool)]
        classes_of([*samples, *validation], species)
        model = SpeciesClassifier(self._clips(samples), self.pictures.codec.frame_s)
        columns = [species.index(name) for name in model.species]

        def predict(asked: Sequence[Sample]) -> np.ndarray:
            scores = np.zeros((len(asked), len(species)))
            scores[:, columns] = model.probabilities(self._clips(asked))
            return scores

        return predict, {}

    def _clips(self, samples: Sequence[Sample]) -> Clips:
        levels = [band_levels_db(self.pictures.codec, self.pictures.of(one)) for one in samples]
        return Clips(levels, [one.species for one in samples], [one.recording for one in samples])
