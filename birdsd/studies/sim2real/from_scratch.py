"""`classifier=cnn`: the network of method=classifier, from scratch, with that method's own settings.

The steps are those of the training engine. What `birdsd run train` has besides (shards, checkpoints, other
ranks) an experiment of hundreds of short trainings does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from birdsd.config import compose
from birdsd.diffusion.classifiers.augment import Augmentation, Clip
from birdsd.diffusion.classifiers.learner import ClassifierLearner
from birdsd.diffusion.classifiers.levels import Grid, Standard
from birdsd.diffusion.classifiers.network import Cnn
from birdsd.diffusion.method_configs import ClassifierConfig
from birdsd.diffusion.networks.models import evaluating, seeded
from birdsd.errors import NothingLeft
from birdsd.evaluation.embedded.heads import Examples, drawn_clips
from birdsd.files import fingerprint
from birdsd.method_facts import settings_of
from birdsd.randomness import generator
from birdsd.studies.sim2real.classify import Predict, classes_of, with_copies
from birdsd.studies.sim2real.pictures import Pictures
from birdsd.studies.sim2real.sounds import Sample
from birdsd.training.devices.precision import choose_device, choose_precision
from birdsd.training.devices.world import World
from birdsd.training.engines.torch_engine import TorchEngine
from birdsd.training.schedule import ema_decay_at, learning_rate_at

_MARKS = 8  # steps at which validation is listened to
_TOGETHER, _MEASURED = 32, 512
_WARMUP = 0.1  # of the steps


class CnnClassifier:
    """The CNN. What a training clip goes through belongs to the method, and so to every arm."""

    def __init__(self, pictures: Pictures, words: Sequence[str] = (), copies: int = 4) -> None:
        config = compose("train", ["method=classifier", "method.loss=cross_entropy", *words])
        self.optim, self.pictures, self.copies = config.optim, pictures, copies
        # A pool may hold no clip without a bird: there is nothing to lay under the others.
        self.settings = replace(settings_of(config.method, ClassifierConfig), background=0.0)
        self.device = choose_device(pictures.machine.device)
        self.precision = choose_precision(pictures.machine.precision, self.device)
        self.grid = Grid(pictures.codec)
        self.title = f"CNN of {self.settings.width} channels, from scratch"
        told = [asdict(self.settings), asdict(self.optim), pictures.codec.fingerprint(), copies]
        told.append(self.precision.name)
        self.identity = f"cnn-{fingerprint(told, 12)}"

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
        if len(species) < 2:
            raise NothingLeft(f"{len(species)} species", "a classifier tells at least two apart", "")
        pools = [with_copies(pool, self.copies) if augment else list(pool) for pool in pools if pool]
        training = _Training(self, pools, species, seed, steps)
        held = self._powers(validation), torch.from_numpy(classes_of(validation, species))
        best: tuple[float, int, dict[str, torch.Tensor]] | None = None
        marks = {max(1, round(steps * (place + 1) / _MARKS)) for place in range(_MARKS)}
        for step in range(1, steps + 1):
            training.step(step)
            if step in marks:
                with training.engine.ema_weights():
                    loss = float(-training.logged(held[0]).gather(1, held[1][:, None]).mean())
                    if best is None or loss < best[0]:
                        best = loss, step, training.state()
        assert best is not None
        training.network.load_state_dict(best[2])

        def predict(samples: Sequence[Sample]) -> np.ndarray:
            return np.asarray(training.logged(self._powers(samples)).exp().double().numpy())

        return predict, {"best_step": best[1], "validation_loss": best[0]}

    def power(self, sample: Sample) -> np.ndarray:
        """float32 [bands, frames] of the grid."""
        return self.grid.power(self.pictures.of(sample))

    def _powers(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        return [self.power(one) for one in samples]


class _Training:
    """One network as it learns; what it hears at a step is a function of (seed, step)."""

    def __init__(
        self,
        made: CnnClassifier,
        pools: Sequence[Sequence[Sample]],
        species: Sequence[str],
        seed: int,
        steps: int,
    ) -> None:
        self.made, self.pools, self.seed = made, pools, seed
        settings, grid = made.settings, made.grid
        batch = int(made.optim.global_batch or 1)
        self.optim = replace(
            made.optim, total_samples=steps * batch, warmup_samples=round(_WARMUP * steps * batch)
        )
        self.classes = [classes_of(pool, species) for pool in pools]
        self.targets = np.eye(len(species), dtype=np.float32)
        shares = [batch // len(pools) + (n < batch % len(pools)) for n in range(len(pools))]
        nothing = np.zeros((0, 0), np.float32)
        self.draws = [
            drawn_clips(
                Examples(nothing, classes, [one.recording for one in pool]), (steps, share), seed, place
            )
            for place, (pool, classes, share) in enumerate(zip(pools, self.classes, shares, strict=True))
        ]
        first = [made.power(one) for one in pools[0][:: -(-len(pools[0]) // _MEASURED)]]
        self.standard = Standard.of(
            first, settings.floor_db, settings.relative, "the training windows", settings.spectral_subtraction
        )
        with seeded(seed, "classifier"):
            self.network = Cnn(len(species), settings.width)
        self.network.settle(self.standard.levels(torch.from_numpy(np.stack(first))))
        learner = ClassifierLearner(self.network, settings, torch.ones(len(species))).to(made.device)
        self.engine = TorchEngine(learner, self.optim, made.precision, made.device, World())
        frame_s = made.pictures.codec.clip_s / grid.frames
        self.augmentation = Augmentation(settings, seed, frame_s, self._another, lambda draw: None)

    def _clip(self, place: int, number: int) -> Clip:
        nothing = np.zeros((0, 0), np.float32)
        target = self.targets[self.classes[place][number]]
        return Clip(self.made.power(self.pools[place][number]), target, nothing, False)

    def _another(self, draw: np.random.Generator) -> Clip:
        place = int(draw.integers(len(self.pools)))
        return self._clip(place, int(draw.integers(len(self.pools[place]))))

    def step(self, step: int) -> None:
        """The step of that number, from 1."""
        batch = int(self.optim.global_batch or 1)
        chosen = [(place, int(n)) for place, drawn in enumerate(self.draws) for n in drawn[step - 1]]
        first = (step - 1) * batch
        clips = [self.augmentation(self._clip(*one), first + k) for k, one in enumerate(chosen)]
        after = step * batch
        weights = torch.full((batch,), 1 / batch, device=self.made.device)
        rate, decay = learning_rate_at(after, self.optim), ema_decay_at(after, self.optim)
        self.engine.step([(lambda: self._batch(clips, step), weights)], rate, decay)

    def _batch(self, clips: Sequence[Clip], step: int) -> dict[str, torch.Tensor]:
        device, dropout = self.made.device, self.made.settings.dropout
        power = torch.from_numpy(np.stack([one.power for one in clips])).to(device)
        target = torch.from_numpy(np.stack([one.target for one in clips])).to(device)
        batch = {"levels": self.standard.levels(power), "target": target}
        if dropout:
            draw = generator(self.seed, "cnn", "dropout", step)
            kept = draw.random((len(clips), self.network.embedding_width)) >= dropout
            batch["keep"] = torch.from_numpy(kept.astype(np.float32) / (1 - dropout)).to(device)
        return batch

    @torch.no_grad()
    def logged(self, powers: Sequence[np.ndarray]) -> torch.Tensor:
        """The logarithm of each class's probability, float32 [n, classes], on the CPU."""
        found = []
        with evaluating(self.network):
            for start in range(0, len(powers), _TOGETHER):
                some = torch.from_numpy(np.stack(powers[start : start + _TOGETHER])).to(self.made.device)
                found.append(self.network(self.standard.levels(some)).logits.float().log_softmax(dim=1).cpu())
        return torch.cat(found)

    def state(self) -> dict[str, Any]:
        """The weights as they are now."""
        return {name: value.clone() for name, value in self.network.state_dict().items()}
