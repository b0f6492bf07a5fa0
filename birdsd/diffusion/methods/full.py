"""method=full: the weights themselves learn. From scratch: the UNet and the text encoder, on the latents
of your own autoencoder or a pretrained one, with a tokenizer made from the captions. From a
pretrained model: the UNet, and the text encoder if asked. `method.learns` narrows it to some layers.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch

from birdsd.diffusion.learning.denoiser import Denoising, DenoisingLearner
from birdsd.diffusion.learning.denoising import DenoisingMethod, Networks
from birdsd.diffusion.method_configs import FullConfig, WeightsConfig
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.tokenizer import train_tokenizer
from birdsd.errors import NotFound, NotSet
from birdsd.method_facts import settings_of
from birdsd.schema import NOISE_DEFAULTS

_CAPTION_SAMPLES = 20_000  # the tokenizer's merges have settled long before


class FullMethod(DenoisingMethod):
    """Fine-tuning and training from scratch; see `DenoisingMethod`."""

    @property
    def settings(self) -> WeightsConfig:
        """The section `method`."""
        return settings_of(self.config.method, WeightsConfig)

    def schedule(self) -> Denoising:
        """From scratch as the method's settings say, else that of the model it starts from."""
        if self.config.model.init == "pretrained":
            return super().schedule()
        method = settings_of(self.config.method, FullConfig)
        typed = {name: getattr(method, name) for name in NOISE_DEFAULTS}
        noise = {name: NOISE_DEFAULTS[name] if value is None else value for name, value in typed.items()}
        return Denoising(**noise, min_snr_gamma=method.min_snr_gamma)

    def networks(self) -> Networks:
        """Loaded with model.init=pretrained; else new ones around the autoencoder."""
        model, seed = self.config.model, self.config.seed
        if model.init == "pretrained":
            return super().networks()
        if not model.autoencoder:
            raise NotSet(
                "model.autoencoder is not set",
                "with model.init=scratch the diffusion model learns on the latents of a finished autoencoder",
                "train one with method=autoencoder and give its run folder, or name a diffusers folder",
            )
        vae: Any = models.vae_config(model.autoencoder)
        tokenizer = train_tokenizer(self._captions(), model.vocabulary_size, model.max_tokens)

        def text_encoder() -> Any:
            return models.build_text_encoder(
                model.text, vocabulary=len(tokenizer), max_tokens=model.max_tokens, seed=seed
            )

        def unet() -> Any:
            return models.build_unet(
                model.unet,
                latent_channels=vae.latent_channels,
                sample_size=models.latent_size(vae, self.codec["bands"], self.codec["frames"]),
                context_width=networks.text_encoder.config.hidden_size,
                seed=seed,
            )

        networks = Networks(unet, text_encoder, tokenizer, partial(models.load_vae, model.autoencoder), vae)
        return networks

    def _captions(self) -> list[str]:
        from birdsd.shards.reader import ShardReader

        total = self.index.count("train")
        count = min(total, _CAPTION_SAMPLES)
        reader = ShardReader(self.index, "train", want=("metadata",))
        chosen = (number * total // count for number in range(count))
        return [text for number in chosen for text in reader.read(number).metadata["captions"]]

    def learner(self, networks: Networks, dtype: torch.dtype) -> DenoisingLearner:
        """The UNet, the text encoder where it learns too, narrowed to method.learns."""
        learns = self.settings.learns
        text = networks.text_encoder.train() if self.text_learns(networks) else None
        learner = DenoisingLearner(networks.unet.train(), text, self.denoising)
        if not learns:
            return learner
        for name, parameter in learner.named_parameters():
            parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in learns))
        self._check_patterns(learner)
        return learner

    def text_learns(self, networks: Networks) -> bool:
        """From scratch or if asked, unless method.learns leaves all of it out."""
        method = self.settings
        if not (method.train_text_encoder or self.config.model.init == "scratch"):
            return False
        if not method.learns:
            return True
        names = [f"text_encoder.{name}" for name, _ in networks.text_encoder.named_parameters()]
        return any(fnmatchcase(name, pattern) for name in names for pattern in method.learns)

    def _check_patterns(self, learner: DenoisingLearner) -> None:
        names = [name for name, _ in learner.named_parameters()]
        for pattern in self.settings.learns:
            if not any(fnmatchcase(name, pattern) for name in names):
                modules = sorted({".".join(name.split(".")[:3]) for name in names})
                shown = ", ".join(modules[:12]) + (", ..." if len(modules) > 12 else "")
                raise NotFound(
                    f"method.learns={pattern} matches no parameter",
                    f"it is a pattern of names (* stands for anything), which start with {shown}",
                    "e.g. unet.*attn2* for the layers that look at the text, or unet.up_blocks.*",
                )
