"""method=autoencoder: your own spectrogram AutoencoderKL.

The loss of a sample is the mean absolute error of its picture, plus the KL divergence of its latents from
a normal distribution (nats per latent value), plus, if asked for: the error of its differences along time
and frequency (without these, fast trills are what a small model blurs first), that of its texture, that of
what an image tower sees in it, and the judgement of a discriminator that learns beside it. At export the
latents are brought to mean 0 and standard deviation 1 in every channel, and the helpers stay behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

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
from birdsd.diffusion.learning.measuring import autoencoder_loss, loss_line
from birdsd.diffusion.learning.picture_errors import (
    Features,
    check_features,
    difference_error,
    mean_error,
    texture_error,
)
from birdsd.diffusion.method_configs import AutoencoderConfig
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.adversary import SMALLEST_SIDE, Adversary, Discriminator
from birdsd.diffusion.networks.clip import load_clip
from birdsd.diffusion.networks.models import evaluating, to_range
from birdsd.errors import BadValue, Mismatch
from birdsd.method_facts import settings_of
from birdsd.randomness import generator

if TYPE_CHECKING:
    from birdsd.diffusion.networks.clip import Clip
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex
    from birdsd.shards.reader import Sample

_MEASURED_SAMPLES = 256  # for the statistics of the latents; their error is below 1% long before


class AutoencoderLearner(AdversarialLearner):
    """The autoencoder, its loss, and what helps it to learn.

    The batch: `image` float [B, 3, H, W] in -1..1 and `noise` [B, C, h, w]; with an adversary `adversary`
    float [B], 0 before its start; with features, where pictures are cut, `whole` [B, 3, H, all frames] and
    `first` int64 [B], where the cut begins.
    """

    vae: Any
    features: Features
    weights: AutoencoderConfig

    def __init__(self, vae: nn.Module, method: AutoencoderConfig) -> None:
        super().__init__()
        self.vae = vae
        self.weights = method

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """float32 [B]: reconstruction + kl_weight x KL + what else has a weight. An adversary adds gradients
        and no value, so that the curves with and without it compare."""
        image, weights = batch["image"], self.weights
        posterior = self.vae.encode(image).latent_dist
        decoded = self.vae.decode(posterior.mean + posterior.std * batch["noise"]).sample.float()
        loss = mean_error(decoded - image)
        kl = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float())
        loss = loss + weights.kl_weight * kl.flatten(1).mean(1)
        for further in self._further(decoded, image):
            loss = loss + further
        if weights.feature_weight > 0:
            loss = loss + weights.feature_weight * self._feature_error(batch, decoded)
        if self.adversary is not None:
            loss = loss + self._adversarial(self.adversary, batch, decoded)
        return loss

    def _further(self, decoded: Tensor, image: Tensor) -> Iterator[Tensor]:
        """Errors of the pixels besides the mean absolute one, weighted."""
        weights = self.weights
        if weights.gradient_weight > 0:
            yield weights.gradient_weight * difference_error(decoded - image)
        if weights.texture_weight > 0:
            yield weights.texture_weight * texture_error(decoded, image)

    def _feature_error(self, batch: dict[str, Tensor], decoded: Tensor) -> Tensor:
        """That of the whole picture with its reconstructed cut in place: the network knows no others."""
        if "whole" not in batch:
            return self.features.error(decoded, batch["image"])
        columns = batch["first"][:, None] + torch.arange(decoded.shape[3], device=decoded.device)
        whole = batch["whole"]
        pasted = whole.scatter(3, columns[:, None, None, :].expand_as(decoded), decoded)
        return self.features.error(pasted, whole)

    def _adversarial(self, adversary: Adversary, batch: dict[str, Tensor], decoded: Tensor) -> Tensor:
        image, active, learning = batch["image"], batch["adversary"], torch.is_grad_enabled()

        def pixel_loss(made: Tensor) -> Tensor:
            return sum(self._further(made, image), mean_error(made - image))

        idle = self.idles(active, learning)
        term, measured = adversary.loss(image, decoded, active, pixel_loss, idle)
        if not learning:
            self.measured = measured
        return term


class AutoencoderMethod(LearningMethod):
    """Trains the autoencoder on random stretches of time; see `LearningMethod`."""

    def __init__(self, config: TrainConfig, index: ShardIndex) -> None:
        self.config, self.index = config, index
        self.codec = codec_of(index)
        width = self.settings.crop_frames
        if width < 0 or width > self.codec["frames"]:
            raise Mismatch(
                f"method.crop_frames={width}",
                f"the images are {self.codec['frames']} frames wide",
                "set it to a part of that, or to 0 for whole images",
            )
        self.width = width or int(self.codec["frames"])
        _check_helpers(self.settings, min(self.width, int(self.codec["bands"])))
        if self.settings.feature_weight > 0:
            check_features(config.model.clip, self.codec)

    @property
    def settings(self) -> AutoencoderConfig:
        """The section `method`."""
        return settings_of(self.config.method, AutoencoderConfig)

    def build(self, device: torch.device, dtype: torch.dtype) -> Modules:
        """A new autoencoder (model.init=scratch), or the one of model.source to go on from."""
        model = self.config.model
        vae: Any
        if model.init == "pretrained":
            vae = models.load_vae(required_source(self.config))
        else:
            vae = models.build_vae(model.vae, self.config.seed)
        self.latent_shape = (
            vae.config.latent_channels,
            *models.latent_size(vae.config, self.codec["bands"], self.width),
        )
        models.latent_size(vae.config, self.codec["bands"], self.codec["frames"])
        method = self.settings
        learner = AutoencoderLearner(vae.train(), method)
        if method.feature_weight > 0:
            learner.features = Features(self.image_tower())
        if method.adversary_weight > 0:
            speed = method.adversary_learning_rate / float(self.config.optim.learning_rate or 1)
            learner.with_adversary(Discriminator(method.adversary_channels, speed, self.config.seed))
        learner.to(device)
        if self.config.machine.gradient_checkpointing:
            learner.enable_gradient_checkpointing()
        return Modules(learner, codec=load_codec(self.codec), device=device, dtype=dtype)

    def image_tower(self) -> Clip:
        """The CLIP whose image tower compares pictures."""
        return load_clip(self.config.model.clip)

    def stand_on(self, hollow: Hollow) -> None:
        """An image tower without weights; the autoencoder is a new one anyway."""
        self.image_tower = hollow.image_tower  # type: ignore[method-assign]

    def make_example(
        self, modules: Modules, sample: Sample, position: int, purpose: str = "train"
    ) -> dict[str, Tensor]:
        """A crop in time and the noise of the latents. In validation the crop is a function of position
        too; that is not the run's there, and an adversary is asked wherever the run stands.
        """
        draw = generator(self.config.seed, purpose, position, "autoencoder")
        start = int(draw.integers(self.codec["frames"] - self.width + 1))
        noise = draw.standard_normal(self.latent_shape, dtype=np.float32)
        whole, method = picture_of(sample, self.codec), self.settings
        image = whole[:, :, start : start + self.width]
        made = {"pixels": torch.from_numpy(np.ascontiguousarray(image)), "noise": torch.from_numpy(noise)}
        if method.adversary_weight > 0:
            started = purpose != "train" or position >= method.adversary_start_samples
            made["adversary"] = torch.tensor(float(started))
        if method.feature_weight > 0 and self.width < whole.shape[2]:
            made["whole"] = torch.from_numpy(np.ascontiguousarray(whole))
            made["first"] = torch.tensor(start, dtype=torch.int64)
        return made

    def encode_batch(self, modules: Modules, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """uint8 -> -1..1 in three channels."""
        ready = {name: value for name, value in batch.items() if name not in ("pixels", "whole")}
        if "whole" in batch:
            ready["whole"] = to_range(batch["whole"])
        return {"image": to_range(batch["pixels"]), **ready}

    def setup(
        self, modules: Modules, share: Callable[[Sequence[int]], list[int]], alive: Callable[[], None]
    ) -> list[str]:
        """Nothing is to be made; says what a pretrained autoencoder loses before it has learnt anything."""
        if self.config.model.init != "pretrained":
            return []
        source = required_source(self.config)
        if not share([0]):
            return []
        learner: Any = modules.learner
        measured = autoencoder_loss(learner.vae, self.index, self.codec, alive)
        return [loss_line(source, measured, self.codec)]

    def preview(self, modules: Modules, prompts: Sequence[str], folder: Path) -> list[Path]:
        """Held-out recordings above what is left of them after the autoencoder, with the sound of both."""
        split = "validation" if self.index.count("validation") else "train"
        count = min(4, self.index.count(split))
        chosen = [number * self.index.count(split) // count for number in range(count)]
        pixels = torch.stack(
            [torch.from_numpy(picture_of(s, self.codec)) for s in read(self.index, split, chosen)]
        )
        vae: Any = modules.learner.vae
        with torch.no_grad(), evaluating(modules.learner):
            decoded = vae.decode(vae.encode(to_range(pixels.to(modules.device))).latent_dist.mode()).sample
        after = decoded.float().clamp(-1, 1).add(1).mul(127.5).round().byte().cpu().numpy()
        before = to_range(pixels).add(1).mul(127.5).round().byte().numpy()
        rows = [np.concatenate([b, a], axis=1).transpose(1, 2, 0) for b, a in zip(before, after, strict=True)]
        halves = [half.transpose(1, 2, 0) for b, a in zip(before, after, strict=True) for half in (b, a)]
        names = [f"{number:02d}-{kind}" for number in range(count) for kind in ("recorded", "reconstructed")]
        return write_preview(folder, rows, halves, names, modules.codec)

    def export(self, modules: Modules, folder: Path) -> Path:
        """Normalise the latents and write a diffusers AutoencoderKL folder with codec.json."""
        import copy

        vae: Any = copy.deepcopy(modules.learner.vae)
        vae.eval().requires_grad_(False)
        mean, std = self.latent_statistics(vae, modules.device)
        normalise_latents(vae, mean, std)
        about = {
            "base": self.config.model.source or "from scratch",
            "latent_mean_before": [round(float(value), 4) for value in mean],
            "latent_std_before": [round(float(value), 4) for value in std],
        }
        heard = export.training_set(self.index)
        return export.write_autoencoder(folder, vae.cpu(), codec=self.codec, heard=heard, about=about)

    def latent_statistics(self, vae: Any, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every latent channel, float64 [C], over evenly spaced training
        samples.
        """
        total = self.index.count("train")
        count = min(total, _MEASURED_SAMPLES)
        sums = torch.zeros(2, self.latent_shape[0], dtype=torch.float64)
        values = 0
        for number in range(count):
            for sample in read(self.index, "train", [number * total // count]):
                if sample.weight == 0:
                    continue
                pixels = torch.from_numpy(picture_of(sample, self.codec))[None].to(device)
                with torch.no_grad():
                    posterior = vae.encode(to_range(pixels)).latent_dist
                drawn = posterior.mean.double().square() + posterior.var.double()
                sums += torch.stack([posterior.mean.double().sum((0, 2, 3)), drawn.sum((0, 2, 3))]).cpu()
                values += posterior.mean[0, 0].numel()
        mean = sums[0] / max(values, 1)
        return mean, (sums[1] / max(values, 1) - mean.square()).clamp(min=1e-12).sqrt()


def _check_helpers(method: AutoencoderConfig, side: int) -> None:
    for name in ("texture_weight", "feature_weight", "adversary_weight"):
        if (value := getattr(method, name)) < 0:
            raise BadValue(
                f"method.{name}={value:g}", "a weight is 0 (off) or more", f"set method.{name}=0, or leave it"
            )
    if not method.adversary_weight:
        return
    for name, least in (("adversary_learning_rate", 0.0), ("adversary_channels", 0)):
        if (value := getattr(method, name)) <= least:
            raise BadValue(
                f"method.{name}={value:g}",
                "a discriminator has channels, and learns",
                f"leave method.{name} out for the usual value, or set method.adversary_weight=0",
            )
    if side < SMALLEST_SIDE:
        raise Mismatch(
            f"method.adversary_weight is set, and pictures are {side} pixels high or wide",
            f"the discriminator needs {SMALLEST_SIDE}",
            f"set method.crop_frames to {SMALLEST_SIDE} or more, or method.adversary_weight=0",
        )


def normalise_latents(vae: Any, mean: Tensor, std: Tensor) -> None:
    """Bring every latent channel to mean 0 and standard deviation 1 without changing what is decoded.

    The affine change is folded into the 1x1 convolutions at the end of the encoder and the start of the
    decoder, so that any pipeline gets it, and scaling_factor is 1. A single factor for all channels, as
    in Stable Diffusion, would leave quiet channels buried in the noise of the diffusion. Without these
    convolutions (or where another trainer left them out) the single factor 1 / std is all that can be
    set.
    """
    if vae.quant_conv is None or vae.post_quant_conv is None:
        overall = float((std.square().mean() + mean.var(unbiased=False)).sqrt())
        vae.register_to_config(scaling_factor=1 / overall)
        return
    channels = len(mean)
    with torch.no_grad():
        entering, leaving = vae.quant_conv, vae.post_quant_conv
        mean = mean.to(entering.weight)
        std = std.to(entering.weight)
        # Means and log-variances come out of one convolution, in this order.
        entering.weight[:channels] /= std[:, None, None, None]
        entering.bias[:channels] = (entering.bias[:channels] - mean) / std
        entering.bias[channels:] -= 2 * std.log()
        leaving.bias += (leaving.weight[:, :, 0, 0] * mean[None]).sum(1)
        leaving.weight *= std[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)
