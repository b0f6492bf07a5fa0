"""method=classifier: a network that names the species in a clip, from scratch, on the same shards.

What it hears is the picture of a clip as power on a coarse grid (`classifiers/levels.py`), augmented there as
its position says. It needs no autoencoder, no text and no pretrained model. Its export is a judge:
`birdsd judge`, `birdsd classify`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from birdsd.diffusion import export
from birdsd.diffusion.classifiers import targets
from birdsd.diffusion.classifiers.augment import Augmentation, Clip, check_settings
from birdsd.diffusion.classifiers.folder import Classifier, sigmoid, write_classifier
from birdsd.diffusion.classifiers.learner import ClassifierLearner, class_weights
from birdsd.diffusion.classifiers.levels import Grid, Standard
from birdsd.diffusion.classifiers.network import Cnn, build_network, expect_rarely, frame_count
from birdsd.diffusion.classifiers.thresholds import USUAL, best_thresholds, f1_of
from birdsd.diffusion.learning.base import Hollow, LearningMethod, Modules
from birdsd.diffusion.learning.common import codec_of, load_codec, picture_of, write_preview
from birdsd.diffusion.method_configs import ClassifierConfig
from birdsd.diffusion.networks.models import evaluating, seeded
from birdsd.errors import NothingLeft
from birdsd.method_facts import settings_of
from birdsd.randomness import generator

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex
    from birdsd.shards.reader import Sample

# Most clips: for the standard, for the start of a CNN, for thresholds, for a preview.
_MEASURED, _SETTLED, _HELD_OUT, _SHOWN = 512, 256, 5000, 128


class ClassifierMethod(LearningMethod):
    """See `birdsd.diffusion.learning.base.LearningMethod`."""

    def __init__(self, config: TrainConfig, index: ShardIndex) -> None:
        self.config, self.index = config, index
        self.settings = settings_of(config.method, ClassifierConfig)
        check_settings(self.settings)
        self.codec = codec_of(index)
        self.grid = Grid(load_codec(self.codec))
        self.found = targets.census(index, self.settings.classes)
        targets.check_classes(self.found, self.settings.loss, index.folder)
        self.steps = frame_count(self.settings.network, self.grid.frames)
        self.augmentation = Augmentation(
            self.settings,
            config.seed,
            self.grid.codec.clip_s / self.grid.frames,
            lambda draw: self._another(int(draw.integers(index.count("train")))),
            lambda draw: self._another(int(draw.choice(self.found.without_bird))),
        )
        self._hollow = False

    def stand_on(self, hollow: Hollow) -> None:
        """It stands on no network; and of pictures without numbers there is nothing to measure."""
        self._hollow = True

    @cached_property
    def network_settings(self) -> dict[str, Any]:
        """What `build_network` takes."""
        told = self.settings
        return {
            "network": told.network,
            "classes": len(self.found.classes),
            "width": told.width,
            **({"backbone": told.backbone} if told.network == "timm" else {}),
        }

    @cached_property
    def standard(self) -> Standard:
        """From training clips spread evenly, the same however often it is built."""
        told = self.settings
        if self._hollow:
            plain = (0.0,) * self.grid.bands
            return Standard(told.floor_db, told.relative, plain, 1.0, told.spectral_subtraction)
        powers, named = self._powers("train", _MEASURED), str(self.index.folder)
        return Standard.of(powers, told.floor_db, told.relative, named, told.spectral_subtraction)

    def _numbers(self, split: str, most: int) -> list[int]:
        total = self.index.count(split)
        count = min(total, most)
        return [number * total // count for number in range(count)]

    def _powers(self, split: str, most: int) -> Iterator[np.ndarray]:
        reader = self._reader(split)
        for number in self._numbers(split, most):
            sample = reader.read(number)
            if sample.image is not None:
                yield self.grid.power(picture_of(sample, self.codec))

    def _reader(self, split: str) -> Any:
        from birdsd.shards.reader import ShardReader

        return ShardReader(self.index, split)

    @cached_property
    def _training(self) -> Any:
        return self._reader("train")

    def build(self, device: torch.device, dtype: torch.dtype) -> Modules:
        """A network with random weights (a backbone from a folder: with its own)."""
        with seeded(self.config.seed, "classifier"):
            network = build_network(self.network_settings)
        if self.settings.loss != "cross_entropy":
            clips = max(1, self.index.count("train"))
            expect_rarely(network, float(self.found.counts.mean()) / clips)
        if isinstance(network, Cnn) and not self._hollow:
            powers = torch.from_numpy(np.stack(list(self._powers("train", _SETTLED))))
            network.settle(self.standard.levels(powers))
        weight = class_weights(self.found.counts, self.settings.class_weights)
        learner = ClassifierLearner(network, self.settings, weight)
        if self.config.machine.gradient_checkpointing:
            learner.enable_gradient_checkpointing()
        _ = self.standard  # here, and not in a reader's thread
        learner.train()
        placed = learner if self.config.machine.offload_optimizer else learner.to(device)
        return Modules(placed, codec=self.grid.codec, device=device, dtype=dtype)

    def setup(
        self, modules: Modules, share: Callable[[Sequence[int]], list[int]], alive: Callable[[], None]
    ) -> list[str]:
        """Nothing is to be made; says what is told apart, and what a user should know of it."""
        self._check_augmentation()
        total = int(self.index.count("train"))
        kind, count = self.settings.network, len(self.found.classes)
        line = f"a {kind} learns to tell {count} species apart by {total} clips"
        return [line, *targets.remarks(self.index, self.found)]

    def _check_augmentation(self) -> None:
        if self.settings.background and not len(self.found.without_bird):
            raise NothingLeft(
                f"method.background={self.settings.background:g}, and no training clip is without a bird",
                "backgrounds are clips of the training split that are known to hold no bird",
                "add recordings labelled 'no bird' to data.recordings and prepare again, or set "
                "method.background=0",
            )

    # -- samples ------------------------------------------------------------------------------------

    def _clip(self, sample: Sample) -> Clip:
        classes, metadata = self.found.classes, sample.metadata
        frames, known = classes.frames(metadata, self.steps, self.grid.codec.clip_s)
        power = self.grid.power(picture_of(sample, self.codec))
        return Clip(power, classes.target(metadata), frames, known)

    def _another(self, number: int) -> Clip | None:
        """A training clip to mix in; None for one that cannot be decoded."""
        sample = self._training.read(number)
        clip = self._clip(sample) if sample.weight else None
        return clip if sample.weight else None

    def make_example(
        self, modules: Modules, sample: Sample, position: int, purpose: str = "train"
    ) -> dict[str, Tensor]:
        """The clip's power, augmented in training, and its target. A validation clip with a species that is
        no class gets no weight."""
        clip = self._clip(sample)
        if purpose == "train":
            clip = self.augmentation(clip, position)
        elif outside := self.found.classes.outside(sample.metadata):
            sample.weight, sample.problem = 0.0, f"{sample.key}: {outside[0]} is no class"
        example = {"power": torch.from_numpy(clip.power), "target": torch.from_numpy(clip.target)}
        if self.steps:
            example["frames"] = torch.from_numpy(np.ascontiguousarray(clip.frames))
            example["frames_known"] = torch.tensor(float(clip.frames_known))
        if purpose == "train" and self.settings.dropout:
            learner: Any = modules.learner
            draw = generator(self.config.seed, purpose, position, "classifier", "dropout")
            kept = draw.random(learner.network.embedding_width) >= self.settings.dropout
            example["keep"] = torch.from_numpy(kept.astype(np.float32) / (1 - self.settings.dropout))
        return example

    def encode_batch(self, modules: Modules, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Power becomes standardised levels."""
        rest = {key: value for key, value in batch.items() if key != "power"}
        return {"levels": self.standard.levels(batch["power"]), **rest}

    # -- what comes of it ---------------------------------------------------------------------------

    def classifier(self, modules: Modules, thresholds: Sequence[float] = ()) -> Classifier:
        """The network of built modules, in use."""
        learner: Any = modules.learner
        names = self.found.classes.names
        return Classifier(
            learner.network, self.network_settings, names, self.settings.loss, self.standard,
            self.grid.codec, tuple(thresholds) or (USUAL,) * len(names),
        )  # fmt: skip

    def _held_out(self, most: int) -> tuple[list[Any], np.ndarray, list[np.ndarray]]:
        """Held-out samples (training ones where none is held out) with pictures of known classes; their
        targets, bool [n, classes]; and their powers."""
        split = "validation" if self.index.count("validation") else "train"
        reader, classes = self._reader(split), self.found.classes
        samples = [reader.read(number) for number in self._numbers(split, most)]
        samples = [one for one in samples if one.image is not None and not classes.outside(one.metadata)]
        samples = [one for one in samples if one.weight]
        wanted = np.array([classes.target(one.metadata) for one in samples]).reshape(-1, len(classes)) > 0
        return samples, wanted, [self.grid.power(picture_of(one, self.codec)) for one in samples]

    def preview(self, modules: Modules, prompts: Sequence[str], folder: Path) -> list[Path]:
        """For each prompt that names a class (else for the first classes) the held-out clip that sounds most
        like it to the network, with its sound."""
        named = [
            next((k for k, name in enumerate(self.found.classes.names) if name.lower() in text.lower()), None)
            for text in prompts
        ]
        numbers = [k for k in dict.fromkeys(named) if k is not None] or list(range(len(self.found.classes)))[
            :4
        ]
        samples, _, powers = self._held_out(_SHOWN)
        if not samples:
            return []
        with evaluating(modules.learner):
            heard = self.classifier(modules).hear(powers)
        best = heard.logits.argmax(axis=0)
        pictures = [modules.codec.to_rgb(picture_of(samples[best[k]], self.codec)) for k in numbers]
        names = [f"{place:02d}-{self.found.classes.names[k]}" for place, k in enumerate(numbers)]
        return write_preview(folder, pictures, pictures, names, modules.codec)

    def export(self, modules: Modules, folder: Path) -> Path:
        """A classifier's folder, with a threshold for each species found on held-out clips."""
        count, about = len(self.found.classes), dict[str, Any]()
        thresholds, known = np.full(count, USUAL), np.zeros(count, bool)
        if self.index.count("validation"):
            _, wanted, powers = self._held_out(_HELD_OUT)
            if powers:
                scores = sigmoid(self.classifier(modules).hear(powers).logits)
                thresholds, known = best_thresholds(scores, wanted)
                about = {
                    "held_out_clips": len(powers),
                    "held_out_macro_f1": f1_of(scores >= thresholds, wanted),
                    "held_out_named_right": _top_right(scores, wanted),
                }
        made = self.classifier(modules, thresholds.tolist())
        card = {
            "kind": "classifier",
            "method": self.config.method.name,
            "network": self.settings.network,
            **about,
        }
        heard = export.training_set(self.index)

        def write(partial: Path) -> None:
            write_classifier(partial, made, {"threshold_known": known.tolist(), **about})
            export.write_companions(partial, self.codec, heard, card)

        return export.write_folder(folder, write)


def _top_right(scores: np.ndarray, wanted: np.ndarray) -> float | None:
    """The share of clips with a class whose highest score is of one that is there."""
    there = wanted.any(axis=1)
    if not there.any():
        return None
    top = scores[there].argmax(axis=1)
    return round(float(wanted[there][np.arange(len(top)), top].mean()), 4)
