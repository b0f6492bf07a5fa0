"""method=upscaler: a small network of the ESRGAN family makes coarse pictures fine.

It learns from fine shards alone: the coarse picture of a sample is the mean power of its cells. Half of these
go through the autoencoder of a diffusion model (model.autoencoder), with noise and shifts of the level, since
that is where its input will come from. The loss of a sample is the error of its picture once every cell is as
loud as it should be: its log-spectral distance (`error=spectral`), or the mean absolute error. What lies
inside a cell of noise cannot be predicted, and the picture with the least error is a smooth one: the export
measures how much noise makes it as rough as recordings, and `upscale_sharpness` adds that. Where there is an
adversary, a second set of weights learns from its start on beside the first, by the same error and a
relativistic discriminator, and `upscale_sharpness` goes from one to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from birdsd.diffusion import export
from birdsd.diffusion.learning.adversarial import AdversarialLearner
from birdsd.diffusion.learning.base import Hollow, LearningMethod, Modules
from birdsd.diffusion.learning.common import (
    codec_of,
    load_codec,
    picture_of,
    read,
    required_source,
    write_preview,
)
from birdsd.diffusion.learning.picture_errors import mean_error, spectral_error
from birdsd.diffusion.method_configs import UpscalerConfig
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.adversary import SMALLEST_SIDE, Adversary, Discriminator
from birdsd.diffusion.networks.models import evaluating, to_range
from birdsd.diffusion.upscaling.folder import Stored, read_upscaler, write_upscaler
from birdsd.diffusion.upscaling.levels import Levels
from birdsd.diffusion.upscaling.measure import (
    Measured,
    Tally,
    bicubic,
    detail_db,
    spectral_distance_db,
)
from birdsd.diffusion.upscaling.networks import Shape
from birdsd.diffusion.upscaling.roughness import Example, noise_for, roughened
from birdsd.diffusion.upscaling.twofold import Twofold
from birdsd.errors import BadValue, Mismatch, unknown_name
from birdsd.method_facts import settings_of
from birdsd.randomness import generator
from birdsd.sound.codec.grids import Grids, coarser
from birdsd.sound.codec.protocol import Codec

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex
    from birdsd.shards.reader import Sample

_MEASURED = ("distance_db", "bicubic_db", "detail")
_SHARP_MEASURED = ("sharp_distance_db", "sharp_detail")
_ERRORS = {"absolute": mean_error, "spectral": spectral_error}
_MOST_MEASURED = 64  # pictures behind the figures of an export
_MOST_CALIBRATED = 16  # pictures that the noise is measured on
_FOLDS = 8  # a crop is as many coarse frames, or a multiple: autoencoders halve theirs up to three times


class UpscalerLearner(AdversarialLearner):
    """The network with its two sets of weights, and the adversary of the second.

    The batch: `coarse` float [B, 1, h, w] and `fine` [B, 1, scale * h, scale * w] on 0..255, and with an
    adversary `adversary` float [B], 0 before its start.
    """

    weights: UpscalerConfig

    def __init__(self, network: Twofold, levels: Levels, method: UpscalerConfig) -> None:
        super().__init__()
        self.network, self.levels, self.weights = network, levels, method
        self.measures = _MEASURED

    def with_adversary(self, discriminator: Discriminator) -> None:
        """Let `discriminator` judge the second set of weights."""
        self.measures = (*_MEASURED, *_SHARP_MEASURED)
        super().with_adversary(discriminator)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """float32 [B]: the error of the first set. The second adds gradients and no value, so that the curve
        is that of one thing from beginning to end."""
        coarse, fine, learning = batch["coarse"], batch["fine"], torch.is_grad_enabled()
        active = batch.get("adversary")
        idle = active is not None and self.idles(active, learning)
        both = self.adversary is not None and not idle
        made, sharp = (self._finished(one, coarse) for one in self.network(coarse / 255, both))
        assert made is not None
        loss = self._error(made, fine)
        if not learning:
            self.measured = self._measures(made, sharp, coarse, fine)
        if self.adversary is None or active is None:
            return loss
        return loss + self._sharpened(self.adversary, fine if sharp is None else sharp, fine, active, idle)

    def _finished(self, made: Tensor | None, coarse: Tensor) -> Tensor | None:
        if made is None:
            return None
        return self.levels.with_energy(made * 255, coarse, self.network.shape.scale)

    def _error(self, made: Tensor, fine: Tensor) -> Tensor:
        """float32 [B]: on the scale of -1..1, as all pictures are."""
        weight = 1 + self.weights.loud_weight * fine / 255
        return _ERRORS[self.weights.error]((made - fine) / 127.5 * weight)

    def _sharpened(
        self, adversary: Adversary, sharp: Tensor, fine: Tensor, active: Tensor, idle: bool
    ) -> Tensor:
        """What the second set and the discriminator learn by, [B], of value 0."""

        def pixel_loss(made: Tensor) -> Tensor:
            return self._error((made.mean(1, keepdim=True) + 1) * 127.5, fine)

        own = self._error(sharp, fine) * active
        shown, true = (one.expand(-1, 3, -1, -1) / 127.5 - 1 for one in (sharp, fine))
        term, measured = adversary.loss(true, shown, active, pixel_loss, idle)
        if not torch.is_grad_enabled():
            self.measured = {**self.measured, **measured}
        return term + own - own.detach()

    def _measures(
        self, made: Tensor, sharp: Tensor | None, coarse: Tensor, fine: Tensor
    ) -> dict[str, Tensor]:
        levels, detail = self.levels, detail_db(self.levels, fine).clamp(min=1e-6)
        found = {
            "distance_db": spectral_distance_db(levels, made, fine),
            "bicubic_db": spectral_distance_db(levels, bicubic(coarse, self.network.shape.scale), fine),
            "detail": detail_db(levels, made) / detail,
        }
        if sharp is not None:
            found["sharp_distance_db"] = spectral_distance_db(levels, sharp, fine)
            found["sharp_detail"] = detail_db(levels, sharp) / detail
        return found


class UpscalerMethod(LearningMethod):
    """Learns from random stretches of time of the shards' pictures; see `LearningMethod`."""

    def __init__(self, config: TrainConfig, index: ShardIndex) -> None:
        self.config, self.index = config, index
        self.codec = codec_of(index)
        method = self.settings
        fine = Codec.from_json(self.codec)
        self.grids = self._grids(fine)
        self.levels = Levels.of(self.grids.fine)
        step = method.scale * (_FOLDS if config.model.autoencoder else 1)
        self.width = method.crop_frames or int(self.codec["frames"])
        if not step <= self.width <= self.codec["frames"] or self.width % step:
            raise BadValue(
                f"method.crop_frames={method.crop_frames}",
                f"the pictures are {self.codec['frames']} frames wide, and a crop is a multiple of {step}",
                f"set it to {max(1, min(128, int(self.codec['frames'])) // step) * step}, or to 0 for whole "
                "pictures",
            )
        _check(method, min(self.width, self.grids.fine.bands))

    @property
    def settings(self) -> UpscalerConfig:
        """The section `method`."""
        return settings_of(self.config.method, UpscalerConfig)

    def _grids(self, fine: Codec) -> Grids:
        """The fine grid is that of the shards; the coarse one that of model.autoencoder, if it is set."""
        source = self.config.model.autoencoder
        if not source:
            return Grids.of(fine, coarser(fine, self.settings.scale))
        folder = Path(source).expanduser()
        place = folder / "export" if (folder / "export").is_dir() else folder
        coarse = Codec.from_json(export.read_codec(place))
        grids = Grids.of(fine, coarse, (f"the shards {self.index.folder}", f"model.autoencoder={source}"))
        if grids.scale != self.settings.scale:
            raise Mismatch(
                f"method.scale={self.settings.scale}",
                f"the shards' codec '{fine.name}' is {grids.scale} times as fine as '{coarse.name}' of "
                f"model.autoencoder={source}",
                f"set method.scale={grids.scale}",
            )
        return grids

    def build(self, device: torch.device, dtype: torch.dtype) -> Modules:
        """A new network, and the autoencoder that half of its inputs go through."""
        method = self.settings
        shape = Shape(method.architecture, method.features, method.depth, method.scale, 1, method.growth)
        sharp = method.adversary_weight > 0
        network = Twofold(shape, self.config.seed, sharp)
        if self.config.model.init == "pretrained":
            network.begin_as(self._earlier(shape).sets)
        learner = UpscalerLearner(network, self.levels, method)
        if sharp:
            speed = method.adversary_learning_rate / float(self.config.optim.learning_rate or 1)
            channels = method.adversary_channels
            learner.with_adversary(Discriminator(channels, speed, self.config.seed, relativistic=True))
        learner.to(device)
        if self.config.machine.gradient_checkpointing:
            learner.enable_gradient_checkpointing()
        modules = Modules(learner, codec=load_codec(self.codec), device=device, dtype=dtype)
        if (vae := self.autoencoder()) is not None:
            models.latent_size(vae.config, self.grids.coarse.bands, self.width // method.scale)
            modules.extras["vae"] = vae.eval().requires_grad_(False).to(device)
        return modules

    def _earlier(self, shape: Shape) -> Stored:
        """The upscaler of model.source, which this one goes on from."""
        stored = read_upscaler(Path(required_source(self.config)), "model.source")
        if replace(stored.shape, growth=shape.growth) != shape:
            raise Mismatch(
                f"the upscaler of model.source={self.config.model.source} is {stored.shape}",
                f"method.architecture, features, depth and scale ask for {shape}",
                "set them as that one has them",
            )
        return stored

    def autoencoder(self) -> Any:
        """That of model.autoencoder; None where it is not set."""
        source = self.config.model.autoencoder
        return models.load_vae(source) if source else None

    def stand_on(self, hollow: Hollow) -> None:
        """An autoencoder without weights."""
        if self.config.model.autoencoder:
            self.autoencoder = lambda: hollow.networks().vae()  # type: ignore[method-assign]

    def setup(
        self, modules: Modules, share: Callable[[Sequence[int]], list[int]], alive: Callable[[], None]
    ) -> list[str]:
        """Nothing is to be made; says what is made of what."""
        fine, coarse = self.grids.fine, self.grids.coarse
        where = f"half of them through {self.config.model.autoencoder}" if modules.extras else "as they are"
        sizes = f"{coarse.bands} x {coarse.frames} cells become {fine.bands} x {fine.frames}"
        offset = f"codec '{coarse.name}' reads {self.grids.offset_db:+.1f} dB beside their mean power"
        return [f"{sizes}; coarse pictures are means of power, {where}; {offset}"]

    def make_example(
        self, modules: Modules, sample: Sample, position: int, purpose: str = "train"
    ) -> dict[str, Tensor]:
        """A crop in time of one channel, and what its coarse picture goes through; in validation nothing."""
        draw = generator(self.config.seed, purpose, position, "upscaler")
        method = self.settings
        whole = picture_of(sample, self.codec)
        cells = (self.codec["frames"] - self.width) // method.scale
        start = method.scale * int(draw.integers(cells + 1))
        channel = int(draw.integers(len(whole)))
        size = (self.grids.coarse.bands, self.width // method.scale)
        noise = draw.uniform(0, method.noise_levels) * draw.standard_normal(size, dtype=np.float32)
        shift_db = draw.uniform(-method.level_shift_db, method.level_shift_db)
        through = float(draw.random() < method.autoencoder_share)
        training = purpose == "train"
        crop = np.ascontiguousarray(whole[channel : channel + 1, :, start : start + self.width])
        made = {
            "pixels": torch.from_numpy(crop),
            "noise": torch.from_numpy((noise * training).astype(np.float32)[None]),
            "shift_db": torch.tensor(shift_db * training, dtype=torch.float32),
            "through": torch.tensor(through * training, dtype=torch.float32),
        }
        if method.adversary_weight > 0:
            started = not training or position >= method.adversary_start_samples
            made["adversary"] = torch.tensor(float(started))
        return made

    def encode_batch(self, modules: Modules, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The coarse pictures, and the fine ones as loud, cell by cell, as those say: what an autoencoder
        does to the level is not for the network to guess."""
        levels, scale = self.levels, self.settings.scale
        with torch.autocast(batch["pixels"].device.type, enabled=False):
            fine = levels.moved(batch["pixels"].float(), batch["shift_db"][:, None, None, None])
            coarse = levels.cells(fine, scale).clamp(0, 255).round()
            if "vae" in modules.extras:
                seen = self._through(modules.extras["vae"], coarse)
                coarse = torch.where(batch["through"][:, None, None, None] > 0, seen, coarse)
            coarse = (coarse + batch["noise"]).clamp(0, 255)
            fine = levels.with_energy(fine, coarse, scale).clamp(0, 255)
        ready = {"coarse": coarse, "fine": fine}
        return {**ready, "adversary": batch["adversary"]} if "adversary" in batch else ready

    def _through(self, vae: Any, coarse: Tensor) -> Tensor:
        """What is left of coarse pictures after the autoencoder, which knows its own codec's values."""
        theirs, offset = (
            Levels.of(self.grids.coarse),
            torch.tensor(self.grids.offset_db, device=coarse.device),
        )
        shown = theirs.values(self.levels.magnitude(coarse) * 10 ** (offset / 20)).clamp(0, 255)
        picture = to_range(shown.expand(-1, self.grids.coarse.channels, -1, -1))
        decoded = vae.decode(vae.encode(picture.to(vae.dtype)).latent_dist.mode()).sample
        seen = decoded.float().clamp(-1, 1).mean(1, keepdim=True).add(1).mul(127.5)
        return self.levels.values(theirs.magnitude(seen) * 10 ** (-offset / 20)).clamp(0, 255)

    # -- what it shows and gives away -----------------------------------------------------------------

    def preview(self, modules: Modules, prompts: Sequence[str], folder: Path) -> list[Path]:
        """Held-out recordings above what their coarse pictures became, with the sound of both."""
        split = "validation" if self.index.count("validation") else "train"
        count = min(4, self.index.count(split))
        chosen = [number * self.index.count(split) // count for number in range(count)]
        rows, halves, codec = [], [], modules.codec
        for example in self._upscaled(modules, split, chosen, 0.0):
            made = self.levels.finished(example.made, example.coarse, self.settings.scale)
            pair = [codec.to_rgb(one[:, 0].byte().cpu().numpy()) for one in (example.truth, made)]
            rows.append(np.concatenate(pair))
            halves += pair
        names = [f"{number:02d}-{kind}" for number in range(len(rows)) for kind in ("recorded", "upscaled")]
        return write_preview(folder, rows, halves, names, codec)

    def _upscaled(
        self,
        modules: Modules,
        split: str,
        numbers: Sequence[int],
        sharpness: float,
    ) -> list[Example]:
        """Pictures of a split and what the network makes of their coarse ones, as it is."""
        from torch.func import functional_call

        learner: Any = modules.learner
        found = []
        with torch.no_grad(), evaluating(learner):
            network = learner.network.shape.build().to(modules.device)
            weights = learner.network.weights(sharpness)
            for sample in read(self.index, split, numbers):
                if sample.weight == 0:
                    continue
                truth = torch.from_numpy(picture_of(sample, self.codec)).float().to(modules.device)[:, None]
                coarse = self.levels.cells(truth, self.settings.scale).clamp(0, 255).round()
                made = functional_call(network, weights, (coarse / 255,)).float() * 255
                found.append(Example(made, coarse, truth))
        return found

    def _spread(self, split: str, most: int) -> list[int]:
        """Up to `most` pictures of a split, spread evenly."""
        total = self.index.count(split)
        count = min(total, most)
        return [number * total // count for number in range(count)]

    def measured(self, modules: Modules, split: str, sharpness: float, noise_db: float = 0.0) -> Measured:
        """The figures of up to 64 pictures of a split, spread evenly."""
        scale, tally = self.settings.scale, Tally(self.levels, self.settings.scale)
        for number in self._spread(split, _MOST_MEASURED):
            for made, coarse, truth in self._upscaled(modules, split, [number], sharpness):
                rough = roughened(self.levels, made, coarse, noise_db)
                tally.add(self.levels.finished(rough, coarse, scale), truth, coarse)
        return tally.result()

    def export(self, modules: Modules, folder: Path) -> Path:
        """Write the folder of an upscaler: its sets of weights under the network's published names, and how
        much noise its pictures lack where there is one set."""
        learner: Any = modules.learner
        split = "validation" if self.index.count("validation") else "train"
        sets: tuple[float, ...] = (0.0, 1.0)
        noise_db = 0.0
        if learner.adversary is None:
            examples = self._upscaled(modules, split, self._spread(split, _MOST_CALIBRATED), 0.0)
            sets, noise_db = (0.0,), noise_for(self.levels, examples, self.settings.scale)
        told = {
            f"sharpness {one:g}": self.measured(modules, split, one, one * noise_db).to_json()
            for one in (0.0, 1.0)
            if one in sets or noise_db
        }
        weights = [learner.network.weights(one) for one in sets]
        about = {"method": self.config.method.name, "measured_on": split, "measured": told}
        heard = export.training_set(self.index)
        return write_upscaler(folder, learner.network.shape, weights, self.grids, heard, about, noise_db)


def _check(method: UpscalerConfig, side: int) -> None:
    if method.error not in _ERRORS:
        raise unknown_name("method.error", method.error, tuple(_ERRORS))
    for name in ("adversary_weight", "loud_weight", "noise_levels", "level_shift_db"):
        if (value := getattr(method, name)) < 0:
            raise BadValue(f"method.{name}={value:g}", "it is 0 (off) or more", f"leave method.{name} out")
    if not 0 <= method.autoencoder_share <= 1:
        raise BadValue(
            f"method.autoencoder_share={method.autoencoder_share:g}", "a share is 0 to 1", "leave it out"
        )
    if method.adversary_weight and side < SMALLEST_SIDE:
        raise Mismatch(
            f"method.adversary_weight is set, and crops are {side} pixels high or wide",
            f"the discriminator needs {SMALLEST_SIDE}",
            f"set method.crop_frames to {SMALLEST_SIDE} or more, or method.adversary_weight=0",
        )
